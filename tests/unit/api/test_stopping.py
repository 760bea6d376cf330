"""What a stop tells of tasks that ended a moment ago: only what can be looked at from here is said to be gone."""

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from lakehouse.adapters import leftovers
from lakehouse.adapters.airflow_runs import AirflowRuns, Connection, DagRun, TaskRun
from lakehouse.api import stopping
from lakehouse.settings import AirflowSettings, ApiSettings

ENDED = datetime.now(UTC) + timedelta(hours=1)  # so that it is later than what a test starts
RUN = DagRun("transform", "run__1", "failed", "manual", {}, None, None, None, ENDED)
TASK = TaskRun("build", -1, "failed", 1, None, ENDED, leftovers.HOST, None, "")


def left(task: TaskRun, **settings: bool) -> set[tuple[str, str]]:
    """What a stop of a run with this task says that is left, after one look."""

    class Ended(AirflowRuns):
        def run(self, dag_id: str, run_id: str) -> DagRun:
            return {(RUN.dag_id, RUN.run_id): RUN}[dag_id, run_id]

        def tasks(self, dag_id: str, run_id: str) -> tuple[TaskRun, ...]:
            return {(RUN.dag_id, RUN.run_id): (task,)}[dag_id, run_id]

    connection = Connection(AirflowSettings.model_validate({}))
    airflow = Ended(connection, 1)
    api = ApiSettings.model_validate(settings)
    stopped = asyncio.run(stopping.stop(lambda: airflow, api, RUN.dag_id, RUN.run_id, 0, lambda: False))
    connection.close()
    assert stopped.gone == (not stopped.left)
    return {(one.kind, one.what) for one in stopped.left}


@pytest.fixture
def other() -> Iterator[int]:
    """The pid of a process that no run has started."""
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        yield process.pid
        process.terminate()


def test_a_task_that_ran_on_this_machine_is_gone_with_its_process(other: int) -> None:
    assert left(TASK) == set()
    assert left(replace(TASK, pid=other)) == {("process", f"sleep, pid {other}")}


def test_a_task_on_a_machine_of_this_name_is_unseen_where_its_processes_have_other_ids(other: int) -> None:
    unseen = {("unseen", "processes of task build")}
    assert left(TASK, sees_processes=False) == unseen
    assert left(replace(TASK, pid=other), sees_processes=False) == unseen  # that one is not the task's
    assert left(replace(TASK, hostname="", pid=None), sees_processes=False) == set()  # it never began
