"""CSV files of user actions: records out of bytes, and each record as the JSON message that it stands for. Pure.

RFC 4180 without leniency, in UTF-8, with a byte order mark or without, lines ended by LF or CRLF.
The first line that is not empty names the columns: those of `COLUMNS`, in any order, and any others beside them.

A record becomes the JSON message of its fields, and `lakehouse.events` judges that: a bad value has the same reason in
a file as in Kafka. What is wrong before there are fields has a reason of `CsvReason`.

A fault spoils as little as it can. Where a quoted field does not end as it must, the record's first line is set aside
alone and reading goes on with the next line, so that a stray quote does not swallow what follows it. The same where
quotes join lines to what can't be one record: a required column holds no line break, and a record has as many fields as
the header. Lines that two stray quotes join within a further column are a record like any other to RFC 4180.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from lakehouse.events import (
    EVENT_NAME,
    FIELDS,
    MAX_MESSAGE_BYTES,
    PLATFORM,
    PRODUCT_NAME,
    SKU,
    TIMESTAMP,
    USER_ID,
    ReasonCode,
)
from lakehouse.events import Reason as EventReason

COLUMNS: Final = {
    "timestamp": TIMESTAMP,
    "event_name": EVENT_NAME,
    "platform": PLATFORM,
    "user_id": USER_ID,
    "product_name": PRODUCT_NAME,
    "sku": SKU,
}
"""The columns that a file must have, each with the field of an event that it holds."""

COLUMN_OF_FIELD: Final = {rule.path: column for column, rule in COLUMNS.items()}
"""The column that holds a field of an event, by the field's path."""

MAX_HEADER_BYTES: Final = 8192
"""A header is kept with what is known of its file; a property of the table holds those of one commit."""

_RESERVED: Final = frozenset(rule.path.partition(".")[0] for rule in FIELDS) - COLUMNS.keys()
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_SHOWN_CHARACTERS: Final = 40


class CsvReason(ReasonCode):
    """Why a line or a file is in quarantine before its fields could be judged; the text is its documentation."""

    EMPTY_FILE = "empty_file", "The file holds no line, not even a header. The whole file is set aside."
    WRONG_HEADER = (
        "wrong_header",
        "The first line lacks a required column, names one twice, is no CSV or too long. The whole file is set aside.",
    )
    WRONG_COLUMNS = "wrong_columns", "The record has more or fewer fields than the header."
    BAD_QUOTING = (
        "bad_quoting",
        (
            "A quote stands in a field that does not begin with one, something follows a closing quote, or none "
            "closes. Or quotes join lines to a wrong number of fields, or within one of the six columns."
        ),
    )


Reason = EventReason | CsvReason


class Problem(NamedTuple):
    """Why a record or a file is set aside; `message` is bounded, whatever the file holds."""

    reason: Reason
    message: str


class Record(NamedTuple):
    """One record of a file.

    Attributes:
        line: number of its first line, from 1.
        raw: its bytes without the end of its last line; of more than `MAX_MESSAGE_BYTES` the first ones.
        fields: None where there is a problem.
    """

    line: int
    raw: bytes
    fields: list[str] | None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """The columns of a file, by their place.

    Attributes:
        line: number of the header's line.
        text: as it stands in the file, to read records of the file by later.
        required: places of `COLUMNS`, in their order.
        more: place and name of each other column.
    """

    line: int
    text: str
    required: tuple[int, ...]
    more: tuple[tuple[int, str], ...]

    @property
    def width(self) -> int:
        """How many fields a record has."""
        return len(self.required) + len(self.more)

    def message(self, fields: Sequence[str]) -> bytes:
        """Write the fields of a record as the JSON message that they stand for.

        What a further column holds becomes an unknown field of that name; an empty one is left out.
        """
        when, name, platform, user, product, sku = self.required
        event: dict[str, Any] = {
            "timestamp": fields[when],
            "event_name": fields[name],
            "user_identifiers": {"platform": fields[platform], "id": fields[user]},
            "product_information": {"name": fields[product], "SKU": fields[sku]},
        }
        for place, column in self.more:
            if fields[place]:
                event[column] = fields[place]
        return orjson.dumps(event)


def read_header(record: Record) -> Header | Problem:
    """Read the first record of a file as its header."""
    if record.fields is None:
        told = record.problem or Problem(CsvReason.WRONG_HEADER, "it is no CSV")
        is_encoding = told.reason is EventReason.NOT_UTF8
        return told if is_encoding else Problem(CsvReason.WRONG_HEADER, f"the first line: {told.message}")
    if len(record.raw) > MAX_HEADER_BYTES:
        told = f"the first line is {len(record.raw):,} bytes long, at most {MAX_HEADER_BYTES:,} are read"
        return Problem(CsvReason.WRONG_HEADER, told)
    places = {name: place for place, name in enumerate(record.fields)}
    if len(places) < len(record.fields):
        twice = next(name for place, name in enumerate(record.fields) if places[name] != place)
        return Problem(CsvReason.WRONG_HEADER, f"the column {_shown(twice)} is named twice")
    if lacking := [column for column in COLUMNS if column not in places]:
        found = ", ".join(map(_shown, record.fields[:20]))
        return Problem(CsvReason.WRONG_HEADER, f"there is no column {', '.join(lacking)}; the first line has {found}")
    more = tuple((place, name) for name, place in places.items() if name not in COLUMNS)
    for _, name in more:
        if not name.strip() or "\n" in name or name in _RESERVED:
            return Problem(CsvReason.WRONG_HEADER, f"no column may be called {_shown(name)}")
    return Header(record.line, record.raw.decode(), tuple(places[column] for column in COLUMNS), more)


def header_of(text: str) -> Header:
    """Read a header as it was kept.

    Raises:
        ValueError: it is none.
    """
    header = read_header(next(Records([text.encode()])))
    if isinstance(header, Problem):
        raise ValueError(header.message)  # noqa: TRY004 - a value of our own type
    return header


def fields_of(raw: bytes, header: Header) -> list[str] | Problem:
    """Read a kept record again."""
    for record in Records([raw], header):
        if record.problem:
            return record.problem
        assert record.fields is not None
        if record.raw != raw:  # what was one record has become several
            return Problem(CsvReason.BAD_QUOTING, "the bytes are no single record")
        return misfit(record.fields, header) or record.fields
    return Problem(CsvReason.WRONG_COLUMNS, "the record is empty")


def misfit(fields: Sequence[str], header: Header) -> Problem | None:
    """Why fields are no record under a header; None when their number is right."""
    if len(fields) == header.width:
        return None
    return Problem(CsvReason.WRONG_COLUMNS, f"{len(fields):,} fields, the header has {header.width}")


class Records:
    """The records of a file, header included, in order; reads as far as it is asked to.

    It keeps one record and one chunk in memory. A record that is longer than `MAX_MESSAGE_BYTES` is a problem, and so
    is a line that long; what is beyond is not kept.

    Args:
        chunks: the bytes of the file, cut anywhere.
        header: of the file, when they are not its beginning; else the first record says it.

    Attributes:
        header: of the file, or why it has none; None before the first record.
        lines: how many lines were read so far; one that no line end follows counts, an empty one at the end does not.
        blank_lines: those among them that are empty, outside of quotes.
    """

    def __init__(self, chunks: Iterable[bytes], header: Header | None = None) -> None:
        self.header: Header | Problem | None = header
        self.lines = 0
        self.blank_lines = 0
        self._source = _lines(chunks)
        self._waiting: deque[_Line] = deque()
        self._taken: list[_Line] = []

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        """Read the next record.

        Raises:
            StopIteration: there is none.
        """
        while True:
            line = self._next_line()
            if line is None:
                raise StopIteration
            if line.raw:
                record = self._record(line)
                self.header = self.header or read_header(record)
                return record
            self.blank_lines += 1

    def _record(self, line: "_Line") -> Record:
        if line.size_bytes > MAX_MESSAGE_BYTES:
            told = f"a line of {line.size_bytes:,} bytes, at most {MAX_MESSAGE_BYTES:,} are read"
            return Record(line.number, line.raw, None, Problem(EventReason.TOO_LARGE, told))
        try:
            text = line.raw.decode()
        except UnicodeDecodeError as error:
            told = f"byte {error.start:,} of the line is not part of valid UTF-8"
            return Record(line.number, line.raw, None, Problem(EventReason.NOT_UTF8, told))
        if '"' not in text:
            return Record(line.number, line.raw, text.split(","))
        taken = _Taken(line, self._next_line)
        try:
            fields = _split(text, taken.more)
            if len(taken.lines) > 1 and isinstance(self.header, Header):
                _see_joined(fields, self.header)
        except _QuotingError as error:
            self._waiting.extendleft(reversed(taken.lines[1:]))
            return Record(line.number, line.raw, None, Problem(CsvReason.BAD_QUOTING, str(error)))
        return Record(line.number, taken.raw, fields)

    def _next_line(self) -> "_Line | None":
        if self._waiting:
            return self._waiting.popleft()
        line = next(self._source, None)
        if line is not None:
            self.lines = line.number
        return line


class _Line(NamedTuple):
    """A line of a file; `end` is what ended it, and `raw` has `MAX_MESSAGE_BYTES` of its bytes at most."""

    number: int
    raw: bytes
    size_bytes: int
    end: bytes


class _Taken:
    """The lines of one record, as far as it was read."""

    def __init__(self, first: _Line, next_line: Callable[[], _Line | None]) -> None:
        self.lines = [first]
        self._size_bytes = first.size_bytes
        self._next_line = next_line

    @property
    def raw(self) -> bytes:
        """The bytes of the record."""
        *lines, last = self.lines
        return b"".join([*(line.raw + line.end for line in lines), last.raw])

    def more(self) -> str:
        """The end of the last line and the next one, for a quoted field that has not ended."""
        end = self.lines[-1].end
        line = self._next_line()
        if line is None:
            raise _QuotingError("a quoted field does not end before the file does")
        self.lines.append(line)
        self._size_bytes += line.size_bytes + len(end)
        if self._size_bytes > MAX_MESSAGE_BYTES:
            raise _QuotingError(f"a quoted field does not end within {MAX_MESSAGE_BYTES:,} bytes")
        try:
            return (end + line.raw).decode()
        except UnicodeDecodeError:
            raise _QuotingError("a quoted field runs into a line that is not UTF-8") from None


class _QuotingError(Exception):
    """Says where quotes are not as they must be; never leaves this module."""


def _split(text: str, more: Callable[[], str]) -> list[str]:
    """Cut a record into its fields.

    Args:
        text: its first line.
        more: gives what follows, when a quoted field goes on.
    """
    fields: list[str] = []
    start = 0
    while True:
        if text.startswith('"', start):
            seen = start + 1
            while (end := text.find('"', seen)) < 0 or text.startswith('"', end + 1):
                if end < 0:
                    seen = len(text)
                    text += more()
                else:
                    seen = end + 2
            fields.append(text[start + 1 : end].replace('""', '"'))
            end += 1
            if end < len(text) and text[end] != ",":
                raise _QuotingError(f"{_shown(text[end : end + 20])} follows the closing quote of field {len(fields)}")
        else:
            end = text.find(",", start)
            end = len(text) if end < 0 else end
            fields.append(text[start:end])
            if '"' in fields[-1]:
                raise _QuotingError(f"field {len(fields)} has a quote and does not begin with one")
        if end == len(text):
            return fields
        start = end + 1


def _see_joined(fields: Sequence[str], header: Header) -> None:
    """Refuse fields of several lines that are no record under a header: a quote that does not belong joined them."""
    if len(fields) != header.width:
        told = f"a quoted field ends in a later line, and then there are {len(fields):,} fields of {header.width}"
        raise _QuotingError(told)
    for column, place in zip(COLUMNS, header.required, strict=True):
        if "\n" in fields[place]:
            raise _QuotingError(f"a quoted field ends in a later line, and the column {column} holds no line break")


def _lines(chunks: Iterable[bytes]) -> Iterator[_Line]:
    """Cut bytes into lines; what a line has beyond the limit is only counted."""
    number = 0
    held, beyond = b"", 0  # the beginning of a line, and how many more bytes of it were dropped
    for chunk in _without_mark(chunks):
        *whole, held = (held + chunk).split(b"\n")
        for raw in whole:
            number += 1
            yield _line(number, raw, beyond, b"\n")
            beyond = 0
        if (surplus := len(held) - MAX_MESSAGE_BYTES - 2) > 0:  # the two tell CR LF from what is in a line
            held, beyond = held[:-surplus], beyond + surplus
    if held:
        yield _line(number + 1, held, beyond, b"")


def _without_mark(chunks: Iterable[bytes]) -> Iterator[bytes]:
    start = b""
    rest = iter(chunks)
    while len(start) < len(_BYTE_ORDER_MARK) and (chunk := next(rest, None)) is not None:
        start += chunk
    yield start.removeprefix(_BYTE_ORDER_MARK)
    yield from rest


def _line(number: int, raw: bytes, beyond: int, end: bytes) -> _Line:
    if not beyond and end and raw.endswith(b"\r"):
        raw, end = raw[:-1], b"\r\n"
    return _Line(number, raw[:MAX_MESSAGE_BYTES], len(raw) + beyond, end)


def _shown(text: str) -> str:
    """The text in quotes, cut so that a message stays small however long it is."""
    return ascii(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…")
