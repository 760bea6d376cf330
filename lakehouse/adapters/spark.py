"""Spark sessions, and Spark's batch reader of Kafka."""

import os
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Row, SparkSession

from lakehouse.errors import DataLossError, TransientError
from lakehouse.plans import OffsetRange, Offsets
from lakehouse.settings import PROJECT_ROOT, Settings

_LOGGING = PROJECT_ROOT / "spark" / "log4j2.properties"


@contextmanager
def session(settings: Settings, name: str) -> Generator[SparkSession]:
    """Open a Spark session on `settings.spark.master` and stop it at the end.

    Its jars are those in `settings.spark.jars_directory`; None means that the Spark image already has them.
    """
    if settings.spark.java_home:
        os.environ["JAVA_HOME"] = str(settings.spark.java_home)
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = (
        SparkSession.builder.master(settings.spark.master)
        .appName(name)
        .config("spark.driver.memory", settings.spark.driver_memory)
        .config("spark.driver.extraJavaOptions", f"-Dlog4j2.configurationFile={_LOGGING} -XX:+UseSerialGC")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "20000")
        .config("spark.speculation", "false")  # a second copy of a task would only write files that nobody names
    )
    if settings.spark.master.startswith("local"):
        builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    if settings.spark.jars_directory:
        # In front of Spark's own jars, because one of ours replaces one of them.
        classpath = f"{settings.spark.jars_directory}/*"
        builder = builder.config("spark.driver.extraClassPath", classpath)
        builder = builder.config("spark.executor.extraClassPath", classpath)
    interrupted = signal.getsignal(signal.SIGINT)
    spark = builder.getOrCreate()
    try:
        yield spark
    finally:
        spark.stop()
        if threading.current_thread() is threading.main_thread():
            # Spark's own handler stays behind, and fails on a session that is no more.
            signal.signal(signal.SIGINT, interrupted)


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
        One row per message: key, value, topic, partition, offset, timestamp, timestampType, headers.
    """
    starts = dict(available) | {piece.topic_partition: piece.start_offset for piece in ranges}
    ends = dict(available) | {piece.topic_partition: piece.end_offset for piece in ranges}
    reader = (
        spark.read.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka.bootstrap_servers)
        .option("subscribe", topic)
        .option("startingOffsets", _offsets_json(topic, starts))
        .option("endingOffsets", _offsets_json(topic, ends))
        .option("includeHeaders", "true")
        .option("failOnDataLoss", "true")
        .option("kafka.isolation.level", "read_committed")  # what a producer took back was never sent
    )
    if tasks > len(ranges):
        return reader.option("minPartitions", str(tasks)).load()
    return reader.load().coalesce(tasks)


def collect(frame: DataFrame) -> list[Row]:
    """Run a job and bring its rows to the driver.

    Raises:
        DataLossError: Kafka lost offsets while the job read them.
        TransientError: a task failed, several times; the first lines of its error are in the message.
    """
    try:
        return frame.collect()
    except (PySparkException, Py4JJavaError) as error:
        text = str(error)
        if "failOnDataLoss" in text or "Some data may have been lost" in text:
            raise DataLossError(
                f"Kafka lost offsets as they were read, nothing was committed: {_gist(text)}"
            ) from error
        raise TransientError(f"the Spark job failed and nothing was committed: {_gist(text)}") from error


def _gist(text: str) -> str:
    stripped = (line.strip() for line in text.splitlines())
    lines = [line for line in stripped if line and not line.startswith(("at ", "File "))]
    telling = [line for line in lines if "Error" in line or "Exception" in line]
    return " | ".join((telling or lines)[-3:])[:1000]


def _offsets_json(topic: str, offsets: Offsets) -> str:
    rows = ",".join(f'"{partition}":{offset}' for partition, offset in sorted(offsets.items()))
    return f'{{"{topic}":{{{rows}}}}}'
