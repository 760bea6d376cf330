"""What a table needs, from states written by hand and drawn at random."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.maintenance_plan import (
    LEAST_SNAPSHOT_AGE,
    Action,
    Analyze,
    Compact,
    ExpireSnapshots,
    PartitionState,
    RemoveOrphans,
    RewriteManifests,
    SmallFile,
    SnapshotState,
    TableState,
    Unknown,
    expirable,
    health,
    notes,
    plan,
    writes_to,
)
from lakehouse.tables import IMPRESSIONS_ARCHIVE, USER_ACTIONS_ARCHIVE, Policy, TableSpec

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MIB = 1 << 20
POLICY = Policy(target_file_bytes=100 * MIB)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
PERFECT = TableState(
    table="events.user_actions",
    rows=1000,
    partitions=(
        PartitionState(name="event_date=2026-11-18", condition="d = 1", files=3, size_bytes=290 * MIB),
        PartitionState(
            name="event_date=2026-11-19", condition="d = 2", files=1, size_bytes=8, small=(SmallFile("a", 8),)
        ),
    ),
    snapshots=(SnapshotState(snapshot_id=1, committed_at=NOW - 30 * DAY, refs=("main",)),),
    manifests=2,
    manifest_bytes=10_000,
    statistics_rows=1000,
)


def partition(
    small: int, size: int = MIB, *, large: int = 0, written: timedelta | None = 2 * DAY, **more: Any
) -> PartitionState:
    return PartitionState(
        name="event_date=2026-11-17",
        condition="event_date = DATE '2026-11-17'",
        files=small + large,
        size_bytes=small * size + large * 100 * MIB,
        small=tuple(SmallFile(f"s3://warehouse/{number:05}.parquet", size) for number in range(small)),
        written_at=written and NOW - written,
        **more,
    )


def with_partitions(*partitions: PartitionState) -> TableState:
    return replace(PERFECT, partitions=partitions)


def kinds(actions: list[Action]) -> list[str]:
    return [action.kind for action in actions]


def compactions(state: TableState, **more: Any) -> list[Compact]:
    return [action for action in plan(state, POLICY, NOW, **more) if isinstance(action, Compact)]


def test_a_perfect_table_needs_nothing() -> None:
    assert plan(PERFECT, POLICY, NOW) == []
    assert notes(PERFECT, POLICY, NOW) == []
    found = health(PERFECT, POLICY, NOW)
    assert found.is_healthy
    assert (found.files, found.ideal_files, found.small_file_debt) == (4, 4, 0)


# Compaction


def test_small_files_of_a_closed_partition_become_one_and_the_reason_says_so_in_numbers() -> None:
    (action,) = compactions(with_partitions(partition(30)))
    assert (action.partition, action.condition, action.files) == (
        "event_date=2026-11-17",
        "event_date = DATE '2026-11-17'",
        30,
    )
    assert action.paths == tuple(f"s3://warehouse/{number:05}.parquet" for number in range(30))
    assert action.reason == (
        "event_date=2026-11-17: 30 files where 1 would do, 30 of them below 52.4 MB; 30 files of 31.5 MB become one"
    )


def test_a_large_partition_is_compacted_in_statements_that_each_leave_one_file_of_about_the_target() -> None:
    found = compactions(with_partitions(partition(1000)))
    assert len(found) == 10
    assert {action.files for action in found} == {100}
    assert len({path for action in found for path in action.paths}) == 1000
    assert found[3].reason.endswith("100 files of 104.9 MB become one (4 of 10)")


def test_a_statement_rewrites_no_more_than_its_bound() -> None:
    found = compactions(with_partitions(partition(1000)), statement_bytes=20 * MIB)
    assert max(action.size_bytes for action in found) <= 21 * MIB


def test_large_files_are_left_alone() -> None:
    (action,) = compactions(with_partitions(partition(20, large=5)))
    assert action.files == 20


def test_a_few_small_files_beside_many_large_ones_are_no_debt() -> None:
    assert compactions(with_partitions(partition(5, large=60))) == []
    assert compactions(with_partitions(partition(1))) == []


def test_an_open_partition_waits_until_its_small_files_are_many() -> None:
    open_one = with_partitions(partition(99, written=HOUR))
    assert compactions(open_one) == []
    assert notes(open_one, POLICY, NOW) == [
        "1 partition with 99 files got rows in the last 6 h: compacted when nobody writes to them any more"
    ]
    (action,) = compactions(with_partitions(partition(100, written=HOUR)))
    assert "they are too many" in action.reason


def test_closed_partitions_come_before_open_ones() -> None:
    state = with_partitions(
        replace(partition(100, written=HOUR), name="event_date=2026-11-16"), partition(3, written=None)
    )
    assert [action.partition for action in compactions(state)] == ["event_date=2026-11-17", "event_date=2026-11-16"]


def test_nothing_is_compacted_while_somebody_else_rewrites_the_table() -> None:
    state = replace(with_partitions(partition(30)), writers=("MERGE INTO it",))
    assert compactions(state) == []
    assert notes(state, POLICY, NOW) == ["not compacted while others write to it: MERGE INTO it"]


def test_delete_files_are_applied_by_rewriting_their_whole_partition() -> None:
    (action,) = compactions(with_partitions(partition(1, delete_files=2)))
    assert (action.paths, action.condition) == ((), "event_date = DATE '2026-11-17'")
    assert "2 delete files are read with each query of its 1 data file" in action.reason


def test_a_partition_too_large_for_a_statement_keeps_its_delete_files_and_a_note_says_so() -> None:
    state = with_partitions(partition(0, large=9, delete_files=2))
    assert compactions(state) == []
    (note,) = notes(state, POLICY, NOW)
    assert note.startswith("event_date=2026-11-17 keeps 2 delete files: its 943.7 MB are more than one statement")


@pytest.mark.parametrize("spec", [USER_ACTIONS_ARCHIVE, IMPRESSIONS_ARCHIVE], ids=lambda spec: spec.name)
def test_a_file_of_an_archive_is_not_rewritten_even_when_rows_of_it_were_deleted(spec: TableSpec) -> None:
    state = with_partitions(partition(0, large=1, delete_files=2))
    assert kinds(plan(state, POLICY, NOW)) == ["compact"]
    assert plan(state, spec.policy, NOW) == []
    (note,) = notes(state, spec.policy, NOW)
    assert note.startswith("event_date=2026-11-17 keeps 2 delete files: the files of this table stay as they were")


@given(
    sizes=st.lists(st.integers(0, 49 * MIB), min_size=0, max_size=300),
    bound=st.integers(50 * MIB, 600 * MIB),
    written=st.sampled_from([None, HOUR, 2 * DAY]),
)
def test_compaction_takes_each_small_file_once_and_saves_files(
    sizes: list[int], bound: int, written: timedelta | None
) -> None:
    small = tuple(SmallFile(f"{number}", size) for number, size in enumerate(sizes))
    one = replace(partition(0, written=written), files=len(small), size_bytes=sum(sizes), small=small)
    found = compactions(with_partitions(one), statement_bytes=bound)
    taken = [path for action in found for path in action.paths]
    assert len(taken) == len(set(taken))
    assert set(taken) <= {file.path for file in small}
    assert all(action.files > 1 for action in found)
    left = len(sizes) - len(taken) + len(found)
    if found and bound >= 100 * MIB:
        assert left <= one.ideal_files(POLICY)


# Snapshots


def line(*ages: timedelta, refs: dict[int, str] | None = None) -> tuple[SnapshotState, ...]:
    """Snapshots of these ages, the newest first; the first one is `main`."""
    named = {0: "main"} | (refs or {})
    return tuple(
        SnapshotState(
            snapshot_id=index,
            committed_at=NOW - age,
            refs=(named[index],) if index in named else (),
            only_here_bytes=10**index,
        )
        for index, age in enumerate(ages)
    )


def expired(snapshots: tuple[SnapshotState, ...], policy: Policy = POLICY, now: datetime = NOW) -> list[int]:
    return [snapshot.snapshot_id for snapshot in expirable(snapshots, policy, now)]


def test_snapshots_older_than_the_policy_expire_and_the_newest_stay_however_old() -> None:
    assert expired(line(DAY, 2 * DAY, 3 * DAY, 4 * DAY, 6 * DAY, 7 * DAY)) == [4, 5]
    assert expired(line(*(n * DAY for n in range(10, 15)))) == [3, 4]
    (action,) = plan(replace(PERFECT, snapshots=line(*(n * DAY for n in range(10, 15)))), POLICY, NOW)
    assert isinstance(action, ExpireSnapshots)
    assert action.before == NOW - 13 * DAY + timedelta(milliseconds=1)
    assert (action.snapshots, action.size_bytes) == (2, 11_000)
    assert action.reason == (
        "2 of 5 snapshots are older than 5 days or more than 1,000, the oldest 14.0 days; they alone keep 11.0 kB"
    )


def test_too_many_snapshots_expire_but_never_those_that_a_reader_may_still_use() -> None:
    policy = replace(POLICY, max_snapshots=3)
    assert expired(line(*(n * timedelta(minutes=20) for n in range(7))), policy) == [4, 5, 6]


def test_what_a_tag_or_branch_names_never_expires() -> None:
    assert expired(line(*(n * DAY for n in range(10, 16)), refs={4: "published"})) == [3, 5]


@given(
    ages=st.lists(st.floats(0, 40 * 86400), min_size=1, max_size=30),
    refs=st.sets(st.integers(0, 29)),
    days=st.floats(0, 30),
    least=st.integers(1, 10),
    more=st.integers(0, 10),
    shift=st.sampled_from([-DAY, timedelta(), DAY]),
)
def test_expiry_keeps_the_newest_what_is_named_and_what_is_young_whatever_the_clock_says(
    ages: list[float], refs: set[int], days: float, least: int, more: int, shift: timedelta
) -> None:
    policy = replace(POLICY, snapshot_days=days, min_snapshots=least, max_snapshots=least + more)
    snapshots = line(*(timedelta(seconds=s) for s in sorted(ages)), refs=dict.fromkeys(refs, "tag"))
    gone = expirable(snapshots, policy, NOW + shift)
    assert not any(snapshot.refs for snapshot in gone)
    assert not {snapshot.snapshot_id for snapshot in gone} & set(range(least))
    assert all(snapshot.committed_at < NOW + shift - LEAST_SNAPSHOT_AGE for snapshot in gone)
    if gone:  # Trino is told a moment: what it spares must be younger
        cut = max(snapshot.committed_at for snapshot in gone)
        spared = [s for s in snapshots if s not in gone and not s.refs]
        assert all(snapshot.committed_at > cut for snapshot in spared)


# Orphans


def garbage(*ages: timedelta) -> tuple[Unknown, ...]:
    return tuple(Unknown(f"s3://warehouse/t/data/{index}", 100, NOW - age) for index, age in enumerate(ages))


def test_an_object_that_nothing_names_is_removed_from_the_age_of_three_days() -> None:
    state = replace(PERFECT, unknown=garbage(71.9 * HOUR, 72 * HOUR, 100 * HOUR))
    (action,) = plan(state, POLICY, NOW)
    assert isinstance(action, RemoveOrphans)
    assert action.objects == state.unknown[1:]
    assert action.reason == ("2 objects of 200 B older than 72 h that no snapshot and no metadata of the table names")
    assert notes(state, POLICY, NOW) == [
        "1 object of 100 B that no table knows may belong to writes under way: they are younger than 72 h"
    ]


@pytest.mark.parametrize("hours", [0, 24, 71.99])
def test_a_policy_that_removes_younger_objects_is_refused(hours: float) -> None:
    with pytest.raises(ValueError, match="below 72 a write may go on"):
        Policy(orphan_hours=hours)


def test_no_orphan_is_removed_where_another_table_has_its_files() -> None:
    state = replace(PERFECT, unknown=garbage(100 * DAY), shares_place_with=("build.copy",))
    assert plan(state, POLICY, NOW) == []
    assert notes(state, POLICY, NOW) == [
        "orphans are not removed: files of build.copy lie in the same place; give one of the tables a place of its own"
    ]


@given(ages=st.lists(st.floats(0, 200), max_size=20), hours=st.floats(72, 200))
def test_no_object_younger_than_three_days_is_ever_chosen(ages: list[float], hours: float) -> None:
    state = replace(PERFECT, unknown=garbage(*(age * HOUR for age in ages)))
    chosen = [
        o
        for a in plan(state, replace(POLICY, orphan_hours=hours), NOW)
        if isinstance(a, RemoveOrphans)
        for o in a.objects
    ]
    assert all(NOW - each.modified_at >= 72 * HOUR for each in chosen)


# The rest


def test_many_small_manifests_are_rewritten_and_many_large_ones_are_not() -> None:
    (action,) = plan(replace(PERFECT, manifests=500, manifest_bytes=4_000_000), POLICY, NOW)
    assert isinstance(action, RewriteManifests)
    assert action.reason == ("500 manifests hold 4.0 MB, which is room for 1; each query reads all of them to plan")
    assert plan(replace(PERFECT, manifests=500, manifest_bytes=500 * 8 * MIB), POLICY, NOW) == []


@pytest.mark.parametrize(("known", "is_due"), [(None, True), (1000, False), (900, False), (800, True), (1300, True)])
def test_statistics_are_made_when_the_table_has_become_another(known: int | None, is_due: bool) -> None:
    found = plan(replace(PERFECT, statistics_rows=known), POLICY, NOW)
    assert [isinstance(action, Analyze) for action in found] == [True] * is_due


def test_statistics_of_a_huge_table_are_not_made() -> None:
    assert plan(replace(PERFECT, statistics_rows=None), replace(POLICY, analyze_bytes=MIB), NOW) == []


def test_actions_come_in_the_order_in_which_they_help_each_other() -> None:
    state = replace(
        with_partitions(partition(30)),
        snapshots=line(*(n * DAY for n in range(10, 15))),
        manifests=500,
        unknown=garbage(80 * HOUR),
        statistics_rows=None,
    )
    expected = ["expire_snapshots", "compact", "rewrite_manifests", "remove_orphans", "analyze"]
    assert kinds(plan(state, POLICY, NOW)) == expected


def test_what_became_due_within_a_day_is_no_problem_yet() -> None:
    fresh = replace(
        with_partitions(partition(30, written=10 * HOUR)),
        snapshots=line(*(timedelta(hours=5 * 24 + n) for n in range(10))),
        unknown=garbage(80 * HOUR),
        statistics_rows=None,
    )
    assert kinds(plan(fresh, POLICY, NOW)) == ["expire_snapshots", "compact", "remove_orphans", "analyze"]
    found = health(fresh, POLICY, NOW)
    assert found.is_healthy
    assert (found.small_file_debt, found.orphan_bytes) == (29, 100)
    assert (found.due_files, found.overdue_files) == (29, 0)
    later = health(fresh, POLICY, NOW + DAY)
    assert not later.is_healthy
    assert (later.due_files, later.overdue_files) == (29, 29)


def test_the_files_of_a_day_that_is_written_each_second_are_never_overdue() -> None:
    found = health(with_partitions(partition(20_000, written=timedelta(seconds=1))), POLICY, NOW)
    assert found.small_file_debt > 19_000
    assert found.overdue_files == 0


def test_a_problem_is_told_once_for_each_partition() -> None:
    found = health(with_partitions(partition(1000)), POLICY, NOW)
    assert len(found.problems) == 1
    assert found.problems[0].startswith("event_date=2026-11-17: 1,000 files where 10 would do")


@pytest.mark.parametrize(
    ("statement", "writes"),
    [
        ('INSERT INTO lake."events"."user_actions" VALUES 1', True),
        ("merge into lake.events.user_actions as built using x", True),
        ('ALTER TABLE lake."events"."user_actions" EXECUTE optimize', True),
        ("DELETE FROM lake.events.user_actions WHERE true", True),
        ("SELECT * FROM lake.events.user_actions", False),
        ("INSERT INTO lake.build.x SELECT * FROM lake.events.user_actions", False),
        ("create or replace table lake.events.user_actions as (select 1)", True),
        ("INSERT INTO lake.events.user_actions_archive VALUES 1", False),
        ('/* {"app": "dbt"} */\n\n    merge into "lake"."events"."user_actions" as built', True),
    ],
)
def test_a_statement_that_writes_to_a_table_is_known_by_its_words(statement: str, writes: bool) -> None:
    assert writes_to(statement, "lake", "events", "user_actions") == writes
