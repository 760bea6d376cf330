"""Which CSV files there are, which versions of them the tables have, and which have to be read. Pure.

Files lie under the date that they were dropped for:

    s3://<bucket>/<prefix>year=2026/month=11/day=22/NAME.csv

A *version* of a file is what one commit brought of it: the commit's number and the ETag, `000012-9bb58f26…`. So no two
commits share a version, even when a file gets back a content that it had before.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any, Final, Literal, Self, TypeVar

import orjson

_KEY: Final = re.compile(r"year=(\d{4})/month=(\d\d)/day=(\d\d)/[^/]+\.csv", re.ASCII).fullmatch

Status = Literal["loaded", "refused"]
State = Literal["loaded", "refused", "waiting", "changed", "gone"]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A file in the bucket, as it is now.

    Attributes:
        file: its location, `s3://bucket/key`.
        drop_date: date of its folder.
        modified_at: the object store's time of it.
    """

    file: str
    drop_date: date
    etag: str
    size_bytes: int
    modified_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What of a row of `ops.csv_files` tells whether a file has to be read again."""

    commit_number: int
    file: str
    etag: str
    size_bytes: int
    status: Status
    rule_version: int

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read a row of the table."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})


Kind = TypeVar("Kind", bound=Known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Known):
    """What a commit made of a file: a row of `ops.csv_files`, whose columns say what each attribute is."""

    file_version: str
    drop_date: date
    modified_at: datetime
    header: str | None
    lines: int
    blank_lines: int
    records: int
    published_rows: int
    quarantined_rows: int
    replaced_version: str | None
    withdrawn_rows: int
    ingested_at: datetime

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read a row of the table, or of a property."""
        values: dict[str, Any] = {name: row[name] for name in cls.__dataclass_fields__}
        if isinstance(values["drop_date"], str):
            values["drop_date"] = date.fromisoformat(values["drop_date"])
        for name in ("modified_at", "ingested_at"):
            if isinstance(values[name], str):
                values[name] = datetime.fromisoformat(values[name])
        return cls(**values)

    def to_row(self, recorded_at: datetime) -> dict[str, Any]:
        """The row of the table."""
        return asdict(self) | {"recorded_at": recorded_at}


@dataclass(frozen=True, slots=True)
class Commit:
    """The newest commit that brought files, as the live table's property tells of it.

    Attributes:
        number: of the commit.
        files: what it brought.
    """

    number: int
    files: tuple[Loaded, ...]

    def supersedes(self, file: str, version: str) -> bool:
        """Whether quarantine must have nothing of a version once this commit is there.

        So it is with versions that it replaced, and with what attempts at it left that did not publish.
        """
        if number_of(version) == self.number:
            return all((one.file, one.file_version) != (file, version) for one in self.files)
        return any((one.file, one.replaced_version) == (file, version) for one in self.files)

    def to_text(self) -> str:
        """The commit as the property holds it."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read the property."""
        held = orjson.loads(text)
        return cls(held["number"], tuple(map(Loaded.from_row, held["files"])))


def folder(prefix: str, day: date) -> str:
    """The beginning of the keys of the files of a day.

    Args:
        prefix: of the environment.
        day: the date that files are dropped for.
    """
    return f"{prefix}year={day:%Y}/month={day:%m}/day={day:%d}/"


def date_of(prefix: str, key: str) -> date | None:
    """The date of the folder that a CSV file lies in; None when the key is not that of a dropped file.

    Args:
        prefix: of the environment.
        key: of the object, without its bucket.
    """
    found = _KEY(key.removeprefix(prefix)) if key.startswith(prefix) else None
    try:
        return found and date(*map(int, found.groups()))
    except ValueError:  # such as month=13
        return None


def version_of(number: int, etag: str) -> str:
    """The version that a commit brings of a file with this content."""
    return f"{number:06}-{etag}"


def number_of(version: str) -> int:
    """The number of the commit that brought a version."""
    return int(version.partition("-")[0])


def plan(dropped: Iterable[Dropped], known: Mapping[str, Known], rule_version: int) -> tuple[Dropped, ...]:
    """Choose the files that have to be read, in the order in which they came.

    Args:
        dropped: the files that are there.
        known: the newest version that the tables have of each file.
        rule_version: of the rules that would judge them; a file that older ones refused as a whole is read again.
    """
    found = [one for one in dropped if _has_to_be_read(one, known, rule_version)]
    return tuple(sorted(found, key=lambda one: (one.modified_at, one.file)))


def elsewhere(
    dropped: Iterable[Dropped], known: Mapping[str, Known], days: Collection[date], rule_version: int
) -> dict[date, int]:
    """Count the files that have to be read and are not of these dates, by date; arguments as in `plan`."""
    others = (one for one in dropped if one.drop_date not in days)
    return dict(sorted(Counter(one.drop_date for one in others if _has_to_be_read(one, known, rule_version)).items()))


def _has_to_be_read(one: Dropped, known: Mapping[str, Known], rule_version: int) -> bool:
    return state(one, known.get(one.file), rule_version) in ("waiting", "changed")


def state(one: Dropped | None, known: Known | None, rule_version: int) -> State:
    """How a file stands: what is there of it against what the tables have of it."""
    if known is None:
        return "waiting"
    if one is None:
        return "gone"
    if (one.etag, one.size_bytes) != (known.etag, known.size_bytes):
        return "changed"
    return "changed" if known.status == "refused" and known.rule_version < rule_version else known.status


def batches(pending: Sequence[Dropped], *, files: int, size_bytes: int) -> list[tuple[Dropped, ...]]:
    """Cut files into batches of at most so many files and bytes; a larger file is a batch of its own."""
    cut: list[list[Dropped]] = []
    held = 0
    for one in pending:
        if not cut or len(cut[-1]) == files or held + one.size_bytes > size_bytes:
            cut.append([])
            held = 0
        cut[-1].append(one)
        held += one.size_bytes
    return [tuple(batch) for batch in cut]


def newest(rows: Iterable[Kind]) -> dict[str, Kind]:
    """The newest of the versions of each file."""
    found: dict[str, Kind] = {}
    for row in rows:
        if row.file not in found or found[row.file].commit_number < row.commit_number:
            found[row.file] = row
    return found
