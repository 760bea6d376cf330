"""An unknown field becomes a column by its spec and one command, and history stays readable."""

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import pytest

from lakehouse import ingest
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.catalog import Lake
from lakehouse.adapters.kafka import Message
from lakehouse.audit import audit
from lakehouse.settings import PROJECT_ROOT, Settings
from lakehouse.tables import USER_ACTIONS
from tests.shops import event, open_shop

pytestmark = pytest.mark.integration

GOLDEN = PROJECT_ROOT / "tests" / "unit" / "golden" / "promoted-values.jsonl"
NULL = {
    "varchar": "cast(null as varchar)",
    "bigint": "cast(null as bigint)",
    "double": "cast(null as double)",
    "boolean": "cast(null as boolean)",
    "timestamp": "cast(null as timestamp(6) with time zone)",
}
NEW_COLUMNS = """\
        Column("color", pa.string(), "Color.", required=False, unknown_field="product_information.color"),
        Column("price", pa.float64(), "Price.", required=False, unknown_field="price"),
"""
NEW_MODEL_LINES = """\
    {{ promoted('color', 'product_information.color', 'varchar') }} as color,
    {{ promoted('price', 'price', 'double') }} as price,
"""


def message(user: str, color: Any = None, price: Any = None) -> Message:
    more: dict[str, Any] = {} if price is None else {"price": price}
    if color is not None:
        more["product_information"] = {"name": "Wireless Mouse", "SKU": "SKU-1001", "color": color}
    return Message(user.encode(), event(user, **more))


def send(settings: Settings, *messages: Message) -> None:
    kafka.send(settings, settings.user_actions_topic, messages)


@pytest.fixture
def shop(environment: Settings) -> Settings:
    """An environment with its tables and an empty topic."""
    return open_shop(environment, 2)


@pytest.fixture
def changed_project(tmp_path: Path) -> Path:
    """A copy of the project in which somebody promoted two fields, as CONTRIBUTING.md says."""
    for folder in ("lakehouse", "dbt", "spark", "requirements"):
        leave_out = shutil.ignore_patterns("__pycache__", "target", "logs")
        shutil.copytree(PROJECT_ROOT / folder, tmp_path / folder, ignore=leave_out)
    insert(tmp_path / "lakehouse" / "tables.py", '        *_kafka_coordinates("Lateness', NEW_COLUMNS)
    models = tmp_path / "dbt" / "models" / "staging" / "events"
    insert(models / "stg_events__user_actions_archive.sql", "    unknown_fields,", "    color,\n    price,\n")
    insert(models / "stg_events__user_actions.sql", "    'unknown_fields',", "    'color',\n    'price',\n")
    insert(models / "stg_events__user_actions.sql", "    unknown_fields,", NEW_MODEL_LINES)
    return tmp_path


def insert(path: Path, before: str, text: str) -> None:
    content = path.read_text()
    assert content.count(before) == 1
    path.write_text(content.replace(before, text + before))


def run(project: Path, settings: Settings, *arguments: str) -> dict[str, Any]:
    """Run a command of the changed project; returns its answer."""
    done = subprocess.run(
        [sys.executable, "-c", "from lakehouse.cli.main import main; main()", *arguments, "--output", "json"],
        cwd=project,
        env=os.environ
        | {"PYTHONPATH": str(project), "LAKEHOUSE_HOME": str(settings.home), "LAKEHOUSE_PREFIX": settings.prefix},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_field_becomes_a_column_and_rows_of_every_age_are_readable(shop: Settings, changed_project: Path) -> None:
    send(shop, message("old-red", "red", 19.9), message("old-7", 7, "cheap"), message("old-none"))
    assert ingest.run(shop).published_rows == 3

    # The new code meets the old table: nothing waits for anybody.
    send(shop, message("between", "green", 5))
    assert run(changed_project, shop, "ingest", "run")["published_rows"] == 1

    applied = {table["table"]: table for table in run(changed_project, shop, "tables", "apply")["tables"]}
    assert applied[f"{shop.prefix}events.user_actions"]["changes"] == ["added column color", "added column price"]

    send(shop, message("new-blue", "blue", 1e2), message("new-none"), message("new-list", ["red"], True))
    assert run(changed_project, shop, "ingest", "run")["published_rows"] == 3

    # The old code meets the new table.
    send(shop, message("late", "grey", -1))
    assert ingest.run(shop).published_rows == 1

    rows = (
        Lake(shop).load(USER_ACTIONS).scan(selected_fields=("user_id", "color", "price", "unknown_fields")).to_arrow()
    )
    assert {row.pop("user_id"): row for row in rows.to_pylist()} == {
        "old-red": {
            "color": None,
            "price": None,
            "unknown_fields": '{"price":19.9,"product_information":{"color":"red"}}',
        },
        "old-7": {
            "color": None,
            "price": None,
            "unknown_fields": '{"price":"cheap","product_information":{"color":7}}',
        },
        "old-none": {"color": None, "price": None, "unknown_fields": None},
        "between": {
            "color": None,
            "price": None,
            "unknown_fields": '{"price":5,"product_information":{"color":"green"}}',
        },
        "new-blue": {
            "color": "blue",
            "price": 100.0,
            "unknown_fields": '{"price":100.0,"product_information":{"color":"blue"}}',
        },
        "new-none": {"color": None, "price": None, "unknown_fields": None},
        "new-list": {
            "color": None,
            "price": None,
            "unknown_fields": '{"price":true,"product_information":{"color":["red"]}}',
        },
        "late": {
            "color": None,
            "price": None,
            "unknown_fields": '{"price":-1,"product_information":{"color":"grey"}}',
        },
    }

    built = run(changed_project, shop, "transform", "run")
    assert built["failed"] == []
    model = f'{shop.catalog.name}."{shop.prefix}staging".stg_events__user_actions'
    assert sorted(trino.query(shop.trino_as("admin"), f"select user_id, color, price from {model}")) == [
        ("between", "green", 5.0),
        ("late", "grey", -1.0),
        ("new-blue", "blue", 100.0),
        ("new-list", None, None),
        ("new-none", None, None),
        ("old-7", None, None),
        ("old-none", None, None),
        ("old-red", "red", 19.9),
    ]
    report = audit(shop)
    assert report.ok, report.gaps
    assert (report.aggregated_rows, report.unaggregated_rows) == (8, 0)


@pytest.mark.parametrize("name", NULL)
@pytest.mark.parametrize("path", ["v", "group.v"])
def test_the_models_read_an_old_row_as_ingest_would_have(stack: Settings, name: str, path: str) -> None:
    cases = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").split("\n") if line]
    kept = [f'{{"v":{case["value"]}}}' if path == "v" else f'{{"group":{{"v":{case["value"]}}}}}' for case in cases]
    macro = (PROJECT_ROOT / "dbt" / "macros" / "promoted.sql").read_text()
    expression = jinja2.Environment(autoescape=False).from_string(  # noqa: S701 - it makes SQL
        macro + "{{ promoted(null, path, name) }}"
    )
    values = ", ".join(f"({place}, '{text.replace(chr(39), chr(39) * 2)}')" for place, text in enumerate(kept))
    rows = trino.query(
        stack.trino_as("admin"),
        f"select {expression.render(null=NULL[name], path=path, name=name)} "
        f"from (values {values}) as rows (place, unknown_fields) order by place",
    )
    assert [repr(told(value)) for (value,) in rows] == [repr(case["fits"].get(name)) for case in cases]


def told(value: Any) -> Any:
    """A time as the golden file writes it."""
    if isinstance(value, datetime):
        assert value.utcoffset() is not None
        assert not value.utcoffset()
        return f"{value.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
    return value


def test_a_value_of_the_column_wins_over_the_unknown_field(stack: Settings) -> None:
    macro = (PROJECT_ROOT / "dbt" / "macros" / "promoted.sql").read_text()
    expression = jinja2.Environment(autoescape=False).from_string(  # noqa: S701 - it makes SQL
        macro + "{{ promoted('color', 'color', 'varchar') }}"
    )
    red = '{"color":"red"}'
    rows = f"(values (1, 'blue', '{red}'), (2, null, '{red}'), (3, 'blue', null), (4, null, null))"
    assert trino.query(
        stack.trino_as("admin"),
        f"select {expression.render()} from {rows} as rows (place, color, unknown_fields) order by place",
    ) == [
        ("blue",),
        ("red",),
        ("blue",),
        (None,),
    ]
