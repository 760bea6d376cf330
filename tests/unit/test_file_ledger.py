"""What follows from notifications and from verdicts on files, whatever the order in which they come."""

import random
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lakehouse.announce import broken
from lakehouse.file_contract import FileReason, Notification, Refusal
from lakehouse.file_ledger import (
    Coordinates,
    Day,
    Drained,
    LedgerRow,
    Status,
    plan_announcements,
    plan_work,
)
from lakehouse.file_task import TASK_BYTES, TASK_FILES, plan_tasks
from tests.files import notification

START = datetime(2023, 10, 24, tzinfo=UTC)
DAY = date(2023, 10, 23)


def drained(verdict: Notification | Refusal, offset: int = 0) -> Drained:
    return Drained(Coordinates("topic", 0, offset), START + timedelta(seconds=offset), b"", verdict)


def row(file_id: int, said: Notification, status: Status = "pending", seconds: int = 0, offset: int = 0) -> LedgerRow:
    """A row whose object was written so many seconds after the start."""
    return LedgerRow(
        file_id=file_id,
        notification=said,
        status=status,
        announced=Coordinates("topic", 0, offset),
        announced_at=START + timedelta(seconds=offset),
        modified_at=START + timedelta(seconds=seconds),
        line_count=1,
    )


def outcomes(known: list[LedgerRow], *messages: Drained) -> list[str]:
    return [outcome for _, outcome, _ in plan_announcements(known, messages).outcomes]


# Notifications


def test_a_new_file_is_announced_and_its_repetition_changes_nothing() -> None:
    plan = plan_announcements([], [drained(notification(), 1), drained(notification(), 2)])
    assert [outcome for _, outcome, _ in plan.outcomes] == ["announced", "repeated"]
    assert [one.coordinates.kafka_offset for one in plan.announced.values()] == [1]


def test_a_notification_that_was_refused_stays_so_and_holds_up_no_other() -> None:
    refusal = Refusal("not_json", "no JSON")
    plan = plan_announcements([], [drained(refusal, 1), drained(notification(), 2)])
    assert [(outcome, why) for _, outcome, why in plan.outcomes] == [("refused", refusal), ("announced", None)]


def test_a_file_that_counts_is_touched_by_no_notification() -> None:
    counts = row(1, notification(), "done")
    assert outcomes([counts], drained(notification())) == ["repeated"]
    plan = plan_announcements([counts], [drained(notification(event_date=DAY + timedelta(1)))])
    ((_, outcome, why),) = plan.outcomes
    assert (outcome, why and why.reason) == ("refused", FileReason.ANNOUNCED_DIFFERENTLY)
    assert plan.announced == {}


def test_of_a_file_that_is_pending_the_newest_notification_holds() -> None:
    right = notification(sha256="1" * 64)
    plan = plan_announcements([], [drained(notification(), 1), drained(right, 2), drained(right, 3)])
    assert [outcome for _, outcome, _ in plan.outcomes] == ["announced", "announced", "repeated"]
    assert [one.verdict for one in plan.announced.values()] == [right]


def test_a_file_that_was_set_aside_is_tried_again_when_it_is_announced_again() -> None:
    assert outcomes([row(1, notification(), "failed")], drained(notification())) == ["announced"]


def test_bytes_that_come_back_under_their_old_etag_are_looked_at_again() -> None:
    by_etag = notification(version_id=None, etag="e1")
    assert outcomes([row(1, by_etag, "replaced")], drained(by_etag)) == ["announced"]


def test_an_old_version_that_is_announced_again_stays_replaced() -> None:
    replaced = row(1, notification(), "replaced")
    assert outcomes([replaced], drained(notification())) == ["repeated"]
    assert outcomes([replaced], drained(notification(event_date=DAY + timedelta(1)))) == ["announced"]


# Work


def shown(known: list[LedgerRow], good: list[LedgerRow], gone: set[int] | None = None) -> dict[str, Any]:
    plan = plan_work(known, good, gone or set())
    return {
        "done": sorted(r.file_id for r in plan.done),
        "replaced": sorted(r.file_id for r in plan.replaced),
        "waiting": sorted(r.file_id for r, _ in plan.incomplete),
        "days": {day.event_date.day: sorted(r.file_id for r in rows) for day, rows in plan.days.items()},
    }


def test_a_day_is_computed_from_all_of_its_files() -> None:
    known = [row(1, notification("a"), "done"), row(2, notification("b"), "done")]
    assert shown(known, [row(3, notification("c"))]) == {
        "done": [3],
        "replaced": [],
        "waiting": [],
        "days": {23: [1, 2, 3]},
    }


def test_a_newer_version_takes_the_place_of_the_older_one() -> None:
    known = [row(1, notification("a"), "done", seconds=0)]
    found = shown(known, [row(2, notification("a", "v2"), seconds=5)])
    assert found == {"done": [2], "replaced": [1], "waiting": [], "days": {23: [2]}}


def test_an_older_version_that_is_announced_late_never_counts() -> None:
    known = [row(2, notification("a", "v2"), "done", seconds=5, offset=1)]
    found = shown(known, [row(1, notification("a"), seconds=0, offset=2)])
    assert found == {"done": [], "replaced": [1], "waiting": [], "days": {}}


def test_of_versions_of_one_second_the_one_announced_last_counts() -> None:
    known = [row(1, notification("a"), "done", offset=1)]
    assert shown(known, [row(2, notification("a", "v2"), offset=2)])["done"] == [2]


def test_a_correction_that_moves_a_file_to_another_day_touches_both_days() -> None:
    known = [row(1, notification("a"), "done"), row(2, notification("b"), "done")]
    moved = row(3, notification("a", "v2", event_date=DAY + timedelta(1)), seconds=5)
    assert shown(known, [moved])["days"] == {23: [2], 24: [3]}
    assert shown(known[:1], [moved])["days"] == {23: [], 24: [3]}


def test_a_day_with_a_file_that_is_gone_waits_and_the_others_go_on() -> None:
    known = [row(1, notification("a"), "done")]
    tomorrow = row(3, notification("c", event_date=DAY + timedelta(1)))
    found = shown(known, [row(2, notification("b")), tomorrow], gone={1})
    assert found == {"done": [3], "replaced": [], "waiting": [2], "days": {24: [3]}}


def test_a_file_that_is_gone_is_no_matter_where_a_newer_version_takes_its_place() -> None:
    known = [row(1, notification("a"), "done")]
    good = [row(2, notification("a", "v2"), seconds=5), row(3, notification("b"))]
    assert shown(known, good, gone={1}) == {"done": [2, 3], "replaced": [1], "waiting": [], "days": {23: [2, 3]}}


def test_a_correction_waits_while_the_day_it_leaves_can_not_be_computed() -> None:
    known = [row(1, notification("a"), "done"), row(2, notification("b"), "done")]
    moved = row(3, notification("a", "v2", event_date=DAY + timedelta(1)), seconds=5)
    found = shown(known, [moved], gone={2})
    assert found == {"done": [], "replaced": [], "waiting": [3], "days": {}}


VERSIONS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 1), st.sampled_from(["sales", "returns"])),
    min_size=1,
    max_size=12,
)


@given(VERSIONS, st.integers(0, 2**32), st.lists(st.integers(1, 4), max_size=6))
def test_whatever_the_order_and_the_batches_the_same_files_count_for_the_same_days(
    versions: list[tuple[str, int, int, str]], seed: int, sizes: list[int]
) -> None:
    rows = [
        row(n, notification(key, f"v{n}", dataset=dataset, event_date=DAY + timedelta(days)), "pending", seconds, n)
        for n, (key, seconds, days, dataset) in enumerate(versions)
    ]
    newest: dict[str, LedgerRow] = {}
    for one in rows:  # at equal times the one announced last
        key = one.notification.key
        if key not in newest or one.modified_at >= newest[key].modified_at:  # type: ignore[operator]
            newest[key] = one
    wanted: dict[Day, list[int]] = {}
    for one in newest.values():
        wanted.setdefault(one.day, []).append(one.file_id)

    random.Random(seed).shuffle(rows)  # noqa: S311 - an order
    done: dict[int, LedgerRow] = {}
    computed: dict[Day, list[int]] = {}
    while rows:
        size = sizes.pop() if sizes else len(rows)
        batch, rows = rows[:size], rows[size:]
        plan = plan_work(list(done.values()), batch, set())
        for one in plan.replaced:
            done.pop(one.file_id, None)
        done |= {one.file_id: replace(one, status="done") for one in plan.done}
        computed |= {day: [one.file_id for one in files] for day, files in plan.days.items()}
    assert {day: sorted(files) for day, files in computed.items() if files} == {
        day: sorted(files) for day, files in wanted.items()
    }
    assert len({one.object for one in done.values()}) == len(done)


# Tasks, and doing it wrong


def test_a_large_file_is_a_task_of_its_own_and_small_ones_share_one() -> None:
    assert plan_tasks([1, 2, TASK_BYTES, 5, 6]) == ((0, 1), (2,), (3, 4))
    assert [len(task) for task in plan_tasks([0] * (2 * TASK_FILES + 1))] == [TASK_FILES, TASK_FILES, 1]
    assert plan_tasks([]) == ()


@given(st.lists(st.integers(0, 2 * TASK_BYTES)))
def test_every_file_is_in_one_task(sizes: list[int]) -> None:
    assert [number for task in plan_tasks(sizes) for number in task] == list(range(len(sizes)))


def test_a_broken_file_differs_from_the_good_one() -> None:
    assert broken(b"a,b\n", "csv").startswith(b"a,b\n")
    assert broken(b"a,b\n", "csv") != b"a,b\n"
    assert broken(b"PAR1 and so on PAR1", "parquet") == b"PAR1 and so"
