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
class Account:
    """What the position of a topic partition alone can't tell an audit.

    Attributes:
        first_offset: the first offset ever asked for.
        absent_offsets: offsets since then that held no message (transaction markers, compacted messages).
    """

    first_offset: int
    absent_offsets: int = 0


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """One bounded piece of a topic: read `ranges`, then move the table's position from `before` to `after`.

    `after` names every topic partition, also one that was empty: else nobody could tell later that Kafka dropped
    the first messages of it before they were read.
    """

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

    A topic without a position starts at the oldest offsets Kafka has, a topic partition that came later at offset 0.
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
    _refuse_gaps(topic, position, available)
    starts = {p: position.get(p, start) for p, (start, _) in sorted(available.items())}
    rows = _shares({p: available[p][1] - start for p, start in starts.items()}, rows_per_run)
    ranges = tuple(OffsetRange(p, start, start + rows[p]) for p, start in starts.items() if rows[p])
    after = {p: start + rows[p] for p, start in starts.items()}
    return IngestPlan(topic, ranges, dict(position), after, max(1, -(-sum(rows.values()) // rows_per_task)))


def _shares(lags: Mapping[int, int], most: int) -> dict[int, int]:
    """Cut `most` in proportion to the lags; what rounding leaves goes to the largest remainders."""
    total = sum(lags.values())
    if total <= most:
        return dict(lags)
    shares = {p: lag * most // total for p, lag in lags.items()}
    by_remainder = sorted(lags, key=lambda p: lags[p] * most % total, reverse=True)
    for p in by_remainder[: most - sum(shares.values())]:
        shares[p] += 1
    return shares


def _refuse_gaps(topic: str, position: Offsets, available: Mapping[int, tuple[int, int]]) -> None:
    for partition, (start, _) in sorted(available.items()):
        if position and partition not in position and start > 0:
            raise DataLossError(
                f"offsets 0 to {start - 1} of {topic}/{partition} are gone from Kafka before they were read: "
                "the partition is new to the table; restore them, or lengthen retention and accept the loss"
            )
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
