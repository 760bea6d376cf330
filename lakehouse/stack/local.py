"""The stack on one machine: bring the servers up in order, look at them, take them down."""

import fcntl
import functools
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final, Literal

import psutil

from lakehouse.errors import LakehouseError, StackError
from lakehouse.settings import Settings, get_settings
from lakehouse.stack import checks, credentials, spark_training
from lakehouse.stack.children import Progress
from lakehouse.stack.install import install
from lakehouse.stack.server import Profile, Server
from lakehouse.stack.servers import servers
from lakehouse.stack.supervision import Supervision

Health = Literal["healthy", "unhealthy", "stopped"]

Notice = Callable[[str, str], None]
"""Called with (server, what happens to it: `starting`, `healthy`, `stopping`, `stopped`); from several threads."""

_POLL_SECONDS = 0.5
_ORPHANED: Final = "ORPHANED"  # what supervisord can't say of itself
_STARTS = 4  # of one server while it is waited for; then it is taken for broken
_LOG_LINES_IN_ERRORS = 15
_STACK_FRAMES = ("at ", "... ")  # Java's; without them the end of a log holds the error itself


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


def up(
    profile: Profile,
    *,
    only: Collection[str] = (),
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> Settings:
    """Install what is missing, then start every server of the profile that does not run; idempotent.

    Args:
        profile: which servers.
        only: names of servers; when given, no other one starts, except what these need.
        progress: told how an install gets on.
        notice: told what happens to each server.

    Returns:
        The settings with the generated credentials.

    Raises:
        StackError: something on this machine is in the way; the message says what to do.
        ServerUnavailableError: a registry did not answer.
    """
    settings = get_settings()
    tell = notice or _silent
    with _only_one(settings, tell):
        supervision = Supervision(settings)
        states = supervision.states()
        running = {name for name, (_, pid) in states.items() if pid}
        wanted = _wanted(settings, profile, only)
        if not states:
            supervision.end_leftovers()
        checks.before_start(settings, [s for s in wanted.values() if s.name not in running])
        if credentials.ensure(settings):
            get_settings.cache_clear()
            settings = get_settings()
            wanted = _wanted(settings, profile, only)
        install(settings, profile, progress)
        if spark_training.is_needed(settings):
            tell("spark", "preparing")
            spark_training.train(settings)
        supervision.start(servers(settings).values())
        _start_in_order(wanted, supervision, tell)
    return settings


def _wanted(settings: Settings, profile: Profile, only: Collection[str]) -> dict[str, Server]:
    offered = servers(settings, profile)
    if unknown := set(only) - offered.keys():
        raise StackError(f"profile {profile} has no server {min(unknown)!r}; it has: {', '.join(offered)}")
    if not only:
        return offered
    needed = set[str]()
    more = set(only)
    while more:
        needed |= more
        more = {other for name in more for other in offered[name].after} - needed
    return {name: server for name, server in offered.items() if name in needed}


def down(notice: Notice | None = None) -> list[str]:
    """Stop every process of this stack and nothing else; returns the names of the servers that ran."""
    tell = notice or _silent
    settings = get_settings()
    with _only_one(settings, tell):
        supervision = Supervision(settings)
        running = [name for name, (_, pid) in supervision.states().items() if pid]
        dependants = {name: server.after for name, server in servers(settings).items()}
        gone = {name: threading.Event() for name in running}

        def stop(name: str) -> None:
            for other in running:
                if name in dependants.get(other, ()):
                    gone[other].wait()
            tell(name, "stopping")
            try:
                supervision.stop_server(name)
            finally:
                gone[name].set()
            tell(name, "stopped")

        _side_by_side([functools.partial(stop, name) for name in running], threading.Event())
        supervision.stop()
        left = supervision.end_leftovers()
    return running + [name for name in left if name not in running]


def status() -> list[ServerStatus]:
    """Look at every server; needs no stack to run."""
    settings = get_settings()
    supervision = Supervision(settings)
    states = supervision.states() or {name: (_ORPHANED, pid) for name, pid in supervision.orphans().items()}
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(functools.partial(_status, states=states), servers(settings).values()))


def _silent(name: str, event: str) -> None:
    return None


@contextmanager
def _only_one(settings: Settings, notice: Notice) -> Generator[None]:
    """Let a second `up` or `down` wait for the first."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        lock = (settings.home / "stack.lock").open("w")
    except OSError as error:
        raise StackError(f"can't write {settings.home} ({error.strerror}): correct LAKEHOUSE_HOME") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            notice("stack", "waiting for another `up` or `down`")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _side_by_side(jobs: Iterable[Callable[[], None]], abandoned: threading.Event) -> None:
    """Run each job in a thread, set `abandoned` at the first error, and raise that one when all have ended.

    Ctrl-C sets it too and ends this call at once: what a thread waits for, a server or a program, may take long.
    """
    outcomes: SimpleQueue[BaseException | None] = SimpleQueue()

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - raised by the caller's thread
            outcomes.put(error)
        else:
            outcomes.put(None)

    threads = [threading.Thread(target=run, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    first: BaseException | None = None
    try:
        for _ in threads:
            if (error := outcomes.get()) is not None:
                first = first or error
                abandoned.set()
    finally:
        abandoned.set()
    if first is not None:
        raise first


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
            if abandoned.is_set():
                return
            supervision.start_server(server.name)
        if not _becomes_healthy(server, supervision, abandoned):
            return
        server.settle()
        healthy[server.name].set()
        notice(server.name, "healthy")

    _side_by_side([functools.partial(start, server) for server in wanted.values()], abandoned)


def _becomes_healthy(server: Server, supervision: Supervision, abandoned: threading.Event) -> bool:
    """Wait until a server is healthy; False when the wait was abandoned.

    Raises:
        StackError: it keeps ending, or needs too long; the message has the end of its log.
    """
    deadline = time.monotonic() + server.start_seconds
    pids = set[int]()
    while not abandoned.is_set():
        state, pid = _state(server, supervision)
        pids |= {pid} if pid else set()
        problem = _problem(server)
        if problem is None:
            return True
        if state == "FATAL" or len(pids) > _STARTS:
            raise _broken(server, supervision, "keeps ending")
        if time.monotonic() > deadline:
            raise _broken(server, supervision, f"was not healthy within {server.start_seconds} s ({problem})")
        abandoned.wait(_POLL_SECONDS)
    return False


def _state(server: Server, supervision: Supervision) -> tuple[str, int | None]:
    states = supervision.states()
    if not states and not supervision.is_running():
        raise StackError(f"the supervisor ended while {server.name} was starting: run `lakehouse stack up` again")
    return states.get(server.name, ("UNKNOWN", None))


def _broken(server: Server, supervision: Supervision, why: str) -> StackError:
    log = supervision.log_path(server.name)
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    telling = [line for line in lines if not line.lstrip().startswith(_STACK_FRAMES)]
    tail = telling[-_LOG_LINES_IN_ERRORS:]
    return StackError("\n".join([f"{server.name} {why}; its log {log} ends with:", *tail]))


def _problem(server: Server) -> str | None:
    try:
        server.probe()
    except LakehouseError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - a probe may fail in any way its client can; all mean the same: not healthy yet
        return f"{type(error).__name__}: {error}"
    return None


def _status(server: Server, states: dict[str, tuple[str, int | None]]) -> ServerStatus:
    state, pid = states.get(server.name, ("STOPPED", None))
    health: Health = "stopped"
    detail = ""
    if pid:
        problem = _problem(server)
        health, detail = ("healthy", "") if problem is None else ("unhealthy", problem)
        if state == _ORPHANED and not problem:
            detail = "nothing would restart it, for its supervisor is gone; `lakehouse stack up` repairs that"
    elif state not in ("STOPPED", "UNKNOWN"):
        health, detail = "unhealthy", f"{state.lower()}; see `lakehouse stack logs {server.name}`"
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
