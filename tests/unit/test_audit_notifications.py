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
        st.tuples(
            st.sampled_from(["send", "drop", "forget", "run", "killed early", "killed late", "made anew"]),
            st.integers(0, 1),
        ),
        max_size=20,
    )
)
def test_every_message_is_read_or_known_to_be_lost_whatever_happens_in_between(
    happening: list[tuple[str, int]],
) -> None:
    available, since = {0: (0, 0), 1: (0, 0)}, {0: 0, 1: 0}
    reached = dict[int, int]()
    read, lost = set[tuple[int, int]](), set[tuple[int, int]]()
    has_looked, is_sure = False, True
    for what, one in [*happening, ("run", 0)]:
        start, end = available[one]
        match what:
            case "send":
                available[one] = (start, end + 2)
            case "drop":
                available[one] = (end, end)
            case "forget":
                reached, has_looked, is_sure = {}, bool(read | lost), not read | lost
            case "made anew":
                available, since = {0: (0, 0), 1: (0, 0)}, {0: 0, 1: 0}
                read, lost = set(), set()
                has_looked, is_sure = False, not reached  # the group's offsets are of the older topic
            case _:
                known = read | lost
                passed = {p: max(offset for at, offset in known if at == p) + 1 for p in {at for at, _ in known}}
                position = plan_offsets(passed, reached, available)
                if not has_looked:  # what is gone before the first look is no loss
                    since, has_looked = {p: start for p, (start, _) in available.items()}, True
                # As a run does before it reads.
                reached |= {p: offset for p, offset in position.items() if offset < reached.get(p, offset + 1)}
                lost |= {(p, offset) for p, (start, _) in available.items() for offset in range(position[p], start)}
                following = [
                    (p, offset)
                    for p, (start, end) in available.items()
                    for offset in range(max(position[p], start), end)
                ]
                read |= set(following[:1] if what == "killed early" else following)
                if what == "run":
                    reached = {p: end for p, (_, end) in available.items()}
    assert read | lost >= {(p, offset) for p, (_, end) in available.items() for offset in range(since[p], end)}
    assert not read & lost
    if is_sure:
        assert not {(p, offset) for p, offset in lost if offset < since[p]}
