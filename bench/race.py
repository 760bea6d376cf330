"""Run contenders in turn, each into fresh tables, and account for what each run cost and left behind."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from pyiceberg.transforms import DayTransform

from bench import measure
from bench.contenders.registry import OURS, Contender
from bench.ground import Ground, Topic, environment_of
from bench.measure import MEMORY_MARK, Cost
from bench.say import say
from lakehouse.errors import LakehouseError
from lakehouse.settings import Settings
from lakehouse.stack.supervision import Supervision

SERVERS: Final = ("kafka", "minio", "catalog", "postgres")
RUN_SECONDS: Final = 1800


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one contender.

    Attributes:
        cpu_seconds: of all its processes and of the servers it used.
        own_cpu_seconds: of its processes alone.
        server_cpu_seconds: what each server worked meanwhile.
        elsewhere_cpu_seconds: what the rest of the machine worked meanwhile: noise.
        lost: offsets that are in no table.
        doubled: rows beyond the first of an offset.
    """

    contender: str
    events: int
    wall_seconds: float
    cpu_seconds: float
    own_cpu_seconds: float
    server_cpu_seconds: dict[str, float]
    elsewhere_cpu_seconds: float
    rows: int
    lost: int
    doubled: int
    files: int
    file_bytes: int
    peak_memory_bytes: int = 0

    @property
    def cpu_seconds_per_million(self) -> float:
        """CPU seconds for a million events."""
        return self.cpu_seconds / self.events * 1e6


class RunError(LakehouseError):
    """A contender ended with an error."""


class ServerClock:
    """What the servers and the machine have worked since it was made."""

    def __init__(self, settings: Settings) -> None:
        states = Supervision(settings).states()
        self._pids = {name: pid for name in SERVERS if (pid := states.get(name, ("", None))[1])}
        self._servers = self._now()
        self._machine = measure.machine_cpu_seconds()

    def _now(self) -> dict[str, float]:
        everything = measure.processes()
        return {name: measure.tree_cpu_seconds(pid, everything) for name, pid in self._pids.items()}

    def servers(self) -> dict[str, float]:
        """CPU seconds of each server."""
        return {name: round(now - self._servers[name], 2) for name, now in self._now().items()}

    def machine(self) -> float:
        """CPU seconds of the whole machine."""
        return measure.machine_cpu_seconds() - self._machine


def schedule(others: Sequence[str], rounds: int) -> Iterator[str]:
    """The order of runs: in each round every other one stands beside a run of ours.

    Two of them share the run between them, so ours takes turns with all: a, ours, b, c, ours, d.
    """
    for _ in range(rounds):
        for first in range(0, len(others), 2):
            yield from (others[first], OURS, *others[first + 1 : first + 2])


def pairs(runs: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """Each run of another one with the run of ours beside it: (ours, other)."""
    used: set[int] = set()
    for first, second in pairwise(runs):
        if (first.contender == OURS) == (second.contender == OURS):
            continue
        ours, other = (first, second) if first.contender == OURS else (second, first)
        if id(other) not in used:
            used.add(id(other))
            yield ours, other


def run(ground: Ground, contender: Contender, topic: Topic, work: Path, *, with_memory: bool = False) -> Run:
    """Run a contender over a topic, from its start to its end, and count what it left."""
    ground.fresh_tables(contender.tables)
    if contender.partition_by_day_of:
        with ground.lake.load(contender.tables[0]).update_spec() as update:
            update.add_field(contender.partition_by_day_of, DayTransform(), "event_date")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    names = [ground.lake.identifier(spec) for spec in contender.tables]
    clock = ServerClock(ground.settings)
    cost = measured(contender.command(topic.settings, names, work), topic.settings, work, with_memory=with_memory)
    servers, machine = clock.servers(), clock.machine()
    if cost.exit_code:
        log = (work / "log").read_text(errors="replace")
        raise RunError(f"{contender.name} ended with {cost.exit_code}; its output ends: {log[-3000:]}")
    held = ground.held(contender.tables, topic)
    result = Run(
        contender.name,
        topic.events,
        round(cost.wall_seconds, 3),
        round(cost.cpu_seconds + sum(servers.values()), 2),
        round(cost.cpu_seconds, 2),
        servers,
        round(max(0.0, machine - cost.cpu_seconds - sum(servers.values())), 2),
        peak_memory_bytes=cost.peak_memory_bytes,
        **asdict(held),
    )
    wrong = f"; LOST {held.lost:,}, DOUBLED {held.doubled:,}" if held.lost or held.doubled else ""
    say(
        f"{contender.name}: {result.wall_seconds:.1f} s, {result.cpu_seconds_per_million:.2f} CPU-s per million "
        f"(own {cost.cpu_seconds:.0f}, servers {sum(servers.values()):.0f}, "
        f"elsewhere {result.elsewhere_cpu_seconds:.0f}){wrong}"
    )
    return result


def measured(command: list[str], settings: Settings, work: Path, *, with_memory: bool = False) -> Cost:
    """Run a program under `bench.measure`, its output in `work/log`; Ctrl-C ends all of it."""
    report = work / "cost.json"
    environment = environment_of(settings) | {MEMORY_MARK: "yes" if with_memory else ""}
    with (work / "log").open("w") as log:
        wrapper = subprocess.Popen(
            [sys.executable, "-m", "bench.measure", str(report), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            wrapper.wait(RUN_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise RunError(f"{' '.join(command[:4])} did not end within {RUN_SECONDS} s; see {work / 'log'}") from error
        finally:
            if wrapper.poll() is None:
                wrapper.terminate()
                wrapper.wait()
    return Cost(**json.loads(report.read_text()))
