"""A Spark standalone cluster of a test's own: a master and two workers of one core each."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import pyspark

from lakehouse.settings import Settings

SPARK_CLASS = Path(pyspark.__file__).with_name("bin") / "spark-class"

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running master with two workers of one core each."""

    master: str
    workers: tuple[psutil.Process, ...]


def wait_for(find: Callable[[], Found | None], seconds: float = 240, pause_seconds: float = 0.02) -> Found:
    deadline = time.monotonic() + seconds
    while (found := find()) is None:
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(pause_seconds)
    return found


def family_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=30)


def is_at_a_task(process: psutil.Process) -> bool:
    """Whether it is a Python process that works at a task: a child of a Python daemon of Spark."""
    with suppress(psutil.Error):
        return _is_daemon(process) and _is_daemon(process.parent())
    return False


def _is_daemon(process: psutil.Process | None) -> bool:
    return process is not None and "pyspark.daemon" in process.cmdline()


@contextmanager
def standalone(stack: Settings, directory: Path) -> Generator[Cluster]:
    """Start a cluster that keeps its files in this directory, and end it with all it has started."""
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "JAVA_HOME": str(stack.spark.java_home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_MEMORY": "256m",
        "SPARK_DAEMON_JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    }

    def start(stack_of_servers: ExitStack, name: str, *arguments: str) -> tuple[psutil.Process, Path]:
        log = directory / f"{name}.log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                [SPARK_CLASS, *arguments],
                cwd=directory,
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
                *("--cores", "1", "--memory", "1g", "--work-dir", str(directory / name), master),
            )
            for name in ("worker-1", "worker-2")
        ]
        for _, log in workers:
            wait_for(lambda log=log: "Successfully registered with master" in log.read_text() or None)
        yield Cluster(master, tuple(process for process, _ in workers))
