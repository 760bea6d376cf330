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


def is_needed(settings: Settings) -> bool:
    """Whether this clone has no cache yet; a Java of one's own goes without."""
    return settings.java_home is None and not artifacts.spark_aot_cache(settings).exists()


def train(settings: Settings) -> None:
    """Make the cache of this clone; needs Spark's jars.

    Raises:
        StackError: it could not be made; the message says where to look.
    """
    cache = artifacts.spark_aot_cache(settings)
    draft = cache.with_suffix(".draft")
    log = settings.home / "logs" / "spark-training.log"
    for directory in (cache.parent, log.parent):
        directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "lakehouse.stack.spark_training", str(draft)]
    try:
        with log.open("wb") as output:
            subprocess.run(command, stdout=output, stderr=output, timeout=_SECONDS, check=True)
        draft.replace(cache)
    except (subprocess.SubprocessError, FileNotFoundError) as error:
        raise StackError(f"Spark's Java cache could not be made, see {log}; `make start` tries again") from error


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
