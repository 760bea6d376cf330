"""Which files have to be read, by what lies in the bucket and what the tables have."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import count, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.csv_files import (
    Commit,
    Dropped,
    Loaded,
    batches,
    date_of,
    elsewhere,
    folder,
    newest,
    number_of,
    plan,
    state,
    version_of,
)

DAY = date(2026, 11, 2)
MOMENT = datetime(2026, 11, 2, 6, 7, 8, 123000, tzinfo=UTC)


def here(name: str = "a", etag: str = "one", size_bytes: int = 10, second: int = 0) -> Dropped:
    return Dropped(f"s3://user-events/{name}.csv", DAY, etag, size_bytes, MOMENT.replace(second=second))


def loaded(name: str = "a", etag: str = "one", number: int = 1) -> Loaded:
    return Loaded(
        commit_number=number,
        file=f"s3://user-events/{name}.csv",
        file_version=version_of(number, etag),
        drop_date=DAY,
        etag=etag,
        size_bytes=10,
        modified_at=MOMENT,
        status="loaded",
        rule_version=1,
        header="a,b",
        lines=4,
        blank_lines=1,
        records=2,
        published_rows=1,
        quarantined_rows=1,
        replaced_version=None,
        withdrawn_rows=0,
        ingested_at=MOMENT,
    )


def test_a_file_lies_in_the_folder_of_its_date() -> None:
    assert folder("dev_", DAY) == "dev_year=2026/month=11/day=02/"
    assert date_of("dev_", "dev_year=2026/month=11/day=02/shop north.csv") == DAY


@pytest.mark.parametrize(
    "key",
    [
        "year=2026/month=11/day=02/a.csv.gz",
        "year=2026/month=11/day=02/more/a.csv",
        "year=2026/month=11/day=02/.csv/",
        "year=2026/month=11/a.csv",
        "year=2026/month=13/day=02/a.csv",
        "year=2026/month=02/day=30/a.csv",
        "year=26/month=1/day=2/a.csv",
        "dev_year=2026/month=11/day=02/a.csv",
        "a.csv",
    ],
)
def test_what_lies_elsewhere_is_no_dropped_file(key: str) -> None:
    assert date_of("", key) is None


@pytest.mark.parametrize(
    ("one", "known", "expected"),
    [
        (here(), None, "waiting"),
        (here(), loaded(), "loaded"),
        (here(second=30), loaded(), "loaded"),
        (here(etag="two"), loaded(), "changed"),
        (here(size_bytes=11), loaded(), "changed"),
        (None, loaded(), "gone"),
        (here(), replace(loaded(), status="refused"), "refused"),
        (here(), replace(loaded(), status="refused", rule_version=0), "changed"),
        (here(), replace(loaded(), rule_version=0), "loaded"),
    ],
)
def test_a_file_is_read_again_when_its_content_or_what_refused_it_has_changed(
    one: Dropped | None, known: Loaded | None, expected: str
) -> None:
    assert state(one, known, 1) == expected


def test_files_are_read_in_the_order_in_which_they_came() -> None:
    found = [here("c", second=2), here("b", second=2), here("a", second=3), here("d"), here("e")]
    known = {one.file: one for one in (loaded("d"), loaded("e", etag="old"))}
    assert [one.file[-5:-4] for one in plan(found, known, 1)] == ["e", "b", "c", "a"]
    assert plan([], known, 1) == ()


def test_what_waits_for_other_dates_is_counted_by_date() -> None:
    days = [DAY - timedelta(days=age) for age in range(3)]
    found = [
        replace(here(name), drop_date=day)
        for name, day in [
            ("ours", days[2]),
            ("late", days[2] - timedelta(days=1)),
            ("later", days[2] - timedelta(days=1)),
            ("corrected", days[2] - timedelta(days=40)),
            ("done", days[2] - timedelta(days=40)),
            ("early", DAY + timedelta(days=1)),
        ]
    ]
    known = {one.file: one for one in (loaded("corrected", etag="old"), loaded("done"))}
    counts = elsewhere(found, known, days, 1)
    assert list(counts.items()) == [
        (DAY - timedelta(days=42), 1),
        (DAY - timedelta(days=3), 2),
        (DAY + timedelta(days=1), 1),
    ]
    assert elsewhere([found[0], found[4]], known, days, 1) == {}


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 4), st.integers(1, 60))
def test_batches_hold_each_file_once_and_no_more_than_they_may(sizes: list[int], files: int, size_bytes: int) -> None:
    pending = [here(str(number), size_bytes=size) for number, size in enumerate(sizes)]
    cut = batches(pending, files=files, size_bytes=size_bytes)
    assert [one for batch in cut for one in batch] == pending
    for batch in cut:
        assert 1 <= len(batch) <= files
        assert len(batch) == 1 or sum(one.size_bytes for one in batch) <= size_bytes


def test_a_version_tells_its_commit_and_sorts_by_it() -> None:
    numbers = [*takewhile(lambda number: number < 1_000_000, (7**power for power in count())), 999_999]
    assert [number_of(version_of(number, "9bb-5")) for number in numbers] == numbers
    assert version_of(12, "9bb-5") == "000012-9bb-5"


def test_of_each_file_the_newest_version_counts() -> None:
    rows = [loaded("a", "two", 3), loaded("a", "one", 1), loaded("b", "one", 1)]
    assert {one.file: one.commit_number for one in newest(rows).values()} == {
        "s3://user-events/a.csv": 3,
        "s3://user-events/b.csv": 1,
    }


def test_a_commit_is_read_from_its_property_as_it_was() -> None:
    corrected = replace(
        loaded("b", "two", 3),
        header=None,
        replaced_version="000001-one",
        withdrawn_rows=2,
    )
    commit = Commit(3, (loaded("a", "x", 3), corrected))
    assert Commit.from_text(commit.to_text()) == commit
    assert Commit.from_text(commit.to_text().replace("{", '{"superseded":[["a","b"]],', 1)) == commit  # of before
    row = corrected.to_row(MOMENT)
    assert row["recorded_at"] == MOMENT
    assert Loaded.from_row(row) == corrected


def test_a_commit_supersedes_what_it_replaced_and_what_is_of_its_number_and_not_its_own() -> None:
    commit = Commit(3, (loaded("a", "x", 3), replace(loaded("b", "y", 3), replaced_version="000001-x")))
    a, b = "s3://user-events/a.csv", "s3://user-events/b.csv"
    assert not commit.supersedes(a, "000003-x")
    assert not commit.supersedes(b, "000003-y")
    assert commit.supersedes(b, "000001-x")
    assert commit.supersedes(a, "000003-y")
    assert commit.supersedes("s3://user-events/c.csv", "000003-x")
    for other in ("000001-x", "000002-x", "000004-x"):
        assert not commit.supersedes(a, other)
