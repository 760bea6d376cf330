"""Prove that nothing of the announced files is lost or doubled, and say how far the reading of their topic is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lakehouse.adapters import kafka
from lakehouse.adapters.file_store import FileStore, Gap
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
        TerminalError: the topic or the tables are missing.
    """
    store = FileStore(settings)
    topic = settings.file_notifications_topic
    # First how far the group is: what it passes while this looks is in PostgreSQL before.
    reached = kafka.committed(settings, topic, group(settings))
    available, topic_id = kafka.offsets(settings, topic), kafka.topic_id(settings, topic)
    positions = next_offsets(store, topic_id, reached, available)
    gaps = store.gaps()
    waiting = 0
    for partition, (start, end) in available.items():
        position = positions[partition]
        waiting += max(0, end - max(position, start))
        absent = store.unrecorded(topic_id, start, min(position, end), partition)
        ranges = [OffsetRange(partition, offset, offset + 1) for offset in absent]
        # An offset without a message, such as the mark of a transaction, has no row and needs none.
        found = sum(batch.num_rows for batch in kafka.read_ranges(settings.kafka, topic, ranges)) if ranges else 0
        if found:
            where = f"{topic}/{partition} from offset {absent[0]}"
            gaps.append(Gap("unrecorded messages", where, found, "the group has passed them and no row has them"))
    return FilesAudit(tuple(gaps), waiting, store.counts())


def next_offsets(
    store: FileStore, topic_id: str, reached: Mapping[int, int], available: Mapping[int, tuple[int, int]]
) -> dict[int, int]:
    """Where to go on in each partition: at what the group committed, unless that was in an older topic of this name.

    Kafka forgets a group's offsets with the topic, but not at once. Offsets that were read of this very topic are in
    the store under its id; to read one again changes nothing.
    """
    known = store.partitions(topic_id)
    positions: dict[int, int] = {}
    for partition, (start, end) in available.items():
        offset = reached.get(partition, start)
        is_stale = offset > end or (offset > start and partition not in known)
        positions[partition] = start if is_stale else offset
    return positions
