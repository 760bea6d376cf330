"""
### Load ad impressions

Asks the ad API for the impressions that changed, stores what it returns in the bucket `ad-data` as it came, and only
then inserts it into `ads.impressions` in PostgreSQL.

**Upstream**: the ad API.

**Downstream**: asset `ads.impressions`; the mart `fct_ad_performance_daily`, with the next build, and the DAG
`archive_ads`. A run that brought no record is *skipped* and starts nothing.

**Why this schedule**: hourly, five minutes past, because the API shows a change within some minutes.
No catch-up: a run asks for everything since the end of what was loaded, so a missed one needs no replacement.

**Interval**: from the end of what was loaded without a hole, less a quarter of an hour, to the end of the run's
interval, a day at a time; the params `from` and `until` ask for another one, and what is asked for by `from` does not
move where the next run begins. A backfill cuts a backlog into its intervals, in order.

**Safe to re-run?** Always. The insert is by key and the newest version of an impression stays. A backup that a killed
run left is inserted by the next one.

**Triage**

| what the task says | what to do |
| --- | --- |
| up for retry, exit 75 | the API, PostgreSQL, the object store or the catalog is away. It retries by itself. |
| failed, exit 1, the ad API refuses | see the token and the account; what it says stands in the message. |
| failed, exit 1, the counts differ | nothing was inserted; look for who else writes to `ads.impressions`. |
| many records are refused | `lakehouse ads rejected`; usually the API has changed its records. |

More in `docs/operations.md`.
"""  # noqa: D212, D415  (the first line is the heading that the UI shows)

from datetime import timedelta

from airflow.sdk import DAG, Asset, CronTriggerTimetable, Param
from airflow.sdk.definitions.param import ParamsDict
from alerts import deadline
from lakehouse_command import TASK_DEFAULTS, LakehouseCommand, moment_param, prefix_param

IMPRESSIONS = Asset("ads.impressions")

with DAG(
    dag_id="api-load",
    description="Ad API → backup in ad-data → ads.impressions in PostgreSQL",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("5 * * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["ingest", "ads"],
    default_args=TASK_DEFAULTS,
    deadline=deadline(timedelta(hours=1)),
    params=ParamsDict(
        {
            "from": moment_param("From", "Load what changed from this time on, instead of what was not loaded yet."),
            "until": moment_param("Until", "Load what changed before this time; now, when it is in the future."),
            "account": Param(
                None,
                type=["null", "string"],
                pattern=r"^[\w.-]+$",
                title="Account",
                description="Account at the ad API whose impressions are read; accounts that share ids need an "
                "environment each.",
            ),
            "prefix": prefix_param(),
        }
    ),
):
    # All of it in one task: the backup must be whole before the insert begins, and a retry finds out what is done.
    LakehouseCommand(
        task_id="load",
        arguments=["ads", "load", "--output", "json"],
        options={
            "from": "--from",
            "until": "--until",
            "account": "LAKEHOUSE_ADS__ACCOUNT",
            "prefix": "LAKEHOUSE_PREFIX",
        },
        intervals={"until": "{{ dag_run.data_interval_end | ts if dag_run.data_interval_end else '' }}"},
        skip_unless=["records", "recovered", "merged_rows"],
        execution_timeout=timedelta(hours=2),
        outlets=[IMPRESSIONS],
    )
