"""What the stack needs to know about one server; each module beside this one describes one kind."""

import os
import pwd
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

import httpx

Profile = Literal["core", "full", "observe"]
"""Which servers; each profile has those of the ones before it."""

PROFILES: Final[tuple[Profile, ...]] = get_args(Profile)


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One supervised process.

    Attributes:
        name: unique, used in `lakehouse stack status` and as the log's file name.
        profile: the smallest profile that starts it.
        version: of the software it runs.
        port: the loopback port it listens on, checked to be free before the first start; None if it has none.
        more_ports: other loopback ports it listens on.
        url: what a person or a client opens.
        command: argument list, absolute program first.
        environment: added to a minimal environment.
        directory: working directory; must exist after `prepare`.
        after: servers that must be healthy before this one starts.
        unprivileged: run as `nobody` when the stack runs as root (PostgreSQL refuses root).
        prepare: write configuration and data directories; runs before each start, idempotent.
        probe: raise any exception while the server can't serve a real request yet.
        settle: create what clients expect in it (buckets, users, topics, tables); runs when healthy, idempotent.
        start_seconds: how long it may take until `probe` passes.
        stop_seconds: how long it may take to stop before it is killed.
        stop_signal: what asks it to stop.
        memory_bytes: about what it needs resident, for the check before a start.
    """

    name: str
    profile: Profile
    version: str
    port: int | None
    more_ports: tuple[int, ...] = ()
    url: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    directory: Path | None = None
    after: tuple[str, ...] = ()
    unprivileged: bool = False
    prepare: Callable[[], None] = _nothing
    probe: Callable[[], None] = _nothing
    settle: Callable[[], None] = _nothing
    start_seconds: int = 120
    stop_seconds: int = 30
    stop_signal: Literal["TERM", "INT"] = "TERM"
    memory_bytes: int = 0


_UNPRIVILEGED_USER = "nobody"
_FILE_CAPABILITIES = "+dac_override,+dac_read_search"  # so that it can reach a work tree below root's home


def as_unprivileged(command: Sequence[str]) -> list[str]:
    """The command, run as `nobody` when we are root, for servers that refuse root."""
    if os.geteuid() != 0:
        return list(command)
    account = pwd.getpwnam(_UNPRIVILEGED_USER)
    setpriv = shutil.which("setpriv", path=os.defpath + ":/usr/sbin:/sbin")
    drop = [setpriv or "setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    return [*drop, f"--inh-caps={_FILE_CAPABILITIES}", f"--ambient-caps={_FILE_CAPABILITIES}", *command]


def own_by_unprivileged(path: Path) -> None:
    """Give a path to the user of `as_unprivileged`."""
    if os.geteuid() == 0:
        account = pwd.getpwnam(_UNPRIVILEGED_USER)
        os.chown(path, account.pw_uid, account.pw_gid)


def answers(url: str) -> None:
    """Raise an exception unless a server on this machine answers well."""
    httpx.get(url, timeout=5, trust_env=False).raise_for_status()
