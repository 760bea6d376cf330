"""What the archive is made of: parts with a manifest each, a hash of their content, and which dates are due. Pure.

A *part* is what left one date of the live table in one go: some Parquet files and a manifest. A date has more than one
when events of it came late. Parts of a table are numbered as they are registered, and the number stands in the path of
each of their files, so that a query can tell by the path whether a row counts:

    <location of the archive table>/data/event_date=2026-01-31/part-000012-20261122T013340Z-1f0c…/<uuid>.parquet
    s3://<archive bucket>/<prefix>manifests/events.user_actions/event_date=2026-01-31/part-000012-…-1f0c….json
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse import manifests

_FORMAT = 1
_NAME = re.compile(r"part-(\d{6,})-(\d{8}T\d{6}Z)-([0-9a-f]{32})")
_TIME = "%Y%m%dT%H%M%SZ"
_ROWS_AT_ONCE = 20_000
_MODULUS = 1 << 256


@dataclass(frozen=True, slots=True)
class PartName:
    """The name of a part.

    Attributes:
        number: unique in the table among those that were registered.
        archived_at: start of the work on it, whole seconds UTC.
        run_id: 32 hexadecimal digits, unique; two runs may want the same number, and one of them gets it.
    """

    number: int
    archived_at: datetime
    run_id: str

    def __str__(self) -> str:
        """The name as it stands in paths."""
        return f"part-{self.number:06}-{self.archived_at.astimezone(UTC).strftime(_TIME)}-{self.run_id}"

    @classmethod
    def of(cls, path: str) -> Self | None:
        """The part whose name stands in a path; None when no name does."""
        found = _NAME.search(path)
        if found is None:
            return None
        archived_at = datetime.strptime(found[2], _TIME).replace(tzinfo=UTC)
        return cls(int(found[1]), archived_at, found[3])


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A data file of the live table whose rows a part holds.

    Attributes:
        path: its location.
        deletes: locations of the delete files that applied to it; another one since then has taken rows away.
    """

    path: str
    deletes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """A file of a part, as it was read back.

    Attributes:
        path: its location.
        sha256: of its bytes.
    """

    path: str
    rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a part holds; written before the part is registered and never changed.

    Attributes:
        table: the live table, `namespace.name` without prefix.
        date: the partition.
        part: its name.
        archived_at: start of the work on it, UTC.
        snapshot_id: the snapshot of the live table that the rows were read from.
        rows: how many.
        content_sha256: `ContentHash` over `columns`, as the live table gave them; no order of rows or files changes it.
        columns: name and type of each column, in order.
        files: the part's files.
        taken_from: the live table's files that the rows were read from, and that leave it.
    """

    table: str
    date: date
    part: str
    archived_at: datetime
    snapshot_id: int
    rows: int
    content_sha256: str
    columns: tuple[tuple[str, str], ...]
    files: tuple[ArchivedFile, ...]
    taken_from: tuple[SourceFile, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def name(self) -> PartName:
        """The part's name, taken apart."""
        found = PartName.of(self.part)
        assert found is not None
        return found

    def to_json(self) -> bytes:
        """The manifest as it is stored, indented for people."""
        return manifests.to_json(self, _FORMAT)

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read a stored manifest.

        Raises:
            ValueError: it is cut off, or of a format that this program does not know.
        """
        with manifests.read(text, _FORMAT) as document:
            return cls(
                table=document["table"],
                date=date.fromisoformat(document["date"]),
                part=document["part"],
                archived_at=datetime.fromisoformat(document["archived_at"]),
                snapshot_id=document["snapshot_id"],
                rows=document["rows"],
                content_sha256=document["content_sha256"],
                columns=tuple((name, kind) for name, kind in document["columns"]),
                files=tuple(ArchivedFile(**file) for file in document["files"]),
                taken_from=tuple(SourceFile(file["path"], tuple(file["deletes"])) for file in document["taken_from"]),
            )


class ContentHash:
    """A hash of rows that depends neither on their order nor on how they lie in files.

    It is the sum, modulo 2²⁵⁶, of the SHA-256 of each row, in 64 hexadecimal digits. The text of a row is that of its
    columns in order, joined by the byte 0x1F: `~` for null; of strings and bytes their length in bytes, 0x1F and
    the bytes; of times the microseconds since 1970 UTC, of dates the days, of doubles their bits as an integer; `true`
    or `false`; integers in decimal.

    Two equal rows count twice, as a sum of hashes does and an exclusive or would not.

    Attributes:
        total: the sum so far, not yet reduced.
        rows: how many rows it has.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = tuple(columns)
        self.total = 0
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in the rows of a batch, which may have more columns and in any order."""
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
            piece = batch.slice(start, _ROWS_AT_ONCE)
            texts = [text for column in self._columns for text in _texts(piece.column(column))]
            rows = pc.call_function(
                "binary_join_element_wise",
                [*texts, pa.scalar(b"\x1f", pa.large_binary())],
                pc.JoinOptions(null_handling="replace", null_replacement="~"),
            )
            self.total += sum(int.from_bytes(sha256(row).digest()) for row in rows.to_pylist())
            self.rows += piece.num_rows

    def include(self, other: "ContentHash") -> None:
        """Take in what another one has, of the same columns."""
        self.total += other.total
        self.rows += other.rows

    def hexdigest(self) -> str:
        """The hash of all rows so far."""
        return f"{self.total % _MODULUS:064x}"


def _texts(column: pa.Array) -> list[pa.Array]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _texts(column.cast(kind.value_type))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        column = column.cast(pa.large_binary())
    if pa.types.is_large_binary(column.type):
        return [_decimal(pc.call_function("binary_length", [column])), column]
    if pa.types.is_timestamp(kind):
        return [_decimal(column.cast(pa.timestamp("us", tz=kind.tz)).cast(pa.int64()))]
    if pa.types.is_date32(kind):
        return [_decimal(column.cast(pa.int32()))]
    if pa.types.is_float64(kind):
        return [_decimal(column.view(pa.int64()))]
    return [_decimal(column)]


def _decimal(column: pa.Array) -> pa.Array:
    return column.cast(pa.large_string()).cast(pa.large_binary())


@dataclass(frozen=True, slots=True)
class Due:
    """A date of the live table that an archiving would take.

    Attributes:
        date: the partition.
        rows: by what its data files hold; a delete file may have taken some away.
    """

    date: date
    rows: int
    files: int
    size_bytes: int


def first_kept(today: date, after_days: int | None, before: date | None) -> date | None:
    """The first date that stays: dates before it are due. None when policy keeps everything.

    Args:
        today: the date now, UTC.
        after_days: age in days at which policy archives a date.
        before: stands in for the policy, but a date that is not over stays all the same.
    """
    if before is not None:
        return min(before, today)
    return None if after_days is None else today - timedelta(days=after_days)


def plan(partitions: Iterable[Due], kept_from: date, held: Mapping[date, date], today: date) -> tuple[Due, ...]:
    """Choose the dates to archive, the oldest first.

    Args:
        partitions: what the live table has.
        kept_from: as `first_kept` says.
        held: restored dates, each with the first day on which it may go again.
        today: the date now, UTC.
    """
    chosen = (due for due in partitions if due.date < kept_from and held.get(due.date, today) <= today)
    return tuple(sorted(chosen, key=lambda due: due.date))
