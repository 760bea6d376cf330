"""Turn Kafka rows and records of files into rows of the tables: Arrow in, Arrow out, no clock and no I/O."""

import gc
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.csv_lines import COLUMN_OF_FIELD
from lakehouse.events import RULE_VERSION, Event, Rejection, decode
from lakehouse.layouts import decode_alike
from lakehouse.promotion import promoted_columns
from lakehouse.tables import CSV_SOURCE, HEADERS, MICROS, USER_ACTIONS, USER_ACTIONS_QUARANTINE

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
    return _decode(
        batch.column("value"),
        kafka_timestamp.cast(pa.int64()).to_numpy(),
        coordinates={
            "kafka_partition": batch.column("partition").cast(pa.int32()),
            "kafka_offset": batch.column("offset").cast(pa.int64()),
            "kafka_timestamp": kafka_timestamp,
        },
        constants={"kafka_topic": source} | _arrived(ingested_at),
        kept={
            "raw": batch.column("value"),
            "kafka_key": _optional(batch, "key", pa.binary()),
            "kafka_headers": _optional(batch, "headers", HEADERS),
        },
    )


class FileVersion(NamedTuple):
    """A version of a file, as the tables know it.

    Attributes:
        file: its location.
        version: number of the commit that brings it, and its ETag.
        modified_at: the object store's time of it.
    """

    file: str
    version: str
    modified_at: datetime


def decode_records(batch: pa.RecordBatch, of: FileVersion, ingested_at: datetime) -> Decoded:
    """Decode records of a CSV file and split them into events and quarantine, by the rules that messages have.

    The store's time of the file is what Kafka's is for a message.

    Args:
        batch: columns `line` long, `raw` binary, and `value` binary: the message that the record stands for; null where
            there is none, and then `reason` and `problem` say why.
        of: the file they are from.
        ingested_at: time of the run, with its zone.

    Returns:
        Tables of `EVENTS_SCHEMA` and `QUARANTINE_SCHEMA`; one row per line.
    """
    modified_micros = pa.scalar(of.modified_at, MICROS).cast(pa.int64()).as_py()
    constants = {
        "source": CSV_SOURCE,
        "file": of.file,
        "file_version": of.version,
        "file_modified_at": of.modified_at,
    } | _arrived(ingested_at)
    is_message = batch.column("value").is_valid()
    messages = batch.filter(is_message)
    decoded = _decode(
        messages.column("value"),
        np.full(messages.num_rows, modified_micros, np.int64),
        coordinates={"file_line": messages.column("line")},
        constants=constants,
        kept={"raw": messages.column("raw")},
    )
    others = batch.filter(pc.call_function("invert", [is_message]))
    refused = _table(
        QUARANTINE_SCHEMA,
        others.num_rows,
        {"file_line": others.column("line"), "message": others.column("problem")}
        | {name: others.column(name) for name in ("raw", "reason")},
        constants,
    )
    told = decoded.quarantine
    for name, change in (("message", _of_a_file), ("field", _column)):
        place = told.schema.get_field_index(name)
        changed = pa.array([change(text) for text in told.column(name).to_pylist()], pa.string())
        told = told.set_column(place, QUARANTINE_SCHEMA.field(place), changed)
    return Decoded(decoded.events, pa.concat_tables([told, refused]))


def _of_a_file(message: str) -> str:
    return message.replace("Kafka's timestamp", "the file's time")


def _column(path: str | None) -> str | None:
    return path and COLUMN_OF_FIELD.get(path, path)


def _arrived(ingested_at: datetime) -> dict[str, Any]:
    return {
        "ingested_at": ingested_at,
        "ingested_date": ingested_at.astimezone(UTC).date(),
        "rule_version": RULE_VERSION,
    }


def _decode(
    values: pa.Array,
    arrived_micros: npt.NDArray[np.int64],
    *,
    coordinates: Mapping[str, pa.Array],
    constants: Mapping[str, Any],
    kept: Mapping[str, pa.Array],
) -> Decoded:
    """Decode messages and split them.

    Args:
        values: the messages; null for a tombstone.
        arrived_micros: when each arrived, microseconds since 1970-01-01 UTC.
        coordinates: columns that both tables take from each message.
        constants: values that all rows have.
        kept: columns that the quarantine takes from each message.
    """

    def table(schema: pa.Schema, rows: Rows, columns: Mapping[str, pa.Array]) -> pa.Table:
        """The coordinates of these messages and the constants, beside their own columns."""
        chosen = None if len(rows) == len(values) else pa.array(rows)
        taken = {name: c if chosen is None else c.take(chosen) for name, c in coordinates.items()}
        return _table(schema, len(rows), dict(columns) | taken, constants)

    events: list[pa.Table] = []
    alone = np.ones(len(values), np.bool_)
    for alike in decode_alike(values, arrived_micros):
        alone[alike.rows] = False
        nothing = {"unknown_fields": pa.nulls(len(alike.rows), pa.string())}
        events.append(table(EVENTS_SCHEMA, alike.rows, alike.strings | nothing | _times(alike.event_micros)))
    rows = np.flatnonzero(alone)
    accepted, refused, verdicts = _decode_singly(values, arrived_micros, rows)
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
        }
        | {name: column.take(chosen) for name, column in kept.items()},
    )
    return Decoded(pa.concat_tables(events), quarantine)


def _table(schema: pa.Schema, rows: int, columns: Mapping[str, pa.Array], constants: Mapping[str, Any]) -> pa.Table:
    """Rows of a table from their columns and from values that all have; any other column is null."""
    filled = dict(columns)
    if schema is EVENTS_SCHEMA:
        filled |= promoted_columns(USER_ACTIONS, filled["unknown_fields"])
    for field in schema:
        if field.name not in filled:
            filled[field.name] = pa.repeat(pa.scalar(constants.get(field.name), field.type), rows)
    return pa.table([filled[name] for name in schema.names], schema=schema)


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
