"""Prove that nothing is lost or doubled: from Kafka's offsets through the tables down to the daily aggregates.

The ledger of one topic partition: every offset from the first one read up to the table's position is in the events
table, or in quarantine, or holds no message; each once. What does not add up is a `Gap` that names the offsets, the
file or the day.

Trino counts, over two columns of each table; offsets are listed only where the counts disagree.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lakehouse.adapters import kafka, trino
from lakehouse.adapters.catalog import Lake, accounts, advances, position, read_topic_id, topics
from lakehouse.plans import Account, Offsets
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_QUARANTINE, TableSpec

MOST_LISTED = 20
"""How many offset ranges a gap lists at most."""

Kind = Literal["lost", "doubled", "position", "kafka", "file", "aggregate"]


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that does not add up.

    Attributes:
        kind: `lost` or `doubled` rows, a `position` that was moved by hand, offsets that `kafka` does not have,
            a `file` registered twice, a day whose `aggregate` differs from its events.
        where: topic and topic partition, table, or day.
        rows: by how many rows it is off; 0 where that has no meaning.
        detail: the exact offsets, or both figures.
    """

    kind: Kind
    where: str
    rows: int
    detail: str


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """The ledger of one topic partition.

    Attributes:
        first_offset: the first offset ever read.
        position: the next offset to read.
        end_offset: the next offset Kafka will give.
        lag_rows: offsets that wait to be ingested.
        published_rows: rows of the events table.
        quarantined_rows: rows of the quarantine table.
        absent_offsets: offsets that hold no message.
    """

    topic: str
    topic_partition: int
    first_offset: int
    position: int
    end_offset: int
    lag_rows: int
    published_rows: int
    quarantined_rows: int
    absent_offsets: int


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found; `ok` when there is no gap.

    Attributes:
        aggregated_rows: events counted in the daily aggregate; null while it is not built.
        unaggregated_rows: published events that arrived after the aggregate was built.
    """

    ok: bool
    ledger: tuple[LedgerRow, ...]
    gaps: tuple[Gap, ...]
    aggregated_rows: int | None
    unaggregated_rows: int


def audit(settings: Settings) -> AuditReport:
    """Audit the user actions of this environment; an ingest may go on meanwhile.

    Raises:
        TransientError: a server did not answer.
        TerminalError: the tables do not exist.
    """
    events = Lake(settings).load(USER_ACTIONS)
    ledger: list[LedgerRow] = []
    gaps: list[Gap] = []
    for topic in topics(events):
        read, account = position(events, topic), accounts(events, topic)
        messages = _messages(settings, topic, events.metadata.current_snapshot_id, read)
        rows = _ledger(settings, topic, read, account, messages)
        ledger += rows
        gaps += _made_anew(topic, read_topic_id(events, topic), kafka.topic_id(settings, topic))
        gaps += find_jumps(topic, advances(events, topic), read)
        gaps += [gap for row in rows for gap in _unread(row)]
        gaps += _offsets_amiss(settings, rows, messages)
    gaps += _files_twice(settings)
    aggregated, unaggregated, wrong_days = _aggregate(settings)
    gaps += wrong_days
    return AuditReport(not gaps, tuple(ledger), tuple(gaps), aggregated, unaggregated)


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


def _table(settings: Settings, spec: TableSpec, suffix: str = "") -> str:
    return f'{settings.catalog.name}.{settings.prefix}{spec.namespace}."{spec.name}{suffix}"'


def _messages(settings: Settings, topic: str, snapshot_id: int | None, read: Offsets) -> str:
    """SQL of one row per row of a topic in either table: kafka_partition, kafka_offset, published, quarantined.

    The events are those of the snapshot whose position is `read`. The quarantine is committed before the events, so
    what it holds past the position is left out: the run that wrote it has not ended, or the next one will count it.
    """
    version = f" FOR VERSION AS OF {snapshot_id}" if snapshot_id is not None else ""
    literal = topic.replace("'", "''")
    columns = f"kafka_partition, kafka_offset FROM {{}} WHERE kafka_topic = '{literal}'"
    positions = ", ".join(f"({partition}, BIGINT '{offset}')" for partition, offset in sorted(read.items()))
    return (
        f"SELECT 1 AS published, 0 AS quarantined, {columns.format(_table(settings, USER_ACTIONS) + version)} "
        "UNION ALL SELECT 0, 1, kafka_partition, kafka_offset "
        f"FROM (SELECT {columns.format(_table(settings, USER_ACTIONS_QUARANTINE))}) "
        f"JOIN (VALUES {positions}) AS read (topic_partition, position) "
        "ON kafka_partition = topic_partition AND kafka_offset < position"
    )


def _ledger(
    settings: Settings, topic: str, read: Offsets, account: Mapping[int, Account], messages: str
) -> list[LedgerRow]:
    available = kafka.offsets(settings, topic)
    counted = {
        partition: (published, quarantined)
        for partition, published, quarantined in trino.query(
            settings.trino,
            f"SELECT kafka_partition, sum(published), sum(quarantined) FROM ({messages}) GROUP BY kafka_partition",
        )
    }
    rows: list[LedgerRow] = []
    for partition, offset in sorted(read.items()):
        published, quarantined = counted.get(partition, (0, 0))
        known = account.get(partition, Account(0))
        end = available[partition][1] if partition in available else 0
        rows.append(
            LedgerRow(
                topic=topic,
                topic_partition=partition,
                first_offset=known.first_offset,
                position=offset,
                end_offset=end,
                lag_rows=end - offset,
                published_rows=published,
                quarantined_rows=quarantined,
                absent_offsets=known.absent_offsets,
            )
        )
    return rows


def _made_anew(topic: str, known: str | None, found: str) -> Iterable[Gap]:
    if known not in (None, found):
        yield Gap("kafka", topic, 0, f"the table has read the topic with id {known}, Kafka has made it anew as {found}")


def _unread(row: LedgerRow) -> Iterable[Gap]:
    if row.lag_rows < 0:
        detail = f"the table has read up to {row.position}, Kafka ends at {row.end_offset}"
        yield Gap("kafka", f"{row.topic}/{row.topic_partition}", -row.lag_rows, detail)


def _offsets_amiss(settings: Settings, rows: Sequence[LedgerRow], messages: str) -> list[Gap]:
    """Find offsets that are in the tables more than once, and offsets below the position that are in none."""
    repeated: dict[int, list[tuple[int, int]]] = {}
    for partition, offset, count in trino.query(
        settings.trino,
        f"SELECT kafka_partition, kafka_offset, count(*) FROM ({messages}) "
        "GROUP BY kafka_partition, kafka_offset HAVING count(*) > 1 ORDER BY 1, 2",
    ):
        repeated.setdefault(partition, []).append((offset, count - 1))
    gaps: list[Gap] = []
    for row in rows:
        where = f"{row.topic}/{row.topic_partition}"
        doubled = repeated.get(row.topic_partition, [])
        surplus = sum(more for _, more in doubled)
        if surplus:
            gaps.append(Gap("doubled", where, surplus, _listed([(offset, offset) for offset, _ in doubled])))
        present = row.published_rows + row.quarantined_rows - surplus
        missing = row.position - row.first_offset - row.absent_offsets - present
        if missing > 0:
            gaps.append(Gap("lost", where, missing, _listed(_holes(settings, row, messages))))
        elif missing < 0:
            detail = f"{-missing} rows more than there are offsets from {row.first_offset} to {row.position - 1}"
            gaps.append(Gap("doubled", where, -missing, detail))
    return gaps


def _holes(settings: Settings, row: LedgerRow, messages: str) -> list[tuple[int, int]]:
    """The ranges of offsets, both ends inclusive, that are in no table."""
    # An offset before the first and one at the position turn both edges into ordinary holes.
    offsets = (
        f"SELECT kafka_offset FROM ({messages}) WHERE kafka_partition = {row.topic_partition} "
        f"UNION SELECT * FROM (VALUES BIGINT '{row.first_offset - 1}', BIGINT '{row.position}')"
    )
    holes = trino.query(
        settings.trino,
        "SELECT kafka_offset + 1, following - 1 FROM (SELECT kafka_offset, lead(kafka_offset) OVER "
        f"(ORDER BY kafka_offset) AS following FROM ({offsets})) WHERE following > kafka_offset + 1 ORDER BY 1",
    )
    return [(first, last) for first, last in holes]


def _listed(ranges: Sequence[tuple[int, int]]) -> str:
    shown = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in ranges[:MOST_LISTED])
    more = f" and {len(ranges) - MOST_LISTED} more" if len(ranges) > MOST_LISTED else ""
    return f"offsets {shown}{more}"


def _files_twice(settings: Settings) -> list[Gap]:
    gaps: list[Gap] = []
    for spec in (USER_ACTIONS, USER_ACTIONS_QUARANTINE):
        rows = trino.query(
            settings.trino,
            f"SELECT file_path, max(record_count), count(*) FROM {_table(settings, spec, '$files')} "
            "GROUP BY file_path HAVING count(*) > 1 ORDER BY 1",
        )
        gaps += [
            Gap("file", spec.identifier, records * (count - 1), f"{path} is registered {count} times")
            for path, records, count in rows
        ]
    return gaps


def _aggregate(settings: Settings) -> tuple[int | None, int, list[Gap]]:
    """Compare the daily aggregate with the events it was built from; those that came later wait for the next build."""
    schema = f"{settings.prefix}marts"
    built = trino.query(
        settings.trino,
        "SELECT 1 FROM system.metadata.table_comments WHERE catalog_name = ? AND schema_name = ? "
        "AND table_name = 'fct_events_daily'",
        [settings.catalog.name, schema],
    )
    events = _table(settings, USER_ACTIONS)
    if not built:
        ((rows,),) = trino.query(settings.trino, f"SELECT count(*) FROM {events}")
        return None, rows, []
    mart = f"{settings.catalog.name}.{schema}.fct_events_daily"
    days = trino.query(
        settings.trino,
        f"WITH built AS (SELECT event_date, sum(event_count) AS counted FROM {mart} GROUP BY event_date), "
        f"newest AS (SELECT coalesce(max(last_ingested_at), TIMESTAMP '1970-01-01 00:00:00 UTC') AS at FROM {mart}), "
        "arrived AS (SELECT event_date, count_if(ingested_at <= at) AS due, count_if(ingested_at > at) AS later "
        f"FROM {events} CROSS JOIN newest GROUP BY event_date) "
        "SELECT event_date, coalesce(counted, 0), coalesce(due, 0), coalesce(later, 0) "
        "FROM built FULL JOIN arrived USING (event_date) ORDER BY event_date",
    )
    gaps = [
        Gap("aggregate", f"fct_events_daily {day}", abs(counted - due), f"counts {counted} events, {due} are published")
        for day, counted, due, _ in days
        if counted != due
    ]
    return sum(day[1] for day in days), sum(day[3] for day in days), gaps
