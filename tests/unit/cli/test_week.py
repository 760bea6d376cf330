"""What a rehearsed week must have come to."""

from datetime import date

from lakehouse.cli.week import KILLED, STOPPED, Day, Ran, _amiss


def day(number: int, **counts: int) -> Day:
    told = {"published": 95, "late": 5, "quarantined": 5, "live": 95, "archived": 0, "in_mart": 95} | counts
    return Day(date(2023, 10, number), **told)


GONE = {"live": 0, "archived": 95}


def test_a_week_whose_old_days_are_archived_and_whose_mart_counts_both_is_right() -> None:
    before = day(22, published=0, late=0, quarantined=0, live=0, archived=5, in_mart=5)
    assert _amiss([before, day(23, **GONE), day(24), day(25)], date(2023, 10, 24), 300) == []


def test_a_lost_message_is_told() -> None:
    (problem,) = _amiss([day(23, published=94, live=95)], date(2023, 10, 23), 100)
    assert problem == "99 of 100 messages are in the tables"


def test_a_mart_that_lacks_archived_events_is_told() -> None:
    (problem,) = _amiss([day(23, **GONE, in_mart=0), day(24), day(25)], date(2023, 10, 24), 300)
    assert problem == "2023-10-23: 0 events in the mart, 95 in the tables"


def test_an_old_day_that_is_still_live_or_nowhere_is_told() -> None:
    (problem,) = _amiss([day(23), day(24), day(25)], date(2023, 10, 24), 300)
    assert problem == "2023-10-23: 95 events are live and 0 archived"
    (problem,) = _amiss([day(23, live=0, archived=0, in_mart=0), day(24), day(25)], date(2023, 10, 24), 300)
    assert problem == "2023-10-23: 0 events are live and 0 archived"


def test_a_run_is_explained_by_going_well_or_by_what_was_done_to_it() -> None:
    def ran(state: str, attempts: int, incident: str = "") -> bool:
        return Ran(date(2023, 10, 23), "transform", "a", state, attempts, 1.0, None, incident).is_explained

    assert ran("success", 1)
    assert not ran("success", 2)
    assert not ran("failed", 1)
    assert ran("success", 2, KILLED)
    assert not ran("failed", 2, KILLED)
    assert ran("failed", 1, STOPPED)
    assert not ran("success", 1, STOPPED)
