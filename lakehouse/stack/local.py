"""The stack on one machine: bring the servers up in order, look at them, take them down."""

import fcntl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import psutil

from lakehouse.errors import LakehouseError, StackError
from lakehouse.settings import Settings, get_settings
from lakehouse.stack import artifacts, checks, credentials
from lakehouse.stack.server import Profile, Server
from lakehouse.stack.servers import servers
from lakehouse.stack.supervision import Supervision

Health = Literal["healthy", "unhealthy", "stopped"]

Notice = Callable[[str, str], None]
"""Called with (server, what happens to it: `starting`, `healthy`, `stopping`, `stopped`); from several threads."""

_POLL_SECONDS = 0.5
_LOG_LINES_IN_ERRORS = 15


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One row of `lakehouse stack status`.

    `rss_bytes` is the resident memory of the server's processes with pages that they share counted once.
    """

    name: str
    pid: int | None
    port: int | None
    url: str
    version: str
    rss_bytes: int
    health: Health
    detail: str = ""


def up(profile: Profile, *, progress: artifacts.Progress | None = None, notice: Notice | None = None) -> Settings:
    """Install what is missing, then start every server of the profile that does not run; idempotent.

    Returns:
        The settings with the generated credentials.

    Raises:
        StackError: something on this machine is in the way; the message says what to do.
        ServerUnavailableError: a registry or a server did not answer in time.
    """
    settings = get_settings()
    with _only_one(settings):
        supervision = Supervision(settings)
        states = supervision.states()
        running = {name for name, (_, pid) in states.items() if pid}
        wanted = servers(settings, profile)
        if not states:
            supervision.end_leftovers()
        checks.before_start(settings, [s for s in wanted.values() if s.name not in running])
        if credentials.ensure(settings):
            get_settings.cache_clear()
            settings = get_settings()
            wanted = servers(settings, profile)
        artifacts.install(settings, progress)
        supervision.start(servers(settings, "full").values())
        _start_in_order(wanted, supervision, notice or _silent)
    return settings


def down(notice: Notice | None = None) -> list[str]:
    """Stop every process of this stack and nothing else; returns the names of the servers that ran."""
    tell = notice or _silent
    settings = get_settings()
    with _only_one(settings):
        supervision = Supervision(settings)
        running = [name for name, (_, pid) in supervision.states().items() if pid]
        dependants = {name: server.after for name, server in servers(settings).items()}
        gone = {name: threading.Event() for name in running}

        def stop(name: str) -> None:
            for other in running:
                if name in dependants.get(other, ()):
                    gone[other].wait()
            tell(name, "stopping")
            supervision.stop_server(name)
            gone[name].set()
            tell(name, "stopped")

        if running:
            with ThreadPoolExecutor(max_workers=len(running)) as pool:
                list(pool.map(stop, running))
        supervision.stop()
        supervision.end_leftovers()
    return running


def status() -> list[ServerStatus]:
    """Look at every server; needs no stack to run."""
    settings = get_settings()
    states = Supervision(settings).states()
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(lambda server: _status(server, states), servers(settings).values()))


def _silent(name: str, event: str) -> None:
    return None


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / "stack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second `up` or `down` waits for the first
        yield


def _start_in_order(wanted: dict[str, Server], supervision: Supervision, notice: Notice) -> None:
    healthy = {name: threading.Event() for name in wanted}
    abandoned = threading.Event()

    def start(server: Server) -> None:
        for name in server.after:
            while not healthy[name].wait(_POLL_SECONDS):
                if abandoned.is_set():
                    return
        if supervision.states().get(server.name, ("", None))[1] is None:
            notice(server.name, "starting")
            server.prepare()
            supervision.start_server(server.name)
        _wait_until_healthy(server, supervision, abandoned)
        server.settle()
        healthy[server.name].set()
        notice(server.name, "healthy")

    with ThreadPoolExecutor(max_workers=len(wanted)) as pool:
        futures = [pool.submit(start, server) for server in wanted.values()]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            abandoned.set()


def _wait_until_healthy(server: Server, supervision: Supervision, abandoned: threading.Event) -> None:
    deadline = time.monotonic() + server.start_seconds
    while not abandoned.is_set():
        state, _ = supervision.states().get(server.name, ("UNKNOWN", None))
        problem = _problem(server)
        if problem is None:
            return
        if state == "FATAL" or time.monotonic() > deadline:
            log = supervision.log_path(server.name)
            tail = log.read_text(errors="replace").splitlines()[-_LOG_LINES_IN_ERRORS:] if log.exists() else []
            why = "keeps ending" if state == "FATAL" else f"was not healthy within {server.start_seconds} s ({problem})"
            raise StackError("\n".join([f"{server.name} {why}; its log {log} ends with:", *tail]))
        time.sleep(_POLL_SECONDS)


def _problem(server: Server) -> str | None:
    try:
        server.probe()
    except LakehouseError as error:
        return str(error)
    except Exception as error:  # a probe may fail in any way its client can; all mean the same: not healthy yet
        return f"{type(error).__name__}: {error}"
    return None


def _status(server: Server, states: dict[str, tuple[str, int | None]]) -> ServerStatus:
    state, pid = states.get(server.name, ("STOPPED", None))
    health: Health = "stopped"
    detail = "" if state in ("STOPPED", "UNKNOWN") else state.lower()
    if pid:
        problem = _problem(server)
        health, detail = ("healthy", "") if problem is None else ("unhealthy", problem)
    return ServerStatus(
        server.name, pid, server.port, server.url, server.version, _resident_bytes(pid) if pid else 0, health, detail
    )


def _resident_bytes(pid: int) -> int:
    total = 0
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in family:
        try:
            total += getattr(process.memory_full_info(), "pss", 0) or process.memory_info().rss
        except psutil.AccessDenied:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
