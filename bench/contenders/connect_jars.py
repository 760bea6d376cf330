"""The jars of Kafka Connect and Iceberg's sink: fetched once, from the lock file, when a bench wants them."""

from typing import Final

from lakehouse.settings import Settings
from lakehouse.stack import artifacts, maven
from lakehouse.stack.children import Children, Progress

(PART,) = artifacts.BENCH_PARTS
_SHARED: Final = ("iceberg-aws-bundle", "hadoop-client-api", "hadoop-client-runtime")  # what the part spark has too


def fetch(settings: Settings, progress: Progress) -> None:
    """Fetch what the cache lacks.

    Raises:
        ServerUnavailableError: the registry could not be reached.
    """
    directory = artifacts.part_directory(settings, PART)
    if directory.exists():
        return
    draft = directory.with_name(f"{directory.name}.draft")
    locks = settings.cache / "locks"
    with (locks / PART).open("w") as lock:
        maven.fetch(settings, PART, draft, progress, Children(), lock.fileno())
    draft.rename(directory)


def classpath(settings: Settings) -> str:
    """Class path of a worker with the sink."""
    spark = artifacts.part_directory(settings, "spark")
    shared = [str(path) for name in _SHARED for path in sorted(spark.glob(f"{name}-*.jar"))]
    return ":".join([artifacts.classpath(settings, PART), *shared])
