"""What one Spark task of `lakehouse csv run` does: read one file, judge its records, and write them as data files.

As in `ingest_task`, a task commits nothing; it tells the driver what it read, wrote and counted. A file that is no
longer what the driver saw is told as changed, and one that the object store does not give as such. Then nothing of it
counts, and the other files go on.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from lakehouse.adapters import s3
from lakehouse.adapters.objects import ObjectError, Objects, ObjectVersion
from lakehouse.csv_lines import (
    CsvReason,
    Header,
    Problem,
    Record,
    Records,
    fields_of,
    header_of,
    misfit,
)
from lakehouse.errors import ServerUnavailableError, shorten
from lakehouse.events import Reason as EventReason
from lakehouse.ingest_task import Target, Writer
from lakehouse.settings import S3Settings
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_QUARANTINE, TableSpec
from lakehouse.transforms import FileVersion, collector_off, decode_records

REPORT: Final = pa.schema(
    [
        pa.field("number", pa.int32()),  # the file's place in the job
        pa.field("table", pa.string()),  # `events.user_actions` or `quarantine.user_actions`; null in a row of facts
        pa.field("path", pa.string()),  # a data file of that table; null in a row that only counts
        pa.field("reason", pa.string()),
        pa.field("rows", pa.int64()),
        pa.field("facts", pa.string()),  # `Facts` as JSON, once for each file
    ]
)
REPORT_DDL: Final = "number int, table string, path string, reason string, rows long, facts string"

CHUNK_BYTES: Final = 4 << 20
RECORDS_AT_ONCE: Final = 20_000
BYTES_AT_ONCE: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A file to read.

    Attributes:
        version: as the tables will know it.
        held_lines: lines that quarantine has of this version already, sorted; a killed attempt brought them.
    """

    bucket: str
    key: str
    etag: str
    size_bytes: int
    version: FileVersion
    held_lines: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a file once it was read.

    Attributes:
        trouble: why nothing was read, and nothing else holds then. `changed`: it is no longer what was to be read;
            `denied`: it is not for us; `unserved`: the object store answers, and fails on this file.
        told: what the object store said of that.
        header: the line that names the columns; None when the file is refused as a whole, which then is one record.
        records: how many it has, those that quarantine held already included.
    """

    trouble: Literal["changed", "denied", "unserved"] | None = None
    told: str = ""
    header: str | None = None
    lines: int = 0
    blank_lines: int = 0
    records: int = 0


@dataclass(frozen=True, slots=True)
class CsvTask:
    """What every task of a run is told; sent to the executors."""

    run_id: str
    ingested_at: datetime
    s3: S3Settings
    files: tuple[CsvFile, ...]
    events: Target
    quarantine: Target
    rows_per_file: int

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Read the file of each number in the column `id`; yields rows of `REPORT`."""
        with collector_off():
            for batch in batches:
                for number in batch["id"].to_pylist():
                    yield self._read(number)

    def _read(self, number: int) -> pa.RecordBatch:
        file, told = self.files[number], _Report(number)
        store = s3.filesystem(self.s3)
        events = Writer(self, USER_ACTIONS, self.events, store, told)
        quarantine = Writer(self, USER_ACTIONS_QUARANTINE, self.quarantine, store, told)
        records = Records(self._chunks(file))
        facts = Facts()
        try:
            for batch, known in read(records):
                facts = known
                fresh = batch.filter(pa.array(~np.isin(batch["line"].to_numpy(), file.held_lines)))
                decoded = decode_records(fresh, file.version, self.ingested_at)
                events.add(decoded.events)
                quarantine.add(decoded.quarantine)
            events.flush()
            quarantine.flush()
        except ObjectError as error:
            trouble = "denied" if error.trouble == "denied" else "changed"
            return _Report(number).batch(Facts(trouble, shorten(str(error))))
        except ServerUnavailableError as error:
            if not Objects(self.s3).answers(file.bucket):  # it fails on every file, and says nothing of this one
                raise
            return _Report(number).batch(Facts("unserved", shorten(str(error))))
        return told.batch(facts)

    def _chunks(self, file: CsvFile) -> Iterator[bytes]:
        stream = Objects(self.s3).open(ObjectVersion(file.bucket, file.key, None, file.etag), file.size_bytes)
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def read(records: Records) -> Iterator[tuple[pa.RecordBatch, Facts]]:
    """Read a file; yields records as `decode_records` takes them, and what is known of the file so far."""
    first = next(records, None)
    header = records.header or Problem(CsvReason.EMPTY_FILE, "the file holds nothing")
    if isinstance(header, Problem):
        for _ in records:  # to its end, for the count of its lines
            pass
        refused = Record(first.line, first.raw, None, header) if first else Record(1, b"", None, header)
        yield _batch([refused], None), Facts(lines=records.lines, blank_lines=records.blank_lines, records=1)
        return
    count = 0
    held: list[Record] = []
    held_bytes = 0

    def facts() -> Facts:
        return Facts(header=header.text, lines=records.lines, blank_lines=records.blank_lines, records=count)

    for record in records:
        held.append(record)
        held_bytes += len(record.raw)
        if len(held) == RECORDS_AT_ONCE or held_bytes >= BYTES_AT_ONCE:
            count += len(held)
            yield _batch(held, header), facts()
            held, held_bytes = [], 0
    count += len(held)
    yield _batch(held, header), facts()


def read_again(rows: pa.RecordBatch, header: str | None) -> pa.RecordBatch:
    """Read records again that quarantine has of a file, as `decode_records` takes them.

    Args:
        rows: columns `raw`, `reason` and `file_line` of the quarantine.
        header: of the file; None when it is refused as a whole.
    """
    known = header_of(header) if header is not None else None
    records: list[Record] = []
    for raw, reason, line in zip(*(rows[name].to_pylist() for name in ("raw", "reason", "file_line")), strict=True):
        if known is None or raw is None:
            kind = CsvReason if reason in {one.value for one in CsvReason} else EventReason
            problem = Problem(kind(reason), "it can only be read from its file")
            records.append(Record(line, raw or b"", None, problem))
            continue
        found = fields_of(raw, known)
        is_problem = isinstance(found, Problem)
        records.append(Record(line, raw, None if is_problem else found, found if is_problem else None))
    return _batch(records, known)


def _batch(records: list[Record], header: Header | None) -> pa.RecordBatch:
    values: list[bytes | None] = []
    problems: list[Problem | None] = []
    for record in records:
        problem = record.problem
        if header is not None and record.fields is not None:
            problem = misfit(record.fields, header)
        problems.append(problem)
        values.append(header.message(record.fields) if header and record.fields and not problem else None)
    return pa.record_batch(
        {
            "line": pa.array([record.line for record in records], pa.int64()),
            # Of a line that was cut nothing is kept: what is in quarantine is whole, so that it can be judged again.
            "raw": pa.array([None if _is_cut(record) else record.raw for record in records], pa.binary()),
            "value": pa.array(values, pa.binary()),
            "reason": pa.array([problem and problem.reason.value for problem in problems], pa.string()),
            "problem": pa.array([problem and problem.message for problem in problems], pa.string()),
        }
    )


def _is_cut(record: Record) -> bool:
    return record.problem is not None and record.problem.reason is EventReason.TOO_LARGE


class _Report:
    """What a task has to tell of one file."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._files: list[dict[str, Any]] = []
        self._counts: Counter[tuple[str, str | None]] = Counter()

    def file(self, spec: TableSpec, path: str, rows: int) -> None:
        self._files.append({"table": spec.identifier, "path": path, "rows": rows})

    def count(self, spec: TableSpec, rows: pa.Table) -> None:
        reasons = rows["reason"].to_pylist() if "reason" in rows.column_names else None
        if reasons is None:
            self._counts[spec.identifier, None] += rows.num_rows
        else:
            self._counts.update((spec.identifier, reason) for reason in reasons)

    def batch(self, facts: Facts) -> pa.RecordBatch:
        rows: list[dict[str, Any]] = [{"facts": orjson.dumps(facts).decode()}, *self._files]
        rows += [{"table": table, "reason": reason, "rows": n} for (table, reason), n in self._counts.items()]
        return pa.RecordBatch.from_pylist([row | {"number": self._number} for row in rows], schema=REPORT)
