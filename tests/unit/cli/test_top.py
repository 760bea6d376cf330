import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from lakehouse.cli.top import picture
from lakehouse.exporter.looks import Fact, Report
from lakehouse.exporter.metrics import (
    DAG_LAST_RUN_FAILED,
    DAG_LAST_SUCCESS,
    DAG_PAUSED,
    FRESHNESS_SECONDS,
    FRESHNESS_TARGET_SECONDS,
    KAFKA_LAG_RECORDS,
    KAFKA_LAG_SECONDS,
    LEDGER_GAPS,
    METRICS,
    ROWS_QUARANTINED,
    SERVER_LATENCY_SECONDS,
    SERVER_UP,
    TABLE_BYTES,
    TABLE_FILES,
    Metric,
)

NOW = datetime(2026, 2, 3, 12, tzinfo=UTC)


def report(name: str, *facts: Fact, error: str | None = None) -> Report:
    return Report(name, True, error is None, error, facts, 0.0, 0.1, 0)


def drawn(*reports: Report, now: datetime = NOW, colours: bool = False) -> str:
    console = Console(
        file=io.StringIO(), width=200, force_terminal=colours, color_system="standard" if colours else None
    )
    console.print(picture(reports, now))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line(text: str, name: str) -> list[str]:
    (found,) = [words for words in map(str.split, text.splitlines()) if words[:1] == [name]]
    return found[1:]


def test_servers_are_told_with_their_answers() -> None:
    text = drawn(
        report("server-trino", Fact(SERVER_UP, 1, ("trino",)), Fact(SERVER_LATENCY_SECONDS, 0.012, ("trino",))),
        report("server-kafka", Fact(SERVER_UP, 0, ("kafka",))),
    )
    assert line(text, "trino") == ["yes", "12", "ms"]
    assert line(text, "kafka") == ["NO"]


def test_the_lag_of_a_topic_is_that_of_all_its_partitions_and_as_old_as_the_oldest() -> None:
    text = drawn(
        report(
            "streams",
            Fact(KAFKA_LAG_RECORDS, 1200, ("user-actions", "0")),
            Fact(KAFKA_LAG_RECORDS, 34, ("user-actions", "1")),
            Fact(KAFKA_LAG_SECONDS, 10, ("user-actions", "0")),
            Fact(KAFKA_LAG_SECONDS, 600, ("user-actions", "1")),
        )
    )
    assert line(text, "user-actions") == ["1,234", "10", "min"]


def test_gaps_and_dags_and_tables_are_told() -> None:
    text = drawn(
        report("ledger-events", Fact(LEDGER_GAPS, 2, ("kafka",))),
        report(
            "dags",
            Fact(DAG_PAUSED, 0, ("transform",)),
            Fact(DAG_LAST_RUN_FAILED, 1, ("transform",)),
            Fact(DAG_LAST_SUCCESS, NOW.timestamp() - 7200, ("transform",)),
            Fact(DAG_PAUSED, 1, ("archive_ads",)),
        ),
        report(
            "tables",
            Fact(TABLE_FILES, 7, ("build.fct_events_daily",)),
            Fact(TABLE_BYTES, 1 << 20, ("build.fct_events_daily",)),
            Fact(FRESHNESS_SECONDS, 0, ("marts.fct_events_daily",)),
            Fact(ROWS_QUARANTINED, 3, ("events.user_actions", "not_json")),
            Fact(ROWS_QUARANTINED, 4, ("events.user_actions", "missing_field")),
            Fact(TABLE_FILES, 1, ("events.user_actions",)),
        ),
    )
    assert line(text, "kafka")[0] == "2"
    assert line(text, "transform") == ["FAILED", "2", "h", "ago"]
    assert line(text, "archive_ads") == ["paused", "never"]
    assert line(text, "marts.fct_events_daily") == ["fresh"]
    assert line(text, "build.fct_events_daily") == ["7", "1.0", "MB"]
    rows, files = text.split("files of", 1)
    assert line(rows, "events.user_actions") == ["7"]
    assert line(files, "events.user_actions") == ["1"]


def test_a_collector_that_finds_nothing_is_named_with_the_reason() -> None:
    assert "dags: Airflow does not answer" in drawn(report("dags", error="Airflow does not answer"))


def test_what_is_missing_and_what_is_wrong_comes_first() -> None:
    text = drawn(
        report(
            "tables",
            *(Fact(TABLE_FILES, 7, (f"events.table_{number:02}",)) for number in range(40)),
            Fact(FRESHNESS_SECONDS, 61, ("events.table_39",)),
            Fact(FRESHNESS_TARGET_SECONDS, 60, ("events.table_39",)),
        ),
        report("servers", Fact(SERVER_UP, 1, ("catalog",)), Fact(SERVER_UP, 0, ("trino",))),
        Report("buckets", False, False, None, (), None, None, 0),
        report("dags", error="Airflow does not answer"),
    )
    lines = [words[0] for words in map(str.split, text.splitlines()) if words]
    assert lines[1:6] == ["dags:", "buckets:", "server", "trino", "catalog"]
    assert lines[lines.index("table") + 1] == "events.table_39"
    assert "buckets: still looking" in text


def test_freshness_is_red_above_its_target() -> None:
    def colour(seconds: float) -> str:
        name = ("marts.fct_events_daily",)
        facts = Fact(FRESHNESS_SECONDS, seconds, name), Fact(FRESHNESS_TARGET_SECONDS, 60, name)
        (found,) = re.findall(r"\x1b\[([0-9;]+)m *(?:fresh|\d+ s) *\x1b", drawn(report("marts", *facts), colours=True))
        return found

    assert [colour(seconds) for seconds in (0, 60, 61)] == ["32", "32", "1;31"]


OF_THE_EXPORTER = "lakehouse_exporter_"
"""What tells of the exporter itself; of the collectors the picture tells what they could not find."""


@pytest.mark.parametrize(
    "metric", [metric for metric in METRICS if not metric.name.startswith(OF_THE_EXPORTER)], ids=lambda one: one.name
)
def test_every_fact_that_is_told_to_prometheus_is_drawn(metric: Metric) -> None:
    def picture_with(value: float) -> str:
        facts = (Fact(one, value if one is metric else 100, tuple("x" for _ in one.labels)) for one in METRICS)
        return drawn(report("all", *facts), now=datetime.fromtimestamp(1000, UTC), colours=True)

    assert picture_with(100) != picture_with(0)


def test_a_signal_ends_it_and_gives_the_terminal_back(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    nowhere = dict.fromkeys(("S3__ENDPOINT", "CATALOG__URI", "AIRFLOW__URL"), "http://127.0.0.1:1")
    program = subprocess.Popen(
        [sys.executable, "-c", "from lakehouse.cli.main import main; main()", "top"],
        env={
            **os.environ,
            "TERM": "xterm",
            "LAKEHOUSE_HOME": str(tmp_path),
            "LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
            **{f"LAKEHOUSE_{name}": url for name, url in nowhere.items()},
        },
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    try:
        shown = b""
        while b"lakehouse, " not in shown:
            shown += os.read(ours, 65536)
        assert b"\x1b[?1049h" in shown
        program.send_signal(signal.SIGTERM)
        ends = time.monotonic() + 20
        while b"\x1b[?1049l" not in shown and time.monotonic() < ends:
            shown += os.read(ours, 65536)
        assert program.wait(20) == 0
    finally:
        program.kill()
        program.wait()
        os.close(ours)
