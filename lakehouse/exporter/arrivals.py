"""What comes in and how soon: lag, position, freshness; and what became of it: published, refused, late, replayed."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from lakehouse import ledger
from lakehouse.adapters import kafka
from lakehouse.adapters.ads_store import AdsStore
from lakehouse.adapters.file_store import FileStore
from lakehouse.adapters.observed import position_moved_at
from lakehouse.ads import contract
from lakehouse.audit_notifications import group, next_offsets
from lakehouse.csv_lines import CsvReason
from lakehouse.errors import NotMadeError
from lakehouse.events import Reason, ReasonCode
from lakehouse.exporter.clients import Clients, age
from lakehouse.exporter.looks import Fact
from lakehouse.exporter.metrics import (
    ARCHIVE_AGE_SECONDS,
    BACKUP_AGE_SECONDS,
    FRESHNESS_SECONDS,
    FRESHNESS_TARGET_SECONDS,
    KAFKA_LAG_RECORDS,
    KAFKA_LAG_SECONDS,
    POSITION_AGE_SECONDS,
    ROWS_LATE,
    ROWS_PUBLISHED,
    ROWS_QUARANTINED,
    ROWS_REPLAYED,
    Metric,
)
from lakehouse.file_contract import FileReason
from lakehouse.plans import Available
from lakehouse.settings import Settings
from lakehouse.tables import CSV_FILES, QUERY_HISTORY, USER_ACTIONS, USER_ACTIONS_QUARANTINE

EVENTS = USER_ACTIONS.identifier
QUERIES = QUERY_HISTORY.identifier
QUARANTINE = USER_ACTIONS_QUARANTINE.identifier
AGGREGATES = "reporting.file_aggregates"
IMPRESSIONS = "ads.impressions"
DAILY_QUALITY = "fct_data_quality_daily"


class _Waiting(NamedTuple):
    """What waits in a topic partition: how many offsets, and since when; None when no message does."""

    records: int
    since: datetime | None


def streams(clients: Clients) -> Iterator[Fact]:
    """The lag of the topics that are read into Iceberg tables, and how fresh these are."""
    settings = clients.settings
    fed = {EVENTS: settings.user_actions_topics, QUERIES: (settings.kafka.trino_queries_topic,)}
    for name, topics in fed.items():
        table = clients.lake.table(name)
        if table is None:
            continue
        since = list[datetime | None]()
        for topic in topics:
            with suppress(NotMadeError):  # nobody has sent anything yet
                position = reached(table.properties, topic, kafka.topic_id(settings, topic))
                waiting = _waiting(settings, topic, kafka.offsets(settings, topic), position)
                yield from _lag(settings, topic, waiting)
                since += [one.since for one in waiting.values()]
        yield from _freshness(settings, name, since)


def announcements(clients: Clients) -> Iterator[Fact]:
    """The lag of the topic of announced files, and how fresh their aggregates are."""
    settings = clients.settings
    with suppress(NotMadeError):
        store, topic = FileStore(settings), settings.file_notifications_topic
        since = [store.tally().waiting_since]
        with suppress(NotMadeError):
            committed, available = kafka.committed(settings, topic, group(settings)), kafka.offsets(settings, topic)
            position = next_offsets(store, kafka.topic_id(settings, topic), committed, available)
            waiting = _waiting(settings, topic, available, position)
            yield from _lag(settings, topic, waiting)
            since += [one.since for one in waiting.values()]
        yield from _freshness(settings, AGGREGATES, since)


def positions(clients: Clients) -> Iterator[Fact]:
    """How long ago the position of each table moved."""
    for name in (EVENTS, QUARANTINE, QUERIES):
        table = clients.lake.table(name)
        moved_at = position_moved_at(table) if table else None
        if moved_at:
            yield Fact(POSITION_AGE_SECONDS, age(moved_at), (name,), is_age=True)


def marts(clients: Clients) -> Iterator[Fact]:
    """How fresh the marts are: whether an event waits for all of them, or what is built of one for its publication.

    They are built together, so what any of them holds was there for all; the newest arrival of one alone would tell
    nothing, where no event that came since is of its kind.
    """
    lake = clients.lake
    names = lake.marts()
    newest = max((moment for moment in map(lake.built_through, names) if moment), default=None)
    waits = lake.waiting_since(EVENTS, "ingested_at", newest) if newest else None
    for name in names:
        yield from _freshness(clients.settings, f"marts.{name}", [waits, lake.unpublished_since(name)])


def rows(clients: Clients) -> Iterator[Fact]:
    """How many user actions and queries were published, refused by reason, late and replayed."""
    lake = clients.lake
    # Quarantine first: what it gets after this, the position of the events has not passed either, or will have.
    quarantine, refused = lake.table(QUARANTINE), lake.refused(QUARANTINE)
    events, queries = lake.table(EVENTS), lake.table(QUERIES)
    if events and quarantine:
        messages = sum(count for (_, is_record), count in refused.items() if not is_record)
        records = lake.sum_of(CSV_FILES.identifier, "published_rows")
        brought = published_messages(events.properties, quarantine.properties, messages)
        replayed = replayed_rows(events.properties)
        yield Fact(ROWS_PUBLISHED, brought + records + replayed, (EVENTS,))
        yield Fact(ROWS_REPLAYED, replayed, (EVENTS,))
        by_reason = {reason: refused[reason, True] + refused[reason, False] for reason, _ in refused}
        yield from _refused(EVENTS, by_reason, Reason, CsvReason)
    if queries:
        yield Fact(ROWS_PUBLISHED, published_messages(queries.properties, {}, 0), (QUERIES,))
    late = lake.published_sum(DAILY_QUALITY, "late_message_count")
    if late is not None:
        yield Fact(ROWS_LATE, late, (EVENTS,))


def files(clients: Clients) -> Iterator[Fact]:
    """How many lines of announced files count, and what of them was set aside."""
    with suppress(NotMadeError):
        tally = FileStore(clients.settings).tally()
        yield Fact(ROWS_PUBLISHED, tally.lines, (AGGREGATES,))
        yield from _refused(AGGREGATES, tally.refused, Reason, FileReason)


def ads(clients: Clients) -> Iterator[Fact]:
    """How many impressions came and were refused, and how old their newest backup and archive are."""
    with suppress(NotMadeError), AdsStore(clients.settings).session() as session:
        tally = session.tally()
        yield Fact(ROWS_PUBLISHED, tally.brought_rows, (IMPRESSIONS,))
        yield from _refused(IMPRESSIONS, tally.rejected, contract.Reason)
        if tally.stored_at:
            yield Fact(BACKUP_AGE_SECONDS, age(tally.stored_at), ("ads",), is_age=True)
        if tally.archived_at:
            yield Fact(ARCHIVE_AGE_SECONDS, age(tally.archived_at), ("ads",), is_age=True)


def published_messages(events: ledger.Properties, quarantine: ledger.Properties, refused: int) -> int:
    """How many messages became rows, by what the tables know of their topics.

    A run tells the quarantine how far it is before it tells the events; the further of both counts, so that the refused
    messages of a run under way are not taken for published ones of earlier runs.

    Args:
        events: properties of the table.
        quarantine: properties of its quarantine; none where it has none.
        refused: messages in the quarantine.
    """
    read = 0
    for source in ledger.sources(events):
        reached, ahead = ledger.position(events, source), ledger.position(quarantine, source)
        for partition, account in ledger.accounts(events, source).items():
            offset = max(reached.get(partition, 0), ahead.get(partition, 0))
            read += offset - account.first_offset - account.absent_offsets - account.lost_offsets
    return max(0, read - refused)


def replayed_rows(events: ledger.Properties) -> int:
    """How many rows of the events replays brought back."""
    of_messages = (sum(ledger.replayed(events, source).values()) for source in ledger.sources(events))
    return sum(of_messages) + ledger.csv_replayed(events)


def reached(properties: ledger.Properties, topic: str, topic_id: str) -> dict[int, int]:
    """How far a table has read the topic that has this id now; not at all when it has read another one of its name."""
    known = ledger.sources(properties, topic)
    if not known or ledger.topic_id(properties, known[-1]) not in (None, topic_id):
        return {}
    return ledger.position(properties, known[-1])


def _waiting(settings: Settings, topic: str, available: Available, position: Mapping[int, int]) -> dict[int, _Waiting]:
    following = {partition: max(position.get(partition, start), start) for partition, (start, _) in available.items()}
    lag = {partition: max(0, end - following[partition]) for partition, (_, end) in available.items()}
    behind = {partition: following[partition] for partition, records in lag.items() if records}
    since = kafka.stamped_from(settings, topic, behind) if behind else {}
    return {partition: _Waiting(records, since.get(partition)) for partition, records in lag.items()}


def _lag(settings: Settings, topic: str, waiting: Mapping[int, _Waiting]) -> Iterator[Fact]:
    for partition, one in waiting.items():
        labels = (topic.removeprefix(settings.prefix), str(partition))
        yield Fact(KAFKA_LAG_RECORDS, one.records, labels)
        yield _since(KAFKA_LAG_SECONDS, one.since, labels)


def _freshness(settings: Settings, table: str, since: Iterable[datetime | None]) -> Iterator[Fact]:
    """The age of the oldest thing that waits, and what it may be; None is one that does not wait."""
    yield _since(FRESHNESS_SECONDS, min((moment for moment in since if moment), default=None), (table,))
    targets = settings.exporter
    target = targets.freshness_target_seconds if table == EVENTS else targets.build_target_seconds
    yield Fact(FRESHNESS_TARGET_SECONDS, target, (table,))


def _refused(table: str, counts: Mapping[str, int], *kinds: type[ReasonCode]) -> Iterator[Fact]:
    """The counts by reason; a reason of these kinds that nothing was refused for has 0, so that its first one shows."""
    known = dict.fromkeys((reason.value for kind in kinds for reason in kind), 0)
    for reason, count in sorted((known | dict(counts)).items()):
        yield Fact(ROWS_QUARANTINED, count, (table, reason))


def _since(metric: Metric, moment: datetime | None, labels: tuple[str, ...]) -> Fact:
    return Fact(metric, age(moment) if moment else 0.0, labels, is_age=moment is not None)
