"""The ledger of dropped files: what adds up, and what is found where it does not."""

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from lakehouse.audit_files import NOWHERE, Counted, FilesGap, FilesLedger, State, add_up, amiss
from lakehouse.csv_files import Commit, Loaded

FILE = "s3://user-events/a.csv"
NOW = datetime(2026, 11, 2, tzinfo=UTC)
LOADED = Loaded(
    commit_number=2,
    file=FILE,
    file_version="000002-two",
    drop_date=date(2026, 11, 2),
    etag="two",
    size_bytes=100,
    modified_at=NOW,
    status="loaded",
    rule_version=1,
    header="a",
    lines=11,
    blank_lines=0,
    records=10,
    published_rows=7,
    quarantined_rows=3,
    replaced_version="000001-one",
    withdrawn_rows=5,
    ingested_at=NOW,
)
KNOWN = State(2, {(FILE, "000002-two"): LOADED}, None, 1, None)
NEW = State(0, {}, None, 0, None)
ALL_THERE = Counted(published=8, quarantined=3, replayed=1, present=10)


def found(counted: Counted, version: str = "000002-two", known: State = KNOWN) -> list[FilesGap]:
    others = {} if version == "000002-two" else {(FILE, "000002-two"): ALL_THERE}
    return list(amiss(known, {(FILE, version): counted} | others))


def test_records_are_events_or_in_quarantine_and_in_both_when_they_were_replayed() -> None:
    assert found(ALL_THERE) == []
    assert add_up(KNOWN, {(FILE, "000002-two"): ALL_THERE}) == FilesLedger(1, 10, 8, 3, 1)
    assert add_up(NEW, {}) == FilesLedger()


@pytest.mark.parametrize(
    ("counted", "kind", "rows"),
    [
        (ALL_THERE._replace(published=7, present=9), "lost", 1),
        (ALL_THERE._replace(quarantined=2, present=9), "lost", 1),
        (ALL_THERE._replace(published=9, surplus=1), "doubled", 1),
        (ALL_THERE._replace(published=9, present=11), "doubled", 1),
        (ALL_THERE._replace(quarantined=2, orphaned=1), "lost", 1),
        (ALL_THERE._replace(published=7, replayed=0), "lost", 1),
        (ALL_THERE._replace(replayed=2, published=9), "replay", 1),
        (Counted(), "lost", 10),
    ],
)
def test_what_does_not_add_up_is_found(counted: Counted, kind: str, rows: int) -> None:
    assert (kind, rows) in {(gap.kind, gap.rows) for gap in found(counted)}


def test_a_version_that_was_replaced_has_nothing_left_but_while_its_replacement_settles() -> None:
    old = "000001-one"
    assert [gap.rows for gap in found(Counted(published=2, present=2), old)] == [2]
    assert [gap.rows for gap in found(Counted(quarantined=2, present=2), old)] == [2]
    settling = KNOWN._replace(unsettled=Commit(2, (LOADED,)))
    assert found(Counted(quarantined=2, present=2), old, settling) == []
    assert [gap.rows for gap in found(Counted(published=1, quarantined=2, present=3), old, settling)] == [1]


def test_what_another_attempt_at_a_commit_left_in_quarantine_passes_only_while_the_commit_settles() -> None:
    other = "000002-other"
    assert [gap.rows for gap in found(Counted(quarantined=2, present=2), other)] == [2]
    settling = KNOWN._replace(unsettled=Commit(2, (LOADED,)))
    assert found(Counted(quarantined=2, present=2), other, settling) == []
    assert [gap.rows for gap in found(Counted(published=1, present=1), other, settling)] == [1]


def test_quarantine_may_be_ahead_of_the_events_by_one_commit_and_the_events_never() -> None:
    assert found(Counted(quarantined=2, present=2), "000003-three") == []
    assert [gap.rows for gap in found(Counted(published=2, present=2), "000003-three")] == [2]


def test_rows_that_are_in_no_ledger_or_in_both_are_found() -> None:
    assert [(gap.kind, gap.rows) for gap in amiss(NEW, {NOWHERE: Counted(published=2, quarantined=1)})] == [
        ("origin", 3)
    ]


def test_rows_of_a_file_that_no_commit_has_brought_are_found() -> None:
    (gap,) = amiss(NEW, {(FILE, "000001-one"): Counted(published=2, quarantined=1, present=3)})
    assert (gap.kind, gap.where, gap.rows) == ("doubled", FILE, 2)  # the refused are those of a commit under way


def test_a_file_that_is_in_no_table_is_lost_and_one_without_records_is_not() -> None:
    assert [(gap.kind, gap.rows) for gap in amiss(KNOWN._replace(replayed=0), {})] == [("lost", 10)]
    empty = replace(LOADED, records=0, published_rows=0, quarantined_rows=0)
    assert list(amiss(State(2, {(FILE, "000002-two"): empty}, None, 0, None), {})) == []
