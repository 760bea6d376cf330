"""People read marts without a pause: they see what passed, never what fails and nothing half done, however it ends."""

import json
import shutil
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.schema import Schema
from pyiceberg.types import LongType, NestedField
from typer.testing import CliRunner

from lakehouse import publish, transform
from lakehouse.adapters import trino
from lakehouse.adapters.marts import Marts
from lakehouse.cli.main import app
from lakehouse.environment import apply
from lakehouse.errors import FenceError, LakehouseError, TerminalError
from lakehouse.publish import Mart
from lakehouse.settings import Settings, get_settings
from tests.faults.harness import Shop
from tests.integration.replaying import environment_of
from tests.shops import EVENT_COLUMNS, wait_until

pytestmark = pytest.mark.integration

NOON = "2026-11-20 12:00:00"
BUILD = "+fct_events_daily +fct_data_quality_daily"
REBUILD = "fct_events_daily fct_data_quality_daily"
FORBIDDEN = "select * from {{ ref('fct_events_daily') }} where event_name = 'forbidden'\n"


@dataclass
class Place:
    """The schemas of an environment, and their users."""

    settings: Settings

    def name(self, layer: str, table: str) -> str:
        return f'{self.settings.catalog.name}.{self.settings.prefix}{layer}."{table}"'

    def run(self, sql: str, user: str = "transform") -> list[tuple[Any, ...]]:
        return trino.query(self.settings.trino_as(user), sql)  # pyright: ignore[reportArgumentType]

    def read(self, mart: str = "days") -> list[tuple[Any, ...]]:
        return sorted(self.run(f"SELECT * FROM {self.name('marts', mart)}", "analyst"))

    def publish(self, *marts: Mart) -> tuple[str, ...]:
        return publish.publish(self.settings, marts or [DAYS], datetime.now(UTC))

    def metadata(self, mart: str = "days") -> tuple[str, Any]:
        """Where the table's metadata lies, and which version of the view is current."""
        lake = Marts(self.settings)
        table, view = lake._table("build", mart), lake._view(mart)
        assert table
        assert view
        return table.metadata_location, view.metadata.current_version_id


DAYS = Mart("days", "Days.", {"day": "The day."})


@pytest.fixture
def place(environment: Settings) -> Place:
    """An environment with a mart of two rows that is built and not published."""
    place = Place(environment)
    place.run(f"CREATE SCHEMA {environment.catalog.name}.{environment.prefix}build")
    partitioned = "WITH (partitioning = ARRAY['day'])"
    place.run(
        f"CREATE TABLE {place.name('build', 'days')} {partitioned} AS "
        "SELECT day, n FROM (VALUES (DATE '2026-11-01', 1), (DATE '2026-11-02', 2)) AS t (day, n)"
    )
    return place


ROWS = [(datetime(2026, 11, 1, tzinfo=UTC).date(), 1), (datetime(2026, 11, 2, tzinfo=UTC).date(), 2)]


@dataclass
class Reader:
    """What somebody saw who asked again and again, each different answer once and in order."""

    seen: list[Any] = field(default_factory=list[Any])
    failed: list[str] = field(default_factory=list[str])

    def wait_for(self, answer: Any) -> None:
        wait_until(lambda: bool(self.failed) or (bool(self.seen) and self.seen[-1] == answer), lambda: repr(self), 60)


@contextmanager
def reading(*questions: Callable[[], Any]) -> Generator[list[Reader]]:
    """Ask in turn without a pause, in a thread of its own; fails when an answer was an error."""
    readers, ended = [Reader() for _ in questions], threading.Event()

    def ask(reader: Reader, question: Callable[[], Any]) -> None:
        try:
            answer = question()
        except LakehouseError as error:
            reader.failed.append(str(error))
            return
        if not reader.seen or reader.seen[-1] != answer:
            reader.seen.append(answer)

    def read() -> None:
        while not ended.is_set():
            for reader, question in zip(readers, questions, strict=True):
                ask(reader, question)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield readers
    finally:
        ended.set()
        thread.join()
    assert [reader.failed for reader in readers] == [[]] * len(readers)


def test_a_mart_is_unseen_until_it_is_published_and_then_described(place: Place) -> None:
    with pytest.raises(TerminalError, match="does not exist"):
        place.read()
    assert place.publish() == ("days",)
    assert place.read() == ROWS
    shown = f"SHOW COLUMNS FROM {place.name('marts', 'days')}"
    assert place.run(shown) == [("day", "date", "", "The day."), ("n", "integer", "", "")]
    ((created,),) = place.run(f"SHOW CREATE VIEW {place.name('marts', 'days')}")
    assert "COMMENT 'Days.'" in created
    assert "SECURITY DEFINER" in created


def test_publishing_again_writes_nothing(place: Place) -> None:
    place.publish()
    before = place.metadata()
    assert place.publish() == ()
    assert place.metadata() == before


def test_what_is_built_later_is_unseen_until_it_is_published(place: Place) -> None:
    place.publish()
    place.run(f"INSERT INTO {place.name('build', 'days')} VALUES (DATE '2026-11-03', 3)")
    place.run(f"DELETE FROM {place.name('build', 'days')} WHERE n = 1")
    assert place.read() == ROWS
    (waiting,) = publish.status(place.settings)
    assert waiting.rows == 2
    assert waiting.waits_since is not None
    assert waiting.published_at is not None
    assert waiting.published_at < waiting.waits_since
    assert place.publish() == ("days",)
    assert [n for _, n in place.read()] == [2, 3]
    (status,) = publish.status(place.settings)
    assert (status.rows, status.waits_since) == (2, None)


CHANGES = {
    "a column more": "SELECT day, n, 'x' AS note FROM {table}",
    "a column less": "SELECT day FROM {table}",
    "another type": "SELECT day, CAST(n AS varchar) AS n FROM {table}",
    "another order": "SELECT n, day FROM {table}",
    "the same columns": "SELECT day, n + 1 AS n FROM {table}",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_table_that_is_replaced_is_published_without_an_error_to_readers_wherever_it_is_cut_off(
    place: Place, change: str
) -> None:
    place.publish()
    old = place.read()
    table = place.name("build", "days")
    lake = Marts(place.settings)
    with reading(place.read) as (reader,):
        reader.wait_for(old)
        place.run(f"CREATE OR REPLACE TABLE {table} AS " + change.format(table=table))
        new = sorted(place.run(f"SELECT * FROM {table}"))
        assert place.read() == old
        steps = publish._plan(place.settings, lake, DAYS)
        for step in steps:
            publish._take(lake, step, datetime.now(UTC))
            assert place.read() in (old, new)
        assert publish._plan(place.settings, lake, DAYS) == []
        reader.wait_for(new)
    assert reader.seen == [old, new]
    assert len(steps) == (1 if "n + 1" in change else 3)


def test_a_new_column_is_published_although_its_build_changed_no_row(place: Place) -> None:
    place.publish()
    place.run(f"ALTER TABLE {place.name('build', 'days')} ADD COLUMN note varchar")
    assert place.publish() == ("days",)
    assert place.read() == [(*row, None) for row in ROWS]
    assert place.publish() == ()


def test_a_table_that_was_never_written_is_published_too(place: Place) -> None:
    columns = Schema(NestedField(1, "n", LongType(), required=False))
    Marts(place.settings)._catalog.create_table(f"{place.settings.prefix}build.bare", columns)
    assert place.publish(Mart("bare")) == ("bare",)
    assert place.read("bare") == []


def test_a_table_of_older_versions_gives_way_to_the_view(place: Place) -> None:
    place.run(f"CREATE SCHEMA {place.settings.catalog.name}.{place.settings.prefix}marts")
    place.run(f"CREATE TABLE {place.name('marts', 'days')} AS SELECT 1 AS old")
    assert place.publish() == ("days",)
    assert place.read() == ROWS
    assert place.publish() == ()


def test_expiry_keeps_what_is_published(place: Place) -> None:
    place.publish()
    table = place.name("build", "days")
    for n in (3, 4):
        place.run(f"INSERT INTO {table} VALUES (DATE '2026-11-03', {n})")
        place.run(f"DELETE FROM {table} WHERE n < {n}")
    at_once = {f"{place.settings.catalog.name}.expire_snapshots_min_retention": "0s"}
    with trino.connection(place.settings.trino_as("admin"), session_properties=at_once) as connection:
        statement = f"ALTER TABLE {table} EXECUTE expire_snapshots(retention_threshold => '0s')"
        connection.cursor().execute(statement).fetchall()
    assert place.run(f"SELECT count(*) FROM {place.name('build', 'days$snapshots')}") == [(2,)]
    assert place.read() == ROWS


def test_a_filter_on_the_view_reads_only_the_partitions_it_needs(place: Place) -> None:
    place.publish()
    view = place.name("marts", "days")
    ((plan,),) = place.run(f"EXPLAIN (TYPE IO, FORMAT JSON) SELECT * FROM {view} WHERE day = DATE '2026-11-02'")
    (read,) = json.loads(plan)["inputTableColumnInfos"]
    assert read["estimate"]["outputRowCount"] == 1.0
    assert [
        (c["columnName"], c["domain"]["ranges"][0]["low"]["value"]) for c in read["constraint"]["columnConstraints"]
    ] == [("day", "2026-11-02")]


def test_a_tag_that_somebody_else_moved_stops_the_publication(place: Place) -> None:
    place.publish()
    lake = Marts(place.settings)
    published = lake.state("days").published
    place.run(f"DELETE FROM {place.name('build', 'days')} WHERE n = 1")
    built = lake.state("days").built
    assert published
    assert built
    with pytest.raises(FenceError, match="another run was quicker"):
        lake.move_tag("days", built.snapshot_id, expected=1, at=datetime.now(UTC))
    assert lake.state("days").published == published


def test_what_the_project_has_no_more_is_named_and_withdrawn_on_demand(place: Place) -> None:
    place.publish()
    assert publish.gone(place.settings, {"days"}) == ()
    assert publish.gone(place.settings, {"nights"}) == ("days",)
    for _ in range(2):
        publish.withdraw(place.settings, ["days"])
    assert publish.status(place.settings) == ()
    with pytest.raises(TerminalError, match="does not exist"):
        place.read()


@dataclass
class Warehouse(Place):
    """An environment with its tables, and a project with a test that some events fail."""

    offsets: int = 0

    def add(self, *events: tuple[str, str], hour: int = 12) -> None:
        """Add events, given as (date, name), that arrive at an hour of one day."""
        rows = ", ".join(
            f"(TIMESTAMP '{day} 08:00:00 UTC', DATE '{day}', '{name}', 'u1', 'web', 'Sofa', 'SKU-1', NULL, "
            f"'user-actions', 0, {self.offsets + number}, TIMESTAMP '{day} 08:00:00 UTC', "
            f"TIMESTAMP '2026-11-20 {hour:02}:00:00 UTC', NULL)"
            for number, (day, name) in enumerate(events)
        )
        self.offsets += len(events)
        self.run(f"INSERT INTO {self.name('events', 'user_actions')} {EVENT_COLUMNS} VALUES {rows}", "admin")

    def build(self, select: str = REBUILD, **options: Any) -> transform.BuildResult:
        return transform.build(self.settings, select, **options)

    def daily(self) -> list[tuple[Any, ...]]:
        columns = "CAST(event_date AS varchar), event_name, event_count"
        return sorted(self.run(f"SELECT {columns} FROM {self.name('marts', 'fct_events_daily')}", "analyst"))

    def quality(self) -> list[tuple[Any, ...]]:
        columns = "outcome, reason, sum(message_count)"
        view = self.name("marts", "fct_data_quality_daily")
        return sorted(self.run(f"SELECT {columns} FROM {view} GROUP BY 1, 2", "analyst"))


@pytest.fixture
def warehouse(environment: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warehouse]:
    apply(environment)
    project = tmp_path / "dbt"
    shutil.copytree(transform.PROJECT, project, ignore=shutil.ignore_patterns("target", "logs"))
    (project / "tests" / "no_forbidden_events.sql").write_text(FORBIDDEN)
    monkeypatch.setattr(transform, "PROJECT", project)
    yield Warehouse(environment)
    shutil.rmtree(transform.target_directory(environment), ignore_errors=True)


def test_readers_never_see_a_build_that_fails_its_tests_and_see_the_mended_one(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse.add(("2026-11-18", "view"), ("2026-11-18", "view"), ("2026-11-19", "buy"))
    assert set(warehouse.build(BUILD).published) >= {"fct_events_daily", "fct_data_quality_daily"}
    good, counted = warehouse.daily(), warehouse.quality()
    assert good == [("2026-11-18", "view", 2), ("2026-11-19", "buy", 1)]

    with reading(warehouse.daily, warehouse.quality) as (days, messages):
        warehouse.add(("2026-11-18", "view"), ("2026-11-18", "forbidden"), hour=20)
        with pytest.raises(
            TerminalError, match=r"test no_forbidden_events: .*; readers keep the marts published at 20"
        ):
            warehouse.build()
        built = warehouse.run(f"SELECT count(*) FROM {warehouse.name('build', 'fct_events_daily')}")
        assert built == [(3,)]
        days.wait_for(good)

        monkeypatch.setenv("LAKEHOUSE_PREFIX", warehouse.settings.prefix)
        get_settings.cache_clear()
        answer = CliRunner().invoke(app, ["transform", "status", "--output", "json"], catch_exceptions=False)
        told = json.loads(answer.stdout)
        waiting = {mart["mart"]: mart["waits_since"] for mart in told["marts"]}
        assert waiting["fct_events_daily"] is not None
        assert [failure["name"] for failure in told["last_build"]["failed"]] == ["no_forbidden_events"]

        warehouse.run(f"DELETE FROM {warehouse.name('events', 'user_actions')} WHERE event_name = 'forbidden'", "admin")
        assert "fct_events_daily" in warehouse.build().published
        mended = [("2026-11-18", "view", 3), ("2026-11-19", "buy", 1)]
        days.wait_for(mended)

        warehouse.add(("2026-11-17", "view"), hour=21)
        warehouse.build(full_refresh=True)
        refreshed = [("2026-11-17", "view", 1), *mended]
        days.wait_for(refreshed)
        messages.wait_for([("published", "none", 5)])
    assert days.seen == [good, mended, refreshed]
    assert messages.seen == [counted, [("published", "none", 4)], [("published", "none", 5)]]


def test_a_mart_is_not_published_on_top_of_a_table_that_failed_its_tests(warehouse: Warehouse) -> None:
    sessions, mart = "+int_users__sessions", "int_users__days fct_active_users_daily"
    test = transform.PROJECT / "tests" / "no_forbidden_events.sql"
    test.write_text("select * from {{ ref('int_users__sessions') }} where event_count > 1\n")
    warehouse.add(("2026-11-18", "view"))
    assert warehouse.build(f"{sessions} {mart}").published == ("fct_active_users_daily",)
    view = warehouse.name("marts", "fct_active_users_daily")
    before = warehouse.run(f"SELECT * FROM {view}", "analyst")

    warehouse.add(("2026-11-18", "view"), hour=20)
    with pytest.raises(TerminalError, match="test no_forbidden_events"):
        warehouse.build(sessions)
    with pytest.raises(TerminalError, match=r"int_users__sessions, which it is made of, did not pass .*; readers keep"):
        warehouse.build(mart)
    assert warehouse.run(f"SELECT * FROM {view}", "analyst") == before

    test.write_text("select * from {{ ref('int_users__sessions') }} where event_count > 2\n")
    assert warehouse.build(sessions).published == ()
    assert warehouse.build(mart).published == ("fct_active_users_daily",)
    assert warehouse.run(f"SELECT session_count FROM {view}", "analyst") == [(1,)]


def test_a_publication_killed_at_any_step_is_finished_by_the_next_build(warehouse: Warehouse) -> None:
    shop = Shop(warehouse.settings, environment_of(warehouse.settings))
    lake = Marts(warehouse.settings)

    def killed(failpoint: str, select: str) -> list[bool]:
        shop.start("transform", "run", "--select", select, failpoint=failpoint).dies()
        states = [lake.state(name) for name in ("fct_data_quality_daily", "fct_events_daily")]
        return [bool(done) for state in states for done in (state.published, state.view)]

    try:
        warehouse.add(("2026-11-18", "view"))
        # Each is killed before its second step, so each finds one more done: a tag, the view on it, the next tag.
        done = [killed("publishing:kill:1", BUILD), *(killed("publishing:kill:2", REBUILD) for _ in range(3))]
        assert [sum(steps) for steps in done] == [0, 1, 2, 3]
        published = warehouse.build().published
        assert len(published) == 1
        assert warehouse.daily() == [("2026-11-18", "view", 1)]

        warehouse.add(("2026-11-18", "view"), hour=20)
        killed("publishing:kill:2", REBUILD)
        daily, quality = warehouse.daily(), warehouse.quality()
        assert (daily[0][2], quality[0][2]) in {(1, 2), (2, 1)}
        assert len(warehouse.build().published) == 1
        assert (warehouse.daily()[0][2], warehouse.quality()[0][2]) == (2, 2)
        assert warehouse.build().published == ()
    finally:
        shop.end()
