"""Ingest on a Spark standalone cluster: the same command, a master and two workers, and one of them dies."""

import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from lakehouse.adapters import kafka
from lakehouse.adapters.catalog import Lake
from lakehouse.adapters.kafka import Message
from lakehouse.audit import audit
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_QUARANTINE
from tests.clusters import Cluster, family_of, is_at_a_task, kill, standalone, wait_for
from tests.shops import bad, good, open_shop

pytestmark = pytest.mark.integration

LAKEHOUSE = Path(sys.executable).with_name("lakehouse")
PARTITIONS = 4
STRETCHES = 4
EVENTS, BAD = 3000, 25  # of each stretch


@pytest.fixture
def cluster(stack: Settings, tmp_path: Path) -> Iterator[Cluster]:
    with standalone(stack, tmp_path) as found:
        yield found


def message(number: int) -> Message:
    """Make an event, or one of the bad messages that follow each stretch of events."""
    return bad(number) if number % (EVENTS + BAD) >= EVENTS else good(number)


@pytest.fixture
def shop(environment: Settings) -> Settings:
    """An environment with its tables, and a topic with events and bad messages."""
    open_shop(environment, PARTITIONS)
    total = STRETCHES * (EVENTS + BAD)
    kafka.send(environment, environment.user_actions_topic, [message(number) for number in range(total)])
    return environment


@contextmanager
def ingest(settings: Settings, cluster: Cluster, rows_per_task: int) -> Generator[subprocess.Popen[str]]:
    """Start the command that people use; only the settings say that there is a cluster."""
    with subprocess.Popen(
        [LAKEHOUSE, "ingest", "run", "--output", "json"],
        env=os.environ
        | {
            "LAKEHOUSE_PREFIX": settings.prefix,
            "LAKEHOUSE_HOME": str(settings.home),
            "LAKEHOUSE_SPARK__MASTER": cluster.master,
            "LAKEHOUSE_SPARK__EXECUTOR_MEMORY": "512m",
            "LAKEHOUSE_INGEST__ROWS_PER_TASK": str(rows_per_task),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        try:
            yield run
        finally:
            if run.poll() is None:
                kill(family_of(psutil.Process(run.pid)))
                print(*run.communicate(), sep="\n")  # noqa: T201 - pytest shows it beside what failed


def assert_everything_arrived_once(settings: Settings, run: subprocess.Popen[str]) -> str:
    """Wait for the run and look at all it did; returns its log."""
    answer, log = run.communicate(timeout=400)
    assert run.returncode == 0, log
    events, bad = STRETCHES * EVENTS, STRETCHES * BAD
    result = json.loads(answer)
    assert (result["published_rows"], result["quarantined_rows"]) == (events, bad)
    lake = Lake(settings)
    users = lake.load(USER_ACTIONS).scan(selected_fields=("user_id",)).to_arrow()["user_id"].to_pylist()
    wanted = [message(number) for number in range(events + bad)]
    assert sorted(users) == sorted(f"user_{m.key.decode()}" for m in wanted if m.key and not is_bad(m))
    raw = lake.load(USER_ACTIONS_QUARANTINE).scan(selected_fields=("raw",)).to_arrow()["raw"].to_pylist()
    assert sorted(raw) == sorted(m.value for m in wanted if m.value and is_bad(m))
    report = audit(settings)
    assert report.ok, report.gaps
    return log


def is_bad(sent: Message) -> bool:
    return sent.value is not None and sent.value.startswith(b"bad")


def tasks_at_work(worker: psutil.Process) -> list[psutil.Process] | None:
    """The Python processes that are at a task of a worker: children of its executor's Python daemon."""
    return [process for process in family_of(worker) if is_at_a_task(process)] or None


def test_the_same_command_runs_on_a_cluster(shop: Settings, cluster: Cluster) -> None:
    with ingest(shop, cluster, rows_per_task=1000) as run:
        for worker in cluster.workers:
            wait_for(lambda worker=worker: tasks_at_work(worker))
        assert_everything_arrived_once(shop, run)


def test_a_worker_that_dies_with_a_task_in_hand_loses_and_doubles_nothing(shop: Settings, cluster: Cluster) -> None:
    doomed = cluster.workers[0]
    with ingest(shop, cluster, rows_per_task=500) as run:
        for task in wait_for(lambda: tasks_at_work(doomed)):
            task.suspend()  # so that it is still unfinished when the worker dies
        assert run.poll() is None
        kill(family_of(doomed))
        assert "Lost executor" in assert_everything_arrived_once(shop, run)
