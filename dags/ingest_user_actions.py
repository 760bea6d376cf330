"""
### Ingest user actions

Moves what is new in the Kafka topic of user actions into `events.user_actions`, and what breaks the contract into
`quarantine.user_actions`, each with its position, in one commit per table.

**Upstream**: the Kafka topic `user-actions`, written by the shop's apps.

**Downstream**: asset `events.user_actions`, on which the DAG `transform` runs.
A run that finds nothing new is *skipped* and starts nothing.

**Why this schedule**: every five minutes keeps the marts fresh and the data files large enough; trigger it by hand
when somebody waits.
One run at a time, because the position in the table lets only one ingester commit.
No catch-up: a run reads everything since the position, so a missed one needs no replacement.

**Interval**: from the table's position to the end of the run's interval, by Kafka's own timestamps; a run that
somebody triggers without a date reads what is there. A backfill of a range cuts a backlog into its intervals, in order;
what is already in the tables is not read again.

**Safe to re-run?** Always. The position is committed with the rows, so a run that died is repeated exactly and a
run that finished leaves nothing to repeat.

**Stop it** by marking the run as failed: Spark ends with it, and nothing is half committed.

**Triage**

| what the task says | what to do |
| --- | --- |
| up for retry, exit 75 | a server is away; look at `lakehouse stack status`. It retries by itself. |
| failed, exit 1, another run was quicker | find the second ingester and stop one of them. |
| failed, exit 1, offsets are gone from Kafka | data is lost; the message names the range. Raise Kafka's retention. |
| failed, exit 3 | a commit's answer got lost; when the catalog is back, trigger again: the table tells. |
| many rows in quarantine | count `lake.quarantine.user_actions` by `reason`; usually an app has changed its events. |

More in `docs/operations.md`.
"""  # noqa: D212, D415  (the first line is the heading that the UI shows)

from datetime import timedelta

from airflow.sdk import DAG, Asset
from airflow.sdk.definitions.param import ParamsDict
from alerts import deadline
from lakehouse_command import TASK_DEFAULTS, LakehouseCommand, moment_param, prefix_param, spark_master_param

USER_ACTIONS = Asset("events.user_actions")

with DAG(
    dag_id="ingest_user_actions",
    description="Kafka → events.user_actions and quarantine.user_actions",
    doc_md=__doc__,
    schedule="*/5 * * * *",
    catchup=False,
    max_active_runs=1,
    tags=["ingest", "user_actions"],
    default_args=TASK_DEFAULTS,
    deadline=deadline(timedelta(minutes=30)),
    params=ParamsDict(
        {
            "until": moment_param("Until", "Leave what Kafka stamped at this time or later to another run."),
            "spark_master": spark_master_param(),
            "prefix": prefix_param(),
        }
    ),
):
    LakehouseCommand(
        task_id="ingest",
        arguments=["ingest", "run", "--output", "json"],
        options={"until": "--until", "spark_master": "LAKEHOUSE_SPARK__MASTER", "prefix": "LAKEHOUSE_PREFIX"},
        intervals={"until": "{{ dag_run.data_interval_end | ts if dag_run.data_interval_end else '' }}"},
        skip_unless=["published_rows", "quarantined_rows"],
        execution_timeout=timedelta(hours=1),
        outlets=[USER_ACTIONS],
    )
