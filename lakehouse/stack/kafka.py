"""Kafka: one KRaft node, broker and controller in one process."""

import os
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from lakehouse.adapters.kafka import create_topic, ping
from lakehouse.errors import StackError
from lakehouse.file_contract import TOPIC_PARTITIONS
from lakehouse.settings import Settings
from lakehouse.stack import artifacts
from lakehouse.stack.server import Server

MESSAGE_MAX_BYTES = 64 * 1024 * 1024
_QUERIES_CONFIG = {"retention.ms": str(30 * 24 * 3600 * 1000)}  # statements may name users, and the table keeps them

_LOGGING = """\
status = error
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSSXX} %p %c{1}: %m%n
"""


def server(settings: Settings) -> Server:
    """Describe the Kafka broker; its controller listens on the next port."""
    host, _, port_text = settings.kafka.bootstrap_servers.split(",")[0].rpartition(":")
    port = int(port_text)
    conf = settings.home / "conf" / "kafka"
    data = settings.home / "data" / "kafka"
    java = [str(artifacts.java(settings)), "-Xms128m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"]
    java += ["--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"]
    java += [f"-Dlog4j2.configurationFile={conf / 'log4j2.properties'}", "-cp", artifacts.classpath(settings, "kafka")]
    return Server(
        name="kafka",
        profile="core",
        version=artifacts.KAFKA_VERSION,
        port=port,
        more_ports=(port + 1,),
        url=f"{host}:{port}",
        command=(*java, "kafka.Kafka", str(conf / "server.properties")),
        prepare=lambda: _prepare(conf, data, host, port, java),
        probe=lambda: ping(settings),
        settle=lambda: _create_topics(settings),
        start_seconds=90,
        memory_bytes=400_000_000,
    )


def _create_topics(settings: Settings) -> None:
    for topic in settings.user_actions_topics:
        create_topic(settings, topic, settings.kafka.user_actions_partitions)
    create_topic(settings, settings.file_notifications_topic, TOPIC_PARTITIONS)
    create_topic(settings, settings.kafka.trino_queries_topic, 1, _QUERIES_CONFIG)


def _prepare(conf: Path, data: Path, host: str, port: int, java: list[str]) -> None:
    conf.mkdir(parents=True, exist_ok=True)
    properties = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "listeners": f"PLAINTEXT://{host}:{port},CONTROLLER://{host}:{port + 1}",
        "advertised.listeners": f"PLAINTEXT://{host}:{port}",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.bootstrap.servers": f"{host}:{port + 1}",
        "log.dirs": data,
        "num.partitions": 4,
        "auto.create.topics.enable": "false",  # a typo in a topic's name is an error, not a new topic
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 8,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "message.max.bytes": MESSAGE_MAX_BYTES,
        "replica.fetch.max.bytes": MESSAGE_MAX_BYTES,
        "log.retention.ms": -1,  # no limit: `produce --once` looks for its messages in the whole topic
    }
    (conf / "server.properties").write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    (conf / "log4j2.properties").write_text(_LOGGING)
    if (data / "meta.properties").exists():
        return
    cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    command = [*java, "kafka.tools.StorageTool", "format", "--standalone"]
    command += ["--cluster-id", cluster_id, "--config", str(conf / "server.properties")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={"PATH": os.defpath})
    if done.returncode:
        raise StackError(f"Kafka could not format {data}: {(done.stdout + done.stderr).strip()[-800:]}")
