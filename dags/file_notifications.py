"""
### File notifications

Takes up the files that were announced on Kafka, checks each against its announcement, aggregates their lines with Spark
by dataset, date and product, and stores the aggregates in PostgreSQL, in `reporting.file_aggregates`.

**Upstream**: the Kafka topic `file-notifications`, written by whoever puts a file into the bucket `file-drop`.

**Downstream**: asset `reporting.file_aggregates`, on which the DAG `transform` runs.
A run that finds nothing new is *skipped* and starts nothing.

**Why this schedule**: a message rings the doorbell, the asset `file-notifications`, and a run starts within seconds.
Airflow may ring twice or not at all, so nothing hangs on it: a run reads the topic itself, with a consumer group of its
own, and every fifteen minutes one starts by the clock.
One run at a time; those that ring meanwhile are one more run after it.

**Interval**: from where the last run ended to the end of the topic when this one starts, and every file that is
pending. A backfill does nothing that one run would not do.

**Safe to re-run?** Always. A message and a version of a file are in the ledger once, and a day's aggregates change in
the transaction that says of its files that they count.

**Triage**

| what the task says | what to do |
| --- | --- |
| up for retry, exit 75 | a server is away, or another run is at work. It retries by itself. |
| failed, exit 1, notifications were gone from Kafka | the rest was done; announce the files anew, accept the loss. |
| files were set aside | `lakehouse files list --status failed` says why; mend a file and announce it again. |

More in `docs/operations.md` and `docs/file-notifications.md`.
"""  # noqa: D212, D415  (the first line is the heading that the UI shows)

from datetime import timedelta

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable
from airflow.sdk.definitions.param import ParamsDict
from alerts import deadline
from doorbell import Doorbell
from lakehouse_command import TASK_DEFAULTS, LakehouseCommand, prefix_param, spark_master_param

from lakehouse.settings import get_settings

# The topic and the Connection come from the settings of the place where Airflow runs; neither is opened here.
FILE_NOTIFICATIONS = Asset(
    "file-notifications",
    watchers=[
        AssetWatcher(
            name="doorbell",
            trigger=Doorbell(
                topics=[get_settings().file_notifications_topic], kafka_config_id="lakehouse_file_doorbell"
            ),
        )
    ],
)
FILE_AGGREGATES = Asset("reporting.file_aggregates")

with DAG(
    dag_id="file_notifications",
    description="Announced files: Kafka → S3 → Spark → reporting.file_aggregates in PostgreSQL",
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("*/15 * * * *", timezone="UTC"), assets=FILE_NOTIFICATIONS
    ),
    catchup=False,
    max_active_runs=1,
    tags=["ingest", "files"],
    default_args=TASK_DEFAULTS,
    deadline=deadline(timedelta(hours=1)),
    params=ParamsDict({"spark_master": spark_master_param(), "prefix": prefix_param()}),
):
    # One task for all that is waiting: it drains the topic, commits the offsets when PostgreSQL has the messages, has
    # Spark check and aggregate the files, and stores the days. A task for each file would start Spark for each.
    LakehouseCommand(
        task_id="aggregate",
        arguments=["files", "run", "--output", "json"],
        options={"spark_master": "LAKEHOUSE_SPARK__MASTER", "prefix": "LAKEHOUSE_PREFIX"},
        skip_unless=["announced", "refused", "done", "failed", "replaced"],
        execution_timeout=timedelta(hours=2),
        outlets=[FILE_AGGREGATES],
    )
