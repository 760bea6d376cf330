"""What the ad API returned, as it returned it, in the object store: gzip JSON lines, and a manifest written last.

    s3://<ads bucket>/<prefix>backup/date=2026-11-21/run=20261122T010502Z-1f0c9d2e/part-00001.jsonl.gz
    s3://<ads bucket>/<prefix>backup/date=2026-11-21/run=20261122T010502Z-1f0c9d2e/manifest.json

The date is that of the beginning of the interval that was asked for. A run without a manifest was killed before it had
everything; nothing of it was ever inserted, nobody reads it, and a load removes it when it is older than a day.
"""

import gzip
import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Self

from pyarrow import fs

from lakehouse import manifests
from lakehouse.adapters import s3
from lakehouse.errors import TerminalError
from lakehouse.settings import Settings

PART_BYTES = 8 << 20
"""Bytes of records that a part holds, before compression, and so about what one of them needs in memory."""

LONGEST: Final = timedelta(days=1)
"""What one run asks for at most, so that a backlog comes in pieces, and what is done of it stays done."""

_FORMAT = 1
_RUN = re.compile(r"date=(\d{4}-\d\d-\d\d)/run=(\d{8}T\d{6}Z-[0-9a-f]{8})$")
_STARTED = "%Y%m%dT%H%M%SZ"
_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Interval:
    """Times of change that were asked for: from `start` on and before `end`, UTC."""

    start: datetime
    end: datetime

    def __str__(self) -> str:
        """For people."""
        return f"{self.start:%Y-%m-%d %H:%M:%S} to {self.end:%Y-%m-%d %H:%M:%S}"

    def cut(self) -> "Iterator[Interval]":
        """Cut it into pieces of `LONGEST`, the oldest first; only the last one is shorter."""
        start = self.start
        while start < self.end:
            yield Interval(start, start := min(start + LONGEST, self.end))


def covered_until(intervals: Iterable[Interval]) -> datetime | None:
    """The end of what was loaded without a hole, from the first beginning on; None when nothing was."""
    covered: datetime | None = None
    for interval in sorted(intervals, key=lambda one: one.start):
        if covered is None or interval.start <= covered:
            covered = max(covered, interval.end) if covered else interval.end
    return covered


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a backup.

    Attributes:
        name: in the folder of its run.
        records: lines in it.
        size_bytes: of the file.
        sha256: of the file's bytes.
    """

    name: str
    records: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a run stored; written when all parts are there, and never changed.

    Attributes:
        run_id: time of its start and eight random digits; sorts by time.
        account: at the ad API.
        interval: that was asked for.
        asked_for: somebody said where it begins; then the next load does not go on from its end.
        stored_at: when the last part was stored, UTC.
    """

    run_id: str
    account: str
    interval: Interval
    asked_for: bool
    stored_at: datetime
    parts: tuple[Part, ...]

    @property
    def records(self) -> int:
        """Lines of all parts."""
        return sum(part.records for part in self.parts)

    @property
    def size_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.size_bytes for part in self.parts)

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
            interval = document["interval"]
            return cls(
                run_id=document["run_id"],
                account=document["account"],
                interval=Interval(datetime.fromisoformat(interval["start"]), datetime.fromisoformat(interval["end"])),
                asked_for=document["asked_for"],
                stored_at=datetime.fromisoformat(document["stored_at"]),
                parts=tuple(Part(**part) for part in document["parts"]),
            )


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """The folder of a run."""

    run_id: str
    date: date

    @property
    def started_at(self) -> datetime:
        """When it began, UTC, to the second."""
        return datetime.strptime(self.run_id.partition("-")[0], _STARTED).replace(tzinfo=UTC)


def new_run_id(now: datetime) -> str:
    """Name a run that starts now."""
    return f"{now.astimezone(UTC):{_STARTED}}-{secrets.token_hex(4)}"


class Backups:
    """The backups of an environment.

    Raises:
        ServerUnavailableError: the object store failed.
        TerminalError: it does not have what was asked for.
    """

    def __init__(self, settings: Settings) -> None:
        self._store: fs.FileSystem = s3.filesystem(settings.s3)
        self.location = f"s3://{settings.s3.ads_bucket}/{settings.prefix}backup"

    def write(self, run: Run, pages: Iterable[bytes]) -> tuple[Part, ...]:
        """Store records as they came, in parts of about `PART_BYTES`.

        Args:
            run: whose they are.
            pages: bytes of whole lines, the last one of each with or without its line end.
        """
        parts: list[Part] = []
        held: list[bytes] = []
        held_bytes = 0
        for page in pages:
            if page:
                held.append(page if page.endswith(b"\n") else page + b"\n")
                held_bytes += len(page)
            if held_bytes >= PART_BYTES:
                parts.append(self._write_part(run, len(parts) + 1, b"".join(held)))
                held, held_bytes = [], 0
        if held:
            parts.append(self._write_part(run, len(parts) + 1, b"".join(held)))
        return tuple(parts)

    def _write_part(self, run: Run, number: int, lines: bytes) -> Part:
        packed = gzip.compress(lines, compresslevel=3, mtime=0)
        name = f"part-{number:05}.jsonl.gz"
        self._put(f"{self.path(run)}/{name}", packed)
        return Part(name, lines.count(b"\n"), len(packed), hashlib.sha256(packed).hexdigest())

    def save(self, run: Run, manifest: Manifest) -> None:
        """Write a run's manifest and read it back.

        Raises:
            TerminalError: the store returned something else.
        """
        self._put(f"{self.path(run)}/{_MANIFEST}", manifest.to_json())
        if self.manifest(run) != manifest:
            raise TerminalError(f"the object store returned another manifest of {run.run_id} than was written to it")

    def manifest(self, run: Run) -> Manifest:
        """Read the manifest of a run.

        Raises:
            TerminalError: there is none, or it can't be read.
        """
        path = f"{self.path(run)}/{_MANIFEST}"
        try:
            return Manifest.from_json(self._get(path))
        except ValueError as error:
            raise TerminalError(f"{path} is no manifest ({error}): put it back from a copy") from error

    def lines(self, run: Run, part: Part) -> list[bytes]:
        """Read the records of a part, which must be as its manifest says.

        Raises:
            TerminalError: it is not.
        """
        path = f"{self.path(run)}/{part.name}"
        packed = self._get(path)
        if (len(packed), hashlib.sha256(packed).hexdigest()) != (part.size_bytes, part.sha256):
            raise TerminalError(
                f"{path} is not what its manifest says: nothing of it was inserted; put it back from a copy"
            )
        lines = gzip.decompress(packed).removesuffix(b"\n").split(b"\n")
        if len(lines) != part.records:
            raise TerminalError(
                f"{path} has {len(lines)} records and its manifest says {part.records}: nothing of it was inserted; "
                "put the manifest back from a copy"
            )
        return lines

    def runs(self) -> tuple[list[Run], list[Run]]:
        """List the runs, by time: those that are whole, and those that were killed before they had everything."""
        whole: set[Run] = set()
        seen: set[Run] = set()
        selector = fs.FileSelector(s3.key_of(self.location), allow_not_found=True, recursive=True)
        with s3.errors():
            found = self._store.get_file_info(selector)
        for info in found:
            folder, _, name = info.path.rpartition("/")
            if info.type is fs.FileType.File and (match := _RUN.search(folder)):
                run = Run(match[2], date.fromisoformat(match[1]))
                seen.add(run)
                if name == _MANIFEST:
                    whole.add(run)
        return sorted(whole), sorted(seen - whole)

    def remove(self, run: Run) -> None:
        """Remove what a run stored."""
        with s3.errors():
            self._store.delete_dir(s3.key_of(self.path(run)))

    def path(self, run: Run) -> str:
        """The folder of a run."""
        return f"{self.location}/date={run.date.isoformat()}/run={run.run_id}"

    def _put(self, path: str, content: bytes) -> None:
        with s3.errors(), self._store.open_output_stream(s3.key_of(path)) as stream:
            stream.write(content)

    def _get(self, path: str) -> bytes:
        with s3.errors(), self._store.open_input_stream(s3.key_of(path)) as stream:
            return stream.read()
