"""Plans: what a job is about to do, computed from state alone, without clock, network or environment."""

from collections.abc import Mapping
from dataclasses import dataclass

from lakehouse.errors import DataLossError

Offsets = Mapping[int, int]
"""Offset per topic partition: the next one to read."""


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """Offsets of one topic partition; `start_offset` is inclusive, `end_offset` exclusive."""

    topic_partition: int
    start_offset: int
    end_offset: int

    @property
    def rows(self) -> int:
        """How many offsets it spans."""
        return self.end_offset - self.start_offset


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """One bounded piece of a topic: read `ranges`, then move the table's position from `before` to `after`."""

    topic: str
    ranges: tuple[OffsetRange, ...]
    before: Offsets
    after: Offsets
    tasks: int

    @property
    def rows(self) -> int:
        """How many offsets it spans."""
        return sum(piece.rows for piece in self.ranges)


def plan_ingest(
    topic: str, position: Offsets, available: Mapping[int, tuple[int, int]], *, rows_per_run: int, rows_per_task: int
) -> IngestPlan:
    """Plan the next run over a topic.

    A topic partition without a position starts at the oldest offset Kafka has.
    When more is there than `rows_per_run`, each topic partition gets its share by its lag.

    Args:
        topic: full name of the topic.
        position: what the table has, per topic partition.
        available: (start_offset, end_offset) that Kafka has, per topic partition.
        rows_per_run: most offsets to take.
        rows_per_task: most offsets for one Spark task.

    Raises:
        DataLossError: Kafka no longer has the position, or never had it.
    """
    starts = {p: position.get(p, start) for p, (start, _) in available.items()}
    _refuse_gaps(topic, position, available)
    lag = {p: available[p][1] - start for p, start in starts.items()}
    total = sum(lag.values())
    share = min(1.0, rows_per_run / total) if total else 0.0
    ranges = tuple(
        OffsetRange(p, start, start + min(lag[p], max(1, int(lag[p] * share))))
        for p, start in sorted(starts.items())
        if lag[p]
    )
    after = dict(position) | {piece.topic_partition: piece.end_offset for piece in ranges}
    rows = sum(piece.rows for piece in ranges)
    return IngestPlan(topic, ranges, dict(position), after, max(1, -(-rows // rows_per_task)))


def _refuse_gaps(topic: str, position: Offsets, available: Mapping[int, tuple[int, int]]) -> None:
    for partition, offset in sorted(position.items()):
        if partition not in available:
            raise DataLossError(
                f"topic {topic} has no partition {partition}, of which the table has read up to offset {offset}: "
                "the topic was made anew; read it under a new name, or restore the old one"
            )
        start, end = available[partition]
        if offset < start:
            raise DataLossError(
                f"offsets {offset} to {start - 1} of {topic}/{partition} are gone from Kafka before they were read: "
                "its retention passed the table's position; restore them, or lengthen retention and accept the loss"
            )
        if offset > end:
            raise DataLossError(
                f"the table has read {topic}/{partition} up to offset {offset} and Kafka ends at {end}: "
                "the topic was made anew or lost data; read it under a new name, or restore the old one"
            )
