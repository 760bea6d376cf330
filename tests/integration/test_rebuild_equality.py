"""Models built bit by bit, as events come in, are row by row what a full rebuild makes of the same events.

The events come late, twice, in any order of their dates, out of quarantine, and under names that change; and the
builds come in pieces, twice, or are killed.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from lakehouse import transform
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.catalog import Lake
from lakehouse.errors import TransientError
from lakehouse.settings import Settings
from lakehouse.tables import ALL, USER_ACTIONS, USER_ACTIONS_QUARANTINE, TableSpec
from tests.integration.replaying import LAKEHOUSE, environment_of

pytestmark = pytest.mark.integration

FIRST_DAY = datetime(2026, 10, 5, tzinfo=UTC)  # a Monday
DAYS = 42
BATCHES = 6
VISITS = 400
USERS = 30
MOST_LATE_COMMIT = timedelta(hours=2, minutes=50)
"""A run stamps its rows when it starts; the models' overlap allows for three hours until its commit."""
GAPS = [timedelta(seconds=s) for s in (0, 20, 300, 1799, 1800, 1801, 7200)]
"""Between the events of a visit, on either side of what ends a session."""
DAYS_LATE = [0] * 16 + [1, 2, 9, 25]
STEPS = ("view", "click", "add_to_cart", "purchase")


@dataclass
class Batch:
    """Rows of both tables that are committed before one build."""

    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    refused: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class Shop:
    """What users did, message by message, and in which batch each comes in."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311
        self.batches = [Batch() for _ in range(BATCHES)]
        self.commits: dict[datetime, datetime] = {}
        self.next_offset = 0

    def open(self) -> list[Batch]:
        for _ in range(VISITS):
            self.visit()
        for batch in self.batches:
            self.chance.shuffle(batch.events)
        return self.batches

    def visit(self) -> None:
        chance = self.chance
        user = f"user_{int(chance.random() ** 2 * USERS)}"
        platform = chance.choice(["web", "mobile"])
        acted_at = FIRST_DAY + timedelta(seconds=chance.randrange(DAYS * 86_400), microseconds=chance.randrange(10**6))
        late = timedelta(days=chance.choice(DAYS_LATE))
        sku, step = chance.randrange(6), 0
        for _ in range(chance.randint(1, 6)):
            event = {
                "event_datetime": acted_at,
                "event_date": acted_at.date(),
                "event_name": STEPS[step],
                "user_id": user,
                "platform": platform,
                "product_name": product_name(sku, acted_at.date()),
                "sku": f"SKU-{sku}",
                "unknown_fields": chance.choice([None, '{"campaign":"autumn"}']),
            }
            self.send(event, acted_at + late + timedelta(seconds=chance.randrange(3600)))
            if chance.random() < 0.05:  # the app was not sure that it had sent it
                self.send(event, acted_at + late + timedelta(hours=chance.choice([0, 1, 100])))
            acted_at += chance.choice(GAPS)
            if chance.random() < 0.6 and step < 3:
                step += 1
            else:
                sku, step = chance.randrange(6), 0

    def send(self, event: dict[str, Any], sent_at: datetime) -> None:
        chance = self.chance
        message = {
            "kafka_topic": "user-actions",
            "kafka_partition": chance.randrange(3),
            "kafka_offset": self.next_offset,
            "kafka_timestamp": sent_at,
        }
        self.next_offset += 1
        ingested_at = self.run_after(sent_at)
        if chance.random() > 0.06:
            self.batch(ingested_at).events.append(event | message | {"ingested_at": ingested_at, "replayed_at": None})
            return
        refused = {
            "reason": chance.choice(["too_large", "not_json"]),
            "message": "refused",
            "field": None,
            "raw": b"{}",
            "kafka_key": None,
            "kafka_headers": None,
            "rule_version": 1,
            "ingested_at": ingested_at,
            "ingested_date": ingested_at.date(),
        }
        self.batch(ingested_at).refused.append(message | refused)
        if chance.random() < 0.7:
            replayed_at = self.run_after(sent_at + timedelta(days=chance.choice([0, 3, 15]), seconds=7))
            row = event | message | {"ingested_at": replayed_at, "replayed_at": replayed_at}
            self.batch(max(replayed_at, ingested_at)).events.append(row)

    def run_after(self, moment: datetime) -> datetime:
        """The start of the first run of the ingest, one an hour, that finds a message of this moment."""
        return moment.replace(minute=0, second=0, microsecond=17) + timedelta(hours=1)

    def batch(self, run: datetime) -> Batch:
        """The batch that a run's rows are in: by the time of its commit, which may be some hours after its start."""
        if run not in self.commits:
            self.commits[run] = run + self.chance.choice([timedelta(0), timedelta(0), MOST_LATE_COMMIT])
        days = (self.commits[run] - FIRST_DAY) / timedelta(days=1)
        return self.batches[min(int(days * BATCHES / DAYS), BATCHES - 1)]


def product_name(sku: int, day: date) -> str:
    """Names change, one of them back again, and one on a day without a sale perhaps."""
    week = (day - FIRST_DAY.date()).days // 7
    return f"Sofa {sku}" + {0: "", 1: " (new)" * (week >= 3), 2: " (sale)" * (week in {2, 4}), 3: f" v{week}"}.get(
        sku, ""
    )


def test_the_generated_shop_has_what_the_test_is_about() -> None:
    batches = Shop(1).open()
    events = [event for batch in batches for event in batch.events]
    assert len(events) > 1000
    assert all(batch.events for batch in batches)
    assert {event["event_date"].isocalendar().week for event in events} >= set(range(41, 47))
    offsets = [(event["kafka_partition"], event["kafka_offset"]) for event in events]
    assert len(set(offsets)) == len(offsets)
    payloads = [(event["user_id"], event["event_datetime"], event["event_name"], event["sku"]) for event in events]
    assert len(set(payloads)) < len(payloads)
    assert sum(event["replayed_at"] is not None for event in events) > 20
    assert sum((event["ingested_at"].date() - event["event_date"]).days > 8 for event in events) > 20
    newest = [max(event["ingested_at"] for event in batch.events) for batch in batches]
    assert any(
        min(e["ingested_at"] for e in batch.events) < before for batch, before in zip(batches[1:], newest, strict=False)
    )


def put(settings: Settings, batches: Sequence[Batch]) -> None:
    """Commit rows as an ingest would have: one snapshot of each table for each batch."""
    lake = Lake(settings)

    def append(spec: TableSpec, rows: list[dict[str, Any]]) -> None:
        if rows:
            lake.load(spec).append(pa.Table.from_pylist(rows, schema=spec.arrow_schema))

    for batch in batches:
        append(USER_ACTIONS_QUARANTINE, batch.refused)
        append(USER_ACTIONS, batch.events)


def build(settings: Settings, select: str | None = None, **options: Any) -> None:
    """Build; again after a passing fault, as Airflow would: what was killed may not be gone yet, in dbt or in Trino."""
    for _ in range(5):
        try:
            transform.build(settings, select, **options)
        except TransientError:
            time.sleep(10)
        else:
            return
    transform.build(settings, select, **options)


def kill_build(settings: Settings, after_models: int) -> None:
    """Start a build and kill it, dbt included, when it has built so many models."""
    process = subprocess.Popen(
        [LAKEHOUSE, "transform", "run"],
        env=environment_of(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    built = 0
    with process.stderr as lines:
        for line in lines:
            built += "OK created sql" in line
            if built == after_models:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert built == after_models


@pytest.fixture
def rebuilt(stack: Settings, environment: Settings) -> Iterator[Settings]:
    """Another environment, for the full rebuild."""
    settings = stack.model_copy(update={"prefix": f"{environment.prefix}full_"})
    yield settings
    Lake(settings).drop_environment()
    kafka.delete_topic(settings, settings.user_actions_topic)
    for prefix in (environment, settings):
        shutil.rmtree(transform.target_directory(prefix), ignore_errors=True)


def stored(settings: Settings) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of every table, views left out, that the models have made."""
    admin, catalog = settings.trino_as("admin"), settings.catalog.name
    found: dict[str, list[tuple[Any, ...]]] = {}
    for layer in ("intermediate", "build"):
        tables = trino.query(
            admin,
            f"SELECT table_name FROM {catalog}.information_schema.tables "
            f"WHERE table_schema = '{settings.prefix}{layer}' AND table_type = 'BASE TABLE'",
        )
        for (table,) in tables:
            rows = trino.query(admin, f"SELECT * FROM {catalog}.{settings.prefix}{layer}.{table}")
            found[f"{layer}.{table}"] = sorted(rows, key=repr)
    return found


@pytest.mark.timeout(2400)  # nine builds, most of them of everything, and one that is killed
def test_what_is_built_bit_by_bit_is_what_a_full_rebuild_makes(environment: Settings, rebuilt: Settings) -> None:
    first, second, third, fourth, fifth, sixth = Shop(1).open()
    for settings in (environment, rebuilt):
        for spec in ALL:
            Lake(settings).apply(spec)

    put(environment, [first])
    build(environment)
    put(environment, [second])
    build(environment, "+fct_events_daily")
    build(environment, "intermediate")
    put(environment, [third])
    build(environment, "marts")
    put(environment, [fourth])
    kill_build(environment, after_models=6)
    build(environment)
    build(environment)
    put(environment, [fifth, sixth])
    build(environment, "staging intermediate")
    build(environment)

    put(rebuilt, [sixth, third, first, fifth, second, fourth])
    build(rebuilt, full_refresh=True)

    at_once = stored(rebuilt)
    assert "build.fct_events_daily" in at_once
    assert_equal(stored(environment), at_once)

    # What was spoiled by hand is no arrival, and is mended by taking in again what arrived.
    for table in ("intermediate.int_users__sessions", "build.fct_events_daily"):
        trino.query(
            environment.trino_as("admin"),
            f"DELETE FROM {environment.catalog.name}.{environment.prefix}{table} WHERE event_date < date '2026-10-20'",
        )
    build(environment, since=FIRST_DAY)
    assert_equal(stored(environment), at_once)


def assert_equal(found: dict[str, list[tuple[Any, ...]]], wanted: dict[str, list[tuple[Any, ...]]]) -> None:
    assert found.keys() == wanted.keys()
    for table, rows in wanted.items():
        assert rows, table
        surplus, lacking = set(found[table]) - set(rows), set(rows) - set(found[table])
        assert (sorted(surplus, key=repr), sorted(lacking, key=repr)) == ([], []), table
        assert found[table] == rows, table
