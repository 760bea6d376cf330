"""The ground of the warehouse's bench: an environment whose tables are filled by the writer of ingest, past Kafka."""

import json
import secrets
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from bench.contenders.registry import LAKEHOUSE
from bench.ground import environment_of
from bench.history import TOPIC, Shop
from bench.warehouse.store import sent_bytes
from lakehouse import transform
from lakehouse.adapters import s3, trino
from lakehouse.adapters.catalog import Lake
from lakehouse.environment import apply, drop
from lakehouse.errors import LakehouseError
from lakehouse.ingest_task import IngestTask, Target, Writer, _Report
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_QUARANTINE, TableSpec

BUILD_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Size:
    """What a table holds."""

    rows: int
    files: int
    file_bytes: int


class Warehouse:
    """An environment of the bench's own on the running servers; `close` removes all of it."""

    def __init__(self, stack: Settings, name: str) -> None:
        self.settings = stack.model_copy(update={"prefix": f"bench_{secrets.token_hex(4)}_{name}_"})
        self.lake = Lake(self.settings)
        apply(self.settings)

    def name_of(self, spec: TableSpec) -> str:
        """A table's name for Trino."""
        return f"{self.settings.catalog.name}.{self.lake.identifier(spec)}"

    def load_history(self, shop: Shop, first: int, last: int) -> None:
        """Fill the tables with all that has arrived by the end of day `last`, compacted: one file a date."""
        days = range(first, last + 1)
        self.add(USER_ACTIONS, (shop.history(day, last) for day in days))
        self.add(USER_ACTIONS_QUARANTINE, [pa.concat_tables(shop.refused(day) for day in days)])

    def load_day(self, shop: Shop, day: int) -> None:
        """Bring what arrives on a day, as the ingest runs of that day do: a file for each run and date."""
        arrivals = shop.arrivals(day)
        self.add(USER_ACTIONS, _by_run(arrivals))
        self.add(USER_ACTIONS_QUARANTINE, _by_run(shop.refused(day)))

    def add(self, spec: TableSpec, pieces: Iterable[pa.Table]) -> None:
        """Write each piece as an ingest task writes what it holds, and commit the files of all."""
        table = self.lake.load(spec)
        target = Target(table.location(), self.lake.write_schema(table, spec))
        run_id = uuid.uuid4().hex
        task = IngestTask(
            run_id=run_id,
            source=TOPIC,
            ingested_at=datetime.now(UTC),
            s3=self.settings.s3,
            events=target,
            quarantine=target,
            quarantined={},
            rows_per_file=self.settings.ingest.rows_per_file,
        )
        report = _Report()
        writer = Writer(task, spec, target, s3.filesystem(self.settings.s3), report)
        for piece in pieces:
            writer.add(piece)
            writer.flush()
        files = [row["file"] for batch in report.batches() for row in batch.to_pylist() if row["file"]]
        self.lake.append(spec, files, expected={}, properties={"bench.run-id": run_id}, run_id=run_id, summary={})

    def size_of(self, spec: TableSpec) -> Size:
        """Rows, files and bytes of a table."""
        files = [task.file for task in self.lake.load(spec).scan().plan_files()]
        rows, file_bytes = sum(file.record_count for file in files), sum(file.file_size_in_bytes for file in files)
        return Size(rows, len(files), file_bytes)

    def build(self) -> "Build":
        """Run `lakehouse transform run`, and account for what it took and read."""
        sent_before = sent_bytes(self.settings)
        since = datetime.now(UTC)
        started = time.monotonic()
        done = subprocess.run(
            [LAKEHOUSE, "transform", "run"],
            env=environment_of(self.settings),
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
        seconds = time.monotonic() - started
        if done.returncode:
            told = (done.stdout + done.stderr)[-3000:]
            raise LakehouseError(f"`lakehouse transform run` ended with {done.returncode}: {told}")
        sent = sent_bytes(self.settings) - sent_before
        return account(self._seconds_of_nodes(), queries_of(self.settings, since), seconds, sent)

    def _seconds_of_nodes(self) -> dict[str, float]:
        results = json.loads((transform.target_directory(self.settings) / "run_results.json").read_text())
        return {result["unique_id"]: result["execution_time"] for result in results["results"]}

    def close(self) -> None:
        """Remove the tables and what dbt left."""
        drop(self.settings)
        shutil.rmtree(transform.target_directory(self.settings), ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Query:
    """A query that Trino has run.

    Attributes:
        node: unique id of dbt's node that asked it; empty when dbt asked for itself, or somebody else did.
        input_bytes: what it read from the object store.
    """

    node: str
    input_bytes: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Build:
    """One `lakehouse transform run`.

    Attributes:
        seconds: wall time of the command, from its start to its end.
        input_bytes: what its queries read from the object store, as Trino counts it.
        sent_bytes: what the object store sent meanwhile, to whomever.
        nodes: of each of dbt's nodes its seconds, bytes and queries; under the empty name what belongs to none.
    """

    seconds: float
    input_bytes: int
    sent_bytes: int
    cpu_seconds: float
    queries: int
    nodes: dict[str, dict[str, float]]


def account(seconds_of_nodes: dict[str, float], queries: list[Query], seconds: float, sent: int) -> Build:
    """Put together what a build took and read, node by node."""
    nodes: dict[str, dict[str, float]] = {}
    for name in sorted({*seconds_of_nodes, *(query.node for query in queries)}):
        own = [query for query in queries if query.node == name]
        nodes[name] = {
            "seconds": round(seconds_of_nodes.get(name, 0.0), 2),
            "input_bytes": sum(query.input_bytes for query in own),
            "cpu_seconds": round(sum(query.cpu_seconds for query in own), 2),
            "queries": len(own),
        }
    return Build(
        seconds=round(seconds, 2),
        input_bytes=sum(query.input_bytes for query in queries),
        sent_bytes=sent,
        cpu_seconds=round(sum(query.cpu_seconds for query in queries), 2),
        queries=len(queries),
        nodes=nodes,
    )


def node_of(text: str) -> str:
    """The dbt node that a query's first comment names; empty where there is none."""
    start = text.find("/*")
    comment = text[start + 2 : text.find("*/", start)] if start >= 0 else ""
    try:
        told: Any = json.loads(comment)
    except ValueError:
        return ""
    return str(told.get("node_id", "")) if isinstance(told, dict) else ""


def queries_of(settings: Settings, since: datetime) -> list[Query]:
    """What ran on an environment's schemas since then, as Trino counted it; it remembers that for ten minutes."""
    prefix = settings.prefix.replace("_", r"\_")
    found = trino.query(
        settings.trino_as("admin"),
        f"""
        SELECT q.query, coalesce(t.input_bytes, 0), coalesce(t.cpu_millis, 0)
        FROM system.runtime.queries q
        LEFT JOIN (
            SELECT query_id, sum(physical_input_bytes) AS input_bytes, sum(split_cpu_time_ms) AS cpu_millis
            FROM system.runtime.tasks
            GROUP BY query_id
        ) t ON t.query_id = q.query_id
        WHERE
            q.query LIKE '%{prefix}%' ESCAPE '\\'
            AND q."user" <> 'admin'
            AND q.created >= from_iso8601_timestamp('{since.isoformat()}')
        """,
    )
    return [Query(node_of(text), int(input_bytes), cpu_millis / 1000) for text, input_bytes, cpu_millis in found]


def _by_run(rows: pa.Table) -> Iterator[pa.Table]:
    """Rows of one ingest run after another."""
    ingested_at = rows.column("ingested_at")
    for moment in sorted(ingested_at.unique().to_pylist()):
        yield rows.filter(pc.equal(ingested_at, pa.scalar(moment, ingested_at.type)))
