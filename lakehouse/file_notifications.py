"""Announced files: from Kafka's notifications over S3 and Spark into PostgreSQL, each version of a file counted once.

The road of a run:

1. What the topic holds is read to the end offsets at the start, and written into PostgreSQL message by message, with
   the files that they announce, in one transaction a batch. Then the consumer group's offsets are committed to Kafka.
2. Pending files are taken on, some at a time. Spark reads each to its end and says whether it is what was announced.
   Those that are not are set aside with their reason.
3. For the days that the others belong to, Spark reads all files that count and aggregates them.
4. One transaction replaces these days' aggregates and says of the files that they count.

A kill before the transaction of a step leaves everything as it was before the step, and the next run does it again;
nothing in between is kept anywhere else. A day is always computed from all of its files, so order, repetition and
correction of files make no difference.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Final, NamedTuple, Self

import pyarrow as pa
from pyspark.sql import DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812 - as everywhere

from lakehouse.adapters import kafka, spark
from lakehouse.adapters.file_store import Aggregate, FileStore, Verdict
from lakehouse.audit_notifications import group, next_offsets
from lakehouse.errors import (
    DataLossError,
    LakehouseError,
    ServerUnavailableError,
    SettingsError,
    SparkEndedError,
    TransientError,
)
from lakehouse.file_contract import FileReason, decode
from lakehouse.file_ledger import Coordinates, Day, Drained, LedgerRow, WorkPlan, plan_work
from lakehouse.file_task import FINDINGS_DDL, LINES_DDL, CheckTask, LinesTask, plan_tasks
from lakehouse.plans import OffsetRange
from lakehouse.settings import Settings

PARTITION_BYTES: Final = 64 << 20
"""Bytes of files for each partition that Spark sorts; what does not fit into memory lies on disk meanwhile."""
MOST_PARTITIONS: Final = 2000

Progress = Callable[[int, int], None]
"""Called with (files done, files to do as far as is known)."""


@dataclass(frozen=True, slots=True)
class FilesResult:
    """What a run did; printed by `lakehouse files run --output json`.

    Attributes:
        notifications: messages that were new.
        announced: of them, those that made a file pending.
        repeated: of them, those that said what was known.
        refused: of them, those that were set aside.
        done: files whose lines count from now on.
        failed: files that were set aside, by reason.
        replaced: versions of files that count no more, or never did, because a newer one does.
        days: how many days were computed anew.
        lines: of the files in `done`.
        lost_notifications: messages that Kafka dropped before they were read.
    """

    notifications: int = 0
    announced: int = 0
    repeated: int = 0
    refused: int = 0
    done: int = 0
    failed: dict[str, int] = field(default_factory=dict[str, int])
    replaced: int = 0
    days: int = 0
    lines: int = 0
    lost_notifications: int = 0
    seconds: float = 0.0


def run(settings: Settings, progress: Progress | None = None) -> FilesResult:
    """Take up the notifications that Kafka holds at the start of the call, and work on all pending files; idempotent.

    Raises:
        DataLossError: Kafka has dropped notifications before they were read; everything else was done, the loss is
            remembered, and the next run goes on.
        TransientError: a server did not answer, or another run is at work.
        SettingsError: the object store does not know the pipeline's key.
        TerminalError: the topic or the tables are missing.
    """
    started = time.monotonic()
    store = FileStore(settings)
    with store.working():
        reading = _look(settings, store)
        result = FilesResult(lost_notifications=sum(piece.rows for piece in reading.lost))
        lost = [
            f"{reading.topic}/{p.topic_partition} offsets {p.start_offset} to {p.end_offset - 1}" for p in reading.lost
        ]
        loss = DataLossError(
            f"Kafka had dropped {result.lost_notifications:,} notifications before they were read: {', '.join(lost)}; "
            "announce again the files that came meanwhile, then `lakehouse files accept-loss`. The next run goes on"
        )
        try:
            result = _drain(settings, store, reading, result)
            with _Worker(settings, store, progress) as worker:
                result = worker.work(result)
        except TransientError as error:
            if lost:  # this is said once, and what failed is done again anyway
                raise loss from error
            raise
    if lost:
        raise loss
    return replace(result, seconds=round(time.monotonic() - started, 3))


def judge_again(settings: Settings) -> FilesResult:
    """Judge the messages that are refused by the contract and the ledger of today; those accepted become pending."""
    store = FileStore(settings)
    drained = [
        Drained(coordinates, stamped, raw, decode(raw, stamped, settings.s3.file_drop_bucket))
        for coordinates, stamped, raw in store.refused()
    ]
    recorded = store.judge_again(drained)
    return FilesResult(**asdict(recorded))


class _Reading(NamedTuple):
    """What there is to read of the topic, what is lost of it, and the end offset of each partition."""

    topic: str
    topic_id: str
    ranges: list[OffsetRange]
    lost: list[OffsetRange]
    ends: dict[int, int]


def _look(settings: Settings, store: FileStore) -> _Reading:
    """Look what the topic holds now, and remember what of it is lost."""
    topic, members = settings.file_notifications_topic, group(settings)
    available, topic_id = kafka.offsets(settings, topic), kafka.topic_id(settings, topic)
    reached = kafka.committed(settings, topic, members)
    position = next_offsets(store, topic_id, reached, available)
    # Said before anything is read: as soon as some messages of this topic are known, offsets of an older one of this
    # name would be believed, and a partition without an offset would count as one that was to be read from 0.
    said = {partition: offset for partition, offset in position.items() if offset < reached.get(partition, offset + 1)}
    if said:
        kafka.commit(settings, topic, members, said)
    lost = [
        OffsetRange(partition, position[partition], start)
        for partition, (start, _) in available.items()
        if position[partition] < start
    ]
    if lost:
        starts = [
            (Coordinates(topic_id, piece.topic_partition, piece.start_offset), piece.end_offset) for piece in lost
        ]
        store.lose(topic, starts)
    ranges = [
        OffsetRange(partition, max(position[partition], start), end)
        for partition, (start, end) in available.items()
        if max(position[partition], start) < end
    ]
    return _Reading(topic, topic_id, ranges, lost, {partition: end for partition, (_, end) in available.items()})


def _drain(settings: Settings, store: FileStore, reading: _Reading, result: FilesResult) -> FilesResult:
    """Write what there is to read into the store; returns what became of it."""
    batches = kafka.read_ranges(settings.kafka, reading.topic, reading.ranges) if reading.ranges else ()
    for batch in batches:
        recorded = store.record(reading.topic, _judge(settings, reading.topic_id, batch))
        result = replace(
            result,
            notifications=result.notifications + recorded.notifications,
            announced=result.announced + recorded.announced,
            repeated=result.repeated + recorded.repeated,
            refused=result.refused + recorded.refused,
        )
    # Also where nothing came, because Kafka forgets a group that commits nothing for some days.
    kafka.commit(settings, reading.topic, group(settings), reading.ends)
    return result


def _judge(settings: Settings, topic_id: str, batch: pa.RecordBatch) -> list[Drained]:
    return [
        Drained(
            Coordinates(topic_id, message["partition"], message["offset"]),
            message["timestamp"],
            message["value"],
            decode(message["value"], message["timestamp"], settings.s3.file_drop_bucket),
        )
        for message in batch.to_pylist()
    ]


class _Worker:
    """Works on pending files, batch after batch; opens a Spark session when it needs one."""

    def __init__(self, settings: Settings, store: FileStore, progress: Progress | None) -> None:
        self._settings, self._store, self._progress = settings, store, progress
        self._run_id = uuid.uuid4().hex
        self._session: SparkSession | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def work(self, result: FilesResult) -> FilesResult:
        """Work on every pending file once; what goes wrong with one batch is raised after the others had their turn."""
        problem: LakehouseError | None = None
        if given_up := self._store.give_up():
            result = _add(result, failed={FileReason.GAVE_UP: given_up})
        to_do = self._store.counts()["pending"]
        tried = 0
        # A session before a claim, so that no file is blamed for a Spark that can't start.
        while to_do and self._spark() and (claimed := self._claim()):
            try:
                result = self._batch(claimed, result)
            except SparkEndedError:
                raise
            except TransientError as error:
                problem = error
                if isinstance(error, ServerUnavailableError):
                    break
            tried += len(claimed)
            if self._progress:
                self._progress(tried, max(to_do, tried))
        if problem:
            raise problem
        return result

    def _claim(self) -> list[LedgerRow]:
        return self._store.claim(self._run_id, self._settings.files.files_per_job)

    def _batch(self, claimed: Sequence[LedgerRow], result: FilesResult) -> FilesResult:
        counted = self._store.counted_beside(claimed)  # `finish` looks whether it is still so
        findings = self._check(claimed, counted)
        away = [row for row in (*claimed, *counted) if findings[row.file_id].finding in _OF_THE_STORE]
        if away:
            self._store.release(claimed)
            found = findings[away[0].file_id]
            raise _OF_THE_STORE[found.finding](found.message)
        bad = [
            Verdict(row, FileReason(findings[row.file_id].reason), findings[row.file_id].message)
            for row in claimed
            if findings[row.file_id].finding == "bad"
        ]
        self._store.set_aside(self._run_id, bad)
        good = [_read(row, findings[row.file_id]) for row in claimed if findings[row.file_id].finding == "good"]
        gone = {row.file_id for row in counted if findings[row.file_id].finding == "bad"}
        unserved = {row.file_id for row in (*claimed, *counted) if findings[row.file_id].finding == "unserved"}
        plan = plan_work(counted, good, gone | unserved)
        # A file that is gone stays so, until somebody acts; one that is not served may be in the next run.
        held_up = [pair for pair in plan.incomplete if pair[1].file_id in unserved]
        plan = replace(plan, incomplete=tuple(pair for pair in plan.incomplete if pair not in held_up))
        waiting = [*((row, row) for row in claimed if row.file_id in unserved), *held_up]
        self._store.postpone(self._run_id, [(row, findings[missing.file_id].message) for row, missing in waiting])
        if good:
            self._store.finish(self._run_id, claimed, good, counted, plan, self._aggregates(plan))
        if waiting:
            raise TransientError(
                f"{len(waiting):,} files wait, because the object store answers and does not serve what they need: "
                f"{findings[waiting[0][1].file_id].message}; see `lakehouse files list --status pending`"
            )
        reasons = [verdict.reason for verdict in bad] + [FileReason.DAY_INCOMPLETE] * len(plan.incomplete)
        return _add(
            result,
            failed={reason: reasons.count(reason) for reason in set(reasons)},
            done=len(plan.done),
            replaced=len(plan.replaced),
            days=len(plan.days),
            lines=sum(row.line_count or 0 for row in plan.done),
        )

    def _check(self, claimed: Sequence[LedgerRow], counted: Sequence[LedgerRow]) -> dict[int, Row]:
        """Have Spark read what was claimed and look at what counts beside it; returns the finding of each row."""
        rows = [*claimed, *counted]
        sizes = [row.notification.size_bytes for row in claimed] + [0] * len(counted)
        task = CheckTask(
            self._settings.s3,
            tuple(row.notification for row in rows),
            plan_tasks(sizes),
            frozenset(range(len(claimed), len(rows))),
        )
        found = spark.run_tasks(self._spark(), task, len(task.tasks), FINDINGS_DDL)
        return {rows[finding.number].file_id: finding for finding in found}

    def _aggregates(self, plan: WorkPlan) -> Iterator[Aggregate]:
        """Have Spark aggregate the days of a plan; the job has run when this returns."""
        days = list(plan.days)
        files = [(number, row.notification) for number, day in enumerate(days) for row in plan.days[day]]
        if not files:
            return iter(())
        sizes = [notification.size_bytes for _, notification in files]
        task = LinesTask(self._settings.s3, tuple(files), plan_tasks(sizes))
        lines = spark.task_frame(self._spark(), task, len(task.tasks), LINES_DDL)
        partitions = min(
            MOST_PARTITIONS, max(self._spark().sparkContext.defaultParallelism, sum(sizes) // PARTITION_BYTES)
        )
        # Spread once more, because rows are fetched one partition after the other: so all of them are computed side by
        # side before the first row comes, and no transaction waits for it.
        rows = spark.rows(aggregate(lines, partitions).repartition(partitions))
        first = next(rows, None)
        return (_aggregate(row, days) for row in chain(() if first is None else (first,), rows))

    def _spark(self) -> SparkSession:
        if self._session is None:
            self._session = self._open.enter_context(spark.session(self._settings, "lakehouse files"))
        return self._session


_OF_THE_STORE: Final[Mapping[str, type[LakehouseError]]] = {
    "unavailable": ServerUnavailableError,
    "misconfigured": SettingsError,
}


def aggregate(lines: DataFrame, partitions: int) -> DataFrame:
    """Aggregate lines by day and product, exactly, in memory that does not grow with them.

    The lines are brought together by day and product once; all that follows sorts and counts within a partition, and
    Spark's sort goes to disk where memory ends. So the median is exact, of however many lines.

    Args:
        lines: columns as `file_task.LINES`.
        partitions: into how many the products are spread.

    Returns:
        One row for each day and product: `day`, `sku`, and the measures of `file_store.Aggregate`.
    """
    key = ["day", "sku"]
    product = Window.partitionBy(*key)
    ranked = (
        lines.repartition(partitions, *key)
        .withColumn("place", F.row_number().over(product.orderBy("amount")))
        .withColumn("places", F.count("*").over(product))
    )
    middle = F.col("place").isin(F.expr("(places + 1) div 2"), F.expr("places div 2 + 1"))
    return ranked.groupBy(*key).agg(
        F.max("product_name").alias("product_name"),
        F.count("*").alias("line_count"),
        F.count_distinct("user_id").alias("user_count"),
        F.sum("quantity").alias("quantity_sum"),
        F.sum("amount").alias("amount_sum"),
        F.min("amount").alias("amount_min"),
        F.max("amount").alias("amount_max"),
        F.avg("amount").alias("amount_mean"),
        F.avg(F.when(middle, F.col("amount"))).alias("amount_median"),
    )


def _aggregate(row: Row, days: Sequence[Day]) -> Aggregate:
    measures: dict[str, Any] = {name: row[name] for name in Aggregate._fields[1:]}
    return Aggregate(day=days[row.day], **measures)


def _read(row: LedgerRow, finding: Row) -> LedgerRow:
    modified_at = datetime.fromtimestamp(finding.modified_seconds, UTC)
    return replace(row, line_count=finding.line_count, modified_at=modified_at)


def _add(result: FilesResult, *, failed: Mapping[str, int], **more: int) -> FilesResult:
    reasons = {reason: result.failed.get(reason, 0) + failed.get(reason, 0) for reason in {*result.failed, *failed}}
    added = {name: getattr(result, name) + count for name, count in more.items()}
    return replace(result, failed=dict(sorted(reasons.items())), **added)
