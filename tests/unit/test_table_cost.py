"""The bytes of the tables, added up by hand."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from lakehouse.maintenance_plan import PartitionState, SnapshotState, TableState, Unknown
from lakehouse.table_cost import Measured, Saving, report
from lakehouse.tables import Policy

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MESSAGES = 450 * 1024**3 / 305
EVENTS = TableState(
    table="events.user_actions",
    rows=900,
    partitions=(
        PartitionState(name="event_date=2026-06-01", condition=None, files=1, size_bytes=6_000),
        PartitionState(name="event_date=2026-11-19", condition=None, files=1, size_bytes=30_000),
    ),
    snapshots=(
        SnapshotState(snapshot_id=4, committed_at=NOW - 0.5 * DAY, refs=("main",)),
        SnapshotState(snapshot_id=3, committed_at=NOW - 2 * DAY, only_here_bytes=7),
        SnapshotState(snapshot_id=2, committed_at=NOW - 4 * DAY, only_here_bytes=50),
        SnapshotState(snapshot_id=1, committed_at=NOW - 10 * DAY, only_here_bytes=100),
    ),
    metadata_bytes=500,
    added_bytes=20_000,
    pinned_bytes=3,
    unknown=(
        Unknown("s3://warehouse/a", 11, NOW - 4 * DAY),
        Unknown("s3://warehouse/b", 13, NOW - 1 * DAY),
    ),
)
QUARANTINE = TableState(
    table="quarantine.user_actions",
    rows=100,
    partitions=(PartitionState(name="ingested_date=2026-11-19", condition=None, files=1, size_bytes=10_000),),
)
MART = replace(QUARANTINE, table="build.fct_events_daily")
POLICY = Policy(min_snapshots=1)


def test_each_byte_is_counted_once() -> None:
    found = report([Measured(EVENTS, POLICY, None), Measured(QUARANTINE, POLICY, 90)], 1234, NOW)
    events, quarantine = found.tables
    assert (events.live_bytes, events.snapshot_held_bytes, events.metadata_bytes) == (36_000, 160, 500)
    assert (events.orphan_bytes, events.unsettled_bytes) == (11, 13)
    assert events.total_bytes == 36_684
    assert quarantine.total_bytes == found.quarantine_bytes == 10_000
    assert (found.warehouse_bytes, found.archive_bytes) == (46_684, 1234)


def test_growth_is_what_writers_added_a_day_and_unknown_for_a_table_without_a_past() -> None:
    events, quarantine = report([Measured(EVENTS, POLICY, None), Measured(QUARANTINE, POLICY, None)], 0, NOW).tables
    assert (events.growth_bytes_per_day, quarantine.growth_bytes_per_day) == (2_000, None)


def test_the_projection_shares_the_messages_out_by_rows() -> None:
    found = report([Measured(e, POLICY, None) for e in (EVENTS, QUARANTINE, MART)], 0, NOW)
    assert [table.projected_bytes_per_day for table in found.tables] == [
        int(MESSAGES * 0.9 * 40),
        int(MESSAGES * 0.1 * 100),
        None,
    ]
    per_day = int(MESSAGES * 0.9 * 40) + int(MESSAGES * 0.1 * 100)
    assert found.projected_bytes_per_day == per_day
    assert found.projected_year_bytes == per_day * (365 + 5)


def test_savings_say_what_a_shorter_policy_frees_beyond_what_is_due_anyway() -> None:
    found = report([Measured(EVENTS, POLICY, None)], 0, NOW)
    per_day = int(MESSAGES * 40)
    assert found.savings == (
        Saving(
            table="events.user_actions",
            change="snapshots for 1 days instead of 5",
            now_bytes=57,
            projected_bytes=per_day * 4,
        ),
        Saving(
            table="events.user_actions",
            change="snapshots for 3 days instead of 5",
            now_bytes=50,
            projected_bytes=per_day * 2,
        ),
        Saving(
            table="events.user_actions",
            change="partitions for 30 days instead of for ever",
            now_bytes=6_000,
            projected_bytes=per_day * 335,
        ),
        Saving(
            table="events.user_actions",
            change="partitions for 90 days instead of for ever",
            now_bytes=6_000,
            projected_bytes=per_day * 275,
        ),
    )
