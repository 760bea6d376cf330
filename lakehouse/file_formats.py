"""Read the lines of an announced file, as strictly as its dataset asks, a batch at a time.

Whatever the format, the same values come out of it: Arrow batches with the dataset's columns. A file is read as a
stream, CSV and JSON lines block by block and Parquet page by page, so neither its size nor the length of its lines is a
matter. The first line that the contract does not allow ends the reading.
"""

# pyright: reportAttributeAccessIssue=false
# (Arrow makes its compute functions when it is imported)

import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import IO, Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from lakehouse.file_contract import TYPES, BadFileError, Column, Dataset, FileReason, Format, Kind

BLOCK_BYTES: Final = 1 << 20
"""A line must fit into a block."""
LINES_AT_ONCE: Final = 8192
"""Of a Parquet file; fewer where they are long, so that a batch holds some `BYTES_AT_ONCE` at most."""
BYTES_AT_ONCE: Final = 16 << 20

Stream = IO[bytes] | io.RawIOBase

_RFC3339: Final = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})$"
_WRITTEN: Final[dict[Kind, str]] = {
    "moment": _RFC3339,
    "integer": r"^-?\d{1,18}$",
    "decimal": r"^-?\d{1,10}(\.\d{1,2})?$",
}
_MEANT: Final[dict[Kind, str]] = {
    "moment": "a moment that exists, as RFC 3339 with Z or an offset",
    "integer": "a whole number",
    "decimal": "a number with at most ten digits before and two after the point",
    "text": "text",
}
_JSON_TYPES: Final[dict[Kind, Any]] = {"moment": str, "text": str, "integer": int, "decimal": Decimal}
_tell_rows: Final = re.compile(r"Row #(\d+): (Expected \d+ columns, got \d+|.*invalid UTF8 data)").search


def read_lines(stream: Stream, form: Format, dataset: Dataset, event_date: date) -> Iterator[pa.RecordBatch]:
    """Read a file and hold each line to its dataset.

    Args:
        stream: the bytes; Parquet needs one that can seek, the others are read from front to back.
        form: how the lines are written.
        dataset: what they must hold.
        event_date: UTC date that every line must be of.

    Yields:
        Batches with the schema of the dataset, without nulls.

    Raises:
        BadFileError: the file is not what the contract asks; the message names the first line at fault, counted from 1
            without a header, and no value of it.
    """
    read = {"csv": _read_csv, "jsonl": _read_json_lines, "parquet": _read_parquet}[form]
    done = 0
    for batch in read(stream, dataset):
        _check_values(batch, dataset, event_date, done)
        done += batch.num_rows
        yield batch


def _read_csv(stream: Stream, dataset: Dataset) -> Iterator[pa.RecordBatch]:
    """RFC 4180 in UTF-8 with a header; a byte order mark and empty lines are passed over.

    Arrow takes any quoting, and makes one value of `"A"-1`, `"A-"1` and `A-1`: quotes are looked at before it.
    """
    names = [column.name for column in dataset.columns]
    done = 0
    try:
        with csv.open_csv(
            io.BufferedReader(_Ended(stream), BLOCK_BYTES),
            read_options=csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, null_values=[]
            ),
        ) as reader:
            _check_names(reader.schema.names, dataset)
            for batch in reader:
                arrays = [_from_text(batch.column(column.name), column, done) for column in dataset.columns]
                yield pa.record_batch(arrays, schema=dataset.schema)
                done += batch.num_rows
    except ValueError as error:  # Arrow's own, or of a header that is not UTF-8
        raise BadFileError(FileReason.UNREADABLE, _of_csv(str(error))) from None


class _Ended(io.RawIOBase):
    """A stream with a line break behind it.

    The last line needs none, but without it Arrow takes a header for nothing and an open quote for a whole value.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream, self._has_ended = stream, False
        self._see_quotes = _Quotes().see

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Some of the next bytes."""
        content = self._stream.read(len(buffer))
        if not content and not self._has_ended:
            content, self._has_ended = b"\n", True
        self._see_quotes(content or b"")
        buffer[: len(content or b"")] = content or b""
        return len(content or b"")


_QUOTE: Final = ord('"')
_BESIDE_QUOTES: Final = np.isin(np.arange(256), list(b'",\r\n'))
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class _Quotes:
    """Sees that the quotes of a CSV file are as RFC 4180 has them, with the bytes cut anywhere.

    Every second quote closes, if a doubled one is taken as one that closes and one that opens. So a quote that opens
    must follow a comma, a line end or a quote, and one that closes must be followed by one of them.
    """

    def __init__(self) -> None:
        self._last = b""  # the byte before the next ones
        self._is_quoted = False  # at that byte
        self._lines = 0

    def see(self, content: bytes) -> None:
        """Look at the next bytes; the first ones hold a byte order mark whole.

        Raises:
            BadFileError: a quote in them, or at the end of those before, is not as it must be.
        """
        held = self._last + content if self._last else b"\n" + content.removeprefix(_BYTE_ORDER_MARK)
        if b'"' in held:
            codes = np.frombuffer(held, np.uint8)
            quotes = np.flatnonzero(codes == _QUOTE)
            opening, closing = quotes[self._is_quoted :: 2], quotes[not self._is_quoted :: 2]
            opening, closing = opening[opening > 0], closing[closing < len(held) - 1]
            opening = opening[~_BESIDE_QUOTES[codes[opening - 1]]]
            closing = closing[~_BESIDE_QUOTES[codes[closing + 1]]]
            if wrong := [*opening[:1], *closing[:1]]:
                line = self._lines + held.count(b"\n", 0, min(wrong))
                told = "a value with a quote is not in quotes, or a quote in it is not doubled"
                raise BadFileError(FileReason.UNREADABLE, f"line {line:,} of the CSV file, header included: {told}")
            self._is_quoted ^= bool((len(quotes) - held.endswith(b'"')) % 2)
        self._lines += held.count(b"\n", 0, -1)
        self._last = held[-1:]


def _of_csv(told: str) -> str:
    """What Arrow said, without the values that it quotes."""
    if found := _tell_rows(told):
        what = "invalid UTF-8" if "UTF8" in found[2] else found[2][0].lower() + found[2][1:]
        return f"row {found[1]} of the CSV file, header included: {what}"
    if "straddling" in told:
        return f"a row is longer than {BLOCK_BYTES:,} bytes"
    return "the file is empty, and a CSV file has a header" if "Empty CSV" in told else "no CSV that can be read"


def _from_text(texts: pa.Array, column: Column, done: int) -> pa.Array:
    if column.kind == "text":
        return texts
    fits = pc.match_substring_regex(texts, _WRITTEN[column.kind])
    _refuse_first(pc.invert(fits), column, done, f"is not {_MEANT[column.kind]}")
    return _cast(texts, column, done)


def _cast(values: pa.Array, column: Column, done: int) -> pa.Array:
    kind = TYPES[column.kind]
    if pa.types.is_integer(values.type) and column.kind == "decimal":
        values = values.cast(pa.decimal128(21, 2))
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:
        for place in range(len(values)):
            try:
                values.slice(place, 1).cast(kind)
            except pa.ArrowInvalid:
                raise _bad(done + place, column, f"is not {_MEANT[column.kind]}") from None
        raise


def _read_json_lines(stream: Stream, dataset: Dataset) -> Iterator[pa.RecordBatch]:
    """One JSON object a line in UTF-8, numbers as numbers; lines of nothing but whitespace are passed over."""
    wire = msgspec.defstruct(
        "Line", [(c.name, _JSON_TYPES[c.kind]) for c in dataset.columns], forbid_unknown_fields=True, gc=False
    )
    decode = msgspec.json.Decoder(wire).decode
    strings = sum(column.kind in {"moment", "text"} for column in dataset.columns)
    # A line that was decoded has each name and each text once, so with exactly their quotes it has nothing else.
    quotes = 2 * (len(dataset.columns) + strings)
    done = 0
    for held in _blocks(stream):
        rows: list[Any] = []
        for place, line in enumerate(held):
            try:
                rows.append(decode(line))
            except msgspec.ValidationError as error:
                told = str(error)
                named = "field" in told and "Expected" not in told
                reason = FileReason.WRONG_COLUMNS if named else FileReason.BAD_VALUE
                raise BadFileError(reason, f"line {done + place + 1:,}: {told}") from None
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise BadFileError(FileReason.UNREADABLE, f"line {done + place + 1:,} is not JSON in UTF-8") from None
            if line.count(b'"') != quotes:
                _check_exactly(line, dataset, done + place)
        arrays = [_from_json([getattr(row, c.name) for row in rows], c, done) for c in dataset.columns]
        yield pa.record_batch(arrays, schema=dataset.schema)
        done += len(rows)


def _blocks(stream: Stream) -> Iterator[list[bytes]]:
    """The lines that end in each block, so that as many are held as fit into it."""
    rest = b""
    number = 0
    while block := stream.read(BLOCK_BYTES):
        *whole, rest = (rest + block).split(b"\n")
        if not number and whole and whole[0].startswith(b"\xef\xbb\xbf"):
            raise BadFileError(FileReason.UNREADABLE, "the file starts with a byte order mark, which JSON forbids")
        number += len(whole)
        if lines := [line for line in whole if line.strip()]:
            yield lines
        if len(rest) > BLOCK_BYTES:
            raise BadFileError(FileReason.UNREADABLE, f"line {number + 1:,} is longer than {BLOCK_BYTES:,} bytes")
    if rest.strip():
        yield [rest]


def _check_exactly(line: bytes, dataset: Dataset, number: int) -> None:
    """Look for what the typed decoder forgives: a name twice, and a number written as text."""
    pairs: list[tuple[str, Any]] = json.loads(line, object_pairs_hook=list)
    if repeated := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise BadFileError(FileReason.WRONG_COLUMNS, f"line {number + 1:,} names {repeated[0]} twice")
    values = dict(pairs)
    for column in dataset.columns:
        if column.kind == "decimal" and isinstance(values[column.name], str):
            raise _bad(number, column, "is a string, not a number")


def _from_json(values: Sequence[Any], column: Column, done: int) -> pa.Array:
    if column.kind == "moment":
        return _from_text(_from_json(values, Column(column.name, "text", ""), done), column, done)
    kind = TYPES[column.kind]
    unfit = (pa.ArrowInvalid, OverflowError, UnicodeEncodeError)
    try:
        return pa.array(values, kind)
    except unfit:
        for place, value in enumerate(values):
            try:
                pa.array([value], kind)
            except unfit:
                raise _bad(done + place, column, f"is not {_MEANT[column.kind]}") from None
        raise


def _read_parquet(stream: Stream, dataset: Dataset) -> Iterator[pa.RecordBatch]:
    """Parquet with the dataset's columns as strings, integers, decimals and timestamps with a zone."""
    done = 0
    try:
        source = pa.PythonFile(stream, mode="r")
        file = parquet.ParquetFile(source, pre_buffer=False, buffer_size=BLOCK_BYTES)
        schema = file.schema_arrow
        _check_names(schema.names, dataset)
        for column in dataset.columns:
            if not _holds(schema.field(column.name).type, column.kind):
                found = schema.field(column.name).type
                raise BadFileError(
                    FileReason.WRONG_COLUMNS, f"column {column.name} is {found}, and {column.kind} is asked for"
                )
        names = [column.name for column in dataset.columns]
        lines_at_once = max(1, min(LINES_AT_ONCE, BYTES_AT_ONCE // _line_bytes(source, file.metadata, dataset)))
        for batch in file.iter_batches(lines_at_once, columns=names, use_threads=False):
            arrays: list[pa.Array] = []
            for column in dataset.columns:
                values = batch.column(column.name)
                values.validate(full=True)  # a damaged file may hold text that is no UTF-8
                if values.null_count:
                    _refuse_first(values.is_null(), column, done, "is null")
                arrays.append(_cast(values, column, done))
            yield pa.record_batch(arrays, schema=dataset.schema)
            done += batch.num_rows
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:  # a damaged footer gives any
        raise BadFileError(FileReason.UNREADABLE, f"no Parquet that can be read, after line {done:,}") from error


def _line_bytes(source: pa.PythonFile, metadata: parquet.FileMetaData, dataset: Dataset) -> int:
    """How long the lines of a Parquet file may be: as a row group's are on average, or as the texts it holds once.

    Returns:
        At least 1.
    """
    texts = [column.name for column in dataset.columns if column.kind == "text"]
    file = parquet.ParquetFile(
        source, metadata=metadata, read_dictionary=texts, pre_buffer=False, buffer_size=BLOCK_BYTES
    )
    longest = 1
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        longest = max(longest, group.total_byte_size // max(1, group.num_rows))
        # The first line comes with the whole dictionary of a column, and each line may name the longest text of it.
        for first in file.iter_batches(1, row_groups=[number], columns=texts, use_threads=False):
            held = [pc.max(pc.binary_length(first.column(name).dictionary)).as_py() or 0 for name in texts]
            longest = max(longest, sum(held))
            break
    return longest


def _holds(kind: pa.DataType, wanted: Kind) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    match wanted:
        case "text":
            return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        case "integer":
            return pa.types.is_integer(kind)
        case "decimal":
            return pa.types.is_decimal(kind) or pa.types.is_integer(kind)
        case "moment":
            return pa.types.is_timestamp(kind) and kind.tz is not None


def _check_names(found: Sequence[str], dataset: Dataset) -> None:
    wanted = [column.name for column in dataset.columns]
    twice = [name for name, count in Counter(found).items() if count > 1]
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    problems = [
        f"{what} {', '.join(name[:64] for name in names[:5])}"
        for what, names in (("missing", missing), ("unknown", unknown), ("named twice", twice))
        if names
    ]
    if problems:
        raise BadFileError(FileReason.WRONG_COLUMNS, f"columns {'; '.join(problems)}")


def _check_values(batch: pa.RecordBatch, dataset: Dataset, event_date: date, done: int) -> None:
    for column in dataset.columns:
        values = batch.column(column.name)
        match column.kind:
            case "text":
                blank = pc.equal(pc.utf8_trim_whitespace(values), "")
                _refuse_first(blank, column, done, "is empty or only whitespace")
                too_long = pc.greater(pc.utf8_length(values), column.max_characters)
                _refuse_first(too_long, column, done, f"has more than {column.max_characters:,} characters")
                control = pc.match_substring_regex(values, r"[\x00-\x1f]")
                _refuse_first(control, column, done, "holds a control character")
            case "integer" | "decimal":
                least, most = (pa.scalar(Decimal(n)).cast(values.type) for n in (column.least, column.most))
                beyond = pc.or_(pc.less(values, least), pc.greater(values, most))
                _refuse_first(beyond, column, done, f"is not from {column.least:,} to {column.most:,}")
            case "moment":
                elsewhere = pc.not_equal(values.cast(pa.date32()), pa.scalar(event_date))
                _refuse_first(elsewhere, column, done, f"is not on {event_date}, UTC")


def _refuse_first(refused: pa.BooleanArray, column: Column, done: int, what: str) -> None:
    place = pc.index(refused, value=True).as_py()
    if place >= 0:
        raise _bad(done + place, column, what)


def _bad(line: int, column: Column, what: str) -> BadFileError:
    return BadFileError(FileReason.BAD_VALUE, f"line {line + 1:,}: {column.name} {what}")
