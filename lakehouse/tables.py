"""The tables: one `TableSpec` each, from which the catalog, the writers, the docs and the tests take their columns.

Times are microseconds in UTC (`timestamptz`) in every engine.
Columns marked `pii` name or point at a person: their values never get into table metadata as column bounds.
A column with `unknown_field` is promoted: `lakehouse.promotion` fills it from the field that producers already send.
"""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import pyarrow as pa

MICROS: Final = pa.timestamp("us", tz="UTC")

_PROPERTIES: Final = {
    "format-version": "2",
    "write.format.default": "parquet",
    "write.parquet.compression-codec": "zstd",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "50",
}


PROMOTABLE: Final = (pa.string(), pa.int64(), pa.float64(), pa.bool_(), MICROS)
"""The types that a column of an unknown field may have."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column; `doc` says unit and meaning.

    Attributes:
        unknown_field: path of the field that the column is promoted from, as it stands in `unknown_fields`, its names
            joined by dots: `color`, `product_information.color`. Such a column is never required, so that no verdict
            depends on it.

    Raises:
        ValueError: a promoted column is required, or of a type that no unknown field is read as.
    """

    name: str
    type: pa.DataType
    doc: str
    required: bool = True
    pii: bool = False
    unknown_field: str | None = None

    def __post_init__(self) -> None:
        if self.unknown_field is not None and (self.required or self.type not in PROMOTABLE):
            kinds = ", ".join(map(str, PROMOTABLE))
            raise ValueError(f"column {self.name} of an unknown field must be optional and one of {kinds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """A table as it should be.

    Attributes:
        namespace: without the environment's prefix.
        partition_by: columns whose value is the partition, as it is.
        sort_by: order of the rows within a data file.
        retention_days: age of a partition after which policy removes it; None keeps it.
        properties: Iceberg table properties beside those that every table has.
    """

    namespace: str
    name: str
    doc: str
    owner: str
    columns: tuple[Column, ...]
    partition_by: tuple[str, ...]
    sort_by: tuple[str, ...]
    retention_days: int | None = None
    properties: MappingProxyType[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def identifier(self) -> str:
        """`namespace.name`, without prefix."""
        return f"{self.namespace}.{self.name}"

    @property
    def arrow_schema(self) -> pa.Schema:
        """The columns as Arrow fields, in order."""
        return pa.schema([pa.field(c.name, c.type, nullable=not c.required) for c in self.columns])

    @property
    def table_properties(self) -> dict[str, str]:
        """All Iceberg properties of the table, column bounds of personal data switched off."""
        hidden = {f"write.metadata.metrics.column.{c.name}": "none" for c in self.columns if c.pii}
        return _PROPERTIES | hidden | {"comment": self.doc, "owner": self.owner} | dict(self.properties)


def _coordinates(arrived: str) -> tuple[Column, ...]:
    return (
        Column("kafka_topic", pa.string(), "Topic the message came from."),
        Column("kafka_partition", pa.int32(), "Topic partition the message came from."),
        Column("kafka_offset", pa.int64(), "Offset of the message; unique with topic and topic partition."),
        Column("kafka_timestamp", MICROS, f"Time Kafka holds for the message, UTC. {arrived}"),
    )


USER_ACTIONS: Final = TableSpec(
    namespace="events",
    name="user_actions",
    doc="User actions of the shop; one row per accepted Kafka message.",
    owner="data-platform",
    columns=(
        Column("event_datetime", MICROS, "When the user acted, by the producer's clock, UTC."),
        Column("event_date", pa.date32(), "UTC date of event_datetime."),
        Column("event_name", pa.string(), "What the user did, for example view, click or purchase."),
        Column("user_id", pa.string(), "Who acted.", pii=True),
        Column("platform", pa.string(), "Where the user acted, for example web or mobile."),
        Column("product_name", pa.string(), "Name of the product at that time."),
        Column("sku", pa.string(), "Stock keeping unit of the product."),
        Column(
            "unknown_fields",
            pa.string(),
            "JSON object with the fields of the message that the contract does not name; null when there are none.",
            required=False,
            pii=True,
        ),
        *_coordinates("Lateness is counted from it."),
        Column("ingested_at", MICROS, "Start of the ingest run or replay that wrote the row, UTC."),
        Column(
            "replayed_at",
            MICROS,
            "Start of the replay that brought the row back from quarantine, UTC; null for what ingest published.",
            required=False,
        ),
    ),
    partition_by=("event_date",),
    sort_by=("event_name", "user_id"),
)

HEADERS: Final = pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("value", pa.binary())]))

USER_ACTIONS_QUARANTINE: Final = TableSpec(
    namespace="quarantine",
    name="user_actions",
    doc="Messages that are no valid user action, as they came and with the reason; one row per refused Kafka message.",
    owner="data-platform",
    columns=(
        Column("reason", pa.string(), "Reason code, see docs/event-contract.md."),
        Column("message", pa.string(), "What is wrong, for a person.", pii=True),
        Column("field", pa.string(), "Path of the field at fault; null when the whole message is.", required=False),
        Column("raw", pa.binary(), "The message's bytes as they came; null for a tombstone.", required=False, pii=True),
        *_coordinates("The plausible range of event times is counted from it."),
        Column("kafka_key", pa.binary(), "The message's key.", required=False, pii=True),
        Column("kafka_headers", HEADERS, "The message's headers.", required=False),
        Column("rule_version", pa.int32(), "Version of the rules that refused it."),
        Column("ingested_at", MICROS, "Start of the ingest run that wrote the row, UTC: when it was first seen."),
        Column("ingested_date", pa.date32(), "UTC date of ingested_at."),
    ),
    partition_by=("ingested_date",),
    sort_by=("reason",),
)

ALL: Final = (USER_ACTIONS, USER_ACTIONS_QUARANTINE)
