"""Apache Iceberg's Kafka Connect sink: a standalone worker with two tasks, ended when the table holds the topic.

The messages stay nested as they come; Kafka's coordinates are added by Connect's own transform.
Arguments: table, an empty directory.
"""

import secrets
import subprocess
import sys
import time
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from pyiceberg.table import Table

from bench.contenders.connect_jars import classpath
from bench.contenders.python_source import load_table
from lakehouse.adapters import kafka
from lakehouse.settings import Settings, get_settings
from lakehouse.stack import artifacts

COMMIT_MILLIS = 10_000
IDLE_SECONDS = 120


def main(name: str, directory: str) -> None:
    """Drain the topic into the table."""
    settings = get_settings()
    table, wanted = load_table(settings, name), waiting(settings)
    work = Path(directory)
    connector = f"{settings.user_actions_topic}-{secrets.token_hex(4)}"
    control = f"{connector}-control"
    kafka.create_topic(settings, control, 1, {})
    for file, content in (("worker", worker(settings, work)), ("sink", sink(settings, connector, control, name))):
        (work / f"{file}.properties").touch(mode=0o600)
        (work / f"{file}.properties").write_text("".join(f"{key}={value}\n" for key, value in content.items()))
    java = [str(artifacts.java(settings)), "-Xmx2g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    java += ["--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"]
    java += ["-cp", classpath(settings), "org.apache.kafka.connect.cli.ConnectStandalone"]
    connect = subprocess.Popen([*java, str(work / "worker.properties"), str(work / "sink.properties")])
    rows, deadline = 0, time.monotonic() + IDLE_SECONDS
    while rows < wanted and connect.poll() is None and time.monotonic() < deadline:
        time.sleep(1)
        if (found := committed(table)) > rows:
            rows, deadline = found, time.monotonic() + IDLE_SECONDS
    connect.terminate()
    connect.wait()
    kafka.delete_topic(settings, control)
    if rows < wanted:
        sys.exit(f"the sink committed {rows:,} of {wanted:,} rows")


def waiting(settings: Settings) -> int:
    """How many messages the topic holds."""
    consumer = Consumer({"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": "bench"})
    topic = settings.user_actions_topic
    numbers = consumer.list_topics(topic).topics[topic].partitions
    return sum(consumer.get_watermark_offsets(TopicPartition(topic, number))[1] for number in numbers)


def committed(table: Table) -> int:
    """How many rows the table's newest snapshot has."""
    snapshot = table.refresh().current_snapshot()
    return int(snapshot.summary["total-records"]) if snapshot and snapshot.summary else 0


def worker(settings: Settings, work: Path) -> dict[str, str]:
    """Settings of the worker."""
    return {
        "bootstrap.servers": settings.kafka.bootstrap_servers,
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        "offset.storage.file.filename": str(work / "offsets"),
        "listeners": "http://127.0.0.1:0",
        "plugin.discovery": "only_scan",
        "consumer.max.poll.records": "5000",
        "consumer.auto.offset.reset": "earliest",
    }


def sink(settings: Settings, connector: str, control: str, table: str) -> dict[str, str]:
    """Settings of the sink."""
    catalog, s3 = settings.catalog, settings.s3
    return {
        "name": connector,
        "connector.class": "org.apache.iceberg.connect.IcebergSinkConnector",
        "tasks.max": "2",
        "topics": settings.user_actions_topic,
        "transforms": "coordinates",
        "transforms.coordinates.type": "org.apache.kafka.connect.transforms.InsertField$Value",
        "transforms.coordinates.topic.field": "kafka_topic",
        "transforms.coordinates.partition.field": "kafka_partition",
        "transforms.coordinates.offset.field": "kafka_offset",
        "transforms.coordinates.timestamp.field": "kafka_timestamp",
        "iceberg.tables": table,
        "iceberg.control.topic": control,
        "iceberg.control.commit.interval-ms": str(COMMIT_MILLIS),
        "iceberg.catalog": catalog.name,
        "iceberg.catalog.type": "rest",
        "iceberg.catalog.uri": catalog.uri,
        "iceberg.catalog.credential": f"{catalog.client_id}:{catalog.client_secret.get_secret_value()}",
        "iceberg.catalog.oauth2-server-uri": f"{catalog.uri}/v1/oauth/tokens",
        "iceberg.catalog.scope": "catalog",
        "iceberg.catalog.io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
        "iceberg.catalog.client.region": s3.region,
        "iceberg.catalog.s3.endpoint": s3.endpoint,
        "iceberg.catalog.s3.path-style-access": "true",
        "iceberg.catalog.s3.access-key-id": s3.access_key,
        "iceberg.catalog.s3.secret-access-key": s3.secret_key.get_secret_value(),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
