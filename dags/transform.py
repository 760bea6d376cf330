"""
### Transform

Runs dbt on Trino: staging → intermediate → marts, with their tests, and then publishes the marts: the views of the
schema `marts` turn to what was built and tested in `build`.

**Upstream**: assets `events.user_actions`, updated by the DAG `ingest_user_actions` when it brought rows, and
`reporting.file_aggregates`, updated by the DAG `file_notifications` when it took up files.

**Downstream**: asset `marts.fct_events_daily`; everybody who reads the marts.

**Why this schedule**: whenever new rows have arrived, and hourly beside it, because a run that was stopped between
its commit and its report leaves rows that no asset event tells of.
The pool `transform` has one slot: two dbt runs would write the same tables.

**Interval**: what has arrived since each model was built. A run of a backfill takes in all that arrived since the
start of its interval as well, and rebuilds the event dates it touches.

**Safe to re-run?** Always. The models take what has arrived since their last run and rebuild the event dates it
touches; a second run finds nothing to do. A run that was stopped while it published is finished by the next one.

**When it fails**, nothing is published: people keep reading the marts of the last run that ended well, and the error
says since when. `lakehouse transform status` shows what they read and what waits.

**Triage**

| what the task says | what to do |
| --- | --- |
| up for retry, exit 75 | Trino or the catalog is away; look at `lakehouse stack status`. It retries by itself. |
| failed, exit 1, a test failed | the log names the test; mend the data or the model and trigger this DAG. |
| failed, exit 1, a model failed | the log names the model; mend it and trigger this DAG. |

More in `docs/operations.md`.
"""  # noqa: D212, D415  (the first line is the heading that the UI shows)

from datetime import timedelta

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, CronTriggerTimetable, Param
from airflow.sdk.definitions.param import ParamsDict
from alerts import deadline
from lakehouse_command import TASK_DEFAULTS, LakehouseCommand, moment_param, prefix_param

USER_ACTIONS = Asset("events.user_actions")
FILE_AGGREGATES = Asset("reporting.file_aggregates")
EVENTS_DAILY = Asset("marts.fct_events_daily")

with DAG(
    dag_id="transform",
    description="dbt on Trino: events.user_actions → marts.fct_events_daily",
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("30 * * * *", timezone="UTC"), assets=USER_ACTIONS | FILE_AGGREGATES
    ),
    catchup=False,
    max_active_runs=1,
    tags=["transform", "dbt"],
    default_args=TASK_DEFAULTS,
    deadline=deadline(timedelta(hours=1)),
    params=ParamsDict(
        {
            "select": Param(
                None,
                type=["null", "string"],
                pattern=r"^([\w+@*.,:][\w+@*.,:/ -]*)?$",
                title="Select",
                description="dbt selection, such as `+fct_events_daily`; empty: every model.",
            ),
            "since": moment_param("Since", "Take in again all that arrived since this time."),
            "full_refresh": Param(
                False,
                type="boolean",
                title="Full refresh",
                description="Build incremental models anew from all events.",
            ),
            "prefix": prefix_param(),
        }
    ),
):
    LakehouseCommand(
        task_id="dbt_build",
        arguments=["transform", "run", "--output", "json"],
        options={
            "select": "--select",
            "since": "--since",
            "full_refresh": "--full-refresh",
            "prefix": "LAKEHOUSE_PREFIX",
        },
        intervals={"since": "{{ dag_run.data_interval_start | ts if dag_run.run_type == 'backfill' else '' }}"},
        pool="transform",
        execution_timeout=timedelta(hours=2),
        outlets=[EVENTS_DAILY],
    )
