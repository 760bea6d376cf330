"""What one Spark task of an ingest does: decode the messages it gets and write them as data files; a replay does too.

A task commits nothing. It tells the driver which files it wrote and what it counted; a task that Spark runs twice
writes files under other names, and the driver names only those of the attempt that ended well.
"""

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import pyarrow as pa
from pyarrow import fs, parquet

from lakehouse.adapters import kafka, s3
from lakehouse.plans import OffsetRange
from lakehouse.settings import KafkaSettings, S3Settings
from lakehouse.tables import MICROS, USER_ACTIONS, USER_ACTIONS_QUARANTINE, TableSpec
from lakehouse.transforms import collector_off, decode_batch, sort_rows, split_by_date

REPORT = pa.schema(
    [
        pa.field("table", pa.string()),  # `events.user_actions` or `quarantine.user_actions`
        pa.field("file", pa.string()),  # a file of that table with `rows` rows; null in a row that only counts
        pa.field("topic_partition", pa.int32()),
        pa.field("reason", pa.string()),
        pa.field("rows", pa.int64()),
    ]
)
REPORT_DDL = "table string, file string, topic_partition int, reason string, rows long"

_RISING = {"kafka_offset", "kafka_timestamp", "event_datetime"}  # small as differences
_UNIQUE = {"user_id", "raw"} | _RISING  # a dictionary of them only costs
_HELD_BYTES = 128 * 1024 * 1024
"""What a writer keeps in memory before it writes: with its sorted copy and what is read meanwhile, a task needs about
three times as much, and more only for a single batch of huge messages."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where rows of one table go: its location and the Arrow schema with its field ids."""

    location: str
    schema: pa.Schema


@dataclass(frozen=True, slots=True)
class IngestTask:
    """What every task of a run is told; sent to the executors.

    Attributes:
        source: what stands in the column `kafka_topic`.
        quarantined: offsets per topic partition that a killed run already put into quarantine.
        is_replay: the messages come from quarantine, so those still refused are only counted.
    """

    run_id: str
    source: str
    ingested_at: datetime
    s3: S3Settings
    events: Target
    quarantine: Target
    quarantined: Mapping[int, frozenset[int]]
    rows_per_file: int
    is_replay: bool = False

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Write the batches of one task; yields rows of `REPORT`."""
        store = s3.filesystem(self.s3)
        report = _Report()
        events = Writer(self, USER_ACTIONS, self.events, store, report)
        quarantine = Writer(self, USER_ACTIONS_QUARANTINE, self.quarantine, store, report)
        for batch in batches:
            decoded = decode_batch(self._without_quarantined(batch), self.source, self.ingested_at)
            if self.is_replay:
                events.add(replayed_rows(decoded.events, self.ingested_at))
                report.count(USER_ACTIONS_QUARANTINE, decoded.quarantine)
            else:
                events.add(decoded.events)
                quarantine.add(decoded.quarantine)
        events.flush()
        quarantine.flush()
        yield from report.batches()

    def _without_quarantined(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if not self.quarantined:
            return batch
        partitions, offsets = batch.column("partition").to_pylist(), batch.column("offset").to_pylist()
        keep = [o not in self.quarantined.get(p, ()) for p, o in zip(partitions, offsets, strict=True)]
        return batch.filter(pa.array(keep, pa.bool_()))


@dataclass(frozen=True, slots=True)
class ReadTask:
    """Reads its share of a topic and ingests it; sent to the executors.

    Attributes:
        shares: what each task of the job reads, by its number.
    """

    kafka: KafkaSettings
    topic: str
    shares: tuple[tuple[OffsetRange, ...], ...]
    then: IngestTask

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Read the share of each number in the column `id`; yields rows of `REPORT`."""
        with collector_off():  # 20,000 messages at a time are dear to walk
            for batch in batches:
                for number in batch.column("id").to_pylist():
                    yield from self.then(kafka.read_ranges(self.kafka, self.topic, self.shares[number]))


class _Report:
    def __init__(self) -> None:
        self._files: list[tuple[str, str, int]] = []
        self._counts: Counter[tuple[str, int, str | None]] = Counter()

    def file(self, spec: TableSpec, path: str, rows: int) -> None:
        self._files.append((spec.identifier, path, rows))

    def count(self, spec: TableSpec, rows: pa.Table) -> None:
        keys = ["kafka_partition"] + (["reason"] if "reason" in rows.column_names else [])
        for group in rows.group_by(keys).aggregate([([], "count_all")]).to_pylist():
            self._counts[spec.identifier, group["kafka_partition"], group.get("reason")] += group["count_all"]

    def batches(self) -> Iterator[pa.RecordBatch]:
        rows = [{"table": table, "file": path, "rows": rows} for table, path, rows in self._files]
        rows += [
            {"table": table, "topic_partition": partition, "reason": reason, "rows": rows}
            for (table, partition, reason), rows in self._counts.items()
        ]
        yield pa.RecordBatch.from_pylist(rows, schema=REPORT)


class Run(Protocol):
    """What a writer asks of the run it works for."""

    @property
    def run_id(self) -> str:
        """Unique to the run; in the names of its files."""
        ...

    @property
    def rows_per_file(self) -> int:
        """Rows of one file at most."""
        ...


class Tally(Protocol):
    """What a writer tells of its work."""

    def file(self, spec: TableSpec, path: str, rows: int, /) -> None:
        """Hear of a file that was written."""
        ...

    def count(self, spec: TableSpec, rows: pa.Table, /) -> None:
        """Hear of rows that were given to it."""
        ...


class Writer:
    """Collects rows of one table and writes them as one sorted file a table partition."""

    def __init__(self, task: Run, spec: TableSpec, target: Target, store: fs.FileSystem, tally: Tally) -> None:
        self._task, self._spec, self._target, self._store, self._report = task, spec, target, store, tally
        self._held: list[pa.Table] = []
        self._held_rows = self._held_bytes = 0

    def add(self, rows: pa.Table) -> None:
        """Take rows, and write what is held when that is enough for a file."""
        if rows.num_rows:
            self._report.count(self._spec, rows)
            self._held.append(rows)
            self._held_rows += rows.num_rows
            self._held_bytes += rows.nbytes
            if self._held_rows >= self._task.rows_per_file or self._held_bytes >= _HELD_BYTES:
                self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if not self._held:
            return
        (partition,) = self._spec.partition_by
        held = sort_rows(pa.concat_tables(self._held), (partition, *self._spec.sort_by[:1]))
        self._held, self._held_rows, self._held_bytes = [], 0, 0
        for day, rows in split_by_date(held, partition):
            location = f"{self._target.location}/data/{partition}={day.isoformat()}"
            path = f"{location}/{self._task.run_id}-{uuid.uuid4().hex}.parquet"
            with self._store.open_output_stream(s3.key_of(path)) as stream:
                parquet.write_table(conform(rows, self._target.schema), stream, **file_options(rows.column_names))
            self._report.file(self._spec, path, rows.num_rows)


def replayed_rows(events: pa.Table, replayed_at: datetime) -> pa.Table:
    """Mark events as brought back from quarantine."""
    column = pa.repeat(pa.scalar(replayed_at, MICROS), events.num_rows)
    return events.set_column(events.schema.get_field_index("replayed_at"), "replayed_at", column)


def file_options(columns: Sequence[str]) -> dict[str, Any]:
    """How data files with these columns are written, as arguments of pyarrow's."""
    return {
        "compression": "zstd",
        "use_dictionary": [column for column in columns if column not in _UNIQUE],
        "column_encoding": dict.fromkeys(_RISING & set(columns), "DELTA_BINARY_PACKED"),
        "store_schema": False,
    }


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Bring rows to the table's own columns; a column that only the table has stays empty."""
    fields: list[pa.Field] = []
    columns: list[pa.Array | pa.ChunkedArray] = []
    for field in schema:
        if field.name not in rows.column_names:
            column = pa.nulls(len(rows), field.type)
        elif pa.types.is_dictionary((column := rows.column(field.name)).type):
            field = field.with_type(column.type)  # noqa: PLW2901 - the file's column has the dictionary's values
        else:
            column = column.cast(field.type)
        fields.append(field)
        columns.append(column)
    return pa.table(columns, schema=pa.schema(fields))
