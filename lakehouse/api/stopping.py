"""Stopping a run: Airflow ends its tasks, and the answer waits until their processes and Spark job are gone."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from fastapi.concurrency import run_in_threadpool

from lakehouse.adapters import leftovers
from lakehouse.adapters.airflow_runs import AirflowRuns, DagRun, TaskRun
from lakehouse.adapters.leftovers import Leftover
from lakehouse.api.models import Left, Run, Stopped
from lakehouse.settings import ApiSettings

LOOK_SECONDS: Final = 0.5
"""Between two looks; each goes through every process of the machine."""
UNSEEN_FOR: Final = timedelta(minutes=10)
"""How long after the end that Airflow tells of a task its processes may still be there, where nobody can look."""
ENDED_BY_ITSELF: Final = frozenset({"success", "skipped"})
"""States of a task that has told its end when its command was gone."""


async def stop(
    airflow: Callable[[], AirflowRuns],
    settings: ApiSettings,
    dag_id: str,
    run_id: str,
    wait_seconds: float,
    is_cut_short: Callable[[], bool],
) -> Stopped:
    """Mark a run as failed unless it has finished, and wait until nothing of it is left.

    Airflow tells the tasks to end at their next heartbeat, within about ten seconds; the operator then ends the command
    and all it has started. Nothing is ended from here.

    Args:
        airflow: makes the connection for one look.
        settings: of the API.
        dag_id: of the run.
        run_id: of the run.
        wait_seconds: how long to wait at most.
        is_cut_short: whether nobody can wait any longer, because the server ends.
    """
    begun, now = time.monotonic(), datetime.now(UTC)
    run, tasks = await run_in_threadpool(_fail, airflow(), dag_id, run_id)
    ends = {task: task.ended_at or run.ended_at or now for task in tasks if task.state not in ENDED_BY_ITSELF}
    recent = {task: ended for task, ended in ends.items() if now - ended < UNSEEN_FOR}
    here = {leftovers.HOST} if settings.sees_processes else set[str]()  # else its pids are those of others here
    pids = {task.pid: ended for task, ended in recent.items() if task.hostname in here and task.pid}
    places = {(task.task_id, task.hostname) for task in recent if task.hostname and task.hostname not in here}
    elsewhere = [Leftover("unseen", f"processes of task {task_id}", host) for task_id, host in sorted(places)]

    def look() -> list[Leftover]:
        found = [*leftovers.processes(dag_id, run_id, pids), *elsewhere]
        if settings.spark_master_page:
            seconds = settings.request_timeout_seconds
            found += leftovers.spark_applications(settings.spark_master_page, dag_id, run_id, seconds)
        return found

    while True:
        left = await run_in_threadpool(look)
        waited_seconds = time.monotonic() - begun
        if all(one.kind == "unseen" for one in left) or waited_seconds >= wait_seconds or is_cut_short():
            return Stopped(
                run=Run.model_validate(run),
                gone=not left,
                left=[Left.model_validate(one) for one in left],
                waited_seconds=round(waited_seconds, 3),
            )
        await asyncio.sleep(LOOK_SECONDS)


def _fail(airflow: AirflowRuns, dag_id: str, run_id: str) -> tuple[DagRun, tuple[TaskRun, ...]]:
    """Mark the run as failed unless it has finished; returns it with its tasks, as they were before and are now."""
    run, before = airflow.run(dag_id, run_id), airflow.tasks(dag_id, run_id)
    if run.finished:
        return run, before
    run, after = airflow.fail(dag_id, run_id), airflow.tasks(dag_id, run_id)
    if run.state == "failed" and after and all(task.state == "success" for task in after):
        run = airflow.succeed(dag_id, run_id)  # it did just before, and what waits for it was told so
    return run, (*(task for task in before if task.state == "running"), *after)
