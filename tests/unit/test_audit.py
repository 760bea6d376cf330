"""The pure part of the audit."""

from lakehouse.audit import Gap, find_jumps


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
