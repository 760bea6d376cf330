"""Prove that nothing of the announced files is lost or doubled, and say how far the reading of their topic is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lakehouse.adapters import kafka
from lakehouse.adapters.file_store import FileStore, Gap
from lakehouse.errors import NotMadeError
from lakehouse.plans import OffsetRange
from lakehouse.settings import Settings

GROUP: Final = "file-notifications"


@dataclass(frozen=True, slots=True)
class FilesAudit:
    """What `lakehouse files audit` found.

    Attributes:
        gaps: what does not add up; none, when nothing is lost or doubled.
        waiting: messages that Kafka holds and no run has read.
        counts: files by status, and messages that were refused.
    """

    gaps: tuple[Gap, ...]
    waiting: int
    counts: Mapping[str, int]

    @property
    def ok(self) -> bool:
        """Whether everything adds up."""
        return not self.gaps


def group(settings: Settings) -> str:
    """The consumer group of an environment."""
    return f"{settings.prefix}{GROUP}"


def audit(settings: Settings) -> FilesAudit:
    """Prove that every message that was read is in PostgreSQL, and that the aggregates are those of the ledger.

    Raises:
        TransientError: a server did not answer.
        TerminalError: the tables are missing, or the topic is and no message was ever read.
    """
    store = FileStore(settings)
    topic = settings.file_notifications_topic
    try:
        # First how far the group is: what it passes while this looks is in PostgreSQL before.
        reached = kafka.committed(settings, topic, group(settings))
        available, topic_id = kafka.offsets(settings, topic), kafka.topic_id(settings, topic)
    except NotMadeError as error:
        counts = store.counts()
        if not any(counts.values()):
            raise
        return FilesAudit((Gap("topic gone", topic, 0, str(error)), *store.gaps()), 0, counts)
    positions = next_offsets(store, topic_id, reached, available)
    gaps = store.gaps()
    waiting = 0
    for partition, (start, end) in available.items():
        position = positions[partition]
        waiting += max(0, end - max(position, start))
        if position < start:  # the next run remembers them
            where = f"{topic}/{partition} from offset {position}"
            gaps.append(Gap("lost messages", where, start - position, "Kafka has dropped them before they were read"))
        absent = store.unrecorded(topic_id, start, min(position, end), partition)
        # An offset without a message, such as the mark of a transaction, has no row and needs none.
        found = _messages_at(settings, topic, partition, absent) if absent else 0
        if found:
            where = f"{topic}/{partition} from offset {absent[0]}"
            gaps.append(Gap("unrecorded messages", where, found, "the group has passed them and no row has them"))
    return FilesAudit(tuple(gaps), waiting, store.counts())


def _messages_at(settings: Settings, topic: str, partition: int, offsets: Sequence[int]) -> int:
    """Count the offsets, in their order, at which Kafka has a message; one reading has one range of a partition."""
    wanted, whole = set(offsets), OffsetRange(partition, offsets[0], offsets[-1] + 1)
    batches = kafka.read_ranges(settings.kafka, topic, [whole])
    return sum(len(wanted.intersection(batch.column("offset").to_pylist())) for batch in batches)


def next_offsets(
    store: FileStore, topic_id: str, reached: Mapping[int, int], available: Mapping[int, tuple[int, int]]
) -> dict[int, int]:
    """Where to go on in each partition, by what is in the store, as `plan_offsets`."""
    return plan_offsets(store.passed(topic_id), reached, available)


def plan_offsets(
    passed: Mapping[int, int], reached: Mapping[int, int], available: Mapping[int, tuple[int, int]]
) -> dict[int, int]:
    """Plan where to go on in each partition; before Kafka's start offset when messages are lost.

    What is known of this very topic comes first. The group's word counts beside it, because it has also passed offsets
    without a message; but Kafka forgets it when nothing is committed for some days, and when a topic is made anew it
    may be of the older one for a while. To read a message again changes nothing.

    Args:
        passed: of the topic with this id, by partition, the offset after the last one that was read or is known to be
            lost.
        reached: what the group committed in a topic of this name.
        available: start and end offset of each partition.
    """
    positions: dict[int, int] = {}
    for partition, (start, end) in available.items():
        # A topic of which nothing was ever read begins where Kafka has it; one that was read began at 0.
        offset = reached.get(partition, 0 if passed else start)
        if partition in passed:
            positions[partition] = max(passed[partition], offset if offset <= end else 0)
        else:
            positions[partition] = min(offset, start)
    return positions
