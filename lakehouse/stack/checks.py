"""What may be wrong with this machine, each with its fix; run before any server is touched, and by `stack doctor`."""

import importlib
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

from lakehouse.errors import LakehouseError, StackError
from lakehouse.settings import PROJECT_ROOT, Settings
from lakehouse.stack import artifacts, install, maven
from lakehouse.stack.server import Profile, Server
from lakehouse.stack.servers import servers
from lakehouse.stack.supervision import Supervision

_STATE_BYTES = 2_000_000_000
_SHADOWS = (
    "trino/__init__.py",
    "dbt/__init__.py",
    "spark/__init__.py",
    "dags/dbt.py",
    "dags/trino.py",
    "dags/airflow.py",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of `lakehouse stack doctor`."""

    check: str
    ok: bool
    detail: str


def before_start(settings: Settings, to_start: Iterable[Server]) -> None:
    """Refuse to start when this machine can't carry it.

    Raises:
        StackError: names the obstacle and its fix.
    """
    to_start = list(to_start)
    _python()
    artifacts.check_java(settings)
    _root_can_drop()
    _ports(to_start)
    _memory(to_start)
    _disk(settings)


def examine(settings: Settings, profile: Profile) -> list[Finding]:
    """Run every check for a profile's servers and report each; changes nothing."""
    running = {name for name, (_, pid) in Supervision(settings).states().items() if pid}
    stopped = [server for server in servers(settings, profile).values() if server.name not in running]
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", _python),
        ("java", lambda: artifacts.check_java(settings)),
        ("user", _root_can_drop),
        ("ports", lambda: _ports(stopped)),
        ("memory", lambda: _memory(stopped)),
        ("disk", lambda: _disk(settings)),
        ("servers installed", lambda: _installed(settings, profile)),
        ("credentials", lambda: _credentials(settings)),
        ("full pyspark", _pyspark),
        ("shadowed libraries", _shadows),
        ("certificates", lambda: _certificates(settings)),
    ]
    return [_finding(name, check) for name, check in checks]


def _finding(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except LakehouseError as error:
        return Finding(name, False, str(error))


def _python() -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info < (3, 14):
        raise StackError(
            f"Python {version} does not fit: make the environment with 3.11, 3.12 or 3.13 "
            "(`make clean-venv venv PYTHON=python3.12`)"
        )
    return version


def _root_can_drop() -> str:
    if os.geteuid() == 0 and shutil.which("setpriv", path=os.defpath + ":/usr/sbin:/sbin") is None:
        raise StackError(
            "PostgreSQL refuses to run as root and `setpriv` (package util-linux) is missing: "
            "install it, or use another user"
        )
    return "root, PostgreSQL runs as nobody" if os.geteuid() == 0 else "not root"


def _ports(stopped: Iterable[Server]) -> str:
    wanted = [(port, server.name) for server in stopped for port in (server.port, *server.more_ports) if port]
    users: dict[int, str] = {}
    for port, name in wanted:
        if port in users:
            raise StackError(
                f"{users[port]} and {name} both need port {port}: give one another port (docs/settings.md)"
            )
        users[port] = name
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise StackError(
                    f"port {port}, which {name} needs, is taken by {_owner(port)}: "
                    "end that program, or give the server another port (docs/settings.md)"
                ) from error
    return f"{', '.join(map(str, users))} are free" if users else "those of this stack's servers, which run"


def _owner(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid and connection.status == "LISTEN":
                process = psutil.Process(connection.pid)
                return f"{process.name()} (pid {process.pid})"
    except psutil.Error:
        pass
    return "another program"


def _memory(stopped: Iterable[Server]) -> str:
    need, free = sum(server.memory_bytes for server in stopped), psutil.virtual_memory().available
    if free < need:
        raise StackError(
            f"{free / 1e9:.1f} GB of memory are free and these servers need {need / 1e9:.1f} GB: "
            "close other programs, or start fewer servers with `lakehouse stack up --profile core`"
        )
    return f"{free / 1e9:.1f} GB free, {need / 1e9:.1f} GB still needed"


def _disk(settings: Settings) -> str:
    place = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < _STATE_BYTES:
        raise StackError(
            f"{place} has {free / 1e9:.1f} GB free and the stack wants {_STATE_BYTES / 1e9:.0f} GB for its data: "
            "free some space, or set LAKEHOUSE_HOME to a directory on a larger disk"
        )
    return f"{free / 1e9:.0f} GB free"


def _installed(settings: Settings, profile: Profile) -> str:
    if lacking := install.missing(settings, profile):
        raise StackError(f"not yet: {', '.join(lacking)}; run `lakehouse stack install --profile {profile}`")
    return f"all, in {settings.cache}"


def _credentials(settings: Settings) -> str:
    path = settings.credentials_file
    if not path.exists():
        return "not yet; the first `lakehouse stack up` generates them"
    if path.stat().st_mode & 0o077:
        raise StackError(f"others can read {path}: `chmod 600 {path}`")
    return str(path)


def _pyspark() -> str:
    try:
        importlib.import_module("pyspark.java_gateway")  # only the full package has it
    except ImportError as error:
        raise StackError(
            "pyspark-client overwrote the full pyspark: `make clean-venv venv` installs the locked set"
        ) from error
    return "yes"


def _shadows() -> str:
    if found := [name for name in _SHADOWS if (PROJECT_ROOT / name).exists()]:
        raise StackError(f"{', '.join(found)} would hide the library of that name: remove it")
    return "none"


def _certificates(settings: Settings) -> str:
    maven.check_certificates(settings)
    return str(settings.ca_bundle or "the authorities that each program brings")
