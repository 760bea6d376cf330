"""The contract of announced files: what a notification must say, and what the lines of each dataset must hold.

`decode` is the only way from the bytes of a Kafka message to a notification; it depends on nothing but its arguments,
so a message gets the same verdict when it is retried next year. `lakehouse.file_formats` holds files to their dataset.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final, Literal, NamedTuple, get_args

import pyarrow as pa

from lakehouse.events import MAX_DAYS_AFTER_KAFKA, MAX_DAYS_BEFORE_KAFKA, Reason, ReasonCode, Rejection, decode_object
from lakehouse.tables import MICROS

RULE_VERSION: Final = 1
"""Raise it with every change that could alter a verdict on a notification or a file."""

Format = Literal["csv", "jsonl", "parquet"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

DatasetName = Literal["sales", "returns"]

Kind = Literal["moment", "text", "integer", "decimal"]

AMOUNT: Final = pa.decimal128(12, 2)
TYPES: Final[Mapping[Kind, pa.DataType]] = {
    "moment": MICROS,
    "text": pa.string(),
    "integer": pa.int64(),
    "decimal": AMOUNT,
}

TOPIC_PARTITIONS: Final = 2
"""Partitions that the topic of notifications gets; a file comes seldom, and one run reads them all."""

MAX_KEY_BYTES: Final = 1024  # S3's own limit
MAX_SIZE_BYTES: Final = 5 << 40  # S3's own limit


class FileReason(ReasonCode):
    """Why a file, or a notification that is strict JSON, is set aside; the text beside each code documents it."""

    INVALID_VALUE = "invalid_value", "A field of the notification has the right type and a value that can't be."
    FOREIGN_BUCKET = "foreign_bucket", "The notification names another bucket than the one that files are taken from."
    UNKNOWN_DATASET = "unknown_dataset", "The notification names a dataset that the contract does not know."
    ANNOUNCED_DIFFERENTLY = (
        "announced_differently",
        "This version of the file counts already, and this notification says something else of it.",
    )
    MISSING_OBJECT = "missing_object", "The bucket has no such object, or not this version of it."
    ANOTHER_VERSION = "another_version", "The object's ETag is not the announced one: it was overwritten."
    ACCESS_DENIED = "access_denied", "The object store does not let the pipeline read the object."
    SIZE_MISMATCH = "size_mismatch", "The object has another size than was announced."
    CHECKSUM_MISMATCH = "checksum_mismatch", "The SHA-256 of the object's bytes is not the announced one."
    UNREADABLE = "unreadable", "The bytes are no file of the announced format."
    WRONG_COLUMNS = "wrong_columns", "A column is missing, unknown, named twice, or of another type than its dataset's."
    BAD_VALUE = "bad_value", "A line holds a value that its dataset does not allow."
    DAY_INCOMPLETE = (
        "day_incomplete",
        "Another file that counts for the same day is gone from the bucket, so the day can't be computed anew.",
    )
    GAVE_UP = "gave_up", "Several runs ended without a verdict on the file."


class Refusal(NamedTuple):
    """Why one notification was not accepted; as `lakehouse.events.Rejection`."""

    reason: str
    message: str
    field: str | None = None


class BadFileError(Exception):
    """What is wrong with a file; becomes a row of the ledger and never leaves the job."""

    def __init__(self, reason: FileReason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type["BadFileError"], tuple[FileReason, str]]:
        """Let it pass between Spark's processes."""
        return type(self), (self.reason, self.message)


@dataclass(frozen=True, slots=True)
class Column:
    """What the contract asks of one column of a dataset.

    Attributes:
        least: the smallest number that is allowed.
        most: the largest one.
        max_characters: of a text.
    """

    name: str
    kind: Kind
    doc: str
    least: int = 0
    most: int = 0
    max_characters: int = 0


LINE_COLUMNS: Final = (
    Column("user_id", "text", "Who bought or sent back.", max_characters=256),
    Column("sku", "text", "The product's stock keeping unit.", max_characters=128),
    Column("product_name", "text", "The product's name at that time.", max_characters=1024),
    Column("quantity", "integer", "Pieces.", least=1, most=1_000_000),
    Column(
        "amount", "decimal", "Money of the whole line, in the shop's currency, two decimal places.", most=9_999_999_999
    ),
)
"""What the lines of every dataset have, and all that the aggregates are made of."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A kind of file: one line for each thing that happened.

    Attributes:
        moment: when it happened; its UTC date is the announced one.
    """

    name: DatasetName
    doc: str
    moment: Column

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns; a file has exactly these, in any order."""
        return (self.moment, *LINE_COLUMNS)

    @property
    def schema(self) -> pa.Schema:
        """The columns as Arrow holds them."""
        return pa.schema([pa.field(column.name, TYPES[column.kind], nullable=False) for column in self.columns])


_RFC3339: Final = "RFC 3339 with `Z` or an offset; its UTC date is the file's event date."

DATASETS: Final[Mapping[str, Dataset]] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "sales",
            "What the tills booked: one line for each product of a receipt.",
            Column("sold_at", "moment", f"When it was sold, {_RFC3339}"),
        ),
        Dataset(
            "returns",
            "What came back: one line for each product of a credit note.",
            Column("returned_at", "moment", f"When it was booked as returned, {_RFC3339}"),
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """One announced version of one file.

    Attributes:
        version_id: S3's id of the version; None where the bucket keeps no versions.
        etag: S3's ETag without quotes; None when a version id says it all.
        sha256: of the bytes, lower-case hexadecimal.
    """

    bucket: str
    key: str
    version_id: str | None
    etag: str | None
    size_bytes: int
    sha256: str
    format: Format
    dataset: str
    event_date: date

    @property
    def version(self) -> str:
        """What tells this version of the object from others: its id, else its ETag."""
        return self.version_id or self.etag or ""

    @property
    def file(self) -> "FileVersion":
        """The key of the ledger."""
        return FileVersion(self.bucket, self.key, self.version)


class FileVersion(NamedTuple):
    """What the ledger has one row for each."""

    bucket: str
    key: str
    version: str


class _Field(NamedTuple):
    name: str
    type: type[str] | type[int]
    required: bool
    max_characters: int
    doc: str


FIELDS: Final = (
    _Field("bucket", str, True, 63, "Bucket of the object."),
    _Field("key", str, True, MAX_KEY_BYTES, "Key of the object."),
    _Field("version_id", str, False, 1024, "S3's id of the object's version, where the bucket keeps versions."),
    _Field("etag", str, False, 256, "ETag of the object; required without `version_id`."),
    _Field("size_bytes", int, True, 0, "Size of the object."),
    _Field("sha256", str, True, 64, "SHA-256 of the object's bytes, hexadecimal."),
    _Field("format", str, True, 16, f"One of {', '.join(f'`{name}`' for name in FORMATS)}."),
    _Field("dataset", str, True, 64, f"One of {', '.join(f'`{name}`' for name in DATASETS)}."),
    _Field("event_date", str, True, 10, "UTC date of all lines of the file, `YYYY-MM-DD`."),
)

_find_control_character: Final = re.compile(r"[\x00-\x1f]").search
_is_date: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII).fullmatch
_is_plain: Final = re.compile(r"[\x21-\x7e]+").fullmatch
_is_sha256: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII).fullmatch


class _RefusedError(Exception):
    def __init__(self, reason: str, message: str, field: str | None) -> None:
        super().__init__(reason)
        self.refusal = Refusal(reason, message, field)


def decode(raw: bytes | None, kafka_timestamp: datetime, bucket: str) -> Notification | Refusal:
    """Judge one Kafka message by the contract; fields that it does not name are passed over.

    Args:
        raw: value of the message; None for a tombstone.
        kafka_timestamp: Kafka's time of the message; the event date must be plausible beside it.
        bucket: the one bucket that files are taken from.
    """
    message = decode_object(raw)
    if isinstance(message, Rejection):
        return Refusal(message.reason, message.message, message.field)
    try:
        return _accept(message, kafka_timestamp, bucket)
    except _RefusedError as refused:
        return refused.refusal


def _accept(message: Mapping[str, Any], kafka_timestamp: datetime, bucket: str) -> Notification:
    values: dict[str, Any] = {field.name: _value(message, field) for field in FIELDS}
    if values["bucket"] != bucket:
        raise _RefusedError(FileReason.FOREIGN_BUCKET, f"files are taken from {bucket} only", "bucket")
    if len(values["key"].encode()) > MAX_KEY_BYTES:
        raise _RefusedError(Reason.TOO_LONG, f"more than {MAX_KEY_BYTES:,} bytes", "key")
    # "null" is S3's id of all that was written while a bucket kept no versions, so it tells nothing apart.
    version_id = None if values["version_id"] == "null" else values["version_id"]
    etag = values["etag"] and values["etag"].strip('"')
    for name, text in (("version_id", version_id), ("etag", etag)):
        if text is not None and not _is_plain(text):
            raise _invalid(name, "not of printable ASCII characters")
    if not version_id and not etag:
        raise _RefusedError(Reason.MISSING_FIELD, "without version_id the ETag is required", "etag")
    if not 0 <= values["size_bytes"] <= MAX_SIZE_BYTES:
        raise _invalid("size_bytes", f"not from 0 to {MAX_SIZE_BYTES:,}")
    if not _is_sha256(values["sha256"]):
        raise _invalid("sha256", "not 64 hexadecimal digits")
    if values["format"] not in FORMATS:
        raise _invalid("format", f"not one of {', '.join(FORMATS)}")
    if values["dataset"] not in DATASETS:
        raise _RefusedError(FileReason.UNKNOWN_DATASET, f"not one of {', '.join(DATASETS)}", "dataset")
    return Notification(
        bucket=bucket,
        key=values["key"],
        version_id=version_id,
        etag=etag,
        size_bytes=values["size_bytes"],
        sha256=values["sha256"].lower(),
        format=values["format"],
        dataset=values["dataset"],
        event_date=_plausible_date(values["event_date"], kafka_timestamp),
    )


def _value(message: Mapping[str, Any], field: _Field) -> Any:
    value = message.get(field.name)
    if value is None:
        if not field.required:
            return None
        if field.name in message:
            raise _RefusedError(Reason.NULL_FIELD, "the field is null", field.name)
        raise _RefusedError(Reason.MISSING_FIELD, "the field is required", field.name)
    if type(value) is not field.type:
        wanted = "a string" if field.type is str else "a whole number"
        raise _RefusedError(Reason.WRONG_TYPE, f"expected {wanted}", field.name)
    if isinstance(value, str):
        if not value or value.isspace():
            raise _RefusedError(Reason.EMPTY_FIELD, "the string is empty or only whitespace", field.name)
        if len(value) > field.max_characters:
            raise _RefusedError(Reason.TOO_LONG, f"at most {field.max_characters:,} characters fit", field.name)
        if _find_control_character(value):
            raise _RefusedError(Reason.CONTROL_CHARACTER, "the string holds a control character", field.name)
    return value


def _plausible_date(text: str, kafka_timestamp: datetime) -> date:
    try:
        found = date.fromisoformat(text) if _is_date(text) else None
    except ValueError:
        found = None
    if found is None:
        raise _invalid("event_date", "no date YYYY-MM-DD that exists")
    days = (found - kafka_timestamp.astimezone(UTC).date()).days
    if not -MAX_DAYS_BEFORE_KAFKA <= days <= MAX_DAYS_AFTER_KAFKA:
        raise _invalid("event_date", f"more than {MAX_DAYS_AFTER_KAFKA} day after or ten years before Kafka's time")
    return found


def _invalid(field: str, message: str) -> _RefusedError:
    return _RefusedError(FileReason.INVALID_VALUE, message, field)
