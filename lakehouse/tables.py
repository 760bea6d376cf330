"""The tables: one `TableSpec` each, from which the catalog, the writers, the docs and the tests take their columns.

Times are microseconds in UTC (`timestamptz`) in every engine.
Columns marked `pii` name or point at a person: their values never get into table metadata as column bounds.
A column with `unknown_field` is promoted: `lakehouse.promotion` fills it from the field that producers already send.
"""

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal

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


LEAST_ORPHAN_HOURS: Final = 72
"""A file that no table knows may belong to a write that goes on; none takes this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How maintenance keeps a table; `lakehouse.maintenance_plan` says what follows from it.

    Attributes:
        target_file_bytes: size that compaction brings data files to; 1 leaves every file as it was written, also where
            rows of it were deleted.
        small_file_ratio: a file below this share of the target is small.
        closed_after_hours: a partition that nobody wrote to for so long is closed.
        snapshot_days: age at which a snapshot expires.
        min_snapshots: so many of the newest are kept however old they are.
        max_snapshots: so many are kept at most; those that readers may still use count as well and stay.
        orphan_hours: age at which an object in the table's place that the table does not know is garbage.
        archive_after_days: age at which a partition moves to the archive; None keeps it.
        analyze_bytes: statistics read the whole table, so they are only made up to this size.

    Raises:
        ValueError: a value that could cost data, or makes no sense.
    """

    target_file_bytes: int = 256 << 20
    small_file_ratio: float = 0.5
    closed_after_hours: float = 6
    snapshot_days: float = 5
    min_snapshots: int = 3
    max_snapshots: int = 1000
    orphan_hours: float = LEAST_ORPHAN_HOURS
    archive_after_days: int | None = None
    analyze_bytes: int = 10 << 30

    def __post_init__(self) -> None:
        if self.orphan_hours < LEAST_ORPHAN_HOURS:
            raise ValueError(f"orphan_hours is {self.orphan_hours}, and below {LEAST_ORPHAN_HOURS} a write may go on")
        if self.target_file_bytes < 1 or not 0 < self.small_file_ratio <= 1:
            raise ValueError("target_file_bytes must be positive and small_file_ratio above 0 and at most 1")
        if not 1 <= self.min_snapshots <= self.max_snapshots:
            raise ValueError("min_snapshots must be at least 1 and at most max_snapshots")
        if self.closed_after_hours < 0 or self.snapshot_days < 0 or self.analyze_bytes < 0:
            raise ValueError("closed_after_hours, snapshot_days and analyze_bytes must not be negative")
        if self.archive_after_days is not None and self.archive_after_days < 1:
            raise ValueError("archive_after_days must be at least 1")

    @property
    def leaves_files(self) -> bool:
        """Whether no data file is ever rewritten."""
        return self.target_file_bytes == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """A table as it should be.

    Attributes:
        namespace: without the environment's prefix.
        partition_by: columns whose value is the partition, as it is.
        sort_by: order of the rows within a data file that compaction leaves; ingest sorts by the first of these columns
            and keeps the order of arrival in it.
        retention_days: age of a partition after which policy removes it; None keeps it.
        policy: how maintenance keeps the table.
        bucket: which bucket of the settings holds its files.
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
    policy: Policy = Policy()
    bucket: Literal["warehouse", "archive", "ads"] = "warehouse"
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


def _kafka_coordinates(arrived: str) -> tuple[Column, ...]:
    """Where a row comes from, in a table that holds rows of files too."""
    return tuple(
        replace(column, required=False, doc=f"{column.doc} Null for a record of a file.")
        for column in _coordinates(arrived)
    )


CSV_SOURCE: Final = "csv"
"""What stands in the column `source` of a row that came from a file."""

_FILE_COORDINATES: Final = (
    Column(
        "source", pa.string(), f"`{CSV_SOURCE}` for a record of a file; null for a message of Kafka.", required=False
    ),
    Column("file", pa.string(), "Location of the file; null for a message of Kafka.", required=False),
    Column(
        "file_version",
        pa.string(),
        "Number of the commit that brought this version of the file, and its ETag; null for a message of Kafka.",
        required=False,
    ),
    Column(
        "file_line",
        pa.int64(),
        "Line at which the record begins, from 1; unique with file and version. Null for a message of Kafka.",
        required=False,
    ),
    Column(
        "file_modified_at",
        MICROS,
        "Time the object store holds for the file, UTC; what Kafka's is for a message. Null for a message of Kafka.",
        required=False,
    ),
)
"""Where a record of a file comes from; last of the columns, because the tables had the others first."""


USER_ACTIONS: Final = TableSpec(
    namespace="events",
    name="user_actions",
    doc="User actions of the shop; one row per accepted Kafka message or record of a CSV file.",
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
        *_kafka_coordinates("Lateness is counted from it."),
        Column("ingested_at", MICROS, "Start of the ingest run or replay that wrote the row, UTC."),
        Column(
            "replayed_at",
            MICROS,
            "Start of the replay that brought the row back from quarantine, UTC; null for what ingest published.",
            required=False,
        ),
        *_FILE_COORDINATES,
    ),
    partition_by=("event_date",),
    sort_by=("user_id", "event_datetime"),
    policy=Policy(archive_after_days=400),  # a whole year and the month to compare it with
)

HEADERS: Final = pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("value", pa.binary())]))

USER_ACTIONS_QUARANTINE: Final = TableSpec(
    namespace="quarantine",
    name="user_actions",
    doc="What is no valid user action, as it came and with the reason; one row per refused Kafka message or record.",
    owner="data-platform",
    columns=(
        Column("reason", pa.string(), "Reason code, see docs/event-contract.md; of files also docs/csv-drop.md."),
        Column("message", pa.string(), "What is wrong, for a person.", pii=True),
        Column("field", pa.string(), "Path of the field at fault; null when the whole message is.", required=False),
        Column(
            "raw",
            pa.binary(),
            "The bytes as they came; null for a tombstone, and for a line of a file beyond 1 MiB.",
            required=False,
            pii=True,
        ),
        *_kafka_coordinates("The plausible range of event times is counted from it."),
        Column("kafka_key", pa.binary(), "The message's key.", required=False, pii=True),
        Column("kafka_headers", HEADERS, "The message's headers.", required=False),
        Column("rule_version", pa.int32(), "Version of the rules that refused it."),
        Column("ingested_at", MICROS, "Start of the ingest run that wrote the row, UTC: when it was first seen."),
        Column("ingested_date", pa.date32(), "UTC date of ingested_at."),
        *_FILE_COORDINATES,
    ),
    partition_by=("ingested_date",),
    sort_by=("reason",),
)

QUERY_HISTORY: Final = TableSpec(
    namespace="ops",
    name="query_history",
    doc="Queries that Trino ran, failed ones too; one row per query, or per event of Trino's that can't be read.",
    owner="data-platform",
    columns=(
        Column("query_id", pa.string(), "Trino's id of the query; null when the event can't be read.", required=False),
        Column("state", pa.string(), "FINISHED or FAILED.", required=False),
        Column("trino_user", pa.string(), "Who asked: a user of Trino.", required=False),
        Column("source", pa.string(), "Program that asked, by its own words.", required=False),
        Column("resource_group", pa.string(), "Resource group that the query ran in.", required=False),
        Column("catalog_name", pa.string(), "Catalog of the session.", required=False),
        Column("schema_name", pa.string(), "Schema of the session.", required=False),
        Column("query_type", pa.string(), "SELECT, INSERT, DATA_DEFINITION and others of Trino's.", required=False),
        Column("query", pa.string(), "The statement; may hold ids of users as literals.", required=False, pii=True),
        Column("error_type", pa.string(), "USER_ERROR, EXTERNAL and others; null without an error.", required=False),
        Column("error_name", pa.string(), "Trino's name of the error.", required=False),
        Column("error_message", pa.string(), "What went wrong; may hold values.", required=False, pii=True),
        Column("created_at", MICROS, "When Trino got the query, UTC.", required=False),
        Column("ended_at", MICROS, "When it ended, UTC; of an event that can't be read, when Kafka got that."),
        Column("ended_date", pa.date32(), "UTC date of ended_at."),
        Column("wall_seconds", pa.float64(), "From creation to end, in seconds.", required=False),
        Column("queued_seconds", pa.float64(), "How long it waited in its resource group, in seconds.", required=False),
        Column("cpu_seconds", pa.float64(), "CPU time of all its tasks, in seconds.", required=False),
        Column("peak_memory_bytes", pa.int64(), "Most memory it held at once, in bytes.", required=False),
        Column("read_bytes", pa.int64(), "Bytes read from the object store or PostgreSQL.", required=False),
        Column("read_rows", pa.int64(), "Rows read from there.", required=False),
        Column("written_bytes", pa.int64(), "Bytes written.", required=False),
        Column("written_rows", pa.int64(), "Rows written.", required=False),
        Column("output_rows", pa.int64(), "Rows of its result.", required=False),
        Column("problem", pa.string(), "Why the event can't be read; null when it can.", required=False),
        *_coordinates("Within moments of the query's end."),
        Column("collected_at", MICROS, "Start of the commit that brought the row, UTC."),
    ),
    partition_by=("ended_date",),
    sort_by=("ended_at",),
    retention_days=90,
)

MAINTENANCE_RUNS: Final = TableSpec(
    namespace="ops",
    name="maintenance_runs",
    doc="What `lakehouse maintain apply` did to the tables; one row per action.",
    owner="data-platform",
    columns=(
        Column("run_id", pa.string(), "The run that took the action."),
        Column("table_name", pa.string(), "The table as `namespace.name`, without prefix."),
        Column("action", pa.string(), "compact, expire_snapshots, rewrite_manifests, remove_orphans or analyze."),
        Column("table_partition", pa.string(), "The partition compacted; null for the whole table.", required=False),
        Column("reason", pa.string(), "Why, in words with numbers."),
        Column("started_at", MICROS, "When the action began, UTC."),
        Column("ended_at", MICROS, "When it ended, UTC."),
        Column("ended_date", pa.date32(), "UTC date of ended_at."),
        Column("outcome", pa.string(), "done, failed, or skipped because a dbt build wrote to the table."),
        Column("error", pa.string(), "What went wrong; null when nothing did.", required=False),
        Column("files_before", pa.int64(), "Data and delete files of the newest snapshot before the action."),
        Column("files_after", pa.int64(), "Data and delete files of the newest snapshot after it.", required=False),
        Column("bytes_before", pa.int64(), "Bytes of those files."),
        Column("bytes_after", pa.int64(), "Bytes of those files.", required=False),
        Column("reclaimed_bytes", pa.int64(), "Bytes that the action took out of the object store."),
        Column("probe", pa.string(), "The query that was timed before and after; null without rows.", required=False),
        Column("planning_seconds_before", pa.float64(), "How long Trino planned it before.", required=False),
        Column("planning_seconds_after", pa.float64(), "How long Trino planned it after.", required=False),
        Column("scan_seconds_before", pa.float64(), "How long the rest of it took before.", required=False),
        Column("scan_seconds_after", pa.float64(), "How long the rest of it took after.", required=False),
    ),
    partition_by=("ended_date",),
    sort_by=("ended_at",),
    retention_days=365,
)

CSV_FILES: Final = TableSpec(
    namespace="ops",
    name="csv_files",
    doc="What `lakehouse csv run` made of the dropped files; one row per version of a file, the newest one counts.",
    owner="data-platform",
    columns=(
        Column("commit_number", pa.int64(), "Number of the commit that brought the version; each is one more."),
        Column("file", pa.string(), "Location of the file."),
        Column("file_version", pa.string(), "Number of the commit and ETag, as in the rows of the version."),
        Column("drop_date", pa.date32(), "Date of the folder that the file lies in."),
        Column("etag", pa.string(), "The object store's tag of the content."),
        Column("size_bytes", pa.int64(), "Size of the file, in bytes."),
        Column("modified_at", MICROS, "Time the object store holds for the file, UTC."),
        Column("status", pa.string(), "`loaded`, or `refused` where the whole file is set aside as one record."),
        Column("rule_version", pa.int32(), "Version of the rules that judged it."),
        Column("header", pa.string(), "The line that names the columns; null for a refused file.", required=False),
        Column("lines", pa.int64(), "Lines of the file, the header and empty ones included."),
        Column("blank_lines", pa.int64(), "Empty lines among them, which hold no record."),
        Column("records", pa.int64(), "Records of the file: each is published or in quarantine."),
        Column("published_rows", pa.int64(), "Records that became events."),
        Column("quarantined_rows", pa.int64(), "Records that were refused, those replayed later too."),
        Column("replaced_version", pa.string(), "The version whose rows it took the place of.", required=False),
        Column("withdrawn_rows", pa.int64(), "Events of that version that it took out of the table."),
        Column("ingested_at", MICROS, "Start of the run that brought it, UTC; as in its rows."),
        Column("recorded_at", MICROS, "When this row was written, UTC; after its events."),
    ),
    partition_by=("drop_date",),
    sort_by=("file",),
)

INGESTED: Final = (USER_ACTIONS, USER_ACTIONS_QUARANTINE)
"""The tables that share the messages of the user actions: each message is in one of them."""

USER_ACTIONS_ARCHIVE: Final = replace(
    USER_ACTIONS,
    name="user_actions_archive",
    doc="Old user actions, moved here from events.user_actions; its data files are those of the archive themselves.",
    bucket="archive",
    policy=Policy(target_file_bytes=1),  # no file is ever rewritten: each must stay as its manifest describes it
)

IMPRESSIONS_ARCHIVE: Final = TableSpec(
    namespace="ads",
    name="impressions_archive",
    doc="Old ad impressions, moved here from PostgreSQL; one row per impression, in its newest version.",
    owner="data-platform",
    columns=(
        Column("shown_date", pa.date32(), "UTC date of shown_at; names the impression together with impression_id."),
        Column("impression_id", pa.string(), "The ad API's id, unique within a date."),
        Column("campaign", pa.string(), "Campaign that paid for it."),
        Column("ad", pa.string(), "What was shown."),
        Column("sku", pa.string(), "Stock keeping unit of the product that the ad is for."),
        Column("user_id", pa.string(), "Who saw it.", pii=True),
        Column("shown_at", MICROS, "When it was shown, UTC."),
        Column("clicked_at", MICROS, "When the user clicked, UTC; null without a click.", required=False),
        Column("cost_micros", pa.int64(), "What it cost, in millionths of the account's currency."),
        Column("updated_at", MICROS, "The version: when the ad API changed the record last, UTC."),
        Column("arrived_at", MICROS, "When this version came into view: start of the load or merge, UTC."),
    ),
    partition_by=("shown_date",),
    sort_by=("impression_id",),
    bucket="ads",
    policy=Policy(target_file_bytes=1),  # no file is ever rewritten: each must stay as its batch describes it
)

ALL: Final = (*INGESTED, QUERY_HISTORY, MAINTENANCE_RUNS, CSV_FILES, USER_ACTIONS_ARCHIVE, IMPRESSIONS_ARCHIVE)
