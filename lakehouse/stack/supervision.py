"""Talks to supervisord, which restarts the servers of one stack and rotates their logs.

One stack is one home directory. Every process of it carries that path in its environment (`launch.MARK`), so that
`down` finds what a killed supervisor left behind, and never touches a process that is not ours.
"""

import contextlib
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, cast
from xml.parsers.expat import ExpatError

import psutil
from supervisor.xmlrpc import SupervisorTransport

from lakehouse.errors import StackError
from lakehouse.settings import Settings
from lakehouse.stack.launch import MARK, NAME_MARK
from lakehouse.stack.server import Server

_SECONDS_TO_DIE = 10
_NO_ANSWER = (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError)


class Supervision:
    """The supervisor of the stack in `settings.home`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = settings.home
        self._configuration = settings.home / "conf" / "supervisord.conf"
        # A socket's path has at most about 100 characters, which a deep work tree would pass. TMPDIR would not do:
        # a command that runs with another one must find the same supervisor.
        key = hashlib.sha256(str(settings.home).encode()).hexdigest()[:12]
        self._run = Path("/tmp") / f"lakehouse-{os.getuid()}-{key}"  # noqa: S108 - its owner is checked

    def log_path(self, name: str) -> Path:
        """Where the output of a server goes."""
        return self._home / "logs" / f"{name}.log"

    def start(self, servers: Iterable[Server]) -> None:
        """Have a supervisor that knows these servers; one that already runs with them stays."""
        text = self._render(servers)
        if self.is_running():
            if self._configuration.exists() and self._configuration.read_text() == text:
                return
            self.stop()
        self.end_leftovers()
        for directory in (self._home / "logs", self._configuration.parent, self._run):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._run.stat().st_uid != os.getuid():
            raise StackError(f"{self._run} belongs to somebody else: have it removed")
        self._configuration.write_text(text)
        command = [sys.executable, "-W", "ignore", "-m", "supervisor.supervisord", "-c", str(self._configuration)]
        # The supervisor works in another directory, where a relative path would mean another place.
        paths = {"HOME": self._home, "CACHE": self._settings.cache, "JAVA_HOME": self._settings.java_home}
        environment = dict(os.environ) | {f"LAKEHOUSE_{name}": str(path) for name, path in paths.items() if path}
        environment[MARK] = str(self._home)
        done = subprocess.run(
            command, check=False, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _SECONDS_TO_DIE
        while not self.is_running():
            if done.returncode or time.monotonic() > deadline:
                log = self.log_path("supervisord")
                raise StackError(f"the supervisor did not start: {(done.stdout + done.stderr).strip()} (log: {log})")
            time.sleep(0.1)

    def stop(self) -> None:
        """End the supervisor and, through it, its servers."""
        try:
            with self._rpc() as rpc:
                pid = cast("int", rpc.getPID())
                rpc.shutdown()
        except _NO_ANSWER:
            return
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            psutil.Process(pid).wait(timeout=60)

    def end_leftovers(self) -> list[str]:
        """End the processes that carry this stack's mark, with or without a supervisor; returns the servers' names."""
        marked = self._marked()
        ours = list(marked)
        for process in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(ours, timeout=_SECONDS_TO_DIE)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=_SECONDS_TO_DIE)
        if not self.is_running():
            shutil.rmtree(self._run, ignore_errors=True)  # the socket and the pid file of a supervisor that was killed
        return sorted(set(marked.values()) - {""})

    def orphans(self) -> dict[str, int]:
        """Pids of the servers that run without a supervisor, by name."""
        marked = self._marked()
        oldest_first = sorted(marked, key=lambda process: process.pid, reverse=True)
        return {marked[process]: process.pid for process in oldest_first if marked[process]}

    def is_running(self) -> bool:
        """Whether the supervisor answers."""
        try:
            with self._rpc() as rpc:
                return rpc.getState()["statename"] == "RUNNING"
        except _NO_ANSWER:
            return False

    def states(self) -> dict[str, tuple[str, int | None]]:
        """(state, pid) of each server the supervisor knows; empty without a supervisor."""
        try:
            with self._rpc() as rpc:
                rows = cast("list[dict[str, Any]]", rpc.getAllProcessInfo())
        except _NO_ANSWER:
            return {}
        return {row["name"]: (row["statename"], row["pid"] or None) for row in rows}

    def start_server(self, name: str) -> None:
        """Ask for a server to run; returns at once."""
        with contextlib.suppress(*_NO_ANSWER), self._rpc() as rpc:  # it runs already; else who waits for it finds out
            rpc.startProcess(name, False)

    def stop_server(self, name: str) -> None:
        """Stop a server and wait until it has ended."""
        with contextlib.suppress(*_NO_ANSWER), self._rpc() as rpc:  # it does not run
            rpc.stopProcess(name, True)

    @contextlib.contextmanager
    def _rpc(self) -> Generator[Any]:
        transport = SupervisorTransport(None, None, f"unix://{self._run / 'supervisor.sock'}")
        with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
            yield proxy.supervisor

    def _marked(self) -> dict[psutil.Process, str]:
        """The processes of this stack, each with the name of its server; the supervisor has none."""
        mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        found: dict[psutil.Process, str] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                if process.pid not in mine and environment.get(MARK) == str(self._home):
                    found[process] = environment.get(NAME_MARK, "")
        return found

    def _render(self, servers: Iterable[Server]) -> str:
        def quoted(value: object) -> str:
            return str(value).replace("%", "%%")  # supervisord expands each value once, and a server's log twice

        sections = [
            f"""\
[supervisord]
logfile={quoted(self.log_path("supervisord"))}
logfile_maxbytes=5MB
logfile_backups=1
pidfile={quoted(self._run / "supervisord.pid")}
directory={quoted(self._home)}
umask=077
minfds=4096

[unix_http_server]
file={quoted(self._run / "supervisor.sock")}
chmod=0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
        ]
        for server in servers:
            log = self.log_path(server.name)
            sections.append(
                f"""\
[program:{server.name}]
command="{quoted(sys.executable)}" -m lakehouse.stack.launch {server.name}
autostart=false
autorestart=true
startsecs=3
startretries=5
stopsignal={server.stop_signal}
stopwaitsecs={server.stop_seconds}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={quoted(quoted(log))}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""
            )
        return "\n".join(sections)
