"""Bring a Kafka topic into its tables, each message once, and move the table's own position with the rows.

The road of one run (`run`):

1. The position of each topic partition is read from the events table, the end offsets from Kafka; `plan_ingest` cuts.
2. Spark tasks read exactly their offsets, decode strictly, and write events and refused messages as Parquet files
   (`ingest_task`).
3. The driver commits the refused messages to quarantine, when there are any, with the position they reach.
4. The driver commits the events and the new position to the events table, in one step.

A kill before step 3 leaves files that no table names. A kill between 3 and 4 leaves the quarantine ahead:
the next run starts at the events table's position, looks up which offsets the quarantine already holds from there on,
and writes those neither to quarantine nor to events. So nothing is lost or doubled, wherever a run dies,
even when the rules changed in between.
"""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pyspark.sql import Row, SparkSession

from lakehouse.adapters import kafka, spark
from lakehouse.adapters.catalog import (
    END_OFFSETS,
    START_OFFSETS,
    TOPIC,
    Lake,
    accounts,
    facts_of,
    offsets_text,
    position,
    read_topic_id,
)
from lakehouse.errors import DataLossError, LakehouseError
from lakehouse.ingest_task import REPORT_DDL, IngestTask, Target
from lakehouse.plans import Account, IngestPlan, Offsets, plan_ingest
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_QUARANTINE, TableSpec

Progress = Callable[[int, int], None]
"""Called with (offsets done, offsets to do in this run)."""


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What a run did; printed by `lakehouse ingest run --output json`.

    `absent_offsets` counts offsets that hold no message (transaction markers, compacted messages);
    messages that Kafka lost are an error instead.
    """

    topic: str
    published_rows: int = 0
    quarantined_rows: int = 0
    quarantined_by_reason: dict[str, int] = field(default_factory=dict[str, int])
    absent_offsets: int = 0
    commits: int = 0
    position: dict[int, int] = field(default_factory=dict[int, int])
    seconds: float = 0.0


def run(settings: Settings, progress: Progress | None = None) -> IngestResult:
    """Ingest what the topic of user actions holds at the start of the call, in bounded commits; idempotent.

    Returns:
        Counts of this run; zero when nothing new was there.

    Raises:
        DataLossError: Kafka lost offsets the table has not read.
        FenceError: another ingester moved the position.
        CommitStateUnknownError: run again; the table tells whether the commit landed.
        TransientError: a server did not answer.
    """
    started = time.monotonic()
    topic = settings.user_actions_topic
    lake = Lake(settings)
    events = lake.load(USER_ACTIONS)
    topic_id = _same_topic(settings, topic, read_topic_id(events, topic))
    available = kafka.offsets(settings, topic)
    result = IngestResult(topic, position=position(events, topic))
    to_do = _plan(settings, topic, result.position, available, rows_per_run=None).rows
    done = 0
    with ExitStack() as stack:
        session: SparkSession | None = None
        while done < to_do:
            plan = _plan(settings, topic, result.position, available, settings.ingest.rows_per_run)
            session = session or stack.enter_context(spark.session(settings, f"ingest {topic}"))
            result = _add(result, _run_once(settings, lake, session, plan, topic_id, available))
            done += plan.rows
            if progress:
                progress(done, to_do)
    return replace(result, seconds=round(time.monotonic() - started, 3))


def _same_topic(settings: Settings, topic: str, known: str | None) -> str:
    """Return the topic's id.

    Raises:
        DataLossError: the topic was made anew, so its offsets count other messages than the table's position does.
    """
    found = kafka.topic_id(settings, topic)
    if known not in (None, found):
        raise DataLossError(
            f"topic {topic} was made anew: the table has read the one with id {known}, Kafka has {found}; "
            "read the new one under a new name (LAKEHOUSE_KAFKA__USER_ACTIONS_TOPIC), or restore the old one"
        )
    return found


def _plan(
    settings: Settings,
    topic: str,
    before: Offsets,
    available: dict[int, tuple[int, int]],
    rows_per_run: int | None,
) -> IngestPlan:
    everything = sum(end for _, end in available.values()) + 1
    rows_per_task = settings.ingest.rows_per_task
    return plan_ingest(topic, before, available, rows_per_run=rows_per_run or everything, rows_per_task=rows_per_task)


def _run_once(
    settings: Settings,
    lake: Lake,
    session: SparkSession,
    plan: IngestPlan,
    topic_id: str,
    available: dict[int, tuple[int, int]],
) -> IngestResult:
    """Read, write and commit one plan."""
    run_id = uuid.uuid4().hex
    events, quarantine = lake.load(USER_ACTIONS), lake.load(USER_ACTIONS_QUARANTINE)
    quarantine_before = position(quarantine, plan.topic)
    starts = {partition: plan.before.get(partition, start) for partition, (start, _) in available.items()}
    ahead = any(quarantine_before.get(partition, 0) > start for partition, start in starts.items())
    held = lake.quarantined_offsets(USER_ACTIONS_QUARANTINE, plan.topic, starts) if ahead else {}
    task = IngestTask(
        run_id=run_id,
        ingested_at=datetime.now(UTC),
        s3=settings.s3,
        events=Target(events.location(), lake.write_schema(events, USER_ACTIONS)),
        quarantine=Target(quarantine.location(), lake.write_schema(quarantine, USER_ACTIONS_QUARANTINE)),
        quarantined={partition: frozenset(offsets) for partition, offsets in held.items()},
        rows_per_file=settings.ingest.rows_per_file,
    )
    messages = spark.read_kafka(session, settings, plan.topic, plan.ranges, starts, plan.tasks)
    report = spark.collect(messages.mapInArrow(task, REPORT_DDL))
    absent = _absent(report, plan, held)
    result = _count(report, plan, sum(absent.values()))
    known = accounts(events, plan.topic)
    # A position without an account was not made by an ingest of ours; an audit then asks for everything from 0.
    account = {p: known.get(p, Account(0 if p in plan.before else start)) for p, start in starts.items()}
    account = {p: replace(a, absent_offsets=a.absent_offsets + absent[p]) for p, a in account.items()}

    summary = {
        TOPIC: plan.topic,
        START_OFFSETS: offsets_text(plan.before),
        END_OFFSETS: offsets_text(plan.after),
        "lakehouse.published-rows": str(result.published_rows),
        "lakehouse.quarantined-rows": str(result.quarantined_rows),
    }
    if result.quarantined_rows:
        reached = {p: max(offset, quarantine_before.get(p, 0)) for p, offset in plan.after.items()}
        lake.append(
            USER_ACTIONS_QUARANTINE,
            _files(report, USER_ACTIONS_QUARANTINE),
            topic=plan.topic,
            before=quarantine_before,
            after=reached,
            run_id=run_id,
            summary=summary,
        )
    lake.append(
        USER_ACTIONS,
        _files(report, USER_ACTIONS),
        topic=plan.topic,
        before=plan.before,
        after=plan.after,
        run_id=run_id,
        summary=summary,
        facts=facts_of(plan.topic, topic_id, account),
    )
    return result


def _files(report: Iterable[Row], spec: TableSpec) -> list[str]:
    return [row.file for row in report if row.table == spec.identifier and row.file]


def _absent(report: Iterable[Row], plan: IngestPlan, held: Mapping[int, set[int]]) -> Counter[int]:
    """Count the offsets of each topic partition that are in no table after this run, because they hold no message.

    Raises:
        LakehouseError: the tasks saw more rows than the plan has offsets, so something read or counted twice.
    """
    absent: Counter[int] = Counter()
    for piece in plan.ranges:
        already = sum(piece.start_offset <= o < piece.end_offset for o in held.get(piece.topic_partition, ()))
        absent[piece.topic_partition] = piece.rows - already
    for row in report:
        if row.file is None:
            absent[row.topic_partition] -= row.rows
    if surplus := {p: -rows for p, rows in absent.items() if rows < 0}:
        raise LakehouseError(
            f"more rows than offsets came from {plan.topic} {list(plan.ranges)}, by topic partition {surplus}: "
            "nothing was committed; please report this with the log"
        )
    return absent


def _count(report: Iterable[Row], plan: IngestPlan, absent_offsets: int) -> IngestResult:
    rows: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for row in report:
        if row.file is None:
            rows[row.table] += row.rows
            if row.reason:
                reasons[row.reason] += row.rows
    return IngestResult(
        plan.topic,
        published_rows=rows[USER_ACTIONS.identifier],
        quarantined_rows=rows[USER_ACTIONS_QUARANTINE.identifier],
        quarantined_by_reason=dict(reasons),
        absent_offsets=absent_offsets,
        commits=1,
        position=dict(plan.after),
    )


def _add(total: IngestResult, piece: IngestResult) -> IngestResult:
    reasons = Counter(total.quarantined_by_reason) + Counter(piece.quarantined_by_reason)
    return IngestResult(
        topic=piece.topic,
        published_rows=total.published_rows + piece.published_rows,
        quarantined_rows=total.quarantined_rows + piece.quarantined_rows,
        quarantined_by_reason=dict(sorted(reasons.items())),
        absent_offsets=total.absent_offsets + piece.absent_offsets,
        commits=total.commits + piece.commits,
        position=piece.position,
    )
