"""
### Collect queries

Brings the queries that Trino ran since the last time from its topic into the table `ops.query_history`.

**Upstream**: Trino, which sends a message for each query that ended.

**Downstream**: nobody waits for it; `admin` and `transform` read the table.

**Why this schedule**: hourly, so that a commit holds many queries. The topic keeps them for 30 days.

**Interval**: from the table's position to what the topic holds now; the topic is one for all environments.

**Safe to re-run?** Always. The table knows how far it has read; a second run finds nothing to do.

**Triage**

| what the task says | what to do |
| --- | --- |
| up for retry, exit 75 | Kafka or the catalog is away; look at `lakehouse stack status`. It retries by itself. |
| failed, exit 1, another run was quicker | nothing; somebody collected by hand. |
| queries were gone from Kafka before they were collected | it was off for longer than the topic keeps them. |

More in `docs/operations.md`.
"""  # noqa: D212, D415  (the first line is the heading that the UI shows)

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable
from alerts import deadline
from lakehouse_command import TASK_DEFAULTS, LakehouseCommand

with DAG(
    dag_id="collect_queries",
    description="Trino's queries: trino-queries → ops.query_history",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("45 * * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["operations", "trino"],
    default_args=TASK_DEFAULTS,
    deadline=deadline(timedelta(hours=1)),
):
    LakehouseCommand(
        task_id="collect",
        arguments=["queries", "collect", "--output", "json"],
        execution_timeout=timedelta(minutes=30),
    )
