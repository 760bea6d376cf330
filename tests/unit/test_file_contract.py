"""Which notifications of files are accepted, and why the others are not."""

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.events import decode_object
from lakehouse.file_contract import DATASETS, FIELDS, LINE_COLUMNS, FileReason, Notification, Refusal, decode

ARRIVED = datetime(2023, 10, 24, 6, 0, tzinfo=UTC)
SHA256 = "0123456789abcdef" * 4
PLAIN: dict[str, Any] = {
    "bucket": "file-drop",
    "key": "sales/2023-10-23/web.csv",
    "version_id": "3sL4kqtJlcpXroDTDmJ",
    "etag": "d41d8cd98f00b204e9800998ecf8427e",
    "size_bytes": 1234,
    "sha256": SHA256,
    "format": "csv",
    "dataset": "sales",
    "event_date": "2023-10-23",
}


def judged(raw: bytes | None) -> Notification | Refusal:
    return decode(raw, ARRIVED, "file-drop")


def said(without: tuple[str, ...] = (), **changes: Any) -> Notification | Refusal:
    return judged(json.dumps({k: v for k, v in (PLAIN | changes).items() if k not in without}).encode())


def test_a_notification_says_which_version_of_which_object_holds_what() -> None:
    assert said() == Notification(
        bucket="file-drop",
        key="sales/2023-10-23/web.csv",
        version_id="3sL4kqtJlcpXroDTDmJ",
        etag="d41d8cd98f00b204e9800998ecf8427e",
        size_bytes=1234,
        sha256=SHA256,
        format="csv",
        dataset="sales",
        event_date=date(2023, 10, 23),
    )


@pytest.mark.parametrize(
    ("changes", "version"),
    [
        ({}, "3sL4kqtJlcpXroDTDmJ"),
        ({"etag": None}, "3sL4kqtJlcpXroDTDmJ"),
        ({"version_id": None}, "d41d8cd98f00b204e9800998ecf8427e"),
        ({"version_id": None, "etag": '"quoted-2"'}, "quoted-2"),
        # S3 gives this id to all that was written while a bucket kept no versions.
        ({"version_id": "null"}, "d41d8cd98f00b204e9800998ecf8427e"),
    ],
)
def test_a_version_goes_by_its_id_and_else_by_its_etag(changes: dict[str, Any], version: str) -> None:
    notification = said(**changes)
    assert isinstance(notification, Notification)
    assert notification.version == version


def test_unknown_fields_are_passed_over_and_a_checksum_is_compared_in_small_letters() -> None:
    assert said(sha256=SHA256.upper(), sent_by="till 7", more={"deep": [1]}) == said()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (None, "tombstone"),
        (b" ", "blank"),
        (b"\xff", "not_utf8"),
        (b"not json", "not_json"),
        (b"[1]", "not_an_object"),
        (json.dumps(PLAIN).encode() + b"{}", "trailing_data"),
        (b'{"bucket": "a", "bucket": "b"}', "duplicate_key"),
        (b'{"size_bytes": NaN}', "invalid_number"),
    ],
)
def test_what_is_not_strict_json_is_refused_as_an_event_is(raw: bytes | None, reason: str) -> None:
    refusal = judged(raw)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason


@pytest.mark.parametrize("field", [field.name for field in FIELDS if field.required])
def test_a_required_field_must_be_there_and_not_null(field: str) -> None:
    assert said(without=(field,)) == Refusal("missing_field", "the field is required", field)
    assert said(**{field: None}) == Refusal("null_field", "the field is null", field)


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"version_id": None, "etag": None}, "missing_field", "etag"),
        ({"bucket": 7}, "wrong_type", "bucket"),
        ({"size_bytes": "1234"}, "wrong_type", "size_bytes"),
        ({"size_bytes": 1234.0}, "wrong_type", "size_bytes"),
        ({"size_bytes": True}, "wrong_type", "size_bytes"),
        ({"key": ""}, "empty_field", "key"),
        ({"key": " "}, "empty_field", "key"),
        ({"key": "k" * 1025}, "too_long", "key"),
        ({"key": "ü" * 513}, "too_long", "key"),  # S3 counts bytes
        ({"key": "a\nb"}, "control_character", "key"),
        ({"etag": "ü"}, "invalid_value", "etag"),
        ({"size_bytes": -1}, "invalid_value", "size_bytes"),
        ({"size_bytes": 6 << 40}, "invalid_value", "size_bytes"),
        ({"size_bytes": 10**300}, "invalid_value", "size_bytes"),
        ({"sha256": "x" * 64}, "invalid_value", "sha256"),
        ({"sha256": "ab"}, "invalid_value", "sha256"),
        ({"format": "xlsx"}, "invalid_value", "format"),
        ({"event_date": "2023-02-30"}, "invalid_value", "event_date"),
        ({"event_date": "20231023"}, "invalid_value", "event_date"),
        ({"event_date": "2023-W43-1"}, "invalid_value", "event_date"),
        ({"event_date": "2023-10-26"}, "invalid_value", "event_date"),  # two days after Kafka's time
        ({"event_date": "2013-10-22"}, "invalid_value", "event_date"),  # over ten years before
        ({"bucket": "warehouse"}, "foreign_bucket", "bucket"),
        ({"dataset": "orders"}, "unknown_dataset", "dataset"),
    ],
)
def test_a_value_that_can_not_be_is_refused_with_its_field(changes: dict[str, Any], reason: str, field: str) -> None:
    refusal = said(**changes)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.field) == (reason, field)


@pytest.mark.parametrize("day", ["2023-10-25", "2013-10-24"])
def test_an_event_date_at_the_edge_of_what_is_plausible_is_accepted(day: str) -> None:
    assert isinstance(said(event_date=day), Notification)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_comes_gets_a_verdict(raw: bytes) -> None:
    assert isinstance(judged(raw), Refusal)


@given(
    st.dictionaries(
        st.sampled_from([field.name for field in FIELDS]),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    )
)
def test_whatever_a_field_holds_there_is_a_verdict(changes: dict[str, Any]) -> None:
    verdict = said(**changes)
    assert isinstance(verdict, Refusal | Notification)
    later = decode(json.dumps(PLAIN | changes).encode(), ARRIVED + timedelta(hours=1), "file-drop")
    assert later == verdict  # the same day, the same verdict


def test_numbers_of_an_object_come_as_numbers() -> None:
    assert decode_object(b'{"a": 12, "b": -3, "c": 1.5, "d": 1e2, "e": "1"}') == {
        "a": 12,
        "b": -3,
        "c": 1.5,
        "d": 100.0,
        "e": "1",
    }


def test_every_dataset_has_what_the_aggregates_are_made_of_and_every_reason_says_what_it_means() -> None:
    for name, dataset in DATASETS.items():
        assert dataset.name == name
        assert dataset.columns[1:] == LINE_COLUMNS
        assert dataset.moment.kind == "moment"
        assert dataset.doc
        assert all(column.doc for column in dataset.columns)
    assert all(reason.doc.endswith(".") for reason in FileReason)
