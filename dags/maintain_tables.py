"""
### Maintain tables

Keeps the Iceberg tables healthy: compacts the small files of closed days, expires old snapshots, removes orphan files,
rewrites manifests and gathers statistics. It measures each table, plans by the policy that stands beside the table, and
does only what is due.

**Upstream**: the tables themselves, whatever wrote them.

**Downstream**: asset `ops.maintenance_runs`, on which the DAG `archive_events` runs; `lakehouse tables health` shows
what each run did. A run that finds nothing due is *skipped* and starts nothing.

**Why this schedule**: by the clock, every six hours, the first time soon after a UTC day is closed. An asset would be
wrong here: the tables are written many times an hour, and what is due depends on how many files have piled up and on
which days are closed, not on the last write.
The pool `maintenance` has one slot, which the DAGs `archive_events` and `archive_ads` need too: a table has one
maintainer.

**Interval**: none; it goes by what it measures, so a backfill of it does nothing that one run would not do.

**Safe to re-run?** Always, and beside running writers. Each action is one commit of its own: one that was cut off has
changed nothing, and the files it leaves are removed as orphans later.

**Triage**

| what the task says | what to do |
| --- | --- |
| up for retry, exit 75 | Trino or the catalog is away, or a writer was quicker every time. It retries by itself. |
| failed, exit 1, an action failed | the message names the table and the action: `lakehouse maintain plan --table …`. |
| Trino ran out of memory | a statement rewrote too much: lower `LAKEHOUSE_MAINTENANCE__STATEMENT_BYTES`. |

More in `docs/operations.md`.
"""  # noqa: D212, D415  (the first line is the heading that the UI shows)

from datetime import timedelta

from airflow.sdk import DAG, Asset, CronTriggerTimetable, Param
from airflow.sdk.definitions.param import ParamsDict
from alerts import deadline
from lakehouse_command import TASK_DEFAULTS, LakehouseCommand, dry_run_param, prefix_param

MAINTENANCE_RUNS = Asset("ops.maintenance_runs")

with DAG(
    dag_id="maintain_tables",
    description="Compaction, snapshot expiry, orphan removal, manifests and statistics, as far as they are due",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("20 1,7,13,19 * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["operations", "tables"],
    default_args=TASK_DEFAULTS,
    deadline=deadline(timedelta(hours=3)),
    params=ParamsDict(
        {
            "tables": Param(
                None,
                type=["null", "array"],
                items={"type": "string", "pattern": r"^\w+\.\w+$"},
                title="Tables",
                description="Only these tables, such as `events.user_actions`; empty: all.",
            ),
            "open_partitions": Param(
                False,
                type="boolean",
                title="Open partitions too",
                description="Compact also the partitions that got rows lately, and may get more.",
            ),
            "dry_run": dry_run_param(),
            "prefix": prefix_param(),
        }
    ),
):
    LakehouseCommand(
        task_id="maintain",
        arguments=["maintain", "apply", "--output", "json"],
        options={
            "tables": "--table",
            "open_partitions": "--open-partitions",
            "dry_run": "--dry-run",
            "prefix": "LAKEHOUSE_PREFIX",
        },
        skip_unless=["actions"],
        pool="maintenance",
        execution_timeout=timedelta(hours=4),
        outlets=[MAINTENANCE_RUNS],
    )
