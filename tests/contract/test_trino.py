"""Trino as the queries and the models use it: through the REST catalog, on tables that pyiceberg made."""

import datetime as dt
import json
import shutil
from collections.abc import Iterator

import pytest

from lakehouse import transform
from lakehouse.adapters import trino
from lakehouse.environment import apply
from lakehouse.errors import TerminalError, TransientError
from lakehouse.settings import Settings, TrinoSettings
from tests.shops import EVENT_COLUMNS

pytestmark = pytest.mark.integration

NOON = "TIMESTAMP '2026-11-20 12:00:00 UTC'"
LATER = "TIMESTAMP '2026-11-20 20:00:00 UTC'"


@pytest.fixture
def lake(environment: Settings) -> Iterator[str]:
    """Name the catalog and the prefix of an environment with empty tables, as `catalog.prefix`."""
    apply(environment)
    yield f"{environment.catalog.name}.{environment.prefix}"
    shutil.rmtree(transform.target_directory(environment), ignore_errors=True)


def publish(settings: Settings, lake: str, *events: tuple[str, str, str, str, int], ingested_at: str = NOON) -> None:
    """Add events given as (time on that date, date, name, user, offset)."""
    rows = ", ".join(
        f"(TIMESTAMP '{date} {time} UTC', DATE '{date}', '{name}', '{user}', 'web', 'Sofa', 'SKU-1', NULL, "
        f"'user-actions', 0, {offset}, TIMESTAMP '{date} {time} UTC', {ingested_at}, NULL)"
        for time, date, name, user, offset in events
    )
    trino.query(settings.trino_as("admin"), f"INSERT INTO {lake}events.user_actions {EVENT_COLUMNS} VALUES {rows}")


def daily(settings: Settings, lake: str) -> list[tuple[object, ...]]:
    columns = "CAST(event_date AS varchar), event_name, event_count, user_count"
    mart = f"{lake}marts.fct_events_daily"
    return trino.query(settings.trino_as("analyst"), f"SELECT {columns} FROM {mart} ORDER BY 1, 2")


def snapshots(settings: Settings, lake: str) -> int:
    ((count,),) = trino.query(
        settings.trino_as("transform"), f'SELECT count(*) FROM {lake}build."fct_events_daily$snapshots"'
    )
    return count


def test_values_come_back_with_their_types(environment: Settings) -> None:
    sql = "SELECT ?, TIMESTAMP '2026-11-20 12:00:00.123456 UTC', DATE '2026-11-20', CAST(NULL AS bigint), 1.5E0"
    noon = dt.datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=dt.UTC)
    assert trino.query(environment.trino_as("admin"), sql, ["it's"]) == [
        ("it's", noon, dt.date(2026, 11, 20), None, 1.5)
    ]


def test_a_wrong_query_is_not_worth_a_retry(environment: Settings) -> None:
    with pytest.raises(TerminalError, match="COLUMN_NOT_FOUND"):
        trino.query(environment.trino_as("admin"), "SELECT absent FROM (VALUES 1) AS t (n)")


def test_both_catalogs_answer(environment: Settings) -> None:
    for catalog in (environment.catalog.name, "app"):
        schemas = {name for (name,) in trino.query(environment.trino_as("admin"), f"SHOW SCHEMAS FROM {catalog}")}
        assert "information_schema" in schemas


def test_a_replaced_table_keeps_its_history_so_readers_see_no_gap(environment: Settings, lake: str) -> None:
    table = f"{lake}events.replaced"
    trino.query(environment.trino_as("admin"), f"CREATE TABLE {table} AS SELECT 1 AS n")
    trino.query(environment.trino_as("admin"), f"CREATE OR REPLACE TABLE {table} AS SELECT 2 AS n")
    assert trino.query(environment.trino_as("admin"), f"SELECT n FROM {table}") == [(2,)]
    ((kept,),) = trino.query(environment.trino_as("admin"), f'SELECT count(*) FROM {lake}events."replaced$snapshots"')
    assert kept == 2


def test_models_build_from_nothing_and_a_second_build_writes_nothing(environment: Settings, lake: str) -> None:
    first_day = [("08:00:00", "2026-11-18", "view", "u1", 0), ("09:00:00", "2026-11-18", "view", "u1", 1)]
    publish(environment, lake, *first_day, ("10:00:00", "2026-11-19", "buy", "u2", 2))
    trino.query(
        environment.trino_as("admin"),
        f"INSERT INTO {lake}quarantine.user_actions (reason, message, kafka_topic, kafka_partition, kafka_offset, "
        "kafka_timestamp, rule_version, ingested_at, ingested_date) "
        f"VALUES ('not_json', 'no JSON', 'user-actions', 0, 3, {NOON}, 1, {NOON}, DATE '2026-11-20')",
    )

    built = transform.build(environment, unit_tests=True)
    assert built.models == len(list(transform.PROJECT.glob("models/**/*.sql")))
    assert built.tests > built.models
    assert (built.passed, built.skipped, built.failed) == (built.models + built.tests, 0, ())
    assert sorted(built.published) == sorted(path.stem for path in transform.PROJECT.glob("models/marts/**/*.sql"))
    assert daily(environment, lake) == [("2026-11-18", "view", 2, 1), ("2026-11-19", "buy", 1, 1)]
    quality = f"SELECT outcome, reason, message_count, message_ratio FROM {lake}marts.fct_data_quality_daily"
    assert sorted(trino.query(environment.trino_as("admin"), quality)) == [
        ("published", "none", 3, 0.75),
        ("quarantined", "not_json", 1, 0.25),
    ]

    before = snapshots(environment, lake)
    assert transform.build(environment).published == ()
    assert snapshots(environment, lake) == before

    others = (
        f"SELECT table_schema, table_name, column_name, data_type FROM {environment.catalog.name}"
        f".information_schema.columns WHERE table_schema LIKE '{environment.prefix.replace('_', '!_')}%' ESCAPE '!' "
        "AND data_type LIKE 'timestamp%' AND data_type <> 'timestamp(6) with time zone'"
    )
    assert trino.query(environment.trino_as("admin"), others) == []

    page = transform.generate_docs(environment)
    catalog = json.loads(page.with_name("catalog.json").read_text())["nodes"]
    manifest = json.loads(page.with_name("manifest.json").read_text())["nodes"]
    documented = {name: set(node["columns"]) for name, node in manifest.items() if node["resource_type"] == "model"}
    assert documented == {name: set(catalog[name]["columns"]) for name in documented}


def test_late_events_and_vanished_groups_change_their_own_day_in_one_commit(environment: Settings, lake: str) -> None:
    publish(
        environment,
        lake,
        ("08:00:00", "2026-11-18", "view", "u1", 0),
        ("09:00:00", "2026-11-18", "buy", "u1", 1),
        ("10:00:00", "2026-11-19", "view", "u2", 2),
    )
    transform.build(environment, select="+fct_events_daily")
    before = snapshots(environment, lake)

    trino.query(environment.trino_as("admin"), f"DELETE FROM {lake}events.user_actions WHERE event_name = 'buy'")
    publish(environment, lake, ("11:00:00", "2026-11-18", "view", "u3", 3), ingested_at=LATER)
    transform.build(environment, select="fct_events_daily")

    assert daily(environment, lake) == [("2026-11-18", "view", 2, 2), ("2026-11-19", "view", 1, 1)]
    assert snapshots(environment, lake) == before + 1


def test_an_offset_published_twice_fails_the_build_by_name(environment: Settings, lake: str) -> None:
    publish(environment, lake, ("08:00:00", "2026-11-18", "view", "u1", 0), ingested_at="current_timestamp(6)")
    publish(environment, lake, ("08:00:00", "2026-11-18", "view", "u1", 0), ingested_at="current_timestamp(6)")
    with pytest.raises(TerminalError, match="test unique_combination_stg_events__user_actions"):
        transform.build(environment, select="+stg_events__user_actions")


def test_a_build_without_trino_is_worth_a_retry(environment: Settings) -> None:
    away = environment.model_copy(update={"trino": TrinoSettings(port=1), "prefix": f"{environment.prefix}away_"})
    with pytest.raises(TransientError, match="dbt build failed"):
        transform.build(away)
