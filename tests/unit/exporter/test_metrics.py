import re
import subprocess
import sys
from pathlib import Path

import pytest

from lakehouse import exporter
from lakehouse.exporter import metrics
from lakehouse.exporter.metrics import METRICS, Metric

BOUNDED = {
    "topic",
    "partition",
    "table",
    "reason",
    "ledger",
    "dag_id",
    "server",
    "bucket",
    "volume",
    "archive",
    "backup",
    "version",
    "collector",
}
"""What the platform is made of; no user, file, run or message is among it."""
UNITS = re.compile(r"_(seconds|bytes|records|files|snapshots|objects|gaps|runs|info|up|failed|paused|total)$")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_has_our_prefix_a_base_unit_bounded_labels_and_says_what_it_is(metric: Metric) -> None:
    assert metric.name.startswith("lakehouse_")
    assert UNITS.search(metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert set(metric.labels) <= BOUNDED
    assert metric.help.endswith(".")
    assert metric.source.endswith(".")


def test_each_metric_stands_in_the_catalogue_once() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))


def test_each_metric_of_the_catalogue_is_told_by_some_module() -> None:
    folder = Path(exporter.__file__).parent
    text = "".join(path.read_text() for path in folder.glob("*.py") if path.name != "metrics.py")
    named = [name for name, value in vars(metrics).items() if isinstance(value, Metric)]
    assert [name for name in named if len(re.findall(rf"\b{name}\b", text)) < 2] == []  # imported and used


def test_the_exporter_starts_without_spark_airflow_dbt_and_the_command_line() -> None:
    program = "import sys; import lakehouse.exporter.service; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pyspark", "airflow", "dbt", "typer", "fastapi", "lakehouse.cli"} & set(loaded)
