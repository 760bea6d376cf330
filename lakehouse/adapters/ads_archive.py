"""The archive of ad impressions in the catalog: its files, the date it begins to count before, and the view over both.

The property `lakehouse.ads.archived-before` of the archive table is the *boundary*: impressions of dates before it
count in the archive, those of that date and later ones in PostgreSQL. A commit that brings the first files of a date
moves the boundary past it, so a query counts every impression in one place, whatever it sees of PostgreSQL's rows.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Final

from pyiceberg.expressions import EqualTo
from pyiceberg.schema import Schema, assign_fresh_schema_ids
from pyiceberg.table import Table

from lakehouse.adapters.archive import Archive, FilesChangedError, HeldFile, overwrite_once, source_of
from lakehouse.adapters.catalog import Applied
from lakehouse.ledger import RUN_ID
from lakehouse.tables import IMPRESSIONS_ARCHIVE

BOUNDARY: Final = "lakehouse.ads.archived-before"
ARCHIVER: Final = "lakehouse.ads.archiver"
"""Who committed last: a run that finds another one there has been overtaken."""
VIEW: Final = "impressions_all"
POSTGRES_CATALOG: Final = "app"
"""Trino's catalog of our database in PostgreSQL; `trino/etc/catalog/app.properties`."""

_VIEW_DOC: Final = "Ad impressions, live ones in PostgreSQL and archived ones, each once, in its newest version."


class AdsArchive(Archive):
    """The archive table of an environment; raises what `Lake` raises."""

    def load_archive(self) -> Table:
        """Load the archive table as it is now."""
        return self.load(IMPRESSIONS_ARCHIVE)

    def boundary(self, table: Table | None = None) -> date:
        """The date before which impressions count in the archive; the first of all dates while nothing is archived."""
        table = table or self.load_archive()
        return date.fromisoformat(table.properties.get(BOUNDARY, date.min.isoformat()))

    def held(self, table: Table, day: date | None = None) -> list[HeldFile]:
        """List the files of a date, or all of them, by path."""
        return self.files(table, IMPRESSIONS_ARCHIVE, on=day)

    def directory(self, day: date) -> str:
        """Where the files of a date lie."""
        return f"{self._location(IMPRESSIONS_ARCHIVE)}/shown_date={day.isoformat()}"

    def take_over(self, table: Table) -> Table:
        """Let no run that began before this one commit any more.

        Raises:
            FenceError: another one did that first.
        """
        run_id = uuid.uuid4().hex
        self.append(
            IMPRESSIONS_ARCHIVE,
            [],
            expected={ARCHIVER: table.properties.get(ARCHIVER)},
            properties={ARCHIVER: run_id},
            run_id=run_id,
            summary={},
        )
        return self.load_archive()

    def register(self, table: Table, day: date, files: Sequence[str], *, summary: Mapping[str, str]) -> None:
        """Make files the archive of a date, in place of what it had of it, in one commit.

        Args:
            table: as it was when the files were begun; somebody else's commit since then is a fence.
            day: the date; the boundary moves past it, if it is not past it already.
            files: all that the archive is to have of the date.
            summary: more entries for the snapshot's summary.

        Raises:
            FenceError: another archiving has committed since.
            FilesChangedError: somebody else changed the date's files since, or deleted rows of them.
            CommitStateUnknownError: the catalog's answers were lost.
            ServerUnavailableError: surely nothing was committed.
        """
        run_id = uuid.uuid4().hex
        found = table.properties
        boundary = max(self.boundary(table), day + timedelta(days=1))
        gone = set(self.sources(table, IMPRESSIONS_ARCHIVE, day))
        properties = {ARCHIVER: run_id, BOUNDARY: boundary.isoformat()}
        told = {RUN_ID: run_id} | dict(summary)

        def once(now: Table) -> int:
            of_date = EqualTo("shown_date", day.isoformat())  # pyright: ignore[reportCallIssue]
            present = list(now.scan(of_date).plan_files())
            if set(map(source_of, present)) != gone:
                raise FilesChangedError(f"somebody else changed {day} of {self.identifier(IMPRESSIONS_ARCHIVE)}")
            return overwrite_once(now, [task.file for task in present], properties, told, files)

        expected = {ARCHIVER: found.get(ARCHIVER), BOUNDARY: found.get(BOUNDARY)}
        self._commit(IMPRESSIONS_ARCHIVE, once, expected=expected, properties=properties, run_id=run_id)

    def apply_view(self) -> Applied:
        """Make the view over live and archived impressions, or bring it up to date."""
        table = self.load_archive()
        archive = f"{self._settings.catalog.name}.{self._prefix}{IMPRESSIONS_ARCHIVE.namespace}"
        live = f"{POSTGRES_CATALOG}.{self._prefix}ads.impressions"
        names = [column.name for column in IMPRESSIONS_ARCHIVE.columns]
        columns = ", ".join(names)
        # The archive's properties and its rows are of one snapshot within a query, and the boundary says which of
        # PostgreSQL's rows that snapshot does not have.
        text = "\n".join(
            (
                f"SELECT {columns}",
                f"FROM {live}",
                "WHERE shown_date >= (",
                "    SELECT coalesce(max(CAST(value AS date)), DATE '0001-01-01')",
                f'    FROM {archive}."{IMPRESSIONS_ARCHIVE.name}$properties"',
                f"    WHERE key = '{BOUNDARY}'",
                ")",
                "UNION ALL",
                f"SELECT {columns}",
                f"FROM {archive}.{IMPRESSIONS_ARCHIVE.name}",
            )
        )
        fields = {field.name: field for field in table.schema().fields}
        schema = assign_fresh_schema_ids(
            Schema(*(fields[name].model_copy(update={"required": False}) for name in names))
        )
        # Without an owner: who asks needs the right to read both sides.
        outcome = self.write_view(IMPRESSIONS_ARCHIVE.namespace, VIEW, schema, text, {"comment": _VIEW_DOC})
        return Applied(f"{self._prefix}{IMPRESSIONS_ARCHIVE.namespace}.{VIEW}", outcome)
