"""The contenders: how each is started, which tables it gets, and what it does and does not promise."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pyarrow as pa

from lakehouse.settings import Settings
from lakehouse.tables import MICROS, USER_ACTIONS, USER_ACTIONS_QUARANTINE, Column, TableSpec

OURS: Final = "ours"
LAKEHOUSE: Final = str(Path(sys.executable).with_name("lakehouse"))


@dataclass(frozen=True, slots=True)
class Contender:
    """One of those who run.

    Attributes:
        does: what it is, for the table of results.
        checks: how strictly it reads a message.
        bad_rows: what becomes of a message that breaks the contract.
        once: what keeps a row from being lost or doubled.
        tables: fresh for each run, the first one for the events.
        command: (settings, full names of the tables, an empty directory) → what to start.
        partition_by_day_of: column of the first table, where its writer can't derive `event_date`.
    """

    name: str
    does: str
    checks: str
    bad_rows: str
    once: str
    tables: tuple[TableSpec, ...]
    command: Callable[[Settings, list[str], Path], list[str]]
    partition_by_day_of: str | None = None


def _optional(spec: TableSpec, name: str, **update: object) -> TableSpec:
    """The same columns and layout, for writers that know no required columns and keep no order of rows."""
    columns = tuple(replace(column, required=False) for column in spec.columns if not column.unknown_field)
    return replace(spec, name=name, columns=columns, sort_by=(), **update)


def _table(name: str, **update: object) -> TableSpec:
    return _optional(USER_ACTIONS, name, **update)


_KAFKA_COLUMNS = tuple(c for c in USER_ACTIONS.columns if c.name.startswith("kafka_") or c.name == "ingested_at")
_USER = pa.struct([pa.field("platform", pa.string()), pa.field("id", pa.string())])
_PRODUCT = pa.struct([pa.field("name", pa.string()), pa.field("SKU", pa.string())])
_EVENT = (
    pa.field("timestamp", MICROS),
    pa.field("event_name", pa.string()),
    pa.field("user_identifiers", _USER),
    pa.field("product_information", _PRODUCT),
)
_NESTED = (
    Column("event", pa.struct(_EVENT), "The message."),
    Column("event_date", pa.date32(), "UTC date of the event."),
)

_TUNED_PROPERTIES = {
    "write.parquet.compression-level": "1",
    **{
        f"write.parquet.dict-encoding-enabled.column.{name}": "false"
        for name in ("user_id", "kafka_offset", "kafka_timestamp", "event_datetime")
    },
}


_CONNECT = _optional(
    replace(
        USER_ACTIONS,
        columns=(*(Column(f.name, f.type, "As it came.") for f in _EVENT), *_KAFKA_COLUMNS[:-1]),
        partition_by=(),
    ),
    "kafka_connect",
)


def _script(module: str) -> Callable[[Settings, list[str], Path], list[str]]:
    return lambda _, tables, __: [sys.executable, "-m", f"bench.contenders.{module}", *tables]


def _spark_script(module: str) -> Callable[[Settings, list[str], Path], list[str]]:
    return lambda _, tables, work: [
        sys.executable,
        "-m",
        f"bench.contenders.{module}",
        *tables,
        str(work / "checkpoint"),
    ]


ALL: Final = {
    contender.name: contender
    for contender in (
        Contender(
            OURS,
            "`lakehouse ingest run`",
            "the whole contract",
            "quarantine, with reason and raw bytes",
            "position and rows in one commit, fenced",
            (USER_ACTIONS, USER_ACTIONS_QUARANTINE),
            lambda _, __, ___: [LAKEHOUSE, "ingest", "run", "--output", "json"],
        ),
        Contender(
            "stock_spark",
            "Spark Structured Streaming as documented: `from_json` into a struct column, Iceberg sink",
            "`from_json`, lenient",
            "a row of nulls",
            "a checkpoint directory and unexpired snapshots",
            (_optional(replace(USER_ACTIONS, columns=_NESTED + _KAFKA_COLUMNS), "stock_spark"),),
            _spark_script("stock_spark"),
        ),
        Contender(
            "tuned_spark",
            "the same tuned: flat columns, no shuffle, one zstd level with ours, no dictionary for unique columns",
            "`from_json`, lenient",
            "a row of nulls",
            "a checkpoint directory and unexpired snapshots",
            (_table("tuned_spark", properties=_TUNED_PROPERTIES),),
            _spark_script("tuned_spark"),
        ),
        Contender(
            "two_sinks",
            "Spark Structured Streaming, `foreachBatch` with two sinks as documented",
            "`from_json`, lenient; a missing field is found",
            "a second table, without the reason",
            "nothing: a batch that runs again is written again",
            (_table("two_sinks"), _optional(USER_ACTIONS_QUARANTINE, "two_sinks")),
            _spark_script("two_sinks"),
        ),
        Contender(
            "python_script",
            "a plain script: librdkafka, orjson, pyiceberg `append`",
            "orjson; a missing field ends it",
            "it ends at the first one",
            "nothing: it starts over",
            (_table("python_script"),),
            _script("python_script"),
        ),
        Contender(
            "duckdb_script",
            "the same script with DuckDB as the decoder",
            "DuckDB's JSON, lenient",
            "not JSON ends it; a missing field is a null",
            "nothing: it starts over",
            (_table("duckdb_script"),),
            _script("duckdb_script"),
        ),
        Contender(
            "kafka_connect",
            "Apache Iceberg's Kafka Connect sink, standalone, two tasks; the JSON stays nested, partitioned by day",
            "Jackson's JSON",
            "it ends, or drops them when told to",
            "a consumer group's offsets and a control topic",
            (_CONNECT,),
            lambda _, tables, work: [sys.executable, "-m", "bench.contenders.kafka_connect", *tables, str(work)],
            partition_by_day_of="timestamp",
        ),
    )
}
