"""Measure `lakehouse ingest follow` while events flow: how fresh its table is, how soon it is back after a kill."""

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.contenders.registry import ALL, LAKEHOUSE, OURS
from bench.ground import Ground, Topic, environment_of
from bench.race import ServerClock
from bench.say import say
from lakehouse.adapters import trino
from lakehouse.errors import LakehouseError, TransientError
from lakehouse.tables import USER_ACTIONS

POLL_SECONDS: Final = 0.2
WARM_EVENTS_PER_SECOND: Final = 100
WARM_SECONDS: Final = 180
DRAIN_SECONDS: Final = 120


class Follower:
    """`lakehouse ingest follow` under a supervisor that starts it again as soon as it ends."""

    def __init__(self, topic: Topic, log: Path) -> None:
        self._environment = environment_of(topic.settings)
        self._log = log.open("a")
        self._ended = threading.Event()
        self._child = self._start()
        self.starts = 1
        self._watcher = threading.Thread(target=self._supervise, daemon=True)
        self._watcher.start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [LAKEHOUSE, "ingest", "follow"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def _supervise(self) -> None:
        while True:
            self._child.wait()
            if self._ended.is_set():
                return
            self.starts += 1
            self._child = self._start()

    def kill(self) -> None:
        """Kill -9 the driver with its whole process group."""
        os.killpg(self._child.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let it drain and end; what does not end is killed."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._child.terminate()
        try:
            self._child.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
        self._watcher.join()
        self._log.close()


@contextmanager
def producing(topic: Topic, rate: float, seconds: float, file: Path) -> Generator[subprocess.Popen[str]]:
    """Run the steady producer beside the block; it is asked to end when the block does, if it has not ended."""
    command = [sys.executable, "-m", "bench.steady_producer", str(rate), str(seconds), str(file)]
    child = subprocess.Popen(command, env=environment_of(topic.settings), stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        try:
            if child.stdout.readline() != "ready\n":
                raise LakehouseError("the producer did not start")
            yield child
        finally:
            child.terminate()
            child.wait()


def sent_times(file: Path) -> dict[int, Any]:
    """Read what the steady producer wrote."""
    with np.load(file) as arrays:
        return {int(number): times for number, times in arrays.items()}


@dataclass(frozen=True, slots=True)
class Poll:
    """One answer of Trino: when it came, and the highest offset it showed of each topic partition."""

    at: float
    highest: dict[int, int]


class Poller:
    """Asks Trino several times a second for the newest rows, by a query on the table's rows."""

    def __init__(self, ground: Ground, topic: Topic) -> None:
        self._settings = topic.settings
        self._table = f"{ground.settings.catalog.name}.{ground.lake.identifier(USER_ACTIONS)}"
        self.polls: list[Poll] = []
        self.failures = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        highest: dict[int, int] = {}
        while not self._ended.wait(POLL_SECONDS):
            floor = min(highest.values(), default=-1)
            sql = (
                f"SELECT kafka_partition, max(kafka_offset) FROM {self._table} "
                f"WHERE kafka_offset > {floor} GROUP BY kafka_partition"
            )
            try:
                rows = trino.query(self._settings.trino_as("ingest"), sql)
            except TransientError:  # a file of the plan was compacted away meanwhile
                self.failures += 1
                continue
            at = time.time()
            highest |= {partition: max(offset, highest.get(partition, -1)) for partition, offset in rows}
            self.polls.append(Poll(at, dict(highest)))

    def wait_for(self, reached: Callable[[dict[int, int]], bool], seconds: float) -> bool:
        """Wait until a poll fulfils a condition."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.polls and reached(self.polls[-1].highest):
                return True
            time.sleep(POLL_SECONDS)
        return False

    def close(self) -> None:
        """Stop asking."""
        self._ended.set()
        self._thread.join()


class Compaction:
    """Trino's `optimize` on the table, one after another with a pause between."""

    def __init__(self, ground: Ground, topic: Topic, pause_seconds: float) -> None:
        self._settings = topic.settings
        self._sql = (
            f"ALTER TABLE {ground.settings.catalog.name}.{ground.lake.identifier(USER_ACTIONS)} EXECUTE optimize"
        )
        self.seconds: list[float] = []
        self.failures: list[str] = []
        self._ended = threading.Event()
        self._pause_seconds = pause_seconds
        self._thread = threading.Thread(target=self._compact, daemon=True)
        self._thread.start()

    def _compact(self) -> None:
        while not self._ended.wait(self._pause_seconds):
            started = time.monotonic()
            try:
                trino.query(self._settings.trino_as("ingest"), self._sql)
            except LakehouseError as error:
                self.failures.append(str(error)[:300])
            else:
                self.seconds.append(round(time.monotonic() - started, 2))

    def close(self) -> None:
        """Stop after the one that runs."""
        self._ended.set()
        self._thread.join()


def delays(sent_at: dict[int, Any], first_offsets: dict[int, int], polls: Sequence[Poll]) -> Any:
    """Seconds from the sending of each event to the first answer that showed it; infinite for one never shown.

    Args:
        sent_at: send times per topic partition, in the order of offsets.
        first_offsets: the offset of each topic partition's first send time.
        polls: in order of time.
    """
    found: list[Any] = []
    for partition, times in sent_at.items():
        shown = np.full(len(times), np.inf)
        done = 0
        for poll in polls:
            reached = min(len(times), poll.highest.get(partition, -1) + 1 - first_offsets[partition])
            if reached > done:
                shown[done:reached] = poll.at
                done = reached
        found.append(shown - times)
    return np.concatenate(found)


def freshness(ground: Ground, work: Path, *, rate: float, seconds: float, pause_seconds: float) -> dict[str, Any]:
    """Measure how long an event takes from its sending until Trino shows it, while compaction runs."""
    contender = ALL[OURS]
    ground.fresh_tables(contender.tables)
    topic = ground.empty_topic("freshness")
    work.mkdir(parents=True, exist_ok=True)
    say(f"freshness: {rate:,.0f} events/s for {seconds:.0f} s, after a warm-up")
    with contextlib.ExitStack() as open_things:
        follower = Follower(topic, work / "follow.log")
        open_things.callback(follower.close)
        poller = Poller(ground, topic)
        open_things.callback(poller.close)
        warm = work / "warm.npz"
        with producing(topic, WARM_EVENTS_PER_SECOND, WARM_SECONDS, warm):
            if not poller.wait_for(lambda highest: len(highest) == len(topic.ends), WARM_SECONDS):
                raise LakehouseError(f"no commit within {WARM_SECONDS} s; see {work / 'follow.log'}")
        first_offsets = {number: len(times) for number, times in sent_times(warm).items()}
        compaction = Compaction(ground, topic, pause_seconds)
        open_things.callback(compaction.close)
        clock = ServerClock(ground.settings)
        began = time.time()
        with producing(topic, rate, seconds, work / "sent.npz") as producer:
            producer.wait()
        sent_at = sent_times(work / "sent.npz")
        ends = {partition: first_offsets[partition] + len(times) for partition, times in sent_at.items()}
        poller.wait_for(
            lambda highest: all(highest.get(partition, -1) + 1 >= end for partition, end in ends.items()), DRAIN_SECONDS
        )
        machine = clock.machine()
        compaction.close()
        poller.close()
        follower.close()
        _take_what_waits(topic)
        found = delays(sent_at, first_offsets, poller.polls)
        held = ground.held(contender.tables, Topic(topic.settings, len(found), 0.0, 0, ends))
        shares = {"p50": 50, "p95": 95, "p99": 99, "worst": 100}
        quantiles = {name: float(np.percentile(found, share, method="higher")) for name, share in shares.items()}
        say("freshness: " + ", ".join(f"{name} {value:.2f} s" for name, value in quantiles.items()))
        return {
            "events": len(found),
            "events_per_second": round(len(found) / (max(map(np.max, sent_at.values())) - began), 1),
            # None: some never became visible, so there is no such time
            **{f"{name}_seconds": round(v, 3) if np.isfinite(v) else None for name, v in quantiles.items()},
            "polls": sum(poll.at >= began for poll in poller.polls),
            "failed_polls": poller.failures,
            "compactions": len(compaction.seconds),
            "compaction_seconds": compaction.seconds,
            "failed_compactions": compaction.failures,
            "compaction_pause_seconds": pause_seconds,
            "machine_cpu_seconds": round(machine, 1),
            "restarts": follower.starts - 1,
            "rows": held.rows,
            "lost": held.lost,
            "doubled": held.doubled,
        }


def kill_and_come_back(ground: Ground, work: Path, *, kills: int, rate: float) -> dict[str, Any]:
    """Kill -9 the follower while events flow, and time its next commit; as often as `kills`."""
    contender = ALL[OURS]
    ground.fresh_tables(contender.tables)
    topic = ground.empty_topic("kill")
    work.mkdir(parents=True, exist_ok=True)
    seconds: list[float] = []
    say(f"kill -9 of the follower, {kills} times, at {rate:,.0f} events/s")
    with contextlib.ExitStack() as open_things:
        follower = Follower(topic, work / "follow.log")
        open_things.callback(follower.close)
        with producing(topic, rate, 3600, work / "sent.npz"):
            _next_snapshot(ground, None)
            for number in range(kills):
                time.sleep(3 + number)  # not always in the same place of a commit's cycle
                killed = time.monotonic()
                follower.kill()
                time.sleep(0.5)  # a commit that was under way may still land; it does not count
                before = _snapshot(ground)
                _next_snapshot(ground, before)
                seconds.append(round(time.monotonic() - killed, 2))
                say(f"  next commit {seconds[-1]:.1f} s after the kill")
        sent = {number: len(times) for number, times in sent_times(work / "sent.npz").items()}
        follower.close()
        _take_what_waits(topic)
        held = ground.held(contender.tables, Topic(topic.settings, sum(sent.values()), 0.0, 0, sent))
    return {
        "events_per_second": rate,
        "seconds": seconds,
        "median_seconds": statistics.median(seconds),
        "rows": held.rows,
        "lost": held.lost,
        "doubled": held.doubled,
    }


def _take_what_waits(topic: Topic) -> None:
    """Ingest the rest, so that what is missing afterwards is lost, and not only late."""
    subprocess.run([LAKEHOUSE, "ingest", "run"], env=environment_of(topic.settings), check=True, capture_output=True)


def _snapshot(ground: Ground) -> int | None:
    return ground.lake.load(USER_ACTIONS).metadata.current_snapshot_id


def _next_snapshot(ground: Ground, before: int | None, wait_seconds: float = 300) -> None:
    deadline = time.monotonic() + wait_seconds
    while _snapshot(ground) == before:
        if time.monotonic() > deadline:
            raise LakehouseError(f"no commit within {wait_seconds:.0f} s")
        time.sleep(0.1)
