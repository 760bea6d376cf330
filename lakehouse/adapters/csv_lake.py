"""The tables that CSV files come into: what they know of files, and exchanging the rows of one version for another."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyiceberg.expressions import And, BooleanExpression, In
from pyiceberg.table import FileScanTask, Table

from lakehouse import ledger
from lakehouse.adapters.archive import Archive, FilesChangedError, overwrite_once, source_of
from lakehouse.adapters.catalog import Condition
from lakehouse.archive_parts import SourceFile
from lakehouse.csv_files import Commit, Kind, Known, Loaded, newest
from lakehouse.ledger import RUN_ID
from lakehouse.tables import CSV_FILES, USER_ACTIONS

Versions = Mapping[str, str]
"""A version of each file."""


@dataclass(frozen=True, slots=True)
class Touched:
    """A data file that may have rows of the versions asked for."""

    source: SourceFile
    task: FileScanTask


class CsvLake(Archive):
    """The catalog, with what files need of it; raises what `Lake` raises."""

    def newest(self, events: Table, days: Sequence[date] = ()) -> dict[str, Loaded]:
        """The newest version that the events have of each file of these dates, or of all.

        Args:
            events: the events table as it was loaded.
            days: dates of folders; none for all.
        """
        return newest(self._versions(events, days, Loaded))

    def known(self, events: Table) -> dict[str, Known]:
        """Of all files what tells whether they have to be read again; of many files it is far less than `newest`."""
        return newest(self._versions(events, (), Known))

    def _versions(self, events: Table, days: Sequence[date], kind: type[Kind]) -> Iterator[Kind]:
        number = ledger.csv_commits(events.properties)
        if not number:
            return
        table = self.load(CSV_FILES)
        columns = tuple(kind.__dataclass_fields__)
        chosen = [("drop_date", "in", [day.isoformat() for day in days])] if days else []
        for batch in self.read(table, columns, chosen).batches:  # pyright: ignore[reportArgumentType]
            for row in batch.to_pylist():
                if row["commit_number"] <= number:
                    yield kind.from_row(row)
        if ledger.csv_recorded(table.properties) < number:
            last = Commit.from_text(events.properties[ledger.CSV_LAST])
            yield from (kind.from_row(asdict(one)) for one in last.files if not days or one.drop_date in days)

    def quarantined_lines(self, table: Table, number: int) -> dict[tuple[str, str], npt.NDArray[np.int64]]:
        """The lines that quarantine has of the versions of a commit, sorted, by file and version."""
        found: dict[tuple[str, str], list[npt.NDArray[np.int64]]] = {}
        columns = ("file", "file_version", "file_line")
        for batch in self.read(table, columns, _of_number(number)).batches:
            lines = batch["file_line"].to_numpy()
            names = list(zip(batch["file"].to_pylist(), batch["file_version"].to_pylist(), strict=True))
            for name in set(names):
                chosen = np.fromiter((other == name for other in names), np.bool_, len(names))
                found.setdefault(name, []).append(lines[chosen])
        return {name: np.unique(np.concatenate(pieces)) for name, pieces in found.items()}

    def superseded(self, table: Table, last: Commit) -> dict[tuple[str, str], set[date]]:
        """What quarantine has of the versions that a commit supersedes.

        Args:
            table: quarantine as it was loaded.
            last: the commit.

        Returns:
            The dates on which these records were ingested, by file and version.
        """
        found: dict[tuple[str, str], set[date]] = {}
        columns = ("file", "file_version", "ingested_date")
        scans = [_of_number(last.number)]
        if replaced := [one.replaced_version for one in last.files if one.replaced_version]:
            scans.append([("file_version", "in", replaced)])
        for batch in (batch for where in scans for batch in self.read(table, columns, where).batches):
            for row in pa.Table.from_batches([batch]).group_by(list(columns)).aggregate([]).to_pylist():
                if last.supersedes(row["file"], row["file_version"]):
                    found.setdefault((row["file"], row["file_version"]), set()).add(row["ingested_date"])
        return found

    def touched(self, table: Table, versions: Versions) -> list[Touched]:
        """The data files that may have rows of these versions, as the table was when it was loaded."""
        if not versions or "file_version" not in table.schema().column_names:
            return []
        with self._errors():
            tasks = table.scan(_of(versions)).plan_files()
            return [Touched(source_of(task), task) for task in tasks]

    def rows_in(self, table: Table, touched: Touched, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read all rows of such a file, a few row groups in memory."""
        return self.rows_of(table, [touched.task], columns)

    def exchange(
        self,
        versions: Versions,
        gone: Mapping[SourceFile, bool],
        added: Sequence[str],
        *,
        expected: Mapping[str, str | None],
        properties: Mapping[str, str],
        run_id: str,
        summary: Mapping[str, str],
    ) -> int:
        """Take data files out of the events, add others and set properties, in one commit; returns the snapshot's id.

        Args:
            versions: whose rows leave the table.
            gone: the data files that were looked into for such rows, and whether each leaves the table.
            added: paths of files with what else was in those, and with the rows that take their place.
            expected: as in `append`.
            properties: as in `append`.
            run_id: as in `append`.
            summary: as in `append`.

        Raises:
            FilesChangedError: rows of these versions may be in other files by now: a compaction, a replay or another
                change came between.
            FenceError: a property is not as expected.
            CommitStateUnknownError: the catalog's answers were lost.
            ServerUnavailableError: surely nothing was committed.
        """
        told = {RUN_ID: run_id} | dict(summary)

        def once(table: Table) -> int:
            present = {each.source: each.task.file for each in self.touched(table, versions)}
            if differing := present.keys() ^ gone.keys():
                some = next(iter(differing)).path
                raise FilesChangedError(f"{len(differing)} files of {self.identifier(USER_ACTIONS)}, such as {some}")
            leaving = [file for source, file in present.items() if gone[source]]
            return overwrite_once(table, leaving, properties, told, added)

        return self._commit(USER_ACTIONS, once, expected=expected, properties=properties, run_id=run_id)


def _of_number(number: int) -> list[Condition]:
    # Versions begin with the number and a dash, which the dot follows.
    return [("file_version", ">=", f"{number:06}-"), ("file_version", "<", f"{number:06}.")]


def _of(versions: Versions) -> BooleanExpression:
    # Either condition alone holds for more rows; who reads them looks at both columns together.
    return And(In("file_version", set(versions.values())), In("file", set(versions)))  # pyright: ignore[reportCallIssue]
