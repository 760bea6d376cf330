"""Plans of ingest: by hand where the numbers matter, by Hypothesis where all numbers do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.errors import DataLossError
from lakehouse.plans import OffsetRange, plan_ingest, up_to

PLENTY = 10**9

# Of each topic partition: its number, (offset of the table, or None when it has none; start and end in Kafka).
partitions = st.dictionaries(
    st.integers(0, 40),
    st.tuples(st.integers(0, 10**12), st.integers(0, 10**9), st.integers(0, 10**9)).map(
        lambda t: (t[0] + t[1], t[0], t[0] + t[1] + t[2])
    ),
    min_size=1,
    max_size=12,
)
caps = st.integers(1, 10**10)


def offsets_of(topic: dict[int, tuple[int, int, int]]) -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
    return {p: at for p, (at, _, _) in topic.items()}, {p: (start, end) for p, (_, start, end) in topic.items()}


def test_a_first_run_reads_all_that_kafka_has() -> None:
    plan = plan_ingest("t", {}, {1: (7, 9), 0: (0, 5)}, rows_per_run=PLENTY)
    assert plan.ranges == (OffsetRange(0, 0, 5), OffsetRange(1, 7, 9))
    assert (plan.source, plan.before, plan.after, plan.rows) == ("t", {}, {0: 5, 1: 9}, 7)


def test_a_later_run_starts_where_the_table_stands() -> None:
    plan = plan_ingest("t", {0: 3, 1: 9}, {0: (0, 5), 1: (7, 9)}, rows_per_run=PLENTY)
    assert plan.ranges == (OffsetRange(0, 3, 5),)
    assert (plan.before, plan.after) == ({0: 3, 1: 9}, {0: 5, 1: 9})


def test_nothing_new_is_a_plan_without_ranges() -> None:
    plan = plan_ingest("t", {0: 5}, {0: (0, 5)}, rows_per_run=PLENTY)
    assert (plan.ranges, plan.rows, plan.after) == ((), 0, {0: 5})


def test_an_empty_topic_partition_gets_its_position_too() -> None:
    plan = plan_ingest("t", {}, {0: (0, 5), 1: (0, 0)}, rows_per_run=PLENTY)
    assert plan.ranges == (OffsetRange(0, 0, 5),)
    assert plan.after == {0: 5, 1: 0}


def test_a_cap_is_shared_by_lag() -> None:
    available = {0: (0, 900), 1: (0, 90), 2: (0, 10)}
    plan = plan_ingest("t", {}, available, rows_per_run=100)
    assert plan.ranges == (OffsetRange(0, 0, 90), OffsetRange(1, 0, 9), OffsetRange(2, 0, 1))


def test_a_cap_below_the_number_of_topic_partitions_is_kept() -> None:
    plan = plan_ingest("t", {}, dict.fromkeys(range(4), (0, 5)), rows_per_run=1)
    assert plan.ranges == (OffsetRange(0, 0, 1),)
    assert plan.after == {0: 1, 1: 0, 2: 0, 3: 0}


def test_a_topic_partition_added_later_is_read_from_its_first_message() -> None:
    plan = plan_ingest("t", {0: 5}, {0: (0, 5), 1: (0, 2)}, rows_per_run=PLENTY)
    assert plan.ranges == (OffsetRange(1, 0, 2),)
    assert plan.after == {0: 5, 1: 2}


@pytest.mark.parametrize(
    ("position", "taken"),
    [
        ({}, {0: (2, 6), 1: (0, 4), 2: (5, 5)}),
        ({0: 3, 1: 0, 2: 7}, {0: (2, 6), 1: (0, 4), 2: (5, 7)}),  # 2 was read past that moment
        ({0: 8, 1: 4, 2: 5}, {0: (2, 8), 1: (0, 4), 2: (5, 5)}),
        ({0: 20}, {0: (2, 9), 1: (0, 4), 2: (5, 5)}),  # which planning then refuses: Kafka ends before
    ],
)
def test_what_came_later_is_left_out_and_what_was_read_is_not(
    position: dict[int, int], taken: dict[int, tuple[int, int]]
) -> None:
    available = {0: (2, 9), 1: (0, 4), 2: (5, 8)}
    assert up_to({0: 6, 2: 5}, position, available) == taken


@pytest.mark.parametrize(
    ("position", "available", "told"),
    [
        ({0: 4}, {0: (7, 9)}, "offsets 4 to 6 of t/0 are gone"),
        ({0: 10}, {0: (0, 9)}, "t/0 up to offset 10 and Kafka ends at 9"),
        ({0: 1, 1: 3}, {0: (0, 1)}, "no partition 1, of which the table has read up to offset 3"),
        ({0: 5}, {0: (0, 5), 1: (2, 4)}, "offsets 0 to 1 of t/1 are gone"),
    ],
)
def test_a_gap_is_an_error_that_names_it(
    position: dict[int, int], available: dict[int, tuple[int, int]], told: str
) -> None:
    with pytest.raises(DataLossError, match=told):
        plan_ingest("t", position, available, rows_per_run=PLENTY)


@given(partitions, caps, caps)
def test_a_plan_covers_what_lies_past_the_position_up_to_the_cap(
    topic: dict[int, tuple[int, int, int]], rows_per_run: int, rows_per_task: int
) -> None:
    position, available = offsets_of(topic)
    plan = plan_ingest("t", position, available, rows_per_run=rows_per_run)
    assert plan.rows == min(rows_per_run, sum(end - at for at, _, end in topic.values()))
    assert len({piece.topic_partition for piece in plan.ranges}) == len(plan.ranges)
    for piece in plan.ranges:
        at, _, end = topic[piece.topic_partition]
        assert at == piece.start_offset < piece.end_offset <= end
        assert plan.after[piece.topic_partition] == piece.end_offset
    idle = topic.keys() - {piece.topic_partition for piece in plan.ranges}
    assert {p: plan.after[p] for p in idle} == {p: position[p] for p in idle}
    rows_per_task = max(rows_per_task, plan.rows // 50 + 1)
    shares = plan.shares(rows_per_task)
    assert [sum(piece.rows for piece in share) for share in shares[:-1]] == [rows_per_task] * (len(shares) - 1)
    assert len(shares) == -(-plan.rows // rows_per_task)
    assert _joined(shares) == list(plan.ranges)


@given(partitions, st.integers(2, 20))
def test_plans_one_after_another_read_every_offset_once(topic: dict[int, tuple[int, int, int]], runs: int) -> None:
    position, available = offsets_of(topic)
    to_do = sum(end - at for at, _, end in topic.values())
    cap = max(1, -(-to_do // runs))
    reached = dict(position)
    for _ in range(runs):
        plan = plan_ingest("t", reached, available, rows_per_run=cap)
        assert all(piece.start_offset == reached[piece.topic_partition] for piece in plan.ranges)
        reached = dict(plan.after)
    assert reached == {p: end for p, (_, _, end) in topic.items()}


@given(partitions, st.data())
def test_a_position_that_kafka_no_longer_has_is_refused(
    topic: dict[int, tuple[int, int, int]], data: st.DataObject
) -> None:
    position, available = offsets_of(topic)
    victim = data.draw(st.sampled_from(sorted(topic)))
    _, start, end = topic[victim]
    lost = [st.integers(end + 1, end + 10**6)] + ([st.integers(0, start - 1)] if start else [])
    position[victim] = data.draw(st.one_of(lost))
    with pytest.raises(DataLossError, match=f"t/{victim} "):
        plan_ingest("t", position, available, rows_per_run=PLENTY)


def _joined(shares: tuple[tuple[OffsetRange, ...], ...]) -> list[OffsetRange]:
    """Put pieces together where one ends as the next of its topic partition starts."""
    joined: list[OffsetRange] = []
    for piece in (piece for share in shares for piece in share):
        last = joined[-1] if joined else None
        if last and (last.topic_partition, last.end_offset) == (piece.topic_partition, piece.start_offset):
            joined[-1] = OffsetRange(piece.topic_partition, last.start_offset, piece.end_offset)
        else:
            joined.append(piece)
    return joined


def test_shares_are_cut_across_topic_partitions() -> None:
    plan = plan_ingest("t", {}, {0: (0, 5), 1: (10, 12), 2: (0, 4)}, rows_per_run=PLENTY)
    assert plan.shares(4) == (
        (OffsetRange(0, 0, 4),),
        (OffsetRange(0, 4, 5), OffsetRange(1, 10, 12), OffsetRange(2, 0, 1)),
        (OffsetRange(2, 1, 4),),
    )
    assert plan.shares(100) == (plan.ranges,)
