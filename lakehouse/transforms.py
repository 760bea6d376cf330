"""Turn Kafka rows into rows of the tables, batch by batch: Arrow in, Arrow out, no clock and no I/O."""

import gc
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from itertools import pairwise
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.events import RULE_VERSION, Event, Rejection, decode
from lakehouse.tables import MICROS, USER_ACTIONS, USER_ACTIONS_QUARANTINE

EVENTS_SCHEMA: Final = USER_ACTIONS.arrow_schema
QUARANTINE_SCHEMA: Final = USER_ACTIONS_QUARANTINE.arrow_schema
_HEADERS: Final = QUARANTINE_SCHEMA.field("kafka_headers").type


class Decoded(NamedTuple):
    """Rows of the two tables; every Kafka row is in exactly one of them."""

    events: pa.Table
    quarantine: pa.Table


def decode_batch(batch: pa.RecordBatch, ingested_at: datetime) -> Decoded:
    """Decode Kafka rows and split them into events and quarantine, each in the order of the batch.

    Args:
        batch: columns of Spark's Kafka source: `value` binary, `topic` string, `partition` int, `offset` long,
            `timestamp` with zone, and where present `key` binary and `headers` list of struct `key`, `value`.
        ingested_at: time of the ingest run, with its zone.

    Returns:
        Tables of `EVENTS_SCHEMA` and `QUARANTINE_SCHEMA`; one row per topic, partition and offset.
    """
    kafka_timestamp = batch.column("timestamp").cast(MICROS)
    with _collector_off():
        values: list[bytes | None] = batch.column("value").to_pylist()
        kafka_micros: list[int] = kafka_timestamp.cast(pa.int64()).to_pylist()
        verdicts = list(map(decode, values, kafka_micros))
        events = [verdict for verdict in verdicts if type(verdict) is Event]
        event_columns = _event_columns(events)
        rejections = [verdict for verdict in verdicts if type(verdict) is Rejection]
        rejection_columns: dict[str, Any] = {
            "reason": pa.array([rejection.reason.value for rejection in rejections], pa.string()),
            "message": pa.array([rejection.message for rejection in rejections], pa.string()),
            "field": pa.array([rejection.field for rejection in rejections], pa.string()),
        }
        accepted = pa.array([type(verdict) is Event for verdict in verdicts], pa.bool_())
        rejected = pa.array([type(verdict) is Rejection for verdict in verdicts], pa.bool_())
        del verdicts, events, rejections
    coordinates = pa.table(
        {
            "kafka_topic": batch.column("topic").cast(pa.string()),
            "kafka_partition": batch.column("partition").cast(pa.int32()),
            "kafka_offset": batch.column("offset").cast(pa.int64()),
            "kafka_timestamp": kafka_timestamp,
        }
    )
    return Decoded(
        _table(EVENTS_SCHEMA, event_columns | _columns(coordinates.filter(accepted)), ingested_at),
        _table(
            QUARANTINE_SCHEMA,
            rejection_columns
            | _columns(coordinates.filter(rejected))
            | {
                "raw": batch.column("value").filter(rejected),
                "kafka_key": _optional(batch, "key", pa.binary()).filter(rejected),
                "kafka_headers": _optional(batch, "headers", _HEADERS).filter(rejected),
            },
            ingested_at,
        ),
    )


def split_by_date(table: pa.Table, column: str = "event_date") -> Iterator[tuple[date, pa.Table]]:
    """Cut a table that is sorted by a date column into one table a date, without copying.

    Raises:
        ValueError: a date comes back after another one, so the table is not sorted.
    """
    runs = pc.call_function("run_end_encode", [table.column(column).combine_chunks().cast(pa.int32())])
    days: list[int] = runs.values.to_pylist()
    if any(later <= earlier for earlier, later in pairwise(days)):
        raise ValueError(f"sort the table by {column} first")
    start = 0
    for day, end in zip(runs.values.cast(pa.date32()).to_pylist(), runs.run_ends.to_pylist(), strict=True):
        yield day, table.slice(start, end - start)
        start = end


def _event_columns(events: list[Event]) -> dict[str, Any]:
    micros = pa.array([event.event_micros for event in events], pa.int64())
    return {
        "event_datetime": micros.cast(MICROS),
        # Through a timestamp without zone, so that no library's idea of a local day can enter.
        "event_date": micros.cast(pa.timestamp("us")).cast(pa.date32()),
        "event_name": pa.array([event.event_name for event in events], pa.string()),
        "user_id": pa.array([event.user_id for event in events], pa.string()),
        "platform": pa.array([event.platform for event in events], pa.string()),
        "product_name": pa.array([event.product_name for event in events], pa.string()),
        "sku": pa.array([event.sku for event in events], pa.string()),
        "unknown_fields": pa.array([event.unknown_fields for event in events], pa.string()),
    }


def _table(schema: pa.Schema, columns: dict[str, Any], ingested_at: datetime) -> pa.Table:
    rows = len(columns["kafka_offset"])
    ingested = pa.scalar(ingested_at, MICROS)
    constants = {
        "ingested_at": ingested,
        "ingested_date": ingested.cast(pa.timestamp("us")).cast(pa.date32()),
        "rule_version": pa.scalar(RULE_VERSION, pa.int32()),
    }
    filled = columns | {name: pa.repeat(value, rows) for name, value in constants.items() if name in schema.names}
    return pa.table([filled[name] for name in schema.names], schema=schema)


def _columns(table: pa.Table) -> dict[str, Any]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _optional(batch: pa.RecordBatch, name: str, data_type: pa.DataType) -> pa.Array:
    if name not in batch.schema.names:
        return pa.nulls(batch.num_rows, data_type)
    return batch.column(name).cast(data_type)


@contextmanager
def _collector_off() -> Generator[None, None, None]:
    """Keep the garbage collector from walking the growing lists; nothing made here holds a cycle."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
