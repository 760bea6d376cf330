"""The audit must find what was done by hand, with the exact offsets, and nothing where nothing was done."""

import json
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from lakehouse import ingest, produce, transform
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.catalog import POSITION, Lake
from lakehouse.adapters.kafka import Message
from lakehouse.audit import audit
from lakehouse.settings import PROJECT_ROOT, Settings
from lakehouse.tables import ALL, USER_ACTIONS

pytestmark = pytest.mark.integration

SAMPLE = PROJECT_ROOT / "data" / "sample-events.jsonl"  # three events: view, click, purchase of one day


@pytest.fixture(scope="module")
def shop(module_environment: Settings) -> Settings:
    """Three events and one refused message, ingested and built."""
    settings = module_environment
    lake = Lake(settings)
    for spec in ALL:
        lake.apply(spec)
    produce.produce_file(settings, SAMPLE)
    kafka.send(settings, settings.user_actions_topic, [Message(b"user", b"not json")])
    ingest.run(settings)
    transform.build(settings, "+fct_events_daily")
    return settings


@contextmanager
def undone(settings: Settings) -> Generator[None]:
    """Put the events table back to the snapshot it had before."""
    before = Lake(settings).load(USER_ACTIONS).metadata.current_snapshot_id
    yield
    run(settings, f"ALTER TABLE {events(settings)} EXECUTE rollback_to_snapshot({before})")


def run(settings: Settings, statement: str) -> None:
    trino.query(settings.trino, statement)


def events(settings: Settings) -> str:
    return f"lake.{settings.prefix}events.user_actions"


def mart(settings: Settings) -> str:
    return f"lake.{settings.prefix}marts.fct_events_daily"


def an_offset(settings: Settings) -> tuple[int, int]:
    rows = trino.query(settings.trino, f"SELECT kafka_partition, kafka_offset FROM {events(settings)} ORDER BY 1, 2")
    return rows[0][0], rows[0][1]


def test_untouched_tables_have_no_gap(shop: Settings) -> None:
    report = audit(shop)
    assert report.gaps == ()
    assert report.ok
    assert sum(row.published_rows for row in report.ledger) == 3
    assert sum(row.quarantined_rows for row in report.ledger) == 1
    assert sum(row.position - row.first_offset for row in report.ledger) == 4
    assert (report.aggregated_rows, report.unaggregated_rows) == (3, 0)


def test_a_row_removed_by_hand_is_lost_at_its_offset(shop: Settings) -> None:
    partition, offset = an_offset(shop)
    with undone(shop):
        run(shop, f"DELETE FROM {events(shop)} WHERE kafka_partition = {partition} AND kafka_offset = {offset}")
        report = audit(shop)
    (lost,) = [gap for gap in report.gaps if gap.kind == "lost"]
    assert lost.where == f"{shop.user_actions_topic}/{partition}"
    assert (lost.rows, lost.detail) == (1, f"offsets {offset}")
    assert [gap.rows for gap in report.gaps if gap.kind == "aggregate"] == [1]
    assert not report.ok


def test_a_file_registered_twice_is_named_and_its_offsets_are_doubled(shop: Settings) -> None:
    table = Lake(shop).load(USER_ACTIONS)
    path = table.inspect.files()["file_path"][0].as_py()
    with undone(shop):
        table.add_files([path], check_duplicate_files=False)
        report = audit(shop)
    assert [(gap.rows, gap.detail) for gap in report.gaps if gap.kind == "file"] == [
        (3, f"{path} is registered 2 times")
    ]
    assert sum(gap.rows for gap in report.gaps if gap.kind == "doubled") == 3


@pytest.mark.parametrize("moved_by", [-1, 5])
def test_a_position_moved_by_hand_is_found_with_both_offsets(shop: Settings, moved_by: int) -> None:
    partition, _ = an_offset(shop)
    key = POSITION + shop.user_actions_topic
    table = Lake(shop).load(USER_ACTIONS)
    kept = table.properties[key]
    offsets = json.loads(kept)
    left_at = offsets[str(partition)]
    offsets[str(partition)] = left_at + moved_by
    with table.transaction() as transaction:
        transaction.set_properties({key: json.dumps(offsets)})
    try:
        report = audit(shop)
    finally:
        with Lake(shop).load(USER_ACTIONS).transaction() as transaction:
            transaction.set_properties({key: kept})
    (moved,) = [gap for gap in report.gaps if gap.kind == "position"]
    assert moved.detail == f"left at {left_at}, found at {left_at + moved_by}"
    expected = "kafka" if moved_by > 0 else "doubled"
    assert expected in {gap.kind for gap in report.gaps}


def test_an_aggregate_edited_by_hand_is_found_on_its_day(shop: Settings) -> None:
    run(shop, f"UPDATE {mart(shop)} SET event_count = event_count + 7 WHERE event_name = 'view'")
    try:
        report = audit(shop)
    finally:
        run(shop, f"UPDATE {mart(shop)} SET event_count = event_count - 7 WHERE event_name = 'view'")
    assert [(gap.kind, gap.where, gap.rows) for gap in report.gaps] == [("aggregate", "fct_events_daily 2023-10-23", 7)]


def test_events_that_wait_for_a_build_are_no_gap(shop: Settings) -> None:
    produce.produce_file(shop, SAMPLE)
    assert sum(row.lag_rows for row in audit(shop).ledger) == 3
    ingest.run(shop)
    report = audit(shop)
    assert report.gaps == ()
    assert (report.aggregated_rows, report.unaggregated_rows) == (3, 3)
