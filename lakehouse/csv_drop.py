"""Bring dropped CSV files into the tables of the user actions, each version of a file once.

The road of one commit (`_Run.commit`), which brings some files:

1. The number of the newest commit is read from the events table. What that commit left to be done is done first.
2. Spark tasks read a file each, by its ETag, judge the records, and write events and refused records as Parquet files.
   A file that the object store does not give is left, and told when the others are done.
3. The refused records are committed to quarantine, with the number.
4. The events are committed together with the number and with what is known of each file. The same commit takes out of
   the table what earlier versions of these files brought.
5. Quarantine takes no more records of that number. It is told of which dates it loses some, the refused records of
   earlier versions are deleted from it, and the files are written down in `ops.csv_files`. This is what a later run
   does first when this one is killed.

A kill before 3 leaves files that no table names. A kill between 3 and 4 leaves records in quarantine whose version
carries a number that no commit has: the next attempt at that number does not bring those lines again. What an attempt
left that is not what was published, because it was killed or another run was quicker, is deleted in step 5. After 4 the
events are right, and 5 can be repeated.

The commits are numbered one after the other, and each is fenced by that number, by the rules, by the count of replays
and by what the archive has taken. An ingest from Kafka moves none of these, so both may commit side by side.
"""

import hashlib
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Row, SparkSession

from lakehouse import csv_files, ledger
from lakehouse.adapters import s3, spark, trino
from lakehouse.adapters.archive import FilesChangedError
from lakehouse.adapters.csv_lake import CsvLake, Touched
from lakehouse.adapters.objects import Objects
from lakehouse.archive_parts import PartName, SourceFile
from lakehouse.csv_files import Commit, Dropped, Loaded, State
from lakehouse.csv_task import REPORT_DDL, CsvFile, CsvTask, Facts
from lakehouse.errors import FenceError, LakehouseError, TerminalError, TransientError
from lakehouse.events import RULE_VERSION
from lakehouse.ingest_task import Target, Writer
from lakehouse.settings import Settings
from lakehouse.tables import CSV_FILES, USER_ACTIONS, USER_ACTIONS_ARCHIVE, USER_ACTIONS_QUARANTINE, TableSpec
from lakehouse.transforms import FileVersion

APPLICATION = "event-transformation"
"""Spark's name of the job."""

Progress = Callable[[int, int], None]
"""Called with (files done, files to do)."""

_ATTEMPTS = 4
_MOST_NAMED = 10
_FIRST_WAIT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class FileResult:
    """What a run made of one file.

    Attributes:
        replaced_version: the version whose rows it took the place of; None for a new file.
        withdrawn_rows: events of that version.
    """

    file: str
    file_version: str
    status: csv_files.Status
    records: int
    published_rows: int
    quarantined_rows: int
    replaced_version: str | None
    withdrawn_rows: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Files of a date that a run did not look at, and that perhaps no other looks at by itself.

    Attributes:
        files: how many are new or corrected.
        command: what brings them.
    """

    drop_date: date
    files: int
    command: str


@dataclass(frozen=True, slots=True)
class CsvResult:
    """What a run did; printed by `lakehouse csv run --output json`.

    Attributes:
        unchanged_files: files that the tables had already as they are.
        withdrawn_rows: events of earlier versions that were taken out.
        waiting: what was dropped for other dates and is not in the tables.
    """

    files: tuple[FileResult, ...] = ()
    unchanged_files: int = 0
    published_rows: int = 0
    quarantined_rows: int = 0
    quarantined_by_reason: dict[str, int] = field(default_factory=dict[str, int])
    withdrawn_rows: int = 0
    commits: int = 0
    waiting: tuple[Waiting, ...] = ()
    seconds: float = 0.0


class FilesLeftError(LakehouseError):
    """A run left some files, and brought every other one.

    Attributes:
        result: what the run did.
    """

    def __init__(self, told: str, result: CsvResult) -> None:
        super().__init__(told)
        self.result = result


class FilesRefusedError(FilesLeftError, TerminalError):
    """A person has to act for some of the files that were left."""


class FilesUnservedError(FilesLeftError, TransientError):
    """The object store fails on the files that were left."""


@dataclass(frozen=True, slots=True)
class FileState:
    """How a file stands; `loaded` is None while it waits for the first time.

    Attributes:
        state: `loaded` or `refused`, as the newest commit left it; `waiting` or `changed`: the next run takes it;
            `gone`: it is no longer in the bucket, and its events stay.
    """

    file: str
    drop_date: date
    state: State
    size_bytes: int
    modified_at: datetime
    loaded: Loaded | None


def run(
    settings: Settings,
    day: date,
    *,
    days_back: int | None = None,
    progress: Progress | None = None,
) -> CsvResult:
    """Bring the files of a date, and of some days before it, into the tables; a second call changes nothing.

    A file that has another content than the tables have of it takes the place of what it brought before.

    Args:
        settings: of the environment.
        day: the date of the folder.
        days_back: how many days before it are looked at too; None for what the settings say.
        progress: called now and then.

    Raises:
        TransientError: a server did not answer, a file changes again and again while it is read, or other runs, replays
            or archivings were quicker, several times in a row.
        CommitStateUnknownError: run again; the tables tell whether the commit landed.
        TerminalError: the days back are less than none.
        FilesRefusedError: some events of a corrected file are in the archive, or a file is not for us; the others are
            done.
        FilesUnservedError: the object store fails on some files; the others are done.
    """
    started = time.monotonic()
    back = settings.csv.days_back if days_back is None else days_back
    if back < 0:
        raise TerminalError(f"{back} days back would look at no folder: give 0 or more with --days-back")
    days = [day - timedelta(days=age) for age in range(back, -1, -1)]
    changed = list[str]()
    with _Run(settings) as work:
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_FIRST_WAIT_SECONDS * 2**attempt)
            try:
                work.settle()
                changed = work.bring(days, progress)
            except FenceError as error:  # somebody else was quicker: what is left to do is looked up anew
                if attempt + 1 == _ATTEMPTS:
                    raise TransientError(f"{_ATTEMPTS} times in a row: {error}") from error
                continue
            if not changed:
                break
        else:
            raise TransientError(
                f"{', '.join(changed)} changes while it is read: nothing of it was taken; run again when it is at rest"
            )
        waiting = work.elsewhere(days)
        result = replace(work.result, waiting=waiting, seconds=round(time.monotonic() - started, 3))
        work.refuse_left(result)
    return result


def states(settings: Settings, day: date | None = None) -> list[FileState]:
    """List the files of a date, or all, with how they stand.

    Raises:
        TransientError: a server did not answer.
        TerminalError: the tables do not exist.
    """
    lake = CsvLake(settings)
    known = lake.newest(lake.load(USER_ACTIONS), [day] if day else [])
    found = {one.file: one for one in dropped(settings, [day] if day else None)}
    rows: list[FileState] = []
    for file in found.keys() | known.keys():
        here, loaded = found.get(file), known.get(file)
        state = csv_files.state(here, loaded, RULE_VERSION)
        one = here or loaded
        assert one is not None
        rows.append(FileState(file, one.drop_date, state, one.size_bytes, one.modified_at, loaded))
    return sorted(rows, key=lambda row: (row.drop_date, row.file))


def drop(settings: Settings, path: Path, day: date, name: str | None = None) -> Dropped:
    """Put a file into the folder of a date, in the place of one of that name.

    Raises:
        TerminalError: there is no such file here, its name does not end in `.csv`, or it is above 5 GiB.
        TransientError: the object store did not answer.
    """
    called = name or path.name
    key = csv_files.folder(settings.prefix, day) + called
    if csv_files.date_of(settings.prefix, key) != day:
        raise TerminalError(f"{called} is no name of a CSV file: it ends in `.csv` and has no `/`; see --name")
    if not path.is_file():
        raise TerminalError(f"there is no file {path}")
    put = Objects(settings.s3).put(settings.s3.user_events_bucket, key, path, _sha256(path))
    location = f"s3://{put.version.bucket}/{put.version.key}"
    return Dropped(location, day, put.version.etag or "", put.size_bytes, put.modified_at)


def dropped(settings: Settings, days: Iterable[date] | None) -> list[Dropped]:
    """List the files of these dates that are in the bucket; None for all dates."""
    return list(_dropped(settings, days))


def _dropped(settings: Settings, days: Iterable[date] | None) -> Iterator[Dropped]:
    bucket, objects = settings.s3.user_events_bucket, Objects(settings.s3)
    every = [f"{settings.prefix}year="]
    folders = every if days is None else [csv_files.folder(settings.prefix, day) for day in days]
    for within in folders:
        for one in objects.under(bucket, within):
            key = one.version.key
            day = csv_files.date_of(settings.prefix, key)
            if day is not None and one.version.etag:
                yield Dropped(f"s3://{bucket}/{key}", day, one.version.etag, one.size_bytes, one.modified_at)


class _Run:
    """Makes one commit after another; connects and opens a Spark session when it needs them first.

    Attributes:
        result: what it did so far.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open = ExitStack()
        self._session: SparkSession | None = None
        self._held_back: dict[str, list[date]] = {}
        self._unread: dict[str, Facts] = {}
        self.result = CsvResult()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @cached_property
    def _lake(self) -> CsvLake:
        return CsvLake(self._settings)

    def _spark(self) -> SparkSession:
        if self._session is None:
            self._session = self._open.enter_context(spark.session(self._settings, APPLICATION))
        return self._session

    def bring(self, days: Sequence[date], progress: Progress | None) -> list[str]:
        """Bring what waits of these dates; returns the files that changed while they were read."""
        self._held_back, self._unread = {}, {}  # this attempt finds out anew
        found = dropped(self._settings, days)
        pending = csv_files.plan(found, self._lake.newest(self._lake.load(USER_ACTIONS), days), RULE_VERSION)
        done, changed = 0, list[str]()
        # A second attempt finds what the first one brought.
        ours = {one.file for one in (*pending, *self.result.files)}
        self.result = replace(self.result, unchanged_files=sum(one.file not in ours for one in found))
        limits = self._settings.csv
        for batch in csv_files.batches(pending, files=limits.files_per_commit, size_bytes=limits.bytes_per_commit):
            before = done

            def told(share: float, at: int = before, files: int = len(batch)) -> None:
                if progress:
                    progress(at + int(share * files), len(pending))

            changed += self.commit(batch, told)
            done += len(batch)
            told(0.0, done)
        return changed

    def elsewhere(self, days: Sequence[date]) -> tuple[Waiting, ...]:
        """Find what waits of all dates but these."""
        known = self._lake.known(self._lake.load(USER_ACTIONS))
        waiting = csv_files.elsewhere(_dropped(self._settings, None), known, days, RULE_VERSION)
        return tuple(
            Waiting(day, files, f"lakehouse csv run --date {day} --days-back 0") for day, files in waiting.items()
        )

    def refuse_left(self, result: CsvResult) -> None:
        """Say which files were left, because the archive has events of them or the object store does not give them.

        Raises:
            FilesRefusedError: there are some.
            FilesUnservedError: there are none but those that the object store fails on.
        """
        told: list[str] = []
        if self._held_back:
            days = sorted({day for dates in self._held_back.values() for day in dates})
            orders = ", ".join(f"`lakehouse archive restore --date {day}`" for day in days)
            told.append(
                f"{', '.join(sorted(self._held_back))} was corrected, and events of its earlier version are in the "
                f"archive: bring them back with {orders}"
            )
        if self._unread:
            names = sorted(self._unread, key=lambda name: (self._unread[name].trouble, name))  # the denied ones first
            more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
            told.append(
                f"{', '.join(names[:_MOST_NAMED])}{more} can't be read ({self._unread[names[0]].told}): have the "
                "object store give what it has, or drop it anew"
            )
        if told:
            is_passing = not self._held_back and all(one.trouble == "unserved" for one in self._unread.values())
            kind = FilesUnservedError if is_passing else FilesRefusedError
            raise kind(f"{'; '.join(told)}, then run again; every other file is done", result)

    def settle(self, properties: ledger.Properties | None = None) -> None:
        """Do what a commit left to be done; what is done already is left alone.

        Args:
            properties: of the events table, as they tell of the commit; None for the newest one.
        """
        properties = self._lake.load(USER_ACTIONS).properties if properties is None else properties
        files = self._lake.load(CSV_FILES)
        number = ledger.csv_commits(properties)
        if ledger.csv_recorded(files.properties) >= number:
            return
        last = Commit.from_text(properties[ledger.CSV_LAST])
        self._clear_quarantine(last)
        run_id = uuid.uuid4().hex
        recorded_at = datetime.now(UTC)
        paths = self._lake.write_rows(files, CSV_FILES, [one.to_row(recorded_at) for one in last.files], run_id)
        try:
            self._lake.append(
                CSV_FILES,
                paths,
                expected=ledger.found(files.properties, ledger.CSV_RECORDED),
                properties={ledger.CSV_RECORDED: str(number)},
                run_id=run_id,
                summary={"lakehouse.csv.commit": str(number)},
            )
        except FenceError:
            if ledger.csv_recorded(self._lake.load(CSV_FILES).properties) < number:
                raise

    def _clear_quarantine(self, last: Commit) -> None:
        """Delete from quarantine what a commit supersedes, when no slower attempt at it can bring more.

        The builds are told the dates with the time of now, however long ago the commit was: what they cut by has moved.
        """
        for _ in range(_ATTEMPTS):
            quarantine = self._lake.load(USER_ACTIONS_QUARANTINE)
            if ledger.csv_reached(quarantine.properties) > last.number:
                return  # another run did this, and went on
            superseded = self._lake.superseded(quarantine, last)
            told = ledger.withdrawn(quarantine.properties, ledger.WITHDRAWN_INGESTED)
            dates = {day for of_version in superseded.values() for day in of_version}
            run_id = uuid.uuid4().hex
            try:
                self._lake.append(
                    USER_ACTIONS_QUARANTINE,
                    [],
                    # Whoever brings records moves it, so what was found above is all that there will be.
                    expected=ledger.found(quarantine.properties, ledger.CSV_REACHED),
                    properties={
                        ledger.CSV_REACHED: f"{last.number} {run_id}",
                        ledger.WITHDRAWN_INGESTED: ledger.withdrawn_text(told, dates, datetime.now(UTC)),
                    },
                    run_id=run_id,
                    summary={"lakehouse.csv.commit": str(last.number)},
                )
            except FenceError:
                continue
            self._delete_from_quarantine(list(superseded))
            return
        raise TransientError(
            f"{self._lake.identifier(USER_ACTIONS_QUARANTINE)} got records of files from other runs {_ATTEMPTS} times "
            "in a row: run again"
        )

    def _delete_from_quarantine(self, versions: Sequence[tuple[str, str]]) -> None:
        table = f'"{self._settings.catalog.name}"."{self._settings.prefix}{USER_ACTIONS_QUARANTINE.namespace}"'
        for start in range(0, len(versions), 50):
            chosen = versions[start : start + 50]
            condition = " OR ".join(["file = ? AND file_version = ?"] * len(chosen))
            values = [value for pair in chosen for value in pair]
            sql = f'DELETE FROM {table}."{USER_ACTIONS_QUARANTINE.name}" WHERE {condition}'  # noqa: S608
            for attempt in range(_ATTEMPTS):  # an ingest may commit meanwhile, and then Trino tries no further
                try:
                    trino.query(self._settings.trino_as("ingest"), sql, values)
                    break
                except TransientError:
                    if attempt + 1 == _ATTEMPTS:
                        raise
                    time.sleep(_FIRST_WAIT_SECONDS * 2**attempt)

    def commit(self, batch: Sequence[Dropped], progress: Callable[[float], None]) -> list[str]:
        """Bring these files by one commit; returns those that changed while they were read."""
        lake, run_id, now = self._lake, uuid.uuid4().hex, datetime.now(UTC)
        quarantine = lake.load_to_write(USER_ACTIONS_QUARANTINE, RULE_VERSION)
        events = lake.load_to_write(USER_ACTIONS, RULE_VERSION)
        self.settle(events.properties)  # else this commit would overwrite what is known of the last one
        number = ledger.csv_commits(events.properties) + 1
        known = lake.newest(events, sorted({one.drop_date for one in batch}))
        batch = [one for one in csv_files.plan(batch, known, RULE_VERSION) if not self._is_archived(one, known, events)]
        if not batch:
            return []
        held = lake.quarantined_lines(quarantine, number) if ledger.csv_reached(quarantine.properties) >= number else {}
        files = tuple(_to_read(one, number, held) for one in batch)
        task = CsvTask(
            run_id=run_id,
            ingested_at=now,
            s3=self._settings.s3,
            files=files,
            events=Target(events.location(), lake.write_schema(events, USER_ACTIONS)),
            quarantine=Target(quarantine.location(), lake.write_schema(quarantine, USER_ACTIONS_QUARANTINE)),
            rows_per_file=self._settings.ingest.rows_per_file,
        )
        report = _Report(spark.run_tasks(self._spark(), task, len(files), REPORT_DDL, progress), files)
        self._unread |= report.unread
        loaded = [
            report.loaded(place, one, files[place], known.get(one.file), number=number, ingested_at=now)
            for place, one in enumerate(batch)
            if not report.facts[place].trouble
        ]
        if not loaded:
            return report.changed
        # Also when nothing was refused, so that no slower attempt at this number can bring its records any more.
        lake.append(
            USER_ACTIONS_QUARANTINE,
            report.paths(USER_ACTIONS_QUARANTINE),
            expected=ledger.found(quarantine.properties, ledger.RULES, ledger.CSV_REACHED),
            properties={ledger.CSV_REACHED: f"{number} {run_id}"},
            run_id=run_id,
            summary={"lakehouse.csv.commit": str(number)},
        )
        commit = self._publish(Commit(number, tuple(loaded)), report.paths(USER_ACTIONS), events.properties, run_id)
        self._count(commit, report)
        self.settle()
        return report.changed

    def _publish(
        self,
        commit: Commit,
        added: Sequence[str],
        properties: ledger.Properties,
        run_id: str,
    ) -> Commit:
        """Commit the events, and take out what earlier versions of the files brought; returns what was committed.

        Args:
            commit: what is known of the files.
            added: data files with their events.
            properties: of the events table, as this attempt found them.
            run_id: of this attempt.
        """
        fence = ledger.found(
            properties, ledger.RULES, ledger.CSV_COMMITS, ledger.REPLAYS, ledger.THROUGH, ledger.RESTORED
        )
        versions = {one.file: one.replaced_version for one in commit.files if one.replaced_version}
        at = commit.files[0].ingested_at
        for _ in range(_ATTEMPTS):
            withdrawal = _Withdrawal(self._settings, self._lake, versions, run_id)
            told = replace(commit, files=tuple(map(withdrawal.told, commit.files)))
            changed = {
                ledger.CSV_COMMITS: str(commit.number),
                ledger.CSV_LAST: told.to_text(),
                ledger.CSV_RUN: run_id,
                ledger.CSV_REPLAYED: str(ledger.csv_replayed(properties) - withdrawal.replayed_rows),
                ledger.WITHDRAWN: ledger.withdrawn_text(
                    ledger.withdrawn(properties, ledger.WITHDRAWN), withdrawal.event_dates, at
                ),
                ledger.WITHDRAWN_INGESTED: ledger.withdrawn_text(
                    ledger.withdrawn(properties, ledger.WITHDRAWN_INGESTED), withdrawal.ingested_dates, at
                ),
            }
            summary = {
                "lakehouse.csv.commit": str(commit.number),
                "lakehouse.published-rows": str(sum(one.published_rows for one in told.files)),
                "lakehouse.withdrawn-rows": str(sum(one.withdrawn_rows for one in told.files)),
            }
            try:
                if versions:
                    self._lake.exchange(
                        versions,
                        withdrawal.gone,
                        [*added, *withdrawal.paths],
                        expected=fence,
                        properties=changed,
                        run_id=run_id,
                        summary=summary,
                    )
                else:
                    self._lake.append(
                        USER_ACTIONS, added, expected=fence, properties=changed, run_id=run_id, summary=summary
                    )
            except FilesChangedError:
                continue
            return told
        raise TransientError(
            f"{self._lake.identifier(USER_ACTIONS)} was rewritten while an earlier version of files was taken out of "
            f"it, {_ATTEMPTS} times in a row: nothing was committed; run again when its maintenance has ended"
        )

    def _is_archived(self, one: Dropped, known: Mapping[str, Loaded], live: Any) -> bool:
        """Whether events of the version to replace are in the archive alone; then the file is left."""
        before = known.get(one.file)
        if before is None:
            return False
        archive = self._lake.load(USER_ACTIONS_ARCHIVE)  # after the live table, which says what of it counts
        versions = {one.file: before.file_version}
        days: set[date] = set()
        for touched in self._lake.touched(archive, versions):
            part = PartName.of(touched.source.path)
            if part is None or ledger.has_left(live.properties, part.number):
                for batch in self._lake.rows_in(archive, touched, ("file", "file_version", "event_date")):
                    days.update(batch.filter(_is_of(batch, versions))["event_date"].to_pylist())
        if days:
            self._held_back[one.file] = sorted(days)
        return bool(days)

    def _count(self, commit: Commit, report: "_Report") -> None:
        before = self.result
        results = tuple(
            FileResult(
                one.file,
                one.file_version,
                one.status,
                one.records,
                one.published_rows,
                one.quarantined_rows,
                one.replaced_version,
                one.withdrawn_rows,
            )
            for one in commit.files
        )
        reasons = Counter(before.quarantined_by_reason) + report.reasons
        self.result = replace(
            before,
            files=before.files + results,
            published_rows=before.published_rows + sum(one.published_rows for one in results),
            quarantined_rows=before.quarantined_rows + sum(one.quarantined_rows for one in results),
            quarantined_by_reason=dict(sorted(reasons.items())),
            withdrawn_rows=before.withdrawn_rows + sum(one.withdrawn_rows for one in results),
            commits=before.commits + 1,
        )


class _Withdrawal:
    """What has to leave the events table so that no row of some versions of files is left; commits nothing.

    A data file with nothing but such rows leaves as it is. One that a compaction made of theirs and others' is written
    again without them, one file at a time, sorted in pieces.

    Attributes:
        gone: the data files that were looked into, and whether each leaves the table.
        paths: new files with what else was in those that leave.
        replayed_rows: rows among those taken out that a replay had brought.
        event_dates: of the rows taken out.
        ingested_dates: UTC dates on which those were ingested.
    """

    def __init__(self, settings: Settings, lake: CsvLake, versions: Mapping[str, str], run_id: str) -> None:
        self.run_id, self.rows_per_file = run_id, settings.ingest.rows_per_file
        self.gone: dict[SourceFile, bool] = {}
        self.paths: list[str] = []
        self.replayed_rows = 0
        self.event_dates: set[date] = set()
        self.ingested_dates: set[date] = set()
        self._versions = versions
        self._rows: Counter[str] = Counter()
        self._lake = lake
        if not versions:
            return
        self._table = lake.load(USER_ACTIONS)
        self._schema = lake.write_schema(self._table, USER_ACTIONS)
        # The writer sorts strings of the kind that decoding gives, and files may hold them as dictionaries.
        self._as_decoded = pa.schema([field.with_type(_small(field.type)) for field in self._schema])
        target = Target(self._table.location(), self._schema)
        self._writer = Writer(self, USER_ACTIONS, target, s3.filesystem(settings.s3), self)
        for touched in lake.touched(self._table, versions):
            self._look_into(touched)
        with s3.errors():
            self._writer.flush()

    def told(self, one: Loaded) -> Loaded:
        """What is known of a file, with the count of what left the table for it."""
        return replace(one, withdrawn_rows=self._rows[one.file])

    def _look_into(self, touched: Touched) -> None:
        theirs = others = 0
        columns = ("file", "file_version", "event_date", "ingested_at", "replayed_at")
        for batch in self._lake.rows_in(self._table, touched, columns):
            chosen = batch.filter(_is_of(batch, self._versions))
            theirs, others = theirs + chosen.num_rows, others + batch.num_rows - chosen.num_rows
            self.replayed_rows += chosen.num_rows - chosen["replayed_at"].null_count
            self._rows.update(chosen["file"].to_pylist())
            self.event_dates.update(chosen["event_date"].unique().to_pylist())
            days = chosen["ingested_at"].cast(pa.timestamp("us")).cast(pa.date32())
            self.ingested_dates.update(days.unique().to_pylist())
        self.gone[touched.source] = theirs > 0
        if theirs and others:
            for batch in self._lake.rows_in(self._table, touched, self._schema.names):
                kept = batch.filter(pc.call_function("invert", [_is_of(batch, self._versions)]))
                if kept.num_rows:
                    with s3.errors():
                        self._writer.add(pa.Table.from_batches([kept]).cast(self._as_decoded))

    def file(self, _: TableSpec, path: str, __: int) -> None:
        """Hear of a file that the writer wrote."""
        self.paths.append(path)

    def count(self, _: TableSpec, __: pa.Table) -> None:
        """Hear of rows that were given to the writer, which count for nothing."""


class _Report:
    """What the tasks told of each file, by its place in the job."""

    def __init__(self, rows: Iterable[Row], files: Sequence[CsvFile]) -> None:
        self.facts: dict[int, Facts] = {}
        self._paths: list[tuple[str, str]] = []
        self._rows: Counter[tuple[int, str]] = Counter()
        self.reasons: Counter[str] = Counter()
        for row in rows:
            if row.facts:
                self.facts[row.number] = Facts(**orjson.loads(row.facts))
            elif row.path:
                self._paths.append((row.table, row.path))
            else:
                self._rows[row.number, row.table] += row.rows
                if row.reason:
                    self.reasons[row.reason] += row.rows
        if self.facts.keys() != set(range(len(files))):
            raise LakehouseError("a Spark task told nothing of its file: nothing was committed; please report it")
        troubled = {files[place].version.file: facts for place, facts in self.facts.items() if facts.trouble}
        self.changed = [file for file, facts in troubled.items() if facts.trouble == "changed"]
        self.unread = {file: facts for file, facts in troubled.items() if facts.trouble != "changed"}

    def paths(self, spec: TableSpec) -> list[str]:
        """The data files of a table."""
        return [path for table, path in self._paths if table == spec.identifier]

    def loaded(
        self, place: int, one: Dropped, file: CsvFile, before: Loaded | None, *, number: int, ingested_at: datetime
    ) -> Loaded:
        """What a commit makes of a file.

        Raises:
            LakehouseError: published and refused records are not all.
        """
        facts = self.facts[place]
        published = self._rows[place, USER_ACTIONS.identifier]
        quarantined = self._rows[place, USER_ACTIONS_QUARANTINE.identifier] + len(file.held_lines)
        if published + quarantined != facts.records:
            raise LakehouseError(
                f"{one.file} has {facts.records} records, and {published} published and {quarantined} refused came of "
                "them: nothing was committed; please report this with the file"
            )
        return Loaded(
            commit_number=number,
            file=one.file,
            file_version=file.version.version,
            drop_date=one.drop_date,
            etag=one.etag,
            size_bytes=one.size_bytes,
            modified_at=one.modified_at,
            status="refused" if facts.header is None else "loaded",
            rule_version=RULE_VERSION,
            header=facts.header,
            lines=facts.lines,
            blank_lines=facts.blank_lines,
            records=facts.records,
            published_rows=published,
            quarantined_rows=quarantined,
            replaced_version=before.file_version if before else None,
            withdrawn_rows=0,
            ingested_at=ingested_at,
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _small(kind: pa.DataType) -> pa.DataType:
    return {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}.get(kind, kind)


def _to_read(one: Dropped, number: int, held: Mapping[tuple[str, str], Any]) -> CsvFile:
    bucket, _, key = one.file.removeprefix("s3://").partition("/")
    version = FileVersion(one.file, csv_files.version_of(number, one.etag), one.modified_at)
    lines = held.get((one.file, version.version), np.empty(0, np.int64))
    return CsvFile(bucket, key, one.etag, one.size_bytes, version, lines)


def _is_of(batch: pa.RecordBatch, versions: Mapping[str, str]) -> pa.Array:
    """Which rows are of these versions of files."""
    names = pa.array([f"{version} {file}" for file, version in versions.items()], pa.string())
    of_row = pc.call_function(
        "binary_join_element_wise",
        [batch["file_version"].cast(pa.string()), batch["file"].cast(pa.string()), pa.scalar(" ")],
    )
    return pc.call_function("is_in", [of_row], pc.SetLookupOptions(value_set=names))
