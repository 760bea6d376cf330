"""Spark sessions, and Spark's batch reader of Kafka."""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Row, SparkSession

from lakehouse.errors import DataLossError, SparkEndedError, TransientError
from lakehouse.plans import OffsetRange, Offsets
from lakehouse.settings import PROJECT_ROOT, Settings, SparkSettings

_LOGGING = PROJECT_ROOT / "spark" / "log4j2.properties"
PROGRESS_SECONDS = 0.5
_is_on_this_machine = re.compile(r"local(\[|-cluster|$)|spark://(127\.|localhost[:,])").match


@contextmanager
def session(settings: Settings, name: str) -> Generator[SparkSession]:
    """Open a Spark session on `settings.spark.master` and stop it at the end."""
    if settings.spark.java_home:
        os.environ["JAVA_HOME"] = str(settings.spark.java_home)
    os.environ["PYSPARK_PYTHON"] = settings.spark.executor_python or sys.executable
    builder = SparkSession.builder
    for key, value in configuration(settings.spark, name).items():
        builder = builder.config(key, value)
    interrupted = signal.getsignal(signal.SIGINT)
    spark = builder.getOrCreate()
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
        "spark.sql.execution.arrow.maxRecordsPerBatch": "20000",
        "spark.speculation": "false",  # a second copy of a task would only write files that nobody names
    }
    if _is_on_this_machine(settings.master):
        configured |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
    if settings.jars_directory:
        # In front of Spark's own jars, because one of ours replaces one of them.
        classpath = f"{settings.jars_directory}/*"
        configured |= {"spark.driver.extraClassPath": classpath, "spark.executor.extraClassPath": classpath}
    return configured | settings.options


def read_kafka(
    spark: SparkSession, settings: Settings, topic: str, ranges: Sequence[OffsetRange], available: Offsets, tasks: int
) -> DataFrame:
    """Read exactly these offsets, cut into about `tasks` pieces.

    Args:
        spark: the session.
        settings: where Kafka is.
        topic: full name of the topic.
        ranges: what to read.
        available: the position of every topic partition the topic has; those without a range are read empty.
        tasks: how many Spark tasks to make of it.

    Returns:
        One row per message, as `for_tasks` leaves it.

    Raises:
        SparkEndedError: Spark's driver process died.
    """
    starts = dict(available) | {piece.topic_partition: piece.start_offset for piece in ranges}
    ends = dict(available) | {piece.topic_partition: piece.end_offset for piece in ranges}
    reader = (
        spark.read.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka.bootstrap_servers)
        .option("subscribe", topic)
        # One name, so that consumers are used again by the next read; offsets are ours, nobody joins a group.
        .option("kafka.group.id", "lakehouse-ingest")
        .option("startingOffsets", _offsets_json(topic, starts))
        .option("endingOffsets", _offsets_json(topic, ends))
        .option("includeHeaders", "true")
        .option("failOnDataLoss", "true")
        .option("kafka.isolation.level", "read_committed")  # what a producer took back was never sent
    )
    try:
        if tasks > len(ranges):
            return for_tasks(reader.option("minPartitions", str(tasks)).load())
        return for_tasks(reader.load()).coalesce(tasks)
    except ConnectionError as error:
        raise _ended(error) from error


def for_tasks(messages: DataFrame) -> DataFrame:
    """Keep what a task needs of Kafka's rows: key, value, partition, offset, timestamp, headers.

    The headers become JSON text, null where there are none: as arrays they would cost Spark several times what the
    rest of a message costs on its way to Python, and only a refused message needs them.
    """
    return messages.selectExpr("key", "value", "partition", "offset", "timestamp", "to_json(headers) AS headers")


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
        if "failOnDataLoss" in text or "Some data may have been lost" in text:
            raise DataLossError(
                f"Kafka lost offsets as they were read, nothing was committed: {_gist(text)}"
            ) from error
        raise TransientError(f"the Spark job failed and nothing was committed: {_gist(text)}") from error
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


def _offsets_json(topic: str, offsets: Offsets) -> str:
    rows = ",".join(f'"{partition}":{offset}' for partition, offset in sorted(offsets.items()))
    return f'{{"{topic}":{{{rows}}}}}'
