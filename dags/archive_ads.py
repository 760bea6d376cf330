"""
### Archive ad impressions

Moves impressions that were shown longer ago than some days from PostgreSQL to Parquet files in the bucket `ad-data`:
written, read back and compared, registered in `ads.impressions_archive`, and only then deleted by key.
`ads.impressions_all` shows live and archived ones, each once, at every moment.

**Upstream**: `ads.impressions` in PostgreSQL, filled by the DAG `api-load`.

**Downstream**: asset `ads.impressions_archive`; `lakehouse ads status` shows how far it reaches.
A run that finds nothing old is *skipped* and starts nothing.

**Why this schedule**: daily in the night, because a date grows old once a day.
The pool `maintenance` has one slot, which the DAG `maintain_tables` needs too: a table has one maintainer.

**Interval**: dates that are older now than the param `days` says, 30 by default; a backfill does nothing that one run
would not do.

**Safe to re-run?** Always, and beside loads. A kill between any two steps loses and doubles nothing: the next run ends
what was begun.

**Triage**

| what the task says | what to do |
| --- | --- |
| up for retry, exit 75 | a server is away, or a load was writing to the date each time. It retries by itself. |
| failed, exit 1, what was read back differs | nothing was deleted; look after the object store and run again. |
| failed, exit 1, somebody deleted rows | every other date was archived; look which rows went from the archive. |
| failed, exit 3 | a commit's answer got lost; when the catalog is back, trigger again: the table tells. |

More in `docs/operations.md`.
"""  # noqa: D212, D415  (the first line is the heading that the UI shows)

from datetime import timedelta

from airflow.sdk import DAG, Asset, CronTriggerTimetable, Param
from airflow.sdk.definitions.param import ParamsDict
from alerts import deadline
from lakehouse_command import TASK_DEFAULTS, LakehouseCommand, dry_run_param, prefix_param

ARCHIVE = Asset("ads.impressions_archive")

with DAG(
    dag_id="archive_ads",
    description="Old impressions: ads.impressions in PostgreSQL → ad-data and ads.impressions_archive",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("40 2 * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["operations", "ads"],
    default_args=TASK_DEFAULTS,
    deadline=deadline(timedelta(hours=3)),
    params=ParamsDict(
        {
            "days": Param(
                None,
                type=["null", "integer"],
                minimum=0,
                title="Days",
                description="Age from which on impressions are archived, in days since they were shown; 30 by default.",
            ),
            "dry_run": dry_run_param(),
            "prefix": prefix_param(),
        }
    ),
):
    # All of it in one task: what leaves PostgreSQL must be what was read back just before.
    LakehouseCommand(
        task_id="archive",
        arguments=["ads", "archive", "--output", "json"],
        options={"days": "--days", "dry_run": "--dry-run", "prefix": "LAKEHOUSE_PREFIX"},
        skip_unless=["archived", "abandoned"],
        pool="maintenance",
        execution_timeout=timedelta(hours=4),
        outlets=[ARCHIVE],
    )
