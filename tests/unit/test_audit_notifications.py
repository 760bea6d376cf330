"""Where a run goes on in the topic of announced files, whatever Kafka has dropped or forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.audit_notifications import plan_offsets


@pytest.mark.parametrize(
    ("passed", "reached", "available", "position"),
    [
        # What the group has committed, and what it has passed without a message.
        ({0: 5}, {0: 5}, (0, 9), 5),
        ({0: 5}, {0: 6}, (6, 9), 6),
        # Kafka has forgotten the group; what it has dropped meanwhile is lost, and what is known to be lost is not.
        ({0: 5}, {}, (0, 9), 5),
        ({0: 5}, {}, (7, 9), 5),
        ({0: 7}, {}, (7, 9), 7),
        ({1: 4}, {}, (1, 1), 0),
        # A run was killed before it committed.
        ({0: 5}, {0: 2}, (4, 9), 5),
        # The group's offset is of an older topic of this name.
        ({}, {0: 50}, (0, 9), 0),
        ({}, {0: 5}, (0, 9), 0),
        ({0: 3}, {0: 50}, (0, 9), 3),
        # Nothing was ever read.
        ({}, {}, (0, 0), 0),
        ({}, {}, (6, 9), 6),
        ({}, {0: 0}, (1, 1), 0),
    ],
)
def test_a_run_goes_on_after_what_is_known_of_this_very_topic(
    passed: dict[int, int], reached: dict[int, int], available: tuple[int, int], position: int
) -> None:
    assert plan_offsets(passed, reached, {0: available}) == {0: position}


@given(
    st.lists(
        st.sampled_from(["send", "drop", "forget", "run", "killed early", "killed late", "made anew"]), max_size=20
    )
)
def test_every_message_is_read_or_known_to_be_lost_whatever_happens_in_between(happening: list[str]) -> None:
    start = end = since = 0
    reached = dict[int, int]()
    read, lost = set[int](), set[int]()
    for what in [*happening, "run"]:
        match what:
            case "send":
                end += 2
            case "drop":
                start = end
            case "forget":
                reached = {}
            case "made anew":
                start = end = since = 0
                read, lost = set(), set()
            case _:
                passed = {0: max(read | lost) + 1} if read | lost else {}
                position = plan_offsets(passed, reached, {0: (start, end)})[0]
                if not passed:
                    since = start
                if position < reached.get(0, 0):
                    reached = {0: position}
                lost |= set(range(position, start))
                following = range(max(position, start), end)
                read |= set(following[:1] if what == "killed early" else following)
                if what == "run":
                    reached = {0: end}
    assert read | lost >= set(range(since, end))
    assert not read & lost
