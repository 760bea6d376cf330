"""The marts in the catalog: tables that dbt builds and tests, a tag on each that says what is published, and views.

A mart is a table in the namespace `build` and a view of the same name in `marts`, which is what people read. The view
reads the table as of its tag `published`, so a build changes nothing for them until the tag moves.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pyiceberg.exceptions import (
    NoSuchNamespaceError,
    NoSuchTableError,
    NoSuchViewError,
)
from pyiceberg.schema import Schema, assign_fresh_schema_ids
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot
from pyiceberg.table.update.snapshot import ManageSnapshots
from pyiceberg.types import NestedField
from pyiceberg.view import View

from lakehouse.adapters.catalog import Lake, moment
from lakehouse.errors import FenceError, TransientError

PUBLISHED = "published"
"""The tag of what people read; snapshot expiry never removes what a tag names."""
PASSED = "passed"
"""The tag of what passed its tests, on a table between the sources and the marts."""
PUBLISHED_AT = "lakehouse.published-at"
"""Property of a build table: when the tag was moved last, in the same commit."""

Layer = Literal["intermediate", "build", "marts"]
_INTERMEDIATE, _BUILD, _MARTS = "intermediate", "build", "marts"
_TEMPORARY = "__dbt_"
_RUN_AS_OWNER = "trino.run-as-owner"
"""Trino runs a view with this property by the rights of its owner, not of who reads it."""


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """A column of a view; `type` as Iceberg writes it."""

    name: str
    type: str
    doc: str | None


@dataclass(frozen=True, slots=True)
class MartView:
    """What a view says: its SQL in Trino's dialect, its columns, its comment, and by whose rights it reads."""

    sql: str
    columns: tuple[ViewColumn, ...]
    comment: str
    owner: str | None


@dataclass(frozen=True, slots=True)
class Version:
    """A snapshot of a build table, with the names and types of the columns it was written with."""

    snapshot_id: int
    columns: tuple[tuple[str, str], ...]
    committed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MartState:
    """A mart as the catalog has it.

    Attributes:
        built: the newest version; None when there is no build table, or it is empty and was never written.
        published: the version that is tagged.
        published_at: when the tag was moved to it.
        waits_since: when the first version was committed that is not published; None when all are.
        view: None while there is none.
        is_table: a table stands where the view belongs, as in older versions of this project.
    """

    name: str
    built: Version | None
    published: Version | None
    published_at: datetime | None
    waits_since: datetime | None
    view: MartView | None
    is_table: bool = False


class Marts(Lake):
    """The marts of an environment; raises what `Lake` raises."""

    def names(self) -> list[str]:
        """Every mart that has a build table or a view, in order."""
        with self._errors():
            return sorted({*self._tables(_BUILD), *self._views(_MARTS)})

    def settle(self, name: str) -> None:
        """See that the newest snapshot of a build table shows the table's columns as they are.

        A snapshot is read by the columns that the table had when it was made. So a new column whose build changed no
        row would stay unseen, and a table that was never written has nothing a tag could name: both get an empty
        commit.
        """
        with self._errors():
            table = self._table(_BUILD, name)
            if table is None:
                return
            newest = table.current_snapshot()
            if newest is None or _schema_of(table, newest).as_struct() != table.schema().as_struct():
                with table.transaction() as transaction, transaction.update_snapshot().fast_append():
                    pass

    def state(self, name: str) -> MartState:
        """Say what is built of a mart, what of it is published, and what its view says."""
        with self._errors():
            table = self._table(_BUILD, name)
            newest = table.current_snapshot() if table else None
            tagged = table.snapshot_by_name(PUBLISHED) if table else None
            since = table.properties.get(PUBLISHED_AT) if table and tagged else None
            view = self._view(name)
            return MartState(
                name=name,
                built=_version(table, newest) if table and newest else None,
                published=_version(table, tagged) if table and tagged else None,
                published_at=datetime.fromisoformat(since) if since else None,
                waits_since=waits_since(table, tagged) if table else None,
                view=_definition(view) if view else None,
                is_table=view is None and name in self._tables(_MARTS),
            )

    def rows(self, name: str, snapshot_id: int) -> int:
        """Count the rows of one version; it reads only the data files that rows were deleted from."""
        with self._errors():
            table = self._table(_BUILD, name)
            return table.scan(snapshot_id=snapshot_id).count() if table else 0

    def move_tag(self, name: str, snapshot_id: int, *, expected: int | None, at: datetime) -> None:
        """Publish a version, in one commit that succeeds only while the tag is where it is expected; idempotent.

        Raises:
            FenceError: the tag is elsewhere.
            TransientError: the answer was lost; do it again.
        """
        with self._errors():
            table = self._catalog.load_table(self._name(_BUILD, name))
            tagged = table.snapshot_by_name(PUBLISHED)
            found = tagged.snapshot_id if tagged else None
            if found == snapshot_id:
                return
            if found != expected:
                raise FenceError(
                    f"{self._name(_BUILD, name)} has published {found or 'nothing'} and this run started from "
                    f"{expected or 'nothing'}: another run was quicker; let it finish, then run again"
                )
            with table.transaction() as transaction:
                transaction.set_properties({PUBLISHED_AT: at.isoformat(timespec="seconds")})
                ManageSnapshots(transaction).create_tag(snapshot_id, PUBLISHED).commit()

    def has_passed(self, name: str) -> bool:
        """Whether the newest version of a table that marts are made of is one that passed its tests."""
        with self._errors():
            table, tag = self._table(_BUILD, name), PUBLISHED
            if table is None:
                table, tag = self._table(_INTERMEDIATE, name), PASSED
            tagged = table.snapshot_by_name(tag) if table else None
            version = table.current_snapshot() if table else None
            while table and tagged and version and version.snapshot_id != tagged.snapshot_id:
                # Maintenance brings versions with the same rows.
                was_rewritten = version.summary is not None and version.summary.operation is Operation.REPLACE
                parent = version.parent_snapshot_id if was_rewritten else None
                version = table.snapshot_by_id(parent) if parent else None
            return tagged is not None and version is not None

    def mark_passed(self, name: str) -> None:
        """Say that the newest version of a table between the sources and the marts passed its tests; idempotent."""
        with self._errors():
            table = self._catalog.load_table(self._name(_INTERMEDIATE, name))
            newest, tagged = table.current_snapshot(), table.snapshot_by_name(PASSED)
            if newest and (tagged is None or tagged.snapshot_id != newest.snapshot_id):
                table.manage_snapshots().create_tag(newest.snapshot_id, PASSED).commit()

    def put_view(self, name: str, view: MartView, like_snapshot_id: int) -> None:
        """Create the view of a mart, or replace what it says in one step.

        Args:
            name: of the mart.
            view: what it says.
            like_snapshot_id: the version whose columns it shows.

        Raises:
            TransientError: something of that name came to be at the same time.
        """
        with self._errors():
            table = self._catalog.load_table(self._name(_BUILD, name))
            snapshot = table.snapshot_by_id(like_snapshot_id)
            if snapshot is None:
                raise TransientError(f"{self._name(_BUILD, name)} has lost snapshot {like_snapshot_id}: run again")
            schema = assign_fresh_schema_ids(_described(_schema_of(table, snapshot), view.columns))
        properties = {"comment": view.comment} | ({_RUN_AS_OWNER: view.owner} if view.owner else {})
        self.write_view(_MARTS, name, schema, view.sql, properties)

    def remove_table_in_place_of_view(self, name: str) -> None:
        """Drop the table that stands where the view belongs, with its data; without one nothing happens."""
        with self._errors(), suppress(NoSuchTableError):
            self._catalog.purge_table(self._name(_MARTS, name))

    def withdraw(self, name: str) -> None:
        """Drop the view of a mart, then its build table with its data; what is gone already is no error."""
        with self._errors():
            with suppress(NoSuchViewError):
                self._catalog.drop_view(self._name(_MARTS, name))
            with suppress(NoSuchTableError):
                self._catalog.purge_table(self._name(_BUILD, name))

    def _namespace(self, layer: Layer) -> str:
        return f"{self._prefix}{layer}"

    def _name(self, layer: Layer, name: str) -> str:
        return f"{self._namespace(layer)}.{name}"

    def _tables(self, layer: Layer) -> list[str]:
        with suppress(NoSuchNamespaceError):
            found = self._catalog.list_tables(self._namespace(layer))
            return [name for _, name in found if _TEMPORARY not in name]
        return []

    def _views(self, layer: Layer) -> list[str]:
        with suppress(NoSuchNamespaceError):
            return [name for _, name in self._catalog.list_views(self._namespace(layer))]
        return []

    def _table(self, layer: Layer, name: str) -> Table | None:
        with suppress(NoSuchTableError, NoSuchNamespaceError):
            return self._catalog.load_table(self._name(layer, name))
        return None

    def _view(self, name: str) -> View | None:
        with suppress(NoSuchViewError, NoSuchNamespaceError):
            return self._catalog.load_view(self._name(_MARTS, name))
        return None


def _schema_of(table: Table, snapshot: Snapshot) -> Schema:
    known = table.schemas().get(snapshot.schema_id) if snapshot.schema_id is not None else None
    return known or table.schema()


def _version(table: Table, snapshot: Snapshot) -> Version:
    columns = tuple((field.name, str(field.field_type)) for field in _schema_of(table, snapshot).fields)
    return Version(snapshot.snapshot_id, columns, moment(snapshot.timestamp_ms))


def waits_since(table: Table, tagged: Snapshot | None) -> datetime | None:
    """When the oldest version after the tagged one was committed; versions that are expired count no more."""
    if tagged is not None and tagged.snapshot_id == table.metadata.current_snapshot_id:
        return None
    ids = [entry.snapshot_id for entry in table.history()]
    first = ids.index(tagged.snapshot_id) + 1 if tagged and tagged.snapshot_id in ids else 0
    later = table.history()[first:]
    return moment(later[0].timestamp_ms) if later else None


def _definition(view: View) -> MartView:
    trino = view.sql_for("trino")
    return MartView(
        sql=trino.sql if trino else "",
        columns=tuple(ViewColumn(field.name, str(field.field_type), field.doc) for field in view.schema().fields),
        comment=view.properties.get("comment", ""),
        owner=view.properties.get(_RUN_AS_OWNER),
    )


def _described(schema: Schema, columns: Sequence[ViewColumn]) -> Schema:
    docs = {column.name: column.doc for column in columns}
    return Schema(
        *(
            NestedField(field.field_id, field.name, field.field_type, doc=docs.get(field.name), required=False)
            for field in schema.fields
        )
    )
