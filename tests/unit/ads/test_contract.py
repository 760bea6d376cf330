"""What a record of the ad API must hold, and why one is set aside."""

import json
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.ads.contract import COLUMNS, SCHEMA, Reason, Rejection, decode, decode_lines
from lakehouse.ads.sample import encode

GOOD: dict[str, Any] = {
    "impression_id": "i-1",
    "campaign": "spring",
    "ad": "spring-1",
    "sku": "SKU-1001",
    "user_id": "user_1",
    "shown_at": "2023-10-23T23:59:59.999999Z",
    "clicked_at": "2023-10-24T02:00:05+02:00",
    "cost_micros": 12_345,
    "updated_at": "2023-10-24T00:10:00Z",
}


def test_a_good_record_becomes_an_impression_with_its_date_in_utc() -> None:
    good, bad = decode_lines([encode(GOOD), encode(GOOD | {"clicked_at": None, "more": {"a": 1}})], 1)
    assert bad.num_rows == 0
    assert good.schema == SCHEMA
    first, second = good.to_pylist()
    assert first == {
        "shown_date": date(2023, 10, 23),
        "impression_id": "i-1",
        "campaign": "spring",
        "ad": "spring-1",
        "sku": "SKU-1001",
        "user_id": "user_1",
        "shown_at": datetime(2023, 10, 23, 23, 59, 59, 999_999, tzinfo=UTC),
        "clicked_at": datetime(2023, 10, 24, 0, 0, 5, tzinfo=UTC),
        "cost_micros": 12_345,
        "updated_at": datetime(2023, 10, 24, 0, 10, tzinfo=UTC),
    }
    assert second == first | {"clicked_at": None}


def test_the_date_is_that_of_the_moment_in_utc_whatever_the_offset() -> None:
    good, _ = decode_lines(
        [
            encode(
                GOOD
                | {"shown_at": "2023-10-23T22:30:00-03:00", "clicked_at": None, "updated_at": "2023-10-25T00:00:00Z"}
            )
        ],
        1,
    )
    assert good["shown_date"].to_pylist() == [date(2023, 10, 24)]


@pytest.mark.parametrize(
    ("line", "reason", "field"),
    [
        (b"", Reason.NOT_JSON, None),
        (b"<html>busy</html>", Reason.NOT_JSON, None),
        (b"[]", Reason.NOT_JSON, None),
        (b"null", Reason.NOT_JSON, None),
        (b"\xff", Reason.NOT_JSON, None),
        (encode(GOOD)[:-9], Reason.NOT_JSON, None),
        (encode(GOOD) + b" {}", Reason.NOT_JSON, None),
        (encode({key: value for key, value in GOOD.items() if key != "sku"}), Reason.MISSING_FIELD, "sku"),
        (
            encode({key: value for key, value in GOOD.items() if key != "clicked_at"}),
            Reason.MISSING_FIELD,
            "clicked_at",
        ),
        (encode(GOOD | {"sku": None}), Reason.WRONG_TYPE, "sku"),
        (encode(GOOD | {"impression_id": 7}), Reason.WRONG_TYPE, "impression_id"),
        (encode(GOOD | {"cost_micros": "12"}), Reason.WRONG_TYPE, "cost_micros"),
        (encode(GOOD | {"cost_micros": 1.5}), Reason.WRONG_TYPE, "cost_micros"),
        (encode(GOOD | {"cost_micros": True}), Reason.WRONG_TYPE, "cost_micros"),
        (encode(GOOD | {"shown_at": "yesterday"}), Reason.WRONG_TYPE, "shown_at"),
        (encode(GOOD | {"shown_at": "2023-10-23T12:00:00"}), Reason.WRONG_TYPE, "shown_at"),
        (encode(GOOD | {"shown_at": 1_698_062_400}), Reason.WRONG_TYPE, "shown_at"),
        (encode(GOOD | {"cost_micros": -1}), Reason.OUT_OF_RANGE, "cost_micros"),
        (encode(GOOD | {"cost_micros": 2**60}), Reason.OUT_OF_RANGE, "cost_micros"),
        (encode(GOOD | {"cost_micros": 10**30}), Reason.OUT_OF_RANGE, "cost_micros"),
        (encode(GOOD | {"ad": ""}), Reason.OUT_OF_RANGE, "ad"),
        (encode(GOOD | {"ad": "a\nb"}), Reason.OUT_OF_RANGE, "ad"),
        (encode(GOOD | {"ad": "a" * 257}), Reason.OUT_OF_RANGE, "ad"),
        (encode(GOOD | {"shown_at": "1999-12-31T23:59:59Z"}), Reason.OUT_OF_RANGE, "shown_at"),
        (encode(GOOD | {"updated_at": "2100-01-01T00:00:00Z"}), Reason.OUT_OF_RANGE, "updated_at"),
        (encode(GOOD | {"clicked_at": "2023-10-23T00:00:00Z"}), Reason.WRONG_ORDER, "clicked_at"),
        (encode(GOOD | {"updated_at": "2023-10-23T00:00:00Z"}), Reason.WRONG_ORDER, "updated_at"),
    ],
)
def test_a_record_that_breaks_a_rule_is_set_aside_with_its_reason(
    line: bytes, reason: Reason, field: str | None
) -> None:
    verdict = decode(line)
    assert isinstance(verdict, Rejection)
    assert (verdict.reason, verdict.field) == (reason, field)


def test_a_refused_record_is_named_by_part_and_line_and_told_as_text() -> None:
    _, bad = decode_lines([encode(GOOD), b"\xff\x00bad", encode(GOOD)], 4)
    (row,) = bad.to_pylist()
    assert (row["part"], row["line"], row["reason"], row["field"]) == (4, 2, "not_json", None)
    assert row["record"] == "\\xff\\x00bad"


def test_what_is_wrong_is_told_without_what_the_record_held() -> None:
    verdict = decode(encode(GOOD | {"user_id": 4711, "cost_micros": 4711}))
    assert isinstance(verdict, Rejection)
    assert "4711" not in verdict.message


moments = st.datetimes(datetime(2000, 1, 2), datetime(2099, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001


@given(st.lists(st.tuples(moments, st.one_of(st.none(), moments)), max_size=20))
def test_times_are_kept_to_the_microsecond(times: list[tuple[datetime, datetime | None]]) -> None:
    records = [
        GOOD
        | {
            "shown_at": shown.isoformat(),
            "clicked_at": None if clicked is None else max(shown, clicked).isoformat(),
            "updated_at": shown.isoformat(),
        }
        for shown, clicked in times
    ]
    good, bad = decode_lines([encode(record) for record in records], 1)
    assert bad.num_rows == 0
    assert good["shown_at"].to_pylist() == [shown for shown, _ in times]
    assert good["clicked_at"].to_pylist() == [None if c is None else max(s, c) for s, c in times]
    assert good["shown_date"].to_pylist() == [shown.date() for shown, _ in times]


texts = st.one_of(st.just("spring"), st.text(max_size=5), st.integers(255, 257).map(lambda size: "ä" * size))
clocks = st.sampled_from(
    [
        *("2023-10-23T23:59:59.999999Z", "2023-10-24T02:00:05+02:00", "2023-10-23T12:00:00.5-11:30", None),
        *("2023-10-23 12:00:00Z", "2023-10-23T12:00Z", "2023-10-23t12:00:00z", "2023-10-23T12:00:00.1234567Z"),
        *("2023-10-23T12:00:00+0200", "2023-10-23T12:00:00+02", "2023-10-23T12:00:00-00:00", "2023-10-23T12:00:00"),
        *("2023-02-30T12:00:00Z", "2023-10-23T24:00:00Z", "2023-10-23T12:00:60Z", "0001-01-01T00:00:00+14:00"),
        *("1999-12-31T23:59:59.999999Z", "2000-01-01T00:00:00Z", "2099-12-31T23:59:59.999999Z", "2100-01-01T00:00:00Z"),
        *("2099-12-31T23:30:00-01:00", "2000-01-01T00:30:00+01:00", "2023-10-23T12:00:00+20:00", "1698062400", 5, ""),
        *("2023-10-23T12:00:00+23:59", "2023-10-23T12:00:00+24:00", "2023-10-23T12:00:00,5Z", "2023-10-23", " "),
    ]
)
costs = st.one_of(st.integers(-2, 3), st.sampled_from([2**53 - 1, 2**53, 2**63, 10**30, 1.0, 1.5, True, "1", None]))
fields = {"cost_micros": costs} | {
    name: clocks if name.endswith("_at") else texts for name in GOOD if name != "cost_micros"
}
changed = st.fixed_dictionaries({}, optional=fields | {"more": st.none()})
lines = st.one_of(
    changed.map(lambda change: encode(GOOD | change)),
    changed.map(lambda change: json.dumps(GOOD | change).encode() + b" \r"),
    changed.map(lambda change: encode(GOOD)[:-1] + b"," + encode(change)[1:]),  # names that come twice
    st.integers(1, 250).map(lambda length: encode(GOOD)[:length]),
    st.tuples(st.integers(0, 250), st.binary(max_size=2)).map(
        lambda at: encode(GOOD)[: at[0]] + at[1] + encode(GOOD)[at[0] :]
    ),
)


@given(st.lists(lines, max_size=8))
def test_lines_together_are_judged_as_each_of_them_is(lines: list[bytes]) -> None:
    good, bad = decode_lines(lines, 1)
    verdicts = [decode(line) for line in lines]
    assert [row | {"shown_date": None} for row in good.to_pylist()] == [
        dict(verdict) | {"shown_date": None} for verdict in verdicts if not isinstance(verdict, Rejection)
    ]
    assert [(row["line"], row["reason"], row["field"]) for row in bad.to_pylist()] == [
        (number, str(verdict.reason), verdict.field)
        for number, verdict in enumerate(verdicts, start=1)
        if isinstance(verdict, Rejection)
    ]


@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail(line: bytes) -> None:
    good, bad = decode_lines([line], 1)
    assert good.num_rows + bad.num_rows == 1
    assert tuple(good.column_names) == COLUMNS
    assert isinstance(good, pa.Table)
