"""Stacks of a test's own, beside any other: used as a person would, by their commands."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from lakehouse.settings import Settings, load_settings
from lakehouse.stack.launch import MARK
from lakehouse.stack.server import Server
from tests.shops import wait_until

SERVERS = ("postgres", "minio", "kafka", "catalog")
HEALTHY_SECONDS = 90


def has_ended(process: psutil.Process) -> bool:
    """Say whether a process does nothing any more; one whose parent died may stay a zombie for a while."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def processes_with(variable: str, value: str) -> list[psutil.Process]:
    """The processes that have this in their environment."""
    found = list[psutil.Process]()
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable) == value and not has_ended(process):
                found.append(process)
        except psutil.Error:
            continue
    return found


@dataclass(frozen=True)
class Stack:
    """A stack with a home and ports of its own."""

    environment: dict[str, str]
    home: Path

    def command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("lakehouse")), "stack", *arguments]

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(self.command(*arguments), env=self.environment, stderr=subprocess.PIPE, text=True)

    def up(self) -> None:
        self.run("up", "kafka", "catalog")

    def settings(self) -> Settings:
        """What its commands read, credentials included once it was started."""
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            return load_settings()

    def status(self) -> dict[str, dict[str, Any]]:
        """What `status` says of the servers this test starts; it exits 1 while one is not healthy."""
        done = subprocess.run(
            self.command("status", "--output", "json"),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return {row["name"]: row for row in json.loads(done.stdout)["servers"] if row["name"] in SERVERS}

    def processes(self) -> list[psutil.Process]:
        return processes_with(MARK, str(self.home))

    def supervisor(self) -> psutil.Process:
        (found,) = [process for process in self.processes() if "supervisor.supervisord" in process.cmdline()]
        return found

    def wait_until_healthy(self, *, without_pid: int | None = None) -> None:
        deadline = time.monotonic() + HEALTHY_SECONDS
        while True:
            rows = self.status()
            pids = {row["pid"] for row in rows.values()}
            if without_pid not in pids and all(row["health"] == "healthy" for row in rows.values()):
                return
            assert time.monotonic() < deadline, rows
            time.sleep(0.5)


@contextmanager
def own_stack(home: Path) -> Generator[Stack]:
    """Lay out a stack on free ports; what of it was started is stopped at the end, and must then be gone."""
    port = _free_ports()
    own = {
        "LAKEHOUSE_HOME": str(home),
        "LAKEHOUSE_CACHE": str(Settings().cache),
        "LAKEHOUSE_POSTGRES__PORT": str(port),
        "LAKEHOUSE_S3__ENDPOINT": f"http://127.0.0.1:{port + 1}",
        "LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{port + 3}",
        "LAKEHOUSE_CATALOG__URI": f"http://127.0.0.1:{port + 5}",
        "LAKEHOUSE_TRINO__PORT": str(port + 6),
        "LAKEHOUSE_AIRFLOW__URL": f"http://127.0.0.1:{port + 7}",
        "LAKEHOUSE_ADS__API_URL": f"http://127.0.0.1:{port + 8}",
        "LAKEHOUSE_API__URL": f"http://127.0.0.1:{port + 9}",
        "LAKEHOUSE_EXPORTER__URL": f"http://127.0.0.1:{port + 10}",
        "LAKEHOUSE_PROMETHEUS__URL": f"http://127.0.0.1:{port + 11}",
        "LAKEHOUSE_ALERTMANAGER__URL": f"http://127.0.0.1:{port + 12}",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
    stack = Stack(inherited | own, home)
    yield stack
    stack.run("down")
    assert stack.processes() == []


@contextmanager
def running(server: Server) -> Generator[None]:
    """Run one server as the stack would, without a supervisor; it answers when the block begins."""
    server.prepare()
    environment = {"PATH": os.defpath, **server.environment}
    with subprocess.Popen(server.command, cwd=server.directory, env=environment) as process:
        try:
            wait_until(lambda: _answers(server), f"{server.name} to answer", server.start_seconds)
            yield
        finally:
            process.terminate()


def _answers(server: Server) -> bool:
    try:
        server.probe()
    except httpx.HTTPError:
        return False
    return True


def free_url() -> str:
    """An address of this machine where nobody listens, of a port that the system gives nobody by itself meanwhile."""
    while True:
        port = 20_000 + secrets.randbelow(9_000)  # below /proc/sys/net/ipv4/ip_local_port_range
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return f"http://127.0.0.1:{port}"


def _free_ports() -> int:
    """The first of fourteen ports in a row that are all free."""
    for first in range(29000, 32000, 14):
        with _listening(*range(first, first + 14)) as all_free:
            if all_free:
                return first
    raise AssertionError("no fourteen free ports in a row")


@contextmanager
def _listening(*ports: int) -> Generator[bool]:
    sockets = [socket.socket() for _ in ports]
    try:
        for one, port in zip(sockets, ports, strict=True):
            one.bind(("127.0.0.1", port))
        yield True
    except OSError:
        yield False
    finally:
        for one in sockets:
            one.close()
