import gc
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest

from lakehouse import transforms
from lakehouse.transforms import (
    EVENTS_SCHEMA,
    QUARANTINE_SCHEMA,
    FileVersion,
    decode_batch,
    decode_records,
    sort_rows,
    split_by_date,
)

INGESTED_AT = datetime(2023, 10, 24, 1, 2, 3, 4, tzinfo=UTC)
KAFKA_TIMESTAMP = datetime(2023, 10, 24, 0, 0, 0, 5000, tzinfo=UTC)
NOT_OF_A_FILE = dict.fromkeys(("source", "file", "file_version", "file_line", "file_modified_at"))
HEADERS = [{"key": "trace", "value": b"\x00\xff"}, {"key": "trace", "value": None}]


def value(timestamp: str, event_name: str = "view", user: str = "user_1", more: str = "") -> bytes:
    return (
        f'{{"timestamp": "{timestamp}", "event_name": "{event_name}", "user_identifiers": {{"platform": "web", '
        f'"id": "{user}"}}, "product_information": {{"name": "Wireless Mouse", "SKU": "SKU-1001"}}{more}}}'
    ).encode()


def kafka_rows(values: list[bytes | None], **more: Any) -> pa.RecordBatch:
    rows = len(values)
    columns = {
        "value": pa.array(values, pa.binary()),
        "topic": pa.array(["user-actions"] * rows, pa.string()),
        "partition": pa.array([2] * rows, pa.int32()),
        "offset": pa.array(range(100, 100 + rows), pa.int64()),
        "timestamp": pa.array([KAFKA_TIMESTAMP] * rows, pa.timestamp("us", tz="Europe/Vilnius")),
    }
    return pa.record_batch(columns | more)


def test_a_good_row_and_a_bad_row_become_exactly_these_table_rows() -> None:
    batch = kafka_rows(
        [value("2023-10-23T23:30:00-05:00", more=', "a": 1'), b"\xff"],
        key=pa.array([b"k1", b"k2"], pa.binary()),
        headers=pa.array([None, HEADERS], transforms.HEADERS),
        timestampType=pa.array([1, 1], pa.int32()),
    )
    events, quarantine = decode_batch(batch, "user-actions", INGESTED_AT)
    assert events.to_pylist() == [
        {
            "event_datetime": datetime(2023, 10, 24, 4, 30, tzinfo=UTC),
            "event_date": date(2023, 10, 24),
            "event_name": "view",
            "user_id": "user_1",
            "platform": "web",
            "product_name": "Wireless Mouse",
            "sku": "SKU-1001",
            "unknown_fields": '{"a":1}',
            "kafka_topic": "user-actions",
            "kafka_partition": 2,
            "kafka_offset": 100,
            "kafka_timestamp": KAFKA_TIMESTAMP,
            "ingested_at": INGESTED_AT,
            "replayed_at": None,
            **NOT_OF_A_FILE,
        }
    ]
    assert quarantine.to_pylist() == [
        {
            "reason": "not_utf8",
            "message": "byte 0 is not part of valid UTF-8",
            "field": None,
            "raw": b"\xff",
            "kafka_topic": "user-actions",
            "kafka_partition": 2,
            "kafka_offset": 101,
            "kafka_timestamp": KAFKA_TIMESTAMP,
            "kafka_key": b"k2",
            "kafka_headers": HEADERS,
            "rule_version": 1,
            "ingested_at": INGESTED_AT,
            "ingested_date": date(2023, 10, 24),
            **NOT_OF_A_FILE,
        }
    ]


def test_records_of_a_file_become_rows_by_the_same_rules() -> None:
    version = FileVersion("s3://user-events/a.csv", "000012-etag", KAFKA_TIMESTAMP)
    batch = pa.record_batch(
        {
            "line": pa.array([2, 3, 4, 7], pa.int64()),
            "raw": pa.array([b"good", b"late", b"bad", b"quote"], pa.binary()),
            "value": pa.array(
                [value("2023-10-23T00:00:00Z"), value("2024-01-01T00:00:00Z"), value("x", user=""), None]
            ),
            "reason": pa.array([None, None, None, "bad_quoting"], pa.string()),
            "problem": pa.array([None, None, None, "no end"], pa.string()),
        }
    )
    events, quarantine = decode_records(batch, version, INGESTED_AT)
    of_file = {
        "source": "csv",
        "file": "s3://user-events/a.csv",
        "file_version": "000012-etag",
        "file_modified_at": KAFKA_TIMESTAMP,
        "ingested_at": INGESTED_AT,
        "kafka_topic": None,
        "kafka_partition": None,
        "kafka_offset": None,
        "kafka_timestamp": None,
    }
    (event,) = events.to_pylist()
    assert event == event | of_file | {"file_line": 2, "user_id": "user_1", "replayed_at": None}
    late, bad, quote = quarantine.to_pylist()
    for row, line, raw, reason, field in [
        (late, 3, b"late", "implausible_timestamp", "timestamp"),
        (bad, 4, b"bad", "empty_field", "user_id"),
        (quote, 7, b"quote", "bad_quoting", None),
    ]:
        told = {"file_line": line, "raw": raw, "reason": reason, "field": field, "rule_version": 1}
        assert row == row | of_file | told | {"ingested_date": date(2023, 10, 24), "kafka_headers": None}
    assert late["message"].endswith("is more than 1 day after the file's time")
    assert quote["message"] == "no end"
    assert (events.schema, quarantine.schema) == (EVENTS_SCHEMA, QUARANTINE_SCHEMA)


@pytest.mark.parametrize(
    "values",
    [[], [None], [b""], [value("2023-10-23T00:00:00Z")], [None, value("2023-10-23T00:00:00Z"), b"{}"]],
    ids=["no rows", "a tombstone", "a blank", "a good one", "mixed"],
)
def test_both_tables_have_the_contract_columns_and_each_row_is_in_one(values: list[bytes | None]) -> None:
    events, quarantine = decode_batch(kafka_rows(values), "user-actions", INGESTED_AT)
    assert events.schema == EVENTS_SCHEMA
    assert quarantine.schema == QUARANTINE_SCHEMA
    offsets = events["kafka_offset"].to_pylist() + quarantine["kafka_offset"].to_pylist()
    assert sorted(offsets) == list(range(100, 100 + len(values)))
    events.validate(full=True)
    quarantine.validate(full=True)


def test_a_slice_of_a_batch_gives_its_own_rows() -> None:
    batch = kafka_rows([b"x", value("2023-10-23T00:00:00Z", user="user_7"), None, b"y"]).slice(1, 2)
    events, quarantine = decode_batch(batch, "user-actions", INGESTED_AT)
    assert events["kafka_offset"].to_pylist() == [101]
    assert events["user_id"].to_pylist() == ["user_7"]
    assert quarantine["kafka_offset"].to_pylist() == [102]
    assert quarantine["raw"].to_pylist() == [None]


def test_dates_are_utc_at_both_ends_of_the_day() -> None:
    stamps = [
        "2023-10-22T23:59:59.999999Z",
        "2023-10-23T00:00:00Z",
        "2023-10-23T23:59:59.999999Z",
        "2023-10-24T00:00:00Z",
    ]
    events, _ = decode_batch(kafka_rows([value(stamp) for stamp in stamps]), "user-actions", INGESTED_AT)
    assert [day.day for day in events["event_date"].to_pylist()] == [22, 23, 23, 24]


def test_splitting_gives_one_table_a_date() -> None:
    values = [value(f"2023-10-{day}T10:00:00Z") for day in (23, 22, 23, 21)]
    events, _ = decode_batch(kafka_rows(values), "user-actions", INGESTED_AT)
    parts = [(day, part["kafka_offset"].to_pylist()) for day, part in split_by_date(events.sort_by("event_date"))]
    assert parts == [(date(2023, 10, 21), [103]), (date(2023, 10, 22), [101]), (date(2023, 10, 23), [100, 102])]
    assert list(split_by_date(events.slice(0, 0))) == []
    with pytest.raises(ValueError, match="sort the table"):
        list(split_by_date(events))


@pytest.mark.parametrize("was_on", [True, False])
def test_the_garbage_collector_is_left_as_it_was(was_on: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if was_on else gc.disable)()
        decode_batch(kafka_rows([b"x"]), "user-actions", INGESTED_AT)
        assert gc.isenabled() == was_on
    finally:
        (gc.enable if before else gc.disable)()


def test_rows_are_sorted_by_each_column_in_turn_and_equal_ones_keep_their_order() -> None:
    day, name, number = pa.date32(), ["b", "a", "b", "a", "é", "Z"], [1, 2, 1, 2, 3, 3]
    table = pa.table(
        {"day": pa.array([2, 2, 1, 2, 1, 1], day), "name": name, "number": number, "place": [0, 1, 2, 3, 4, 5]}
    )
    # By bytes: capital letters before small ones, and what is beyond ASCII last.
    assert sort_rows(table, ("day", "name"))["place"].to_pylist() == [5, 2, 4, 1, 3, 0]
    assert sort_rows(table, ("number",))["place"].to_pylist() == [0, 2, 1, 3, 4, 5]
    assert sort_rows(table.slice(0, 0), ("day", "name")).num_rows == 0


def test_numbers_too_far_apart_to_be_ranked_together_are_sorted_all_the_same() -> None:
    table = pa.table({"a": [2**62, -(2**62), 0], "b": [2**62, 0, -(2**62)]})
    assert sort_rows(table, ("a", "b"))["a"].to_pylist() == [-(2**62), 0, 2**62]
    assert sort_rows(table, ("a",))["a"].to_pylist() == [-(2**62), 0, 2**62]
    named = table.append_column("name", pa.array(["b", "a", "b"]))
    assert sort_rows(named, ("name", "a", "b"))["a"].to_pylist() == [-(2**62), 0, 2**62]
