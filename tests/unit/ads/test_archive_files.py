"""The hash of archived rows, on the way out and on the way back."""

import io
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from lakehouse.ads import archive_files
from lakehouse.ads.archive_files import ContentDigest
from lakehouse.tables import MICROS

SCHEMA = pa.schema([("d", pa.date32()), ("s", pa.string()), ("t", MICROS), ("n", pa.int64())])
rows = st.tuples(
    st.one_of(st.none(), st.dates(date(2000, 1, 1), date(2099, 1, 1))),
    st.one_of(st.none(), st.text(max_size=5)),
    st.one_of(st.none(), st.datetimes(datetime(2000, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC))),  # noqa: DTZ001
    st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
)


def table(found: list[tuple[object, ...]]) -> pa.Table:
    columns = zip(*found, strict=True) if found else ((), (), (), ())
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)], SCHEMA)


def digest(*pieces: pa.Table) -> str:
    content = ContentDigest()
    for piece in pieces:
        content.add(piece)
    return content.hexdigest()


@given(st.lists(rows, max_size=12), st.integers(0, 4))
def test_a_file_gives_the_hash_of_what_was_written_whatever_lay_around_it(
    found: list[tuple[object, ...]], skipped: int
) -> None:
    whole = table(found)
    written = whole.slice(skipped)
    sink = io.BytesIO()
    parquet.write_table(written, sink, compression="zstd", store_schema=False)
    read = parquet.read_table(io.BytesIO(sink.getvalue())).cast(SCHEMA)
    assert digest(read) == digest(written)
    assert digest(pa.concat_tables([written.slice(0, 1), written.slice(1)])) == digest(written)


@given(st.lists(rows, max_size=4), st.lists(rows, max_size=4))
def test_other_rows_give_another_hash(one: list[tuple[object, ...]], other: list[tuple[object, ...]]) -> None:
    assert (digest(table(one)) == digest(table(other))) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([(None, "", None, None)], [(None, None, None, None)]),
        ([(None, "ab", None, 0), (None, "c", None, 0)], [(None, "a", None, 0), (None, "bc", None, 0)]),
        ([(None, "a", None, 0)], [(None, "a", None, None)]),
        ([(None, "a", None, 1), (None, "b", None, 2)], [(None, "b", None, 2), (None, "a", None, 1)]),
    ],
)
def test_what_looks_alike_differs(one: list[tuple[object, ...]], other: list[tuple[object, ...]]) -> None:
    assert digest(table(one)) != digest(table(other))


@given(st.lists(st.integers(0, 7), max_size=8))
def test_a_stream_is_cut_into_pieces_of_one_size(sizes: list[int]) -> None:
    limit, archive_files.ROWS_PER_GROUP = archive_files.ROWS_PER_GROUP, 3
    try:
        schema = pa.schema([("n", pa.int64())])
        batches = [pa.record_batch({"n": pa.array(range(size), pa.int64())}) for size in sizes]
        pieces = list(archive_files._pieces(iter(batches), schema))
    finally:
        archive_files.ROWS_PER_GROUP = limit
    total = sum(sizes)
    assert [piece.num_rows for piece in pieces] == [3] * (total // 3) + ([total % 3] if total % 3 else [])
    assert [n for piece in pieces for n in piece["n"].to_pylist()] == [n for size in sizes for n in range(size)]
