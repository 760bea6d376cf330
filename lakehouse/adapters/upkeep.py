"""What maintenance measures of the tables, and the steps that it takes: Trino's statements, exact deletes, moved tags.

Measuring reads metadata and the list of objects, never a data file.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

import requests
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.manifest import DataFileContent, ManifestFile
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot, ancestors_of
from pyiceberg.transforms import DayTransform, IdentityTransform, MonthTransform
from pyiceberg.types import DateType, IntegerType, LongType, StringType, TimestamptzType
from pyiceberg.utils.concurrent import ExecutorFactory
from trino import exceptions

from lakehouse.adapters import trino
from lakehouse.adapters.catalog import Lake, moment
from lakehouse.adapters.marts import PUBLISHED_AT
from lakehouse.adapters.objects import Objects
from lakehouse.errors import TerminalError, TransientError
from lakehouse.maintenance_plan import PartitionState, SmallFile, SnapshotState, TableState, Unknown
from lakehouse.settings import S3Settings, TrinoLogin
from lakehouse.tables import LEAST_ORPHAN_HOURS, Policy

OURS: Final = "lakehouse."
"""What properties start with that jobs keep in a table, such as the position."""

_LONGEST_STATEMENT: Final = "2h"
_MILLISECOND: Final = timedelta(milliseconds=1)
_TEMPORARY: Final = re.compile(r"__dbt_|__first_build$")
_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, slots=True)
class Size:
    """Data and delete files of the newest snapshot."""

    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What a table was before an action, to compare it with afterwards.

    Attributes:
        snapshots: ids of all snapshots.
        properties: those that jobs keep.
    """

    snapshots: frozenset[int]
    properties: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Ran:
    """A statement that ended.

    Attributes:
        planning_seconds: until Trino had a plan, analysis included.
        scan_seconds: the rest, waiting in the queue left out.
    """

    rows: list[tuple[Any, ...]]
    planning_seconds: float
    scan_seconds: float


class Upkeep(Lake):
    """The tables of an environment as maintenance sees them, named `namespace.name`; raises what `Lake` raises."""

    def tables(self, *namespaces: str) -> list[str]:
        """Name the tables of these namespaces, without what a build left half done."""
        found: list[str] = []
        with self._errors():
            for namespace in namespaces:
                with suppress(NoSuchNamespaceError):
                    listed = self._catalog.list_tables(f"{self._prefix}{namespace}")
                    found += [f"{namespace}.{name}" for _, name in listed if not _TEMPORARY.search(name)]
        return sorted(found)

    def places(self) -> dict[str, str]:
        """Where the files of each table of the catalog lie, of other environments too; by its full name."""
        found: dict[str, str] = {}
        with self._errors():
            for namespace in self._catalog.list_namespaces():
                with suppress(NoSuchNamespaceError):
                    for name in self._catalog.list_tables(namespace):
                        with suppress(NoSuchTableError):  # dropped meanwhile
                            found[".".join(name)] = _folder(self._catalog.load_table(name).location())
        return found

    def measure(
        self, name: str, policy: Policy, now: datetime, *, places: Mapping[str, str] | None = None
    ) -> TableState | None:
        """Measure a table; None when it does not exist.

        Args:
            name: `namespace.name`.
            policy: says which files are small.
            now: decides whether an object may be garbage, and so whether all history must be read to be sure.
            places: where each table lies; without it the objects are not listed, and nothing unknown is found.
        """
        with self._errors():
            table = self._load(name)
            if table is None:
                return None
            reach = _Reach(table)
            newest = table.current_snapshot()
            small_bytes = int(policy.target_file_bytes * policy.small_file_ratio)
            unknown, metadata_bytes, sharing = (), 0, ()
            if places is not None:
                objects = list_objects(self._settings.s3, _folder(table.location()))
                before = now - timedelta(hours=policy.orphan_hours)
                unknown = _unknown(reach, objects, before)
                named = reach.metadata & objects.keys()
                metadata_bytes = sum(objects[path][0] for path in named)
                sharing = _sharing(table, f"{self._prefix}{name}", places)
            return TableState(
                table=name,
                rows=_total(newest, "total-records"),
                partitions=_partitions(table, reach, small_bytes),
                snapshots=reach.snapshots(),
                manifests=len(reach.newest),
                manifest_bytes=sum(manifest.manifest_length for manifest in reach.newest),
                metadata_files=len(table.metadata.metadata_log) + 1,
                metadata_bytes=metadata_bytes,
                added_bytes=_added_bytes(table),
                delete_bytes=sum(f.size_bytes for f in reach.live() if f.is_delete),
                pinned_bytes=reach.pinned_bytes,
                unknown=unknown,
                shares_place_with=sharing,
                statistics_rows=_statistics_rows(table),
            )

    def size(self, name: str) -> Size:
        """Count the files of the newest snapshot, by its summary."""
        with self._errors():
            table = self._load(name)
        return size_of(table) if table else Size(0, 0)

    def objects(self, name: str) -> dict[str, int]:
        """List all objects in a table's place, garbage included: their sizes, by location."""
        with self._errors():
            table = self._load(name)
        listed = list_objects(self._settings.s3, _folder(table.location())) if table else {}
        return {path: size for path, (size, _) in listed.items()}

    def named_snapshots(self, name: str) -> list[int]:
        """The snapshots that tags and branches name, the newest one left out."""
        with self._errors():
            table = self._load(name)
        refs = table.metadata.refs.values() if table else ()
        newest = table.metadata.current_snapshot_id if table else None
        return sorted({ref.snapshot_id for ref in refs} - {newest or 0})

    def mark(self, name: str) -> Mark:
        """Remember what an action must leave as it is."""
        with self._errors():
            table = self._load(name)
        if table is None:
            raise TerminalError(f"{self._prefix}{name} is gone from the catalog")
        return Mark(frozenset(s.snapshot_id for s in table.metadata.snapshots), _kept(table))

    def refuse_loss(self, name: str, before: Mark) -> None:
        """See that rewriting kept each row, and that nobody but a writer moved what jobs keep in the properties.

        Raises:
            TerminalError: it did not.
        """
        with self._errors():
            table = self._load(name)
        if table is None:
            raise TerminalError(f"{self._prefix}{name} is gone from the catalog")
        new = [s for s in table.metadata.snapshots if s.snapshot_id not in before.snapshots]
        for snapshot in filter(_is_replace, new):
            added, removed = (_total(snapshot, f"{which}-records") for which in ("added", "deleted"))
            if (
                added != removed
                and not _total(snapshot, "removed-delete-files")
                and not _total(snapshot, "total-delete-files")
            ):
                raise TerminalError(
                    f"{self._prefix}{name}: snapshot {snapshot.snapshot_id} rewrote {removed:,} rows to {added:,}: "
                    f"roll back to {snapshot.parent_snapshot_id} and report it"
                )
        kept = _kept(table)
        changed = sorted(key for key in before.properties.keys() | kept if before.properties.get(key) != kept.get(key))
        if changed and all(map(_is_replace, new)):
            raise TerminalError(
                f"{self._prefix}{name}: {', '.join(changed)} changed under maintenance and no writer did it: "
                "look at the table's history before anything writes to it again"
            )

    def carry_tag(self, name: str, tag: str) -> bool:
        """Move a tag to the newest snapshot when only rewriting lies between them, so that readers get the new files.

        The rows are the same. It is one commit, which succeeds only while the tag is where it was found.

        Returns:
            Whether it moved.

        Raises:
            TransientError: somebody else moved the tag, or the answer was lost; do it again.
        """
        with self._errors():
            table = self._load(name)
            tagged = table.snapshot_by_name(tag) if table else None
            newest = table.current_snapshot() if table else None
            if table is None or tagged is None or newest is None or tagged.snapshot_id == newest.snapshot_id:
                return False
            version: Snapshot | None = newest
            while version and version.snapshot_id != tagged.snapshot_id:
                parent = version.parent_snapshot_id if _is_replace(version) else None
                version = table.snapshot_by_id(parent) if parent else None
            if version is None or _columns(table, newest) != _columns(table, tagged):
                return False
            table.manage_snapshots().create_tag(newest.snapshot_id, tag).commit()
            return True

    def remove(self, name: str, objects: Sequence[Unknown], now: datetime) -> int:
        """Delete exactly these objects, if the table still does not know them; returns the bytes removed.

        Raises:
            TerminalError: one of them is younger than `LEAST_ORPHAN_HOURS`, or the table knows it by now.
            TransientError: the object store refused some; those stay, and the next run finds them again.
        """
        least = timedelta(hours=LEAST_ORPHAN_HOURS)
        if young := [each for each in objects if now - each.modified_at < least]:
            raise TerminalError(
                f"{young[0].path} is younger than {LEAST_ORPHAN_HOURS} h and may belong to a write under way: "
                "nothing was removed"
            )
        with self._errors():
            table = self._load(name)
            if table is None:
                raise TerminalError(f"{self._prefix}{name} is gone from the catalog")
            reach = _Reach(table)
            reach.complete()
        if known := [each.path for each in objects if reach.knows(each.path)]:
            raise TerminalError(f"{self._prefix}{name} names {known[0]} by now: nothing was removed")
        _delete(self._settings.s3, [each.path for each in objects])
        return sum(each.size_bytes for each in objects)

    def _load(self, name: str) -> Table | None:
        with suppress(NoSuchTableError, NoSuchNamespaceError):
            return self._catalog.load_table(f"{self._prefix}{name}")
        return None


def size_of(table: Table) -> Size:
    """Count the files of the newest snapshot of a table, by its summary."""
    newest = table.current_snapshot()
    return Size(
        _total(newest, "total-data-files") + _total(newest, "total-delete-files"), _total(newest, "total-files-size")
    )


def run(login: TrinoLogin, sql: str, session_properties: Mapping[str, str] | None = None) -> Ran:
    """Run a statement that may take long; whatever ends the wait for it ends the statement too.

    Raises:
        ServerUnavailableError: Trino does not answer.
        TransientError: it failed for a reason that may pass, such as another writer that committed first.
        TerminalError: it fails again until something changes.
    """
    session = {"query_max_run_time": _LONGEST_STATEMENT} | dict(session_properties or {})
    try:
        with trino.connection(login, session_properties=session) as opened:
            cursor = opened.cursor()
            try:
                cursor.execute(sql)
                rows = [tuple(row) for row in cursor.fetchall()]
            except BaseException:
                with suppress(exceptions.Error, exceptions.HttpError, requests.RequestException):
                    cursor.cancel()
                raise
            stats: Mapping[str, Any] = cursor.stats or {}
    except (exceptions.Error, exceptions.HttpError, requests.RequestException) as error:
        raise trino.translate(error, f"{login.host}:{login.port}") from error
    planning = (stats.get("analysisTimeMillis", 0) + stats.get("planningTimeMillis", 0)) / 1000
    running = (stats.get("elapsedTimeMillis", 0) - stats.get("queuedTimeMillis", 0)) / 1000
    return Ran(rows, round(planning, 3), round(max(running - planning, 0), 3))


def list_objects(settings: S3Settings, start: str) -> dict[str, tuple[int, datetime]]:
    """List the objects whose location starts so: size and time of the last change, by location.

    Raises:
        ServerUnavailableError: the object store did not answer.
    """
    bucket, _, prefix = start.removeprefix("s3://").partition("/")
    return {
        f"s3://{bucket}/{each.version.key}": (each.size_bytes, each.modified_at)
        for each in Objects(settings).under(bucket, prefix)
    }


def _delete(settings: S3Settings, paths: Sequence[str]) -> None:
    by_bucket: dict[str, list[str]] = {}
    for path in paths:
        bucket, _, key = path.removeprefix("s3://").partition("/")
        by_bucket.setdefault(bucket, []).append(key)
    objects = Objects(settings)
    if kept := [each for bucket, keys in by_bucket.items() for each in objects.delete(bucket, keys)]:
        raise TransientError(f"the object store kept {len(kept):,} objects, first {kept[0]}: run again")


class _File(NamedTuple):
    path: str
    size_bytes: int
    is_delete: bool
    partition: tuple[int, tuple[Any, ...]]
    snapshot_id: int | None


class _Held(NamedTuple):
    rank: int
    is_pinned: bool


class _Reach:
    """Everything that the snapshots of a table name, each manifest read once.

    An append holds all files of its parent, so the manifest lists of parents of appends are left out at first: a table
    with a commit a second would take minutes. They may name manifests that were merged since, so `complete` reads them
    where it matters whether a manifest is known.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        metadata = table.metadata
        self._ordered = sorted(metadata.snapshots, key=lambda s: (s.timestamp_ms, s.sequence_number or 0))
        self._rank = {snapshot.snapshot_id: rank for rank, snapshot in enumerate(self._ordered)}
        self._refs: dict[int, list[str]] = {}
        for name, ref in metadata.refs.items():
            self._refs.setdefault(ref.snapshot_id, []).append(name)
        self._newest_id = metadata.current_snapshot_id
        continued = {s.parent_snapshot_id for s in self._ordered if _operation(s) is Operation.APPEND}
        self._left_out = [s for s in self._ordered if s.snapshot_id in continued and s.snapshot_id not in self._refs]
        left_out = {s.snapshot_id for s in self._left_out}
        self.metadata: set[str] = {
            table.metadata_location,
            *(entry.metadata_file for entry in metadata.metadata_log),
            *(s.manifest_list for s in self._ordered),
            *(f.statistics_path for f in (*metadata.statistics, *metadata.partition_statistics)),
        }
        self.newest: tuple[ManifestFile, ...] = ()
        self._manifests: dict[str, ManifestFile] = {}
        self._held: dict[str, _Held] = {}
        self._files: dict[str, list[_File]] = {}
        self._read([s for s in self._ordered if s.snapshot_id not in left_out])
        self._names = {path.rpartition("/")[2] for path in self._paths()}
        self.pinned_bytes, self._only_here = self._weigh()

    @property
    def is_complete(self) -> bool:
        return not self._left_out

    def complete(self) -> None:
        """Read what was left out."""
        self._read(self._left_out)
        self._left_out = []
        self._names = {path.rpartition("/")[2] for path in self._paths()}

    def knows(self, path: str) -> bool:
        """Whether a snapshot or the metadata names the object; by its last part, as one path can be written in ways."""
        return path.rpartition("/")[2] in self._names

    def live(self) -> Iterable[_File]:
        """The files of the newest snapshot."""
        return (file for manifest in self.newest for file in self._files[manifest.manifest_path])

    def snapshots(self) -> tuple[SnapshotState, ...]:
        """The snapshots, the newest first."""
        newest = self.table.current_snapshot()
        main = {s.snapshot_id for s in ancestors_of(newest, self.table.metadata)}
        return tuple(
            SnapshotState(
                snapshot_id=s.snapshot_id,
                committed_at=moment(s.timestamp_ms),
                refs=tuple(sorted(self._refs.get(s.snapshot_id, ()))),
                is_on_main=s.snapshot_id in main,
                only_here_bytes=self._only_here.get(self._rank[s.snapshot_id], 0),
            )
            for s in reversed(self._ordered)
        )

    def _paths(self) -> Iterable[str]:
        yield from self.metadata
        yield from self._manifests
        for files in self._files.values():
            for file in files:
                yield file.path

    def _read(self, snapshots: Sequence[Snapshot]) -> None:
        io = self.table.io
        for snapshot, manifests in zip(snapshots, _side_by_side(lambda s: s.manifests(io), snapshots), strict=True):
            if snapshot.snapshot_id == self._newest_id:
                self.newest = tuple(manifests)
            rank = self._rank[snapshot.snapshot_id]
            is_pinned = any(name != "main" for name in self._refs.get(snapshot.snapshot_id, ()))
            for manifest in manifests:
                known = self._held.get(manifest.manifest_path, _Held(-1, is_pinned=False))
                held = _Held(max(known.rank, rank), known.is_pinned or is_pinned)
                self._held[manifest.manifest_path] = held
                self._manifests[manifest.manifest_path] = manifest
        unread = [manifest for path, manifest in self._manifests.items() if path not in self._files]
        for manifest, files in zip(unread, _side_by_side(self._entries, unread), strict=True):
            self._files[manifest.manifest_path] = files
        self.metadata |= self._manifests.keys()

    def _entries(self, manifest: ManifestFile) -> list[_File]:
        return [
            _File(
                file.file_path,
                file.file_size_in_bytes,
                file.content is not DataFileContent.DATA,
                (manifest.partition_spec_id, tuple(file.partition[i] for i in range(len(file.partition)))),
                entry.snapshot_id,
            )
            for entry in manifest.fetch_manifest_entry(self.table.io)
            for file in (entry.data_file,)
        ]

    def _weigh(self) -> tuple[int, dict[int, int]]:
        """Bytes that only refs keep, and bytes by the rank of the youngest snapshot that keeps them."""
        live = {file.path for file in self.live()}
        found: dict[str, tuple[int, _Held]] = {}
        for manifest, files in self._files.items():
            held = self._held[manifest]
            for file in files:
                if file.path not in live:
                    _, other = found.get(file.path, (0, held))
                    both = _Held(max(held.rank, other.rank), held.is_pinned or other.is_pinned)
                    found[file.path] = (file.size_bytes, both)
        pinned, only_here = 0, dict[int, int]()
        for size, held in found.values():
            if held.is_pinned:
                pinned += size
            else:
                only_here[held.rank] = only_here.get(held.rank, 0) + size
        return pinned, only_here


def _partitions(table: Table, reach: _Reach, small_bytes: int) -> tuple[PartitionState, ...]:
    known = {snapshot.snapshot_id: snapshot for snapshot in table.metadata.snapshots}
    found: dict[tuple[int, tuple[Any, ...]], list[_File]] = {}
    for file in reach.live():
        found.setdefault(file.partition, []).append(file)
    specs, schema = table.specs(), table.schema()
    partitions: list[PartitionState] = []
    for (spec_id, values), files in found.items():
        data = [file for file in files if not file.is_delete]
        writers = [known[f.snapshot_id] for f in files if f.snapshot_id in known]
        written = [snapshot.timestamp_ms for snapshot in writers if not _is_replace(snapshot)]
        is_current = spec_id == table.spec().spec_id
        partitions.append(
            PartitionState(
                name=_partition_name(specs[spec_id], schema, values),
                condition=_condition(specs[spec_id], schema, values) if is_current else None,
                files=len(data),
                size_bytes=sum(file.size_bytes for file in data),
                small=tuple(SmallFile(f.path, f.size_bytes) for f in data if f.size_bytes < small_bytes),
                delete_files=len(files) - len(data),
                written_at=moment(max(written)) if written else None,
            )
        )
    return tuple(sorted(partitions, key=lambda partition: partition.name))


def _partition_name(spec: PartitionSpec, schema: Schema, values: Sequence[Any]) -> str:
    return "/".join(f"{name}={text}" for name, text in _human(spec, schema, values))


def _human(spec: PartitionSpec, schema: Schema, values: Sequence[Any]) -> list[tuple[str, str]]:
    kinds = spec.partition_type(schema).fields
    return [
        (partition.name, partition.transform.to_human_string(kind.field_type, value))
        for partition, kind, value in zip(spec.fields, kinds, values, strict=True)
    ]


def _condition(spec: PartitionSpec, schema: Schema, values: Sequence[Any]) -> str | None:
    """SQL for exactly the rows of a partition; None where Trino could not tell them by columns alone."""
    parts: list[str] = []
    for partition, value, (_, text) in zip(spec.fields, values, _human(spec, schema, values), strict=True):
        source = schema.find_field(partition.source_id)
        column = '"' + source.name.replace('"', '""') + '"'
        if value is None:
            parts.append(f"{column} IS NULL")
            continue
        match partition.transform, source.field_type:
            case IdentityTransform(), DateType():
                parts.append(f"{column} = DATE '{text}'")
            case IdentityTransform(), StringType():
                parts.append(f"{column} = {trino.literal(text)}")
            case IdentityTransform(), IntegerType() | LongType():
                parts.append(f"{column} = {int(value)}")
            case ((DayTransform() | MonthTransform()), DateType() | TimestamptzType()):
                months = isinstance(partition.transform, MonthTransform)
                start = f"DATE '{text}{'-01' if months else ''}'"
                if isinstance(source.field_type, TimestamptzType):
                    start = f"TIMESTAMP '{text}{'-01' if months else ''} 00:00:00 UTC'"
                end = f"{start} + INTERVAL '1' {'MONTH' if months else 'DAY'}"
                parts.append(f"{column} >= {start} AND {column} < {end}")
            case _:
                return None
    return " AND ".join(parts)


def _unknown(reach: _Reach, objects: Mapping[str, tuple[int, datetime]], before: datetime) -> tuple[Unknown, ...]:
    found = [path for path in objects if not reach.knows(path)]
    if not reach.is_complete:
        # A manifest that nothing read so far names may be one of an older snapshot that was not looked at.
        unsure = [path for path in found if path.endswith(".avro")]
        if any(objects[path][1] <= before for path in unsure):
            reach.complete()
            found = [path for path in found if not reach.knows(path)]
        else:
            found = [path for path in found if not path.endswith(".avro")]
    return tuple(Unknown(path, *objects[path]) for path in sorted(found) if not path.endswith("/version-hint.text"))


def _sharing(table: Table, full_name: str, places: Mapping[str, str]) -> tuple[str, ...]:
    own = _folder(table.location())
    return tuple(sorted(name for name, place in places.items() if name != full_name and place.startswith(own)))


def _added_bytes(table: Table) -> int:
    ordered = sorted(table.metadata.snapshots, key=lambda s: s.timestamp_ms)
    written = [snapshot for snapshot in ordered[1:] if not _is_replace(snapshot)]
    return sum(_total(s, "added-files-size") - _total(s, "removed-files-size") for s in written)


def _statistics_rows(table: Table) -> int | None:
    known = [s for s in (table.snapshot_by_id(file.snapshot_id) for file in table.metadata.statistics) if s]
    newest = max(known, key=lambda s: s.sequence_number or 0, default=None)
    return _total(newest, "total-records") if newest else None


def _kept(table: Table) -> dict[str, str]:
    """The properties that change with a snapshot of a writer's and never without one."""
    return {k: v for k, v in table.properties.items() if k.startswith(OURS) and k != PUBLISHED_AT}


def _columns(table: Table, snapshot: Snapshot) -> object:
    known = table.schemas().get(snapshot.schema_id) if snapshot.schema_id is not None else None
    return (known or table.schema()).as_struct()


def _operation(snapshot: Snapshot) -> Operation | None:
    return snapshot.summary.operation if snapshot.summary else None


def _is_replace(snapshot: Snapshot) -> bool:
    return _operation(snapshot) is Operation.REPLACE


def _total(snapshot: Snapshot | None, key: str) -> int:
    summary = snapshot.summary if snapshot else None
    return int(summary.additional_properties.get(key, 0)) if summary else 0


def _folder(location: str) -> str:
    """The place as a prefix: with the slash, so that `user_actions` is no part of `user_actions_archive`."""
    return re.sub(r"^s3[an]://", "s3://", location).rstrip("/") + "/"


def _side_by_side(question: Callable[[_In], _Out], items: Sequence[_In]) -> list[_Out]:
    return list(ExecutorFactory.get_or_create().map(question, items))
