"""The catalogue of metrics: what each one means, its unit, its labels and where its value comes from.

`docs/metrics.md` is made of it, and the exporter emits exactly what stands here.

Labels are bounded by what the platform is made of: tables, topics and their partitions, DAGs, servers, buckets. A
`table` is `namespace.name`, without the environment's prefix; so is a `topic`.
"""

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["gauge", "counter"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: as it is exposed; a counter's ends in `_total`.
        kind: what it is to Prometheus.
        help: what it means, with its unit.
        source: where the value comes from.
        labels: names, in order.
    """

    name: str
    kind: Kind
    help: str
    source: str
    labels: tuple[str, ...] = ()


KAFKA_LAG_RECORDS: Final = Metric(
    "lakehouse_kafka_lag_records",
    "gauge",
    "Offsets of a topic partition that wait to be brought into their table.",
    "Kafka's end offsets less the position in the table's properties; of announced files, less the group's offsets. "
    "What Kafka dropped before it was read waits no more: it is a gap of the ledger.",
    ("topic", "partition"),
)
KAFKA_LAG_SECONDS: Final = Metric(
    "lakehouse_kafka_lag_seconds",
    "gauge",
    "Age of the oldest message of a topic partition that is not in its table yet, in seconds; 0 when none waits.",
    "Kafka's timestamp of the message at the position.",
    ("topic", "partition"),
)
POSITION_AGE_SECONDS: Final = Metric(
    "lakehouse_position_age_seconds",
    "gauge",
    "Time since a table's position in Kafka last moved, in seconds.",
    "The newest snapshot of the table that moved it; when that is expired, the oldest one that is left.",
    ("table",),
)
FRESHNESS_SECONDS: Final = Metric(
    "lakehouse_freshness_seconds",
    "gauge",
    "Age of the oldest row that waits upstream of a table or mart, in seconds; 0 when nothing waits.",
    "Of a table, the lag of its topics; of announced files, the first pending one; of a mart, the oldest arrival in "
    "events.user_actions that no published mart has, or the first version that is built of it and not published; "
    "impressions and files that wait for a mart are not looked at.",
    ("table",),
)
FRESHNESS_TARGET_SECONDS: Final = Metric(
    "lakehouse_freshness_target_seconds",
    "gauge",
    "Most that a row may wait upstream of a table or mart by what is promised of it, in seconds.",
    "The settings `exporter.freshness_target_seconds` and, of what is built or collected by the hour, "
    "`exporter.build_target_seconds`.",
    ("table",),
)
ROWS_PUBLISHED: Final = Metric(
    "lakehouse_rows_published_total",
    "counter",
    "Rows brought into a table since it was made; maintenance, archiving and corrections never take any away.",
    "Of topics, the offsets that the position has passed less those refused, absent or lost, plus those replayed; of "
    "CSV files, ops.csv_files; of ads, ads.loads; of announced files, the lines in reporting.file_ledger.",
    ("table",),
)
ROWS_QUARANTINED: Final = Metric(
    "lakehouse_rows_quarantined_total",
    "counter",
    "Messages, records or files that were meant for a table and set aside, by reason; 0 for a reason not yet met.",
    "The column `reason` of quarantine.user_actions, ads.rejected, reporting.file_ledger and file_notifications.",
    ("table", "reason"),
)
ROWS_LATE: Final = Metric(
    "lakehouse_rows_late_total",
    "counter",
    "Events that came so late that published days were told anew.",
    "The mart fct_data_quality_daily, as it is published.",
    ("table",),
)
ROWS_REPLAYED: Final = Metric(
    "lakehouse_rows_replayed_total",
    "counter",
    "Rows that replays brought back from quarantine.",
    "The table's properties `lakehouse.replayed.*` and `lakehouse.csv.replayed`.",
    ("table",),
)
LEDGER_GAPS: Final = Metric(
    "lakehouse_ledger_gaps",
    "gauge",
    "Things that do not add up in a ledger; anything but 0 is lost, doubled or changed by hand.",
    "`lakehouse audit` (kafka, csv, aggregate), `lakehouse files audit` (files) and the counts of loads, live rows and "
    "archive (ads); read only, in the background.",
    ("ledger",),
)
LEDGER_AUDIT_AGE_SECONDS: Final = Metric(
    "lakehouse_ledger_audit_age_seconds",
    "gauge",
    "Time since a ledger was last audited to the end, in seconds.",
    "The exporter's own audits.",
    ("ledger",),
)
TABLE_FILES: Final = Metric(
    "lakehouse_table_files",
    "gauge",
    "Data and delete files of a table's newest snapshot.",
    "The table's metadata.",
    ("table",),
)
TABLE_SMALL_FILES: Final = Metric(
    "lakehouse_table_small_files",
    "gauge",
    "Files that the next run of maintenance would save; those of a partition that still gets rows wait for its end.",
    "The table's manifests and its policy, as `lakehouse maintain plan` tells.",
    ("table",),
)
TABLE_OVERDUE_FILES: Final = Metric(
    "lakehouse_table_overdue_files",
    "gauge",
    "Files that a run of maintenance in the last day should have saved; 0 where maintenance keeps up.",
    "The same, as `lakehouse tables health` tells.",
    ("table",),
)
TABLE_SNAPSHOTS: Final = Metric(
    "lakehouse_table_snapshots",
    "gauge",
    "Snapshots of a table that are not expired.",
    "The table's metadata.",
    ("table",),
)
TABLE_BYTES: Final = Metric(
    "lakehouse_table_bytes",
    "gauge",
    "Bytes of data and delete files of a table's newest snapshot.",
    "The table's metadata.",
    ("table",),
)
DAG_LAST_SUCCESS: Final = Metric(
    "lakehouse_dag_last_success_timestamp_seconds",
    "gauge",
    "When the newest run of a DAG that succeeded ended, in seconds since 1970.",
    "Airflow's REST API.",
    ("dag_id",),
)
DAG_LAST_RUN_DURATION: Final = Metric(
    "lakehouse_dag_last_run_duration_seconds",
    "gauge",
    "How long the newest finished run of a DAG took, in seconds.",
    "Airflow's REST API.",
    ("dag_id",),
)
DAG_LAST_RUN_FAILED: Final = Metric(
    "lakehouse_dag_last_run_failed",
    "gauge",
    "1 when the newest finished run of a DAG failed, else 0.",
    "Airflow's REST API.",
    ("dag_id",),
)
DAG_LATE_RUNS: Final = Metric(
    "lakehouse_dag_late_runs",
    "gauge",
    "Runs of a DAG that go on past their deadline.",
    "Airflow's REST API.",
    ("dag_id",),
)
DAG_PAUSED: Final = Metric(
    "lakehouse_dag_paused",
    "gauge",
    "1 when a DAG is paused, else 0.",
    "Airflow's REST API.",
    ("dag_id",),
)
SERVER_UP: Final = Metric(
    "lakehouse_server_up",
    "gauge",
    "1 when a server answered a health request in time, else 0; Airflow's other parts are told by its API server, and "
    "absent while that does not answer.",
    "A request to airflow, catalog, kafka, minio, postgres and trino each; the heartbeats of airflow-scheduler, "
    "airflow-dag-processor and airflow-triggerer.",
    ("server",),
)
SERVER_LATENCY_SECONDS: Final = Metric(
    "lakehouse_server_latency_seconds",
    "gauge",
    "How long a server took to answer the health request, in seconds; absent while it does not answer well.",
    "The same requests.",
    ("server",),
)
BUCKET_BYTES: Final = Metric(
    "lakehouse_bucket_bytes",
    "gauge",
    "Bytes of the newest versions of all objects of a bucket.",
    "A listing of the bucket.",
    ("bucket",),
)
BUCKET_OBJECTS: Final = Metric(
    "lakehouse_bucket_objects",
    "gauge",
    "Objects of a bucket, however many versions they have.",
    "A listing of the bucket.",
    ("bucket",),
)
DISK_FREE_BYTES: Final = Metric(
    "lakehouse_disk_free_bytes",
    "gauge",
    "Bytes that the pipeline may still write to a volume.",
    "The file system that LAKEHOUSE_HOME lies on (volume `home`).",
    ("volume",),
)
DISK_SIZE_BYTES: Final = Metric(
    "lakehouse_disk_size_bytes",
    "gauge",
    "Size of a volume, in bytes.",
    "The file system that LAKEHOUSE_HOME lies on (volume `home`).",
    ("volume",),
)
ARCHIVE_AGE_SECONDS: Final = Metric(
    "lakehouse_archive_age_seconds",
    "gauge",
    "Time since an archive last got something, in seconds.",
    "The newest snapshot of events.user_actions_archive (archive `events`); ads.archive_batches (archive `ads`).",
    ("archive",),
)
BACKUP_AGE_SECONDS: Final = Metric(
    "lakehouse_backup_age_seconds",
    "gauge",
    "Time since a backup was last stored and loaded whole, in seconds.",
    "The newest row of ads.loads (backup `ads`).",
    ("backup",),
)
EXPORTER_BUILD_INFO: Final = Metric(
    "lakehouse_exporter_build_info",
    "gauge",
    "1, with the version of the exporter as label.",
    "The package.",
    ("version",),
)
COLLECTOR_UP: Final = Metric(
    "lakehouse_exporter_collector_up",
    "gauge",
    "1 when the last look of a collector ended well and in time, else 0; absent until the first one has ended.",
    "The exporter.",
    ("collector",),
)
COLLECTOR_DURATION_SECONDS: Final = Metric(
    "lakehouse_exporter_collector_duration_seconds",
    "gauge",
    "How long the last look of a collector took, in seconds.",
    "The exporter.",
    ("collector",),
)
COLLECTOR_AGE_SECONDS: Final = Metric(
    "lakehouse_exporter_collector_age_seconds",
    "gauge",
    "How old the facts of a collector are that are shown, in seconds; absent while none are.",
    "The exporter.",
    ("collector",),
)
COLLECTOR_ERRORS: Final = Metric(
    "lakehouse_exporter_collector_errors_total",
    "counter",
    "Looks of a collector that failed or took too long, since the exporter started.",
    "The exporter.",
    ("collector",),
)
SCRAPE_CPU_SECONDS: Final = Metric(
    "lakehouse_exporter_scrape_cpu_seconds",
    "gauge",
    "CPU time that the exporter used from the scrape before the last one to the last one, all looks included.",
    "The exporter.",
)

METRICS: Final[tuple[Metric, ...]] = tuple(value for value in dict(globals()).values() if isinstance(value, Metric))
"""Every metric, in the order of the page."""
