"""The task of an ingest on a real Spark session: Kafka rows in, Parquet rows and tallies out."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import fs, parquet
from pydantic import SecretStr
from pyspark.sql import DataFrame, Row, SparkSession

from lakehouse.adapters import s3, spark
from lakehouse.errors import TransientError
from lakehouse.ingest_task import REPORT_DDL, IngestTask, Target
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_QUARANTINE, TableSpec

pytestmark = pytest.mark.integration

KAFKA_DDL = (
    "key binary, value binary, topic string, partition int, offset long, timestamp timestamp, timestampType int, "
    "headers array<struct<key: string, value: binary>>"
)
ARRIVED = datetime(2023, 10, 24, 6, 0, 0, 123_000, tzinfo=UTC)
INGESTED = datetime(2023, 10, 25, 7, 0, 0, 456_789, tzinfo=UTC)
EVENTS, QUARANTINE = "events.user_actions", "quarantine.user_actions"


def event(timestamp: str, event_name: str, user_id: str, **more: Any) -> bytes:
    message = {
        "timestamp": timestamp,
        "event_name": event_name,
        "user_identifiers": {"platform": "web", "id": user_id},
        "product_information": {"name": "Wireless Mouse", "SKU": "SKU-1001"},
    }
    return json.dumps(message | more).encode()


# Topic partition, offset, key, value, headers; offset 1 of topic partition 1 is held by quarantine already.
MESSAGES: list[tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]] | None]] = [
    (0, 10, b"b", event("2023-10-23T12:00:00Z", "view", "user_b"), None),
    (0, 11, b"a", event("2023-10-23T12:34:56.789Z", "view", "user_a", color="red"), [("trace", b"1")]),
    (0, 12, b"k\x00", b"\xff{", [("trace", b"\x00"), ("trace", b""), ("none", None)]),
    (0, 13, b"a", None, None),
    (0, 15, None, event("2023-10-24T01:00:00+02:00", "click", "user_c"), None),
    (1, 0, None, event("2023-10-24T00:00:00Z", "view", "user_d"), None),
    (1, 1, None, b"[]", None),
    (1, 2, None, b"[1]", []),
]


@pytest.fixture(scope="module")
def session(stack: Settings) -> Iterator[SparkSession]:
    with spark.session(stack, "test of the ingest task") as session:
        yield session


@pytest.fixture
def location(stack: Settings) -> Iterator[str]:
    name = f"{stack.s3.warehouse_bucket}/test_{secrets.token_hex(4)}_spark"
    yield f"s3://{name}"
    s3.filesystem(stack.s3).delete_dir(name)


def with_ids(spec: TableSpec) -> pa.Schema:
    """The columns numbered from 1, as they are in a table that never changed."""
    return pa.schema(
        [
            field.with_metadata({"PARQUET:field_id": str(number)})
            for number, field in enumerate(spec.arrow_schema, start=1)
        ]
    )


def task(stack: Settings, location: str) -> IngestTask:
    return IngestTask(
        run_id="run",
        source="user-actions",
        ingested_at=INGESTED,
        s3=stack.s3,
        events=Target(f"{location}/events", with_ids(USER_ACTIONS)),
        quarantine=Target(f"{location}/quarantine", with_ids(USER_ACTIONS_QUARANTINE)),
        quarantined={1: frozenset({1})},
        rows_per_file=1000,
    )


def messages(session: SparkSession) -> DataFrame:
    rows = [
        (key, value, "user-actions", partition, offset, ARRIVED + timedelta(milliseconds=offset), 1, headers)
        for partition, offset, key, value, headers in MESSAGES
    ]
    return session.createDataFrame(rows, KAFKA_DDL).coalesce(1)


def run(session: SparkSession, work: IngestTask) -> list[Row]:
    return spark.collect(messages(session).mapInArrow(work, REPORT_DDL))


def read(stack: Settings, path: str) -> pa.Table:
    with s3.filesystem(stack.s3).open_input_file(s3.key_of(path)) as file:
        return parquet.ParquetFile(file).read()


def test_every_message_becomes_one_row_of_one_table(session: SparkSession, stack: Settings, location: str) -> None:
    report = run(session, task(stack, location))

    tallies = {(r.table, r.topic_partition, r.reason): r.rows for r in report if r.file is None}
    assert tallies == {
        (EVENTS, 0, None): 3,
        (EVENTS, 1, None): 1,
        (QUARANTINE, 0, "not_utf8"): 1,
        (QUARANTINE, 0, "tombstone"): 1,
        (QUARANTINE, 1, "not_an_object"): 1,
    }
    files = {(r.table, r.file.removeprefix(location).rpartition("/")[0]): r for r in report if r.file}
    assert {at: r.rows for at, r in files.items()} == {
        (EVENTS, "/events/data/event_date=2023-10-23"): 3,
        (EVENTS, "/events/data/event_date=2023-10-24"): 1,
        (QUARANTINE, "/quarantine/data/ingested_date=2023-10-25"): 3,
    }
    assert all(r.file.rpartition("/")[2].startswith("run-") for r in files.values())

    first_day = read(stack, files[EVENTS, "/events/data/event_date=2023-10-23"].file)
    assert first_day.select(["event_name", "user_id", "kafka_partition", "kafka_offset"]).to_pylist() == [
        {"event_name": "view", "user_id": "user_a", "kafka_partition": 0, "kafka_offset": 11},
        {"event_name": "view", "user_id": "user_b", "kafka_partition": 0, "kafka_offset": 10},
        {"event_name": "click", "user_id": "user_c", "kafka_partition": 0, "kafka_offset": 15},
    ]
    assert first_day.slice(0, 1).to_pylist() == [
        {
            "event_datetime": datetime(2023, 10, 23, 12, 34, 56, 789_000, tzinfo=UTC),
            "event_date": date(2023, 10, 23),
            "event_name": "view",
            "user_id": "user_a",
            "platform": "web",
            "product_name": "Wireless Mouse",
            "sku": "SKU-1001",
            "unknown_fields": '{"color":"red"}',
            "kafka_topic": "user-actions",
            "kafka_partition": 0,
            "kafka_offset": 11,
            "kafka_timestamp": datetime(2023, 10, 24, 6, 0, 0, 134_000, tzinfo=UTC),
            "ingested_at": INGESTED,
            "replayed_at": None,
            **dict.fromkeys(("source", "file", "file_version", "file_line", "file_modified_at")),
        }
    ]
    assert first_day.column("event_datetime")[2].as_py() == datetime(2023, 10, 23, 23, tzinfo=UTC)

    refused = read(stack, files[QUARANTINE, "/quarantine/data/ingested_date=2023-10-25"].file).to_pylist()
    kept = ("reason", "raw", "kafka_partition", "kafka_offset", "kafka_key", "kafka_headers", "ingested_date")
    assert [tuple(row[name] for name in kept) for row in refused] == [
        ("not_an_object", b"[1]", 1, 2, None, [], date(2023, 10, 25)),
        (
            "not_utf8",
            b"\xff{",
            0,
            12,
            b"k\x00",
            [{"key": "trace", "value": b"\x00"}, {"key": "trace", "value": b""}, {"key": "none", "value": None}],
            date(2023, 10, 25),
        ),
        ("tombstone", None, 0, 13, b"a", None, date(2023, 10, 25)),
    ]


def test_files_carry_the_field_ids_that_the_catalog_asks_for(
    session: SparkSession, stack: Settings, location: str
) -> None:
    report = run(session, task(stack, location))
    for row in report:
        if row.file:
            schema = read(stack, row.file).schema
            ids = [int(field.metadata[b"PARQUET:field_id"]) for field in schema]
            assert ids == list(range(1, {EVENTS: 20, QUARANTINE: 19}[row.table]))
            assert schema.field("ingested_at").type == pa.timestamp("us", tz="UTC")


def test_a_column_that_only_the_table_has_stays_empty(session: SparkSession, stack: Settings, location: str) -> None:
    work = task(stack, location)
    newer = work.events.schema.append(pa.field("later", pa.int64(), metadata={"PARQUET:field_id": "20"}))
    report = run(session, replace(work, events=replace(work.events, schema=newer)))
    files = [read(stack, row.file) for row in report if row.file and row.table == EVENTS]
    assert [table.column("later").null_count for table in files] == [3, 1]


def test_a_file_has_no_more_rows_than_it_may(session: SparkSession, stack: Settings, location: str) -> None:
    session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "1")
    try:
        report = run(session, replace(task(stack, location), rows_per_file=2))
    finally:
        session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "20000")
    rows = sorted((row.table, row.rows) for row in report if row.file)
    assert rows == [(EVENTS, 1), (EVENTS, 1), (EVENTS, 2), (QUARANTINE, 1), (QUARANTINE, 2)]
    assert sum(row.rows for row in report if row.file is None) == 7


def test_a_task_without_messages_writes_nothing(session: SparkSession, stack: Settings, location: str) -> None:
    none = messages(session).filter("offset < 0")
    assert spark.collect(none.mapInArrow(task(stack, location), REPORT_DDL)) == []
    store = s3.filesystem(stack.s3)
    assert store.get_file_info(s3.key_of(location)).type == fs.FileType.NotFound
    store.create_dir(s3.key_of(location))


def test_a_store_that_refuses_is_an_error_that_names_it_and_no_secret(
    session: SparkSession, stack: Settings, location: str
) -> None:
    refused = stack.s3.model_copy(update={"secret_key": SecretStr("wrong-secret")})
    with pytest.raises(TransientError, match=r"nothing was committed.*(?i:signature|access.denied)") as caught:
        run(session, replace(task(stack, location), s3=refused))
    assert "wrong-secret" not in str(caught.value)
    s3.filesystem(stack.s3).create_dir(s3.key_of(location))
