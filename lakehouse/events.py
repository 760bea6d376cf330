"""The contract of user-action events: what a Kafka message must hold, and why one is set aside.

`decode` is the only way from message bytes to an event; ingest, the CSV drop and the replay of quarantine all use it.
It depends on nothing but its arguments, so a message gets the same verdict today and in a replay next year.

Two decoders stand behind it.
`decode_exactly` is the reference: it reads every byte and knows every reason.
`decode` first tries a typed decode in C and keeps its result only where that is provably the reference's result too
(see there); everything else goes to the reference.
"""

import functools
import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Self, cast

import msgspec
from msgspec import Meta, Struct

RULE_VERSION: Final = 1
"""Raise it with every change that could alter a verdict; quarantine rows carry the version that judged them."""

MAX_MESSAGE_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 32
MAX_DAYS_BEFORE_KAFKA: Final = 3653
MAX_DAYS_AFTER_KAFKA: Final = 1

_MICROS_PER_SECOND: Final = 1_000_000
_MICROS_PER_DAY: Final = 86_400 * _MICROS_PER_SECOND
MAX_MICROS_BEFORE_KAFKA: Final = MAX_DAYS_BEFORE_KAFKA * _MICROS_PER_DAY
MAX_MICROS_AFTER_KAFKA: Final = MAX_DAYS_AFTER_KAFKA * _MICROS_PER_DAY
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY: Final = _EPOCH.toordinal()


class ReasonCode(StrEnum):
    """A code that says why something is set aside, with its documentation in `doc`."""

    doc: str

    def __new__(cls, code: str, doc: str) -> Self:
        """Attach the documentation to the code."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.doc = doc
        return member


class Reason(ReasonCode):
    """Why a message is in quarantine; the text beside each code is its documentation."""

    TOMBSTONE = "tombstone", "The message has no value (null)."
    BLANK = "blank", "The value is empty or only JSON whitespace."
    TOO_LARGE = "too_large", f"The value is longer than {MAX_MESSAGE_BYTES:,} bytes; it is not looked into."
    BYTE_ORDER_MARK = "byte_order_mark", "The value starts with a UTF-8 byte order mark, which RFC 8259 forbids."
    NOT_UTF8 = "not_utf8", "The value is not UTF-8."
    TOO_DEEP = "too_deep", f"Arrays and objects are nested more than {MAX_DEPTH} levels deep."
    NOT_JSON = "not_json", "The value breaks the grammar of RFC 8259."
    INVALID_NUMBER = "invalid_number", "A number is NaN, Infinity or beyond the range of a double, such as `1e400`."
    TRAILING_DATA = "trailing_data", "Something other than whitespace follows the JSON value, such as a second object."
    NOT_AN_OBJECT = "not_an_object", "The value is JSON, but not an object."
    DUPLICATE_KEY = "duplicate_key", "An object at any depth names a field twice."
    LONE_SURROGATE = "lone_surrogate", "A string holds half of a UTF-16 surrogate pair, such as `\\ud800`."
    MISSING_FIELD = "missing_field", "A required field is absent."
    MISSPELLED_FIELD = (
        "misspelled_field",
        "A required field is absent, and one that differs only in upper and lower case is there.",
    )
    NULL_FIELD = "null_field", "A required field is null."
    WRONG_TYPE = "wrong_type", "A required field has another JSON type than the contract says."
    EMPTY_FIELD = "empty_field", "A required string is empty or only whitespace."
    TOO_LONG = "too_long", "A required string is longer than the contract allows."
    CONTROL_CHARACTER = "control_character", "A required string holds a control character, U+0000 to U+001F."
    INVALID_TIMESTAMP = "invalid_timestamp", "The timestamp is not an RFC 3339 date-time, or no such moment exists."
    TIMESTAMP_WITHOUT_OFFSET = "timestamp_without_offset", "The timestamp has neither `Z` nor an offset from UTC."
    IMPLAUSIBLE_TIMESTAMP = (
        "implausible_timestamp",
        f"The timestamp is over {MAX_DAYS_AFTER_KAFKA} day after or {MAX_DAYS_BEFORE_KAFKA:,} days before Kafka's own.",
    )


class Event(Struct, frozen=True, gc=False):
    """One accepted user action.

    Attributes:
        event_micros: the producer's time, microseconds since 1970-01-01 UTC.
        unknown_fields: JSON object text of the fields that the contract does not name, nested as they came; None when
            there are none. Numbers are kept as they were written.
    """

    event_micros: int
    event_name: str
    user_id: str
    platform: str
    product_name: str
    sku: str
    unknown_fields: str | None = None

    @property
    def event_datetime(self) -> datetime:
        """The producer's time in UTC."""
        return _EPOCH + timedelta(microseconds=self.event_micros)

    @property
    def event_date(self) -> date:
        """The UTC date, whatever offset the producer's timestamp carried."""
        return self.event_datetime.date()


class Rejection(Struct, frozen=True, gc=False):
    """Why one message was not accepted.

    Attributes:
        reason: one of the documented codes.
        message: for a person; bounded, whatever the message held.
        field: dotted path of the field at fault; None when it is the message as a whole.
    """

    reason: Reason
    message: str
    field: str | None = None


@dataclass(frozen=True, slots=True)
class FieldRule:
    """What the contract asks of one required string."""

    path: str
    column: str
    max_characters: int
    doc: str


TIMESTAMP: Final = FieldRule(
    "timestamp", "event_datetime", 64, "When the user acted, RFC 3339 with `Z` or an offset; stored in UTC."
)
EVENT_NAME: Final = FieldRule("event_name", "event_name", 64, "What the user did, such as `view`, `click`, `purchase`.")
PLATFORM: Final = FieldRule("user_identifiers.platform", "platform", 64, "Where, such as `web` or `mobile`.")
USER_ID: Final = FieldRule("user_identifiers.id", "user_id", 256, "Who; the producer's id of the user.")
PRODUCT_NAME: Final = FieldRule("product_information.name", "product_name", 1024, "Name of the product as shown.")
SKU: Final = FieldRule("product_information.SKU", "sku", 128, "The product's stock keeping unit.")

FIELDS: Final = (TIMESTAMP, EVENT_NAME, PLATFORM, USER_ID, PRODUCT_NAME, SKU)
_GROUPS: Final = ("user_identifiers", "product_information")
_TOP_LEVEL: Final = frozenset(rule.path.partition(".")[0] for rule in FIELDS)
_MEMBERS: Final = {
    group: frozenset(rule.path.partition(".")[2] for rule in FIELDS if rule.path.startswith(f"{group}."))
    for group in _GROUPS
}


class _UserIdentifiers(Struct, gc=False):
    platform: Annotated[str, Meta(min_length=1, max_length=PLATFORM.max_characters)]
    id: Annotated[str, Meta(min_length=1, max_length=USER_ID.max_characters)]


class _ProductInformation(Struct, gc=False):
    name: Annotated[str, Meta(min_length=1, max_length=PRODUCT_NAME.max_characters)]
    SKU: Annotated[str, Meta(min_length=1, max_length=SKU.max_characters)]


class _Wire(Struct, gc=False):
    timestamp: Annotated[str, Meta(max_length=TIMESTAMP.max_characters)]
    event_name: Annotated[str, Meta(min_length=1, max_length=EVENT_NAME.max_characters)]
    user_identifiers: _UserIdentifiers
    product_information: _ProductInformation


_decode_wire: Final = msgspec.json.Decoder(_Wire).decode

# Eight keys and six strings, two quotes each.
QUOTES_OF_A_PLAIN_EVENT: Final = 2 * (len(_TOP_LEVEL) + sum(map(len, _MEMBERS.values())) + len(FIELDS))

_find_control_character: Final = re.compile(r"[\x00-\x1f]").search
_find_surrogate: Final = re.compile(r"[\ud800-\udfff]").search
_match_rfc3339: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)?", re.ASCII
).fullmatch
# Possessive and with an optional closing quote, so that no input makes it go back over what it read.
_find_brackets: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+|[\[{]|[\]}]', re.DOTALL).finditer


def decode(raw: bytes | None, kafka_micros: int) -> Event | Rejection:
    """Judge one Kafka message by the contract.

    The typed decode reads the whole message by the JSON grammar, but forgives unknown fields, repeated fields and
    whatever stands inside unknown fields. A message that it accepts holds at least 14 strings: 8 different keys and
    6 values. Each string has two quotes that are not escaped, so a message with exactly 28 quotes holds those 14 and
    no other key: nothing is repeated and nothing is unknown. The rules on the six values are then checked here.

    Args:
        raw: value of the message; None for a tombstone.
        kafka_micros: Kafka's timestamp of the message, microseconds since 1970-01-01 UTC.
    """
    if raw is None or len(raw) > MAX_MESSAGE_BYTES:
        return decode_exactly(raw, kafka_micros)
    try:
        wire = _decode_wire(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return decode_exactly(raw, kafka_micros)
    if raw.count(b'"') != QUOTES_OF_A_PLAIN_EVENT:
        return decode_exactly(raw, kafka_micros)
    user, product = wire.user_identifiers, wire.product_information
    event_name, platform, user_id, product_name, sku = (
        wire.event_name,
        user.platform,
        user.id,
        product.name,
        product.SKU,
    )
    event_micros = _timestamp_micros(wire.timestamp)
    if (
        event_micros is None
        or not is_plausible(event_micros - kafka_micros)
        or event_name.isspace()
        or platform.isspace()
        or user_id.isspace()
        or product_name.isspace()
        or sku.isspace()
        # Control characters can only be written as escapes.
        or (b"\\" in raw and any(map(_find_control_character, (event_name, platform, user_id, product_name, sku))))
    ):
        return decode_exactly(raw, kafka_micros)
    return Event(event_micros, event_name, user_id, platform, product_name, sku)


def decode_exactly(raw: bytes | None, kafka_micros: int) -> Event | Rejection:
    """Judge one Kafka message by the contract, reading all of it: the reference that `decode` agrees with.

    The first problem is the reason: the bytes, then the grammar, then what the objects hold, in the order of the
    message; then the fields in the order of `FIELDS`; last the range of the timestamp. Arguments as in `decode`.

    Source: RFC 8259 (JSON), RFC 3339 (timestamps), RFC 3629 (UTF-8).
    """
    try:
        return _accept(_parse(raw), kafka_micros)
    except _RejectedError as rejected:
        return rejected.rejection


def decode_object(raw: bytes | None) -> dict[str, Any] | Rejection:
    """Read one JSON object as strictly as an event is read; what its fields must hold is the caller's to say.

    Numbers directly under the object come as `int` or `float`.
    """
    try:
        return {name: _plain(value) for name, value in _parse(raw).items()}
    except _RejectedError as rejected:
        return rejected.rejection


class _RejectedError(Exception):
    """Carries a rejection out of the reference decoder; never leaves this module."""

    def __init__(self, reason: Reason, message: str, field: str | None = None) -> None:
        super().__init__(reason)
        self.rejection = Rejection(reason, message, None if field is None else _shown(field, 200))


class _Number(Struct, gc=False):
    """A number as it was written, so that keeping an unknown field loses no digit."""

    text: str


def _plain(value: Any) -> Any:
    if not isinstance(value, _Number):
        return value
    return int(value.text) if value.text.lstrip("-").isdigit() else float(value.text)


class _Repeating(dict[str, Any]):
    """An object that names `repeated` more than once."""

    repeated: str


def _object_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    repeating = _Repeating(plain)
    seen = set[str]()
    for name, _ in pairs:
        if name in seen:
            repeating.repeated = name
            break
        seen.add(name)
    return repeating


def _refuse_constant(name: str) -> None:
    raise _RejectedError(Reason.INVALID_NUMBER, f"{name} is not a JSON number")


_read_json: Final = json.JSONDecoder(
    object_pairs_hook=_object_of_pairs, parse_float=_Number, parse_int=_Number, parse_constant=_refuse_constant
).raw_decode

_JSON_WHITESPACE: Final = " \t\n\r"


def _parse(raw: bytes | None) -> dict[str, Any]:
    if raw is None:
        raise _RejectedError(Reason.TOMBSTONE, "the message has no value")
    if len(raw) > MAX_MESSAGE_BYTES:
        raise _RejectedError(Reason.TOO_LARGE, f"{len(raw):,} bytes, at most {MAX_MESSAGE_BYTES:,} are read")
    if not raw.strip(_JSON_WHITESPACE.encode()):
        raise _RejectedError(Reason.BLANK, f"{len(raw):,} bytes of nothing but whitespace")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise _RejectedError(Reason.BYTE_ORDER_MARK, "starts with the bytes EF BB BF")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise _RejectedError(Reason.NOT_UTF8, f"byte {error.start:,} is not part of valid UTF-8") from None
    _check_depth(text)
    start = len(text) - len(text.lstrip(_JSON_WHITESPACE))
    try:
        value, end = _read_json(text, start)
    except json.JSONDecodeError as error:
        raise _RejectedError(Reason.NOT_JSON, f"JSON syntax error at character {error.pos:,}") from None
    if text[end:].strip(_JSON_WHITESPACE):
        raise _RejectedError(Reason.TRAILING_DATA, f"the JSON value ends at character {end:,}, but more follows")
    if not isinstance(value, dict):
        raise _RejectedError(Reason.NOT_AN_OBJECT, f"expected an object, got {_type_name(value)}")
    _check_tree(value, "")
    return cast("dict[str, Any]", value)


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _find_brackets(text):
        first = text[match.start()]
        if first in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise _RejectedError(Reason.TOO_DEEP, f"more than {MAX_DEPTH} levels at character {match.start():,}")
        elif first != '"':
            depth -= 1


def _check_tree(value: Any, path: str) -> None:
    if isinstance(value, str):
        if not value.isascii() and _find_surrogate(value):
            raise _RejectedError(Reason.LONE_SURROGATE, "half of a surrogate pair stands alone", path)
    elif isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        if isinstance(members, _Repeating):
            name = _printable(members.repeated)
            raise _RejectedError(Reason.DUPLICATE_KEY, f"{_shown(name)!a} is named more than once", _joined(path, name))
        for name, member in members.items():
            if not name.isascii() and _find_surrogate(name):
                raise _RejectedError(
                    Reason.LONE_SURROGATE, "a field's name holds half of a surrogate pair", path or None
                )
            _check_tree(member, _joined(path, name))
    elif isinstance(value, list):
        for index, element in enumerate(cast("list[Any]", value)):
            _check_tree(element, f"{path}[{index}]")
    elif isinstance(value, _Number) and math.isinf(float(value.text)):
        raise _RejectedError(Reason.INVALID_NUMBER, f"{_shown(value.text)} is beyond the range of a double", path)


def _accept(message: dict[str, Any], kafka_micros: int) -> Event:
    groups = dict[str, dict[str, Any]]()
    values = dict[str, str]()
    for rule in FIELDS:
        group, _, name = rule.path.rpartition(".")
        if group and group not in groups:
            groups[group] = _group(message, group)
        values[rule.column] = _string(groups[group] if group else message, name, rule)
    event_micros = _plausible_micros(values[TIMESTAMP.column], kafka_micros)
    unknown = {name: value for name, value in message.items() if name not in _TOP_LEVEL}
    for group, members in groups.items():
        unknown_members = {name: value for name, value in members.items() if name not in _MEMBERS[group]}
        if unknown_members:
            unknown[group] = unknown_members
    return Event(
        event_micros,
        values[EVENT_NAME.column],
        values[USER_ID.column],
        values[PLATFORM.column],
        values[PRODUCT_NAME.column],
        values[SKU.column],
        _json_text(unknown) if unknown else None,
    )


def _member(parent: dict[str, Any], name: str, path: str) -> Any:
    try:
        value = parent[name]
    except KeyError:
        wanted = name.casefold()
        for other in parent:
            if other.casefold() == wanted:
                raise _RejectedError(
                    Reason.MISSPELLED_FIELD, f"the field is called {name!r}, the message says {_shown(other)!a}", path
                ) from None
        raise _RejectedError(Reason.MISSING_FIELD, "the field is required", path) from None
    if value is None:
        raise _RejectedError(Reason.NULL_FIELD, "the field is null", path)
    return value


def _group(message: dict[str, Any], group: str) -> dict[str, Any]:
    value = _member(message, group, group)
    if not isinstance(value, dict):
        raise _RejectedError(Reason.WRONG_TYPE, f"expected an object, got {_type_name(value)}", group)
    return cast("dict[str, Any]", value)


def _string(parent: dict[str, Any], name: str, rule: FieldRule) -> str:
    value = _member(parent, name, rule.path)
    if not isinstance(value, str):
        raise _RejectedError(Reason.WRONG_TYPE, f"expected a string, got {_type_name(value)}", rule.path)
    if not value or value.isspace():
        raise _RejectedError(Reason.EMPTY_FIELD, "the string is empty or only whitespace", rule.path)
    if len(value) > rule.max_characters:
        raise _RejectedError(
            Reason.TOO_LONG, f"{len(value):,} characters, at most {rule.max_characters:,} fit", rule.path
        )
    if match := _find_control_character(value):
        raise _RejectedError(
            Reason.CONTROL_CHARACTER, f"control character U+{ord(match[0]):04X} at {match.start():,}", rule.path
        )
    return value


def _plausible_micros(text: str, kafka_micros: int) -> int:
    event_micros = _timestamp_micros_exactly(text)
    if event_micros is None:
        match = _match_rfc3339(text)
        if match and not match[8]:
            raise _RejectedError(
                Reason.TIMESTAMP_WITHOUT_OFFSET, f"{_shown(text)!a} has neither Z nor an offset", TIMESTAMP.path
            )
        raise _RejectedError(
            Reason.INVALID_TIMESTAMP, f"{_shown(text)!a} is not an RFC 3339 date-time that exists", TIMESTAMP.path
        )
    if event_micros - kafka_micros > MAX_MICROS_AFTER_KAFKA:
        raise _RejectedError(
            Reason.IMPLAUSIBLE_TIMESTAMP,
            f"{_shown(text)!a} is more than {MAX_DAYS_AFTER_KAFKA} day after Kafka's timestamp",
            TIMESTAMP.path,
        )
    if kafka_micros - event_micros > MAX_MICROS_BEFORE_KAFKA:
        raise _RejectedError(
            Reason.IMPLAUSIBLE_TIMESTAMP,
            f"{_shown(text)!a} is more than {MAX_DAYS_BEFORE_KAFKA:,} days before Kafka's timestamp",
            TIMESTAMP.path,
        )
    return event_micros


def timestamp_micros(text: str) -> int | None:
    """Read a timestamp by the contract's rules: microseconds since the epoch, or None when there is no such moment."""
    return _timestamp_micros_exactly(text)


def _timestamp_micros_exactly(text: str) -> int | None:
    """Microseconds since the epoch; None when the text is no moment with a known offset from UTC."""
    match = _match_rfc3339(text)
    if not match or not match[8]:
        return None
    year, month, day, hour, minute, second = map(int, match.group(1, 2, 3, 4, 5, 6))
    zone = match[8]
    offset_seconds = 0
    if zone not in "Zz":
        offset_hours, offset_minutes = int(zone[1:3]), int(zone[4:6])
        if offset_hours > 23 or offset_minutes > 59:
            return None
        offset_seconds = (offset_hours * 3600 + offset_minutes * 60) * (-1 if zone[0] == "-" else 1)
    if hour > 23 or minute > 59 or second > 59:
        return None
    try:
        days = date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError:
        return None
    seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset_seconds
    return seconds * _MICROS_PER_SECOND + _fraction_micros(match[7] or "")


def _fraction_micros(digits: str) -> int:
    # Cut, not rounded: rounding could move an event into the next day.
    return int(digits[:6].ljust(6, "0"))


@functools.lru_cache(maxsize=8192)
def minute_micros(text: str) -> int | None:
    """Of `YYYY-MM-DDTHH:MM:`, as if in UTC."""
    return _timestamp_micros_exactly(text + "00Z")


@functools.lru_cache(maxsize=8192)
def second_micros(text: str) -> int | None:
    """Of seconds and zone, such as `07Z` or `07+02:00`."""
    return _timestamp_micros_exactly("1970-01-01T00:00:" + text)


def _timestamp_micros(text: str) -> int | None:
    """`_timestamp_micros_exactly` with what repeats (minutes; seconds with zone) looked up instead of computed."""
    fraction = 0
    rest = text[17:]
    if text[19:20] == ".":
        digits, zone = (text[20:-1], "Z") if text[-1] == "Z" else (text[20:-6], text[-6:])
        if not (digits.isascii() and digits.isdigit() and zone[0] in "Z+-"):
            return _timestamp_micros_exactly(text)
        fraction = _fraction_micros(digits)
        rest = text[17:19] + zone
    minute = minute_micros(text[:17])
    second = second_micros(rest)
    if minute is None or second is None:
        return None
    return minute + second + fraction


def is_plausible(micros_after_kafka: Any) -> Any:
    """Whether an event's time is near enough to Kafka's timestamp; of a number or of an array of them."""
    return (micros_after_kafka >= -MAX_MICROS_BEFORE_KAFKA) & (micros_after_kafka <= MAX_MICROS_AFTER_KAFKA)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _shown(text: str, limit: int = 40) -> str:
    """The text, cut so that a rejection stays small however large the message is."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _type_name(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case _Number():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def _json_text(value: Any) -> str:
    match value:
        case _Number():
            return value.text
        case dict():
            members = cast("dict[str, Any]", value)
            return "{" + ",".join(f"{_json_text(name)}:{_json_text(member)}" for name, member in members.items()) + "}"
        case list():
            return "[" + ",".join(map(_json_text, cast("list[Any]", value))) + "]"
        case _:
            return msgspec.json.encode(value).decode()
