"""Prove that nothing of the dropped files is lost or doubled: each record of each version is in one table, once.

The ledger of one file: its records, as they were counted when it was read, are events (in the events table or its
archive) or in quarantine; only a record that a replay brought back is in both. Of a version that another one replaced,
nothing is left anywhere.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from lakehouse import ledger
from lakehouse.adapters import trino
from lakehouse.adapters.csv_lake import CsvLake
from lakehouse.adapters.objects import ObjectError, Objects, ObjectVersion
from lakehouse.csv_files import Commit, Loaded, number_of
from lakehouse.csv_lines import Records
from lakehouse.settings import Settings
from lakehouse.tables import CSV_FILES, USER_ACTIONS, USER_ACTIONS_QUARANTINE

NOWHERE = ("", "")
"""Stands for file and version of rows that are neither a message nor a record of a file, or both."""
MOST_LISTED = 20
"""How many lines a gap lists at most."""
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class FilesLedger:
    """The ledger of all files, in their versions that count.

    `records = published_rows + quarantined_rows - replayed_rows`

    Attributes:
        files: how many there are.
        records: of these files; one that is refused as a whole is one record.
        published_rows: events of theirs, replayed ones too.
        quarantined_rows: records in quarantine, replayed ones too.
        replayed_rows: records among them that a replay brought back.
    """

    files: int = 0
    records: int = 0
    published_rows: int = 0
    quarantined_rows: int = 0
    replayed_rows: int = 0


class FilesGap(NamedTuple):
    """Something that does not add up, as `lakehouse.audit.Gap` has it."""

    kind: Literal["lost", "doubled", "replay", "origin"]
    where: str
    rows: int
    detail: str


class Counted(NamedTuple):
    """What the tables hold of a version of a file.

    Attributes:
        published: rows of the events table and of its archive.
        replayed: different lines among them that a replay brought.
        present: different lines in either table.
        surplus: rows that are there once too often.
        orphaned: replayed lines that quarantine does not have.
    """

    published: int = 0
    quarantined: int = 0
    replayed: int = 0
    present: int = 0
    surplus: int = 0
    orphaned: int = 0


class State(NamedTuple):
    """What the tables know of files, at one moment.

    Attributes:
        number: of the newest commit.
        current: the version of each file that counts, by file and version.
        unsettled: the newest commit, while quarantine may still have what it supersedes.
        replayed: how many records replays brought, by the events' own count.
        quarantine_id: the snapshot of quarantine that goes with it; None while there is none.
    """

    number: int
    current: Mapping[tuple[str, str], Loaded]
    unsettled: Commit | None
    replayed: int
    quarantine_id: int | None


def state(lake: CsvLake, properties: ledger.Properties) -> State | None:
    """Look up what goes with the events table as it was loaded; None when a commit of files came since."""
    number = ledger.csv_commits(properties)
    if not number:
        return State(0, {}, None, 0, None)
    recorded = ledger.csv_recorded(lake.load(CSV_FILES).properties)
    last = properties.get(ledger.CSV_LAST)
    unsettled = Commit.from_text(last) if last and recorded < number else None
    quarantine = lake.load(USER_ACTIONS_QUARANTINE)
    events = lake.load(USER_ACTIONS)
    current = {(one.file, one.file_version): one for one in lake.newest(events).values()}
    if ledger.csv_commits(events.properties) != number:
        return None
    return State(
        number,
        current,
        unsettled,
        ledger.csv_replayed(properties),
        quarantine.metadata.current_snapshot_id,
    )


def count(settings: Settings, held: str) -> dict[tuple[str, str], Counted]:
    """Count what the tables hold of each version.

    Lines are marked in words of 64 bits, so that what is there twice shows and the groups are few.

    Args:
        settings: of the environment.
        held: SQL of the rows: `file`, `file_version`, `file_line`, `is_message`: whether a topic's ledger counts the
            row, and `kind`: ingested, replayed or quarantined.

    Returns:
        The counts by file and version; under `NOWHERE` those of rows that are in no ledger or in both.
    """
    bits = {kind: f"bitwise_or_agg(IF(kind = '{kind}', bit, 0)) AS {kind}" for kind in "irq"}
    found = trino.query(
        settings.trino_as("transform"),
        "WITH placed AS (SELECT *, "
        f"file IS NOT NULL AND file_version IS NOT NULL AND file_line IS NOT NULL AS is_record FROM ({held})), "
        "marked AS (SELECT IF(is_record AND NOT is_message, file, '') AS file, "
        "IF(is_record AND NOT is_message, file_version, '') AS file_version, file_line, kind, "
        "bitwise_left_shift(BIGINT '1', CAST(file_line % 64 AS integer)) AS bit "
        "FROM placed WHERE is_record OR NOT is_message), "
        "words AS (SELECT file, file_version, count_if(kind <> 'q') AS published, count_if(kind = 'q') AS quarantined, "
        f"count(*) AS all_rows, {', '.join(bits.values())} FROM marked GROUP BY file, file_version, file_line / 64) "
        "SELECT file, file_version, sum(published), sum(quarantined), sum(bit_count(r, 64)), "
        "sum(bit_count(bitwise_or(i, bitwise_or(r, q)), 64)), "
        "sum(all_rows - bit_count(i, 64) - bit_count(r, 64) - bit_count(q, 64) "
        "+ bit_count(bitwise_and(i, bitwise_or(r, q)), 64)), "
        "sum(bit_count(bitwise_and(r, bitwise_not(q)), 64)) FROM words GROUP BY file, file_version",
    )
    return {(file, version): Counted(*counts) for file, version, *counts in found}


def lines_amiss(settings: Settings, held: str, loaded: Loaded) -> str:
    """Say which lines of a version the tables have too often and which they lack; the file is read for that.

    Args:
        settings: of the environment.
        held: as in `count`.
        loaded: the version.
    """
    kinds = ", ".join(f"count_if(kind = '{kind}') AS {kind}" for kind in "irq")
    found = trino.query(
        settings.trino_as("transform"),
        f"SELECT file_line, i + r + q > least(i, 1) + least(r, 1) + least(q, 1) OR (i > 0 AND r + q > 0) FROM "
        f"(SELECT file_line, {kinds} FROM ({held}) WHERE file = ? AND file_version = ? GROUP BY file_line) ORDER BY 1",
        [loaded.file, loaded.file_version],
    )
    there = {line for line, _ in found}
    told = [f"too often: {_listed(line for line, is_twice in found if is_twice)}"] if any(t for _, t in found) else []
    try:
        wanted = set(_lines_of(settings, loaded))
    except ObjectError as error:
        return "; ".join([*told, f"which lines are lacking can't be said: {error}"])
    for what, lines in (("lacking", wanted - there), ("never in the file", there - wanted)):
        if lines:
            told.append(f"{what}: {_listed(sorted(lines))}")
    return "; ".join(told)


def _lines_of(settings: Settings, loaded: Loaded) -> Iterator[int]:
    """The lines at which records of a file begin."""
    bucket, _, key = loaded.file.removeprefix("s3://").partition("/")
    stream = Objects(settings.s3).open(ObjectVersion(bucket, key, None, loaded.etag), loaded.size_bytes)
    records = Records(iter(lambda: stream.read(_CHUNK_BYTES), b""))
    first = next(records, None)
    if loaded.status == "refused":
        yield first.line if first else 1
    else:
        yield from (record.line for record in records)


def _listed(lines: Iterable[int]) -> str:
    shown = list(islice(lines, MOST_LISTED + 1))
    more = " and more" if len(shown) > MOST_LISTED else ""
    return f"line {', '.join(map(str, shown[:MOST_LISTED]))}{more}"


def add_up(known: State, counted: Mapping[tuple[str, str], Counted]) -> FilesLedger:
    """Add up the versions that count."""
    of_current = [counted.get(name, Counted()) for name in known.current]
    return FilesLedger(
        files=len(known.current),
        records=sum(one.records for one in known.current.values()),
        published_rows=sum(one.published for one in of_current),
        quarantined_rows=sum(one.quarantined for one in of_current),
        replayed_rows=sum(one.replayed for one in of_current),
    )


def amiss(known: State, counted: Mapping[tuple[str, str], Counted]) -> Iterator[FilesGap]:
    """Find what does not add up, version by version."""
    for name, loaded in sorted(known.current.items()):
        yield from _of_version(loaded, counted.get(name, Counted()))
    for (file, version), there in sorted(counted.items()):
        if (file, version) in known.current or (file, version) == NOWHERE:
            continue
        # Quarantine comes first in a commit, and is cleared of what was replaced last.
        is_passing = number_of(version) > known.number or (
            known.unsettled and known.unsettled.supersedes(file, version)
        )
        rows = there.published + (0 if is_passing else there.quarantined)
        if rows:
            yield FilesGap("doubled", file, rows, f"{rows} rows of version {version}, which does not count")
    nowhere = counted.get(NOWHERE, Counted())
    if rows := nowhere.published + nowhere.quarantined:
        counts = f"{nowhere.published} events and {nowhere.quarantined} refused"
        detail = f"{counts} are neither a message nor a record of a file, or both"
        yield FilesGap("origin", "user_actions", rows, detail)
    replayed = sum(there.replayed for name, there in counted.items() if name in known.current)
    if replayed < known.replayed:
        detail = "replayed, and gone from the events; `lakehouse quarantine replay` brings them back"
        yield FilesGap("lost", "records of files", known.replayed - replayed, detail)
    elif replayed > known.replayed:
        detail = f"{replayed} records say that they were replayed, replays brought {known.replayed}"
        yield FilesGap("replay", "records of files", replayed - known.replayed, detail)


def _of_version(loaded: Loaded, there: Counted) -> Iterator[FilesGap]:
    if there.surplus:
        yield FilesGap("doubled", loaded.file, there.surplus, f"lines of version {loaded.file_version} twice")
    if there.present < loaded.records:
        detail = f"version {loaded.file_version} has {loaded.records} records, {there.present} are in the tables"
        yield FilesGap("lost", loaded.file, loaded.records - there.present, detail)
    elif there.present > loaded.records:
        detail = f"version {loaded.file_version} has {loaded.records} records, {there.present} lines are in the tables"
        yield FilesGap("doubled", loaded.file, there.present - loaded.records, detail)
    elif there.published - there.replayed != loaded.published_rows and not there.surplus:
        ingested = there.published - there.replayed
        detail = f"version {loaded.file_version} brought {loaded.published_rows} events, {ingested} are there"
        yield FilesGap("lost", loaded.file, abs(ingested - loaded.published_rows), detail)
    if there.orphaned:
        yield FilesGap("lost", loaded.file, there.orphaned, "replayed, and gone from quarantine")
