"""What an archive is made of: names, manifests, the hash of content, and which dates are due."""

from datetime import UTC, date, datetime, timedelta, timezone
from hashlib import sha256
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.archive_parts import (
    ArchivedFile,
    ContentHash,
    Due,
    Manifest,
    PartName,
    SourceFile,
    first_kept,
    plan,
)
from lakehouse.tables import MICROS, USER_ACTIONS, USER_ACTIONS_ARCHIVE

DAY = date(2026, 1, 31)
RUN_ID = "1f0c" * 8
NAME = PartName(12, datetime(2026, 11, 22, 1, 33, 40, tzinfo=UTC), RUN_ID)
MANIFEST = Manifest(
    table="events.user_actions",
    date=DAY,
    part=str(NAME),
    archived_at=NAME.archived_at,
    snapshot_id=8_123_456_789_012_345_678,
    rows=3,
    content_sha256="ab" * 32,
    columns=(("event_date", "date32[day]"), ("user_id", "string")),
    files=(ArchivedFile("s3://archive/a.parquet", 1, 10, "cd" * 32), ArchivedFile("s3://archive/b.parquet", 2, 20, "")),
    taken_from=(SourceFile("s3://warehouse/x.parquet"), SourceFile("s3://warehouse/y.parquet", ("s3://warehouse/d",))),
)

Row = tuple[str | None, str | None, int | None]

texts = st.one_of(st.none(), st.text(alphabet="a~\x1f\x00é1", max_size=4))
tables = st.lists(st.tuples(texts, texts, st.one_of(st.none(), st.integers(-3, 3))), max_size=8)


def hashed(*pieces: pa.RecordBatch, columns: list[str] | None = None) -> str:
    content = ContentHash(columns or pieces[0].schema.names)
    for piece in pieces:
        content.add(piece)
    return content.hexdigest()


def batch(rows: list[Row]) -> pa.RecordBatch:
    first, second, number = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.record_batch(
        {
            "a": pa.array(first, pa.string()),
            "b": pa.array(second, pa.string()),
            "n": pa.array(number, pa.int64()),
        }
    )


# Names and manifests


def test_a_name_is_found_again_in_a_path() -> None:
    assert str(NAME) == f"part-000012-20261122T013340Z-{RUN_ID}"
    assert PartName.of(f"s3://archive/events/t/data/event_date=2026-01-31/{NAME}/{'0' * 32}.parquet") == NAME
    assert PartName.of("s3://warehouse/events/user_actions/data/event_date=2026-01-31/part-1.parquet") is None


def test_a_number_may_outgrow_its_digits() -> None:
    name = PartName(1_234_567, NAME.archived_at, RUN_ID)
    assert PartName.of(str(name)) == name


def test_a_name_tells_the_time_in_utc() -> None:
    east = NAME.archived_at.astimezone(timezone(timedelta(hours=2)))
    assert str(PartName(12, east, RUN_ID)) == str(NAME)


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    assert MANIFEST.name == NAME
    assert MANIFEST.size_bytes == 30


@pytest.mark.parametrize(
    "text",
    [
        MANIFEST.to_json()[:-20],
        MANIFEST.to_json().replace(b'"format": 1', b'"format": 2'),
        MANIFEST.to_json().replace(b'"rows": 3', b'"lines": 3'),
        b"[]",
        b"",
    ],
    ids=["cut-off", "newer", "lacking", "no-object", "empty"],
)
def test_what_is_no_manifest_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has a message of its own
        Manifest.from_json(text)


# The hash of content


def test_the_hash_of_a_row_is_that_of_its_documented_text() -> None:
    rows = pa.record_batch(
        {
            "text": pa.array(["é1", None], pa.string()),
            "at": pa.array([datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), None], MICROS),
            "day": pa.array([date(1970, 1, 3), None], pa.date32()),
            "n": pa.array([-7, None], pa.int32()),
            "yes": pa.array([True, None], pa.bool_()),
            "one": pa.array([1.0, None], pa.float64()),  # whose bits are 0x3FF0000000000000
        }
    )
    first = b"\x1f".join([b"3", "é1".encode(), b"1000000", b"2", b"-7", b"true", b"4607182418800017408"])
    second = b"\x1f".join([b"~"] * 7)
    total = sum(int.from_bytes(sha256(text).digest(), "big") for text in (first, second))
    assert hashed(rows) == f"{total % 2**256:064x}"


def test_no_rows_have_a_hash_of_zeros() -> None:
    assert hashed(batch([])) == "0" * 64


@given(tables, st.randoms(use_true_random=False), st.integers(0, 8))
def test_neither_the_order_of_rows_nor_their_files_change_the_hash(rows: list[Row], random: Random, cut: int) -> None:
    other = list(rows)
    random.shuffle(other)
    one, first, second = ContentHash("abn"), ContentHash("abn"), ContentHash("abn")
    one.add(batch(rows))
    first.add(batch(other[:cut]))
    second.add(batch(other[cut:]))
    first.include(second)
    assert (first.hexdigest(), first.rows) == (one.hexdigest(), one.rows)


@given(tables, tables)
def test_other_rows_have_another_hash(rows: list[Row], others: list[Row]) -> None:
    is_same = sorted(rows, key=repr) == sorted(others, key=repr)
    assert (hashed(batch(rows)) == hashed(batch(others))) == is_same


def test_a_row_that_is_there_twice_counts_twice() -> None:
    one = batch([("a", "b", 1)])
    assert len({hashed(one), hashed(one, one), hashed(one, one, one)}) == 3


def test_how_a_type_is_laid_out_does_not_matter() -> None:
    plain = pa.record_batch({"a": pa.array(["x", None, "x"], pa.string())})
    large = pa.record_batch({"a": pa.array(["x", None, "x"], pa.large_string())})
    coded = pa.record_batch({"a": pa.array(["x", None, "x"]).dictionary_encode()})
    assert hashed(plain) == hashed(large) == hashed(coded)


def test_further_columns_and_their_order_do_not_matter() -> None:
    rows = batch([("a", "b", 1), (None, "", 2)])
    assert hashed(rows, columns=["a", "n"]) == hashed(rows.select(["n", "b", "a"]), columns=["a", "n"])


# What is due


def test_policy_archives_dates_of_its_age() -> None:
    today = date(2026, 3, 1)
    assert first_kept(today, 30, None) == date(2026, 1, 30)
    assert first_kept(today, None, None) is None


def test_a_named_date_stands_in_for_the_policy_and_never_takes_today() -> None:
    today = date(2026, 3, 1)
    assert first_kept(today, None, date(2026, 2, 1)) == date(2026, 2, 1)
    assert first_kept(today, 30, date(2026, 2, 1)) == date(2026, 2, 1)
    assert first_kept(today, 30, date(2027, 1, 1)) == today


def test_the_oldest_date_goes_first_and_a_held_one_waits() -> None:
    first, second, third, kept = (Due(date(2026, 1, day), 1, 1, 1) for day in (1, 2, 3, 4))
    held = {second.date: date(2026, 3, 2), third.date: date(2026, 3, 1)}
    due = plan([kept, third, second, first], kept.date, held, date(2026, 3, 1))
    assert due == (first, third)


def test_the_archive_has_the_columns_and_the_layout_of_the_live_table() -> None:
    assert USER_ACTIONS_ARCHIVE.columns == USER_ACTIONS.columns
    assert USER_ACTIONS_ARCHIVE.partition_by == USER_ACTIONS.partition_by
    assert (USER_ACTIONS.bucket, USER_ACTIONS_ARCHIVE.bucket) == ("warehouse", "archive")
