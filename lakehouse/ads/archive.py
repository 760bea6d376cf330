"""Move old impressions from PostgreSQL to Parquet files that an Iceberg table registers, and prove that they arrived.

One date at a time, the oldest first; what is archived of a date in one go is a *batch*:

1. A row of `ads.archive_batches` says that the batch is being written.
2. The live rows of the date stream into Parquet files, by id.
3. The files are read back. Their count and their hash must be those of what was written, and what was read back goes to
   PostgreSQL as a temporary table.
4. While nobody may write to the live table, PostgreSQL compares it with what was read back, row by row and column by
   column, and one commit to `ads.impressions_archive` registers the files and moves the boundary past the date.
5. Queries that had begun before that commit are waited for, because they look for the date's rows in PostgreSQL.
6. One transaction deletes the rows by their keys and marks the batch archived.

The boundary is in the archive table's own metadata (`adapters/ads_archive.py`), so step 4 is the one moment in which
the rows change sides, for every reader at once.

Rows that come for a date before the boundary, new ones or newer versions, are *late*: a batch that is a merge writes
the date anew, the newest version of each impression, takes the place of its files in one commit, and then deletes the
late rows. A load does that at its end, and every archiving does.

A kill before 4 leaves files that nobody names: the next run removes them. A kill after it leaves rows that no query
counts: the next run deletes them.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from lakehouse.adapters import trino
from lakehouse.adapters.ads_archive import AdsArchive
from lakehouse.adapters.ads_store import OPEN_STATES, AdsStore, BatchState, Session
from lakehouse.adapters.archive import FilesChangedError, HeldFile, Table
from lakehouse.ads.archive_files import ArchiveFiles, ContentDigest
from lakehouse.ads.backup import new_run_id
from lakehouse.errors import FenceError, LakehouseError, TerminalError, TransientError, shorten
from lakehouse.settings import Settings
from lakehouse.tables import IMPRESSIONS_ARCHIVE

Progress = Callable[[int, int], None]
"""Called with (rows done, rows to do); each row is written once and read back once."""

DAYS: Final = 30
"""Age in days from which on impressions are old, unless somebody says otherwise."""
READERS_SECONDS: Final = 60.0
"""How long queries that began earlier are waited for; what they may still look for is left to the next run."""

_ATTEMPTS: Final = 3
_PASSES: Final = 5
_POLL_SECONDS: Final = 0.2
_RUNNING: Final = "SELECT query_id FROM system.runtime.queries WHERE state NOT IN ('FINISHED', 'FAILED')"


@dataclass(frozen=True, slots=True)
class Due:
    """A date whose live rows are to be archived.

    Attributes:
        is_merge: the date is in the archive already, or was passed by the boundary, so its live rows are late.
    """

    date: date
    rows: int
    is_merge: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """A batch that this run ended, or left to the next one.

    Attributes:
        rows: in the archive's files of the date.
        removed_rows: of the live table; None while queries that began earlier may look for them there.
    """

    batch_id: int
    date: date
    is_merge: bool
    rows: int
    removed_rows: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveResult:
    """What a run did, or would do; printed by `lakehouse ads archive --output json`.

    Attributes:
        boundary: impressions of dates before it count in the archive.
        archived: batches that ended, those of an earlier run that this one ended among them.
        abandoned: batches of an earlier run of which nothing was registered.
        due: what a dry run found; empty otherwise.
    """

    boundary: date
    archived: tuple[Archived, ...] = ()
    abandoned: tuple[int, ...] = ()
    due: tuple[Due, ...] = ()
    dry_run: bool = False
    seconds: float = 0.0


def plan(live: Mapping[date, int], boundary: date, kept_from: date) -> tuple[Due, ...]:
    """Choose the dates to archive, the oldest first: what is old, and what is late.

    Args:
        live: rows of each date in the live table.
        boundary: of the archive.
        kept_from: the first date that stays.
    """
    return tuple(
        Due(day, rows, day < boundary) for day, rows in sorted(live.items()) if rows and day < max(boundary, kept_from)
    )


def run(
    settings: Settings,
    *,
    days: int = DAYS,
    before: date | None = None,
    dry_run: bool = False,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> ArchiveResult:
    """Archive what is older than so many days, and end what an earlier run began; at any time, any number of times.

    Args:
        settings: of the environment.
        days: age from which on impressions are old.
        before: archive dates before this one instead; today stays all the same.
        dry_run: only say what is due.
        now: the time, for tests.
        progress: see `Progress`.

    Raises:
        TransientError: a server did not answer, or another archiving is at work.
        CommitStateUnknownError: run again; the table tells whether the commit landed.
        TerminalError: somebody deleted archived rows of dates that got more; every other date is done.
        LakehouseError: what was read back differs from what was written; nothing was deleted.
    """
    now = now or datetime.now(UTC)
    today = now.astimezone(UTC).date()
    kept_from = min(before, today) if before else today - timedelta(days=max(days, 0))
    with AdsStore(settings).session() as session:
        return _run(settings, session, kept_from, now, dry_run=dry_run, progress=progress)


def merge_late(settings: Settings, session: Session, now: datetime) -> int:
    """Merge what came for archived dates into the archive; returns how many live rows that were.

    An archiving that is at work is left to do it, and so are dates whose rows wait for queries: a load waits for none.
    What came for a date of which somebody deleted archived rows stays: the next archiving and an audit name it.
    """
    try:
        result = _run(settings, session, date.min, now, late_only=True)
    except AtWorkError:
        return 0
    return sum(batch.removed_rows or 0 for batch in result.archived if batch.is_merge)


class AtWorkError(TransientError):
    """Another archiving of the same environment is at work, or what keeps archivings out."""


def take_turn(session: Session) -> None:
    """Keep every other archiving out until the session ends.

    Raises:
        AtWorkError: another one is at work.
    """
    if not session.take_turn("archive"):
        raise AtWorkError(
            "another archiving of the ad data, or a restore or an audit, is at work: wait for it, then run again"
        )


def _run(
    settings: Settings,
    session: Session,
    kept_from: date,
    now: datetime,
    *,
    dry_run: bool = False,
    late_only: bool = False,
    progress: Progress | None = None,
) -> ArchiveResult:
    started = time.monotonic()
    archiver = _Archiver(settings, session, now, progress)
    due: tuple[Due, ...] = ()
    if dry_run:
        due = archiver.due(kept_from)
    else:
        take_turn(session)
        archiver.settle(late_only=late_only)
        archiver.archive_all(kept_from)
    if archiver.refused and not late_only:
        raise TerminalError(
            f"somebody deleted rows of {_named(archiver.refused)} from "
            f"{archiver.lake.identifier(IMPRESSIONS_ARCHIVE)}, and merging what came late would bring them back: "
            "`lakehouse ads audit` names the files, and docs/operations.md what to do; every other date is done"
        )
    return ArchiveResult(
        boundary=archiver.lake.boundary(),
        archived=tuple(archiver.archived),
        abandoned=tuple(archiver.abandoned),
        due=due,
        dry_run=dry_run,
        seconds=round(time.monotonic() - started, 3),
    )


class _Archiver:
    """Takes one step after another, on both sides.

    Attributes:
        archived: batches that ended so far, or wait for readers.
        abandoned: numbers of those that were given up.
        refused: dates of which somebody deleted archived rows, which a merge would bring back.
    """

    def __init__(self, settings: Settings, session: Session, now: datetime, progress: Progress | None) -> None:
        self._settings, self._session, self._progress = settings, session, progress
        self.lake = AdsArchive(settings)
        self._files = ArchiveFiles(settings, self._count)
        self._done = self._most = 0
        self._run_id = new_run_id(now)
        self._waiting: set[date] = set()
        self.archived: list[Archived] = []
        self.abandoned: list[int] = []
        self.refused: set[date] = set()

    def _count(self, rows: int) -> None:
        self._done += rows
        if self._progress:
            self._progress(self._done, max(self._done, self._most))

    def due(self, kept_from: date) -> tuple[Due, ...]:
        """What there is to archive now."""
        boundary = self.lake.boundary()
        live = self._session.live_rows(max(boundary, kept_from))
        self._session.commit()
        return plan(live, boundary, kept_from)

    def settle(self, *, late_only: bool) -> None:
        """End what an earlier run began: go on with what is registered, and give up the rest.

        Args:
            late_only: leave the dates alone whose rows may have to wait for queries.
        """
        left = self._session.batches(OPEN_STATES)
        self._session.commit()
        if not left:
            return
        table = self.lake.take_over(self.lake.load_archive())
        for batch in left:
            registered = {file.path for file in self.lake.held(table, batch.shown_date)}
            if not batch.paths or not registered.issuperset(batch.paths):
                self._give_up(batch.batch_id, batch.shown_date, batch.run_id, batch.state)
                continue
            if batch.state == "written":
                self._session.set_batch(batch.batch_id, "registered", "written")
                self._session.commit()
            if late_only and not batch.is_merge:
                self._waiting.add(batch.shown_date)
                continue
            self._let_go(
                batch.batch_id, batch.shown_date, is_merge=batch.is_merge, rows=batch.rows or 0, unread=batch.paths
            )

    def archive_all(self, kept_from: date) -> None:
        """Archive every date that is due, until none is; what comes meanwhile for one of them follows.

        Raises:
            TransientError: so much came meanwhile that dates are still due.
        """
        for _ in range(_PASSES):
            due = self._left(kept_from)
            if not due:
                return
            self._most = self._done + 2 * sum(one.rows for one in due)
            for one in due:
                if not self.archive(one.date):
                    break
        if due := self._left(kept_from):
            raise TransientError(
                f"impressions came while others were archived, {_PASSES} times in a row, and those of "
                f"{_named(one.date for one in due)} are still due: run again"
            )

    def _left(self, kept_from: date) -> list[Due]:
        """What there is to archive now and can be."""
        return [one for one in self.due(kept_from) if one.date not in self._waiting | self.refused]

    def archive(self, day: date) -> bool:
        """Archive what the live table has of a date, as one batch; refuse a date of which archived rows were deleted.

        Returns:
            False when rows came for an earlier date, which must be archived first: the boundary passes both.

        Raises:
            FenceError: another archiving has committed meanwhile.
            TransientError: the date was written to meanwhile, each time.
        """
        for _ in range(_ATTEMPTS):
            table = self.lake.load_archive()
            boundary = self.lake.boundary(table)
            is_merge = day < boundary
            held = self.lake.held(table, day) if is_merge else []
            if any(file.has_deletes for file in held):
                self.refused.add(day)
                return True
            begun_at = datetime.now(UTC)  # of the batch, not of the run: a merge's rows arrive at this time
            number = self._session.begin_batch(self._run_id, day, is_merge=is_merge, now=begun_at)
            written = self._write(table, day, number, held, merged_at=begun_at if is_merge else None)
            if written is None:
                self._give_up(number, day, self._run_id, "writing")
                return True
            paths, rows = written
            if self._register(table, day, number, paths, is_merge=is_merge):
                self._let_go(number, day, is_merge=is_merge, rows=rows)
                return True
            self._give_up(number, day, self._run_id, "written")
            earlier = self._session.live_rows(day)
            self._session.commit()
            if any(boundary <= other for other in earlier):
                return False
        raise TransientError(
            f"{day} of the impressions was written to while it was archived, {_ATTEMPTS} times in a row: nothing left "
            "the live table; run again when the loads have ended"
        )

    def _write(
        self, table: Table, day: date, number: int, held: Sequence[HeldFile], *, merged_at: datetime | None
    ) -> tuple[list[str], int] | None:
        """Write the files of a batch and read them back; None when there are no rows.

        A batch that has a time is a merge with the files that are held.
        """
        if merged_at:
            self._session.bring_back(self._files.read(file.path for file in held))
        schema = self.lake.write_schema(table, IMPRESSIONS_ARCHIVE)
        name = f"{self.lake.directory(day)}/{_file_name(number, self._run_id)}"
        rows = self._session.rows_of(day, merged_at=merged_at)
        paths, written = self._files.write(rows, lambda nth: f"{name}-{nth:04}.parquet", schema)
        if not written.rows:
            return None
        read_back = ContentDigest()
        self._session.take_back(self._files.read(paths, digest=read_back))
        if (written.rows, written.hexdigest()) != (read_back.rows, read_back.hexdigest()):
            raise LakehouseError(
                f"{written.rows} rows of {day} were archived to {paths[0]} and {read_back.rows} rows with "
                f"{'the same' if written.hexdigest() == read_back.hexdigest() else 'another'} content were read back: "
                "nothing left the live table; look after the object store, then run again"
            )
        self._session.set_batch(
            number, "written", "writing", rows=written.rows, content_sha256=written.hexdigest(), paths=paths
        )
        self._session.commit()
        return paths, written.rows

    def _register(self, table: Table, day: date, number: int, paths: list[str], *, is_merge: bool) -> bool:
        """Register the files of a batch; False when the date was written to since they were."""
        if not is_merge:
            # Until this is committed nobody may add a row that would be on the wrong side of the boundary.
            self._session.hold_writers()
            if not self._session.is_unchanged(day, self.lake.boundary(table)):
                self._session.rollback()
                return False
        try:
            self.lake.register(table, day, paths, summary={"lakehouse.ads.batch": str(number)})
        except FilesChangedError:
            self._session.rollback()
            return False
        except FenceError:
            self._session.rollback()
            self._give_up(number, day, self._run_id, "written")
            raise
        self._session.set_batch(number, "registered", "written")
        self._session.commit()
        return True

    def _let_go(self, number: int, day: date, *, is_merge: bool, rows: int, unread: Sequence[str] = ()) -> None:
        """Delete the live rows of a registered batch, unless a query may still look for them.

        Late rows are counted by no query, so nobody is waited for.

        Args:
            number: of the batch.
            day: its date.
            is_merge: its rows are late.
            rows: in its files.
            unread: its files, when the session does not have their rows.
        """
        removed: int | None = None
        if is_merge or self._readers_are_gone():
            if unread:
                self._session.take_back(self._files.read(unread))
            removed = self._session.remove_archived(day)
            self._session.set_batch(number, "archived", "registered", removed_rows=removed, ended_at=datetime.now(UTC))
            self._session.commit()
        else:
            self._waiting.add(day)
        self.archived.append(Archived(batch_id=number, date=day, is_merge=is_merge, rows=rows, removed_rows=removed))

    def _readers_are_gone(self) -> bool:
        """Wait for the queries that run now: they may have planned with the boundary as it was before."""
        if self._waiting:
            return False  # the same queries would be waited for again
        running = self._queries()
        deadline = time.monotonic() + READERS_SECONDS
        while running & self._queries():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _queries(self) -> set[str]:
        return {str(query_id) for (query_id,) in trino.query(self._settings.trino_as("admin"), _RUNNING)}

    def _give_up(self, number: int, day: date, run_id: str, state: BatchState) -> None:
        """Remove the files of a batch that is surely not registered and can't be any more."""
        self._session.rollback()
        self._files.remove(self.lake.directory(day), _file_name(number, run_id))
        self._session.set_batch(number, "abandoned", state, ended_at=datetime.now(UTC))
        self._session.commit()
        self.abandoned.append(number)


def _named(days: Iterable[date]) -> str:
    return shorten(", ".join(str(day) for day in sorted(days)))


def _file_name(number: int, run_id: str) -> str:
    """What the names of a batch's files begin with."""
    return f"batch={number:06}-{run_id}"
