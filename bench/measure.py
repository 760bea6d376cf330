"""Run one program and count what all its processes cost: `python -m bench.measure REPORT PROGRAM ARGUMENT…`.

Every process that the program starts stays below this one, orphans included, because this one is their subreaper.
What they cost is known from the kernel when they are reaped. A parent that ignores SIGCHLD, as PySpark's daemon does,
has the kernel drop that account; the children of such a parent are looked at five times a second instead.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

SAMPLE_SECONDS: Final = 0.2
MEMORY_SECONDS: Final = 0.5
MEMORY_MARK: Final = "BENCH_MEASURES_MEMORY"
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_SECONDS_TO_DIE: Final = 20


@dataclass(frozen=True, slots=True)
class Cost:
    """What a program cost.

    Attributes:
        wall_seconds: until the program itself ended.
        cpu_seconds: user and system time of all its processes.
        peak_memory_bytes: most that they held together, shared pages counted once; 0 when nobody looked.
    """

    exit_code: int
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int = 0


class Process(NamedTuple):
    """One process as `/proc` shows it; `reaped_cpu_seconds` is that of children it waited for."""

    parent: int
    cpu_seconds: float
    reaped_cpu_seconds: float


def parse_stat(text: str) -> Process:
    """Read `/proc/<pid>/stat`."""
    fields = text.rpartition(")")[2].split()  # a program's name may hold anything, blanks and brackets too
    user, system, reaped_user, reaped_system = (int(value) / _TICKS for value in fields[11:15])
    return Process(int(fields[1]), user + system, reaped_user + reaped_system)


def processes() -> dict[int, Process]:
    """All processes of this machine, by pid."""
    found: dict[int, Process] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError):  # it ended meanwhile
                found[int(path.name)] = parse_stat((path / "stat").read_text())
    return found


def below(roots: Iterable[int], everything: Mapping[int, Process]) -> set[int]:
    """The pids of all children of `roots`, and of theirs."""
    children: dict[int, list[int]] = {}
    for pid, process in everything.items():
        children.setdefault(process.parent, []).append(pid)
    found: set[int] = set()
    open_pids = list(roots)
    while open_pids:
        for child in children.get(open_pids.pop(), ()):
            if child not in found:
                found.add(child)
                open_pids.append(child)
    return found


def tree_cpu_seconds(root: int, everything: Mapping[int, Process]) -> float:
    """What a process that still runs has cost so far, with its children, those it waited for included."""
    pids = (below([root], everything) | {root}) & everything.keys()
    return sum(everything[pid].cpu_seconds + everything[pid].reaped_cpu_seconds for pid in pids)


def machine_cpu_seconds() -> float:
    """What the whole machine has worked since it started."""
    user, nice, system, _idle, _waiting, interrupt, soft_interrupt, steal = (
        int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + interrupt + soft_interrupt + steal) / _TICKS


def memory_bytes(pids: Iterable[int]) -> int:
    """What processes hold together (PSS): pages that they share count once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path("/proc", str(pid), "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def _ignores_children(pid: int) -> bool:
    with contextlib.suppress(OSError):
        for line in Path("/proc", str(pid), "status").read_text().splitlines():
            if line.startswith("SigIgn:"):
                return bool(int(line.split()[1], 16) & 1 << (signal.SIGCHLD - 1))
    return False


@dataclass(slots=True)
class Dropped:
    """CPU seconds of processes whose parents ignore SIGCHLD, as last seen, by pid."""

    seen: dict[int, float] = field(default_factory=dict[int, float])

    def look(self, root: int) -> set[int]:
        """Look at all processes below `root`; returns their pids."""
        everything = processes()
        pids = below([root], everything)
        ignoring = {pid for pid in pids if _ignores_children(pid)}
        for pid in pids:
            process = everything[pid]
            if process.parent in ignoring or pid in self.seen:
                self.seen[pid] = process.cpu_seconds + process.reaped_cpu_seconds
        return pids


def run(command: list[str], *, with_memory: bool = False) -> Cost:
    """Run a program to its end, and to the end of whatever it leaves behind.

    A process that outlives the program by more than 20 seconds is killed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    dropped, ended, peak = Dropped(), threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        memory_due = 0.0
        while not ended.wait(SAMPLE_SECONDS):
            pids = dropped.look(os.getpid())
            if with_memory and time.monotonic() >= memory_due:
                peak = max(peak, memory_bytes(pids))
                memory_due = time.monotonic() + MEMORY_SECONDS

    started = time.monotonic()
    program = os.posix_spawnp(command[0], command, os.environ)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    cpu_seconds = wall_seconds = 0.0
    exit_code = 0
    last_call = threading.Timer(_SECONDS_TO_DIE, lambda: kill_below(os.getpid()))
    while True:
        try:
            pid, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            break
        dropped.seen.pop(pid, None)
        cpu_seconds += usage.ru_utime + usage.ru_stime
        if pid == program:
            wall_seconds = time.monotonic() - started
            exit_code = os.waitstatus_to_exitcode(status)
            last_call.start()
    last_call.cancel()
    ended.set()
    watcher.join()
    return Cost(exit_code, wall_seconds, cpu_seconds + sum(dropped.seen.values()), peak)


def kill_below(root: int) -> None:
    """Kill every process below `root`."""
    for pid in below([root], processes()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _end(*_: object) -> None:
    kill_below(os.getpid())
    os._exit(143)


def main(report: str, *command: str) -> None:
    """Run a program, write its cost to `report`, and end as it ended."""
    signal.signal(signal.SIGTERM, _end)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    cost = run(list(command), with_memory=os.environ.pop(MEMORY_MARK, "") == "yes")
    Path(report).write_text(json.dumps(asdict(cost)))
    sys.exit(cost.exit_code if cost.exit_code >= 0 else 128 - cost.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
