"""Bring impressions from the ad API into PostgreSQL, by way of a backup, and rebuild the table from backups.

1. What the API returns is stored in the object store as it came, and the manifest last.
2. The manifest is read back; from then on the backup is whole.
3. The parts are read back and judged by the contract, and one transaction brings them into `ads.impressions`, sets the
   refused records aside, compares the counts, and says in `ads.loads` that this backup is in the table.
4. Impressions of dates that are archived already are merged into the archive.

An interval is cut into days, and each is a run that takes these steps by itself: of a backlog stays what was done.

A kill before 2 leaves files that nobody reads, and a load that ends well a day later removes them. A kill between 2 and
3 leaves a backup that `ads.loads` does not have: the next load, or a restore, inserts it first. The insert is by key,
and the newest version of an impression stays, so a backup can be inserted any number of times and in any order.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple

import pyarrow as pa

from lakehouse.adapters.ads_api import AdApi
from lakehouse.adapters.ads_archive import AdsArchive
from lakehouse.adapters.ads_store import AdsStore, Load, Session
from lakehouse.ads import archive
from lakehouse.ads.archive_files import ArchiveFiles, ahead
from lakehouse.ads.backup import Backups, Interval, Manifest, Part, Run, covered_until, new_run_id
from lakehouse.ads.contract import RULE_VERSION, decode_lines
from lakehouse.errors import TerminalError, TransientError
from lakehouse.settings import Settings
from lakehouse.tables import MICROS

Progress = Callable[[int, int | None], None]
"""Called with (records done, records to do, None while nobody knows)."""

FIRST_INTERVAL = timedelta(days=1)
"""What the first load of all asks for when nobody says from when on."""
DEAD_AFTER: Final = timedelta(days=1)
"""Age from which on what a killed run stored is removed; until then people can look at it."""

_COUNTS: Final = ("records", "rejected_records", "inserted_rows", "updated_rows", "superseded_records")
_KEY_AND_VERSION = ("shown_date", "impression_id", "updated_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What a load did; printed by `lakehouse ads load --output json`.

    Attributes:
        runs: one for each day of the interval, the oldest first; none when there was nothing to ask for.
        interval: that was asked for; never later than the time of the load.
        records: that the API returned; the four that follow add up to it.
        superseded_records: known in this version or a newer one, before or from another record of the run.
        recovered: earlier runs whose backup was whole and not inserted yet.
        unreadable: earlier runs whose backup is not what its manifest says; `lakehouse ads audit` tells more.
        merged_rows: rows of archived dates that went into the archive.
        removed: earlier runs that were killed before they had everything, and of which nothing is left now.
    """

    runs: tuple[str, ...]
    interval: Interval
    records: int = 0
    rejected_records: int = 0
    inserted_rows: int = 0
    updated_rows: int = 0
    superseded_records: int = 0
    backups: tuple[str, ...] = ()
    backup_bytes: int = 0
    recovered: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    merged_rows: int = 0
    removed: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreResult:
    """What a restore did; printed by `lakehouse ads restore --output json`.

    Attributes:
        runs: backups that were read.
        records: in them; the four that follow add up to it.
        unreadable: runs whose backup is not what its manifest says, so that nothing of it was brought in.
        unfinished: runs that were killed before they had everything; nothing of them was ever inserted.
    """

    runs: int
    records: int = 0
    rejected_records: int = 0
    inserted_rows: int = 0
    updated_rows: int = 0
    superseded_records: int = 0
    unreadable: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    merged_rows: int = 0
    seconds: float = 0.0


def plan(
    loaded: Iterable[Interval], now: datetime, start: datetime | None, end: datetime | None, overlap: timedelta
) -> Interval:
    """Choose the interval to ask for; empty when everything until `end` is there.

    Args:
        loaded: intervals of the loads before, without those that somebody asked for.
        now: the time; an interval never ends later, because what is not there yet would count as loaded.
        start: where somebody wants it to begin; None for where `loaded` ends.
        end: where somebody wants it to end; None for now.
        overlap: how much of what is loaded is asked for again.

    Raises:
        TerminalError: it would begin after its end.
    """
    end = min(end or now, now)
    if start is None:
        covered = covered_until(loaded)
        if covered is None:
            start = end - FIRST_INTERVAL
        elif covered >= end:
            start = end
        else:
            start = covered - overlap
    elif start > end:
        raise TerminalError(f"the interval begins at {start} and ends at {end}, which is earlier; now is {now}")
    return Interval(start, end)


def run(
    settings: Settings,
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> LoadResult:
    """Load what changed in an interval; again and beside an archiving at any time.

    Args:
        settings: of the environment.
        start: first time of change; by default the end of what was loaded without a hole, less the overlap. What is
            loaded of an interval that somebody asked for does not move that end.
        end: the time after the last one; by default now, and now where it lies in the future.
        now: the time, for tests.
        progress: see `Progress`.

    Raises:
        TransientError: the API or another server did not answer, or another load is at work; run again.
        TerminalError: the API refuses us, or the counts of backup and table differ, and nothing was inserted.
        TerminalError: `start` lies after `end`, or in the future.
    """
    started = time.monotonic()
    loader = _Loader(settings, now or datetime.now(UTC), progress)
    with AdsStore(settings).session() as session:
        _take_turn(session)
        whole, unfinished = loader.backups.runs()
        inserted = {load.run_id for load in session.loads()}
        session.commit()
        recovered, unreadable = loader.insert_all(session, [run for run in whole if run.run_id not in inserted])
        interval = loader.interval(session, start, end)
        loaded = [loader.load(session, piece, asked_for=start is not None) for piece in interval.cut()]
        merged_rows = _merge(settings, session, loader.now)
        # At the end, when what takes their place is there. A run that is inserted has lost its manifest alone.
        dead = [run for run in unfinished if run.run_id not in inserted and run.started_at < loader.now - DEAD_AFTER]
        for run in dead:
            loader.backups.remove(run)
    return LoadResult(
        **_sums([one.load for one in loaded]),
        runs=tuple(one.load.run_id for one in loaded),
        interval=interval,
        backups=tuple(one.backup for one in loaded),
        backup_bytes=sum(one.backup_bytes for one in loaded),
        recovered=tuple(load.run_id for load in recovered),
        unreadable=unreadable,
        merged_rows=merged_rows,
        removed=tuple(run.run_id for run in dead),
        seconds=round(time.monotonic() - started, 3),
    )


def restore(settings: Settings, *, now: datetime | None = None, progress: Progress | None = None) -> RestoreResult:
    """Bring every backup into the table again, by today's contract; what is archived stays in the archive alone.

    Rows that are there are set right where they differ; rows that no backup has are left, and an audit names them.
    Of records of the same version the one that came first holds when it ends. Until then a later one may, so it keeps
    archivings out; run it again when it was killed, before the next archiving puts that one away.
    A backup that is not what its manifest says keeps the others out as little as it does in a load.

    Raises:
        TransientError: a server did not answer, or a load or an archiving is at work; run again.
    """
    started = time.monotonic()
    loader = _Loader(settings, now or datetime.now(UTC), progress)
    with AdsStore(settings).session() as session:
        _take_turn(session)
        archive.take_turn(session)
        whole, unfinished = loader.backups.runs()
        loads, unreadable = loader.insert_all(session, whole, repair=True)
        merged_rows = _merge(settings, session, loader.now)
    return RestoreResult(
        **_sums(loads),
        runs=len(loads),
        unreadable=unreadable,
        unfinished=tuple(run.run_id for run in unfinished),
        merged_rows=merged_rows,
        seconds=round(time.monotonic() - started, 3),
    )


def _sums(loads: Sequence[Load]) -> dict[str, int]:
    """Add up what loads counted, under the names that the results have."""
    return {name: sum(getattr(load, name) for load in loads) for name in _COUNTS}


def _take_turn(session: Session) -> None:
    if not session.take_turn("load"):
        raise TransientError("another load or restore of the ad data is at work: wait for it, then run again")


def _merge(settings: Settings, session: Session, now: datetime) -> int:
    """Merge what came for archived dates into the archive; left to an archiving that is at work."""
    before = AdsArchive(settings).boundary()
    late = session.live_rows(before)
    session.commit()
    return archive.merge_late(settings, session, now) if late else 0


class _Loaded(NamedTuple):
    """A run that is in the table, and the folder and the size of its backup."""

    load: Load
    backup: str
    backup_bytes: int


class _Loader:
    """Takes the steps of a load.

    Attributes:
        now: start of the run, UTC.
    """

    def __init__(self, settings: Settings, now: datetime, progress: Progress | None) -> None:
        self._settings, self.now, self._progress = settings, now, progress
        self.backups = Backups(settings)
        self._archive: AdsArchive | None = None
        self._done = 0
        self._most: int | None = None

    def expect(self, records: int) -> None:
        """Say how many more records there are to insert."""
        self._most = self._done + records

    def _count(self, records: int) -> None:
        self._done += records
        if self._progress:
            self._progress(self._done, self._most)

    def interval(self, session: Session, start: datetime | None, end: datetime | None) -> Interval:
        """The interval to ask for, by what is loaded of the account; see `plan`."""
        own = [load for load in session.loads() if load.account == self._settings.ads.account and not load.asked_for]
        session.commit()
        loaded = [Interval(load.interval_start, load.interval_end) for load in own]
        return plan(loaded, self.now, start, end, timedelta(minutes=self._settings.ads.overlap_minutes))

    def insert_all(
        self, session: Session, runs: Sequence[Run], *, repair: bool = False
    ) -> tuple[list[Load], tuple[str, ...]]:
        """Insert whole backups; returns what was loaded, and the runs whose backup can't be read."""
        loads: list[Load] = []
        unreadable: list[str] = []

        @contextmanager
        def left_out_if_broken(run: Run) -> Generator[None]:
            try:
                yield
            except TerminalError:  # the others must come in all the same, and an audit says what is wrong with it
                session.rollback()
                unreadable.append(run.run_id)

        manifests: list[tuple[Run, Manifest]] = []
        for run in runs:
            with left_out_if_broken(run):
                manifests.append((run, self.backups.manifest(run)))
        # Of records of the same version a load keeps the first it met, and a repair the last: so it goes backwards.
        manifests.sort(key=lambda one: one[1].stored_at, reverse=repair)
        self.expect(sum(manifest.records for _, manifest in manifests))
        for run, manifest in manifests:
            with left_out_if_broken(run):
                loads.append(self.insert(session, run, manifest, repair=repair))
        return loads, tuple(unreadable)

    def load(self, session: Session, interval: Interval, *, asked_for: bool) -> _Loaded:
        """Store what the API returns of an interval, and then insert it."""
        run = Run(new_run_id(datetime.now(UTC)), interval.start.astimezone(UTC).date())
        manifest = self.store(run, interval, asked_for=asked_for)
        self.expect(manifest.records)
        load = self.insert(session, run, manifest)
        return _Loaded(load, self.backups.path(run), manifest.size_bytes)

    def store(self, run: Run, interval: Interval, *, asked_for: bool) -> Manifest:
        """Store what the API returns of an interval; the backup is whole when this returns."""
        with AdApi(self._settings.ads) as api:
            parts = self.backups.write(run, api.pages(interval.start, interval.end))
        manifest = Manifest(
            run_id=run.run_id,
            account=self._settings.ads.account,
            interval=interval,
            asked_for=asked_for,
            stored_at=datetime.now(UTC),
            parts=parts,
        )
        self.backups.save(run, manifest)
        return manifest

    def insert(self, session: Session, run: Run, manifest: Manifest, *, repair: bool = False) -> Load:
        """Bring a whole backup into the table, in one transaction; any number of times.

        Raises:
            TerminalError: a part is not what the manifest says, or the counts of backup and table differ.
        """
        arrived_at = datetime.now(UTC)
        rejected = inserted = updated = superseded = 0
        known: set[date] = set()
        session.begin_load(run.run_id)
        for part, good, bad in ahead(self._judged(run, manifest, last_first=repair)):
            session.stage(good.append_column("arrived_at", _repeated(arrived_at, good.num_rows)))
            session.reject(bad, run.run_id)
            superseded += self._drop_archived(session, good, known)
            merged = session.merge_staged(repair=repair)
            rejected += bad.num_rows
            inserted += merged.inserted_rows
            updated += merged.updated_rows
            superseded += merged.superseded_records
            self._count(part.records)
        counted = rejected + inserted + updated + superseded
        if counted != manifest.records:
            raise TerminalError(
                f"{run.run_id}: the backup has {manifest.records} records and {counted} came to the table: "
                "nothing was inserted"
            )
        load = Load(
            run_id=run.run_id,
            account=manifest.account,
            interval_start=manifest.interval.start,
            interval_end=manifest.interval.end,
            asked_for=manifest.asked_for,
            stored_at=manifest.stored_at,
            inserted_at=arrived_at,
            rule_version=RULE_VERSION,
            records=manifest.records,
            rejected_records=rejected,
            inserted_rows=inserted,
            updated_rows=updated,
            superseded_records=superseded,
        )
        session.end_load(load)
        session.commit()
        return load

    def _judged(self, run: Run, manifest: Manifest, *, last_first: bool) -> Iterator[tuple[Part, pa.Table, pa.Table]]:
        """Read and judge each part of a backup: its impressions, and what is refused of it."""
        parts = list(enumerate(manifest.parts, start=1))
        for number, part in reversed(parts) if last_first else parts:
            yield part, *decode_lines(self.backups.lines(run, part), number)

    def _drop_archived(self, session: Session, good: pa.Table, known: set[date]) -> int:
        """Let go of what the archive has already, such as when an old interval is loaded again.

        Args:
            session: has the records.
            good: the records.
            known: dates whose archive the session knows already.
        """
        self._archive = self._archive or AdsArchive(self._settings)
        table = self._archive.load_archive()
        boundary = self._archive.boundary(table)
        dates = {day for day in good["shown_date"].unique().to_pylist() if day < boundary}
        if not dates:
            return 0
        paths = [file.path for day in sorted(dates - known) for file in self._archive.held(table, day)]
        session.know_archived(ArchiveFiles(self._settings).read(paths, _KEY_AND_VERSION))
        known |= dates
        return session.drop_archived()


def _repeated(moment: datetime, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(moment, MICROS), rows)
