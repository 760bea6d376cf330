"""Models built bit by bit, as events come in, are row by row what a full rebuild makes of the same events.

The events come late, twice, in any order of their dates, out of quarantine, and under names that change; and the
builds come in pieces, twice, or are killed. Some events come from files, and a corrected file takes its events away.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from lakehouse import ledger, transform
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.ads_store import AdsStore
from lakehouse.adapters.catalog import Lake
from lakehouse.environment import apply, drop
from lakehouse.errors import TransientError
from lakehouse.settings import Settings
from lakehouse.tables import IMPRESSIONS_ARCHIVE, USER_ACTIONS, USER_ACTIONS_QUARANTINE, TableSpec
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
CORRECTED = "s3://user-events/corrected.csv"
EMPTIED = date(2026, 10, 26)
CLEARED = date(2026, 10, 21)
"""Of this date quarantine loses what it has; it is one on which none of the events came that leave."""
STEPS = ("view", "click", "add_to_cart", "purchase")


@dataclass
class Batch:
    """Rows of both tables that are committed before one build."""

    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    refused: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    ads: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class Shop:
    """What users did, message by message, and in which batch each comes in."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311
        self.batches = [Batch() for _ in range(BATCHES)]
        self.commits: dict[datetime, datetime] = {}
        self.next_offset = 0
        self.ad_chance = random.Random(seed)  # noqa: S311

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
        self.show_ads(user, f"SKU-{sku}", acted_at, acted_at + late)
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

    def show_ads(self, user: str, sku: str, before: datetime, told_at: datetime) -> None:
        """Show the user up to three ads for a product; of some a newer version comes some days later."""
        chance = self.ad_chance
        for _ in range(chance.randrange(4)):
            shown_at = before - timedelta(seconds=chance.randrange(1, 40_000))
            impression = {
                "shown_date": shown_at.date(),
                "impression_id": f"ad-{chance.randrange(10**12)}",
                "campaign": chance.choice(["spring", "autumn"]),
                "ad": "ad-1",
                "sku": sku,
                "user_id": user,
                "shown_at": shown_at,
                "clicked_at": None,
                "cost_micros": chance.randrange(1000),
                "updated_at": shown_at,
                "arrived_at": self.run_after(told_at),
            }
            self.batch_at(impression["arrived_at"]).ads.append(impression)
            if chance.random() < 0.3:
                later = told_at + timedelta(days=chance.choice([0, 2, 20]))
                changes = {"clicked_at": shown_at, "campaign": "winter", "updated_at": later}
                arrived_at = self.run_after(later)
                self.batch_at(arrived_at).ads.append(impression | changes | {"arrived_at": arrived_at})

    def send(self, event: dict[str, Any], sent_at: datetime) -> None:
        chance = self.chance
        message: dict[str, Any] = {
            "kafka_topic": "user-actions",
            "kafka_partition": chance.randrange(3),
            "kafka_offset": self.next_offset,
            "kafka_timestamp": sent_at,
        }
        if (dropped := chance.random()) < 0.1:
            message = {
                "source": "csv",
                "file": CORRECTED if dropped < 0.05 else "s3://user-events/shop.csv",
                "file_version": "000001-one",
                "file_line": self.next_offset,
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
        return self.batch_at(self.commits[run])

    def batch_at(self, committed_at: datetime) -> Batch:
        """The batch of what is committed at that time."""
        days = (committed_at - FIRST_DAY) / timedelta(days=1)
        return self.batches[min(int(days * BATCHES / DAYS), BATCHES - 1)]


def product_name(sku: int, day: date) -> str:
    """Names change, one of them back again, and one on a day without a sale perhaps."""
    week = (day - FIRST_DAY.date()).days // 7
    return f"Sofa {sku}" + {0: "", 1: " (new)" * (week >= 3), 2: " (sale)" * (week in {2, 4}), 3: f" v{week}"}.get(
        sku, ""
    )


def is_corrected(event: dict[str, Any]) -> bool:
    """Of the file that is corrected, or of a date of which nothing is left."""
    return event.get("file") == CORRECTED or event["event_date"] == EMPTIED


def test_the_generated_shop_has_what_the_test_is_about() -> None:
    batches = Shop(1).open()
    events = [event for batch in batches for event in batch.events]
    assert len(events) > 1000
    assert all(batch.events for batch in batches)
    assert {event["event_date"].isocalendar().week for event in events} >= set(range(41, 47))
    offsets = [(event.get("kafka_partition"), event.get("kafka_offset", event.get("file_line"))) for event in events]
    assert len([event for event in events if event.get("file") == CORRECTED]) > 20
    assert len(set(offsets)) == len(offsets)
    assert len([row for batch in batches for row in batch.refused if row["ingested_date"] == CLEARED]) == 1
    assert CLEARED not in {event["ingested_at"].date() for event in events if is_corrected(event)}
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
        with AdsStore(settings).session() as session:
            session.begin_load("a load")
            session.stage(pa.Table.from_pylist(batch.ads, schema=IMPRESSIONS_ARCHIVE.arrow_schema))
            session.merge_staged()
            session.commit()


def withdraw(settings: Settings, batches: Sequence[Batch], rows: Callable[[dict[str, Any]], bool]) -> None:
    """Take rows out of both tables as a correction does, and say of which dates they are."""
    events = [event for batch in batches for event in batch.events]
    gone = [event for event in events if rows(event)]
    at = max(*(event["ingested_at"] for event in events), *(ad["arrived_at"] for batch in batches for ad in batch.ads))
    lake = Lake(settings)
    with lake.load(USER_ACTIONS).transaction() as transaction:
        kept = transaction._table.scan().to_arrow().to_pylist()
        transaction.overwrite(
            pa.Table.from_pylist([row for row in kept if not rows(row)], schema=USER_ACTIONS.arrow_schema)
        )
        for key, column in ((ledger.WITHDRAWN, "event_date"), (ledger.WITHDRAWN_INGESTED, "ingested_at")):
            days = {value.date() if isinstance(value, datetime) else value for value in (row[column] for row in gone)}
            transaction.set_properties({key: ledger.withdrawn_text({}, days, at)})
    quarantine = f"{settings.catalog.name}.{settings.prefix}quarantine.user_actions"
    trino.query(settings.trino_as("admin"), f"DELETE FROM {quarantine} WHERE ingested_date = date '{CLEARED}'")
    with lake.load(USER_ACTIONS_QUARANTINE).transaction() as transaction:
        transaction.set_properties({ledger.WITHDRAWN_INGESTED: ledger.withdrawn_text({}, [CLEARED], at)})


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
                break  # the pipe may hold more
    assert process.wait(60) == -signal.SIGKILL
    assert built == after_models


@pytest.fixture
def rebuilt(stack: Settings, environment: Settings) -> Iterator[Settings]:
    """Another environment, for the full rebuild."""
    settings = stack.model_copy(update={"prefix": f"{environment.prefix}full_"})
    yield settings
    drop(settings)
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


def build_in_three(environment: Settings, everything: Sequence[Batch]) -> None:
    first, second, third, fourth, fifth, sixth = everything
    put(environment, [first, second])
    build(environment)
    put(environment, [third, fourth])
    kill_build(environment, after_models=6)
    build(environment)
    put(environment, [fifth, sixth])
    withdraw(environment, everything, is_corrected)
    build(environment)


def build_in_every_way(environment: Settings, everything: Sequence[Batch]) -> None:
    """Nine builds, most of them of everything, and one that is killed."""
    first, second, third, fourth, fifth, sixth = everything
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
    withdraw(environment, everything, is_corrected)
    build(environment, "staging intermediate")
    build(environment)


@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    "build_bit_by_bit", [build_in_three, pytest.param(build_in_every_way, marks=pytest.mark.faults)]
)
def test_what_is_built_bit_by_bit_is_what_a_full_rebuild_makes(
    environment: Settings, rebuilt: Settings, build_bit_by_bit: Callable[[Settings, Sequence[Batch]], None]
) -> None:
    everything = Shop(1).open()
    first, second, third, fourth, fifth, sixth = everything
    for settings in (environment, rebuilt):
        apply(settings)

    build_bit_by_bit(environment, everything)

    for batch in everything:
        batch.events = [event for event in batch.events if not is_corrected(event)]
        batch.refused = [row for row in batch.refused if row["ingested_date"] != CLEARED]
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
