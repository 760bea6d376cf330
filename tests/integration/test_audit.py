"""The audit must find what was done by hand, with the exact offsets, and nothing where nothing was done."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from lakehouse import ingest, produce, quarantine, transform
from lakehouse.accept_loss import accept_loss
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.catalog import Lake
from lakehouse.adapters.kafka import Message
from lakehouse.audit import Gap, LedgerRow, audit
from lakehouse.ingest_task import IngestTask, Target
from lakehouse.ledger import POSITION, entries
from lakehouse.plans import Account
from lakehouse.publish import Mart, publish
from lakehouse.settings import PROJECT_ROOT, Settings
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_ARCHIVE, USER_ACTIONS_QUARANTINE, TableSpec
from tests.integration.replaying import open_replay_shop
from tests.shops import event, open_shop

pytestmark = pytest.mark.integration

SAMPLE = PROJECT_ROOT / "data" / "sample-events.jsonl"  # three events: view, click, purchase of one day


@pytest.fixture(scope="module")
def shop(module_environment: Settings) -> Settings:
    """Offsets 0 to 7 of one topic partition: 0 and 4 published, 1, 3 and 5 replayed, the others refused; and built."""
    settings = module_environment
    open_replay_shop(settings)
    quarantine.replay(settings)
    transform.build(settings, "+fct_events_daily")
    return settings


def current(settings: Settings, spec: TableSpec = USER_ACTIONS) -> int | None:
    return Lake(settings).load(spec).metadata.current_snapshot_id


@contextmanager
def undone(settings: Settings, spec: TableSpec = USER_ACTIONS) -> Generator[None]:
    """Put a table back to the snapshot it had before."""
    before = current(settings, spec)
    try:
        yield
    finally:
        roll(settings, before, spec)


def roll(settings: Settings, snapshot_id: int | None, spec: TableSpec = USER_ACTIONS) -> None:
    run(settings, f"ALTER TABLE {name(settings, spec)} EXECUTE rollback_to_snapshot({snapshot_id})")


def run(settings: Settings, statement: str) -> None:
    trino.query(settings.trino_as("admin"), statement)


def name(settings: Settings, spec: TableSpec = USER_ACTIONS) -> str:
    return f"lake.{settings.prefix}{spec.identifier}"


def add_to_count(settings: Settings, events: int) -> None:
    """Falsify one day of what dbt built; nobody reads that before it is published."""
    table = f"lake.{settings.prefix}build.fct_events_daily"
    run(settings, f"UPDATE {table} SET event_count = event_count + {events} WHERE event_date = DATE '2023-10-22'")


def found(settings: Settings, *kinds: str) -> list[tuple[str, str, int, str]]:
    """The gaps of these kinds, where the only topic partition is called `0`."""
    gaps: tuple[Gap, ...] = audit(settings).gaps
    place = f"{settings.user_actions_topic}/"
    return sorted((g.kind, g.where.removeprefix(place), g.rows, g.detail) for g in gaps if g.kind in kinds)


@contextmanager
def property_set(settings: Settings, key: str, value: str | None) -> Generator[None]:
    kept = Lake(settings).load(USER_ACTIONS).properties[key]
    with Lake(settings).load(USER_ACTIONS).transaction() as transaction:
        transaction.remove_properties(key) if value is None else transaction.set_properties({key: value})
    try:
        yield
    finally:
        with Lake(settings).load(USER_ACTIONS).transaction() as transaction:
            transaction.set_properties({key: kept})


def test_untouched_tables_have_no_gap(shop: Settings) -> None:
    report = audit(shop)
    assert report.gaps == ()
    assert report.ok
    assert report.ledger == (
        LedgerRow(
            topic=shop.user_actions_topic,
            topic_partition=0,
            first_offset=0,
            position=8,
            end_offset=8,
            lag_rows=0,
            published_rows=5,
            quarantined_rows=6,
            replayed_rows=3,
            absent_offsets=0,
            lost_offsets=0,
        ),
    )
    assert (report.aggregated_rows, report.unaggregated_rows) == (5, 0)


def test_a_row_removed_by_hand_is_lost_at_its_offset(shop: Settings) -> None:
    with undone(shop):
        run(shop, f"DELETE FROM {name(shop)} WHERE kafka_offset = 4")
        assert found(shop, "lost", "doubled") == [("lost", "0", 1, "offsets 4")]
        report = audit(shop)
    assert [(gap.where, gap.rows) for gap in report.gaps if gap.kind == "aggregate"] == [
        ("fct_events_daily 2023-10-24", 1)
    ]
    assert not report.ok


def test_a_file_registered_twice_is_named_and_its_offsets_are_doubled(shop: Settings) -> None:
    table = Lake(shop).load(USER_ACTIONS)
    files = table.inspect.files().to_pylist()
    file = next(file for file in files if "event_date=2023-10-24" in file["file_path"])  # offset 4 alone
    with undone(shop):
        table.add_files([file["file_path"]], check_duplicate_files=False)
        report = audit(shop)
    assert [(gap.rows, gap.detail) for gap in report.gaps if gap.kind == "file"] == [
        (1, f"{file['file_path']} is registered 2 times")
    ]
    assert [(gap.rows, gap.detail) for gap in report.gaps if gap.kind == "doubled"] == [(1, "offsets 4")]


@pytest.mark.parametrize(
    ("moved_to", "expected"),
    [
        (
            4,
            [
                ("doubled", "0", 2, "outside of what was read: offsets 4, 5"),
                ("position", "0", 4, "left at 8, found at 4"),
            ],
        ),
        (
            10,
            [
                ("kafka", "0", 2, "the table has read up to 10, Kafka ends at 8"),
                ("lost", "0", 2, "offsets 8 to 9"),
                ("position", "0", 2, "left at 8, found at 10"),
            ],
        ),
    ],
)
def test_a_position_moved_by_hand_is_found_with_both_offsets(
    shop: Settings, moved_to: int, expected: list[tuple[str, str, int, str]]
) -> None:
    with property_set(shop, POSITION + shop.user_actions_topic, json.dumps({"0": moved_to})):
        gaps = found(shop, "position", "doubled", "kafka", "lost")
    assert gaps == expected


def test_rows_whose_position_was_taken_away_are_found(shop: Settings) -> None:
    with property_set(shop, POSITION + shop.user_actions_topic, None):
        assert found(shop, "position", "lost", "doubled") == [
            ("position", "0", 5, "5 rows are published and there is no position")
        ]


def test_an_aggregate_edited_by_hand_is_found_on_its_day_once_people_read_it(shop: Settings) -> None:
    mart = Mart("fct_events_daily")
    add_to_count(shop, 7)
    assert audit(shop).ok
    publish(shop, [mart], datetime.now(UTC))
    try:
        report = audit(shop)
    finally:
        add_to_count(shop, -7)
        publish(shop, [mart], datetime.now(UTC))
    assert [(gap.kind, gap.where, gap.rows) for gap in report.gaps] == [("aggregate", "fct_events_daily 2023-10-22", 7)]


def test_a_replayed_row_doubled_by_hand_is_found_at_its_offset(shop: Settings) -> None:
    with undone(shop):
        run(shop, f"INSERT INTO {name(shop)} SELECT * FROM {name(shop)} WHERE kafka_offset = 3")
        assert found(shop, "lost", "doubled", "replay") == [("doubled", "0", 1, "offsets 3")]


def test_a_replayed_row_removed_by_hand_is_lost_at_its_offset(shop: Settings) -> None:
    with undone(shop):
        run(shop, f"DELETE FROM {name(shop)} WHERE kafka_offset = 3")
        assert found(shop, "lost", "doubled", "replay") == [
            (
                "lost",
                "0",
                1,
                "replayed, and gone from the events: offsets 3; `lakehouse quarantine replay` brings them back",
            )
        ]


def test_a_replayed_row_that_says_it_was_ingested_is_doubled(shop: Settings) -> None:
    with undone(shop):
        run(shop, f"UPDATE {name(shop)} SET replayed_at = NULL WHERE kafka_offset = 3")
        assert found(shop, "doubled") == [("doubled", "0", 1, "offsets 3")]


def test_an_ingested_row_that_says_it_was_replayed_is_found(shop: Settings) -> None:
    with undone(shop):
        run(shop, f"UPDATE {name(shop)} SET replayed_at = ingested_at WHERE kafka_offset = 4")
        assert found(shop, "lost", "doubled", "replay") == [
            ("lost", "0", 1, "replayed, and gone from quarantine: offsets 4"),
            ("replay", "0", 1, "4 rows say that they were replayed, replays brought 3"),
        ]


@pytest.mark.parametrize(
    ("offset", "detail"),
    [(2, "offsets 2"), (3, "replayed, and gone from quarantine: offsets 3")],
    ids=["open", "replayed"],
)
def test_a_quarantined_row_removed_by_hand_is_lost_at_its_offset(shop: Settings, offset: int, detail: str) -> None:
    with undone(shop, USER_ACTIONS_QUARANTINE):
        run(shop, f"DELETE FROM {name(shop, USER_ACTIONS_QUARANTINE)} WHERE kafka_offset = {offset}")
        assert found(shop, "lost", "doubled", "replay") == [("lost", "0", 1, detail)]


def test_a_row_that_no_ledger_counts_is_found(shop: Settings) -> None:
    lost = ("lost", "0", 1, "offsets 4")
    with undone(shop):
        run(shop, f"UPDATE {name(shop)} SET kafka_topic = NULL WHERE kafka_offset = 4")
        neither = "1 events and 0 refused are neither a message nor a record of a file, or both"
        assert found(shop, "lost", "doubled", "origin") == [lost, ("origin", "user_actions", 1, neither)]
    with undone(shop):  # no file was ever brought
        record = "kafka_topic = NULL, file = 's3://user-events/a.csv', file_version = '000001-a', file_line = 2"
        run(shop, f"UPDATE {name(shop)} SET {record} WHERE kafka_offset = 4")
        does_not_count = "1 rows of version 000001-a, which does not count"
        assert found(shop, "lost", "doubled", "origin") == [
            ("doubled", "s3://user-events/a.csv", 1, does_not_count),
            lost,
        ]


def test_a_table_rolled_back_by_hand_is_found_with_every_offset(shop: Settings) -> None:
    table = Lake(shop).load(USER_ACTIONS)
    chain = [snapshot.snapshot_id for snapshot in table.snapshots()]
    replayed = "replayed, and gone from the events: offsets 1, 3, 5; `lakehouse quarantine replay` brings them back"
    with undone(shop):
        by_replay = table.current_snapshot()
        assert by_replay is not None
        roll(shop, by_replay.parent_snapshot_id)
        assert found(shop, "lost", "doubled", "replay") == [("lost", "0", 3, replayed)]
        roll(shop, chain[0])  # from before the first row
        assert found(shop, "lost", "doubled", "replay") == [
            ("lost", "0", 2, "offsets 0, 4"),
            ("lost", "0", 3, replayed),
        ]


def test_events_that_wait_for_a_build_are_no_gap(shop: Settings) -> None:
    produce.produce_file(shop, SAMPLE)
    assert sum(row.lag_rows for row in audit(shop).ledger) == 3
    ingest.run(shop)
    report = audit(shop)
    assert report.gaps == ()
    assert (report.aggregated_rows, report.unaggregated_rows) == (5, 3)


def test_accepted_loss_and_topics_that_are_no_more_add_up(environment: Settings) -> None:
    shop, topic = environment, environment.user_actions_topic

    def ledger() -> list[tuple[str, int | None, int, int, int, int]]:
        report = audit(shop)
        assert report.gaps == ()
        return [
            (r.topic, r.end_offset, r.position, r.lag_rows, r.published_rows, r.lost_offsets) for r in report.ledger
        ]

    def send(*users: str) -> None:
        kafka.send(shop, topic, [Message(None, event(user)) for user in users])

    open_shop(shop, 1)
    send("u0", "u1", "u2")
    ingest.run(shop)
    send("u3", "u4")
    kafka.delete_records(shop, topic)
    accept_loss(shop)
    assert ledger() == [(topic, 5, 5, 0, 3, 2)]

    kafka.delete_topic(shop, topic)
    gone = [gap.detail for gap in audit(shop).gaps]
    assert len(gone) == 1
    assert "no such topic" in gone[0]

    kafka.create_topic(shop, topic, 1)
    assert "Kafka has made it anew" in audit(shop).gaps[0].detail
    accept_loss(shop)
    assert ledger() == [(topic, None, 5, 0, 3, 2)]
    send("u5")
    ingest.run(shop)
    send("u6")
    assert ledger() == [(topic, None, 5, 0, 3, 2), (f"{topic}#2", 2, 1, 1, 1, 0)]


def test_tables_older_than_replays_are_audited_and_replayed(environment: Settings) -> None:
    shop, topic = environment, environment.user_actions_topic
    kafka.create_topic(shop, topic, 1)
    kafka.send(shop, topic, [Message(None, event("u0"))])
    lake = Lake(shop)
    older = replace(USER_ACTIONS, columns=tuple(c for c in USER_ACTIONS.columns if c.name != "replayed_at"))
    lake.apply(older)
    lake.apply(USER_ACTIONS_QUARANTINE)
    lake.apply(USER_ACTIONS_ARCHIVE)
    _publish(shop, lake, older)
    assert audit(shop).ok
    lake.apply(USER_ACTIONS)  # the snapshot is still of the older columns
    report = audit(shop)
    assert report.gaps == ()
    assert [(row.published_rows, row.replayed_rows) for row in report.ledger] == [(1, 0)]
    assert quarantine.replay(shop).replayed_rows == 0


def _publish(shop: Settings, lake: Lake, spec: TableSpec) -> None:
    """Publish offset 0 as an ingest does."""
    table = lake.load(spec)
    now = datetime.now(UTC)
    task = IngestTask(
        run_id="run",
        source=shop.user_actions_topic,
        ingested_at=now,
        s3=shop.s3,
        events=Target(table.location(), lake.write_schema(table, spec)),
        quarantine=Target("", pa.schema([])),
        quarantined={},
        rows_per_file=10,
    )
    message = {
        "value": pa.array([event("u0")]),
        "partition": pa.array([0], pa.int32()),
        "offset": pa.array([0], pa.int64()),
        "timestamp": pa.array([now], pa.timestamp("us", "UTC")),
    }
    reports = [row for batch in task([pa.record_batch(message)]) for row in batch.to_pylist()]
    topic_id = kafka.topic_id(shop, shop.user_actions_topic)
    lake.append(
        spec,
        [row["file"] for row in reports if row["file"]],
        expected={},
        properties=entries(shop.user_actions_topic, {0: 1}, topic_id, {0: Account(0)}, "run"),
        run_id="run",
        summary={},
    )
