"""Columns read out of unknown fields; `golden/promoted-values.jsonl` says by hand which value fits which type."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lakehouse.events import Event, decode
from lakehouse.promotion import promote, promoted_columns
from lakehouse.tables import MICROS, Column, TableSpec

GOLDEN = [
    json.loads(line)
    for line in (Path(__file__).parent / "golden/promoted-values.jsonl").read_text(encoding="utf-8").split("\n")
    if line
]
KINDS = {
    "varchar": pa.string(),
    "bigint": pa.int64(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "timestamp": MICROS,
}
SAMPLE = (
    '{"timestamp": "2023-10-23T12:34:56Z", "event_name": "view", '
    '"user_identifiers": {"platform": "web", "id": "user_12345"}, '
    '"product_information": {"name": "Wireless Mouse", "SKU": "SKU-1001"}, "v": VALUE}'
)


def text(values: pa.Array) -> list[Any]:
    """The values, times as the golden file writes them."""
    return [
        f"{value.replace(tzinfo=None).isoformat(timespec='microseconds')}Z" if isinstance(value, datetime) else value
        for value in values.to_pylist()
    ]


@pytest.mark.parametrize("name", KINDS)
def test_a_value_is_read_where_it_fits_the_type_and_else_left_out(name: str) -> None:
    kept = pa.array([f'{{"v":{case["value"]}}}' for case in GOLDEN], pa.string())
    column = promote(kept, "v", KINDS[name])
    assert column.type == KINDS[name]
    wanted = [case["fits"].get(name) for case in GOLDEN]
    assert [repr(value) for value in text(column)] == [repr(value) for value in wanted]  # -0.0 is not 0.0
    assert any(value is not None for value in wanted)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["value"])
def test_what_the_decoder_keeps_is_read_and_no_value_refuses_a_message(case: dict[str, Any]) -> None:
    event = decode(SAMPLE.replace("VALUE", case["value"]).encode(), 1_698_105_600_000_000)
    assert isinstance(event, Event)
    columns = {name: text(promote(pa.array([event.unknown_fields]), "v", kind))[0] for name, kind in KINDS.items()}
    assert {name: value for name, value in columns.items() if value is not None} == case["fits"]


def test_a_path_leads_into_objects_and_nowhere_else() -> None:
    kept = pa.array(
        [
            '{"g":{"color":"red"}}',
            '{"color":"green"}',
            '{"g":"color:"}',
            '{"g":[{"color":"blue"}]}',
            '{"g":{"g":{"color":"pink"}},"x":{"color":"grey"}}',
            None,
            "{}",
        ]
    )
    assert promote(kept, "g.color", pa.string()).to_pylist() == ["red", *[None] * 6]
    assert promote(kept, "color", pa.string()).to_pylist() == [None, "green", *[None] * 5]
    assert promote(kept, "g.g.color", pa.string()).to_pylist() == [*[None] * 4, "pink", None, None]


def test_names_that_json_escapes_are_found() -> None:
    assert promote(pa.array(['{"a\\"b":1,"c\\\\d":2,"é\\n":3}']), 'a"b', pa.int64()).to_pylist() == [1]
    assert promote(pa.array(['{"a\\"b":1,"c\\\\d":2,"é\\n":3}']), "c\\d", pa.int64()).to_pylist() == [2]
    assert promote(pa.array(['{"a\\"b":1,"c\\\\d":2,"é\\n":3}']), "é\n", pa.int64()).to_pylist() == [3]


@pytest.mark.parametrize("rows", [[], [None], [None, None], ['{"b":1}', None]])
def test_without_the_field_the_column_is_null_everywhere(rows: list[str | None]) -> None:
    column = promote(pa.array(rows, pa.string()), "a", pa.int64())
    assert column == pa.nulls(len(rows), pa.int64())


def test_a_slice_gives_its_own_rows() -> None:
    kept = pa.array(['{"a":1}', None, '{"a":3}', '{"a":4}']).slice(1, 2)
    assert promote(kept, "a", pa.int64()).to_pylist() == [None, 3]


def test_a_table_gets_the_columns_that_its_spec_promotes() -> None:
    spec = TableSpec(
        namespace="events",
        name="things",
        doc="Things.",
        owner="tests",
        columns=(
            Column("day", pa.date32(), "Day."),
            Column("color", pa.string(), "Color.", required=False, unknown_field="product_information.color"),
            Column("seen_at", MICROS, "When.", required=False, unknown_field="seen"),
        ),
        partition_by=("day",),
        sort_by=(),
    )
    kept = pa.array(['{"product_information":{"color":"red"}}', '{"seen":"2023-10-23T14:34:56+02:00"}'])
    columns = promoted_columns(spec, kept)
    assert {name: column.to_pylist() for name, column in columns.items()} == {
        "color": ["red", None],
        "seen_at": [None, datetime(2023, 10, 23, 12, 34, 56, tzinfo=UTC)],
    }


def test_a_promoted_column_is_optional_and_of_a_type_that_json_has() -> None:
    with pytest.raises(ValueError, match="column color of an unknown field must be optional"):
        Column("color", pa.string(), "Color.", unknown_field="color")
    with pytest.raises(ValueError, match="column color of an unknown field must be optional and one of string, int64"):
        Column("color", pa.int32(), "Color.", required=False, unknown_field="color")
