"""The backups: their manifests, and how far they reach."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.ads import load
from lakehouse.ads.archive import Due, plan
from lakehouse.ads.backup import Interval, Manifest, Part, covered_until, new_run_id
from lakehouse.errors import TerminalError

T = datetime(2026, 11, 22, tzinfo=UTC)
MANIFEST = Manifest(
    run_id="20261122T010502Z-1f0c9d2e",
    account="shop",
    interval=Interval(T, T + timedelta(hours=1)),
    asked_for=True,
    stored_at=T + timedelta(hours=2, microseconds=5),
    parts=(Part("part-00001.jsonl.gz", 3, 120, "ab" * 32), Part("part-00002.jsonl.gz", 4, 130, "cd" * 32)),
)


def hours(*bounds: tuple[int, int]) -> list[Interval]:
    return [Interval(T + timedelta(hours=start), T + timedelta(hours=end)) for start, end in bounds]


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    assert (MANIFEST.records, MANIFEST.size_bytes) == (7, 250)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", MANIFEST.to_json()[:-20], b'{"format": 2}'])
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"lacks|newer|JSON|json|EOF|unexpected|zero-length"):
        Manifest.from_json(text)


def test_runs_are_named_by_their_time_and_never_alike() -> None:
    first, second = new_run_id(T), new_run_id(T + timedelta(seconds=1))
    assert first < second
    assert new_run_id(T) != first


@pytest.mark.parametrize(
    ("loaded", "until"),
    [
        ([], None),
        ([(0, 1)], 1),
        ([(0, 1), (1, 2)], 2),
        ([(1, 2), (0, 1)], 2),
        ([(0, 1), (3, 4)], 1),
        ([(0, 5), (1, 2)], 5),
        ([(0, 1), (3, 4), (1, 3)], 4),
    ],
)
def test_a_hole_ends_what_is_covered(loaded: list[tuple[int, int]], until: int | None) -> None:
    assert covered_until(hours(*loaded)) == (None if until is None else T + timedelta(hours=until))


moments = st.integers(0, 200).map(lambda hours: T + timedelta(hours=hours))


@given(moments, moments)
def test_an_interval_is_cut_into_days_that_make_it_up(start: datetime, end: datetime) -> None:
    pieces = list(Interval(start, end).cut())
    assert [piece.end - piece.start for piece in pieces[:-1]] == [timedelta(days=1)] * (len(pieces) - 1)
    assert all(timedelta(0) < piece.end - piece.start <= timedelta(days=1) for piece in pieces[-1:])
    bounds = [start, *(piece.end for piece in pieces)]
    assert [piece.start for piece in pieces] == bounds[:-1]
    assert bounds[-1] == max(start, end)


NOW = T + timedelta(hours=100)
LATE = timedelta(minutes=15)


@pytest.mark.parametrize(
    ("loaded", "start", "end", "expected"),
    [
        ([], None, None, (T + timedelta(hours=76), NOW)),
        ([(0, 90)], None, None, (T + timedelta(hours=90) - LATE, NOW)),
        ([(0, 90), (95, 96)], None, None, (T + timedelta(hours=90) - LATE, NOW)),
        ([(0, 90)], None, 80, (T + timedelta(hours=80), T + timedelta(hours=80))),
        ([(0, 90)], 10, 20, (T + timedelta(hours=10), T + timedelta(hours=20))),
        ([(0, 90)], None, 150, (T + timedelta(hours=90) - LATE, NOW)),
        ([(0, 90)], 10, 150, (T + timedelta(hours=10), NOW)),
        ([], None, 150, (T + timedelta(hours=76), NOW)),
    ],
)
def test_a_load_asks_for_what_is_not_loaded_and_never_for_what_is_to_come(
    loaded: list[tuple[int, int]], start: int | None, end: int | None, expected: tuple[datetime, datetime]
) -> None:
    first, last = (None if hour is None else T + timedelta(hours=hour) for hour in (start, end))
    assert load.plan(hours(*loaded), NOW, first, last, LATE) == Interval(*expected)


@pytest.mark.parametrize(("start", "end"), [(20, 10), (120, None), (120, 150)])
def test_an_interval_that_begins_after_its_end_or_after_now_is_refused(start: int, end: int | None) -> None:
    last = None if end is None else T + timedelta(hours=end)
    with pytest.raises(TerminalError, match="which is earlier"):
        load.plan([], NOW, T + timedelta(hours=start), last, LATE)


dates = st.dates(date(2026, 1, 1), date(2026, 3, 1))


@given(st.dictionaries(dates, st.integers(0, 3)), dates, dates)
def test_a_plan_takes_what_is_old_or_late_once_and_in_order(
    live: dict[date, int], boundary: date, kept_from: date
) -> None:
    due = plan(live, boundary, kept_from)
    assert [one.date for one in due] == sorted(
        day for day, rows in live.items() if rows and (day < boundary or day < kept_from)
    )
    assert all(one.is_merge == (one.date < boundary) and one.rows == live[one.date] for one in due)


def test_nothing_is_due_of_what_stays() -> None:
    assert plan({date(2026, 1, 5): 3}, date.min, date(2026, 1, 5)) == ()
    assert plan({date(2026, 1, 5): 3}, date.min, date(2026, 1, 6)) == (Due(date(2026, 1, 5), 3, is_merge=False),)
