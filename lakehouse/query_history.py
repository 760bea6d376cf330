"""Keep a history of the queries that Trino ran: from its events in Kafka into the table `ops.query_history`.

Trino's event listener sends one message for each query that ended, failed or not. `collect` moves the messages into
the table, each once: the rows and the position that they bring the table to are one commit, as those of ingest are.
A message that can't be read becomes a row that says so, so nothing stops the ones behind it.

What can be missing: queries that ended while Kafka was away longer than Trino keeps their events, or just before Trino
was killed. What Kafka dropped before it was collected is counted in the answer and in the ledger of the table.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from lakehouse import ledger
from lakehouse.adapters import kafka
from lakehouse.adapters.catalog import Lake
from lakehouse.plans import Account, Available, lost_ranges, plan_ingest, strayed
from lakehouse.settings import Settings
from lakehouse.tables import QUERY_HISTORY

ROWS_AT_ONCE: Final = 20_000
"""Queries that one commit takes at most."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did; printed by `lakehouse queries collect --output json`.

    Attributes:
        rows: queries that came into the table.
        unreadable_rows: those among them whose event could not be read.
        lost_rows: offsets that Kafka dropped before they were collected.
    """

    rows: int = 0
    unreadable_rows: int = 0
    lost_rows: int = 0
    commits: int = 0


def collect(settings: Settings) -> Collected:
    """Bring the events that Kafka holds at the start of the call into the table; idempotent.

    Raises:
        FenceError: another collection was quicker; nothing was written twice.
        CommitStateUnknownError: run again; the table tells whether the commit landed.
        TransientError: a server did not answer.
        TerminalError: the topic or the table does not exist.
    """
    lake = Lake(settings)
    topic = settings.kafka.trino_queries_topic
    available, kafka_id = kafka.offsets(settings, topic), kafka.topic_id(settings, topic)
    total = Collected()
    while (step := _step(settings, lake, kafka_id, available)) is not None:
        total = Collected(
            rows=total.rows + step.rows,
            unreadable_rows=total.unreadable_rows + step.unreadable_rows,
            lost_rows=total.lost_rows + step.lost_rows,
            commits=total.commits + 1,
        )
    return total


def _step(settings: Settings, lake: Lake, kafka_id: str, available: Available) -> Collected | None:
    """Bring at most `ROWS_AT_ONCE` events into the table by one commit; None when there is nothing to do."""
    table = lake.load(QUERY_HISTORY)
    topic = settings.kafka.trino_queries_topic
    source, position, accounts = _start(table.properties, topic, kafka_id, available)
    lost = lost_ranges(position, available)
    for piece in lost:
        account = accounts.get(piece.topic_partition, Account(0))
        accounts[piece.topic_partition] = replace(account, lost_offsets=account.lost_offsets + piece.rows)
    reached = position | {piece.topic_partition: piece.end_offset for piece in lost}
    plan = plan_ingest(source, reached, available, rows_per_run=ROWS_AT_ONCE)
    if not plan.rows and not lost:
        return None
    run_id, now = uuid.uuid4().hex, datetime.now(UTC)
    rows = [
        read_event(message["value"], message["timestamp"])
        | {
            "kafka_topic": source,
            "kafka_partition": message["partition"],
            "kafka_offset": message["offset"],
            "kafka_timestamp": message["timestamp"],
            "collected_at": now,
        }
        for batch in kafka.read_ranges(settings.kafka, topic, plan.ranges)
        for message in batch.to_pylist()
    ]
    for partition, (start, _) in available.items():
        accounts.setdefault(partition, Account(0 if partition in reached else start))
    changed = ledger.entries(source, plan.after, kafka_id, accounts, run_id)
    lake.append(
        QUERY_HISTORY,
        lake.write_rows(table, QUERY_HISTORY, rows, run_id),
        expected=ledger.found(table.properties, *changed),
        properties=changed,
        run_id=run_id,
        summary=ledger.move(source, position, plan.after),
    )
    return Collected(
        rows=len(rows),
        unreadable_rows=sum(row["problem"] is not None for row in rows),
        lost_rows=sum(piece.rows for piece in lost),
    )


def _start(
    properties: ledger.Properties, topic: str, kafka_id: str, available: Available
) -> tuple[str, dict[int, int], dict[int, Account]]:
    """The source to read, its position and its accounts; a topic that was made anew is a source of its own."""
    known = ledger.sources(properties, topic)
    if not known:
        return topic, {}, {}
    source = known[-1]
    position = ledger.position(properties, source)
    if ledger.topic_id(properties, source) not in (None, kafka_id) or strayed(source, position, available):
        return ledger.next_generation(source), {}, {}
    return source, position, ledger.accounts(properties, source)


def read_event(value: bytes | None, arrived_at: datetime) -> dict[str, Any]:
    """Read what the table keeps of one event of Trino's Kafka event listener; by column, without coordinates.

    Args:
        value: the message's bytes.
        arrived_at: Kafka's time of it, which stands in for the query's own where the event can't be read.

    Source: Trino's `QueryCompletedEvent`.
    """
    try:
        row = _columns(orjson.loads(value or b"")["eventPayload"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        row: dict[str, Any] = dict.fromkeys(_COLUMNS)
        row |= {"problem": f"{type(error).__name__}: {error}", "ended_at": arrived_at}
    return row | {"ended_date": row["ended_at"].astimezone(UTC).date()}


def _columns(event: Mapping[str, Any]) -> dict[str, Any]:
    metadata, context, statistics = event["metadata"], event["context"], event["statistics"]
    failure = event.get("failureInfo") or {}
    error = failure.get("errorCode") or {}
    return {
        "query_id": metadata["queryId"],
        "state": metadata["queryState"],
        "trino_user": context["user"],
        "source": context.get("source"),
        "resource_group": ".".join(context["resourceGroupId"]) if context.get("resourceGroupId") else None,
        "catalog_name": context.get("catalog"),
        "schema_name": context.get("schema"),
        "query_type": context.get("queryType"),
        "query": metadata["query"],
        "error_type": error.get("type"),
        "error_name": error.get("name"),
        "error_message": failure.get("failureMessage"),
        "created_at": datetime.fromisoformat(event["createTime"]),
        "ended_at": datetime.fromisoformat(event["endTime"]),
        "wall_seconds": statistics["wallTime"],
        "queued_seconds": statistics["queuedTime"],
        "cpu_seconds": statistics["cpuTime"],
        "peak_memory_bytes": statistics["peakUserMemoryBytes"],
        "read_bytes": statistics["physicalInputBytes"],
        "read_rows": statistics["physicalInputRows"],
        "written_bytes": statistics["writtenBytes"],
        "written_rows": statistics["writtenRows"],
        "output_rows": statistics["outputRows"],
        "problem": None,
    }


_COLUMNS: Final = tuple(
    column.name
    for column in QUERY_HISTORY.columns
    if not column.name.startswith("kafka_") and column.name != "collected_at"
)
