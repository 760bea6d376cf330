"""
### Event transformation

Waits for CSV files of user actions under the date's folder, `s3://user-events/year=YYYY/month=MM/day=DD/`, and has the
Spark job `event-transformation` bring them into `events.user_actions`; lines that break the contract go to
`quarantine.user_actions` with file and line.

**Upstream**: whoever drops the files; `lakehouse drop` does it by hand.

**Downstream**: asset `events.user_actions`, on which the DAG `transform` runs.
A run that finds every file in the tables already is *skipped* and starts nothing.
When no file came in time the run fails, and `files_of_days_before` still brings what came for the days before.

**Why this schedule**: each morning, when the day's files are expected; they may come up to five hours later.
While it waits, it holds no worker: the triggerer looks every 15 seconds.
Several runs wait side by side, so one that somebody triggers need not wait until another's files came. Each of the
tasks that load works in one run at a time. When the two of them, or one and a command, load at once, all is brought
once all the same: the commits of files are numbered one after the other, and who is overtaken looks anew.

**Interval**: the date of the run, and the seven days before it, where late and corrected files are looked for. A run
that somebody triggers without a date takes today. A backfill takes the date of each of its intervals. Files of other
dates wait in the bucket: the result names them under `waiting`, with the command that brings them.

**Safe to re-run?** Always. A version of a file is in the tables once, and a corrected file replaces exactly what its
earlier version brought.

**Stop it** by marking the run as failed: Spark ends with it, and nothing is half committed.

**Triage**

| what the task says | what to do |
| --- | --- |
| up for retry, exit 75 | a server is away or fails on a file, a file changes, or others commit. It retries by itself. |
| failed, no CSV file came | nobody dropped one in time; ask who sends them, then trigger again with that date. |
| failed, exit 1, events are in the archive | the message says what to restore, then trigger again. |
| failed, exit 1, a file can't be read | the message names it, all others are done; have it readable or dropped anew. |
| failed, exit 3 | a commit's answer got lost; when the catalog is back, trigger again: the table tells. |
| many lines of a file in quarantine | `lakehouse quarantine list --file` says why; drop a corrected file. |

More in `docs/operations.md`.
"""  # noqa: D212, D415  (the first line is the heading that the UI shows)

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.amazon.aws.sensors.s3 import S3KeySensor
from airflow.sdk import DAG, Asset, Context, Param
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import AirflowSensorTimeout
from alerts import deadline
from lakehouse_command import TASK_DEFAULTS, LakehouseCommand, prefix_param, spark_master_param, value_of

from lakehouse.csv_files import folder
from lakehouse.settings import load_settings

USER_ACTIONS = Asset("events.user_actions")
RUN_DATE = "{{ dag_run.logical_date | ds if dag_run.logical_date else '' }}"


class DroppedFile(S3KeySensor):
    """Wait until a CSV file lies in the folder of the run's date; the params say which date, and where.

    It defers: the triggerer looks, and no worker waits. When no file came in time, it fails for good and says so.
    """

    template_fields: Sequence[str] = (*S3KeySensor.template_fields, "run_date")

    def __init__(self, *, run_date: str, **kwargs: Any) -> None:
        super().__init__(bucket_key="", wildcard_match=True, deferrable=True, aws_conn_id="lakehouse_s3", **kwargs)
        self.run_date = run_date
        self.options: dict[str, str] = {"date": "--date", "prefix": "LAKEHOUSE_PREFIX"}

    def execute(self, context: Context) -> None:
        """Look once, and leave the rest to the triggerer."""
        self.bucket_key = self._key(context)
        super().execute(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on when a file came, or say that none did."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowSensorTimeout as error:
            hours = self.timeout / 3600
            raise AirflowSensorTimeout(f"no CSV file came to {self._key(context)} within {hours:g} hours") from error

    def _key(self, context: Context) -> str:
        settings = load_settings()
        prefix = value_of(self, context, "prefix") or settings.prefix
        text = value_of(self, context, "date") or self.run_date
        day = datetime.fromisoformat(text).date() if text else datetime.now(UTC).date()
        return f"s3://{settings.s3.user_events_bucket}/{folder(prefix, day)}*.csv"


with DAG(
    dag_id="event_transformation",
    description="CSV files in s3://user-events → events.user_actions and quarantine.user_actions",
    doc_md=__doc__,
    schedule="0 5 * * *",
    catchup=False,
    max_active_runs=16,
    tags=["ingest", "user_actions", "csv"],
    default_args=TASK_DEFAULTS,
    deadline=deadline(timedelta(hours=6)),
    params=ParamsDict(
        {
            "date": Param(
                None,
                type=["null", "string"],
                format="date",
                title="Date",
                description="Take the folder of this date instead of the run's own.",
            ),
            "days_back": Param(
                None,
                type=["null", "integer"],
                minimum=0,
                title="Days back",
                description="Look for corrected files in the folders of so many days before the date.",
            ),
            "spark_master": spark_master_param(),
            "prefix": prefix_param(),
        }
    ),
):
    # Waits for the day's files without holding a worker, and fails with what is missing when none comes.
    wait = DroppedFile(
        task_id="wait_for_files",
        run_date=RUN_DATE,
        poke_interval=15,
        timeout=timedelta(hours=5).total_seconds(),
        execution_timeout=timedelta(hours=6),
        max_active_tis_per_dag=None,  # a sensor that is deferred counts too, and would keep every other run waiting
    )
    # Run the Spark job: it reads new and corrected files and commits their records, each version once.
    # The first when the day's files came. Else the second, for the days before; the first one's state fails the run.
    for task_id, rule in (("event_transformation", "all_success"), ("files_of_days_before", "one_failed")):
        load = LakehouseCommand(
            task_id=task_id,
            trigger_rule=rule,
            arguments=["csv", "run", "--output", "json"],
            options={
                "date": "--date",
                "days_back": "--days-back",
                "spark_master": "LAKEHOUSE_SPARK__MASTER",
                "prefix": "LAKEHOUSE_PREFIX",
            },
            intervals={"date": RUN_DATE},
            skip_unless=["published_rows", "quarantined_rows", "withdrawn_rows"],
            execution_timeout=timedelta(hours=2),
            outlets=[USER_ACTIONS],
        )
        load.set_upstream(wait)
