"""Say what the tables cost in bytes, what that becomes at full load, and what a change of policy would save.

Every figure is counted from measured state; only what is called projected is reckoned, and how stands beside it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Final

from lakehouse.maintenance_plan import TableState, expirable, orphans
from lakehouse.tables import INGESTED, Policy

FULL_LOAD_BYTES: Final = 450 << 30
"""Bytes of messages a day that the platform is made for."""
MESSAGE_BYTES: Final = 305
"""Size of a message of the generator's, which docs/benchmarks.md measures with."""
SNAPSHOT_DAYS: Final = (1, 3)
PARTITION_DAYS: Final = (30, 90, 365)
YEAR_DAYS: Final = 365
_LEAST_SPAN: Final = timedelta(hours=1)
_DATE: Final = re.compile(r"^\w+=(\d{4}-\d{2}-\d{2})$")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCost:
    """Bytes of one table.

    Attributes:
        live_bytes: what the newest snapshot needs.
        snapshot_held_bytes: what only older snapshots, tags and branches need.
        orphan_bytes: garbage: what nothing names and is old enough to be removed.
        unsettled_bytes: what nothing names and may belong to a write under way.
        metadata_bytes: manifests, their lists, versions of the metadata, statistics.
        growth_bytes_per_day: what writers added, from the snapshots that are kept; null when they span no hour.
        projected_bytes_per_day: at full load: bytes of one of its rows now, times the messages of a day, times its
            share of the messages; null for what does not grow with each message.
    """

    table: str
    live_bytes: int
    snapshot_held_bytes: int
    orphan_bytes: int
    unsettled_bytes: int
    metadata_bytes: int
    growth_bytes_per_day: int | None
    projected_bytes_per_day: int | None

    @property
    def total_bytes(self) -> int:
        """All that the table occupies."""
        parts = (self.live_bytes, self.snapshot_held_bytes, self.orphan_bytes)
        return sum(parts) + self.unsettled_bytes + self.metadata_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """What a change of a table's policy would save.

    Attributes:
        change: in words.
        now_bytes: at once.
        projected_bytes: at full load, for ever or after a year where it grows; null where nothing is projected.
    """

    table: str
    change: str
    now_bytes: int
    projected_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    """What all tables cost.

    Attributes:
        quarantine_bytes: of the quarantine tables, whole; they are among the tables too.
        archive_bytes: of all objects in the archive bucket.
        warehouse_bytes: of all objects of the tables.
        full_load_bytes_per_day: bytes of messages a day that the projection is for.
        projected_bytes_per_day: what the tables grow by then, in a day.
        projected_year_bytes: live after a year, as long as policy keeps it, with a copy of each day's files for as long
            as snapshots hold what compaction has rewritten.
    """

    tables: tuple[TableCost, ...]
    savings: tuple[Saving, ...]
    warehouse_bytes: int
    quarantine_bytes: int
    archive_bytes: int
    full_load_bytes_per_day: int
    projected_bytes_per_day: int
    projected_year_bytes: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A table to reckon with.

    Attributes:
        kept_days: how long policy keeps its partitions, in the warehouse; None for ever.
    """

    state: TableState
    policy: Policy
    kept_days: int | None


def report(measured: Sequence[Measured], archive_bytes: int, now: datetime) -> CostReport:
    """Add up what was measured, and reckon with it.

    Args:
        measured: each table once.
        archive_bytes: of the archive bucket.
        now: in UTC.
    """
    per_day = _projected([one.state for one in measured])
    tables = tuple(_cost(one, per_day.get(one.state.table), now) for one in measured)
    savings = tuple(
        saving for one in measured for saving in _savings(one, per_day.get(one.state.table), now) if _matters(saving)
    )
    year = sum(
        per_day[one.state.table] * (min(one.kept_days or YEAR_DAYS, YEAR_DAYS) + one.policy.snapshot_days)
        for one in measured
        if one.state.table in per_day
    )
    return CostReport(
        tables=tables,
        savings=savings,
        warehouse_bytes=sum(table.total_bytes for table in tables),
        quarantine_bytes=sum(t.total_bytes for t in tables if t.table.startswith("quarantine.")),
        archive_bytes=archive_bytes,
        full_load_bytes_per_day=FULL_LOAD_BYTES,
        projected_bytes_per_day=sum(per_day.values()),
        projected_year_bytes=int(year),
    )


def _projected(states: Iterable[TableState]) -> dict[str, int]:
    """Bytes a day at full load, of the tables that get a row for each message."""
    sharing = {spec.identifier for spec in INGESTED}
    ours = [state for state in states if state.table in sharing and state.rows]
    rows = sum(state.rows for state in ours)
    messages = FULL_LOAD_BYTES / MESSAGE_BYTES
    return {s.table: int(s.live_bytes / s.rows * messages * s.rows / rows) for s in ours}


def _cost(one: Measured, projected: int | None, now: datetime) -> TableCost:
    state = one.state
    garbage = sum(each.size_bytes for each in orphans(state, one.policy, now))
    return TableCost(
        table=state.table,
        live_bytes=state.live_bytes,
        snapshot_held_bytes=state.held_bytes,
        orphan_bytes=garbage,
        unsettled_bytes=sum(each.size_bytes for each in state.unknown) - garbage,
        metadata_bytes=state.metadata_bytes,
        growth_bytes_per_day=_growth(state, now),
        projected_bytes_per_day=projected,
    )


def _growth(state: TableState, now: datetime) -> int | None:
    if not state.snapshots:
        return None
    span = now - min(snapshot.committed_at for snapshot in state.snapshots)
    return int(state.added_bytes / (span / timedelta(days=1))) if span >= _LEAST_SPAN else None


def _savings(one: Measured, projected: int | None, now: datetime) -> Iterable[Saving]:
    state, policy = one.state, one.policy
    due = sum(snapshot.only_here_bytes for snapshot in expirable(state.snapshots, policy, now))
    for days in SNAPSHOT_DAYS:
        if days < policy.snapshot_days:
            gone = expirable(state.snapshots, replace(policy, snapshot_days=days), now)
            yield Saving(
                table=state.table,
                change=f"snapshots for {days} days instead of {policy.snapshot_days:g}",
                now_bytes=sum(snapshot.only_here_bytes for snapshot in gone) - due,
                projected_bytes=None if projected is None else int(projected * (policy.snapshot_days - days)),
            )
    kept = YEAR_DAYS if one.kept_days is None else one.kept_days
    told = "for ever" if one.kept_days is None else f"{one.kept_days} days"
    for days in PARTITION_DAYS:
        if one.kept_days is None or days < one.kept_days:
            older = now.date() - timedelta(days=days)
            yield Saving(
                table=state.table,
                change=f"partitions for {days} days instead of {told}",
                now_bytes=sum(p.size_bytes for p in state.partitions if (_day(p.name) or older) < older),
                projected_bytes=None if projected is None else projected * max(min(kept, YEAR_DAYS) - days, 0),
            )


def _matters(saving: Saving) -> bool:
    return bool(saving.now_bytes or saving.projected_bytes)


def _day(partition: str) -> date | None:
    found = _DATE.match(partition)
    return date.fromisoformat(found[1]) if found else None
