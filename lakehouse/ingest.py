"""Bring Kafka topics into their tables, each message once, and move the table's own position with the rows.

The road of one step (`_Ingester.step`), of which `run` and `follow` make many:

1. The position of each topic partition is read from the events table, the end offsets from Kafka; `plan_ingest` cuts.
2. Spark tasks read exactly their offsets from Kafka, decode strictly, and write events and refused messages as
   Parquet files (`ingest_task`).
3. The driver commits the refused messages to quarantine, when there are any, with the position they reach.
4. The driver commits the events and the new position to the events table, in one step.

A kill before 3 leaves files that no table names. A kill between 3 and 4 leaves the quarantine ahead:
the next step starts at the events table's position, looks up which offsets the quarantine already holds from there on,
and writes those neither to quarantine nor to events. So nothing is lost or doubled, wherever a run dies,
even when the rules changed in between.
"""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Self

from pyspark.sql import Row, SparkSession

from lakehouse import ledger
from lakehouse.adapters import kafka, spark
from lakehouse.adapters.catalog import Lake
from lakehouse.errors import (
    CommitStateUnknownError,
    DataLossError,
    FenceError,
    LakehouseError,
    SparkEndedError,
    TransientError,
)
from lakehouse.events import RULE_VERSION
from lakehouse.ingest_task import REPORT_DDL, IngestTask, ReadTask, Target
from lakehouse.plans import ACCEPT, Account, Available, IngestPlan, plan_ingest, up_to
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_QUARANTINE, TableSpec

Progress = Callable[[int, int], None]
"""Called with (offsets done, offsets to do in this run)."""

MOST_WAIT_SECONDS = 30.0
"""How long `follow` waits at most between two attempts while a server is down."""


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What a run did; printed by `lakehouse ingest run --output json`.

    Attributes:
        absent_offsets: offsets that hold no message (transaction markers, compacted messages); messages that Kafka
            lost are an error instead.
        lag_rows: offsets that waited in Kafka, by what was known when the last step began, less those it took.
        position: next offset to read, by source and topic partition.
    """

    published_rows: int = 0
    quarantined_rows: int = 0
    quarantined_by_reason: dict[str, int] = field(default_factory=dict[str, int])
    absent_offsets: int = 0
    commits: int = 0
    lag_rows: int = 0
    position: dict[str, dict[int, int]] = field(default_factory=dict[str, dict[int, int]])
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Notice:
    """What `follow` has to say: how far it is, or what holds it up.

    Attributes:
        total: everything since it began.
        problem: why the last step failed; it is tried again. None after a step that went well.
    """

    total: IngestResult
    problem: str | None = None


def run(settings: Settings, progress: Progress | None = None, until: datetime | None = None) -> IngestResult:
    """Ingest what the topics hold at the start of the call, in bounded commits; idempotent.

    Args:
        settings: of the environment.
        progress: called now and then.
        until: leave messages that Kafka stamped at this moment or later to another run.

    Returns:
        Counts of this run; zero when nothing new was there.

    Raises:
        DataLossError: Kafka lost offsets the table has not read.
        FenceError: another ingester moved the position.
        CommitStateUnknownError: run again; the table tells whether the commit landed.
        TransientError: a server did not answer.
    """
    started = time.monotonic()
    total = IngestResult()
    with _Ingester(settings) as ingester:
        waits = {topic: ingester.look(topic, until) for topic in settings.user_actions_topics}
        to_do = sum(rows for rows, _ in waits.values())
        done = 0
        for topic, (rows, available) in waits.items():
            left = rows
            while left:
                before = done
                step = ingester.step(topic, available, progress and (lambda n, at=before: progress(at + n, to_do)))
                total = _add(total, step)
                done, left = done + left - step.lag_rows, step.lag_rows
                if progress:
                    progress(done, to_do)
            total = replace(total, position=total.position | ingester.position(topic))
    return replace(total, seconds=round(time.monotonic() - started, 3))


def follow(settings: Settings, stop: threading.Event, tell: Callable[[Notice], None]) -> IngestResult:
    """Ingest until `stop` is set, and commit every `ingest.commit_seconds`; what began before the stop is committed.

    While a server is down nothing is read, so nothing piles up here: the backlog waits in Kafka, and a step reads
    at most `ingest.rows_per_run` of it.

    Args:
        settings: of the environment.
        stop: set it to end; a signal handler may.
        tell: called after every step that did something, and with each problem.

    Raises:
        DataLossError: Kafka lost offsets the table has not read.
        TerminalError: something else that a person has to mend.
        SparkEndedError: Spark itself died; start the program again.
    """
    started = time.monotonic()
    total, wait = IngestResult(), 0.0
    with _Ingester(settings) as ingester:
        while not stop.is_set():
            step_started = time.monotonic()
            lag_rows = 0
            try:
                for topic in settings.user_actions_topics:
                    step = ingester.step(topic)
                    lag_rows += step.lag_rows
                    total = replace(_add(total, step), seconds=round(time.monotonic() - started, 3))
                    if step.commits:
                        tell(Notice(total))
            except SparkEndedError:
                raise
            except (TransientError, CommitStateUnknownError, FenceError) as error:
                tell(Notice(total, str(error)))
                wait = min(MOST_WAIT_SECONDS, max(1.0, 2 * wait))
                stop.wait(wait)
                continue
            wait = 0.0
            if not lag_rows:
                stop.wait(max(0.0, step_started + settings.ingest.commit_seconds - time.monotonic()))
    return replace(total, seconds=round(time.monotonic() - started, 3))


class _Ingester:
    """Takes one step after another; connects to the catalog and opens a Spark session when it needs them first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open = ExitStack()
        self._session: SparkSession | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def look(self, topic: str, until: datetime | None = None) -> tuple[int, Available]:
        """How many offsets of a topic wait, and what Kafka has of it from before this moment."""
        available = kafka.offsets(self._settings, topic)
        properties = self._properties()
        source, _ = self._source(properties, topic)
        if until is not None:
            ends = kafka.offsets_at(self._settings, topic, until)
            available = up_to(ends, ledger.position(properties, source), available)
        return self._plan(source, properties, available, rows_per_run=None).rows, available

    def position(self, topic: str) -> dict[str, dict[int, int]]:
        """The position of the newest source of a topic."""
        properties = self._properties()
        known = ledger.sources(properties, topic)
        return {source: ledger.position(properties, source) for source in known[-1:]}

    def step(
        self, topic: str, available: Available | None = None, progress: Callable[[int], None] | None = None
    ) -> IngestResult:
        """Bring at most `ingest.rows_per_run` offsets of a topic into the tables, by one commit to each.

        Args:
            topic: full name.
            available: what to take of it; None for what Kafka has now.
            progress: called now and then with the offsets read so far.
        """
        run_id = uuid.uuid4().hex
        lake = self._lake
        quarantine = lake.load_to_write(USER_ACTIONS_QUARANTINE, RULE_VERSION)
        events = lake.load_to_write(USER_ACTIONS, RULE_VERSION)
        available = available or kafka.offsets(self._settings, topic)
        source, kafka_id = self._source(events.properties, topic)
        plan = self._plan(source, events.properties, available, self._settings.ingest.rows_per_run)
        if not plan.rows:
            return IngestResult()
        starts = {partition: plan.before.get(partition, start) for partition, (start, _) in available.items()}
        quarantine_before = ledger.position(quarantine.properties, source)
        ahead = any(quarantine_before.get(partition, 0) > start for partition, start in starts.items())
        held = lake.quarantined_offsets(USER_ACTIONS_QUARANTINE, source, starts) if ahead else {}
        task = IngestTask(
            run_id=run_id,
            source=source,
            ingested_at=datetime.now(UTC),
            s3=self._settings.s3,
            events=Target(events.location(), lake.write_schema(events, USER_ACTIONS)),
            quarantine=Target(quarantine.location(), lake.write_schema(quarantine, USER_ACTIONS_QUARANTINE)),
            quarantined={partition: frozenset(offsets) for partition, offsets in held.items()},
            rows_per_file=self._settings.ingest.rows_per_file,
        )
        shares = plan.shares(self._settings.ingest.rows_per_task)
        report = spark.run_tasks(
            self._spark(),
            ReadTask(self._settings.kafka, topic, shares, task),
            len(shares),
            REPORT_DDL,
            (lambda share: progress(int(share * plan.rows))) if progress else None,
        )
        absent = _absent(report, plan, held)
        result = _count(report, plan, sum(absent.values()))
        known = ledger.accounts(events.properties, source)
        # A position without an account was not made by an ingest of ours; an audit then asks for everything from 0.
        account = {p: known.get(p, Account(0 if p in plan.before else start)) for p, start in starts.items()}
        account = {p: replace(a, absent_offsets=a.absent_offsets + absent[p]) for p, a in account.items()}

        summary = ledger.move(source, plan.before, plan.after) | {
            "lakehouse.published-rows": str(result.published_rows),
            "lakehouse.quarantined-rows": str(result.quarantined_rows),
        }

        def commit(spec: TableSpec, properties: ledger.Properties, changed: ledger.Properties) -> None:
            lake.append(
                spec,
                _files(report, spec),
                expected=ledger.found(properties, ledger.RULES, *changed),
                properties=changed,
                run_id=run_id,
                summary=summary,
            )

        if result.quarantined_rows:
            reached = {p: max(offset, quarantine_before.get(p, 0)) for p, offset in plan.after.items()}
            changed = {ledger.POSITION + source: ledger.offsets_text(reached), ledger.RUN + source: run_id}
            commit(USER_ACTIONS_QUARANTINE, quarantine.properties, changed)
        commit(USER_ACTIONS, events.properties, ledger.entries(source, plan.after, kafka_id, account, run_id))
        waiting = sum(end - plan.after[partition] for partition, (_, end) in available.items())
        return replace(result, lag_rows=waiting)

    def _spark(self) -> SparkSession:
        if self._session is None:
            self._session = self._open.enter_context(spark.session(self._settings, "lakehouse ingest"))
        return self._session

    @cached_property
    def _lake(self) -> Lake:
        return Lake(self._settings)

    def _properties(self) -> ledger.Properties:
        return self._lake.load(USER_ACTIONS).properties

    def _plan(
        self, source: str, properties: ledger.Properties, available: Available, rows_per_run: int | None
    ) -> IngestPlan:
        return plan_ingest(
            source,
            ledger.position(properties, source),
            available,
            rows_per_run=rows_per_run or sum(end for _, end in available.values()) + 1,
        )

    def _source(self, properties: ledger.Properties, topic: str) -> tuple[str, str]:
        """The source that a topic is now, and Kafka's id of it.

        Raises:
            DataLossError: the topic was made anew, so its offsets count other messages than the table's position does.
        """
        found = kafka.topic_id(self._settings, topic)
        known = ledger.sources(properties, topic)
        if not known:
            return topic, found
        read = ledger.topic_id(properties, known[-1])
        if read not in (None, found):
            raise DataLossError(
                f"topic {topic} was made anew: the table has read the one with id {read}, Kafka has {found}; {ACCEPT}"
            )
        return known[-1], found


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
            f"more rows than offsets came from {plan.source} {list(plan.ranges)}, by topic partition {surplus}: "
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
        published_rows=rows[USER_ACTIONS.identifier],
        quarantined_rows=rows[USER_ACTIONS_QUARANTINE.identifier],
        quarantined_by_reason=dict(reasons),
        absent_offsets=absent_offsets,
        commits=1,
        position={plan.source: dict(plan.after)},
    )


def _add(total: IngestResult, piece: IngestResult) -> IngestResult:
    reasons = Counter(total.quarantined_by_reason) + Counter(piece.quarantined_by_reason)
    return IngestResult(
        published_rows=total.published_rows + piece.published_rows,
        quarantined_rows=total.quarantined_rows + piece.quarantined_rows,
        quarantined_by_reason=dict(sorted(reasons.items())),
        absent_offsets=total.absent_offsets + piece.absent_offsets,
        commits=total.commits + piece.commits,
        lag_rows=piece.lag_rows,
        position=total.position | piece.position,
    )
