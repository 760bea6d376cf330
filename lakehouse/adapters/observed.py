"""The tables as somebody sees them who looks often and changes nothing: by their metadata, each part read once.

What a manifest or a data file says never changes, so it is kept as long as a snapshot that was looked at names it.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, NamedTuple, TypeVar

from pyiceberg.conversions import from_bytes
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import ManifestContent, ManifestFile
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.types import TimestamptzType

from lakehouse.adapters.catalog import moment
from lakehouse.adapters.marts import PUBLISHED, waits_since
from lakehouse.adapters.upkeep import Upkeep
from lakehouse.ledger import TOPIC
from lakehouse.maintenance_plan import Health, health
from lakehouse.settings import Settings
from lakehouse.tables import Policy

ARRIVED: Final = "last_ingested_at"
"""The column by which every mart tells the newest arrival that it holds."""
_FRESH_SECONDS: Final = 5.0
"""So that collectors that look at one table one after the other load it once."""
_KEPT_SECONDS: Final = 600.0
"""The keys to the object store that came with a table may be good for an hour only."""
_NO_TIME: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_Value = TypeVar("_Value")


class _Loaded(NamedTuple):
    """A table as it was found.

    Attributes:
        read_at: when its metadata was read.
        seen_at: when the catalog last said that they are still its metadata.
    """

    table: Table | None
    read_at: float
    seen_at: float


class _Bounds(NamedTuple):
    """The earliest and the latest time that a data file has in a column."""

    lower: datetime
    upper: datetime


class Observed(Upkeep):
    """The tables of an environment; raises what `Lake` raises. Several threads may look at once."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._loaded: dict[str, _Loaded] = {}
        self._kept: dict[str, tuple[object, object]] = {}
        self._of_manifests: dict[str, dict[str, tuple[_Bounds, ...]]] = {}
        self._of_files: dict[str, dict[tuple[str, ...], Counter[tuple[str, bool]]]] = {}

    def table(self, name: str) -> Table | None:
        """A table as it was some seconds ago at most; None when it does not exist."""
        known = self._loaded.get(name)
        now = time.monotonic()
        if known and now - known.seen_at <= _FRESH_SECONDS:
            return known.table
        with self._errors(), suppress(NoSuchTableError):
            if known and known.table and now - known.read_at < _KEPT_SECONDS:
                table = self._catalog.reload_table(f"{self._prefix}{name}", known.table)
                known = _Loaded(table, known.read_at if table is known.table else now, now)
            else:
                known = _Loaded(super()._load(name), now, now)
            self._loaded[name] = known
            return known.table
        self._loaded.pop(name, None)  # dropped since
        return None

    def _load(self, name: str) -> Table | None:
        return self.table(name)

    def marts(self) -> list[str]:
        """Name the marts that are built."""
        return [name.partition(".")[2] for name in self.tables("build")]

    def health_of(self, name: str, policy: Policy, now: datetime, statement_bytes: int) -> Health | None:
        """How a table is, what lies about that nothing names left out; measured when it has changed."""
        table = self.table(name)
        if table is None:
            return None
        version = (table.metadata_location, policy)
        state = self._once(f"state of {name}", version, lambda: self.measure(name, policy, now))
        return state and health(state, policy, now, statement_bytes=statement_bytes)

    def built_through(self, mart: str) -> datetime | None:
        """The newest arrival that a mart tells people of; None when it is not published."""
        table = self.table(f"build.{mart}")
        tagged = table.snapshot_by_name(PUBLISHED) if table else None
        if table is None or tagged is None or ARRIVED not in table.schema().column_names:
            return None
        bounds = self._once(
            f"arrivals of {mart}",
            tagged.snapshot_id,
            lambda: [b for m in self._manifests(table, tagged) for b in self._read_bounds(table, m, ARRIVED)],
        )
        return max((one.upper for one in bounds), default=None)

    def unpublished_since(self, mart: str) -> datetime | None:
        """When the first version of a mart was built that is not published; None when all are."""
        table = self.table(f"build.{mart}")
        return waits_since(table, table.snapshot_by_name(PUBLISHED)) if table else None

    def waiting_since(self, name: str, column: str, after: datetime | None) -> datetime | None:
        """The earliest time later than `after` that a column of a table has; None when it has none.

        Where compaction has put earlier rows into one file with later ones, it is the latest time of that file.
        """
        table = self.table(name)
        newest = table.current_snapshot() if table else None
        if table is None or newest is None:
            return None
        since = after or _NO_TIME
        known = {snapshot.snapshot_id: moment(snapshot.timestamp_ms) for snapshot in table.metadata.snapshots}
        before, now = self._of_manifests.get(name, {}), dict[str, tuple[_Bounds, ...]]()
        with self._errors():
            for manifest in self._manifests(table, newest):
                path, added_at = manifest.manifest_path, known.get(manifest.added_snapshot_id or 0)
                if path in before:
                    now[path] = before[path]
                elif added_at is None or added_at > since:  # rows are written before they are committed
                    now[path] = tuple(self._read_bounds(table, manifest, column))
        self._of_manifests[name] = now
        later = (bounds for of_manifest in now.values() for bounds in of_manifest if bounds.upper > since)
        return min((bounds.lower if bounds.lower > since else bounds.upper for bounds in later), default=None)

    def refused(self, name: str) -> Counter[tuple[str, bool]]:
        """Count the rows of a quarantine table by reason, and by whether they are records of files."""
        table = self.table(name)
        if table is None:
            return Counter()

        def count() -> Counter[tuple[str, bool]]:
            before, now = self._of_files.get(name, {}), dict[tuple[str, ...], Counter[tuple[str, bool]]]()
            scan = table.scan(selected_fields=("reason", "file"))
            arrow = ArrowScan(table.metadata, table.io, scan.projection(), AlwaysTrue())
            with self._errors():
                for task in scan.plan_files():
                    key = (task.file.file_path, *sorted(delete.file_path for delete in task.delete_files))
                    now[key] = before[key] if key in before else _reasons(arrow, task)
            self._of_files[name] = now
            return sum(now.values(), Counter())

        return self._once(f"refused in {name}", table.metadata.current_snapshot_id, count)

    def sum_of(self, name: str, column: str) -> int:
        """Add up a column of a table; 0 when it does not exist."""
        table = self.table(name)
        newest = table.current_snapshot() if table else None
        return self._sum(table, newest, column) if table and newest else 0

    def published_sum(self, mart: str, column: str) -> int | None:
        """Add up a column of a mart as people see it; None when it is not published."""
        table = self.table(f"build.{mart}")
        tagged = table.snapshot_by_name(PUBLISHED) if table else None
        return self._sum(table, tagged, column) if table and tagged else None

    def _sum(self, table: Table, snapshot: Snapshot, column: str) -> int:
        def added() -> int:
            with self._errors():
                values = table.scan(selected_fields=(column,), snapshot_id=snapshot.snapshot_id).to_arrow()[column]
            return sum(value or 0 for value in values.to_pylist())

        return self._once(f"{column} of {table.name()}", snapshot.snapshot_id, added)

    def _once(self, what: str, version: object, find: Callable[[], _Value]) -> _Value:
        """What was found of this version before, else what is found now."""
        known = self._kept.get(what)
        if known is None or known[0] != version:
            self._kept[what] = known = (version, find())
        return known[1]  # pyright: ignore[reportReturnType] - what the same question found before

    def _manifests(self, table: Table, snapshot: Snapshot) -> Iterator[ManifestFile]:
        with self._errors():
            yield from (m for m in snapshot.manifests(table.io) if m.content is ManifestContent.DATA)

    def _read_bounds(self, table: Table, manifest: ManifestFile, column: str) -> Iterator[_Bounds]:
        field = table.schema().find_field(column)
        with self._errors():
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                lower = (entry.data_file.lower_bounds or {}).get(field.field_id)
                upper = (entry.data_file.upper_bounds or {}).get(field.field_id)
                if lower and upper:
                    yield _Bounds(_time(lower), _time(upper))


def position_moved_at(table: Table) -> datetime | None:
    """When the position of a table last moved, or when its oldest snapshot was made; None where there is none."""
    ordered = sorted(table.metadata.snapshots, key=lambda snapshot: snapshot.sequence_number or 0)
    moved = [one for one in ordered if one.summary and TOPIC in one.summary.additional_properties]
    return moment((moved[-1:] or ordered[:1])[0].timestamp_ms) if ordered else None


def last_written_at(table: Table) -> datetime | None:
    """When rows last came into a table; None when none did as far as is known."""
    told = ((one, one.summary.additional_properties) for one in table.metadata.snapshots if one.summary)
    return max((moment(one.timestamp_ms) for one, summary in told if "added-records" in summary), default=None)


def _reasons(arrow: ArrowScan, task: FileScanTask) -> Counter[tuple[str, bool]]:
    found: Counter[tuple[str, bool]] = Counter()
    for batch in arrow.to_record_batches([task]):
        reasons, files = batch["reason"].to_pylist(), batch["file"].to_pylist()
        found.update((reason, file is not None) for reason, file in zip(reasons, files, strict=True))
    return found


def _time(bound: bytes) -> datetime:
    return _NO_TIME + timedelta(microseconds=from_bytes(TimestamptzType(), bound))
