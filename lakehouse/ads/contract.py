"""What a record of the ad API must hold to become an impression; pure.

An impression is known by the UTC date on which it was shown and its id, whatever account told it: accounts that share
ids need an environment each. The API tells it again when something changed, such as a click that came later, and the
record with the newest `updated_at` holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated, Any, Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AwareDatetime, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from lakehouse.events import ReasonCode
from lakehouse.tables import IMPRESSIONS_ARCHIVE, MICROS
from lakehouse.transforms import collector_off

RULE_VERSION: Final = 1
"""Raised when a verdict can change; `lakehouse ads restore --from-backup` judges everything again."""

COLUMNS: Final = tuple(column.name for column in IMPRESSIONS_ARCHIVE.columns if column.name != "arrived_at")
SCHEMA: Final = pa.schema([IMPRESSIONS_ARCHIVE.arrow_schema.field(name) for name in COLUMNS])
REJECTED_SCHEMA: Final = pa.schema(
    [
        pa.field("part", pa.int32(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("field", pa.string()),
        pa.field("message", pa.string(), nullable=False),
        pa.field("record", pa.string(), nullable=False),
    ]
)

_EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(2100, 1, 1, tzinfo=UTC)
_SHOWN_CHARACTERS: Final = 2_000
_NO_CONTROL: Final = r"^[^\x00-\x1f]*$"
_MOST_TEXT: Final = 256
_MOST_ID: Final = 128
_PLAIN_TEXT: Final = rf"\A[^\x00-\x1f]{{1,{_MOST_TEXT}}}\z"
_PLAIN_ID: Final = rf"\A[^\x00-\x1f]{{1,{_MOST_ID}}}\z"
_PLAIN_TIME: Final = (
    r"\A\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?"
    r"(Z|[+-][01]\d:[0-5]\d)\z"
)
_MOST_MICROS: Final = 2**53 - 1
_MISSING: Final = 2**63 - 1

_Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"


class Reason(ReasonCode):
    """Why a record is set aside; the text is its documentation."""

    NOT_JSON = "not_json", "The line is no JSON object."
    MISSING_FIELD = "missing_field", "A required field is absent."
    WRONG_TYPE = "wrong_type", "A field has another type, or a time has no offset."
    OUT_OF_RANGE = (
        "out_of_range",
        "A text is empty, too long or has control characters, a cost is negative, or a time is not of this century.",
    )
    WRONG_ORDER = "wrong_order", "It was clicked or updated before it was shown."


Text = Annotated[str, StringConstraints(min_length=1, max_length=_MOST_TEXT, pattern=_NO_CONTROL)]
Moment = Annotated[AwareDatetime, Field(ge=_EARLIEST, lt=_LATEST)]


@with_config(ConfigDict(strict=True, extra="ignore"))
class Record(TypedDict):
    """A record as the API returns it; fields beside these are let pass, and kept in the backup alone."""

    impression_id: Annotated[str, StringConstraints(min_length=1, max_length=_MOST_ID, pattern=_NO_CONTROL)]
    campaign: Text
    ad: Text
    sku: Text
    user_id: Text
    shown_at: Moment
    clicked_at: Moment | None
    cost_micros: Annotated[int, Field(ge=0, le=_MOST_MICROS)]
    updated_at: Moment


_RECORD: Final = TypeAdapter(Record)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a record is no impression.

    Attributes:
        field: path of the field at fault; None when the whole record is.
        message: for a person; never holds what the record held.
    """

    reason: Reason
    field: str | None
    message: str


def decode(line: bytes) -> Record | Rejection:
    """Judge one record; the first problem is the reason."""
    try:
        record = _RECORD.validate_json(line)
    except ValidationError as error:
        return _rejection(error)
    if record["updated_at"] < record["shown_at"]:
        return Rejection(Reason.WRONG_ORDER, "updated_at", "it was updated before it was shown")
    clicked_at = record["clicked_at"]
    if clicked_at is not None and clicked_at < record["shown_at"]:
        return Rejection(Reason.WRONG_ORDER, "clicked_at", "it was clicked before it was shown")
    return record


def decode_lines(lines: Sequence[bytes], part: int) -> tuple[pa.Table, pa.Table]:
    """Judge the lines of a part of a backup; returns impressions in their order, and what is set aside.

    Args:
        lines: without their line ends.
        part: the number of the part; it names a rejected record together with its line, which is counted from 1.
    """
    with collector_off():
        sure, numbers, doubtful = _surely_good(lines)
        good: dict[int, Record] = {}
        bad: dict[int, Rejection] = {}
        for number in doubtful:
            verdict = decode(lines[number - 1])
            if isinstance(verdict, Rejection):
                bad[number] = verdict
            else:
                good[number] = verdict
    if good:
        in_order = np.argsort(np.concatenate([numbers, np.fromiter(good, np.int64)]))
        sure = pa.concat_tables([sure, _impressions(list(good.values()))]).take(in_order)
    return sure, _rejected(part, [(number, verdict, lines[number - 1]) for number, verdict in bad.items()])


class _Likely(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A record as nearly all are, for `_surely_good`; times as they came."""

    impression_id: str
    campaign: str
    ad: str
    sku: str
    user_id: str
    shown_at: str
    clicked_at: str | None
    cost_micros: Annotated[int, msgspec.Meta(ge=0, le=_MOST_MICROS)]
    updated_at: str


_decode_likely: Final = msgspec.json.Decoder(_Likely).decode


def _surely_good(lines: Sequence[bytes]) -> tuple[pa.Table, "np.ndarray[Any, np.dtype[np.int64]]", list[int]]:
    """Find the lines that are impressions at first sight; what `decode` accepts and this does not is only slower.

    It is four times as fast: msgspec reads the lines, and Arrow looks at whole columns.

    Returns:
        The impressions, the numbers of their lines, and those of all other lines; counted from 1, in order.
    """
    records: list[_Likely] = []
    numbers: list[int] = []
    doubtful: list[int] = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_decode_likely(line))
            numbers.append(number)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            doubtful.append(number)
    columns: dict[str, pa.Array] = {}
    fits: _Mask = np.ones(len(records), np.bool_)
    for field in SCHEMA:
        if field.name == "shown_date":
            continue
        kind = pa.string() if field.type == MICROS else field.type
        values = pa.array(list(map(attrgetter(field.name), records)), kind)
        if field.type == MICROS:
            values, plain = _plain_times(values)
            fits &= plain
        elif kind == pa.string():
            fits &= _match(values, _PLAIN_ID if field.name == "impression_id" else _PLAIN_TEXT)
        columns[field.name] = values
    shown_at, clicked_at, updated_at = (_micros(columns[name]) for name in ("shown_at", "clicked_at", "updated_at"))
    fits &= (updated_at >= shown_at) & (clicked_at >= shown_at)
    found = np.array(numbers, np.int64)
    return _table(columns).filter(pa.array(fits)), found[fits], sorted([*doubtful, *found[~fits].tolist()])


def _plain_times(texts: pa.Array) -> tuple[pa.Array, _Mask]:
    """The times of texts that are written plainly and lie in the contract's range, and which those are; null is one."""
    plain = _match(texts, _PLAIN_TIME)
    try:
        texts = pc.call_function("if_else", [pa.array(plain), texts, pa.scalar(_EARLIEST.isoformat())])
        times = texts.cast(MICROS)
    except pa.ArrowInvalid:  # such as the 30th of February, and Arrow does not say where
        return pa.repeat(pa.scalar(_EARLIEST, MICROS), len(texts)), np.zeros(len(texts), np.bool_)
    earliest, latest = _micros(pa.array([_EARLIEST, _LATEST], MICROS))
    micros = _micros(times)
    plain &= (micros >= earliest) & ((micros < latest) | (micros == _MISSING))
    return times, plain


def _match(texts: pa.Array, pattern: str) -> _Mask:
    """Which texts match; null does."""
    found = pc.call_function("match_substring_regex", [texts], pc.MatchSubstringOptions(pattern))
    return found.fill_null(True).to_numpy(zero_copy_only=False).copy()


def _micros(times: pa.Array) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Times as microseconds, and one that is missing as later than any."""
    return times.cast(pa.int64()).fill_null(_MISSING).to_numpy()


def _impressions(records: Sequence[Record]) -> pa.Table:
    fields = [field for field in SCHEMA if field.name != "shown_date"]
    return _table({f.name: pa.array([record[f.name] for record in records], f.type) for f in fields})


def _table(columns: dict[str, pa.Array]) -> pa.Table:
    columns["shown_date"] = columns["shown_at"].cast(pa.timestamp("us")).cast(pa.date32())
    return pa.table([columns[name] for name in COLUMNS], schema=SCHEMA)


def _rejected(part: int, bad: Sequence[tuple[int, Rejection, bytes]]) -> pa.Table:
    rows = [
        {
            "part": part,
            "line": line,
            "reason": str(rejection.reason),
            "field": rejection.field,
            "message": rejection.message,
            "record": _readable(raw),
        }
        for line, rejection, raw in bad
    ]
    return pa.Table.from_pylist(rows, schema=REJECTED_SCHEMA)


def _readable(raw: bytes) -> str:
    """The beginning of a record as text that PostgreSQL takes; the backup has its bytes."""
    return raw.decode("utf-8", "backslashreplace").replace("\0", "\\x00")[:_SHOWN_CHARACTERS]


def _rejection(error: ValidationError) -> Rejection:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    kind = problem["type"]
    # A name that the record brought itself may be anything; ours are known.
    field = ".".join(str(part) for part in problem["loc"]) or None
    message = problem["msg"]
    if kind == "json_invalid" or (field is None and kind.endswith("_type")):
        return Rejection(Reason.NOT_JSON, None, message)
    if kind == "missing":
        return Rejection(Reason.MISSING_FIELD, field, message)
    if kind.endswith(("_type", "_parsing", "_invalid", "_object_invalid")) or kind == "timezone_aware":
        return Rejection(Reason.WRONG_TYPE, field, message)
    return Rejection(Reason.OUT_OF_RANGE, field, message)
