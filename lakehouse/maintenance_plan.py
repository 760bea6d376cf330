"""Say what a table needs, and why: a pure function of what was measured of it, its policy and the time.

A table that gets a commit a second falls apart into small files, snapshots and manifests. What follows from the state:

- **Compaction** brings the small files of a partition to the target size, one file a statement, so that what a
  statement holds in memory is bounded. Closed partitions come first; an open one waits until its small files are many.
- **Expiry** forgets snapshots that are too old or too many, and never one that a tag or branch names, nor the newest.
- **Manifests** are rewritten when there are many small ones, because each query reads all of them to plan.
- **Orphans** are objects in the table's place that no snapshot and no metadata names: what a killed writer left.
- **Statistics** are made anew when the table has become another one.

Nothing here deletes: `lakehouse.maintenance` does what a plan says.
"""

import heapq
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import ClassVar, Final

from lakehouse.tables import LEAST_ORPHAN_HOURS, Policy

MOST_OVER_IDEAL: Final = 1.1
"""A partition with more files than this times the ideal is compacted."""
OPEN_SMALL_FILES: Final = 100
"""An open partition with so many small files is compacted although it will get more."""
LEAST_SNAPSHOT_AGE: Final = timedelta(hours=1)
"""A query, an audit or a build may still read a snapshot that is younger."""
MANY_MANIFESTS: Final = 100
MANIFEST_BYTES: Final = 8 << 20
"""Size that engines bring manifests to."""
CHANGED_ROWS_RATIO: Final = 0.2
"""Statistics are made anew when the number of rows changed by more than this share."""
_WRITES: Final = re.compile(
    r"(?:insert into|merge into|delete from|update|analyze|truncate table|(?:alter|drop) table(?: if exists)?"
    r"|create(?: or replace)? table(?: if not exists)?) ([^ (]+)"
)
COMMITS_A_DAY: Final = 86_400
"""One a second, which is how often `lakehouse ingest follow` commits."""
STATEMENT_CHARACTERS: Final = 800_000
"""Room for the paths in one statement; Trino takes a million characters in all."""


@dataclass(frozen=True, slots=True)
class SmallFile:
    """A data file below the policy's size."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """A partition as the newest snapshot has it.

    Attributes:
        name: as its folder is called, `event_date=2023-10-23`; empty for a table without partitions.
        condition: SQL that is true for exactly its rows; empty where it is the whole table, None where none is known.
        files: data files.
        size_bytes: of the data files.
        small: those of them that are small.
        delete_files: files that say which rows are gone; each query of the partition reads them too.
        written_at: when the newest file was added by something other than compaction; None when that is forgotten.
    """

    name: str
    condition: str | None
    files: int
    size_bytes: int
    small: tuple[SmallFile, ...] = ()
    delete_files: int = 0
    written_at: datetime | None = None

    def ideal_files(self, policy: Policy) -> int:
        """How many files compaction would leave; large files stay as they are."""
        small_bytes = sum(file.size_bytes for file in self.small)
        merged = max(1, math.ceil(small_bytes / policy.target_file_bytes)) if self.small else 0
        return self.files - len(self.small) + merged


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotState:
    """A snapshot that is not expired.

    Attributes:
        refs: tags and branches that name it, `main` among them.
        is_on_main: it is the newest one or one that led to it.
        only_here_bytes: bytes of data and delete files that no younger snapshot and no ref has: what its expiry, after
            that of all older ones, frees.
    """

    snapshot_id: int
    committed_at: datetime
    refs: tuple[str, ...] = ()
    is_on_main: bool = True
    only_here_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Unknown:
    """An object in the table's place that no snapshot and no metadata of the table names."""

    path: str
    size_bytes: int
    modified_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TableState:
    """A table as it was measured.

    Attributes:
        table: `namespace.name`, without prefix.
        rows: of the newest snapshot, deleted ones included.
        snapshots: all of them, the newest first.
        manifests: of the newest snapshot.
        metadata_files: versions of the table's metadata that are kept.
        metadata_bytes: bytes of all metadata that the table knows.
        added_bytes: bytes of files that writers brought, less what they took away, after the oldest snapshot; what
            compaction rewrote does not count.
        pinned_bytes: bytes of data files that only a tag or a branch keeps.
        unknown: objects that nothing names, whatever their age; those of writes under way are among them.
        shares_place_with: tables whose files lie in the same place, or inside it.
        writers: statements that write to it now, as Trino tells; commits of ingest are not among them.
        statistics_rows: rows it had when statistics were made last; None when there are none.
        delete_bytes: bytes of delete files of the newest snapshot.
    """

    table: str
    rows: int = 0
    partitions: tuple[PartitionState, ...] = ()
    snapshots: tuple[SnapshotState, ...] = ()
    manifests: int = 0
    manifest_bytes: int = 0
    metadata_files: int = 0
    metadata_bytes: int = 0
    added_bytes: int = 0
    delete_bytes: int = 0
    pinned_bytes: int = 0
    unknown: tuple[Unknown, ...] = ()
    shares_place_with: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()
    statistics_rows: int | None = None

    @property
    def files(self) -> int:
        """Data files of the newest snapshot."""
        return sum(partition.files for partition in self.partitions)

    @property
    def delete_files(self) -> int:
        """Delete files of the newest snapshot."""
        return sum(partition.delete_files for partition in self.partitions)

    @property
    def live_bytes(self) -> int:
        """What the newest snapshot needs."""
        return sum(partition.size_bytes for partition in self.partitions) + self.delete_bytes

    @property
    def held_bytes(self) -> int:
        """What only older snapshots need."""
        return self.pinned_bytes + sum(snapshot.only_here_bytes for snapshot in self.snapshots)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compact:
    """Rewrite files of a partition, those at `paths` or all of them when it is empty, to one file of the target size.

    Attributes:
        condition: which rows; see `PartitionState`.
        files: how many are rewritten.
        size_bytes: of those files.
    """

    kind: ClassVar[str] = "compact"
    table: str
    partition: str
    condition: str
    paths: tuple[str, ...]
    files: int
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireSnapshots:
    """Forget the snapshots committed before a moment that no tag and no branch names, and delete what only they had."""

    kind: ClassVar[str] = "expire_snapshots"
    table: str
    before: datetime
    snapshots: int
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteManifests:
    """Put what many manifests say into few."""

    kind: ClassVar[str] = "rewrite_manifests"
    table: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveOrphans:
    """Delete exactly these objects."""

    kind: ClassVar[str] = "remove_orphans"
    table: str
    objects: tuple[Unknown, ...]
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyze:
    """Make statistics for the query planner."""

    kind: ClassVar[str] = "analyze"
    table: str
    reason: str


Action = Compact | ExpireSnapshots | RewriteManifests | RemoveOrphans | Analyze


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a table is.

    Attributes:
        problems: what a daily run should have mended, each in words; none when the table is healthy.
        notes: what waits, and for what; no problem.
        small_file_debt: files that compaction would save, in open partitions too.
        due_files: files that the next run of maintenance would save.
        overdue_files: files that a run of the last day should have saved.
    """

    table: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    files: int
    ideal_files: int
    small_file_debt: int
    due_files: int
    overdue_files: int
    delete_files: int
    snapshots: int
    manifests: int
    live_bytes: int
    orphan_bytes: int

    @property
    def is_healthy(self) -> bool:
        """Whether there is nothing that should have been mended."""
        return not self.problems


def plan(
    state: TableState, policy: Policy, now: datetime, *, statement_bytes: int = 512 << 20, lenient_commits: int = 0
) -> list[Action]:
    """Say what to do about a table, in the order in which it is best done; nothing for a table that is as it should be.

    Args:
        state: as measured.
        policy: the table's.
        now: in UTC.
        statement_bytes: bytes of data files that one statement may rewrite.
        lenient_commits: small files of an open partition, manifests and snapshots may be so many more.
    """
    policy = replace(policy, max_snapshots=policy.max_snapshots + lenient_commits)
    many = OPEN_SMALL_FILES + lenient_commits
    actions: list[Action] = []
    actions += _expiry(state, policy, now)
    actions += _compactions(state, policy, now, statement_bytes, many)
    actions += _manifests(state, MANY_MANIFESTS + lenient_commits)
    actions += _orphans(state, policy, now)
    actions += _statistics(state, policy)
    return actions


def notes(state: TableState, policy: Policy, now: datetime, *, statement_bytes: int = 512 << 20) -> list[str]:
    """Say what a plan leaves alone, and why."""
    found: list[str] = []
    open_ones = [partition for partition in state.partitions if is_open(partition, policy, now)]
    waiting = [p for p in open_ones if _excess(p, policy) and len(p.small) < OPEN_SMALL_FILES]
    if waiting:
        found.append(
            f"{_count(len(waiting), 'partition')} with {sum(p.files for p in waiting):,} files "
            f"got rows in the last {policy.closed_after_hours:g} h: compacted when nobody writes to them any more"
        )
    if state.writers:
        found.append(f"not compacted while others write to it: {'; '.join(state.writers)}")
    for partition in state.partitions:
        kept = f"{_place(partition)} keeps {_count(partition.delete_files, 'delete file')}"
        if partition.delete_files and policy.leaves_files:
            found.append(f"{kept}: the files of this table stay as they were written; see who deleted rows of it")
        elif partition.delete_files and not _fits(partition, statement_bytes):
            size, most = told_size(partition.size_bytes), told_size(statement_bytes)
            found.append(f"{kept}: its {size} are more than one statement may rewrite ({most})")
    old = orphans(state, policy, now)
    young = [each for each in state.unknown if each not in old]
    if young:
        size = told_size(sum(each.size_bytes for each in young))
        found.append(
            f"{_count(len(young), 'object')} of {size} that no table knows may belong to writes under way: "
            f"they are younger than {policy.orphan_hours:g} h"
        )
    if state.shares_place_with and state.unknown:
        found.append(
            f"orphans are not removed: files of {', '.join(state.shares_place_with)} lie in the same place; "
            "give one of the tables a place of its own"
        )
    return found


def health(state: TableState, policy: Policy, now: datetime, *, statement_bytes: int = 512 << 20) -> Health:
    """Say whether a table is as a daily run of maintenance keeps it.

    What became due within the last day is no problem yet: the next run mends it.
    """
    lenient = replace(
        policy,
        closed_after_hours=policy.closed_after_hours + 24,
        snapshot_days=policy.snapshot_days + 1,
        orphan_hours=policy.orphan_hours + 24,
    )
    overdue = plan(state, lenient, now, statement_bytes=statement_bytes, lenient_commits=COMMITS_A_DAY)
    problems: dict[tuple[str, str], str] = {}
    for action in overdue:
        if not isinstance(action, Analyze):
            problems.setdefault((action.kind, getattr(action, "partition", "")), action.reason)
    ideal = sum(partition.ideal_files(policy) for partition in state.partitions)
    old = orphans(state, policy, now)
    return Health(
        table=state.table,
        problems=tuple(problems.values()),
        notes=tuple(notes(state, policy, now, statement_bytes=statement_bytes)),
        files=state.files,
        ideal_files=ideal,
        small_file_debt=state.files - ideal,
        due_files=_saved(plan(state, policy, now, statement_bytes=statement_bytes)),
        overdue_files=_saved(overdue),
        delete_files=state.delete_files,
        snapshots=len(state.snapshots),
        manifests=state.manifests,
        live_bytes=state.live_bytes,
        orphan_bytes=sum(each.size_bytes for each in old),
    )


def _saved(actions: Sequence[Action]) -> int:
    return sum(action.files - 1 for action in actions if isinstance(action, Compact))


def is_open(partition: PartitionState, policy: Policy, now: datetime) -> bool:
    """Whether somebody wrote to a partition lately, so that compacting it now would have to be done again soon."""
    return partition.written_at is not None and _age(partition.written_at, now) < timedelta(
        hours=policy.closed_after_hours
    )


def expirable(snapshots: Sequence[SnapshotState], policy: Policy, now: datetime) -> list[SnapshotState]:
    """The snapshots that policy lets expire; a moment divides them from all that stay, but for what a ref names.

    Args:
        snapshots: the newest first.
        policy: the table's.
        now: in UTC.
    """
    main = [snapshot for snapshot in snapshots if snapshot.is_on_main]
    kept_from: datetime | None = None  # the oldest commit that must stay
    for index, snapshot in enumerate(main):
        age = _age(snapshot.committed_at, now)
        too_old = age > timedelta(days=policy.snapshot_days)
        stays = (
            index < policy.min_snapshots or age <= LEAST_SNAPSHOT_AGE or not (too_old or index >= policy.max_snapshots)
        )
        if stays and (kept_from is None or snapshot.committed_at < kept_from):
            kept_from = snapshot.committed_at
    if kept_from is None:
        return []
    return [s for s in snapshots if s.committed_at < kept_from and not s.refs]


def orphans(state: TableState, policy: Policy, now: datetime) -> tuple[Unknown, ...]:
    """The objects that nothing names and that are too old to belong to a write under way."""
    # The policy refuses less too; what is written now must not hang on one check alone.
    least = timedelta(hours=max(policy.orphan_hours, LEAST_ORPHAN_HOURS))
    return tuple(each for each in state.unknown if _age(each.modified_at, now) >= least)


def writes_to(statement: str, catalog: str, schema: str, name: str) -> bool:
    """Whether a statement of SQL writes to the table, by how it begins."""
    words = " ".join(re.sub(r"/\*.*?\*/", " ", statement, flags=re.DOTALL).replace('"', "").lower().split())
    begun = _WRITES.match(words)
    return begun is not None and begun[1] == f"{catalog}.{schema}.{name}".lower()


def _expiry(state: TableState, policy: Policy, now: datetime) -> Iterator[Action]:
    gone = expirable(state.snapshots, policy, now)
    if not gone:
        return
    newest = max(snapshot.committed_at for snapshot in gone)
    oldest_days = max(_age(snapshot.committed_at, now) for snapshot in gone) / timedelta(days=1)
    freed = sum(snapshot.only_here_bytes for snapshot in gone)
    yield ExpireSnapshots(
        table=state.table,
        before=newest + timedelta(milliseconds=1),
        snapshots=len(gone),
        size_bytes=freed,
        reason=f"{len(gone):,} of {_count(len(state.snapshots), 'snapshot')} are older than "
        f"{policy.snapshot_days:g} days or more than {policy.max_snapshots:,}, the oldest {oldest_days:.1f} days; "
        f"they alone keep {told_size(freed)}",
    )


def _compactions(state: TableState, policy: Policy, now: datetime, statement_bytes: int, many: int) -> Iterator[Action]:
    if state.writers or policy.leaves_files:
        return
    ordered = sorted(state.partitions, key=lambda p: (is_open(p, policy, now), p.name))
    for partition in ordered:
        open_still = is_open(partition, policy, now)
        if open_still and len(partition.small) < many:
            continue
        if partition.delete_files and _fits(partition, statement_bytes) and not open_still:
            yield _whole(state, partition)
        elif _excess(partition, policy):
            yield from _by_paths(state, partition, policy, statement_bytes, open_still=open_still)


def _whole(state: TableState, partition: PartitionState) -> Compact:
    return Compact(
        table=state.table,
        partition=partition.name,
        condition=partition.condition or "",
        paths=(),
        files=partition.files,
        size_bytes=partition.size_bytes,
        reason=f"{_place(partition)}: {_count(partition.delete_files, 'delete file')} are read with each query of its "
        f"{_count(partition.files, 'data file')} ({told_size(partition.size_bytes)})",
    )


def _by_paths(
    state: TableState, partition: PartitionState, policy: Policy, statement_bytes: int, *, open_still: bool
) -> Iterator[Compact]:
    small = partition.small
    total = sum(file.size_bytes for file in small)
    characters = sum(len(file.path) + 4 for file in small)
    count = max(
        1,
        math.ceil(total / policy.target_file_bytes),
        math.ceil(total / statement_bytes),
        math.ceil(characters / STATEMENT_CHARACTERS),
    )
    pieces = [piece for piece in _even(small, count) if len(piece) > 1]
    for number, piece in enumerate(pieces, start=1):
        size = sum(file.size_bytes for file in piece)
        part = f" ({number} of {len(pieces)})" if len(pieces) > 1 else ""
        still = "; nobody waits for it to close, they are too many" if open_still else ""
        yield Compact(
            table=state.table,
            partition=partition.name,
            condition=partition.condition or "",
            paths=tuple(sorted(file.path for file in piece)),
            files=len(piece),
            size_bytes=size,
            reason=f"{_place(partition)}: {_count(partition.files, 'file')} where "
            f"{partition.ideal_files(policy):,} would do, {len(small):,} of them below "
            f"{told_size(int(policy.target_file_bytes * policy.small_file_ratio))}{still}; "
            f"{_count(len(piece), 'file')} of {told_size(size)} become one{part}",
        )


def _even(files: Sequence[SmallFile], count: int) -> list[list[SmallFile]]:
    """Spread files over so many pieces of about the same size."""
    pieces: list[list[SmallFile]] = [[] for _ in range(count)]
    filled = [(0, number) for number in range(count)]
    for file in sorted(files, key=lambda file: (-file.size_bytes, file.path)):
        size, number = heapq.heappop(filled)
        pieces[number].append(file)
        heapq.heappush(filled, (size + max(file.size_bytes, 1), number))
    return pieces


def _manifests(state: TableState, many: int) -> Iterator[Action]:
    ideal = max(1, math.ceil(state.manifest_bytes / MANIFEST_BYTES))
    if state.manifests >= many and state.manifests > 2 * ideal:
        yield RewriteManifests(
            table=state.table,
            reason=f"{state.manifests:,} manifests hold {told_size(state.manifest_bytes)}, "
            f"which is room for {ideal:,}; each query reads all of them to plan",
        )


def _orphans(state: TableState, policy: Policy, now: datetime) -> Iterator[Action]:
    old = orphans(state, policy, now)
    if old and not state.shares_place_with:
        size = sum(each.size_bytes for each in old)
        yield RemoveOrphans(
            table=state.table,
            objects=tuple(old),
            size_bytes=size,
            reason=f"{_count(len(old), 'object')} of {told_size(size)} older than {policy.orphan_hours:g} h that no "
            "snapshot and no metadata of the table names",
        )


def _statistics(state: TableState, policy: Policy) -> Iterator[Action]:
    known = state.statistics_rows
    if not state.rows or state.live_bytes > policy.analyze_bytes:
        return
    if known is not None and abs(state.rows - known) <= CHANGED_ROWS_RATIO * known:
        return
    before = "it has none" if known is None else f"they are of {_count(known, 'row')}"
    yield Analyze(
        table=state.table,
        reason=f"statistics for the query planner: {before}, and the table has {_count(state.rows, 'row')}",
    )


def _excess(partition: PartitionState, policy: Policy) -> bool:
    return len(partition.small) > 1 and partition.files > MOST_OVER_IDEAL * partition.ideal_files(policy)


def _fits(partition: PartitionState, statement_bytes: int) -> bool:
    return partition.condition is not None and partition.size_bytes <= statement_bytes


def _age(moment: datetime, now: datetime) -> timedelta:
    return now - moment


def _place(partition: PartitionState) -> str:
    return partition.name or "the table"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def told_size(size_bytes: float) -> str:
    """A size for people."""
    for unit, width in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= width:
            return f"{size_bytes / width:,.1f} {unit}"
    return f"{size_bytes:,.0f} B"
