"""The ledger of announced files: what follows from notifications, and from what the files turned out to be. Pure.

One row for each version of a file. A row is `pending` until a run has read the file; then it is `done`: its lines
count, or `failed`: it is set aside with a reason, or `replaced`: a newer version of the same object counts instead. Of
one object at most one version is `done`: the newest by the object store's own time, in whatever order the versions were
announced.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Final, Literal, NamedTuple, get_args

from lakehouse.file_contract import FileReason, FileVersion, Notification, Refusal

Status = Literal["pending", "done", "failed", "replaced"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)

Outcome = Literal["announced", "repeated", "refused"]

ALONE_AFTER: Final = 2
"""Runs that ended without a verdict on a file; from then on it is read in a job of its own."""
GIVE_UP_AFTER: Final = 5
"""Runs that ended without a verdict on a file; then it is set aside."""


class Coordinates(NamedTuple):
    """Where a message stands; Kafka's id of the topic tells apart one that was made anew under the same name."""

    topic_id: str
    topic_partition: int
    kafka_offset: int


class Day(NamedTuple):
    """What is aggregated together."""

    dataset: str
    event_date: date


@dataclass(frozen=True, slots=True)
class Drained:
    """A message of the topic, with the contract's verdict on it."""

    coordinates: Coordinates
    kafka_timestamp: datetime
    raw: bytes | None
    verdict: Notification | Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """A row of the ledger.

    Attributes:
        announced: the message that says what the row does.
        announced_at: Kafka's time of the first message that announced the version; of `announced` where only the ETag
            names it.
        modified_at: when the object store got the version; None until it was looked at.
        line_count: None until it was read.
        attempts: runs that took it on and have not come to a verdict.
        ended_at: when it got its status; None while it is pending.
    """

    file_id: int
    notification: Notification
    status: Status
    announced: Coordinates
    announced_at: datetime
    modified_at: datetime | None = None
    line_count: int | None = None
    reason: str | None = None
    message: str | None = None
    attempts: int = 0
    ended_at: datetime | None = None

    @property
    def day(self) -> Day:
        """The day whose aggregates its lines belong to."""
        return Day(self.notification.dataset, self.notification.event_date)

    @property
    def object(self) -> tuple[str, str]:
        """Bucket and key: what has versions."""
        return self.notification.bucket, self.notification.key

    @property
    def age(self) -> tuple[datetime, datetime, int, int]:
        """What orders the versions of an object; the store's time is in seconds, so the announcement decides ties."""
        modified_at = self.modified_at or datetime.min.replace(tzinfo=UTC)
        return modified_at, self.announced_at, self.announced.topic_partition, self.announced.kafka_offset


@dataclass(frozen=True, slots=True)
class AnnouncementPlan:
    """What to write for messages.

    Attributes:
        outcomes: of each message, in their order, with why it was refused.
        announced: for each file whose row is to be made, or to become pending again, the message that says so.
    """

    outcomes: tuple[tuple[Drained, Outcome, Refusal | None], ...]
    announced: Mapping[FileVersion, Drained]


def plan_announcements(known: Iterable[LedgerRow], drained: Sequence[Drained]) -> AnnouncementPlan:
    """Judge messages beside what the ledger knows.

    A file that counts is not touched by any message: one that says the same is a repetition, and one that says
    something else is refused. Of a file that is pending or set aside the newest message holds. One that was replaced is
    looked at again where its ETag alone names it, because without versions in the bucket the same bytes may have come
    back; a version with an id stays the older one.

    Args:
        known: the rows of the files that the messages name, at least.
        drained: messages, in the order of each topic partition.
    """
    said: dict[FileVersion, tuple[Status, Notification]] = {
        row.notification.file: (row.status, row.notification) for row in known
    }
    outcomes: list[tuple[Drained, Outcome, Refusal | None]] = []
    announced: dict[FileVersion, Drained] = {}
    for one in drained:
        notification = one.verdict
        if isinstance(notification, Refusal):
            outcomes.append((one, "refused", notification))
            continue
        status, before = said.get(notification.file, (None, None))
        same = before is not None and _content(before) == _content(notification)
        if status == "done" and not same:
            refusal = Refusal(FileReason.ANNOUNCED_DIFFERENTLY, "upload it again to correct it", None)
            outcomes.append((one, "refused", refusal))
        elif same and (status in {"done", "pending"} or (status == "replaced" and notification.version_id)):
            outcomes.append((one, "repeated", None))
        else:
            outcomes.append((one, "announced", None))
            announced[notification.file] = one
            said[notification.file] = "pending", notification
    return AnnouncementPlan(tuple(outcomes), announced)


def _content(notification: Notification) -> tuple[object, ...]:
    said = notification
    return said.size_bytes, said.sha256, said.format, said.dataset, said.event_date


@dataclass(frozen=True, slots=True)
class WorkPlan:
    """What to make of files that were read and found good.

    Attributes:
        done: those whose lines count from now on.
        replaced: rows that a newer version takes the place of; some counted, some never did.
        incomplete: those that can't count yet, each with the file that is gone.
        days: the days to compute anew, each with all rows that count for it.
    """

    done: tuple[LedgerRow, ...] = ()
    replaced: tuple[LedgerRow, ...] = ()
    incomplete: tuple[tuple[LedgerRow, LedgerRow], ...] = ()
    days: Mapping[Day, tuple[LedgerRow, ...]] = field(default_factory=dict[Day, tuple[LedgerRow, ...]])


def plan_work(counted: Sequence[LedgerRow], good: Sequence[LedgerRow], gone: Collection[int]) -> WorkPlan:
    """Plan which days to compute anew, of which files.

    Args:
        counted: the rows that are `done`, of all days that `good` or an older version of it belongs to, at least.
        good: rows that were read and found good, with the store's time.
        gone: ids of counted rows whose object is no longer there, so that their days can't be computed.
    """
    incomplete: list[tuple[LedgerRow, LedgerRow]] = []
    left = list(good)
    while True:
        plan = _plan(counted, left)
        missing = {day: row for day, rows in plan.days.items() for row in rows if row.file_id in gone}
        if not missing:
            break
        # A file waits when its own day, or that of the version it would replace, can't be computed.
        leaves = {row.object: row.day for row in plan.replaced if row.status == "done"}
        waiting = {
            row.file_id: (row, missing.get(row.day) or missing[leaves[row.object]])
            for row in plan.done
            if row.day in missing or leaves.get(row.object) in missing
        }
        incomplete += waiting.values()
        left = [row for row in left if row.file_id not in waiting]
    return WorkPlan(plan.done, plan.replaced, tuple(incomplete), plan.days)


def _plan(counted: Sequence[LedgerRow], good: Sequence[LedgerRow]) -> WorkPlan:
    newest: dict[tuple[str, str], LedgerRow] = {}
    for row in (*counted, *good):
        if row.object not in newest or row.age > newest[row.object].age:
            newest[row.object] = row
    counts = {row.file_id for row in newest.values()}
    done = [row for row in good if row.file_id in counts]
    replaced = [row for row in (*counted, *good) if row.file_id not in counts]
    touched = {row.day for row in done} | {row.day for row in replaced if row.status == "done"}
    days = {day: tuple(row for row in newest.values() if row.day == day) for day in sorted(touched)}
    return WorkPlan(tuple(done), tuple(replaced), (), days)
