"""The same tables through Trino, Spark and pyiceberg: the same types, and the same values to the last bit."""

import math
import struct
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from pyspark.sql import SparkSession

from lakehouse.adapters import s3, spark, trino
from lakehouse.adapters.catalog import Lake
from lakehouse.settings import Settings
from lakehouse.tables import HEADERS, MICROS, USER_ACTIONS, USER_ACTIONS_QUARANTINE, Column, TableSpec

pytestmark = pytest.mark.integration

WIDENED = replace(
    USER_ACTIONS,
    columns=(
        *USER_ACTIONS.columns,
        Column("price", pa.float64(), "Price.", required=False, unknown_field="price"),
        Column("gift", pa.bool_(), "Gift.", required=False, unknown_field="gift"),
        Column("due_at", MICROS, "Due.", required=False, unknown_field="due_at"),
        Column("points", pa.int64(), "Points.", required=False, unknown_field="points"),
    ),
)
"""The events after somebody promoted fields of every type."""

# What each engine calls a type of our specs.
TYPES = {
    MICROS: ("timestamptz", "timestamp(6) with time zone", "timestamp"),
    pa.date32(): ("date", "date", "date"),
    pa.string(): ("string", "varchar", "string"),
    pa.int32(): ("int", "integer", "int"),
    pa.int64(): ("long", "bigint", "bigint"),
    pa.float64(): ("double", "double", "double"),
    pa.bool_(): ("boolean", "boolean", "boolean"),
    pa.binary(): ("binary", "varbinary", "binary"),
    HEADERS: (
        "list<struct<",
        "array(row(key varchar, value varbinary))",
        "array<struct<key:string,value:binary>>",
    ),
}

MOMENTS = [
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1582, 10, 10, 1, 2, 3, 4, tzinfo=UTC),  # a date that the Julian calendar did not have either
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2026, 3, 29, 1, 30, 0, 1, tzinfo=UTC),  # an hour that European clocks leave out
    datetime(2038, 1, 19, 3, 14, 8, 123_456, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
]
TEXTS = [
    "",
    " \t\n",
    "naïve",
    "nai\u0308ve",  # the same to a reader, another string
    "\u212b",  # what Unicode's normal forms would replace
    "👩‍👩‍👧 \U0010ffff",
    "مرحبا\u200f",
    "a\u0000b\u0085\u2028",
    'it\'s "quoted" \\ {null}',
    "null",
]
UNKNOWN = [None, "{}", '{"a":null}', '{"a":{"b":[1,1.0,1e400,"👩"]},"a.b":"\\u0000"}']
NUMBERS = [None, math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, 0.1 + 0.2, 1.7976931348623157e308]
LONGS = [None, -(2**63), 2**63 - 1, 0]
BYTES = [None, b"", b"\x00", bytes(range(256)), "👩".encode(), b"\xff\xfe{}"]
HEADER_LISTS = [
    None,
    [],
    [{"key": "", "value": None}, {"key": "trace", "value": b"\x00\xff"}, {"key": "trace", "value": b""}],
]
ROWS = 40


def cycle(values: Sequence[Any], row: int) -> Any:
    return values[row % len(values)]


def action(row: int, **more: Any) -> dict[str, Any]:
    moment = cycle(MOMENTS, row)
    return {
        "event_datetime": moment,
        "event_date": moment.date(),
        "event_name": cycle(TEXTS, row),
        "user_id": cycle(TEXTS, row // 2),
        "platform": "web",
        "product_name": cycle(TEXTS, row // 3),
        "sku": "SKU-1",
        "unknown_fields": cycle(UNKNOWN, row),
        "kafka_topic": "user-actions",
        "kafka_partition": cycle([0, 2**31 - 1, -(2**31)], row),
        "kafka_offset": row,
        "kafka_timestamp": moment,
        "ingested_at": datetime(2026, 11, 20, 12, tzinfo=UTC),
        "replayed_at": cycle([None, *MOMENTS], row),
        **of_a_file(row),
        **more,
    }


def of_a_file(row: int) -> dict[str, Any]:
    return {
        "source": cycle([None, "csv"], row),
        "file": cycle([None, *TEXTS], row),
        "file_version": cycle([None, *TEXTS], row // 2),
        "file_line": cycle(LONGS, row),
        "file_modified_at": cycle([None, *MOMENTS], row // 2),
    }


def promoted(row: int) -> dict[str, Any]:
    return {
        "price": cycle(NUMBERS, row),
        "gift": cycle([None, True, False], row),
        "due_at": cycle([None, *MOMENTS], row // 2),
        "points": cycle(LONGS, row),
    }


def refused(row: int) -> dict[str, Any]:
    moment = cycle(MOMENTS, row)
    return {
        "reason": cycle(TEXTS, row),
        "message": cycle(TEXTS, row // 2),
        "field": cycle([None, *TEXTS], row),
        "raw": cycle(BYTES, row),
        "kafka_topic": "user-actions",
        "kafka_partition": 0,
        "kafka_offset": row,
        "kafka_timestamp": moment,
        "kafka_key": cycle(BYTES, row // 2),
        "kafka_headers": cycle(HEADER_LISTS, row),
        "rule_version": 1,
        "ingested_at": moment,
        "ingested_date": moment.date(),
        **of_a_file(row),
    }


@dataclass
class Tables:
    """An environment with rows of every value, and what must be read from it."""

    settings: Settings
    spark: SparkSession
    written: Mapping[str, Sequence[Mapping[str, Any]]]

    def name(self, table: str) -> str:
        return f"{self.settings.catalog.name}.{self.settings.prefix}{table}"


@pytest.fixture(scope="module")
def tables(module_environment: Settings) -> Iterator[Tables]:
    """The events, widened between two commits and with a row deleted by Trino; a copy made by Trino; quarantine."""
    settings = module_environment
    actions = [action(row) for row in range(ROWS)]
    later = [action(row, **promoted(row)) for row in range(ROWS, 3 * ROWS)]
    put(settings, USER_ACTIONS, actions)
    put(settings, WIDENED, later)
    refusals = [refused(row) for row in range(ROWS)]
    put(settings, USER_ACTIONS_QUARANTINE, refusals)

    none = dict.fromkeys(promoted(0))
    events = [row | none for row in actions] + later
    events = [row for row in events if row["kafka_offset"] != 7]
    written = {"events.user_actions": events, "events.copied": events, "quarantine.user_actions": refusals}
    with spark.session(settings, "test of the engines") as session:
        spark.open_catalog(session, settings)
        tables = Tables(settings, session, written)
        admin = settings.trino_as("admin")
        table = tables.name("events.user_actions")
        trino.query(admin, f"DELETE FROM {table} WHERE kafka_offset = 7")
        trino.query(admin, f"CREATE TABLE {tables.name('events.copied')} AS SELECT * FROM {table}")
        yield tables


def put(settings: Settings, spec: TableSpec, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a task of an ingest does, a file for each partition, and commit them."""
    lake = Lake(settings)
    lake.apply(spec)
    table = lake.load(spec)
    schema = lake.write_schema(table, spec)
    (partition,) = spec.partition_by
    paths: list[str] = []
    for day in sorted({row[partition] for row in rows}):
        path = f"{table.location()}/data/{partition}={day}/{uuid.uuid4().hex}.parquet"
        held = pa.Table.from_pylist([dict(row) for row in rows if row[partition] == day], schema=schema)
        with s3.filesystem(settings.s3).open_output_stream(s3.key_of(path)) as stream:
            parquet.write_table(held, stream)
        paths.append(path)
    lake.append(spec, paths, expected={}, properties={}, run_id=uuid.uuid4().hex, summary={})


def through_pyiceberg(tables: Tables, table: str) -> list[dict[str, Any]]:
    lake = Lake(tables.settings)
    return lake._catalog.load_table(f"{tables.settings.prefix}{table}").scan().to_arrow().to_pylist()


def through_spark(tables: Tables, table: str) -> list[dict[str, Any]]:
    return tables.spark.table(tables.name(table)).toArrow().to_pylist()


def through_trino(tables: Tables, table: str) -> list[dict[str, Any]]:
    namespace, name = table.split(".")
    admin = tables.settings.trino_as("admin")
    columns = [
        column
        for (column,) in trino.query(
            admin,
            f"SELECT column_name FROM {tables.settings.catalog.name}.information_schema.columns "
            f"WHERE table_schema = '{tables.settings.prefix}{namespace}' AND table_name = '{name}' "
            "ORDER BY ordinal_position",
        )
    ]
    return [dict(zip(columns, row, strict=True)) for row in trino.query(admin, f"SELECT * FROM {tables.name(table)}")]


ENGINES = {"pyiceberg": through_pyiceberg, "Spark": through_spark, "Trino": through_trino}


def exact(value: Any) -> Any:
    """A value such that only the same one is equal: bits of a number, microseconds of a moment in UTC."""
    match value:
        case float():
            value = "NaN" if math.isnan(value) else struct.pack(">d", value)
        case datetime():
            assert value.utcoffset() == timedelta(0)
            value = (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1), "micros"
        case dict():
            value = tuple(exact(one) for one in value.values())
        case list() | tuple():
            value = tuple(exact(one) for one in value)
        case bytearray() | memoryview():
            value = bytes(value)
        case _:
            pass
    return type(value).__name__, value


def by_offset(rows: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    found = {row["kafka_offset"]: {name: exact(value) for name, value in row.items()} for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize("table", ["events.user_actions", "events.copied", "quarantine.user_actions"])
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_reads_what_was_written(tables: Tables, engine: str, table: str) -> None:
    read, written = by_offset(ENGINES[engine](tables, table)), by_offset(tables.written[table])
    if engine == "pyiceberg":
        # Its reader makes an empty list of a null one; when this fails, it does no more, and these lines can go.
        headers = [row for row in written.values() if row.get("kafka_headers") == exact(None)]
        assert bool(headers) is (table == "quarantine.user_actions")
        for row in headers:
            row["kafka_headers"] = exact([])
    assert read.keys() == written.keys()
    for offset, row in written.items():
        assert read[offset] == row


@pytest.mark.parametrize("table", ["events.user_actions", "events.copied", "quarantine.user_actions"])
def test_every_engine_calls_the_types_alike(tables: Tables, table: str) -> None:
    spec = USER_ACTIONS_QUARANTINE if table.startswith("quarantine") else WIDENED
    schema = Lake(tables.settings)._catalog.load_table(f"{tables.settings.prefix}{table}").schema()
    in_pyiceberg = [(field.name, str(field.field_type)) for field in schema.fields]
    shown = trino.query(tables.settings.trino_as("admin"), f"SHOW COLUMNS FROM {tables.name(table)}")
    in_trino = [(name, kind) for name, kind, *_ in shown]
    in_spark = [(f.name, f.dataType.simpleString()) for f in tables.spark.table(tables.name(table)).schema.fields]
    for column, iceberg, sql, java in zip(spec.columns, in_pyiceberg, in_trino, in_spark, strict=True):
        assert iceberg[0] == sql[0] == java[0] == column.name
        expected = TYPES[column.type]
        assert iceberg[1].startswith(expected[0])
        assert (sql[1], java[1]) == expected[1:]


def test_every_engine_reads_an_old_version_by_the_columns_it_had(tables: Tables) -> None:
    first = Lake(tables.settings).load(WIDENED).snapshots()[0].snapshot_id
    names = [column.name for column in USER_ACTIONS.columns]
    table = tables.name("events.user_actions")
    lake = Lake(tables.settings).load(WIDENED)
    by_trino = trino.query(tables.settings.trino_as("admin"), f"SELECT * FROM {table} FOR VERSION AS OF {first}")
    assert len(by_trino) == ROWS
    assert {len(row) for row in by_trino} == {len(names)}
    assert tables.spark.sql(f"SELECT * FROM {table} VERSION AS OF {first}").columns == names
    assert lake.scan(snapshot_id=first).to_arrow().column_names == names
