"""Collectors, and the watches that let each look by itself, so that one that fails or hangs costs its own facts alone.

A watch looks in a thread of its own, every so often, and keeps what it saw last. A scrape asks nobody: it takes what
the watches hold, with its age. A watch whose looks fail shows its last facts for some looks more, so no number stands
still for ever; and one whose looks take long pauses for long, so what it asks is left alone most of the time.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from lakehouse.exporter.metrics import (
    COLLECTOR_AGE_SECONDS,
    COLLECTOR_DURATION_SECONDS,
    COLLECTOR_ERRORS,
    COLLECTOR_UP,
    Metric,
)

LOOKS_KEPT: Final = 3
LEAST_KEPT_SECONDS: Final = 60.0
LAST_LOOK_SECONDS: Final = 1.0
PAUSE_RATIO: Final = 9.0
"""A pause lasts so many times what the look before it took, at the least."""

_log = logging.getLogger("lakehouse.exporter")
# Who looks in a terminal shows errors there; the exporter sets up logging.
_log.addHandler(logging.NullHandler())

Clock = Callable[[], float]


class Fact(NamedTuple):
    """One number.

    Attributes:
        labels: values, in the order of the metric's labels.
        is_age: it was true when it was looked at, and grows by a second each second.
    """

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()
    is_age: bool = False


@dataclass(frozen=True, slots=True)
class Collector:
    """Something to look at.

    Attributes:
        name: unique; the label `collector`.
        look: finds the facts; raises when it can't. Nothing there to look at is no fact, and no error.
        every_seconds: from the end of a look to the beginning of the next; after a long look it is longer.
        timeout_seconds: a look that takes longer counts as failed until it ends.
    """

    name: str
    look: Callable[[], Iterable[Fact]]
    every_seconds: float
    timeout_seconds: float

    def pause_seconds(self, took_seconds: float) -> float:
        """How long to wait after a look."""
        return max(self.every_seconds, PAUSE_RATIO * min(took_seconds, self.timeout_seconds))

    def keeps_seconds(self, took_seconds: float) -> float:
        """How long facts are shown that a look found, while no later one goes well."""
        return max(LEAST_KEPT_SECONDS, LOOKS_KEPT * self.pause_seconds(took_seconds) + self.timeout_seconds)


@dataclass(frozen=True, slots=True)
class Report:
    """What a watch holds at a moment.

    Attributes:
        is_settled: it has looked once, or given up waiting for that.
        is_up: the last look ended well, and none is taking too long.
        error: of the last look; None when it ended well.
        age_seconds: of the facts; None when there are none to show.
        duration_seconds: of the last look; None before the first has ended.
        errors: looks that failed or took too long.
    """

    collector: str
    is_settled: bool
    is_up: bool
    error: str | None
    facts: tuple[Fact, ...]
    age_seconds: float | None
    duration_seconds: float | None
    errors: int

    def all_facts(self) -> Iterable[Fact]:
        """The facts, ages brought to this moment, and those about the collector itself."""
        passed = self.age_seconds or 0.0
        for fact in self.facts:
            yield fact._replace(value=fact.value + passed) if fact.is_age else fact
        labels = (self.collector,)
        if self.is_settled:
            yield Fact(COLLECTOR_UP, float(self.is_up), labels)
        yield Fact(COLLECTOR_ERRORS, self.errors, labels)
        if self.duration_seconds is not None:
            yield Fact(COLLECTOR_DURATION_SECONDS, self.duration_seconds, labels)
        if self.age_seconds is not None:
            yield Fact(COLLECTOR_AGE_SECONDS, self.age_seconds, labels)


class Watch:
    """Looks at one thing, again and again."""

    def __init__(self, collector: Collector, clock: Clock = time.monotonic) -> None:
        self.collector = collector
        self._clock = clock
        self._lock = threading.Lock()
        self._facts: tuple[Fact, ...] = ()
        self._totals: dict[tuple[str, tuple[str, ...]], float] = {}
        self._seen_at: float | None = None
        self._keeps_seconds = 0.0
        self._began_at: float | None = None
        self._duration_seconds: float | None = None
        self._error: str | None = None
        self._errors = 0
        self._is_overdue = self._is_settled = False

    def look(self) -> float:
        """Look once, and keep what there is to see, or why there is nothing; returns how long it took."""
        collector = self.collector
        with self._lock:
            self._began_at = began_at = self._clock()
            self._is_overdue = False
        error: str | None = None
        found: tuple[Fact, ...] = ()
        try:
            found = tuple(collector.look())
        except Exception as problem:  # noqa: BLE001 - the outermost edge: whatever is wrong here, the others go on
            error = " ".join(f"{type(problem).__name__}: {problem}".split())
        with self._lock:
            ended_at = self._clock()
            self._began_at, self._duration_seconds = None, ended_at - began_at
            self._is_settled = True
            if error is None:
                self._keep(found, ended_at)
                self._keeps_seconds = collector.keeps_seconds(self._duration_seconds)
                if self._duration_seconds > collector.timeout_seconds:
                    error = f"it took more than the {collector.timeout_seconds:g} s that it may"
            if error is not None and not self._is_overdue:
                self._errors += 1
            self._log_change(self._error, error)
            self._error = error
            return self._duration_seconds

    def report(self) -> Report:
        """Tell what is known now; waits for nothing."""
        with self._lock:
            now, collector = self._clock(), self.collector
            error = self._error
            if self._began_at is not None and now - self._began_at > collector.timeout_seconds:
                error = f"a look has gone on for {now - self._began_at:.0f} s"
                if not self._is_overdue:
                    self._is_overdue = self._is_settled = True
                    self._errors += 1
                    self._log_change(self._error, error)
                    self._error = error
            age = None if self._seen_at is None else now - self._seen_at
            if age is not None and age > self._keeps_seconds:
                age = None
            return Report(
                collector=collector.name,
                is_settled=self._is_settled,
                is_up=self._is_settled and error is None,
                error=error,
                facts=self._facts if age is not None else (),
                age_seconds=age,
                duration_seconds=self._duration_seconds,
                errors=self._errors,
            )

    def _keep(self, found: Sequence[Fact], now: float) -> None:
        """Take the place of what was seen before; what was taken away from a total does not move its counter."""
        told = {(fact.metric.name, fact.labels): fact.value for fact in self._facts if fact.metric.kind == "counter"}
        totals = {(fact.metric.name, fact.labels): fact.value for fact in found if fact.metric.kind == "counter"}

        def following(fact: Fact) -> Fact:
            key = fact.metric.name, fact.labels
            if key not in told:
                return fact
            return fact._replace(value=told[key] + max(0.0, fact.value - self._totals[key]))

        self._facts = tuple(following(fact) if fact.metric.kind == "counter" else fact for fact in found)
        self._totals = totals
        self._seen_at = now

    def _log_change(self, before: str | None, now: str | None) -> None:
        """Log an error that begins, becomes another one, or ends."""
        if now and now != before:
            _log.warning("collector %s: %s", self.collector.name, now)
        elif before and not now:
            _log.info("collector %s: looks well again", self.collector.name)


def join(threads: Iterable[threading.Thread], seconds: float) -> None:
    """Wait for threads to end, for so long together at the most."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


class Watches:
    """All watches of a program, each with its thread while the block is open."""

    def __init__(self, collectors: Iterable[Collector]) -> None:
        self._watches = [Watch(collector) for collector in collectors]
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin to look."""
        for watch in self._watches:
            # A look that hangs must not keep the program from ending.
            thread = threading.Thread(target=self._run, args=[watch], name=watch.collector.name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Begin no further look, and wait a moment for those under way."""
        self._stop.set()
        join(self._threads, LAST_LOOK_SECONDS)

    def reports(self) -> list[Report]:
        """Tell what each watch holds; waits for nothing."""
        return [watch.report() for watch in self._watches]

    def wait_until_settled(self, timeout_seconds: float | None = None) -> bool:
        """Wait until each has looked once or failed to in its time; False when the time given is over before."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not all(report.is_settled for report in self.reports()):
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _run(self, watch: Watch) -> None:
        while not self._stop.is_set():
            self._stop.wait(watch.collector.pause_seconds(watch.look()))
