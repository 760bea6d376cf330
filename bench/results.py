"""The results: one JSON file of sections, each measured at its own time, and the ratios that follow from them."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

from bench.race import Run
from lakehouse.settings import PROJECT_ROOT, Settings
from lakehouse.stack import artifacts
from lakehouse.stack.supervision import Supervision

Results = dict[str, Any]
Pairs = Sequence[dict[str, dict[str, Any]]]

RATIOS: Final = (
    "cpu_vs_stock_spark",
    "cpu_vs_stock_two_sinks",
    "cpu_vs_python_script",
    "drain_speedup_vs_stock_spark",
    "freshness_p50_seconds",
    "freshness_p95_seconds",
    "cpu_bad5_vs_clean",
    "kill_to_next_commit_seconds",
    "table_bytes_vs_json",
)


def load(file: Path) -> Results:
    """Read the results there are."""
    return json.loads(file.read_text()) if file.exists() else {}


def save(file: Path, results: Results, ratios_of: Callable[[Results], dict[str, float | None]] | None = None) -> None:
    """Write the results, with the ratios that follow from them; without `ratios_of` those of ingest."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(results | {"ratios": (ratios_of or ratios)(results)}, indent=1) + "\n")
    draft.replace(file)


def stamp(settings: Settings) -> dict[str, Any]:
    """When and on what a section was measured."""
    states = Supervision(settings).states()
    return {
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": _commit(),
        "airflow_running": any(pid for name, (_, pid) in states.items() if name.startswith("airflow")),
        "machine": machine(settings),
    }


def machine(settings: Settings) -> dict[str, Any]:
    """The facts of this machine that figures depend on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    libraries = ("pyspark", "pyiceberg", "pyarrow", "confluent-kafka", "dbt-trino", "orjson", "msgspec", "duckdb")
    installed = {found.name for found in importlib.metadata.distributions()}
    return {
        "cores": os.cpu_count(),
        "cpu": cpu,
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "java": artifacts.check_java(settings).split(",")[0],
        "kafka": artifacts.KAFKA_VERSION,
        "trino": artifacts.TRINO_VERSION,
        "iceberg_spark": _locked("iceberg-spark-runtime-4.1_2.13"),
        "libraries": {name: importlib.metadata.version(name) for name in libraries if name in installed},
    }


def _locked(name: str) -> str:
    lines = [line for part in ("spark", "connect") for line in artifacts.lock_text(part).splitlines()]
    return next(line.split(":")[2] for line in lines if f":{name}:" in line)


def _commit() -> str | None:
    """The commit that was measured, with a plus where files differ from it; None outside of git."""
    git = ["git", "-c", f"safe.directory={PROJECT_ROOT}", "-C", str(PROJECT_ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "lakehouse", "dbt", "trino", "bench/*.py", "requirements"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def as_pairs(pairs: Sequence[tuple[Run, Run]]) -> list[dict[str, dict[str, Any]]]:
    """Pairs of runs as they stand in the results."""
    return [{"ours": asdict(ours), "other": asdict(other)} for ours, other in pairs]


def per_million(run: dict[str, Any]) -> float:
    """CPU seconds of a run for a million events."""
    return run["cpu_seconds"] / run["events"] * 1e6


def median_of(pairs: Pairs, ratio: Callable[[dict[str, Any], dict[str, Any]], float]) -> float:
    """The median over pairs of a ratio of (ours, other)."""
    return statistics.median(ratio(pair["ours"], pair["other"]) for pair in pairs)


def cpu_ratio(ours: dict[str, Any], other: dict[str, Any]) -> float:
    """CPU of ours ÷ CPU of the other one, each for a million events."""
    return per_million(ours) / per_million(other)


def ratios(results: Results) -> dict[str, float | None]:
    """The figures that the bars are set on; None for what was not measured yet."""
    contenders = results.get("contenders", {})
    found: dict[str, float | None] = dict.fromkeys(RATIOS)
    for key, name in (
        ("cpu_vs_stock_spark", "stock_spark"),
        ("cpu_vs_stock_two_sinks", "two_sinks"),
        ("cpu_vs_python_script", "python_script"),
    ):
        if name in contenders:
            found[key] = median_of(contenders[name]["pairs"], cpu_ratio)
    if "stock_spark" in contenders:
        found["drain_speedup_vs_stock_spark"] = median_of(
            contenders["stock_spark"]["pairs"], lambda ours, other: other["wall_seconds"] / ours["wall_seconds"]
        )
    if "bad_rows" in results:
        found["cpu_bad5_vs_clean"] = median_of(
            results["bad_rows"]["pairs"], lambda clean, bad: per_million(bad) / per_million(clean)
        )
    if "freshness" in results:
        found["freshness_p50_seconds"] = results["freshness"]["p50_seconds"]
        found["freshness_p95_seconds"] = results["freshness"]["p95_seconds"]
    if "kill" in results:
        found["kill_to_next_commit_seconds"] = results["kill"]["median_seconds"]
    if "drain" in results:
        found["table_bytes_vs_json"] = results["drain"]["table_bytes"] / results["drain"]["json_bytes"]
    return {key: value if value is None else round(value, 4) for key, value in found.items()}
