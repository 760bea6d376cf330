"""What lies where: files, snapshots and bytes of the tables, the buckets, the disk, and the archive of old events."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime

from lakehouse import maintenance
from lakehouse.adapters.observed import last_written_at
from lakehouse.adapters.upkeep import size_of
from lakehouse.exporter.clients import Clients, age
from lakehouse.exporter.looks import Fact
from lakehouse.exporter.metrics import (
    ARCHIVE_AGE_SECONDS,
    BUCKET_BYTES,
    BUCKET_OBJECTS,
    DISK_FREE_BYTES,
    DISK_SIZE_BYTES,
    TABLE_BYTES,
    TABLE_FILES,
    TABLE_OVERDUE_FILES,
    TABLE_SMALL_FILES,
    TABLE_SNAPSHOTS,
)
from lakehouse.tables import ALL, USER_ACTIONS_ARCHIVE


def tables(clients: Clients) -> Iterator[Fact]:
    """Files, snapshots and bytes of each table, by its metadata."""
    lake = clients.lake
    for name in [*(spec.identifier for spec in ALL), *lake.tables(*maintenance.MODEL_NAMESPACES)]:
        table = lake.table(name)
        if table is None:
            continue
        size = size_of(table)
        yield Fact(TABLE_FILES, size.files, (name,))
        yield Fact(TABLE_BYTES, size.size_bytes, (name,))
        yield Fact(TABLE_SNAPSHOTS, len(table.metadata.snapshots), (name,))


def small_files(clients: Clients) -> Iterator[Fact]:
    """What compaction could save, by each table's policy."""
    settings, now = clients.settings, datetime.now(UTC)
    for target in maintenance.targets(settings):
        health = clients.lake.health_of(target.name, target.policy, now, settings.maintenance.statement_bytes)
        if health is not None:
            yield Fact(TABLE_SMALL_FILES, health.due_files, (target.name,))
            yield Fact(TABLE_OVERDUE_FILES, health.overdue_files, (target.name,))


def archive(clients: Clients) -> Iterator[Fact]:
    """How long ago old events went into their archive."""
    table = clients.lake.table(USER_ACTIONS_ARCHIVE.identifier)
    written_at = last_written_at(table) if table else None
    if written_at:
        yield Fact(ARCHIVE_AGE_SECONDS, age(written_at), ("events",), is_age=True)


def bucket(clients: Clients, name: str) -> Iterator[Fact]:
    """Objects and bytes of a bucket."""
    total = clients.objects.total(name)
    yield Fact(BUCKET_OBJECTS, total.objects, (name,))
    yield Fact(BUCKET_BYTES, total.size_bytes, (name,))


def disk(clients: Clients) -> Iterator[Fact]:
    """Room on the volume of the platform's home; none where there is no such folder."""
    home = clients.settings.home
    if home.exists():
        usage = shutil.disk_usage(home)
        yield Fact(DISK_FREE_BYTES, usage.free, ("home",))
        yield Fact(DISK_SIZE_BYTES, usage.total, ("home",))
