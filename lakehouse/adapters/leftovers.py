"""What of a run is still there once Airflow has ended it: its processes on this machine, and its Spark application.

`LakehouseCommand` tells each command for which run it works, by the setting `run`; all that the command starts inherits
it, Spark's JVM and Python workers included, and Spark's application has it in its name. Nothing here ends anything.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import httpx
import psutil

RUN: Final = "LAKEHOUSE_RUN"
"""The variable of the setting `run`, `dag/run/task`."""
HOST: Final = socket.gethostname()
"""This machine, by the name that Airflow calls it."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing that is still there, or that can't be looked at from here.

    Attributes:
        kind: `unseen` is what can't be looked at.
        what: which one, for a person.
        host: the machine that it is on.
        since: when it began; None when nobody tells.
    """

    kind: Literal["process", "spark_application", "unseen"]
    what: str
    host: str
    since: datetime | None = None


def processes(dag_id: str, run_id: str, task_pids: Mapping[int, datetime]) -> tuple[Leftover, ...]:
    """Return the processes on this machine that work for a run, the oldest first.

    Args:
        dag_id: of the run.
        run_id: of the run.
        task_pids: of Airflow's own processes of the run's tasks, which may be about to start a command, and when each
            was last known to work for the run; a later process only has got its number.
    """
    found = list[Leftover]()
    mark = f"{dag_id}/{run_id}/"
    for process in psutil.process_iter():
        try:
            began = datetime.fromtimestamp(process.create_time(), UTC)
            is_task = process.pid in task_pids and began < task_pids[process.pid]
            # A task's own process needs no mark: another user's environment can't be read, but that it lives is seen.
            is_of_run = is_task or process.environ().get(RUN, "").startswith(mark)
            if is_of_run and process.status() != psutil.STATUS_ZOMBIE:
                found.append(Leftover("process", f"{process.name()}, pid {process.pid}", HOST, began))
        except psutil.Error:  # it has just ended, or is of another user than our commands
            continue
    return tuple(sorted(found, key=lambda one: str(one.since)))


def spark_applications(master_page: str, dag_id: str, run_id: str, timeout_seconds: float) -> tuple[Leftover, ...]:
    """Ask a standalone Spark master for the applications of a run that have not ended.

    Source: `MasterPage` of Spark, which gives its facts as JSON below `/json/`.

    Args:
        master_page: address of the master's own pages; of our settings, never of a caller.
        dag_id: of the run.
        run_id: of the run.
        timeout_seconds: how long to wait for the answer.
    """
    mark = f" {dag_id}/{run_id}/"
    try:
        answer = httpx.get(f"{master_page.rstrip('/')}/json/", timeout=timeout_seconds, trust_env=False)
        answer.raise_for_status()
        active = [(app["id"], app["name"], app["starttime"]) for app in answer.json()["activeapps"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return (Leftover("unseen", f"applications of the Spark master ({type(error).__name__})", master_page),)
    return tuple(
        Leftover("spark_application", f"{name}, {key}", master_page, datetime.fromtimestamp(began / 1000, UTC))
        for key, name, began in active
        if mark in name
    )
