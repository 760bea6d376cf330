"""
### Archive events

Moves the days of `events.user_actions` that are past the table's policy to the archive bucket: Parquet files with a
manifest of counts and hashes are written, read back and compared, and only then the days are deleted from the table.
They stay queryable as `events.user_actions_archive`.

**Upstream**: asset `ops.maintenance_runs`, updated by the DAG `maintain_tables` when it did something.

**Downstream**: asset `events.user_actions_archive`; `lakehouse archive list` shows what is there.
A run that finds no day past the policy is *skipped* and starts nothing.

**Why this schedule**: after maintenance, because a day's small files are compacted by then; daily by the clock beside
it, because days grow old also where no maintenance is due.
The pool `maintenance` has one slot, which the DAG `maintain_tables` needs too: a table has one maintainer.

**Interval**: the dates that are past the policy now, or those before the param `before`. A date that is in the archive
already is not archived again, so a backfill does nothing that one run would not do.

**Safe to re-run?** Always. A kill between any two steps loses and doubles nothing: the next run goes on where it was.

**Triage**

| what the task says | what to do |
| --- | --- |
| up for retry, exit 75 | Trino, the catalog or the object store is away. It retries by itself. |
| failed, exit 1, what was read back differs | nothing was deleted; look after the object store and run again. |
| failed, exit 3 | a commit's answer got lost; when the catalog is back, trigger again: the table tells. |

More in `docs/operations.md`.
"""  # noqa: D212, D415  (the first line is the heading that the UI shows)

from datetime import timedelta

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, CronTriggerTimetable, Param
from airflow.sdk.definitions.param import ParamsDict
from alerts import deadline
from lakehouse_command import TASK_DEFAULTS, LakehouseCommand, dry_run_param, prefix_param

MAINTENANCE_RUNS = Asset("ops.maintenance_runs")
ARCHIVE = Asset("events.user_actions_archive")

with DAG(
    dag_id="archive_events",
    description="Days past the policy: events.user_actions → archive bucket and events.user_actions_archive",
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("50 3 * * *", timezone="UTC"), assets=MAINTENANCE_RUNS),
    catchup=False,
    max_active_runs=1,
    tags=["operations", "tables", "user_actions"],
    default_args=TASK_DEFAULTS,
    deadline=deadline(timedelta(hours=5)),
    params=ParamsDict(
        {
            "before": Param(
                None,
                type=["null", "string"],
                format="date",
                title="Before",
                description="Archive the dates before this one instead of those that the policy names.",
            ),
            "dry_run": dry_run_param(),
            "prefix": prefix_param(),
        }
    ),
):
    LakehouseCommand(
        task_id="archive",
        arguments=["archive", "run", "--output", "json"],
        options={"before": "--before", "dry_run": "--dry-run", "prefix": "LAKEHOUSE_PREFIX"},
        skip_unless=["archived", "withdrawn"],
        pool="maintenance",
        execution_timeout=timedelta(hours=4),
        outlets=[ARCHIVE],
    )
