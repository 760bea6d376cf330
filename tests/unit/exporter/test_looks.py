import logging
import threading
from collections.abc import Callable, Iterable, Iterator

import pytest

from lakehouse.exporter.looks import Collector, Fact, Report, Watch, Watches
from lakehouse.exporter.metrics import BUCKET_BYTES, LEDGER_GAPS, POSITION_AGE_SECONDS, ROWS_PUBLISHED

GAPS = Fact(LEDGER_GAPS, 3, ("kafka",))
AGE = Fact(POSITION_AGE_SECONDS, 100, ("events.user_actions",), is_age=True)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def published(rows: int) -> Fact:
    return Fact(ROWS_PUBLISHED, rows, ("events.user_actions",))


def refuse() -> Iterable[Fact]:
    raise ConnectionError("nobody\nis there")


def watch(*looks: Callable[[], Iterable[Fact]], clock: Clock | None = None) -> Watch:
    """Looks at these, one after the other, every 10 seconds with 5 seconds for each."""
    coming = iter(looks)

    def look() -> Iterable[Fact]:
        return next(coming)()

    return Watch(Collector("one", look, 10, 5), clock or Clock())


def values(report: Report) -> dict[str, float]:
    return {fact.metric.name.removeprefix("lakehouse_"): fact.value for fact in report.all_facts()}


def test_nothing_is_known_before_the_first_look() -> None:
    report = watch().report()
    assert not report.is_settled
    assert not report.is_up
    assert values(report) == {"exporter_collector_errors_total": 0}  # neither up nor down


def test_a_look_is_told_with_its_duration_and_age() -> None:
    clock = Clock()

    def look() -> Iterator[Fact]:
        clock.now += 2
        yield GAPS

    one = watch(look, clock=clock)
    one.look()
    clock.now += 7
    assert one.report().is_settled
    assert values(one.report()) == {
        "ledger_gaps": 3,
        "exporter_collector_up": 1,
        "exporter_collector_errors_total": 0,
        "exporter_collector_duration_seconds": 2,
        "exporter_collector_age_seconds": 7,
    }


def test_an_age_grows_between_two_looks_and_another_fact_stands() -> None:
    clock = Clock()
    one = watch(lambda: [GAPS, AGE], clock=clock)
    one.look()
    clock.now += 30
    assert values(one.report())["position_age_seconds"] == 130
    assert values(one.report())["ledger_gaps"] == 3


def test_a_failed_look_is_counted_and_leaves_the_last_facts() -> None:
    one = watch(lambda: [GAPS], refuse)
    one.look()
    one.look()
    report = one.report()
    assert (report.is_up, report.errors, report.error) == (False, 1, "ConnectionError: nobody is there")
    assert report.facts == (GAPS,)


def test_facts_are_dropped_after_three_pauses_and_a_time_out_and_never_within_a_minute() -> None:
    assert Collector("seldom", list, 300, 10).keeps_seconds(1) == 910
    assert Collector("often", list, 5, 5).keeps_seconds(0.1) == 60


def test_a_look_that_takes_long_is_followed_by_a_pause_nine_times_as_long_and_kept_over_three_of_them() -> None:
    audit = Collector("audit", list, 300, 3600)
    assert audit.pause_seconds(2) == 300
    assert audit.pause_seconds(1500) == 13_500
    assert audit.keeps_seconds(1500) == 3 * 13_500 + 3600
    assert audit.pause_seconds(1_000_000) == 9 * 3600


def test_no_number_stands_for_ever_when_looks_fail() -> None:
    clock = Clock()
    one = watch(lambda: [GAPS], refuse, refuse, clock=clock)
    one.look()
    clock.now += 60
    one.look()
    assert one.report().facts == (GAPS,)
    clock.now += 1
    one.look()
    assert one.report().facts == ()
    assert one.report().age_seconds is None
    assert one.report().errors == 2


def test_a_look_that_finds_nothing_is_no_error_and_drops_what_was_there() -> None:
    one = watch(lambda: [GAPS], list)
    one.look()
    one.look()
    assert (one.report().is_up, one.report().facts) == (True, ())


def test_a_look_that_takes_too_long_is_an_error_and_its_facts_are_told() -> None:
    clock = Clock()

    def look() -> Iterator[Fact]:
        clock.now += 6
        yield GAPS

    one = watch(look, clock=clock)
    one.look()
    report = one.report()
    assert (report.is_up, report.errors, report.facts) == (False, 1, (GAPS,))
    assert report.error == "it took more than the 5 s that it may"


def test_a_look_that_hangs_is_one_error_logged_once_and_settles_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lakehouse.exporter")
    clock, began, end = Clock(), threading.Event(), threading.Event()

    def hang() -> Iterable[Fact]:
        began.set()
        end.wait(30)
        return [GAPS]

    one = watch(hang, clock=clock)
    looking = threading.Thread(target=one.look)
    looking.start()
    assert began.wait(30)
    clock.now += 5
    assert not one.report().is_settled
    clock.now += 1
    for _ in range(3):
        report = one.report()
        assert (report.is_settled, report.is_up, report.errors) == (True, False, 1)
        assert report.error == "a look has gone on for 6 s"
    clock.now += 6
    assert one.report().error == "a look has gone on for 12 s"
    end.set()
    looking.join(30)
    assert one.report().errors == 1
    assert one.report().facts == (GAPS,)
    assert [record.getMessage() for record in caplog.records] == [
        "collector one: a look has gone on for 6 s",
        "collector one: it took more than the 5 s that it may",
    ]


def test_an_error_is_logged_when_it_begins_when_it_changes_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    def lie() -> Iterable[Fact]:
        raise ValueError("that is no JSON")

    caplog.set_level(logging.INFO, "lakehouse.exporter")
    one = watch(lambda: [GAPS], refuse, refuse, lie, lambda: [GAPS], lambda: [GAPS])
    for _ in range(6):
        one.look()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "collector one: ConnectionError: nobody is there"),
        ("WARNING", "collector one: ValueError: that is no JSON"),
        ("INFO", "collector one: looks well again"),
    ]


def test_a_counter_takes_what_is_added_and_never_what_is_taken_away_and_a_gauge_takes_both() -> None:
    one = watch(
        lambda: [published(10), Fact(BUCKET_BYTES, 10, ("warehouse",))],
        lambda: [published(7), Fact(BUCKET_BYTES, 7, ("warehouse",))],
        lambda: [published(12)],
    )
    told: list[dict[str, float]] = []
    for _ in range(3):
        one.look()
        told.append(values(one.report()))
    assert [each["rows_published_total"] for each in told] == [10, 10, 15]
    assert told[1]["bucket_bytes"] == 7


def test_after_a_correction_a_counter_goes_on_from_where_it_was() -> None:
    one = watch(*(lambda rows=rows: [published(rows)] for rows in (10_000, 0, 9_000, 9_000, 9_500)))
    told: list[float] = []
    for _ in range(5):
        one.look()
        told.append(values(one.report())["rows_published_total"])
    assert told == [10_000, 10_000, 19_000, 19_000, 19_500]


def test_a_counter_starts_anew_when_what_it_counted_was_gone() -> None:
    one = watch(lambda: [published(10)], list, lambda: [published(1)])
    for _ in range(3):
        one.look()
    assert one.report().facts == (published(1),)


def test_a_watch_that_hangs_keeps_no_other_one_from_looking() -> None:
    end = threading.Event()

    def hang() -> Iterable[Fact]:
        end.wait(30)
        return []

    watches = Watches([Collector("hangs", hang, 60, 0.2), Collector("looks", lambda: [GAPS], 60, 5)])
    watches.start()
    assert watches.wait_until_settled(10)
    hanging, looking = watches.reports()
    assert (hanging.is_up, looking.is_up, looking.facts) == (False, True, (GAPS,))
    end.set()
    watches.stop()


@pytest.mark.parametrize("most", [0.0, 0.2])
def test_who_waits_for_watches_may_give_up(most: float) -> None:
    end = threading.Event()

    def hang() -> Iterable[Fact]:
        end.wait(30)
        return []

    watches = Watches([Collector("hangs", hang, 60, 60)])
    watches.start()
    assert not watches.wait_until_settled(most)
    end.set()
    watches.stop()


def test_a_watch_looks_again_and_again_until_it_is_stopped() -> None:
    seen = threading.Semaphore(0)

    def look() -> Iterable[Fact]:
        seen.release()
        return []

    watches = Watches([Collector("often", look, 0.01, 5)])
    watches.start()
    assert all(seen.acquire(timeout=30) for _ in range(3))
    watches.stop()
