"""Prove that nothing is lost or doubled: from Kafka's offsets through the tables down to the daily aggregates.

The ledger of one topic partition: every offset from the first one read up to the table's position is in the events
table, or in its archive, or in quarantine, or holds no message, or was lost and a person accepted that; each once. Only
a row that a replay brought back is in quarantine and in one of the others. What does not add up is a `Gap` that names
the offsets, the file or the day. Records of dropped files have a ledger of their own, in `audit_files`.

A row of the archive counts when the events table says that its part has left it, so a part that is being moved counts
once, wherever an archiving was killed.

Trino counts in one pass over the coordinates in all tables; offsets are listed only where the counts disagree.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from lakehouse import audit_files, ledger
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.catalog import summaries
from lakehouse.adapters.csv_lake import CsvLake
from lakehouse.audit_files import FilesLedger
from lakehouse.errors import TerminalError, TransientError
from lakehouse.plans import ACCEPT, Account, Available, Offsets, lost_ranges
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_ARCHIVE, USER_ACTIONS_QUARANTINE, TableSpec

_ATTEMPTS = 3

MOST_LISTED = 20
"""How many offset ranges a gap lists at most."""

Ledger = Literal["kafka", "csv", "aggregate"]
LEDGERS: tuple[Ledger, ...] = get_args(Ledger)
Kind = Literal["lost", "doubled", "position", "replay", "origin", "kafka", "file", "aggregate"]


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that does not add up.

    Attributes:
        kind: `lost` or `doubled` rows, a `position` that was moved by hand, rows marked as replayed that no `replay`
            brought, rows whose `origin` is neither a message nor a record of a file, offsets that `kafka` does not
            have, a `file` registered twice, a day whose `aggregate` differs from its events.
        where: topic and topic partition, table, or day.
        rows: by how many rows it is off; 0 where that has no meaning.
        detail: the exact offsets, or both figures.
        ledger: of the messages, of the dropped CSV files, or of what was built from both.
    """

    kind: Kind
    where: str
    rows: int
    detail: str
    ledger: Ledger = "kafka"


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """The ledger of one topic partition.

    `position - first_offset = published_rows + quarantined_rows - replayed_rows + absent_offsets + lost_offsets`

    Attributes:
        topic: as the tables know it; one that was made anew has a number behind its name.
        first_offset: the first offset ever read.
        position: the next offset to read.
        end_offset: the next offset Kafka will give; null where the topic is no more.
        lag_rows: offsets that wait to be ingested.
        published_rows: rows of the events table and of its archive, replayed ones too.
        quarantined_rows: rows of the quarantine table, replayed ones too.
        replayed_rows: rows among them that a replay brought back from quarantine.
        absent_offsets: offsets that hold no message.
        lost_offsets: offsets that Kafka lost before they were read, which a person accepted.
    """

    topic: str
    topic_partition: int
    first_offset: int
    position: int
    end_offset: int | None
    lag_rows: int
    published_rows: int
    quarantined_rows: int
    replayed_rows: int
    absent_offsets: int
    lost_offsets: int


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found; `ok` when there is no gap.

    Attributes:
        aggregated_rows: events counted in the daily aggregate that people read; null while none is published.
        unaggregated_rows: events that arrived after the build that this aggregate comes from.
        files: the ledger of the dropped files.
    """

    ok: bool
    ledger: tuple[LedgerRow, ...]
    gaps: tuple[Gap, ...]
    aggregated_rows: int | None
    unaggregated_rows: int
    files: FilesLedger = field(default_factory=FilesLedger)


def audit(settings: Settings) -> AuditReport:
    """Audit the user actions of this environment; an ingest or a replay may go on meanwhile.

    Raises:
        TransientError: a server did not answer.
        TerminalError: the tables do not exist.
    """
    tables = _tables(settings)
    gaps = tables.without_position()
    available: dict[str, Available | None] = {}
    for source in ledger.sources(tables.properties):
        available[source], gone = _available(settings, tables, source)
        gaps += gone
        read = ledger.position(tables.properties, source)
        gaps += find_jumps(source, ledger.advances(tables.summaries, source), read)
    rows: list[LedgerRow] = []
    for counted, count in tables.rows():
        row = _with_end(counted, available[counted.topic])
        rows.append(row)
        gaps += _unread(row)
        gaps += tables.amiss(row, count)
    files, amiss = tables.files()
    gaps += amiss
    gaps += tables.files_twice()
    aggregated, unaggregated, wrong_days = tables.aggregate()
    gaps += wrong_days
    return AuditReport(not gaps, tuple(rows), tuple(gaps), aggregated, unaggregated, files)


def _tables(settings: Settings) -> "_Tables":
    for _ in range(_ATTEMPTS):
        tables = _Tables(settings)
        if tables.known is not None:
            return tables
    raise TransientError(
        "files are brought into the tables one commit after the other: audit again when that has ended"
    )


def find_jumps(topic: str, moves: Sequence[tuple[Offsets, Offsets]], current: Offsets) -> list[Gap]:
    """Find where the position does not go on from where the last ingest left it.

    Args:
        topic: whose position.
        moves: (before, after) of each ingest that the snapshot history still holds, oldest first.
        current: the position in the table's property.
    """
    gaps: list[Gap] = []
    if not moves:
        return gaps
    following = [before for before, _ in moves[1:]] + [current]
    for (_, after), before in zip(moves, following, strict=True):
        gaps += [
            Gap(
                "position",
                f"{topic}/{p}",
                abs(before.get(p, 0) - offset),
                f"left at {offset}, found at {before.get(p)}",
            )
            for p, offset in sorted(after.items())
            if before.get(p) != offset
        ]
    return gaps


def find_dropped(source: str, position: Offsets, available: Available) -> list[Gap]:
    """Find the offsets that Kafka dropped before the table had read them, and that nobody has accepted as lost.

    Args:
        source: the topic as the table knows it.
        position: what the table had after Kafka was asked; else what an ingest read meanwhile would count as lost.
        available: what Kafka has.
    """
    gaps: list[Gap] = []
    for lost in lost_ranges(position, available):
        offsets = _listed([(lost.start_offset, lost.end_offset - 1)])
        detail = f"{offsets} are gone from Kafka before they were read; {ACCEPT}"
        gaps.append(Gap("kafka", f"{source}/{lost.topic_partition}", lost.rows, detail))
    return gaps


def _available(settings: Settings, tables: "_Tables", source: str) -> tuple[Available | None, list[Gap]]:
    """What Kafka has of a source, None where the topic is no more; and what of it can't be read any more.

    Only the newest source of a topic can have anything left to read. Of a topic that no ingest reads any more, whether
    Kafka still has it, or its messages, does not matter.
    """
    topic = ledger.topic_of(source)
    if source != ledger.sources(tables.properties, topic)[-1]:
        return None, []
    is_read = topic in settings.user_actions_topics
    try:
        found, available = kafka.topic_id(settings, topic), kafka.offsets(settings, topic)
    except TerminalError as error:
        return None, [Gap("kafka", source, 0, str(error))] if is_read else []
    known = ledger.topic_id(tables.properties, source)
    if known not in (None, found):
        detail = f"the table has read the topic with id {known}, Kafka has made it anew as {found}"
        return available, [Gap("kafka", source, 0, detail)]
    return available, find_dropped(source, tables.position_now(source), available) if is_read else []


def _with_end(row: LedgerRow, available: Available | None) -> LedgerRow:
    if available is None:
        return row
    start, end = available.get(row.topic_partition, (0, 0))
    return replace(row, end_offset=end, lag_rows=end - max(row.position, start))


def _unread(row: LedgerRow) -> Iterable[Gap]:
    if row.lag_rows < 0:
        detail = f"the table has read up to {row.position}, Kafka ends at {row.end_offset}"
        yield Gap("kafka", f"{row.topic}/{row.topic_partition}", -row.lag_rows, detail)


@dataclass(frozen=True, slots=True)
class _Count:
    """What the tables hold of one topic partition.

    Attributes:
        published: rows of the events table and of its archive, whatever their offset.
        quarantined: rows of the quarantine table below the position.
        replayed: offsets in the events table that a replay brought.
        present: different offsets from the first to the position in either table.
        surplus: rows that are there once too often.
        outside: rows before the first offset, and of the events table those at the position and after.
        orphaned: replayed offsets that quarantine does not have.
    """

    published: int = 0
    quarantined: int = 0
    replayed: int = 0
    present: int = 0
    surplus: int = 0
    outside: int = 0
    orphaned: int = 0


class _Tables:
    """The tables as they were at one moment.

    The events are those of the snapshot that the table had when it was loaded, and the properties too, so an ingest or
    a replay that commits afterwards changes nothing here. Its archive is loaded after it: what the events say has left
    them is in there. The quarantine is read later. Of a topic it only grows, and what it holds at the position or past
    it is left out, because the run that wrote it has not ended, or the next one will count it. Of files it also loses
    what a correction replaced, so their records are counted in the snapshot that goes with the events.
    """

    def __init__(self, settings: Settings) -> None:
        self._trino = settings.trino_as("transform")
        self._lake = lake = CsvLake(settings)
        table = lake.load(USER_ACTIONS)
        archive = lake.load(USER_ACTIONS_ARCHIVE)
        self.properties = table.properties
        self.known = audit_files.state(lake, table.properties)
        self.summaries = summaries(table)
        self._settings = settings
        self._name = _name(settings, USER_ACTIONS)
        self._replays = [
            snapshot.snapshot_id
            for snapshot in sorted(table.metadata.snapshots, key=lambda snapshot: snapshot.sequence_number or 0)
            if snapshot.summary and ledger.REPLAYS in snapshot.summary.additional_properties
        ]
        snapshot = table.current_snapshot()
        # Trino shows a snapshot by the columns that the table had when it was made.
        known = table.schemas()[snapshot.schema_id or 0] if snapshot else table.schema()
        archived = _name(settings, USER_ACTIONS_ARCHIVE)
        columns = f"kafka_topic, kafka_partition, kafka_offset, {_later(known.column_names)}"
        archive_snapshot = archive.current_snapshot()
        known = archive.schemas()[archive_snapshot.schema_id or 0] if archive_snapshot else archive.schema()
        of_archive = f"kafka_topic, kafka_partition, kafka_offset, {_later(known.column_names)}"
        self._events = (
            f"SELECT {columns} FROM {self._name}{_as_of(table.metadata.current_snapshot_id)} UNION ALL "
            f"SELECT {of_archive} FROM {archived}{_as_of(archive.metadata.current_snapshot_id)} "
            f"WHERE {ledger.counting(table.properties)}"
        )
        # What counts when the query runs; it names the live table first, as it must.
        self._now = (
            f"SELECT event_date, ingested_at, {_later(table.schema().column_names)} FROM {self._name} UNION ALL "
            f"SELECT event_date, ingested_at, {_later(archive.schema().column_names)} FROM {archived} "
            f"WHERE {ledger.counting_now(_name(settings, USER_ACTIONS, '$properties'))}"
        )
        # Each row as `kind`: ingested, replayed or quarantined.
        self._held = (
            "SELECT kafka_topic, kafka_partition, kafka_offset, IF(replayed_at IS NULL, 'i', 'r') AS kind "
            f"FROM ({self._events}) UNION ALL SELECT kafka_topic, kafka_partition, kafka_offset, 'q' "
            f"FROM {_name(settings, USER_ACTIONS_QUARANTINE)}"
        )
        self._quarantine = lake.load(USER_ACTIONS_QUARANTINE)

    def position_now(self, source: str) -> Offsets:
        """The position of a source as it is when this is asked."""
        return ledger.position(self._lake.load(USER_ACTIONS).properties, source)

    def rows(self) -> Iterator[tuple[LedgerRow, _Count]]:
        """Count what the tables hold of each topic partition that has a position."""
        known = [
            (source, partition, ledger.accounts(self.properties, source).get(partition, Account(0)), offset)
            for source in ledger.sources(self.properties)
            for partition, offset in sorted(ledger.position(self.properties, source).items())
        ]
        counted = self._counted([(s, p, account.first_offset, offset) for s, p, account, offset in known])
        for number, (source, partition, account, offset) in enumerate(known):
            count = counted.get(number, _Count())
            yield (
                LedgerRow(
                    topic=source,
                    topic_partition=partition,
                    first_offset=account.first_offset,
                    position=offset,
                    end_offset=None,
                    lag_rows=0,
                    published_rows=count.published,
                    quarantined_rows=count.quarantined,
                    replayed_rows=count.replayed,
                    absent_offsets=account.absent_offsets,
                    lost_offsets=account.lost_offsets,
                ),
                count,
            )

    def _counted(self, known: Sequence[tuple[str, int, int, int]]) -> dict[int, _Count]:
        """Count by (topic, topic partition, first offset, position), each named by its place in the list.

        Offsets are marked in words of 64 bits, so that what is there twice shows and the groups are few.
        """
        if not known:
            return {}
        values = ", ".join(
            f"({number}, {trino.literal(source)}, {partition}, BIGINT '{first}', BIGINT '{offset}')"
            for number, (source, partition, first, offset) in enumerate(known)
        )
        bits = {kind: f"bitwise_or_agg(IF(is_inside AND kind = '{kind}', bit, 0))" for kind in ("i", "r", "q")}
        found = trino.query(
            self._trino,
            f"WITH known (number, source, topic_partition, first_offset, position) AS (VALUES {values}), "
            f"held AS ({self._held}), "
            "marked AS (SELECT number, kafka_offset / 64 AS word, kind, "
            "kafka_offset >= first_offset AND kafka_offset < position AS is_inside, "
            "bitwise_left_shift(BIGINT '1', CAST(kafka_offset % 64 AS integer)) AS bit "
            "FROM held JOIN known ON kafka_topic = source AND kafka_partition = topic_partition "
            "WHERE kind <> 'q' OR kafka_offset < position), "
            "words AS (SELECT number, count_if(kind <> 'q') AS published, count_if(kind = 'q') AS quarantined, "
            "count_if(is_inside) AS inside, count_if(NOT is_inside) AS outside, "
            "bitwise_or_agg(IF(kind = 'r', bit, 0)) AS replayed, "
            f"{bits['i']} AS i, {bits['r']} AS r, {bits['q']} AS q FROM marked GROUP BY number, word) "
            "SELECT number, sum(published), sum(quarantined), sum(bit_count(replayed, 64)), "
            "sum(bit_count(bitwise_or(i, bitwise_or(r, q)), 64)), "
            "sum(inside - bit_count(i, 64) - bit_count(r, 64) - bit_count(q, 64) "
            "+ bit_count(bitwise_and(i, bitwise_or(r, q)), 64)), "
            "sum(outside), sum(bit_count(bitwise_and(r, bitwise_not(q)), 64)) FROM words GROUP BY number",
        )
        return {number: _Count(*counts) for number, *counts in found}

    def without_position(self) -> list[Gap]:
        """Find published rows of topic partitions that have no position: the next ingest would read them again."""
        known = ", ".join(
            f"({trino.literal(source)}, {partition})"
            for source in ledger.sources(self.properties)
            for partition in ledger.position(self.properties, source)
        )
        where = f" AND (kafka_topic, kafka_partition) NOT IN ({known})" if known else ""
        found = trino.query(
            self._trino,
            f"SELECT kafka_topic, kafka_partition, count(*) FROM ({self._events}) WHERE kafka_topic IS NOT NULL{where} "
            "GROUP BY 1, 2 ORDER BY 1, 2",
        )
        return [
            Gap("position", f"{topic}/{partition}", rows, f"{rows} rows are published and there is no position")
            for topic, partition, rows in found
        ]

    def amiss(self, row: LedgerRow, count: _Count) -> Iterator[Gap]:
        """Find what does not add up in one topic partition, with its offsets."""
        where = f"{row.topic}/{row.topic_partition}"
        if count.surplus:
            yield Gap("doubled", where, count.surplus, _listed(self._repeated(row)))
        if count.outside:
            detail = f"outside of what was read: {_listed(self._outside(row))}"
            yield Gap("doubled", where, count.outside, detail)
        unseen = row.absent_offsets + row.lost_offsets
        missing = row.position - row.first_offset - unseen - count.present
        if missing > 0:
            among = f", {unseen} of which held no message or were accepted as lost" if unseen else ""
            yield Gap("lost", where, missing, _listed(self._holes(row)) + among)
        elif missing < 0:
            detail = f"{-missing} rows more than there are offsets from {row.first_offset} to {row.position - 1}"
            yield Gap("doubled", where, -missing, detail)
        if count.orphaned:
            yield Gap(
                "lost", where, count.orphaned, f"replayed, and gone from quarantine: {_listed(self._orphans(row))}"
            )
        brought = ledger.replayed(self.properties, row.topic).get(row.topic_partition, 0)
        if count.replayed < brought:
            rows = brought - count.replayed
            gone = f"replayed, and gone from the events: {self._gone(row)}"
            yield Gap("lost", where, rows, f"{gone}; `lakehouse quarantine replay` brings them back")
        elif count.replayed > brought:
            detail = f"{count.replayed} rows say that they were replayed, replays brought {brought}"
            yield Gap("replay", where, count.replayed - brought, detail)

    def _repeated(self, row: LedgerRow) -> list[tuple[int, int]]:
        once_each = "least(i, 1) + least(r, 1) + least(q, 1)"
        return self._offsets(row, f"i + r + q > {once_each} OR (i > 0 AND r + q > 0)")

    def _orphans(self, row: LedgerRow) -> list[tuple[int, int]]:
        return self._offsets(row, "r > 0 AND q = 0")

    def _outside(self, row: LedgerRow) -> list[tuple[int, int]]:
        return self._offsets(row, f"kafka_offset NOT BETWEEN {row.first_offset} AND {row.position - 1}")

    def _offsets(self, row: LedgerRow, condition: str) -> list[tuple[int, int]]:
        """The offsets of a topic partition whose rows, counted by kind, meet a condition; as ranges of one."""
        counted = ", ".join(f"count_if(kind = '{kind}') AS {kind}" for kind in "irq")
        found = trino.query(
            self._trino,
            f"SELECT kafka_offset FROM (SELECT kafka_offset, {counted} FROM ({self._held_of(row)}) "
            f"GROUP BY kafka_offset) WHERE {condition} ORDER BY 1",
        )
        return [(offset, offset) for (offset,) in found]

    def _holes(self, row: LedgerRow) -> list[tuple[int, int]]:
        """The ranges of offsets, both ends inclusive, that are in no table."""
        # An offset before the first and one at the position turn both edges into ordinary holes.
        offsets = (
            f"SELECT kafka_offset FROM ({self._held_of(row)}) UNION "
            f"SELECT * FROM (VALUES BIGINT '{row.first_offset - 1}', BIGINT '{row.position}')"
        )
        holes = trino.query(
            self._trino,
            "SELECT kafka_offset + 1, following - 1 FROM (SELECT kafka_offset, lead(kafka_offset) OVER "
            f"(ORDER BY kafka_offset) AS following FROM ({offsets})) "
            f"WHERE following > kafka_offset + 1 AND following <= {row.position} ORDER BY 1",
        )
        return [(first, last) for first, last in holes]

    def _gone(self, row: LedgerRow) -> str:
        """The offsets that the newest replay still saw replayed, and that the events have no more."""
        if not self._replays:
            return "the snapshot that knew the offsets is expired"
        where = f"WHERE {_of(row)} AND replayed_at IS NOT NULL"
        found = trino.query(
            self._trino,
            f"SELECT kafka_offset FROM {self._name} FOR VERSION AS OF {self._replays[-1]} {where} "
            f"EXCEPT SELECT kafka_offset FROM ({self._events}) {where} ORDER BY 1",
        )
        return _listed([(offset, offset) for (offset,) in found])

    def _held_of(self, row: LedgerRow) -> str:
        return f"SELECT * FROM ({self._held}) WHERE {_of(row)} AND (kind <> 'q' OR kafka_offset < {row.position})"

    def files(self) -> tuple[FilesLedger, list[Gap]]:
        """Add up the ledger of the dropped files, and find what does not add up."""
        known = self.known
        assert known is not None
        schemas = {s.snapshot_id: s.schema_id or 0 for s in self._quarantine.metadata.snapshots}
        of_snapshot = schemas.get(known.quarantine_id or 0)
        schema = self._quarantine.schema() if of_snapshot is None else self._quarantine.schemas()[of_snapshot]
        held = (
            f"SELECT file, file_version, file_line, {_IS_MESSAGE}, IF(replayed_at IS NULL, 'i', 'r') AS kind "
            f"FROM ({self._events}) UNION ALL SELECT {_of_file(schema.column_names)}, {_IS_MESSAGE}, 'q' "
            f"FROM {_name(self._settings, USER_ACTIONS_QUARANTINE)}{_as_of(known.quarantine_id)}"
        )
        counted = audit_files.count(self._settings, held)
        gaps = [Gap(*gap, ledger="csv") for gap in audit_files.amiss(known, counted)]
        lines = {
            one.file: audit_files.lines_amiss(self._settings, held, one)
            for one in known.current.values()
            if one.file in {gap.where for gap in gaps}
        }
        gaps = [replace(gap, detail="; ".join(filter(None, (gap.detail, lines.get(gap.where))))) for gap in gaps]
        return audit_files.add_up(known, counted), gaps

    def files_twice(self) -> list[Gap]:
        """Find data files that a table has registered more than once."""
        gaps: list[Gap] = []
        for spec in (USER_ACTIONS, USER_ACTIONS_ARCHIVE, USER_ACTIONS_QUARANTINE):
            rows = trino.query(
                self._trino,
                f"SELECT file_path, max(record_count), count(*) FROM {_name(self._settings, spec, '$files')} "
                "GROUP BY file_path HAVING count(*) > 1 ORDER BY 1",
            )
            gaps += [
                Gap("file", spec.identifier, records * (count - 1), f"{path} is registered {count} times")
                for path, records, count in rows
            ]
        return gaps

    def aggregate(self) -> tuple[int | None, int, list[Gap]]:
        """Compare the published aggregate with the events it was built from; later ones wait for the next build.

        A build sees all that came before some moment, of the ingest, and of replays and files together: both commit in
        the order in which they started. Between the two there is no such order. A date that a correction took events
        from waits for the build that hears of it.
        """
        catalog, schema = self._settings.catalog.name, f"{self._settings.prefix}marts"
        built = trino.query(
            self._trino,
            f"SELECT column_name FROM {catalog}.information_schema.columns "
            "WHERE table_schema = ? AND table_name = 'fct_events_daily'",
            [schema],
        )
        if not built:
            ((rows,),) = trino.query(self._trino, f"SELECT count(*) FROM ({self._now})")
            return None, rows, []
        mart = f"{catalog}.{schema}.fct_events_daily"
        last_replayed_at = "max(last_replayed_at)" if ("last_replayed_at",) in built else "NULL"
        never = "TIMESTAMP '1970-01-01 00:00:00 UTC'"
        days = trino.query(
            self._trino,
            f"WITH built AS (SELECT event_date, sum(event_count) AS counted FROM {mart} GROUP BY event_date), "
            f"newest AS (SELECT coalesce(max(last_ingested_at), {never}) AS ingested, "
            f"coalesce({last_replayed_at}, {never}) AS replayed FROM {mart}), "
            "seen AS (SELECT event_date, IF(replayed_at IS NULL AND file IS NULL, ingested_at <= ingested, "
            f"ingested_at <= replayed) AS is_due FROM ({self._now}) CROSS JOIN newest), "
            "arrived AS (SELECT event_date, count_if(is_due) AS due, count_if(NOT is_due) AS later FROM seen "
            "GROUP BY event_date) "
            "SELECT event_date, coalesce(counted, 0), coalesce(due, 0), coalesce(later, 0), replayed "
            "FROM built FULL JOIN arrived USING (event_date) CROSS JOIN newest ORDER BY event_date",
        )
        withdrawn = ledger.withdrawn(self._lake.load(USER_ACTIONS).properties, ledger.WITHDRAWN)
        gaps = [
            Gap(
                "aggregate",
                f"fct_events_daily {day}",
                abs(counted - due),
                f"counts {counted} events, {due} are published",
                "aggregate",
            )
            for day, counted, due, _, built_at in days
            if counted != due and not (day in withdrawn and withdrawn[day] > built_at)
        ]
        return sum(day[1] for day in days), sum(day[3] for day in days), gaps


_IS_MESSAGE = "kafka_topic IS NOT NULL AND kafka_partition IS NOT NULL AND kafka_offset IS NOT NULL AS is_message"


def _name(settings: Settings, spec: TableSpec, suffix: str = "") -> str:
    return f'{settings.catalog.name}.{settings.prefix}{spec.namespace}."{spec.name}{suffix}"'


def _as_of(snapshot_id: int | None) -> str:
    return f" FOR VERSION AS OF {snapshot_id}" if snapshot_id is not None else ""


def _later(columns: Iterable[str]) -> str:
    """The columns that came later, or what stands for them in a table that does not have them yet."""
    replayed_at = "replayed_at" if "replayed_at" in columns else "CAST(NULL AS timestamp(6) with time zone)"
    return f"{replayed_at} AS replayed_at, {_of_file(columns)}"


def _of_file(columns: Iterable[str]) -> str:
    if "file" in columns:
        return "file, file_version, file_line"
    return "CAST(NULL AS varchar) AS file, CAST(NULL AS varchar) AS file_version, CAST(NULL AS bigint) AS file_line"


def _of(row: LedgerRow) -> str:
    return f"kafka_topic = {trino.literal(row.topic)} AND kafka_partition = {row.topic_partition}"


def _listed(ranges: Sequence[tuple[int, int]]) -> str:
    shown = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in ranges[:MOST_LISTED])
    more = f" and {len(ranges) - MOST_LISTED} more" if len(ranges) > MOST_LISTED else ""
    return f"offsets {shown}{more}"
