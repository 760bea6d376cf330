"""The live table and its archive in the catalog: what they hold file by file, and taking whole files out of either."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue, BooleanExpression, EqualTo, LessThan
from pyiceberg.io.pyarrow import ArrowScan, _read_all_delete_files  # pyright: ignore[reportPrivateUsage]
from pyiceberg.manifest import DataFile
from pyiceberg.table import FileScanTask, Table, _parquet_files_to_data_files  # pyright: ignore[reportPrivateUsage]
from pyiceberg.utils.datetime import days_to_date

from lakehouse.adapters.catalog import Lake
from lakehouse.archive_parts import Due, SourceFile
from lakehouse.errors import LakehouseError
from lakehouse.ledger import RUN_ID
from lakehouse.tables import TableSpec


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A data file of a table that is partitioned by one date.

    Attributes:
        date: its partition.
        rows: how many it has, those that a delete file takes away included.
        has_deletes: a delete file takes rows of it away.
    """

    path: str
    date: date
    rows: int
    size_bytes: int
    has_deletes: bool = False


class FilesChangedError(LakehouseError):
    """Files to take out are no longer in the table as they were read; nothing was committed."""


class Archive(Lake):
    """The tables on both sides of an archive; raises what `Lake` raises."""

    def due(self, table: Table, spec: TableSpec, before: date) -> list[Due]:
        """Measure the dates before this one, as the table was when it was loaded."""
        held: dict[date, list[HeldFile]] = {}
        for file in self.files(table, spec, before=before):
            held.setdefault(file.date, []).append(file)
        return [
            Due(day, sum(file.rows for file in files), len(files), sum(file.size_bytes for file in files))
            for day, files in held.items()
        ]

    def files(
        self, table: Table, spec: TableSpec, *, on: date | None = None, before: date | None = None
    ) -> list[HeldFile]:
        """List the data files of a table as it was when it was loaded, by path.

        Args:
            table: as `load` returned it.
            spec: the table; partitioned by one date.
            on: only of this date.
            before: only of dates before this one.
        """
        (column,) = spec.partition_by
        chosen: BooleanExpression = AlwaysTrue()
        if on is not None:
            chosen = _is(column, on)
        elif before is not None:
            chosen = LessThan(column, before.isoformat())  # pyright: ignore[reportCallIssue]
        with self._errors():
            found = [_held(task) for task in table.scan(chosen).plan_files()]
        return sorted(found, key=lambda file: file.path)

    def sources(self, table: Table, spec: TableSpec, day: date) -> tuple[SourceFile, ...]:
        """The data files of a date with the delete files that apply to them, as `take_out` asks for them."""
        with self._errors():
            return tuple(sorted((source_of(task) for task in _tasks(table, spec, day)), key=lambda file: file.path))

    def rows(self, table: Table, spec: TableSpec, day: date, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read the rows of a date as the table was when it was loaded.

        The date is the partition, so each row of the files is of it: nothing is left to filter.
        """
        with self._errors():
            tasks = list(_tasks(table, spec, day))
        yield from self.rows_of(table, tasks, columns)

    def rows_of(self, table: Table, tasks: Iterable[FileScanTask], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read all rows of the files of a scan; of one file, a few row groups in memory.

        `Lake.read` would hold whole files, which compaction makes large.
        """
        projected = table.scan(selected_fields=tuple(columns)).projection()
        arrow = ArrowScan(table.metadata, table.io, projected, AlwaysTrue())
        for task in tasks:
            with self._errors():
                deletes = _read_all_delete_files(table.io, [task])
                for batch in arrow._record_batches_from_scan_tasks_and_deletes([task], deletes):  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
                    yield batch.select(columns)

    def take_out(
        self,
        spec: TableSpec,
        day: date,
        sources: Sequence[SourceFile],
        *,
        expected: Mapping[str, str | None],
        properties: Mapping[str, str],
        run_id: str,
        summary: Mapping[str, str],
    ) -> int:
        """Take exactly these data files out of a table, and set properties, in one commit; returns the snapshot's id.

        Files of the same date that came since stay.

        Args:
            spec: the table.
            day: the date that all the files are of.
            sources: the files, as `sources` listed them when their rows were read.
            expected: as in `append`.
            properties: as in `append`.
            run_id: as in `append`.
            summary: as in `append`.

        Raises:
            FilesChangedError: a file is gone, or a delete file has taken rows of it away: a compaction or a correction
                came between.
            FenceError: a property is not as expected.
            CommitStateUnknownError: the catalog's answers were lost.
            ServerUnavailableError: surely nothing was committed.
        """

        def once(table: Table) -> int:
            present = {source: task.file for task in _tasks(table, spec, day) for source in (source_of(task),)}
            if missing := [source.path for source in sources if source not in present]:
                raise FilesChangedError(f"{len(missing)} files of {self.identifier(spec)}, such as {missing[0]}")
            return overwrite_once(
                table, [present[source] for source in sources], properties, {RUN_ID: run_id} | dict(summary)
            )

        return self._commit(spec, once, expected=expected, properties=properties, run_id=run_id)

    def drop(self, spec: TableSpec, goes: Callable[[str], bool], *, run_id: str, summary: Mapping[str, str]) -> int:
        """Take the data files out of a table whose path `goes`, in one commit; returns how many there were.

        The objects stay: older snapshots name them, and expiry removes them with those.
        """
        dropped = 0

        def once(table: Table) -> int:
            nonlocal dropped
            gone = [task.file for task in table.scan().plan_files() if goes(task.file.file_path)]
            dropped = len(gone)
            if not gone:
                return table.metadata.current_snapshot_id or 0
            return overwrite_once(table, gone, {}, {RUN_ID: run_id} | dict(summary))

        self._commit(spec, once, expected={}, properties={}, run_id=run_id)
        return dropped


def _is(column: str, day: date) -> BooleanExpression:
    return EqualTo(column, day.isoformat())  # pyright: ignore[reportCallIssue]


def _tasks(table: Table, spec: TableSpec, day: date) -> Iterable[FileScanTask]:
    (column,) = spec.partition_by
    return table.scan(_is(column, day)).plan_files()


def source_of(task: FileScanTask) -> SourceFile:
    """A data file of a scan, with the delete files that apply to it."""
    return SourceFile(task.file.file_path, tuple(sorted(file.file_path for file in task.delete_files)))


def _held(task: FileScanTask) -> HeldFile:
    file = task.file
    day = days_to_date(file.partition[0])  # days since 1970
    return HeldFile(file.file_path, day, file.record_count, file.file_size_in_bytes, bool(task.delete_files))


def overwrite_once(
    table: Table,
    gone: Iterable[DataFile],
    properties: Mapping[str, str],
    summary: Mapping[str, str],
    added: Sequence[str] = (),
) -> int:
    """Take data files out of a table, add others by their paths and set properties, in one commit that is tried once.

    The client's own retries would pass the fence, as in an append.
    """
    table.metadata.properties["commit.retry.num-retries"] = "0"
    transaction = table.transaction()
    if properties:
        transaction.set_properties(dict(properties))
    with transaction.update_snapshot(snapshot_properties=dict(summary)).overwrite() as overwrite:
        for file in gone:
            overwrite.delete_data_file(file)
        for file in _parquet_files_to_data_files(table.metadata, list(added), table.io):
            overwrite.append_data_file(file)
    committed = transaction.commit_transaction()
    snapshot_id = committed.metadata.current_snapshot_id
    assert snapshot_id is not None
    return snapshot_id
