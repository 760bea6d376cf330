"""Publish what a build made and tested, so that people only ever read marts that passed.

dbt builds each mart in the namespace `build`, beside what people read: a view in `marts` on the table as of its tag
`published`. After a build in which nothing failed, the tags move to what was built, one commit a mart; after a failed
one they stay, and so does what people read. Each step can be taken again, so a publication that was killed is finished
by the next build.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from lakehouse.adapters.marts import PUBLISHED, Marts, MartState, MartView, Version, ViewColumn
from lakehouse.errors import LakehouseError, TransientError
from lakehouse.settings import Settings

_Answer = TypeVar("_Answer")

_ATTEMPTS = 5
_FIRST_WAIT_SECONDS = 0.5
"""Doubles with each attempt: a catalog that restarts must not cost a whole build."""


@dataclass(frozen=True, slots=True)
class Mart:
    """A mart as the project describes it.

    Attributes:
        name: of its build table and its view.
        description: what it holds.
        columns: their descriptions, by name.
    """

    name: str
    description: str = ""
    columns: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class MoveTag:
    """Publish a version of a mart, if `expected` is still the one that is published."""

    mart: str
    snapshot_id: int
    expected: int | None


@dataclass(frozen=True, slots=True)
class PutView:
    """Create the view of a mart or replace what it says; it shows the columns of this version."""

    mart: str
    view: MartView
    snapshot_id: int


@dataclass(frozen=True, slots=True)
class RemoveTable:
    """Drop a table that stands where the view belongs."""

    mart: str


Step = MoveTag | PutView | RemoveTable


@dataclass(frozen=True, slots=True, kw_only=True)
class MartStatus:
    """What people read of a mart.

    Attributes:
        published_at: when what they read was published; null while nothing is.
        snapshot_id: the version they read.
        rows: how many rows it has.
        waits_since: since when something is built that is not published; null when nothing is.
    """

    mart: str
    published_at: datetime | None
    snapshot_id: int | None
    rows: int | None
    waits_since: datetime | None


def plan_publication(mart: Mart, state: MartState, *, namespace: str, owner: str) -> list[Step]:
    """Say what is left to do until people read what is built of a mart; nothing when they do.

    Readers see the old mart or the new one after each step, never a mixture and never an error:

    - When the columns stay, the tag moves; that is all.
    - When a column comes, goes or changes its type, no order of tag and view would do, because the view names the
      columns. So the view first turns to the new version by its number, data and columns in one step; then the tag
      follows, and then the view goes back to the tag.

    Args:
        mart: as the project describes it.
        state: as the catalog has it.
        namespace: of the build tables, `catalog.namespace`.
        owner: the user of Trino by whose rights the view reads.
    """
    built = state.built
    if built is None:
        return []
    wanted = _view(mart, built, namespace, owner, f"'{PUBLISHED}'")
    steps: list[Step] = []
    if state.view and [(c.name, c.type) for c in state.view.columns] != list(built.columns):
        turned = _view(mart, built, namespace, owner, str(built.snapshot_id))
        steps.append(PutView(mart.name, turned, built.snapshot_id))
    published = state.published.snapshot_id if state.published else None
    if published != built.snapshot_id:
        steps.append(MoveTag(mart.name, built.snapshot_id, published))
    if state.is_table:
        steps.append(RemoveTable(mart.name))
    if state.view != wanted:
        steps.append(PutView(mart.name, wanted, built.snapshot_id))
    return steps


def _view(mart: Mart, version: Version, namespace: str, owner: str, as_of: str) -> MartView:
    catalog, _, schema = namespace.partition(".")
    columns = ",\n".join(f"    {_quoted(name)}" for name, _ in version.columns)
    table = ".".join(map(_quoted, (catalog, schema, mart.name)))
    return MartView(
        sql=f"SELECT\n{columns}\nFROM {table} FOR VERSION AS OF {as_of}",
        columns=tuple(ViewColumn(name, kind, mart.columns.get(name) or None) for name, kind in version.columns),
        comment=mart.description,
        owner=owner,
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def publish(settings: Settings, marts: Sequence[Mart], now: datetime) -> tuple[str, ...]:
    """Publish marts that were built and passed their tests; returns the names of those that change for readers.

    Raises:
        TransientError: the catalog or the object store did not answer; each mart is published whole or not at all,
            and building again publishes the rest.
        FenceError: somebody else published one of them at the same time.
    """
    changed: list[str] = []
    try:
        lake = Marts(settings)
        for mart in marts:
            _insist(lambda name=mart.name: lake.settle(name))
        plans = {mart.name: _insist(lambda mart=mart: _plan(settings, lake, mart)) for mart in marts}
        for name, steps in plans.items():
            for step in steps:
                _insist(lambda step=step: _take(lake, step, now))
            if steps:
                changed.append(name)
    except LakehouseError as error:
        done = f"only {', '.join(changed)} of them" if changed else "none of them"
        raise type(error)(
            f"{error}; {len(marts)} marts are built and passed their tests, {done} is published"
        ) from error
    return tuple(changed)


def unproven(settings: Settings, tables: Collection[str]) -> list[str]:
    """Name those of the tables that marts are made of whose newest version did not pass its tests.

    Raises:
        TransientError: the catalog or the object store did not answer.
    """
    lake = Marts(settings)
    return [name for name in sorted(tables) if not _insist(lambda name=name: lake.has_passed(name))]


def mark_passed(settings: Settings, tables: Collection[str]) -> None:
    """Say of tables between the sources and the marts that what they hold passed its tests.

    Raises:
        TransientError: the catalog or the object store did not answer.
    """
    lake = Marts(settings)
    for name in sorted(tables):
        _insist(lambda name=name: lake.mark_passed(name))


def kept(settings: Settings) -> str:
    """Say what readers keep when a build failed."""
    try:
        lake = Marts(settings)
        moments = [state.published_at for state in map(lake.state, lake.names()) if state.published_at]
    except LakehouseError:  # what failed the build may fail this too, and the build's error matters more
        return "readers keep the marts that were published before"
    if not moments:
        return "no mart is published yet"
    return f"readers keep the marts published at {max(moments):%Y-%m-%d %H:%M:%S} UTC"


def status(settings: Settings) -> tuple[MartStatus, ...]:
    """Say what people read of each mart, and what waits to be published.

    Raises:
        TransientError: the catalog or the object store did not answer.
    """
    lake = Marts(settings)
    return tuple(_status(lake, lake.state(name)) for name in lake.names())


def gone(settings: Settings, project: Collection[str]) -> tuple[str, ...]:
    """Name the marts that the catalog has and the project has no more."""
    return tuple(name for name in Marts(settings).names() if name not in project)


def withdraw(settings: Settings, names: Sequence[str]) -> None:
    """Take back marts: their views, then their tables with the data."""
    lake = Marts(settings)
    for name in names:
        lake.withdraw(name)


def _plan(settings: Settings, lake: Marts, mart: Mart) -> list[Step]:
    namespace = f"{settings.catalog.name}.{settings.prefix}build"
    owner = settings.trino_as("transform").user
    return plan_publication(mart, lake.state(mart.name), namespace=namespace, owner=owner)


def _take(lake: Marts, step: Step, now: datetime) -> None:
    match step:
        case MoveTag():
            lake.move_tag(step.mart, step.snapshot_id, expected=step.expected, at=now)
        case PutView():
            lake.put_view(step.mart, step.view, step.snapshot_id)
        case RemoveTable():
            lake.remove_table_in_place_of_view(step.mart)


def _insist(do: Callable[[], _Answer]) -> _Answer:
    """Do something that may be done again until it works, for some seconds."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return do()
        except TransientError:
            time.sleep(_FIRST_WAIT_SECONDS * 2**attempt)
    return do()


def _status(lake: Marts, state: MartState) -> MartStatus:
    snapshot_id = state.published.snapshot_id if state.published else None
    return MartStatus(
        mart=state.name,
        published_at=state.published_at,
        snapshot_id=snapshot_id,
        rows=None if snapshot_id is None else lake.rows(state.name, snapshot_id),
        waits_since=state.waits_since,
    )
