"""`lakehouse maintain` on real tables: it heals them, beside writers, and takes nothing away that anybody needs."""

import copy
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from pyiceberg.io.pyarrow import parquet_files_to_data_files
from pyiceberg.manifest import DataFile
from typer.testing import CliRunner

from lakehouse import archive, maintenance, publish, transform
from lakehouse.adapters import s3, trino
from lakehouse.adapters.catalog import Lake
from lakehouse.adapters.marts import Marts
from lakehouse.adapters.upkeep import Upkeep, list_objects
from lakehouse.cli.main import app
from lakehouse.errors import TerminalError
from lakehouse.maintenance import Report, Target, apply, targets
from lakehouse.maintenance_plan import RemoveOrphans, TableState, Unknown, health
from lakehouse.publish import Mart
from lakehouse.settings import Settings, get_settings
from lakehouse.tables import (
    MAINTENANCE_RUNS,
    USER_ACTIONS,
    USER_ACTIONS_ARCHIVE,
    USER_ACTIONS_QUARANTINE,
    Policy,
    TableSpec,
)
from tests.clusters import wait_for
from tests.faults.harness import Shop, opened
from tests.integration.replaying import environment_of
from tests.shops import wait_until

pytestmark = pytest.mark.integration

LAKEHOUSE = str(Path(sys.executable).with_name("lakehouse"))
STORM = (
    USER_ACTIONS,
    USER_ACTIONS_QUARANTINE,
    *(replace(USER_ACTIONS, name=f"storm_{number}") for number in range(6)),
)
COMMITS = 250
"""To each table of a storm; a commit writes a list of all manifests anew, so that one table would take too long."""
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MOMENT = datetime(2023, 10, 23, 12, tzinfo=UTC)
NOTHING_BUT_ORPHANS = Policy(target_file_bytes=1, snapshot_days=365, max_snapshots=100_000, analyze_bytes=0)
EAGER = Policy(closed_after_hours=0, snapshot_days=0, min_snapshots=1, max_snapshots=1)


def row(spec: TableSpec, number: int, day: date) -> dict[str, Any]:
    known = {
        "event_date": day,
        "ingested_date": day,
        "kafka_offset": number,
        "kafka_partition": 0,
        "file_line": number,
        "rule_version": 1,
        "kafka_headers": [{"key": "trace", "value": b"\x00"}, {"key": "none", "value": None}] if number % 2 else None,
        "raw": b"raw %d" % number,
        "kafka_key": None,
        "replayed_at": None,
        "unknown_fields": None,
        "field": None,
    }
    return {
        c.name: known.get(c.name, f"{c.name} {number % 97}" if c.type == pa.string() else MOMENT) for c in spec.columns
    }


def commit_small(settings: Settings, spec: TableSpec, count: int, days: Sequence[date], *, rows: int = 3) -> None:
    """Make so many commits of one file of a few rows, on each of the days in turn, each with a new position.

    The files of a day hold the same bytes, so that what takes time is the commits.
    """
    table, store = Lake(settings).load(spec), s3.filesystem(settings.s3)
    schema = Lake(settings).write_schema(table, spec)
    (partition,) = spec.partition_by
    written: dict[date, tuple[bytes, DataFile]] = {}
    for number in range(count):
        day = days[number % len(days)]
        path = f"{table.location()}/data/{partition}={day.isoformat()}/{uuid.uuid4().hex}.parquet"
        if day not in written:
            sink = io.BytesIO()
            held = [row(spec, n, day) for n in range(rows)]
            parquet.write_table(pa.Table.from_pylist(held, schema=schema), sink, store_schema=False)
        content = sink.getvalue() if day not in written else written[day][0]
        with store.open_output_stream(s3.key_of(path)) as stream:
            stream.write(content)
        if day not in written:
            (file,) = parquet_files_to_data_files(table.io, table.metadata, iter([path]))
            written[day] = content, file
        file = copy.copy(written[day][1])
        file._data = [path if value == file.file_path else value for value in file._data]
        with table.transaction() as transaction:
            transaction.set_properties({"lakehouse.position.storm": json.dumps({"0": (number + 1) * rows})})
            with transaction.update_snapshot().fast_append() as append:
                append.append_data_file(file)


def eager(settings: Settings, *names: str, policy: Policy = EAGER) -> list[Target]:
    return [replace(target, policy=policy) for target in targets(settings, names)]


def run(settings: Settings, sql: str, user: Any = "admin") -> list[tuple[Any, ...]]:
    return trino.query(settings.trino_as(user), sql)


def name(settings: Settings, table: str, suffix: str = "") -> str:
    namespace, _, name = table.partition(".")
    return f'{settings.catalog.name}.{settings.prefix}{namespace}."{name}{suffix}"'


def rows_of(settings: Settings, table: str) -> list[tuple[Any, ...]]:
    return sorted(map(repr, run(settings, f"SELECT * FROM {name(settings, table)}")))


def measured(settings: Settings, table: str, policy: Policy = EAGER, *, later: timedelta = timedelta()) -> TableState:
    lake = Upkeep(settings)
    state = lake.measure(table, policy, datetime.now(UTC) + later, places=lake.places())
    assert state
    return state


def maintain(settings: Settings, *names: str, policy: Policy = EAGER, later: timedelta = timedelta()) -> Report:
    return apply(settings, eager(settings, *names, policy=policy), clock=lambda: datetime.now(UTC) + later)


def objects_of(settings: Settings, table: str) -> set[str]:
    return set(Upkeep(settings).objects(table))


def plant(settings: Settings, spec: TableSpec, *paths: str) -> list[str]:
    """Put objects into the table's place that nothing names."""
    store, location = s3.filesystem(settings.s3), Lake(settings).load(spec).location()
    for path in paths:
        with store.open_output_stream(s3.key_of(f"{location}/{path}")) as stream:
            stream.write(b"what a killed writer left")
    return [f"{location}/{path}" for path in paths]


def recorded(settings: Settings) -> list[dict[str, Any]]:
    held = Lake(settings).load(MAINTENANCE_RUNS).scan().to_arrow().to_pylist()
    return sorted(held, key=lambda each: each["started_at"])


# The storm


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(STORM[:1], id="250 commits"),
        pytest.param(STORM, id="2,000 commits", marks=pytest.mark.faults),
    ],
)
def storm(module_environment: Settings, request: pytest.FixtureRequest) -> Settings:
    """An environment whose tables got 250 commits of one tiny file each, on two days."""
    Lake(module_environment).drop_environment()
    settings, days = module_environment, [date(2023, 10, 22), date(2023, 10, 23)]
    for spec in request.param:
        Lake(settings).apply(spec)
    with ThreadPoolExecutor(4) as threads:
        made = [threads.submit(commit_small, settings, spec, COMMITS, days) for spec in request.param]
        for one in made:
            one.result()
    return settings


def compacting(settings: Settings) -> list[str]:
    """Ids of the compactions that Trino runs in this environment."""
    table = f'"{settings.prefix}events"'
    found = run(settings, "SELECT query_id, query FROM system.runtime.queries WHERE state = 'RUNNING'")
    return [query_id for query_id, query in found if query.startswith("ALTER") and table in query]


def test_a_kill_amid_a_compaction_leaves_the_table_as_it_was_and_its_garbage_is_found_later(storm: Settings) -> None:
    lake = Lake(storm)
    before, rows = lake.load(USER_ACTIONS), rows_of(storm, "events.user_actions")
    command = [LAKEHOUSE, "maintain", "apply", "--table", "events.user_actions"]
    process = subprocess.Popen(command, env=environment_of(storm), stderr=subprocess.PIPE, start_new_session=True)

    def running() -> list[str] | None:
        assert process.poll() is None, process.stderr and process.stderr.read()
        return compacting(storm) or None

    query_id, *_ = wait_for(running)  # looks more often than `wait_until`: it has to be ended before it commits
    os.killpg(process.pid, signal.SIGKILL)
    run(storm, f"CALL system.runtime.kill_query('{query_id}', 'its client is dead')")
    process.communicate()
    wait_until(lambda: not compacting(storm), "the compaction outlives its end", 60)

    after = lake.load(USER_ACTIONS)
    assert after.metadata_location == before.metadata_location
    assert rows_of(storm, "events.user_actions") == rows
    left = measured(storm, "events.user_actions", later=4 * DAY)
    assert [each for each in left.unknown if each.path in {f.file_path for f in _files(before)}] == []
    report = apply(
        storm,
        eager(storm, "events.user_actions", policy=NOTHING_BUT_ORPHANS),
        clock=lambda: datetime.now(UTC) + 4 * DAY,
    )
    removed = [done for done in report.actions if done.action == "remove_orphans"]
    assert sum(done.reclaimed_bytes for done in removed) == sum(each.size_bytes for each in left.unknown)
    assert measured(storm, "events.user_actions").unknown == ()


def _files(table: Any) -> list[Any]:
    return [task.file for task in table.scan().plan_files()]


def test_a_storm_of_small_commits_is_healed(storm: Settings) -> None:
    names = Upkeep(storm).tables("events", "quarantine")
    rows = {each: rows_of(storm, each) for each in names}
    properties = {each: Upkeep(storm).mark(each).properties for each in names}
    assert sum(map(len, rows.values())) == 3 * COMMITS * len(names)

    def heal(most_snapshots: int) -> Report:
        policy = Policy(max_snapshots=most_snapshots)
        chosen = [Target(name=each, policy=policy, probed="kafka_offset") for each in names]
        return apply(storm, chosen, clock=lambda: datetime.now(UTC) + 7 * HOUR)  # the partitions are closed by then

    report = heal(10)
    assert [done.error for done in report.actions if done.error] == []
    for each in names:
        state = measured(storm, each, Policy())
        assert [partition.files for partition in state.partitions] == [1, 1]
        assert len(state.snapshots) <= 15
        assert rows_of(storm, each) == rows[each]
        assert Upkeep(storm).mark(each).properties == properties[each]
        assert health(state, Policy(), datetime.now(UTC) + 7 * HOUR).is_healthy
    assert heal(20).actions == ()

    held = recorded(storm)
    compacted = [each for each in held if each["action"] == "compact" and each["outcome"] == "done"]
    assert {each["table_name"] for each in compacted} == set(names)
    assert min(each["files_before"] - each["files_after"] for each in compacted) > 100
    assert all(each["scan_seconds_after"] is not None for each in compacted)
    expired = [each for each in held if each["action"] == "expire_snapshots"]
    assert sum(each["reclaimed_bytes"] for each in expired) > 0


# What must stay


@pytest.fixture
def house(environment: Settings) -> Settings:
    """An environment with five commits to the events of one day."""
    Lake(environment).apply(USER_ACTIONS)
    commit_small(environment, USER_ACTIONS, 5, [date(2023, 10, 23)])
    return environment


def test_expiry_keeps_what_tags_and_branches_name(house: Settings) -> None:
    table = Lake(house).load(USER_ACTIONS)
    _, second, third, *_ = (entry.snapshot_id for entry in table.history())
    table.manage_snapshots().create_tag(second, "audited").create_branch(third, "trial").commit()
    report = maintain(house, "events.user_actions", later=30 * DAY)
    assert [done.outcome for done in report.actions] == ["done"] * len(report.actions)
    assert {"expire_snapshots", "compact"} <= {done.action for done in report.actions}
    maintain(house, "events.user_actions", later=60 * DAY)

    table = Lake(house).load(USER_ACTIONS)
    assert {second, third, table.metadata.current_snapshot_id} == {s.snapshot_id for s in table.snapshots()}
    assert table.metadata.refs["audited"].snapshot_id == second
    for ref, count in (("audited", 6), ("trial", 9)):
        asked = f"SELECT count(*) FROM {name(house, 'events.user_actions')} FOR VERSION AS OF '{ref}'"
        assert run(house, asked) == [(count,)]
    assert len(rows_of(house, "events.user_actions")) == 15
    assert measured(house, "events.user_actions", later=60 * DAY).pinned_bytes > 0


def test_a_planted_orphan_is_left_while_it_is_young_and_then_removed_alone(house: Settings) -> None:
    before = objects_of(house, "events.user_actions")
    planted = plant(house, USER_ACTIONS, "data/event_date=2023-10-23/a.parquet", "metadata/b-m0.avro", "data/c/d.tmp")
    keeps = Policy(snapshot_days=90)
    for later in (timedelta(), DAY, 2.9 * DAY, -DAY):
        report = maintain(house, "events.user_actions", policy=keeps, later=later)
        assert [done for done in report.actions if done.action == "remove_orphans"] == []
    # Of the manifest nobody says for sure, until it is old enough to look it up in every snapshot.
    (note,) = maintenance.plan(house, eager(house, "events.user_actions", policy=keeps), datetime.now(UTC))[0].notes
    assert note.startswith("2 objects of 50 B that no table knows may belong to writes under way")

    report = maintain(house, "events.user_actions", policy=keeps, later=4 * DAY)
    (done,) = report.actions
    assert (done.action, done.outcome, done.reclaimed_bytes) == ("remove_orphans", "done", 75)
    after = objects_of(house, "events.user_actions")
    assert before <= after
    assert set(planted).isdisjoint(after)
    assert len(rows_of(house, "events.user_actions")) == 15


def test_what_a_killed_archiving_left_is_removed_and_the_archive_stays_as_it_was(house: Settings) -> None:
    Lake(house).apply(USER_ACTIONS_ARCHIVE)
    assert len(archive.run(house, before=date(2023, 10, 24)).archived) == 1
    planted = plant(house, USER_ACTIONS_ARCHIVE, "data/event_date=2023-10-23/part-0/a.parquet")
    (target,) = targets(house, ["events.user_actions_archive"])
    for later, removed in ((DAY, False), (4 * DAY, True)):
        report = apply(house, [target], clock=lambda later=later: datetime.now(UTC) + later)
        assert ("remove_orphans" in {done.action for done in report.actions}) is removed
    assert set(planted).isdisjoint(objects_of(house, "events.user_actions_archive"))
    verified = archive.verify(house)
    assert (verified.ok, verified.rows) == (True, 15)


def test_no_object_younger_than_three_days_can_be_removed_by_whatever_plan(house: Settings) -> None:
    (path,) = plant(house, USER_ACTIONS, "data/a.parquet")
    now = datetime.now(UTC)
    with pytest.raises(TerminalError, match="younger than 72 h"):
        Upkeep(house).remove("events.user_actions", [Unknown(path, 25, now)], now + 71 * HOUR)
    assert path in objects_of(house, "events.user_actions")


def test_what_the_table_names_is_removed_by_no_plan_and_both_engines_say_so(house: Settings) -> None:
    lake, now = Upkeep(house), datetime.now(UTC)
    table = lake.load(USER_ACTIONS)
    known = [_files(table)[0].file_path, table.metadata_location, table.snapshots()[0].manifest_list]
    (target,) = targets(house, ["events.user_actions"])
    for path in known:
        wrong = Unknown(path, 1, now - 10 * DAY)
        with pytest.raises(TerminalError, match=r"names .* by now: nothing was removed"):
            lake.remove("events.user_actions", [wrong], now)
        action = RemoveOrphans(table=target.name, objects=(wrong,), size_bytes=1, reason="")
        with pytest.raises(TerminalError, match=r"Trino finds .* nothing was removed"):
            maintenance._Run(house, lambda: now, threading.Event(), print)._refuse_known(target, action)
    assert len(rows_of(house, "events.user_actions")) == 15


def test_a_table_in_whose_place_another_one_lies_keeps_its_orphans(house: Settings) -> None:
    plant(house, USER_ACTIONS, "data/a.parquet")
    location = Lake(house).load(USER_ACTIONS).location()
    run(house, f"CREATE TABLE {name(house, 'events.inside')} (n integer) WITH (location = '{location}/inside')")
    state = measured(house, "events.user_actions", later=4 * DAY)
    assert state.shares_place_with == (f"{house.prefix}events.inside",)
    report = maintain(house, "events.user_actions", later=4 * DAY)
    assert [done for done in report.actions if done.action == "remove_orphans"] == []


@pytest.mark.parametrize("shift", [-DAY, DAY])
def test_a_clock_that_is_a_day_off_costs_nothing_that_lives(house: Settings, shift: timedelta) -> None:
    rows, planted = rows_of(house, "events.user_actions"), plant(house, USER_ACTIONS, "data/under-way.parquet")
    maintain(house, "events.user_actions", policy=Policy(closed_after_hours=0), later=shift)
    maintain(house, "events.user_actions", later=shift)
    assert rows_of(house, "events.user_actions") == rows
    assert set(planted) <= objects_of(house, "events.user_actions")
    with pytest.raises(TerminalError, match="this machine's clock says"):
        maintenance.refuse_wrong_clock(house, datetime.now(UTC) + shift)
    maintenance.refuse_wrong_clock(house, datetime.now(UTC))


# Beside writers


@pytest.fixture
def shop(environment: Settings) -> Iterator[Shop]:
    with opened(environment, os.environ) as shop:
        yield shop


def test_a_follower_at_full_speed_beside_compaction_and_expiry_loses_and_doubles_nothing(shop: Shop) -> None:
    names, ended = ("events.user_actions", "quarantine.user_actions"), threading.Event()

    def produce() -> None:
        while not ended.is_set():
            shop.send(50)
            time.sleep(0.05)

    producer = threading.Thread(target=produce)
    producer.start()
    taken: list[tuple[str, str, str | None]] = []
    try:
        follower = shop.follow(LAKEHOUSE_INGEST__COMMIT_SECONDS="0.2")
        wait_until(lambda: shop.committed_rows() > 0, lambda: follower.said)
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            report = maintain(shop.settings, *names, later=2 * HOUR)
            taken += [(done.action, done.outcome, done.error) for done in report.actions]
        assert follower.process.poll() is None, follower.said
    finally:
        ended.set()
        producer.join()
    follower.process.terminate()
    follower.ends(0)
    shop.finish()
    assert {("compact", "done", None), ("expire_snapshots", "done", None)} <= set(taken)
    assert [each for each in taken if each[1] == "failed"] == []
    shop.assert_settled()


# Models


@pytest.fixture
def place(environment: Settings) -> Iterator[Settings]:
    """An environment with a published mart of three files and a delete file."""
    schema = f"{environment.catalog.name}.{environment.prefix}build"
    run(environment, f"CREATE SCHEMA {schema}", "transform")
    table = name(environment, "build.days")
    partitioned = "WITH (partitioning = ARRAY['month(day)'])"
    run(environment, f"CREATE TABLE {table} {partitioned} AS SELECT DATE '2026-11-01' AS day, 1 AS n", "transform")
    run(environment, f"INSERT INTO {table} VALUES (DATE '2026-11-02', 2), (DATE '2026-11-03', 3)", "transform")
    run(environment, f"INSERT INTO {table} VALUES (DATE '2026-11-04', 4)", "transform")
    run(environment, f"DELETE FROM {table} WHERE n = 3", "transform")
    publish.publish(environment, [Mart("days")], datetime.now(UTC))
    yield environment
    shutil.rmtree(transform.target_directory(environment), ignore_errors=True)


MART = [(date(2026, 11, 1), 1), (date(2026, 11, 2), 2), (date(2026, 11, 4), 4)]


def read(settings: Settings) -> list[tuple[Any, ...]]:
    return sorted(run(settings, f"SELECT day, n FROM {name(settings, 'marts.days')}", "analyst"))


def test_a_published_mart_is_compacted_and_its_tag_moves_along(place: Settings) -> None:
    before, state = Marts(place).state("days"), measured(place, "build.days")
    assert state.delete_files > 0
    report = maintain(place, "build.days")
    assert ("compact", "done") in {(done.action, done.outcome) for done in report.actions}
    state, after = measured(place, "build.days"), Marts(place).state("days")
    assert (state.files, state.delete_files) == (1, 0)
    assert after.published == after.built != before.published
    assert (after.published_at, after.waits_since) == (before.published_at, None)
    assert read(place) == MART
    maintain(place, "build.days", later=10 * DAY)
    assert read(place) == MART


def test_a_mart_with_rows_that_are_not_published_keeps_its_tag(place: Settings) -> None:
    run(place, f"INSERT INTO {name(place, 'build.days')} VALUES (DATE '2026-11-05', 5)", "transform")
    before = Marts(place).state("days").published
    maintain(place, "build.days", later=10 * DAY)
    assert Marts(place).state("days").published == before
    assert read(place) == MART
    assert len(run(place, f"SELECT * FROM {name(place, 'build.days')}")) == 4


def test_models_are_left_alone_while_a_build_runs(place: Settings) -> None:
    with transform.only_one(transform.target_directory(place)):
        report = maintain(place, "build.days")
    assert [done.outcome for done in report.actions] == ["skipped"]
    assert "another dbt build is running" in str(report.actions[0].error)
    assert measured(place, "build.days").delete_files > 0


# The commands


@pytest.fixture
def cli(house: Settings, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("LAKEHOUSE_PREFIX", house.prefix)
    get_settings.cache_clear()
    return CliRunner()


def answer(cli: CliRunner, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = cli.invoke(app, [*arguments, "--output", "json"])
    assert done.exit_code == code, done.output + repr(done.exception)
    return json.loads(done.stdout)


def test_the_commands_plan_apply_and_tell_how_the_tables_are_and_what_they_cost(
    house: Settings, cli: CliRunner
) -> None:
    one = ("--table", "events.user_actions")
    planned = answer(cli, "maintain", "plan", *one)
    assert [action["action"] for action in planned["actions"]] == ["analyze"]
    assert planned == answer(cli, "maintain", "apply", "--dry-run", *one)
    assert answer(cli, "maintain", "apply", *one)["failed"] == 0
    assert answer(cli, "maintain", "apply", *one)["actions"] == []

    (table,) = answer(cli, "tables", "health", *one)["tables"]
    assert (table["is_healthy"], table["files"], table["ideal_files"], table["small_file_debt"]) == (True, 5, 1, 4)
    assert table["last_run"]["failed"] == 0
    assert answer(cli, "maintain", "plan", *one)["actions"] == []  # the partition is open
    (action,) = answer(cli, "maintain", "plan", "--open-partitions", *one)["actions"]
    assert (action["action"], action["files"]) == ("compact", 5)
    assert answer(cli, "maintain", "apply", "--open-partitions", *one)["failed"] == 0
    assert answer(cli, "tables", "health", *one)["tables"][0]["files"] == 1
    costs = answer(cli, "tables", "cost")
    by_name = {each["table"]: each for each in costs["tables"]}
    live = sum(f.file_size_in_bytes for f in _files(Lake(house).load(USER_ACTIONS)))
    assert by_name["events.user_actions"]["live_bytes"] == live
    held = list_objects(house.s3, f"s3://{house.s3.warehouse_bucket}/{house.prefix}")
    assert costs["warehouse_bytes"] == sum(size for size, _ in held.values())
    assert cli.invoke(app, ["maintain", "plan", "--table", "events.nothing"]).exit_code == 1
    for command in (["maintain", "plan"], ["maintain", "apply"], ["tables", "health"], ["tables", "cost"]):
        assert cli.invoke(app, [*command, *one]).exit_code == 0
