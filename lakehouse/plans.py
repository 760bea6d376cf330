"""Plans: what a job is about to do, computed from state alone, without clock, network or environment."""

from collections.abc import Mapping
from dataclasses import dataclass

from lakehouse.errors import DataLossError

Offsets = Mapping[int, int]
"""Offset per topic partition: the next one to read."""

Available = Mapping[int, tuple[int, int]]
"""What Kafka has: (start_offset, end_offset) per topic partition."""

ACCEPT = "restore them, or see `lakehouse ingest accept-loss --dry-run`"


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
        lost_offsets: offsets since then that Kafka dropped before they were read, accepted by a person.
    """

    first_offset: int
    absent_offsets: int = 0
    lost_offsets: int = 0


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """One bounded piece of a topic: read `ranges`, then move the table's position from `before` to `after`.

    `after` names every topic partition, also one that was empty: else nobody could tell later that Kafka dropped
    the first messages of it before they were read. `source` is the topic as the table knows it.
    """

    source: str
    ranges: tuple[OffsetRange, ...]
    before: Offsets
    after: Offsets

    @property
    def rows(self) -> int:
        """How many offsets it spans."""
        return sum(piece.rows for piece in self.ranges)

    def shares(self, rows_per_task: int) -> tuple[tuple[OffsetRange, ...], ...]:
        """Cut the ranges into shares of so many offsets, the last one with what is left; a share may hold several."""
        shares: list[list[OffsetRange]] = []
        room = 0
        for piece in self.ranges:
            start = piece.start_offset
            while start < piece.end_offset:
                if not room:
                    shares.append([])
                    room = rows_per_task
                end = min(piece.end_offset, start + room)
                shares[-1].append(OffsetRange(piece.topic_partition, start, end))
                room -= end - start
                start = end
        return tuple(map(tuple, shares))


def plan_ingest(source: str, position: Offsets, available: Available, *, rows_per_run: int) -> IngestPlan:
    """Plan the next run over a topic.

    A topic without a position starts at the oldest offsets Kafka has, a topic partition that came later at offset 0.
    When more is there than `rows_per_run`, each topic partition gets its share by its lag.

    Args:
        source: the topic as the table knows it.
        position: what the table has, per topic partition.
        available: what Kafka has.
        rows_per_run: most offsets to take.

    Raises:
        DataLossError: Kafka no longer has the position, or never had it.
    """
    if problem := strayed(source, position, available):
        raise DataLossError(f"{problem}; {ACCEPT}")
    if lost := lost_ranges(position, available):
        ranges = ", ".join(f"{x.start_offset} to {x.end_offset - 1} of {source}/{x.topic_partition}" for x in lost)
        raise DataLossError(
            f"offsets {ranges} are gone from Kafka before they were read: lengthen its retention; {ACCEPT}"
        )
    starts = {p: position.get(p, start) for p, (start, _) in sorted(available.items())}
    rows = _shares({p: available[p][1] - start for p, start in starts.items()}, rows_per_run)
    ranges = tuple(OffsetRange(p, start, start + rows[p]) for p, start in starts.items() if rows[p])
    after = {p: start + rows[p] for p, start in starts.items()}
    return IngestPlan(source, ranges, dict(position), after)


def up_to(ends: Offsets, position: Offsets, available: Available) -> Available:
    """Leave out of what Kafka has the offsets from `ends` on, and none that the table has read already.

    Args:
        ends: end offset per topic partition; one that is missing ends where Kafka ends.
        position: what the table has, per topic partition.
        available: what Kafka has.
    """
    return {
        p: (start, min(end, max(start, ends.get(p, end), position.get(p, start))))
        for p, (start, end) in available.items()
    }


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


def lost_ranges(position: Offsets, available: Available) -> tuple[OffsetRange, ...]:
    """The offsets that Kafka dropped before the table had read them.

    A topic without a position has lost nothing; of a topic partition that came later, everything counts.
    """
    if not position:
        return ()
    starts = {p: (position.get(p, 0), start) for p, (start, _) in sorted(available.items())}
    return tuple(OffsetRange(p, offset, start) for p, (offset, start) in starts.items() if offset < start)


def strayed(source: str, position: Offsets, available: Available) -> str | None:
    """Say how a position can't be one of this topic, whose offsets then mean other messages; None when it can."""
    for partition, offset in sorted(position.items()):
        if partition not in available:
            return f"{source} has no partition {partition}, of which the table has read up to offset {offset}"
        if offset > available[partition][1]:
            return (
                f"the table has read {source}/{partition} up to offset {offset} and Kafka ends at "
                f"{available[partition][1]}: the topic was made anew or lost messages"
            )
    return None
