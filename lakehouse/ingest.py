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
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pyspark.sql import Row, SparkSession

from lakehouse.adapters import kafka, spark
from lakehouse.adapters.catalog import Lake, offsets_text, position
from lakehouse.errors import LakehouseError
from lakehouse.ingest_task import REPORT_DDL, IngestTask, Target
from lakehouse.plans import IngestPlan, Offsets, plan_ingest
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
    available = kafka.offsets(settings, topic)
    result = IngestResult(topic, position=position(lake.load(USER_ACTIONS), topic))
    to_do = _plan(settings, topic, result.position, available, rows_per_run=None).rows
    done = 0
    with ExitStack() as stack:
        session: SparkSession | None = None
        while done < to_do:
            plan = _plan(settings, topic, result.position, available, settings.ingest.rows_per_run)
            session = session or stack.enter_context(spark.session(settings, f"ingest {topic}"))
            result = _add(result, _run_once(settings, lake, session, plan, available))
            done += plan.rows
            if progress:
                progress(done, to_do)
    return replace(result, seconds=round(time.monotonic() - started, 3))


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
    settings: Settings, lake: Lake, session: SparkSession, plan: IngestPlan, available: dict[int, tuple[int, int]]
) -> IngestResult:
    """Read, write and commit one plan."""
    run_id = uuid.uuid4().hex
    events, quarantine = lake.load(USER_ACTIONS), lake.load(USER_ACTIONS_QUARANTINE)
    quarantine_before = position(quarantine, plan.topic)
    ahead = any(offset > plan.before.get(partition, 0) for partition, offset in quarantine_before.items())
    held = lake.quarantined_offsets(USER_ACTIONS_QUARANTINE, plan.topic, plan.before) if ahead else {}
    task = IngestTask(
        run_id=run_id,
        ingested_at=datetime.now(UTC),
        s3=settings.s3,
        events=Target(events.location(), lake.write_schema(events, USER_ACTIONS)),
        quarantine=Target(quarantine.location(), lake.write_schema(quarantine, USER_ACTIONS_QUARANTINE)),
        quarantined={partition: frozenset(offsets) for partition, offsets in held.items()},
        rows_per_file=settings.ingest.rows_per_file,
    )
    idle = {partition: plan.before.get(partition, start) for partition, (start, _) in available.items()}
    messages = spark.read_kafka(session, settings, plan.topic, plan.ranges, idle, plan.tasks)
    report = spark.collect(messages.mapInArrow(task, REPORT_DDL))
    result = _count(report, plan, sum(_within(plan, p, o) for p, offsets in held.items() for o in offsets))

    summary = {
        "lakehouse.topic": plan.topic,
        "lakehouse.start-offsets": offsets_text(plan.before),
        "lakehouse.end-offsets": offsets_text(plan.after),
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
    )
    return result


def _files(report: Iterable[Row], spec: TableSpec) -> list[str]:
    return [row.file for row in report if row.table == spec.identifier and row.file]


def _within(plan: IngestPlan, partition: int, offset: int) -> bool:
    return any(r.topic_partition == partition and r.start_offset <= offset < r.end_offset for r in plan.ranges)


def _count(report: Iterable[Row], plan: IngestPlan, held_rows: int) -> IngestResult:
    """Add up what the tasks counted.

    Raises:
        LakehouseError: the tasks saw more rows than the plan has offsets, so something read or counted twice.
    """
    rows: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for row in report:
        if row.file is None:
            rows[row.table] += row.rows
            if row.reason:
                reasons[row.reason] += row.rows
    published, quarantined = rows[USER_ACTIONS.identifier], rows[USER_ACTIONS_QUARANTINE.identifier]
    absent = plan.rows - published - quarantined - held_rows
    if absent < 0:
        raise LakehouseError(
            f"{-absent} rows more than offsets came from {plan.topic} {list(plan.ranges)}: nothing was committed; "
            "please report this with the log"
        )
    return IngestResult(plan.topic, published, quarantined, dict(reasons), absent, 1, dict(plan.after))


def _add(total: IngestResult, piece: IngestResult) -> IngestResult:
    return IngestResult(
        topic=piece.topic,
        published_rows=total.published_rows + piece.published_rows,
        quarantined_rows=total.quarantined_rows + piece.quarantined_rows,
        quarantined_by_reason=dict(sorted((Counter(total.quarantined_by_reason) + Counter(piece.quarantined_by_reason)).items())),
        absent_offsets=total.absent_offsets + piece.absent_offsets,
        commits=total.commits + piece.commits,
        position=piece.position,
    )
