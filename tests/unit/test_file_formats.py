"""What the lines of a file may be, in each format: rows in, the same rows out, or the first line at fault."""

import csv
import io
import json
import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from itertools import chain, cycle
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from lakehouse.file_contract import DATASETS, BadFileError, Format
from lakehouse.file_formats import BLOCK_BYTES, BYTES_AT_ONCE, read_lines

SALES = DATASETS["sales"]
NAMES = [column.name for column in SALES.columns]
DAY = date(2023, 10, 23)
NOON = datetime(2023, 10, 23, 12, tzinfo=UTC)
MANY = 32_768


class Line(NamedTuple):
    sold_at: Any = NOON
    user_id: Any = "user_1"
    sku: Any = "SKU-1001"
    product_name: Any = "Wireless Mouse"
    quantity: Any = 2
    amount: Any = Decimal("12.50")


def as_csv(lines: list[Line], names: list[str] = NAMES) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(names)
    for line in lines:
        moment = line.sold_at.isoformat() if isinstance(line.sold_at, datetime) else line.sold_at
        writer.writerow([moment, *line[1:]])
    return text.getvalue().encode()


def as_jsonl(lines: list[Line]) -> bytes:
    return b"".join(as_json(line).encode() + b"\n" for line in lines)


def as_json(line: Line, **more: Any) -> str:
    moment = line.sold_at.isoformat() if isinstance(line.sold_at, datetime) else line.sold_at
    members = line._asdict() | {"sold_at": moment} | more
    amount = members.pop("amount")
    # The amount as it was written: a float would lose its last digit.
    return json.dumps(members)[:-1] + f', "amount": {amount if isinstance(amount, Decimal) else json.dumps(amount)}}}'


def as_parquet(lines: list[Line], **columns: pa.Array) -> bytes:
    table = pa.Table.from_pylist([line._asdict() for line in lines], schema=SALES.schema)
    for name, column in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, column) if place >= 0 else table.append_column(name, column)
    stream = io.BytesIO()
    parquet.write_table(table, stream, row_group_size=1000)
    return stream.getvalue()


WRITERS = {"csv": as_csv, "jsonl": as_jsonl, "parquet": as_parquet}
FORMATS: list[Any] = list(WRITERS)


def read(content: bytes, form: Format) -> list[tuple[Any, ...]]:
    batches = list(read_lines(io.BytesIO(content), form, SALES, DAY))
    assert all(batch.schema == SALES.schema for batch in batches)
    return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


def refused(content: bytes, form: Format) -> tuple[str, str]:
    with pytest.raises(BadFileError) as caught:
        read(content, form)
    return caught.value.reason.value, caught.value.message


TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30).filter(
    lambda text: not text.isspace() and bool(text.strip())
)
LINES = st.builds(
    Line,
    st.datetimes(datetime(2023, 10, 23), datetime(2023, 10, 23, 23, 59, 59, 999999), timezones=st.just(UTC)),  # noqa: DTZ001
    TEXTS,
    TEXTS,
    TEXTS,
    st.integers(1, 1_000_000),
    st.decimals(0, 9_999_999_999, places=2),
)


@settings(max_examples=60)
@given(st.lists(LINES, max_size=20))
@pytest.mark.parametrize("form", FORMATS)
def test_what_was_written_is_read_to_the_last_digit_in_every_format(form: Any, lines: list[Line]) -> None:
    assert read(WRITERS[form](lines), form) == [tuple(line) for line in lines]


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_of_many_lines_comes_in_batches(form: Any) -> None:
    content = WRITERS[form]([Line(user_id=f"user_{n}") for n in range(MANY + 10)])
    batches = [batch.num_rows for batch in read_lines(io.BytesIO(content), form, SALES, DAY)]
    assert sum(batches) == MANY + 10
    assert len(batches) > 1


def written(table: pa.Table, **how: Any) -> bytes:
    stream = io.BytesIO()
    parquet.write_table(table, stream, store_schema=False, **how)
    return stream.getvalue()


LONG = "\N{MOUSE}" * 1024
LONG_LINES = pa.Table.from_pylist([Line(product_name=LONG)._asdict()] * 5000, schema=SALES.schema)


@pytest.mark.parametrize(
    ("form", "content", "line_bytes"),
    [
        ("jsonl", (as_json(Line()).encode()[:-1] + b" " * (BLOCK_BYTES // 4) + b"}\n") * 100, BLOCK_BYTES // 4),
        ("parquet", written(LONG_LINES, use_dictionary=False), len(LONG.encode())),
        ("parquet", written(LONG_LINES, use_dictionary=True), len(LONG.encode())),
    ],
    ids=["jsonl", "parquet", "parquet with a dictionary"],
)
def test_of_long_lines_a_batch_holds_fewer(form: Any, content: bytes, line_bytes: int) -> None:
    batches = [batch.num_rows for batch in read_lines(io.BytesIO(content), form, SALES, DAY)]
    assert max(batches) <= BYTES_AT_ONCE // line_bytes
    assert len(batches) > 1


def test_a_text_that_a_parquet_file_holds_once_is_not_in_memory_for_each_of_its_lines() -> None:
    many = 8000
    table = pa.Table.from_pylist([Line()._asdict()] * many, schema=SALES.schema)
    name = pa.DictionaryArray.from_arrays(pa.array([0] * many, pa.int32()), pa.array(["x" * (BLOCK_BYTES // 16)]))
    content = written(table.set_column(NAMES.index("product_name"), "product_name", name))
    before = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(before)
    pa.set_memory_pool(counting)
    try:
        told = refused(content, "parquet")
    finally:
        pa.set_memory_pool(before)
    assert told == ("bad_value", "line 1: product_name has more than 1,024 characters")
    assert 0 < counting.max_memory() < 6 * BYTES_AT_ONCE


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_without_lines_is_a_good_one(form: Any) -> None:
    assert read(WRITERS[form]([]), form) == []


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (Line(user_id=" "), "line 2: user_id is empty or only whitespace"),
        (Line(sku="x" * 129), "line 2: sku has more than 128 characters"),
        (Line(product_name="two\nlines"), "line 2: product_name holds a control character"),
        (Line(quantity=0), "line 2: quantity is not from 1 to 1,000,000"),
        (Line(quantity=1_000_001), "line 2: quantity is not from 1 to 1,000,000"),
        (Line(amount=Decimal("-0.01")), "line 2: amount is not from 0 to 9,999,999,999"),
        (Line(sold_at=NOON - timedelta(days=1)), "line 2: sold_at is not on 2023-10-23, UTC"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_that_the_dataset_does_not_allow_is_named_with_its_line(form: Any, line: Line, message: str) -> None:
    assert refused(WRITERS[form]([Line(), line, Line()]), form) == ("bad_value", message)


@pytest.mark.parametrize("form", FORMATS)
def test_the_number_of_a_line_counts_over_batches(form: Any) -> None:
    lines = [Line()] * (MANY + 5) + [Line(quantity=0)]
    assert refused(WRITERS[form](lines), form)[1].startswith(f"line {MANY + 6:,}:")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("moment", "accepted"),
    [
        ("2023-10-23T00:00:00Z", True),
        ("2023-10-23T23:59:59.999999Z", True),
        ("2023-10-24T01:59:59+02:00", True),  # still the 23rd in UTC
        ("2023-10-24T02:00:00+02:00", False),
        ("2023-10-22T20:00:00-04:00", True),
        ("2023-10-23T12:00:00", False),  # no offset
        ("2023-10-23 12:00:00Z", False),
        ("2023-02-30T12:00:00Z", False),
        ("2023-10-23T24:00:00Z", False),
        ("yesterday", False),
    ],
)
def test_a_moment_has_an_offset_and_its_utc_date_is_the_files(form: Any, moment: str, accepted: bool) -> None:
    content = WRITERS[form]([Line(sold_at=moment)])
    if accepted:
        assert read(content, form)[0][0] == datetime.fromisoformat(moment)
    else:
        assert refused(content, form)[0] == "bad_value"


@pytest.mark.parametrize("text", ["NaN", "1e3", "1.234", "12345678901", "1,5", "", " 1", "0x1", "Infinity"])
def test_an_amount_in_a_csv_file_is_digits_with_at_most_two_after_the_point(text: str) -> None:
    assert refused(as_csv([Line(amount=text)]), "csv")[0] == "bad_value"


@pytest.mark.parametrize("text", ["1.234", "1e400", "12345678901", '"1.50"', "null", "true", '"NaN"'])
def test_an_amount_in_a_json_line_is_a_number_that_fits(text: str) -> None:
    line = as_json(Line()).replace("12.50", text)
    assert refused(line.encode(), "jsonl")[0] == "bad_value"


def test_columns_stand_in_any_order() -> None:
    turned = NAMES[::-1]
    text = ",".join(turned) + "\n" + "12.50,2,Wireless Mouse,SKU-1001,user_1,2023-10-23T12:00:00Z\n"
    assert read(text.encode(), "csv") == [tuple(Line())]
    table = pa.Table.from_pylist([Line()._asdict()], schema=SALES.schema).select(turned)
    stream = io.BytesIO()
    parquet.write_table(table, stream)
    assert read(stream.getvalue(), "parquet") == [tuple(Line())]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["SOLD_AT", *NAMES[1:]], "columns missing sold_at; unknown SOLD_AT"),
        ([*NAMES[:-1], "user_id"], "columns missing amount; named twice user_id"),
    ],
)
def test_a_csv_file_has_exactly_the_columns_of_its_dataset(names: list[str], message: str) -> None:
    assert refused(as_csv([Line()], names), "csv") == ("wrong_columns", message)


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        (b"", "unreadable", "the file is empty, and a CSV file has a header"),
        (b"\xff" + as_csv([Line()]), "unreadable", "no CSV that can be read"),
        (
            as_csv([Line()]) + b"a,b\n",
            "unreadable",
            "row 3 of the CSV file, header included: expected 6 columns, got 2",
        ),
        (as_csv([Line(user_id="x" * (2 * BLOCK_BYTES))]), "unreadable", "a row is longer than 1,048,576 bytes"),
        (
            as_csv([Line()]).replace(b"user_1", b"\xff"),
            "unreadable",
            "row 2 of the CSV file, header included: invalid UTF-8",
        ),
        (
            as_csv([Line()]).replace(b",", b";"),
            "wrong_columns",
            f"columns missing {', '.join(NAMES[:5])}; unknown {';'.join(NAMES)}"[:400],
        ),
    ],
)
def test_what_is_no_csv_is_unreadable_and_none_of_its_values_is_told(content: bytes, reason: str, message: str) -> None:
    found, told = refused(content, "csv")
    assert found == reason
    assert told[:60] == message[:60]
    assert "user_1" not in told


def test_a_csv_file_may_have_a_byte_order_mark_quotes_empty_lines_and_other_line_ends() -> None:
    line = Line(product_name='Mouse, "big"')
    content = b"\xef\xbb\xbf" + as_csv([line]).replace(b"\r\n", b"\n").replace(b"user_1", b'"user_1"') + b"\n\n"
    assert read(content, "csv") == [tuple(line)]


def test_the_last_line_of_a_csv_file_needs_no_end_and_a_header_is_one() -> None:
    assert read(as_csv([Line()]).rstrip(), "csv") == [tuple(Line())]
    assert read(as_csv([]).rstrip(), "csv") == []
    assert refused(b"a,b", "csv")[0] == "wrong_columns"


@pytest.mark.parametrize("column", ["amount", "product_name"])
def test_a_csv_file_that_was_cut_off_within_quotes_holds_no_value_there(column: str) -> None:
    names = [*(name for name in NAMES if name != column), column]
    values = [Line()._asdict()[name] for name in names[1:-1]]
    cut = f'{",".join(names)}\n2023-10-23T12:00:00Z,{",".join(map(str, values))},"12'
    assert refused(cut.encode(), "csv")[0] == "bad_value"
    assert read(f'{cut}"'.encode(), "csv")


def as_quoted(lines: list[Line], quoting: Any, end: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=quoting, lineterminator=end)
    writer.writerow(NAMES)
    writer.writerows([line.sold_at.isoformat(), *line[1:]] for line in lines)
    return text.getvalue().encode()


class InPieces(io.BytesIO):
    """A stream that is cut into pieces of these sizes, over and over again, after a byte order mark's bytes."""

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        super().__init__(content)
        self.sizes = chain([3], cycle(sizes))

    def read(self, _: int | None = -1, /) -> bytes:
        return super().read(next(self.sizes))


PIECES = st.lists(st.integers(1, 60), min_size=1, max_size=20)
MARKED = st.text(st.sampled_from('",; 2é\N{MOUSE}'), min_size=1, max_size=12).filter(lambda text: bool(text.strip()))


@settings(max_examples=300)
@given(
    st.lists(st.tuples(MARKED, MARKED, MARKED).map(lambda texts: Line(NOON, *texts)), max_size=5),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    PIECES,
)
def test_what_a_csv_writer_quotes_is_read_wherever_its_bytes_are_cut(
    lines: list[Line], quoting: int, end: str, is_marked: bool, pieces: list[int]
) -> None:
    content = b"\xef\xbb\xbf" * is_marked + as_quoted(lines, quoting, end)
    batches = read_lines(InPieces(content, pieces), "csv", SALES, DAY)
    assert [tuple(row.values()) for batch in batches for row in batch.to_pylist()] == [tuple(line) for line in lines]


SAID_OF_QUOTES = "a value with a quote is not in quotes, or a quote in it is not doubled"
# Of RFC 4180: records of fields, the last of which need not end.
is_quoted_right = re.compile(r'(("([^"]|"")*"|[^",\r\n]*)[,\r\n])*("([^"]|"")*)?').fullmatch


@settings(max_examples=500)
@given(st.text(st.sampled_from('"""",,\r\nAé'), max_size=14), PIECES)
def test_quotes_that_the_rfc_does_not_allow_are_refused_and_no_others(text: str, pieces: list[int]) -> None:
    content = f"{','.join(NAMES)}\n{text}"
    told = ""
    try:
        list(read_lines(InPieces(content.encode(), pieces), "csv", SALES, DAY))
    except BadFileError as bad:
        told = bad.message
    assert told.endswith(SAID_OF_QUOTES) == (not is_quoted_right(f"{content}\n"))


@pytest.mark.parametrize(
    "text", ['"Sofa 24" wide"', '"24" TV"', '24" TV', 'TV 24"', '"A"-1', '"A-"1', '""A""', '""A', 'A""', ' "A"', '"A" ']
)
def test_a_csv_value_that_is_quoted_wrong_is_not_guessed_at(text: str) -> None:
    content = as_csv([Line(), Line(sku="MARK")]).replace(b"MARK", text.encode())
    told = f"line 3 of the CSV file, header included: {SAID_OF_QUOTES}"
    assert refused(content, "csv") == ("unreadable", told)


def test_the_line_of_a_wrong_quote_counts_over_blocks() -> None:
    content = as_csv([Line(product_name='Smart TV of 27"')] * MANY + [Line(sku="MARK")]).replace(b"MARK", b'"A"-1')
    assert len(content) > 2 * BLOCK_BYTES
    assert refused(content, "csv")[1].startswith(f"line {MANY + 2:,} of the CSV file")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "unreadable"),
        ("[]", "bad_value"),
        (as_json(Line()) + " x", "unreadable"),
        (as_json(Line()).replace("user_1", "\\ud800"), "unreadable"),
        (as_json(Line(), color="red"), "wrong_columns"),
        (as_json(Line()).replace('"quantity": 2, ', ""), "wrong_columns"),
        (as_json(Line()).replace('"quantity": 2', '"quantity": 2, "quantity": 3'), "wrong_columns"),
        (as_json(Line()).replace('"quantity": 2', '"quantity": 2.0'), "bad_value"),
        (as_json(Line()).replace('"quantity": 2', '"quantity": "2"'), "bad_value"),
        (as_json(Line()).replace('"quantity": 2', '"quantity": 99999999999999999999'), "bad_value"),
        (as_json(Line(user_id=None)), "bad_value"),
        (as_json(Line(user_id="x" * (2 * BLOCK_BYTES))), "unreadable"),
        ("\ufeff", "unreadable"),
    ],
)
def test_a_json_line_has_each_column_once_and_of_its_type(line: str, reason: str) -> None:
    found, message = (
        refused(b"\n" + as_jsonl([Line()]) + line.encode(errors="surrogatepass") + b"\n", "jsonl")
        if line != "\ufeff"
        else refused(line.encode() + as_jsonl([Line()]), "jsonl")
    )
    assert found == reason
    assert "user_1" not in message


def test_escaped_quotes_in_a_json_line_are_no_fault() -> None:
    line = Line(product_name='27" Monitor')
    assert read(as_jsonl([line]), "jsonl") == [tuple(line)]


def test_the_last_json_line_needs_no_end() -> None:
    assert len(read(as_jsonl([Line(), Line()])[:-1], "jsonl")) == 2


@pytest.mark.parametrize(
    "columns",
    [
        {"quantity": pa.array([2], pa.int16())},
        {"amount": pa.array([Decimal("12.5000")], pa.decimal128(20, 4))},
        {"sold_at": pa.array([NOON.astimezone(timezone(timedelta(hours=2)))], pa.timestamp("ms", "Europe/Berlin"))},
        {"product_name": pa.array(["Wireless Mouse"]).dictionary_encode()},
        {"user_id": pa.array(["user_1"], pa.large_string())},
    ],
    ids=lambda columns: next(iter(columns)),
)
def test_parquet_may_hold_a_value_in_another_type_that_loses_nothing(columns: dict[str, pa.Array]) -> None:
    assert read(as_parquet([Line()], **columns), "parquet") == [tuple(Line())]


def test_whole_numbers_are_amounts_too() -> None:
    assert read(as_parquet([Line()], amount=pa.array([12])), "parquet") == [tuple(Line(amount=Decimal("12.00")))]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"amount": pa.array([12.5])}, "wrong_columns"),  # no double is 12.10
        ({"quantity": pa.array(["2"])}, "wrong_columns"),
        ({"sold_at": pa.array([NOON.replace(tzinfo=None)])}, "wrong_columns"),
        ({"sold_at": pa.array(["2023-10-23T12:00:00Z"])}, "wrong_columns"),
        ({"color": pa.array(["red"])}, "wrong_columns"),
        ({"sku": pa.array([None], pa.string())}, "bad_value"),
        ({"amount": pa.array([Decimal("12.505")], pa.decimal128(20, 3))}, "bad_value"),
        (
            {"sold_at": pa.array([int(NOON.timestamp()) * 10**9 + 1]).cast(pa.timestamp("ns", "UTC"))},
            "bad_value",
        ),
    ],
)
def test_parquet_of_other_types_or_with_nulls_is_set_aside(columns: dict[str, pa.Array], reason: str) -> None:
    assert refused(as_parquet([Line()], **columns), "parquet")[0] == reason


@settings(max_examples=40)
@given(st.integers(0, 1000), st.binary(min_size=1, max_size=20))
def test_a_damaged_parquet_file_is_set_aside_or_read_and_nothing_else(place: int, damage: bytes) -> None:
    content = bytearray(as_parquet([Line()] * 50))
    place %= len(content)
    content[place : place + len(damage)] = damage
    with suppress(BadFileError):
        read(bytes(content), "parquet")


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_parquet_file_that_was_cut_off_is_unreadable(cut: int) -> None:
    assert refused(as_parquet([Line()])[:-cut], "parquet")[0] == "unreadable"


@settings(max_examples=60)
@given(st.sampled_from(FORMATS), st.binary(max_size=300))
def test_bytes_of_any_kind_get_a_verdict(form: Any, content: bytes) -> None:
    with suppress(BadFileError):
        read(content, form)
