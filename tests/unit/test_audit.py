"""The pure part of the audit."""

import pytest

from lakehouse.audit import Gap, find_dropped, find_jumps


def test_a_position_that_each_ingest_takes_up_where_the_last_left_it_has_no_jump() -> None:
    assert find_jumps("t", [({}, {0: 5}), ({0: 5}, {0: 9, 1: 2})], {0: 9, 1: 2}) == []


def test_a_jump_between_two_ingests_is_found() -> None:
    assert find_jumps("t", [({}, {0: 5}), ({0: 3}, {0: 9})], {0: 9}) == [
        Gap("position", "t/0", 2, "left at 5, found at 3")
    ]


def test_a_position_that_was_taken_away_is_found() -> None:
    assert find_jumps("t", [({}, {0: 5, 1: 7})], {0: 5}) == [Gap("position", "t/1", 7, "left at 7, found at None")]


def test_an_expired_history_leaves_nothing_to_compare() -> None:
    assert find_jumps("t", [], {0: 5}) == []


def test_offsets_that_kafka_dropped_before_they_were_read_are_found_with_what_to_do() -> None:
    told = "are gone from Kafka before they were read; restore them, or see `lakehouse ingest accept-loss --dry-run`"
    assert find_dropped("t#2", {0: 2, 1: 9, 2: 4}, {0: (6, 6), 1: (3, 9), 2: (5, 8)}) == [
        Gap("kafka", "t#2/0", 4, f"offsets 2 to 5 {told}"),
        Gap("kafka", "t#2/2", 1, f"offsets 4 {told}"),
    ]


def test_a_topic_partition_that_came_later_is_asked_for_from_its_first_offset() -> None:
    assert [(gap.where, gap.rows) for gap in find_dropped("t", {0: 6}, {0: (6, 6), 1: (3, 9)})] == [("t/1", 3)]


@pytest.mark.parametrize(
    ("position", "available"),
    [
        ({}, {0: (6, 9), 1: (2, 2)}),  # never read: it begins where Kafka has it
        ({0: 6}, {0: (6, 9)}),
        ({0: 6}, {0: (6, 6), 1: (0, 3)}),
        ({0: 9}, {0: (0, 6)}),  # past the end, which is another gap
        ({0: 6, 1: 3}, {0: (6, 6)}),
    ],
)
def test_what_was_read_or_never_begun_is_not_dropped(
    position: dict[int, int], available: dict[int, tuple[int, int]]
) -> None:
    assert find_dropped("t", position, available) == []
