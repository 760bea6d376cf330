"""Teach Java what Spark needs at each start: `python -m lakehouse.stack.spark_training FILE`.

A short job is watched by Java, which writes the classes it loaded and how they were used into a cache.
A driver that starts with it does about half the work until its first task runs.
"""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from lakehouse.errors import StackError
from lakehouse.settings import Settings, get_settings
from lakehouse.stack import artifacts

_SECONDS = 300
_TASKS = 4
_REPETITIONS = 5


def train(settings: Settings) -> None:
    """Make the cache of this clone unless it is there; needs Spark's jars.

    Raises:
        StackError: it could not be made; the message shows why.
    """
    cache = artifacts.spark_aot_cache(settings)
    if cache.exists() or settings.java_home is not None:
        return
    cache.parent.mkdir(parents=True, exist_ok=True)
    draft = cache.with_suffix(".draft")
    command = [sys.executable, "-m", "lakehouse.stack.spark_training", str(draft)]
    log = settings.home / "logs" / "spark-training.log"
    with log.open("wb") as output:
        done = subprocess.run(command, stdout=output, stderr=output, timeout=_SECONDS, check=False)
    if done.returncode or not draft.exists():
        raise StackError(f"Spark's Java cache could not be made, see {log}; `make start` tries again")
    draft.replace(cache)


def main(draft: Path) -> None:
    """Run the job and wait until Java has written the cache."""
    # Heavy, and every command of the stack imports this module.
    from pyspark import SparkContext  # noqa: PLC0415

    from lakehouse.adapters import spark  # noqa: PLC0415

    settings = artifacts.with_local_spark(get_settings())
    java = spark.configuration(settings.spark, "")["spark.driver.extraJavaOptions"]
    taught = {"spark.driver.extraJavaOptions": f"{java} -XX:AOTCacheOutput={draft}"}
    settings = settings.model_copy(update={"spark": settings.spark.model_copy(update={"options": taught})})
    with spark.session(settings, "lakehouse training") as session:
        for _ in range(_REPETITIONS):
            spark.run_tasks(session, _count, _TASKS, "rows long")
    gateway: Any = SparkContext._gateway  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the only way to the JVM
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(_SECONDS)


def _count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield pa.RecordBatch.from_pydict({"rows": pa.array([sum(batch.num_rows for batch in batches)], pa.int64())})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
