"""Ingest on a Spark standalone cluster: the same command, a master and two workers, and one of them dies."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import pyspark
import pytest

from lakehouse.adapters import kafka
from lakehouse.adapters.catalog import Lake
from lakehouse.adapters.kafka import Message
from lakehouse.audit import audit
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_QUARANTINE
from tests.shops import bad, good, open_shop

pytestmark = pytest.mark.integration

LAKEHOUSE = Path(sys.executable).with_name("lakehouse")
SPARK_CLASS = Path(pyspark.__file__).with_name("bin") / "spark-class"
PARTITIONS = 4
STRETCHES = 4
EVENTS, BAD = 3000, 25  # of each stretch

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running master with two workers of one core each."""

    master: str
    workers: tuple[psutil.Process, ...]


def wait_for(find: Callable[[], Found | None], seconds: float = 240) -> Found:
    deadline = time.monotonic() + seconds
    while (found := find()) is None:
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def family_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        if process.is_running():
            process.kill()
    psutil.wait_procs(processes, timeout=30)


@pytest.fixture
def cluster(stack: Settings, tmp_path: Path) -> Iterator[Cluster]:
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "JAVA_HOME": str(stack.spark.java_home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_MEMORY": "256m",
        "SPARK_DAEMON_JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    }

    def start(stack_of_servers: ExitStack, name: str, *arguments: str) -> tuple[psutil.Process, Path]:
        log = tmp_path / f"{name}.log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                [SPARK_CLASS, *arguments],
                cwd=tmp_path,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        process = psutil.Process(server.pid)
        stack_of_servers.callback(server.wait, 30)
        stack_of_servers.callback(lambda: kill(family_of(process)))
        return process, log

    deploy = "org.apache.spark.deploy"
    with ExitStack() as servers:
        _, log = start(
            servers, "master", f"{deploy}.master.Master", "--host", "127.0.0.1", "--port", "0", "--webui-port", "0"
        )
        master = wait_for(lambda: re.search(r"spark://127\.0\.0\.1:[1-9]\d*", log.read_text()))[0]
        workers = [
            start(
                servers,
                name,
                f"{deploy}.worker.Worker",
                *("--host", "127.0.0.1", "--port", "0", "--webui-port", "0"),
                *("--cores", "1", "--memory", "1g", "--work-dir", str(tmp_path / name), master),
            )
            for name in ("worker-1", "worker-2")
        ]
        for _, log in workers:
            wait_for(lambda log=log: "Successfully registered with master" in log.read_text() or None)
        yield Cluster(master, tuple(process for process, _ in workers))


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

    def is_daemon(process: psutil.Process | None) -> bool:
        with suppress(psutil.Error):
            return process is not None and "pyspark.daemon" in process.cmdline()
        return False

    return [p for p in family_of(worker) if is_daemon(p) and is_daemon(p.parent())] or None


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
