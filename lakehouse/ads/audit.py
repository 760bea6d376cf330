"""Prove that every record of every backup is where it belongs, once.

Each record of a backup is an impression in its newest version, an older or repeated version of one, or refused.
Each impression counts in one place, live in PostgreSQL or archived. Nothing is taken from counters: the backups are
read and judged again, the archive's files and the live table are read, and PostgreSQL compares them by key.

No load and no archiving runs meanwhile, because the audit takes their turns.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Final

import pyarrow as pa

from lakehouse.adapters.ads_archive import AdsArchive
from lakehouse.adapters.ads_store import OPEN_STATES, AdsStore, Batch, Session
from lakehouse.ads.archive_files import ArchiveFiles, ContentDigest
from lakehouse.ads.backup import Backups, Run
from lakehouse.ads.contract import decode_lines
from lakehouse.errors import TerminalError, TransientError
from lakehouse.settings import Settings

Progress = Callable[[int, int | None], None]
"""Called with (records read, records to read)."""

_NAMED: Final = 20
_SETTLED: Final = timedelta(hours=2)
"""A load takes less, and the next one ends what a killed one began."""
_TURN_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.5
_DELETED_FROM: Final = "files of the archive that somebody deleted rows from"
_KEY: Final = ["shown_date", "impression_id", "updated_at"]
_KEY_COLUMNS: Final = "shown_date date, impression_id text, updated_at timestamptz"


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that is not as it must be.

    Attributes:
        what: in words.
        count: how many there are.
        examples: the first of them, each as `date impression`, or the file or run.
    """

    what: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What an audit found; printed by `lakehouse ads audit --output json`.

    Attributes:
        records: of all backups; `live + archived + late + superseded + refused` adds up to it.
        live: impressions that count in PostgreSQL.
        archived: impressions that count in the archive.
        late: impressions of archived dates that wait in PostgreSQL to be merged, newer than what the archive has.
        superseded: records that are an older version of an impression, or the same again.
        refused: records that break the contract.
        leaving: rows of PostgreSQL that the archive has too and that count there: an archiving will delete them.
        unfinished: runs that were killed before their backup was whole; nothing of them was inserted.
        open_batches: batches of the archive that the next archiving ends.
        boundary: impressions of dates before it count in the archive.
    """

    ok: bool
    runs: int
    records: int
    live: int
    archived: int
    late: int
    superseded: int
    refused: int
    leaving: int
    unfinished: tuple[str, ...]
    open_batches: int
    boundary: date
    gaps: tuple[Gap, ...]
    seconds: float = 0.0


def audit(settings: Settings, progress: Progress | None = None) -> AuditReport:
    """Count and compare; see the module.

    Raises:
        TransientError: a server did not answer, or a load or an archiving runs and does not end.
    """
    started = time.monotonic()
    with AdsStore(settings).session() as session:
        _take_turns(session)
        auditor = _Auditor(settings, session, progress)
        auditor.read()
        session.snapshot()
        report = auditor.report()
        session.rollback()
    return replace(report, seconds=round(time.monotonic() - started, 3))


def compare_counts(settings: Settings, now: datetime) -> tuple[Gap, ...]:
    """Compare what counts alone can tell: loads with backups and refused records, and batches with the archive's files.

    It takes no turn, reads no record and changes nothing, so it may be asked often; only `audit` proves.

    Raises:
        TransientError: a server did not answer.
        NotMadeError: the tables are not there.
    """
    whole = {run.run_id: run for run in Backups(settings).runs()[0]}
    archive = AdsArchive(settings)
    with AdsStore(settings).session() as session:
        session.snapshot()
        loads, batches, refused = session.loads(), _archived_batches(session), session.rejected_of_loads()
        session.rollback()
        held = archive.held(archive.load_archive())
        same = _archived_batches(session)
    loaded = {load.run_id for load in loads}
    rows = Counter({file.path: file.rows for file in held})
    found = {
        "backups that nobody inserted": [
            run_id for run_id, run in whole.items() if run_id not in loaded and now - run.started_at > _SETTLED
        ],
        "loads whose backup is gone": [
            load.run_id for load in loads if load.run_id not in whole and now - load.inserted_at > _SETTLED
        ],
        "loads with other refused records than are set aside": [
            load.run_id for load in loads if refused.get(load.run_id, 0) != load.rejected_records
        ],
        "dates whose archive has other rows than were archived": [
            day.isoformat()
            for day, batch in batches.items()
            if same.get(day) == batch and sum(rows[path] for path in batch.paths) != batch.rows
        ],
        _DELETED_FROM: [file.path for file in held if file.has_deletes],
        "files that the archive has twice": [path for path, n in Counter(file.path for file in held).items() if n > 1],
    }
    return tuple(Gap(what, len(places), tuple(places[:_NAMED])) for what, places in found.items() if places)


def _archived_batches(session: Session) -> dict[date, Batch]:
    """The batch that says what the archive has of each date, without dates that an archiving is at work on."""
    newest = {batch.shown_date: batch for batch in session.batches() if batch.state != "abandoned"}
    return {day: batch for day, batch in newest.items() if batch.state == "archived"}


def _take_turns(session: Session) -> None:
    deadline = time.monotonic() + _TURN_SECONDS
    for what in ("load", "archive"):
        while not session.take_turn(what):
            if time.monotonic() > deadline:
                raise TransientError(f"a {what} of the ad data has been at work for {_TURN_SECONDS:.0f} s: run again")
            time.sleep(_POLL_SECONDS)


_COMPARE: Final = """
CREATE TEMP TABLE compared ON COMMIT DROP AS
WITH newest AS (
    SELECT shown_date, impression_id, max(updated_at) AS told FROM told GROUP BY shown_date, impression_id
), put_away_once AS (
    SELECT shown_date, impression_id, max(updated_at) AS archived FROM put_away GROUP BY shown_date, impression_id
), joined AS (
    SELECT shown_date, impression_id, told, live.updated_at AS live, archived
    FROM newest
    FULL JOIN {schema}.impressions AS live USING (shown_date, impression_id)
    FULL JOIN put_away_once USING (shown_date, impression_id)
)
SELECT
    *,
    live IS NOT NULL AND shown_date >= %s AS is_live,
    live IS NOT NULL AND shown_date < %s AND (archived IS NULL OR archived < live) AS is_late,
    live IS NOT NULL AND shown_date < %s AND archived >= live AS is_leaving
FROM joined
"""
_COUNTS: Final = """
SELECT
    count(*) FILTER (WHERE is_live),
    count(*) FILTER (WHERE archived IS NOT NULL AND NOT is_late),
    count(*) FILTER (WHERE is_late),
    count(*) FILTER (WHERE is_leaving),
    count(told)
FROM compared
"""
_VERSION: Final = "CASE WHEN is_live OR is_late THEN live ELSE archived END"
_WRONG: Final = {
    "impressions that are lost": f"told IS NOT NULL AND {_VERSION} IS NULL",
    "impressions that are live and archived at once": "is_live AND archived IS NOT NULL",
    "impressions in an older version than a backup has": f"{_VERSION} < told",
    "impressions in a newer version than any backup has": f"{_VERSION} > told",
    "impressions that no backup has": "told IS NULL",
}
"""What may be wrong with an impression, and how `compared` shows it."""


class _Auditor:
    def __init__(self, settings: Settings, session: Session, progress: Progress | None) -> None:
        self._session, self._progress = session, progress
        self._backups = Backups(settings)
        self._archive = AdsArchive(settings)
        self._files = ArchiveFiles(settings)
        self._gaps: list[Gap] = []
        self._records = self._refused = self._runs = 0
        self._unfinished: tuple[str, ...] = ()
        self._boundary = date.min

    def read(self) -> None:
        """Bring the keys of all backups and of the archive into the session."""
        session = self._session
        session.create_temporary("told", _KEY_COLUMNS)
        session.create_temporary("told_refused", "run_id text, part integer, line integer")
        session.create_temporary("told_runs", "run_id text, records bigint, rejected_records bigint")
        session.create_temporary("put_away", _KEY_COLUMNS)
        whole, unfinished = self._backups.runs()
        self._unfinished = tuple(run.run_id for run in unfinished)
        for run in whole:
            try:
                self._read_run(run)
            except TerminalError as error:
                self._gaps.append(Gap(f"a backup that can't be read: {error}", 1, (run.run_id,)))
        table = self._archive.load_archive()
        self._boundary = self._archive.boundary(table)
        files = self._archive.held(table)
        self._found(_DELETED_FROM, [file.path for file in files if file.has_deletes])
        held = Counter(file.path for file in files)  # one that is registered twice counts twice
        changed: list[str] = []
        for batch in session.batches():
            if of_batch := [path for path in batch.paths if held[path]]:
                held.subtract(of_batch)
                digest = ContentDigest()
                pieces = self._files.read(of_batch, digest=digest)
                session.fill("put_away", (piece.select(_KEY) for piece in pieces))
                if digest.hexdigest() != batch.content_sha256:
                    changed += of_batch
        # The others are of no batch, such as after a restore.
        session.fill("put_away", self._files.read(sorted(held.elements()), _KEY))
        self._found("files of the archive that are not as their batch wrote them", changed)
        session.commit()

    def _read_run(self, run: Run) -> None:
        manifest = self._backups.manifest(run)
        refused = 0
        for number, part in enumerate(manifest.parts, start=1):
            good, bad = decode_lines(self._backups.lines(run, part), number)
            self._session.fill("told", [good.select(_KEY)])
            named = bad.select(["part", "line"]).add_column(0, "run_id", _repeated(run.run_id, bad.num_rows))
            self._session.fill("told_refused", [named])
            refused += bad.num_rows
            self._records += part.records
            if self._progress:
                self._progress(self._records, None)
        self._runs += 1
        self._refused += refused
        row = {"run_id": [run.run_id], "records": [manifest.records], "rejected_records": [refused]}
        self._session.fill("told_runs", [pa.table(row)])

    def report(self) -> AuditReport:
        """Compare what was read with what PostgreSQL has now."""
        session = self._session
        session.run(_COMPARE, [self._boundary] * 3)
        ((live, archived, late, leaving, told),) = session.ask(_COUNTS)
        for what, condition in _WRONG.items():
            self._compared(
                what, f"SELECT shown_date || ' ' || impression_id FROM compared WHERE {condition} ORDER BY 1"
            )
        self._compared(
            "impressions that are archived more than once",
            "SELECT shown_date || ' ' || impression_id FROM put_away GROUP BY shown_date, impression_id "
            "HAVING count(*) > 1 ORDER BY 1",
        )
        line = "SELECT run_id || ' part ' || part || ' line ' || line FROM"
        columns, kept = "run_id, part, line", "{schema}.rejected"
        self._compared(
            "refused records that are not set aside",
            f"{line} (SELECT {columns} FROM told_refused EXCEPT SELECT {columns} FROM {kept}) AS a ORDER BY 1",
        )
        self._compared(
            "records that are set aside and break no rule",
            f"{line} (SELECT {columns} FROM {kept} EXCEPT SELECT {columns} FROM told_refused) AS a ORDER BY 1",
        )
        self._compared(
            "backups that nobody inserted: `lakehouse ads load` does",
            "SELECT run_id FROM told_runs WHERE run_id NOT IN (SELECT run_id FROM {schema}.loads) ORDER BY 1",
        )
        self._compared(
            "loads whose backup is gone or has other records",
            "SELECT run_id FROM (SELECT run_id, records, rejected_records FROM {schema}.loads "
            "EXCEPT SELECT run_id, records, rejected_records FROM told_runs) AS a ORDER BY 1",
        )
        superseded = self._records - self._refused - told
        if not self._gaps and live + archived + late + superseded + self._refused != self._records:
            self._gaps.append(Gap("the sums do not add up, for a reason that is not known here", 1, ()))
        return AuditReport(
            ok=not self._gaps,
            runs=self._runs,
            records=self._records,
            live=live,
            archived=archived,
            late=late,
            superseded=superseded,
            refused=self._refused,
            leaving=leaving,
            unfinished=self._unfinished,
            open_batches=len(session.batches(OPEN_STATES)),
            boundary=self._boundary,
            gaps=tuple(self._gaps),
        )

    def _compared(self, what: str, query: str) -> None:
        ((count,),) = self._session.ask(f"SELECT count(*) FROM ({query}) AS found")
        if count:
            examples = [str(row[0]) for row in self._session.ask(f"{query} LIMIT {_NAMED}")]
            self._gaps.append(Gap(what, count, tuple(examples)))

    def _found(self, what: str, places: list[str]) -> None:
        if places:
            self._gaps.append(Gap(what, len(places), tuple(places[:_NAMED])))


def _repeated(text: str, rows: int) -> pa.Array:
    return pa.array([text] * rows, pa.string())
