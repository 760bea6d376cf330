"""Turn Kafka rows into rows of the tables, batch by batch: Arrow in, Arrow out, no clock and no I/O."""

import gc
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.events import RULE_VERSION, Event, Rejection, decode
from lakehouse.layouts import decode_alike
from lakehouse.promotion import promoted_columns
from lakehouse.tables import HEADERS, MICROS, USER_ACTIONS, USER_ACTIONS_QUARANTINE

EVENTS_SCHEMA: Final = USER_ACTIONS.arrow_schema
QUARANTINE_SCHEMA: Final = USER_ACTIONS_QUARANTINE.arrow_schema
_MOST_RANKS: Final = np.iinfo(np.int64).max
Rows = npt.NDArray[np.int64]


class Decoded(NamedTuple):
    """Rows of the two tables; every Kafka row is in exactly one of them."""

    events: pa.Table
    quarantine: pa.Table


def decode_batch(batch: pa.RecordBatch, source: str, ingested_at: datetime) -> Decoded:
    """Decode Kafka rows and split them into events and quarantine.

    Messages that are laid out alike are decoded together (`layouts`), the others one by one, with the same verdict.
    Within a table rows are in no particular order.

    Args:
        batch: columns as `adapters.kafka.read_ranges` gives them: `value` binary, `partition` int, `offset` long,
            `timestamp` with zone, and where present `key` binary and `headers`, a list of struct `key`, `value`.
        source: the topic as the tables know it.
        ingested_at: time of the ingest run, with its zone.

    Returns:
        Tables of `EVENTS_SCHEMA` and `QUARANTINE_SCHEMA`; one row per topic, partition and offset.
    """
    kafka_timestamp = batch.column("timestamp").cast(MICROS)
    kafka_micros = kafka_timestamp.cast(pa.int64()).to_numpy()
    values = batch.column("value")
    coordinates = {
        "kafka_partition": batch.column("partition").cast(pa.int32()),
        "kafka_offset": batch.column("offset").cast(pa.int64()),
        "kafka_timestamp": kafka_timestamp,
    }
    constants = {
        "kafka_topic": pa.scalar(source, pa.string()),
        "ingested_at": pa.scalar(ingested_at, MICROS),
        "ingested_date": pa.scalar(ingested_at, MICROS).cast(pa.timestamp("us")).cast(pa.date32()),
        "rule_version": pa.scalar(RULE_VERSION, pa.int32()),
        "replayed_at": pa.scalar(None, MICROS),
    }

    def table(schema: pa.Schema, rows: Rows, columns: Mapping[str, pa.Array]) -> pa.Table:
        """The coordinates of these rows of the batch and the constants, beside their own columns."""
        chosen = None if len(rows) == batch.num_rows else pa.array(rows)
        filled = dict(columns) | {n: c if chosen is None else c.take(chosen) for n, c in coordinates.items()}
        filled |= {name: pa.repeat(value, len(rows)) for name, value in constants.items() if name in schema.names}
        if schema is EVENTS_SCHEMA:
            filled |= promoted_columns(USER_ACTIONS, filled["unknown_fields"])
        return pa.table([filled[name] for name in schema.names], schema=schema)

    events: list[pa.Table] = []
    alone = np.ones(batch.num_rows, np.bool_)
    for alike in decode_alike(values, kafka_micros):
        alone[alike.rows] = False
        nothing = {"unknown_fields": pa.nulls(len(alike.rows), pa.string())}
        events.append(table(EVENTS_SCHEMA, alike.rows, alike.strings | nothing | _times(alike.event_micros)))
    rows = np.flatnonzero(alone)
    accepted, refused, verdicts = _decode_singly(values, kafka_micros, rows)
    events.append(table(EVENTS_SCHEMA, rows[accepted], _event_columns(verdicts)))
    rejections = [verdict for verdict in verdicts if type(verdict) is Rejection]
    chosen = pa.array(rows[refused])
    quarantine = table(
        QUARANTINE_SCHEMA,
        rows[refused],
        {
            "reason": pa.array([rejection.reason.value for rejection in rejections], pa.string()),
            "message": pa.array([rejection.message for rejection in rejections], pa.string()),
            "field": pa.array([rejection.field for rejection in rejections], pa.string()),
            "raw": values.take(chosen),
            "kafka_key": _optional(batch, "key", pa.binary()).take(chosen),
            "kafka_headers": _optional(batch, "headers", HEADERS).take(chosen),
        },
    )
    return Decoded(pa.concat_tables(events), quarantine)


def _decode_singly(
    values: pa.Array, kafka_micros: npt.NDArray[np.int64], rows: Rows
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], list[Event | Rejection]]:
    """Decode these rows one by one; says which of them were accepted, which were refused, and the verdicts."""
    with collector_off():
        raw: list[bytes | None] = values.take(pa.array(rows)).to_pylist()
        verdicts = list(map(decode, raw, kafka_micros[rows].tolist()))
    accepted = np.array([type(verdict) is Event for verdict in verdicts], np.bool_)
    return accepted, ~accepted, verdicts


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


def sort_rows(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Sort by columns of strings, dates or integers without nulls; equal rows keep their order.

    One integer holds the ranks of a row in all the columns and its place, so that integers are all that is sorted.
    Columns that were sorted by may come back dictionary-encoded when they are strings: their texts are moved no more.
    """
    given = table
    key, most = np.zeros(table.num_rows, np.int64), 1
    for name in columns:
        column = table.column(name).combine_chunks()
        if pa.types.is_string(column.type):
            column = column.dictionary_encode()
            table = table.set_column(table.schema.get_field_index(name), name, column)
            order = pc.call_function("array_sort_indices", [column.dictionary]).to_numpy()
            rank_of = np.empty(order.size, np.int64)
            rank_of[order] = np.arange(order.size)
            ranks, count = rank_of[column.indices.to_numpy()], order.size
        else:
            days = pa.types.is_date32(column.type)
            numbers = (column.cast(pa.int32()) if days else column).cast(pa.int64()).to_numpy()
            least = int(numbers.min(initial=0))
            ranks, count = numbers - least, int(numbers.max(initial=0)) - least + 1
        most *= count
        if most * table.num_rows > _MOST_RANKS:
            return given.sort_by([(column, "ascending") for column in columns])
        key = key * count + ranks
    key = key * table.num_rows + np.arange(table.num_rows)
    key.sort()
    return table.take(pa.array(key % max(1, table.num_rows)))


def _event_columns(verdicts: Iterable[Event | Rejection]) -> dict[str, pa.Array]:
    events = [verdict for verdict in verdicts if type(verdict) is Event]
    strings = ("event_name", "user_id", "platform", "product_name", "sku", "unknown_fields")
    columns = {name: pa.array([getattr(event, name) for event in events], pa.string()) for name in strings}
    return columns | _times(np.array([event.event_micros for event in events], np.int64))


def _times(event_micros: npt.NDArray[np.int64]) -> dict[str, pa.Array]:
    micros = pa.array(event_micros)
    # Through a timestamp without zone, so that no library's idea of a local day can enter.
    return {"event_datetime": micros.cast(MICROS), "event_date": micros.cast(pa.timestamp("us")).cast(pa.date32())}


def _optional(batch: pa.RecordBatch, name: str, data_type: pa.DataType) -> pa.Array:
    if name not in batch.schema.names:
        return pa.nulls(batch.num_rows, data_type)
    return batch.column(name).cast(data_type)


@contextmanager
def collector_off() -> Generator[None, None, None]:
    """Keep the garbage collector from walking long lists of what holds no cycle."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
