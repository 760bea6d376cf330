"""The command behind `make bench`: run what was asked for, write the results, and from them the document."""

import functools
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bench import live, race, report, results
from bench.command import Document, Quick, run
from bench.contenders import connect_jars
from bench.contenders.registry import ALL, OURS
from bench.ground import Ground, Topic
from bench.race import Run, RunError
from bench.say import say
from lakehouse.adapters import trino
from lakehouse.cli.output import install_progress
from lakehouse.errors import LakehouseError
from lakehouse.settings import PROJECT_ROOT, Settings
from lakehouse.stack import artifacts, local
from lakehouse.tables import USER_ACTIONS

ON_BARS: Final = ("stock_spark", "two_sinks", "python_script")
BESIDE: Final = ("tuned_spark", "duckdb_script", "kafka_connect")
MEASURES: Final = ("drain", "backlog", "bad_rows", "floors", "freshness", "kill")
NAMES: Final = (*ON_BARS, *BESIDE, *MEASURES)
RESULTS: Final = PROJECT_ROOT / "bench" / "results" / "ingest.json"
PAGE: Final = PROJECT_ROOT / "docs" / "benchmarks.md"
BAD_RATIO: Final = 0.05
QUICK_EVENTS: Final = 300_000
FLOOR_RUNS: Final = 3


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is run."""

    events: int
    pairs: int
    more_pairs: int
    freshness_seconds: float
    rate: float
    compaction_pause_seconds: float
    kills: int
    backlog_gib: float | None


class Bench:
    """One call of the bench: measures sections and keeps the results file up to date after each."""

    def __init__(self, stack: Settings, file: Path, sizes: Sizes) -> None:
        self._stack, self._file, self._sizes = stack, file, sizes
        self._work = stack.home / "bench" / "work"
        self.ground = Ground(stack)

    def keep(self, section: str, content: dict[str, Any], name: str | None = None) -> None:
        """Put a section, or one name of it, into the results; the others stay."""
        known = results.load(self._file)
        stamped = results.stamp(self._stack) | content
        known[section] = known.get(section, {}) | {name: stamped} if name else stamped
        results.save(self._file, known)

    def contenders(self, names: list[str], pairs: int) -> None:
        """Run contenders in turn with ours."""
        if not names or not pairs:
            return
        topic = self._topic()
        runs: list[Run] = []
        broken: set[str] = set()
        try:
            for name in race.schedule(names, pairs):
                if name not in broken:
                    try:
                        runs.append(race.run(self.ground, ALL[name], topic, self._work))
                    except RunError as error:
                        if name == OURS:
                            raise
                        say(f"{name} is left out: {error}")
                        broken.add(name)
        finally:
            of_all = list(race.pairs(runs))
            for name in names:
                found = results.as_pairs([pair for pair in of_all if pair[1].contender == name])
                if found and name not in broken:
                    facts = {"events": topic.events, "json_bytes": topic.json_bytes}
                    self.keep("contenders", facts | {"pairs": found}, name)

    def bad_rows(self) -> None:
        """Run ours over 5 % bad messages and over none, in turn."""
        clean, bad = self._topic(), self._topic(BAD_RATIO)
        pairs: list[tuple[Run, Run]] = []
        for _ in range(self._sizes.pairs):
            runs = [race.run(self.ground, ALL[OURS], topic, self._work) for topic in (clean, bad)]
            pairs.append((runs[0], runs[1]))
        facts = {"events": clean.events, "bad_ratio": BAD_RATIO}
        facts |= {"json_bytes": clean.json_bytes, "bad_json_bytes": bad.json_bytes}
        self.keep("bad_rows", facts | {"pairs": results.as_pairs(pairs)})

    def drain(self) -> None:
        """Drain a backlog once, and compact the table."""
        topic = self._topic()
        drained = self._drained(topic)
        table = f"{self._stack.catalog.name}.{self.ground.lake.identifier(USER_ACTIONS)}"
        trino.query(self._stack.trino_as("ingest"), f"ALTER TABLE {table} EXECUTE optimize")
        after = self.ground.held([USER_ACTIONS], topic)
        self.keep("drain", drained | {"compacted_table_bytes": after.file_bytes, "compacted_files": after.files})

    def backlog(self) -> None:
        """Drain a backlog of so many GiB once, if one was asked for; it is too large for Trino to compact here."""
        if self._sizes.backlog_gib is not None:
            few = self.ground.topic(100_000)
            events = int(self._sizes.backlog_gib * 2**30 / (few.json_bytes / few.events))
            self.keep("backlog", self._drained(self.ground.topic(events)))

    def _drained(self, topic: Topic) -> dict[str, Any]:
        """Drain a topic, watching the memory of all processes, and look what the table holds then."""
        run = race.run(self.ground, ALL[OURS], topic, self._work, with_memory=True)
        held = self.ground.held([USER_ACTIONS], topic)
        say(
            f"{run.peak_memory_bytes / 2**30:.2f} GiB of memory at most; "
            f"the table has {held.file_bytes / topic.json_bytes:.4f} of the JSON's bytes"
        )
        return {
            "events": topic.events,
            "json_bytes": topic.json_bytes,
            "wall_seconds": run.wall_seconds,
            "drain_peak_memory_bytes": run.peak_memory_bytes,
            "table_bytes": held.file_bytes,
            "files": held.files,
            "rows": held.rows,
            "lost": held.lost,
            "doubled": held.doubled,
        }

    def floors(self) -> None:
        """Measure what parts of the work cost alone."""
        topic = self._topic()
        runs = min(FLOOR_RUNS, self._sizes.pairs)
        found: dict[str, list[dict[str, float]]] = {}
        for module in ("consume", "spark_consume", "spark_start"):
            for _ in range(runs):
                clock = race.ServerClock(self._stack)
                self._work.mkdir(parents=True, exist_ok=True)
                command = [sys.executable, "-m", f"bench.floors.{module}"]
                cost = race.measured(command, topic.settings, self._work)
                if cost.exit_code:
                    raise LakehouseError(f"{module} ended with {cost.exit_code}; see {self._work / 'log'}")
                servers = sum(clock.servers().values())
                found.setdefault(module, []).append(
                    {"cpu_seconds": round(cost.cpu_seconds + servers, 2), "wall_seconds": round(cost.wall_seconds, 2)}
                )
            say(f"{module}: {found[module]}")
        in_memory: list[dict[str, float]] = []
        for _ in range(runs):
            command = [sys.executable, "-m", "bench.floors.in_memory", str(min(topic.events, 2_000_000))]
            cost = race.measured(command, topic.settings, self._work)
            log = (self._work / "log").read_text()
            if cost.exit_code:
                raise LakehouseError(f"in_memory ended with {cost.exit_code}: {log[-1000:]}")
            in_memory.append(json.loads(log.splitlines()[-1]))
        say(f"in memory: {in_memory}")
        self.keep("floors", {"events": topic.events, "runs": found, "in_memory": in_memory})

    def freshness(self) -> None:
        """Measure how fresh the table is while events flow."""
        sizes = self._sizes
        self.keep(
            "freshness",
            live.freshness(
                self.ground,
                self._work,
                rate=sizes.rate,
                seconds=sizes.freshness_seconds,
                pause_seconds=sizes.compaction_pause_seconds,
            ),
        )

    def kill(self) -> None:
        """Measure how soon ingest is back after a kill."""
        self.keep(
            "kill", live.kill_and_come_back(self.ground, self._work, kills=self._sizes.kills, rate=self._sizes.rate)
        )

    def _topic(self, bad_ratio: float = 0.0) -> Topic:
        return self.ground.topic(self._sizes.events, bad_ratio)


def main(
    events: Annotated[int, typer.Option(min=1000, help="Events of one run.")] = 10_000_000,
    pairs: Annotated[
        int, typer.Option(min=1, help="Runs of each contender that a bar is set on, beside one of ours.")
    ] = 5,
    more_pairs: Annotated[int, typer.Option(min=0, help="Runs of each of the other contenders.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help=f"What to measure, several times: {', '.join(NAMES)}.")] = None,
    quick: Quick = False,
    freshness_seconds: Annotated[float, typer.Option(min=5, help="How long events flow for freshness.")] = 300,
    rate: Annotated[float, typer.Option(min=100, help="Events per second for freshness and kills.")] = 21_000,
    compaction_pause_seconds: Annotated[float, typer.Option(min=0, help="Pause between two compactions.")] = 10,
    kills: Annotated[int, typer.Option(min=1, help="How often the follower is killed.")] = 3,
    backlog_gib: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Size of the backlog for `backlog`, in GiB of JSON; without it that one is left out."
        ),
    ] = None,
    document: Document = False,
) -> None:
    """Measure ingest beside its rivals on this machine's stack, and write the results and their document."""
    if document:
        PAGE.write_text(report.page(RESULTS.parent))
        return
    names = list(only or NAMES)
    if unknown := set(names) - set(NAMES):
        raise typer.BadParameter(f"no {', '.join(sorted(unknown))}; there is: {', '.join(NAMES)}")
    if "backlog" in (only or ()) and backlog_gib is None:
        raise typer.BadParameter("`--only backlog` needs a size: `--backlog-gib 10`")
    sizes = Sizes(events, pairs, more_pairs, freshness_seconds, rate, compaction_pause_seconds, kills, backlog_gib)
    if quick:
        sizes = Sizes(QUICK_EVENTS, 1, 1, 30, min(rate, 5000), compaction_pause_seconds, 1, backlog_gib)
    with install_progress() as progress:
        stack = artifacts.with_local_spark(
            local.up("core", progress=progress, notice=lambda server, event: say(f"{server}: {event}"))
        )
        if "kafka_connect" in names:
            connect_jars.fetch(stack, progress)
    if results.stamp(stack)["airflow_running"]:
        say("Airflow runs and works beside the bench; `make stop`, then `make start PROFILE=core` gives truer figures")
    trial = stack.home / "bench"
    file, page = (trial / RESULTS.name, trial / PAGE.name) if quick else (RESULTS, PAGE)
    file.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(stack, file, sizes)
    steps: dict[str, Callable[[], None]] = {
        "drain": bench.drain,
        "backlog": bench.backlog,
        "on bars": functools.partial(bench.contenders, [name for name in ON_BARS if name in names], sizes.pairs),
        "beside": functools.partial(bench.contenders, [name for name in BESIDE if name in names], sizes.more_pairs),
        "bad_rows": bench.bad_rows,
        "floors": bench.floors,
        "freshness": bench.freshness,
        "kill": bench.kill,
    }
    with ExitStack() as at_the_end:
        at_the_end.callback(bench.ground.close)
        for name, step in steps.items():
            if name in names or name in ("on bars", "beside"):
                step()
                page.write_text(report.page(file.parent))
    say(f"results in {file}, the document in {page}")


if __name__ == "__main__":
    run(main)
