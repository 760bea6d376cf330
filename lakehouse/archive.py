"""Move old events from the live table to the archive, prove that they arrived, and bring them back.

The archive is the Iceberg table `events.user_actions_archive` in a bucket of its own; its data files are the archived
Parquet files themselves. What leaves a date in one go is a *part* (see `archive_parts`). One part at a time:

1. Its rows are read from one snapshot of the live table and written to the archive bucket.
2. The files are read back; count and content hash must be those of the rows that were read.
3. The manifest is written beside them.
4. The archive table registers the files and the part's number, in one commit, from the number it had.
5. The live table loses exactly the data files that were read and gets the property `lakehouse.archive.through`, in one
   commit. Files that came since are not touched; they leave as another part, later.

Rows of a part count in the archive only when the live table's property says that they have left it. So every event
counts once, at every moment: up to step 5 in the live table, from then on in the archive. Who reads both has to look at
the live table first, which has the property in the same metadata as its rows.

A kill before 4 leaves files that nobody names. After a kill between 4 and 5 the next run does step 5, or takes the part
back out of the archive when the live table's files were rewritten meanwhile. At most one part is between 4 and 5.

Restoring goes the other way: copy the rows into files of the live table, read them back, add the files and the part to
the property `lakehouse.archive.restored` in one commit, and only then take the part out of the archive.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

import pyarrow as pa

from lakehouse import ledger
from lakehouse.adapters.archive import Archive, FilesChangedError, HeldFile, Table
from lakehouse.archive_files import PartFiles
from lakehouse.archive_parts import ContentHash, Due, Manifest, PartName, first_kept, plan
from lakehouse.errors import FenceError, LakehouseError, TerminalError, TransientError
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_ARCHIVE, TableSpec

Progress = Callable[[int, int], None]
"""Called with (rows done, rows to do); each row is written once and read back once."""

READERS_SECONDS = 3.0
"""How long a restored part stays in the archive after its rows are live again: a query that had looked at the live
table before that finds them in the archive still."""
HOLD_DAYS = 7
"""How long policy leaves a restored date alone unless somebody says otherwise."""

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the archive.

    Attributes:
        name: as in the paths of its files.
        state: `archived`: its rows are in the archive alone. `moving`: they are still in the live table as well, and
            count there; the next run ends that. `restored`: they are in the live table again, and count there.
        archived_at: start of the work on it, UTC.
    """

    name: str
    date: date
    state: Literal["archived", "moving", "restored"]
    archived_at: datetime
    rows: int
    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ArchiveResult:
    """What a run did, or would do; printed by `lakehouse archive run --output json`.

    Attributes:
        archived: the parts that left the live table, by this run or settled by it.
        withdrawn: parts of a killed run that were taken back, because the live table's files had been rewritten.
        due: dates that a dry run found; empty otherwise.
        held: dates that policy would take and that were restored lately.
    """

    archived: tuple[Part, ...] = ()
    withdrawn: tuple[str, ...] = ()
    due: tuple[Due, ...] = ()
    held: tuple[date, ...] = ()
    dry_run: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore did; printed by `lakehouse archive restore --output json`.

    Attributes:
        parts: those whose rows came back; empty when the archive has nothing of the date.
        held_until: the first day on which policy may archive the date again.
    """

    restored_date: date
    parts: tuple[str, ...] = ()
    rows: int = 0
    held_until: date | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Difference:
    """Something in the archive that is not as its manifest says.

    Attributes:
        where: a file, or the part's name.
        what: what differs, both sides named.
    """

    date: date
    part: str
    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What `lakehouse archive verify` found; `ok` when nothing differs."""

    ok: bool
    parts: int
    files: int
    rows: int
    size_bytes: int
    differences: tuple[Difference, ...]
    seconds: float = 0.0


def run(
    settings: Settings,
    *,
    before: date | None = None,
    dry_run: bool = False,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> ArchiveResult:
    """Archive the dates that policy has due, the oldest first, each by two commits; idempotent.

    What an earlier run left half done is settled first. An ingest, a replay, a compaction and queries may go on.

    Args:
        settings: of the environment.
        before: archive the dates before this one instead of those that policy names; a date that is not over stays.
        dry_run: only say what is due.
        now: the time, for tests.
        progress: see `Progress`.

    Raises:
        FenceError: another archiving was quicker; run again.
        CommitStateUnknownError: run again; the tables tell whether the commit landed.
        TransientError: a server did not answer, or a compaction rewrote the same date again and again.
        TerminalError: the tables do not exist or differ in their columns.
    """
    started = time.monotonic()
    now = now or datetime.now(UTC)
    archiver = _Archiver(settings, now, progress)
    today = now.date()
    kept_from = first_kept(today, USER_ACTIONS.policy.archive_after_days, before)
    if not dry_run:
        archiver.settle()
    live = archiver.lake.load(USER_ACTIONS)
    partitions = archiver.lake.due(live, USER_ACTIONS, kept_from) if kept_from else []
    held = ledger.held(live.properties)
    due = plan(partitions, kept_from, held, today) if kept_from else ()
    chosen = {one.date for one in due}
    if not dry_run:
        archiver.expect(sum(one.rows for one in due))
        for one in due:
            archiver.archive(one.date)
    return ArchiveResult(
        archived=tuple(archiver.archived),
        withdrawn=tuple(archiver.withdrawn),
        due=due if dry_run else (),
        held=tuple(sorted(one.date for one in partitions if one.date not in chosen)),
        dry_run=dry_run,
        seconds=round(time.monotonic() - started, 3),
    )


def parts(settings: Settings, day: date | None = None) -> list[Part]:
    """List the parts that the archive table has, of one date or of all, the oldest date first.

    Raises:
        TransientError: a server did not answer.
        TerminalError: the tables do not exist.
    """
    return [part for part, _ in _parts(Archive(settings), day)]


def restore(
    settings: Settings,
    day: date,
    *,
    hold_days: int = HOLD_DAYS,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> RestoreResult:
    """Bring the archived rows of a date back into the live table, each once; a second call finds nothing to do.

    Args:
        settings: of the environment.
        day: the date.
        hold_days: how long policy leaves it alone from today on, in days.
        now: the time, for tests.
        progress: see `Progress`.

    Raises:
        FenceError: another restore or an archiving was quicker; run again.
        CommitStateUnknownError: run again; the tables tell whether the commit landed.
        TransientError: a server did not answer.
        TerminalError: the archive does not hold what its manifests say; see `lakehouse archive verify`.
    """
    started = time.monotonic()
    archiver = _Archiver(settings, now or datetime.now(UTC), progress)
    result = archiver.restore(day, hold_days)
    return RestoreResult(
        restored_date=day,
        parts=tuple(manifest.part for manifest in result),
        rows=sum(manifest.rows for manifest in result),
        held_until=ledger.held(archiver.lake.load(USER_ACTIONS).properties).get(day),
        seconds=round(time.monotonic() - started, 3),
    )


def verify(settings: Settings, day: date | None = None, progress: Progress | None = None) -> Verification:
    """Read archived files back from the bucket and compare them with their manifests and with the archive table.

    Every file is read twice, once for its bytes and once for its rows; one is in memory at a time, by row groups.

    Args:
        settings: of the environment.
        day: only this date.
        progress: called with (rows read, rows to read).

    Raises:
        TransientError: a server did not answer.
        TerminalError: the tables do not exist.
    """
    started = time.monotonic()
    found = _parts(Archive(settings), day)
    most, done = sum(part.rows for part, _ in found), 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        if progress:
            progress(done, most)

    files = PartFiles(settings, count)
    differences = [
        Difference(part.date, part.name, where, what)
        for part, registered in found
        for where, what in files.compare(_name_in(part.name), part.date, registered)
    ]
    return Verification(
        ok=not differences,
        parts=len(found),
        files=sum(part.files for part, _ in found),
        rows=most,
        size_bytes=sum(part.size_bytes for part, _ in found),
        differences=tuple(differences),
        seconds=round(time.monotonic() - started, 3),
    )


def _parts(lake: Archive, day: date | None = None) -> list[tuple[Part, list[HeldFile]]]:
    properties = lake.load(USER_ACTIONS).properties  # before the archive, see the module
    found: dict[tuple[date, str], list[HeldFile]] = {}
    for file in lake.files(lake.load(USER_ACTIONS_ARCHIVE), USER_ACTIONS_ARCHIVE, on=day):
        found.setdefault((file.date, str(_name_in(file.path))), []).append(file)
    return [
        (_part(name, on, files, _state(properties, _name_in(name).number)), files)
        for (on, name), files in sorted(found.items())
    ]


def _part(
    name: str, day: date, files: Sequence[HeldFile], state: Literal["archived", "moving", "restored"] = "archived"
) -> Part:
    rows, size_bytes = sum(file.rows for file in files), sum(file.size_bytes for file in files)
    return Part(name, day, state, _name_in(name).archived_at, rows, len(files), size_bytes)


def _state(properties: ledger.Properties, number: int) -> Literal["archived", "moving", "restored"]:
    if number > ledger.through(properties):
        return "moving"
    return "archived" if ledger.has_left(properties, number) else "restored"


def _name_in(path: str) -> PartName:
    name = PartName.of(path)
    if name is None:
        raise TerminalError(
            f"the archive table has a file that no archiving wrote: {path}; if a compaction did, roll that table back "
            "to the snapshot before it"
        )
    return name


class _Archiver:
    """Takes one step after another on both tables.

    Attributes:
        archived: parts that left the live table so far.
        withdrawn: names of parts that were taken back.
    """

    def __init__(self, settings: Settings, now: datetime, progress: Progress | None) -> None:
        self._settings, self._now, self._progress = settings, now, progress
        self.lake = Archive(settings)
        self._files = PartFiles(settings, self._count)
        self._done = self._most = 0
        self.archived: list[Part] = []
        self.withdrawn: list[str] = []

    def expect(self, rows: int) -> None:
        """Say how many rows there are to write and to read back."""
        self._most = 2 * rows

    def _count(self, rows: int) -> None:
        self._done += rows
        if self._progress:
            self._progress(self._done, max(self._done, self._most))

    def settle(self) -> tuple[Table, Table]:
        """End what an earlier run began, so that no part is in both tables.

        Returns:
            Both tables as they are then; no part came between the one's loading and the other's.

        Raises:
            TransientError: another run began one part after another meanwhile.
        """
        for _ in range(_ATTEMPTS):
            live = self.lake.load(USER_ACTIONS)  # before the archive, see the module
            archive = self.lake.load(USER_ACTIONS_ARCHIVE)
            through, restored = ledger.through(live.properties), ledger.restored(live.properties)
            names: dict[PartName, date] = {}
            if restored or ledger.last_part(archive.properties) > through:
                files = self.lake.files(archive, USER_ACTIONS_ARCHIVE)
                names = {_name_in(file.path): file.date for file in files}
            left = [(name, day) for name, day in names.items() if name.number in restored]
            moving = [(name, day) for name, day in names.items() if name.number > through]
            if not left and not moving:
                return live, archive
            if left:
                self._drop(left, wait=True)
            for name, day in moving:
                self._let_go(self._files.manifest(name, day), live.properties)
        raise TransientError("another archiving or restore is at work: wait for it, then run again")

    def archive(self, day: date) -> None:
        """Archive what the live table has of a date, as one part.

        Raises:
            FenceError: another run registered a part first; nothing of this one is left.
            TransientError: the date was rewritten meanwhile, each time.
        """
        for _ in range(_ATTEMPTS):
            live, archive = self.settle()
            manifest = self._write(live, archive, day)
            if manifest is None:
                return
            try:
                self.lake.append(
                    USER_ACTIONS_ARCHIVE,
                    [file.path for file in manifest.files],
                    expected=ledger.found(archive.properties, ledger.LAST_PART),
                    properties={ledger.LAST_PART: str(manifest.name.number)},
                    run_id=manifest.name.run_id,
                    summary={"lakehouse.archive.part": manifest.part},
                )
            except FenceError:
                if self._forget(USER_ACTIONS_ARCHIVE, day, [file.path for file in manifest.files]):
                    self._files.remove_manifest(manifest.name, day)
                raise
            if self._let_go(manifest, live.properties):
                return
        raise TransientError(
            f"{day} of {self.lake.identifier(USER_ACTIONS)} was rewritten while it was archived, {_ATTEMPTS} times in "
            "a row: nothing left the table; run again when its maintenance has ended"
        )

    def _write(self, live: Table, archive: Table, day: date) -> Manifest | None:
        """Write the part of a date and read it back; None when the table has nothing of the date."""
        snapshot = live.current_snapshot()
        sources = self.lake.sources(live, USER_ACTIONS, day)
        if snapshot is None or not sources:
            return None
        schema = self.lake.write_schema(archive, USER_ACTIONS_ARCHIVE)
        columns = _shared_columns(self.lake.write_schema(live, USER_ACTIONS), schema)
        name = PartName(ledger.last_part(archive.properties) + 1, self._now, uuid.uuid4().hex)
        directory = f"{archive.location()}/data/event_date={day.isoformat()}/{name}"
        content = ContentHash([column for column, _ in columns])
        rows = self.lake.rows(live, USER_ACTIONS, day, [column for column, _ in columns])
        paths = self._files.write(_hashed(rows, content), directory, schema, self._settings.ingest.rows_per_file)
        if not content.rows:
            return None
        files, read_back = self._files.read_back(paths, columns)
        if (content.rows, content.hexdigest()) != (read_back.rows, read_back.hexdigest()):
            raise LakehouseError(
                f"{content.rows} rows of {day} were archived to {directory} and {read_back.rows} rows with "
                f"{'the same' if content.hexdigest() == read_back.hexdigest() else 'another'} content were read back: "
                "nothing left the live table; look after the object store, then run again"
            )
        manifest = Manifest(
            table=USER_ACTIONS.identifier,
            date=day,
            part=str(name),
            archived_at=name.archived_at.replace(microsecond=0),
            snapshot_id=snapshot.snapshot_id,
            rows=content.rows,
            content_sha256=content.hexdigest(),
            columns=columns,
            files=files,
            taken_from=sources,
        )
        self._files.save(manifest)
        return manifest

    def _let_go(self, manifest: Manifest, properties: ledger.Properties) -> bool:
        """Take the rows of a registered part out of the live table; False when the part was taken back instead.

        Args:
            manifest: of the part.
            properties: of the live table, as they were before the part was registered or when it was found so.
        """
        number = manifest.name.number
        try:
            self.lake.take_out(
                USER_ACTIONS,
                manifest.date,
                manifest.taken_from,
                expected=ledger.found(properties, ledger.THROUGH),
                properties={ledger.THROUGH: str(number)},
                run_id=uuid.uuid4().hex,
                summary={"lakehouse.archive.part": manifest.part},
            )
        except FilesChangedError:
            self._drop([(manifest.name, manifest.date)])
            self.withdrawn.append(manifest.part)
            return False
        except FenceError:
            if not self._was_settled(manifest):
                raise
        held = [HeldFile(file.path, manifest.date, file.rows, file.size_bytes) for file in manifest.files]
        self.archived.append(_part(manifest.part, manifest.date, held))
        return True

    def _was_settled(self, manifest: Manifest) -> bool:
        """Whether another run has done the last step of a part, rather than taken it back."""
        properties = self.lake.load(USER_ACTIONS).properties  # before the archive, see the module
        registered = self._registered(USER_ACTIONS_ARCHIVE, manifest.date, [file.path for file in manifest.files])
        return registered and ledger.has_left(properties, manifest.name.number)

    def _registered(self, spec: TableSpec, day: date, paths: Sequence[str]) -> bool:
        held = self.lake.files(self.lake.load(spec), spec, on=day)
        return not {file.path for file in held}.isdisjoint(paths)

    def _forget(self, spec: TableSpec, day: date, paths: Sequence[str]) -> bool:
        """Delete files whose commit met its fence, unless it had landed before and nobody heard; returns whether."""
        if self._registered(spec, day, paths):
            return False
        self._files.remove(paths)
        return True

    def _drop(self, gone: Sequence[tuple[PartName, date]], *, wait: bool = False) -> None:
        """Take parts out of the archive that do not count there."""
        if wait:
            time.sleep(READERS_SECONDS)
        names = {str(name) for name, _ in gone}
        self.lake.drop(
            USER_ACTIONS_ARCHIVE,
            lambda path: str(PartName.of(path)) in names,
            run_id=uuid.uuid4().hex,
            summary={"lakehouse.archive.dropped": ", ".join(sorted(names))},
        )
        for name, day in gone:
            self._files.remove_manifest(name, day)

    def restore(self, day: date, hold_days: int) -> list[Manifest]:
        """Bring back every part of a date that counts; returns their manifests."""
        live, archive = self.settle()
        registered: dict[PartName, set[str]] = {}
        for file in self.lake.files(archive, USER_ACTIONS_ARCHIVE, on=day):
            registered.setdefault(_name_in(file.path), set()).add(file.path)
        if not registered:
            return []
        manifests = [self._files.manifest(name, day) for name in sorted(registered, key=lambda name: name.number)]
        self.expect(sum(manifest.rows for manifest in manifests))
        run_id = uuid.uuid4().hex
        paths: list[str] = []
        for manifest in manifests:
            if {file.path for file in manifest.files} != registered[manifest.name]:
                raise TerminalError(_not_as_it_says(manifest))
            paths += self._copy_back(manifest, live, run_id)
        today = self._now.date()
        held = {other: until for other, until in ledger.held(live.properties).items() if until > today}
        held[day] = today + timedelta(days=hold_days)
        # Parts that were restored before have left the archive by now: `settle` saw to it.
        restored = ledger.restored_text(manifest.name.number for manifest in manifests)
        try:
            self.lake.append(
                USER_ACTIONS,
                paths,
                expected=ledger.found(live.properties, ledger.THROUGH, ledger.RESTORED, ledger.HELD),
                properties={ledger.RESTORED: restored, ledger.HELD: ledger.held_text(held)},
                run_id=run_id,
                summary={"lakehouse.archive.restored-date": day.isoformat()},
            )
        except FenceError:
            self._forget(USER_ACTIONS, day, paths)
            raise
        self._drop([(manifest.name, day) for manifest in manifests], wait=True)
        return manifests

    def _copy_back(self, manifest: Manifest, live: Table, run_id: str) -> list[str]:
        """Write the rows of a part into files of the live table and read them back; nothing is committed."""
        schema = self.lake.write_schema(live, USER_ACTIONS)
        if lacking := [column for column, _ in manifest.columns if column not in schema.names]:
            raise TerminalError(
                f"{self.lake.identifier(USER_ACTIONS)} has no {', '.join(lacking)}, which {manifest.part} has: "
                "bring it up to date with `lakehouse tables apply`"
            )
        if not all(map(self._files.is_unchanged, manifest.files)):
            raise TerminalError(_not_as_it_says(manifest))
        directory = f"{live.location()}/data/event_date={manifest.date.isoformat()}"
        rows = self._files.rows([file.path for file in manifest.files], manifest.columns)
        paths = self._files.write(rows, directory, schema, self._settings.ingest.rows_per_file, f"{run_id}-")
        _, content = self._files.read_back(paths, manifest.columns)
        if (content.rows, content.hexdigest()) != (manifest.rows, manifest.content_sha256):
            self._files.remove(paths)
            raise TerminalError(_not_as_it_says(manifest))
        return paths


def _hashed(batches: Iterable[pa.RecordBatch], content: ContentHash) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        content.add(batch)
        yield batch


def _shared_columns(live: pa.Schema, archive: pa.Schema) -> tuple[tuple[str, str], ...]:
    """The columns of the live table, all of which the archive must have too."""
    if lacking := [field.name for field in live if field.name not in archive.names]:
        raise TerminalError(
            f"the archive table has no {', '.join(lacking)}: bring it up to date with `lakehouse tables apply`"
        )
    if differing := [field.name for field in live if field.type != archive.field(field.name).type]:
        raise TerminalError(f"the archive table has other types for {', '.join(differing)}: nothing was archived")
    return tuple((field.name, str(field.type)) for field in live)


def _not_as_it_says(manifest: Manifest) -> str:
    return (
        f"{manifest.part} of {manifest.date} does not hold what its manifest says: nothing was restored; "
        f"`lakehouse archive verify --date {manifest.date}` says what differs"
    )
