"""Load and archive impressions in an environment of the bench's own, in turn with PostgreSQL's own COPY."""

import io
import json
import re
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from psycopg import sql
from pyarrow import csv

from bench import measure
from bench.ground import environment_of
from bench.say import say
from lakehouse import environment
from lakehouse.adapters.ads_store import SCHEMA, AdsStore
from lakehouse.adapters.postgres import connect
from lakehouse.ads import archive, load
from lakehouse.ads.audit import audit
from lakehouse.ads.backup import Backups, Interval, Manifest, Run, new_run_id
from lakehouse.ads.contract import decode_lines
from lakehouse.errors import LakehouseError
from lakehouse.settings import Settings

Cost = Literal["wall_seconds", "cpu_seconds"]
Round = dict[str, dict[Cost, float]]
"""What each step of a round cost: CPU seconds are those of the whole machine, because the servers do most of it."""

FIRST: Final = date(2023, 9, 1)
START: Final = datetime(2023, 9, 1, tzinfo=UTC)
PAGE: Final = 5_000
_BLOCK: Final = 1 << 20
_POLL_SECONDS: Final = 0.1
LAKEHOUSE: Final = str(Path(sys.executable).with_name("lakehouse"))


def pages(rows: int, dates: int, seed: int = 5) -> Iterator[bytes]:
    """So many records on so many dates, as the API returns them: every tenth impression was clicked."""
    rng = np.random.default_rng(seed)
    for begin in range(0, rows, PAGE):
        count = min(PAGE, rows - begin)
        seconds = rng.integers(0, 86_000, count)
        users, ads, skus, costs = (rng.integers(0, most, count) for most in (1_000_000, 500, 60, 20_000))
        lines: list[str] = []
        for nth in range(count):
            number = begin + nth
            shown = f"{FIRST + timedelta(days=number % dates)}T{_clock(int(seconds[nth]))}"
            clicked = f'"{shown}.500Z"' if number % 10 == 0 else "null"
            lines.append(
                f'{{"impression_id":"{number:012}","campaign":"campaign-{ads[nth] % 20}","ad":"ad-{ads[nth]}",'
                f'"sku":"SKU-{1000 + skus[nth]}","user_id":"user_{users[nth]}","shown_at":"{shown}.125Z",'
                f'"clicked_at":{clicked},"cost_micros":{costs[nth]},"updated_at":"{shown}.750Z"}}\n'
            )
        yield "".join(lines).encode()


def _clock(second: int) -> str:
    return f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"


class Ground:
    """An environment of the bench's own on the running servers; `close` removes all of it."""

    def __init__(self, stack: Settings) -> None:
        self.settings = stack.model_copy(update={"prefix": f"bench_{secrets.token_hex(4)}_"})
        self._schema = sql.Identifier(f"{self.settings.prefix}ads")

    def fresh(self) -> None:
        """Empty tables, and nothing in the object store."""
        environment.drop(self.settings)
        environment.apply(self.settings)
        self.run("CREATE TABLE {schema}.baseline (LIKE {schema}.impressions INCLUDING ALL)")

    def run(self, statement: str) -> None:
        """Do something in PostgreSQL."""
        with connect(self.settings) as connection:
            connection.execute(sql.SQL(statement).format(schema=self._schema))  # pyright: ignore[reportArgumentType]

    def copy_in(self, content: bytes) -> None:
        """PostgreSQL's own COPY into a table like ours, its key included."""
        view = memoryview(content)
        statement = sql.SQL("COPY {schema}.baseline FROM STDIN (FORMAT csv)").format(schema=self._schema)
        with connect(self.settings) as connection, connection.cursor() as cursor, cursor.copy(statement) as copy:
            for begin in range(0, len(view), _BLOCK):
                copy.write(view[begin : begin + _BLOCK])

    def copy_out(self) -> None:
        """PostgreSQL's own COPY out of that table, to nowhere."""
        statement = sql.SQL("COPY {schema}.baseline TO STDOUT (FORMAT csv)").format(schema=self._schema)
        with connect(self.settings) as connection, connection.cursor() as cursor, cursor.copy(statement) as copy:
            for _ in copy:
                pass

    def close(self) -> None:
        """Remove the environment."""
        environment.drop(self.settings)


def speed(stack: Settings, rows: int, dates: int, rounds: int) -> dict[str, Any]:
    """Measure so many rounds; the first warms up and is left out."""
    ground = Ground(stack)
    lines = list(pages(rows, dates))
    content = _as_csv(lines)
    measured: list[Round] = []
    try:
        for nth in range(rounds + 1):
            measured.append(_round(ground, lines, content, ours_first=nth % 2 == 0))
            steps = measured[-1].items()
            say(f"round {nth}: " + ", ".join(f"{name} {step['wall_seconds']:.2f} s" for name, step in steps))
        report = audit(ground.settings)
        if not report.ok or report.archived != rows:
            raise LakehouseError(f"the audit of the bench finds {report}")
    finally:
        ground.close()
    return {"rows": rows, "dates": dates, "csv_bytes": len(content), "rounds": measured[1:]}


def _round(ground: Ground, lines: list[bytes], content: bytes, *, ours_first: bool) -> Round:
    ground.fresh()
    backups = Backups(ground.settings)
    run = Run(new_run_id(START), FIRST)
    found: Round = {}
    manifest: list[Manifest] = []

    def store() -> None:
        parts = backups.write(run, lines)
        made = Manifest(
            run_id=run.run_id,
            account="bench",
            interval=Interval(START, START + timedelta(days=1)),
            asked_for=True,
            stored_at=datetime.now(UTC),
            parts=parts,
        )
        backups.save(run, made)
        manifest.append(made)

    def insert() -> None:
        loader = load._Loader(ground.settings, START, None)  # noqa: SLF001
        with AdsStore(ground.settings).session() as session:
            loader.insert(session, run, manifest[0])

    def move() -> None:
        archive.run(ground.settings, before=date(2023, 12, 1))

    found["store"] = _timed(store)
    ins: list[tuple[str, Callable[[], object]]] = [("insert", insert), ("copy_in", lambda: ground.copy_in(content))]
    for name, step in ins if ours_first else reversed(ins):
        found[name] = _timed(step)
    ground.run("ANALYZE {schema}.impressions")
    outs: list[tuple[str, Callable[[], object]]] = [("archive", move), ("copy_out", ground.copy_out)]
    for name, step in outs if ours_first else reversed(outs):
        found[name] = _timed(step)
    found["delete"] = _timed(lambda: ground.run("DELETE FROM {schema}.baseline"))
    return found


def _timed(step: Callable[[], object]) -> dict[Cost, float]:
    cpu, started = measure.machine_cpu_seconds(), time.perf_counter()
    step()
    wall = time.perf_counter() - started
    return {"wall_seconds": round(wall, 4), "cpu_seconds": round(measure.machine_cpu_seconds() - cpu, 2)}


def _as_csv(lines: list[bytes]) -> bytes:
    sink = io.BytesIO()
    for page in lines:
        good, bad = decode_lines(page.splitlines(), 1)
        if bad.num_rows:
            raise LakehouseError("the bench's own records break the contract")
        whole = good.append_column("arrived_at", good["updated_at"]).select(SCHEMA.names)
        csv.write_csv(whole, sink, csv.WriteOptions(include_header=False))
    return sink.getvalue()


def memory(stack: Settings, sizes: tuple[int, int]) -> dict[str, Any]:
    """The most memory that a restore and an archiving hold, for two sizes of one date."""
    ground = Ground(stack)
    found: dict[str, Any] = {}
    try:
        for rows in sizes:
            ground.fresh()
            backups = Backups(ground.settings)
            run = Run(new_run_id(START), FIRST)
            parts = backups.write(run, pages(rows, 1))
            interval = Interval(START, START + timedelta(days=1))
            stored = Manifest(
                run_id=run.run_id, account="bench", interval=interval, asked_for=True, stored_at=START, parts=parts
            )
            backups.save(run, stored)
            restored = _peak(ground.settings, "restore", "--from-backup")
            archived = _peak(ground.settings, "archive", "--before", "2023-12-01")
            found[str(rows)] = {"restore_bytes": restored, "archive_bytes": archived}
            say(f"{rows:,} rows: restore {restored / 1e6:,.0f} MB, archive {archived / 1e6:,.0f} MB")
    finally:
        ground.close()
    return {"sizes": found}


def _peak(settings: Settings, *words: str) -> int:
    command = [LAKEHOUSE, "ads", *words, "--output", "json"]
    with subprocess.Popen(command, env=environment_of(settings), stdout=subprocess.PIPE) as process:
        status, peak = Path(f"/proc/{process.pid}/status"), 0
        while process.poll() is None:
            # The most that it held so far, whenever that was; gone when the process has ended.
            if held := re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE):
                peak = int(held[1]) * 1024
            time.sleep(_POLL_SECONDS)
        told = process.stdout.read() if process.stdout else b""
    if process.returncode:
        raise LakehouseError(f"lakehouse ads {' '.join(words)} ended with {process.returncode}")
    json.loads(told)
    return peak


def rate(section: dict[str, Any], *steps: str) -> float:
    """Rows a second through these steps together, the median of the rounds."""
    return section["rows"] / statistics.median(_sum(one, steps, "wall_seconds") for one in section["rounds"])


def ratio(section: dict[str, Any], ours: tuple[str, ...], other: tuple[str, ...], of: Cost = "wall_seconds") -> float:
    """Rows of ours for the same time ÷ those of the other, the median of the rounds."""
    return statistics.median(_sum(one, other, of) / _sum(one, ours, of) for one in section["rounds"])


def _sum(one: Round, steps: Iterable[str], of: Cost) -> float:
    return sum(one[step][of] for step in steps)
