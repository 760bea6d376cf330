"""CSV files as bytes: which records they hold, what is set aside, and that a fault spoils as little as it can."""

import csv
import io
import itertools
import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.csv_lines import (
    COLUMNS,
    CsvReason,
    Header,
    Problem,
    Record,
    Records,
    fields_of,
    header_of,
    misfit,
    read_header,
)
from lakehouse.events import MAX_MESSAGE_BYTES, Event, Reason, decode
from lakehouse.settings import PROJECT_ROOT

HEADER = b"timestamp,event_name,platform,user_id,product_name,sku"
ROW = b"2023-10-23T12:34:56Z,view,web,user_12345,Wireless Mouse,SKU-1001"
NOON = 1_698_062_400_000_000


def read(*chunks: bytes) -> list[Record]:
    return list(Records(chunks))


def fields(content: bytes) -> list[list[str] | None]:
    return [record.fields for record in read(content)]


def reasons(content: bytes) -> list[tuple[int, str | None]]:
    return [(record.line, record.problem and str(record.problem.reason)) for record in read(content)]


def header(line: bytes = HEADER) -> Header:
    found = read_header(read(line)[0])
    assert isinstance(found, Header)
    return found


def refusal(line: bytes) -> Problem:
    found = read_header(read(line)[0])
    assert isinstance(found, Problem)
    return found


def test_records_are_lines_cut_at_commas() -> None:
    assert read(b"a,b\n1,2\n,\n") == [
        Record(1, b"a,b", ["a", "b"]),
        Record(2, b"1,2", ["1", "2"]),
        Record(3, b",", ["", ""]),
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_a_byte_order_mark_and_a_missing_last_line_end_change_nothing(
    end: bytes, mark: bytes, last: bool
) -> None:
    content = mark + end.join([b"a,b", b'1,"2"']) + (end if last else b"")
    assert read(content) == [Record(1, b"a,b", ["a", "b"]), Record(2, b'1,"2"', ["1", "2"])]


def test_a_carriage_return_alone_ends_no_line() -> None:
    assert fields(b"a\rb,c\n1\r") == [["a\rb", "c"], ["1\r"]]


def test_empty_lines_are_no_records_and_are_counted() -> None:
    records = Records([b"\n\na\n\r\nb\n\n"])
    assert [(record.line, record.fields) for record in records] == [(3, ["a"]), (5, ["b"])]
    assert (records.lines, records.blank_lines) == (6, 4)


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n\n"])
def test_a_file_without_anything_has_no_record(content: bytes) -> None:
    assert read(content) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'"a","b"', ["a", "b"]),
        (b'"a,b",c', ["a,b", "c"]),
        (b'"say ""hi""",c', ['say "hi"', "c"]),
        (b'""', [""]),
        (b'"",""', ["", ""]),
        (b'""""', ['"']),
        (b'a,""', ["a", ""]),
        (b'"a",', ["a", ""]),
    ],
)
def test_quotes_are_those_of_rfc_4180(line: bytes, expected: list[str]) -> None:
    assert fields(line) == [expected]


def test_a_quoted_field_keeps_its_line_ends_and_its_record_the_number_of_its_first_line() -> None:
    assert read(b'a\n"1\r\n\n2",x\nb\n') == [
        Record(1, b"a", ["a"]),
        Record(2, b'"1\r\n\n2",x', ["1\r\n\n2", "x"]),
        Record(5, b"b", ["b"]),
    ]


@pytest.mark.parametrize("line", [b'a"b,c', b'"a"b,c', b'a,"b" ,c', b' "a",b', b'"a""b"c'])
def test_a_quote_that_does_not_belong_sets_its_line_aside_alone(line: bytes) -> None:
    assert reasons(b"x,y\n" + line + b"\nz,z\n") == [(1, None), (2, "bad_quoting"), (3, None)]


def test_a_stray_quote_does_not_swallow_what_follows() -> None:
    content = b'a,"b\n1,2\n3,"4"\n5,6\n'
    assert reasons(content) == [(1, "bad_quoting"), (2, None), (3, None), (4, None)]
    assert fields(content)[1:] == [["1", "2"], ["3", "4"], ["5", "6"]]


def test_a_quote_that_is_never_closed_sets_only_its_line_aside() -> None:
    assert reasons(b'1,2\na,"b\n3,4\n') == [(1, None), (2, "bad_quoting"), (3, None)]
    lines = 2 * MAX_MESSAGE_BYTES // 64
    found = reasons(b'a,"b\n' + (b"1," + b"2" * 61 + b"\n") * lines)
    assert found[0] == (1, "bad_quoting")
    assert sum(reason is None for _, reason in found) == lines


@pytest.mark.parametrize(
    ("more", "opens", "closes"),
    [
        (b"", b't,view,web,u1,"Sofa,S1', b't,view,web,u4,TV 24",S4'),  # six fields
        (b"", b't,view,web,u1,"Sofa,S1', b't,view,web,u4,TV,S4"'),  # five
        (b"", b't,view,web,u1,Sofa,"S1', b't,"view",web,u4,TV,S4'),  # no record at all
        (b"", b't,"view,web,u1,Sofa,S1', b't,view",web,u4,TV,S4'),
        (b",note", b't,view,web,u1,"Sofa,S1,', b't,view,web,u4,TV 24",S4,'),
        (b",note", b't,view,web,u1,Sofa,S1,"nice', b't,view,web,u4,TV,S4,good",'),  # eight fields of seven
    ],
)
def test_lines_that_two_stray_quotes_join_are_each_judged_on_their_own(
    more: bytes, opens: bytes, closes: bytes
) -> None:
    between = [b"t,view,web,u2,Lamp,S2" + more[:1], b"t,view,web,u3,Vase,S3" + more[:1]]
    records = Records([b"\n".join([HEADER + more, opens, between[0], b"", between[1], closes, b""])])
    _, first, *good, last = records
    assert (first.line, first.raw) == (2, opens)
    assert first.problem is not None
    assert first.problem.reason is CsvReason.BAD_QUOTING
    assert good == [Record(3, between[0], fields(between[0])[0]), Record(5, between[1], fields(between[1])[0])]
    assert (last.line, last.raw) == (6, closes)
    assert (records.lines, records.blank_lines) == (6, 1)


def test_a_further_column_may_hold_lines_and_a_required_one_may_not() -> None:
    good, bad = b't,view,web,"u,1",Sofa,S1,"very\n\ngood"', b't,view,web,u2,"So\nfa",S1,"x\ny"'
    found = read(b"\n".join([HEADER + b",note", good, bad, b"t,view,web,u3,Vase,S3,"]))
    assert [(record.line, record.raw) for record in found[1:2]] == [(2, good)]
    assert found[1].fields == ["t", "view", "web", "u,1", "Sofa", "S1", "very\n\ngood"]
    reasons = [(record.line, record.problem and str(record.problem.reason)) for record in found[2:]]
    assert reasons == [(5, "bad_quoting"), (6, "bad_quoting"), (7, "bad_quoting"), (8, None)]
    assert found[2].problem is not None
    assert "product_name holds no line break" in found[2].problem.message


def test_a_line_that_is_not_utf8_is_set_aside_alone() -> None:
    records = read("ä,b\n".encode() + b"\xe4,b\n" + "ß,b\n".encode())
    assert [record.problem and record.problem.reason for record in records] == [None, Reason.NOT_UTF8, None]
    assert records[1].raw == b"\xe4,b"
    assert reasons(b'a,"b\n\xff",c\nd,e\n') == [(1, "bad_quoting"), (2, "not_utf8"), (3, None)]


def test_of_a_line_that_is_too_long_the_beginning_is_kept() -> None:
    (record, after) = read(b"x" * (3 * MAX_MESSAGE_BYTES), b"y\n", b"1,2\n")
    assert record.problem is not None
    assert record.problem.reason is Reason.TOO_LARGE
    assert f"{3 * MAX_MESSAGE_BYTES + 1:,} bytes" in record.problem.message
    assert record.raw == b"x" * MAX_MESSAGE_BYTES
    assert (after.line, after.fields) == (2, ["1", "2"])


def test_a_line_of_the_greatest_length_is_read() -> None:
    for end in (b"\n", b"\r\n", b""):
        (record,) = read(b"x" * MAX_MESSAGE_BYTES + end)
        assert record.problem is None
    (record,) = read(b"x" * (MAX_MESSAGE_BYTES + 1) + b"\r\n")
    assert record.problem is not None


def test_a_header_names_the_columns_in_any_order_and_may_name_more() -> None:
    line = b'sku,product_name,"color",user_id,platform,event_name,timestamp,price'
    found = header(line)
    assert found.required == (6, 5, 4, 3, 1, 0)
    assert found.more == ((2, "color"), (7, "price"))
    assert found.width == 8
    assert header_of(found.text) == found
    assert header(HEADER + b"," + b"x" * (8191 - len(HEADER))).width == 7  # as long as it may be


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"timestamp,event_name,platform,user_id,product_name", "no column sku"),
        (b"Timestamp,event_name,platform,user_id,product_name,sku", "no column timestamp"),
        (b" timestamp,event_name,platform,user_id,product_name,sku", "no column timestamp"),
        (b"timestamp;event_name;platform;user_id;product_name;sku", "no column timestamp"),
        (HEADER + b",sku", "'sku' is named twice"),
        (HEADER + b",", "no column may be called ''"),
        (HEADER + b",user_identifiers", "no column may be called 'user_identifiers'"),
        (HEADER + b',"note\n' + ROW + b'\n"', "no column may be called 'note\\n"),
        (ROW, "no column timestamp"),
        (b'"timestamp"x,event_name', "follows the closing quote"),
        (HEADER + b"," + b"x" * (8192 - len(HEADER)), "the first line is 8,193 bytes long, at most 8,192 are read"),
    ],
)
def test_a_wrong_header_is_told(line: bytes, told: str) -> None:
    found = refusal(line)
    assert found.reason is CsvReason.WRONG_HEADER
    assert told in found.message
    assert len(found.message) < 2000


def test_a_header_in_utf_16_is_no_utf_8() -> None:
    assert refusal("timestamp".encode("utf-16")).reason is Reason.NOT_UTF8


def test_a_record_is_the_message_that_its_fields_stand_for() -> None:
    assert json.loads(header().message(ROW.decode().split(","))) == {
        "timestamp": "2023-10-23T12:34:56Z",
        "event_name": "view",
        "user_identifiers": {"platform": "web", "id": "user_12345"},
        "product_information": {"name": "Wireless Mouse", "SKU": "SKU-1001"},
    }


def test_a_further_column_becomes_an_unknown_field_unless_it_is_empty() -> None:
    more = header(HEADER + b",color,price")
    found = decode(more.message([*ROW.decode().split(","), "", "5"]), NOON)
    assert isinstance(found, Event)
    assert found.unknown_fields == '{"price":"5"}'
    assert (found.user_id, found.sku, found.product_name) == ("user_12345", "SKU-1001", "Wireless Mouse")


@pytest.mark.parametrize("line", [ROW + b",x", ROW.rpartition(b",")[0]])
def test_a_record_has_as_many_fields_as_the_header(line: bytes) -> None:
    (found,) = read(line)
    problem = misfit(found.fields or [], header())
    assert problem is not None
    assert problem.reason is CsvReason.WRONG_COLUMNS
    assert misfit(ROW.decode().split(","), header()) is None


def test_a_kept_record_is_read_as_it_was_in_its_file() -> None:
    quoted = b'2023-10-23T12:34:56Z,view,web,user_1,"A, B",SKU-1,"very\ngood"'
    wanted = ["2023-10-23T12:34:56Z", "view", "web", "user_1", "A, B", "SKU-1", "very\ngood"]
    assert fields_of(quoted, header(HEADER + b",note")) == wanted
    joined = b'2023-10-23T12:34:56Z,view,web,"user\n1","A, B",SKU-1'
    for raw, reason in [
        (b"1,2", "wrong_columns"),
        (b'a"b', "bad_quoting"),
        (joined, "bad_quoting"),
        (quoted, "bad_quoting"),
        (b"\xff", "not_utf8"),
        (b"", None),
    ]:
        found = fields_of(raw, header())
        assert isinstance(found, Problem)
        assert reason in (None, str(found.reason))


def test_the_columns_are_all_fields_of_an_event() -> None:
    wanted = ["timestamp", "event_name", "user_identifiers.platform", "user_identifiers.id"]
    assert [rule.path for rule in COLUMNS.values()] == [*wanted, "product_information.name", "product_information.SKU"]


def test_every_reason_is_documented() -> None:
    page = (PROJECT_ROOT / "docs" / "csv-drop.md").read_text()
    assert [reason for reason in CsvReason if f"| `{reason}` |" not in page] == []


# A carriage return at the end of an unquoted field would be a part of its line's end.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\ufeff"), max_size=8)
TABLE = st.lists(st.lists(TEXT, min_size=1, max_size=4), max_size=6)


def cut(content: bytes, places: Iterable[int]) -> list[bytes]:
    edges = sorted({0, len(content), *(place % (len(content) + 1) for place in places)})
    return [content[start:end] for start, end in itertools.pairwise(edges)]


@given(TABLE, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.lists(st.integers(0, 200), max_size=5))
def test_what_pythons_csv_module_writes_is_read_as_it_was(
    table: list[list[str]], end: str, every: bool, places: list[int]
) -> None:
    written = io.StringIO()
    quoting = csv.QUOTE_ALL if every else csv.QUOTE_MINIMAL
    csv.writer(written, lineterminator=end, quoting=quoting).writerows(table)
    content = written.getvalue().encode()
    assert [record.fields for record in Records(cut(content, places))] == table


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_whatever_the_bytes_every_line_is_in_one_record_or_blank(content: bytes, places: list[int]) -> None:
    records = Records(cut(content, places))
    found = list(records)
    kept = content.removeprefix(b"\xef\xbb\xbf")
    lines = kept.split(b"\n")
    assert records.lines == len(lines) - (not lines[-1])
    covered = [number for each in found for number in range(each.line, each.line + each.raw.count(b"\n") + 1)]
    assert covered == sorted(set(covered))
    assert len(covered) + records.blank_lines == records.lines
    for each in found:
        assert each.raw in kept
        assert (each.fields is None) == (each.problem is not None)


@given(st.lists(st.sampled_from(['"', ",", "a", "\n", '""', "\r\n"]), max_size=24).map("".join))
def test_records_are_the_same_wherever_the_bytes_are_cut(text: str) -> None:
    content = text.encode()
    assert list(Records([content])) == list(Records([content[k : k + 1] for k in range(len(content))]))


PIECES = st.lists(st.sampled_from(['"', '""', ',"', '",', ",", "a", "t,view,web,u,P,S"]), max_size=6).map("".join)
PLACES = st.lists(st.integers(0, 400), max_size=5)


@given(st.lists(PIECES, max_size=12), st.sampled_from(["\n", "\r\n"]), PLACES)
def test_where_all_columns_are_required_each_line_is_one_record_whatever_its_quotes(
    lines: list[str], end: str, places: list[int]
) -> None:
    records = Records(cut(end.join([HEADER.decode(), *lines]).encode(), places))
    found = list(records)[1:]
    assert [record.line for record in found] == [number for number, line in enumerate(lines, 2) if line]
    for record in found:
        line = lines[record.line - 2]
        assert record.raw == line.encode()
        if '"' not in line:
            assert record.fields == line.split(",")
    assert records.lines == 1 + len(lines) - bool(lines and not lines[-1])


@given(st.lists(PIECES, max_size=12), PLACES)
def test_a_record_of_several_lines_has_its_line_breaks_in_further_columns_alone(
    lines: list[str], places: list[int]
) -> None:
    content = "\n".join([f"{HEADER.decode()},note", *lines]).encode()
    records = Records(cut(content, places))
    found = list(records)
    covered = [number for each in found for number in range(each.line, each.line + each.raw.count(b"\n") + 1)]
    assert covered == sorted(set(covered))
    assert len(covered) + records.blank_lines == records.lines
    for each in found:
        if b"\n" in each.raw:
            assert each.fields is not None
            assert (len(each.fields), [name for name in each.fields[:6] if "\n" in name]) == (7, [])
            assert read(HEADER + b",note\n" + each.raw)[1] == each._replace(line=2)  # as a replay reads it again


@given(st.lists(st.sampled_from(['"', ",", "a", "b", '""']), max_size=16).map("".join))
def test_a_line_that_is_refused_spoils_no_line_after_it(text: str) -> None:
    after = [["x", "y"], ["1", "2"]]
    found = [record.fields for record in Records([text.encode(), b"\nx,y\n1,2\n"])]
    if text.count('"') % 2 == 0:  # else a quoted field may rightly hold them
        assert found[-2:] == after
    else:
        assert found[-2:] == after or found[-1] is not None
