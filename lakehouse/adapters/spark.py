"""Spark sessions, and jobs on their executors."""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress

import pyarrow as pa
from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Row, SparkSession

from lakehouse.errors import DataLossError, SparkEndedError, TransientError
from lakehouse.settings import PROJECT_ROOT, Settings, SparkSettings

_LOGGING = PROJECT_ROOT / "spark" / "log4j2.properties"
PROGRESS_SECONDS = 0.5
_is_on_this_machine = re.compile(r"local(\[|-cluster|$)|spark://(127\.|localhost[:,])").match


@contextmanager
def session(settings: Settings, name: str) -> Generator[SparkSession]:
    """Open a Spark session on `settings.spark.master` and stop it at the end.

    Raises:
        SparkEndedError: Spark did not start, or died meanwhile.
    """
    if settings.spark.java_home:
        os.environ["JAVA_HOME"] = str(settings.spark.java_home)
    os.environ["PYSPARK_PYTHON"] = settings.spark.executor_python or sys.executable
    builder = SparkSession.builder
    # By its name the application can be found that a run of Airflow has started.
    for key, value in configuration(settings.spark, f"{name} {settings.run}".rstrip()).items():
        builder = builder.config(key, value)
    interrupted = signal.getsignal(signal.SIGINT)
    try:
        spark = builder.getOrCreate()
    except (PySparkException, Py4JError, ConnectionError) as error:
        raise SparkEndedError(
            f"Spark did not start with master {settings.spark.master} ({_gist(str(error))}): start again, and if that "
            "does not help, look at LAKEHOUSE_SPARK__MASTER, at the memory that is free and at the lines above"
        ) from error
    try:
        yield spark
    finally:
        with suppress(Py4JError, ConnectionError):  # it may be dead, and what says so is under way
            spark.stop()
        if threading.current_thread() is threading.main_thread():
            # Spark's own handler stays behind, and fails on a session that is no more.
            signal.signal(signal.SIGINT, interrupted)


def configuration(settings: SparkSettings, name: str) -> dict[str, str]:
    """The configuration of a session; `settings.options` win over all of it.

    A master on this machine is spoken to over loopback only. One elsewhere calls back at the address that Spark finds
    for this machine, or at `spark.driver.host` of the options.
    """
    java = f"-Dlog4j2.configurationFile={_LOGGING} -XX:+UseSerialGC"
    if settings.aot_cache:
        java += f" -XX:AOTCache={settings.aot_cache} -Xlog:aot*=off"  # a cache that does not fit is passed over
    configured = {
        "spark.master": settings.master,
        "spark.app.name": name,
        "spark.driver.memory": settings.driver_memory,
        "spark.driver.extraJavaOptions": java,
        "spark.executor.memory": settings.executor_memory,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.speculation": "false",  # a second copy of a task would only write files that nobody names
    }
    if _is_on_this_machine(settings.master):
        configured |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
    if settings.jars_directory:
        # In front of Spark's own jars, because one of ours replaces one of them.
        classpath = f"{settings.jars_directory}/*"
        configured |= {"spark.driver.extraClassPath": classpath, "spark.executor.extraClassPath": classpath}
    return configured | settings.options


def open_catalog(spark: SparkSession, settings: Settings) -> None:
    """Let a session read and write the Iceberg tables, by the catalog's name in Trino as well."""
    # At run time, because what a session is built with shows in the list of processes.
    for name, value in catalog_options(settings).items():
        spark.conf.set(name, value)


def catalog_options(settings: Settings) -> dict[str, str]:
    """The configuration of the Iceberg catalog in a session, secrets included.

    Source: the Iceberg documentation of Spark's catalogs and of S3FileIO.
    """
    catalog, s3 = settings.catalog, settings.s3
    options = {
        "": "org.apache.iceberg.spark.SparkCatalog",
        ".type": "rest",
        ".uri": catalog.uri,
        ".credential": f"{catalog.client_id}:{catalog.client_secret.get_secret_value()}",
        ".oauth2-server-uri": f"{catalog.uri}/v1/oauth/tokens",
        ".scope": "catalog",
        ".io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
        ".s3.endpoint": s3.endpoint,
        ".s3.path-style-access": "true",
        ".s3.access-key-id": s3.access_key,
        ".s3.secret-access-key": s3.secret_key.get_secret_value(),
        ".client.region": s3.region,
    }
    return {f"spark.sql.catalog.{catalog.name}{key}": value for key, value in options.items()}


def run_tasks(
    spark: SparkSession,
    task: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]],
    tasks: int,
    schema: str,
    progress: Callable[[float], None] | None = None,
) -> list[Row]:
    """Run a function on the executors, in so many tasks; each gets its number in the column `id`.

    Returns:
        The rows of all tasks, as `schema` in Spark's DDL says.

    Raises:
        DataLossError: a task raised it.
        SparkEndedError: Spark's driver process died.
        TransientError: a task failed, several times; the first lines of its error are in the message.
    """
    return collect(task_frame(spark, task, tasks, schema), progress)


def task_frame(
    spark: SparkSession,
    task: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]],
    tasks: int,
    schema: str,
) -> DataFrame:
    """The rows that a function gives on the executors, in so many tasks; arguments as in `run_tasks`.

    Raises:
        SparkEndedError: Spark's driver process died.
    """
    try:
        return spark.range(0, tasks, 1, tasks).mapInArrow(task, schema)
    except (Py4JError, ConnectionError) as error:
        raise _ended(error) from error


def collect(frame: DataFrame, progress: Callable[[float], None] | None = None) -> list[Row]:
    """Run a job and bring its rows to the driver.

    Args:
        frame: what to run.
        progress: called now and then, in another thread, with the share of tasks that ended.

    Raises:
        DataLossError: Kafka lost offsets while the job read them.
        SparkEndedError: Spark's driver process died.
        TransientError: a task failed, several times; the first lines of its error are in the message.
    """
    try:
        with _watched(frame.sparkSession, progress):
            return frame.collect()
    except (PySparkException, Py4JJavaError) as error:
        text = str(error)
        if DataLossError.__name__ in text:
            raise DataLossError(f"nothing was committed: {_gist(text)}") from error
        raise TransientError(f"the Spark job failed and nothing was committed: {_gist(text)}") from error
    except (Py4JError, ConnectionError) as error:
        raise _ended(error) from error


def rows(frame: DataFrame) -> Iterator[Row]:
    """Run a job and bring its rows to the driver one partition at a time, so that they need not fit together.

    Raises:
        SparkEndedError: Spark's driver process died.
        TransientError: a task failed, several times; the first lines of its error are in the message.
    """
    try:
        yield from frame.toLocalIterator()
    except (PySparkException, Py4JJavaError) as error:
        raise TransientError(f"the Spark job failed and nothing was committed: {_gist(str(error))}") from error
    except (Py4JError, ConnectionError) as error:
        raise _ended(error) from error


def _ended(error: Exception) -> SparkEndedError:
    return SparkEndedError(f"Spark's driver process died, nothing was committed ({error}): start again")


@contextmanager
def _watched(spark: SparkSession, progress: Callable[[float], None] | None) -> Generator[None]:
    if progress is None:
        yield
        return
    ended = threading.Event()
    tracker = spark.sparkContext.statusTracker()

    def watch(tell: Callable[[float], None]) -> None:
        with suppress(Py4JError, ConnectionError):  # the job itself will say so
            while not ended.wait(PROGRESS_SECONDS):
                stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
                tasks = sum(stage.numTasks for stage in stages if stage)
                if tasks:
                    tell(sum(stage.numCompletedTasks for stage in stages if stage) / tasks)

    watcher = threading.Thread(target=watch, args=(progress,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _gist(text: str) -> str:
    stripped = (line.strip() for line in text.splitlines())
    lines = [line for line in stripped if line and not line.startswith(("at ", "File "))]
    telling = [line for line in lines if "Error" in line or "Exception" in line]
    return " | ".join((telling or lines)[-3:])[:1000]
