"""The ground every contender runs on: loaded topics, fresh tables, and a count of what each left in them."""

import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, cycle, islice
from typing import Any, Final

import numpy as np
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from pyiceberg.table import Table

from bench.say import say
from lakehouse.adapters import kafka
from lakehouse.adapters.catalog import Lake
from lakehouse.adapters.kafka import MAX_MESSAGE_BYTES, Message
from lakehouse.errors import LakehouseError
from lakehouse.generator import generate
from lakehouse.settings import Settings
from lakehouse.tables import TableSpec

DISTINCT: Final = 2_000_000
"""So many that a data file hardly holds a message twice, which would make it smaller than it is in life."""
SEED: Final = 4


@dataclass(frozen=True, slots=True)
class Topic:
    """A loaded topic.

    Attributes:
        settings: of the environment, with this topic as the one of user actions.
        ends: end offset of each topic partition; all start at 0.
        json_bytes: of all message values.
    """

    settings: Settings
    events: int
    bad_ratio: float
    json_bytes: int
    ends: dict[int, int]

    @property
    def name(self) -> str:
        """Full name of the topic."""
        return self.settings.user_actions_topic


@dataclass(frozen=True, slots=True)
class Held:
    """What tables hold of a topic: an offset in none of them is lost, a row beyond its first is doubled."""

    rows: int
    lost: int
    doubled: int
    files: int
    file_bytes: int


class Ground:
    """An environment of the bench's own on the running servers; `close` removes all of it."""

    def __init__(self, stack: Settings) -> None:
        self.settings = stack.model_copy(update={"prefix": f"bench_{secrets.token_hex(4)}_"})
        self.lake = Lake(self.settings)
        self._loaded: dict[tuple[int, float], Topic] = {}

    def topic(self, events: int, bad_ratio: float = 0.0) -> Topic:
        """A topic with so many messages, the same ones each time; loaded once."""
        if (events, bad_ratio) not in self._loaded:
            topic = self.empty_topic(f"load-{len(self._loaded)}")
            say(f"loading {events:,} messages, {bad_ratio:.0%} of them bad, into {topic.name}")
            distinct = messages(min(DISTINCT, events), bad_ratio)
            send(topic, islice(cycle(distinct), events))
            whole, rest = divmod(events, len(distinct))
            sizes = [len(message.value or b"") for message in distinct]
            ends = {partition: end for partition, (_, end) in kafka.offsets(topic.settings, topic.name).items()}
            if sum(ends.values()) != events:
                raise LakehouseError(f"{topic.name} holds {sum(ends.values()):,} messages and {events:,} were sent")
            json_bytes = whole * sum(sizes) + sum(sizes[:rest])
            self._loaded[events, bad_ratio] = replace(
                topic, events=events, bad_ratio=bad_ratio, json_bytes=json_bytes, ends=ends
            )
        return self._loaded[events, bad_ratio]

    def empty_topic(self, name: str) -> Topic:
        """A new topic without messages."""
        with_topic = {"kafka": self.settings.kafka.model_copy(update={"user_actions_topic": name})}
        settings = self.settings.model_copy(update=with_topic)
        partitions = settings.kafka.user_actions_partitions
        kafka.create_topic(settings, settings.user_actions_topic, partitions)
        return Topic(settings, 0, 0.0, 0, dict.fromkeys(range(partitions), 0))

    def fresh_tables(self, specs: Sequence[TableSpec]) -> None:
        """Drop whatever tables there are and make these."""
        self.lake.drop_environment()
        for spec in specs:
            self.lake.apply(spec)

    def held(self, specs: Sequence[TableSpec], topic: Topic) -> Held:
        """Count what tables hold of a topic together, offset by offset."""
        tables = [self.lake.load(spec) for spec in specs]
        lost, doubled, rows = count_offsets(chain.from_iterable(map(_coordinates, tables)), topic.ends)
        sizes = [task.file.file_size_in_bytes for table in tables for task in table.scan().plan_files()]
        return Held(rows, lost, doubled, len(sizes), sum(sizes))

    def close(self) -> None:
        """Remove the topics and tables."""
        say("removing the bench's topics and tables")
        self.lake.drop_environment()
        admin = AdminClient({"bootstrap.servers": self.settings.kafka.bootstrap_servers, "log_level": 3})
        for topic in admin.list_topics(timeout=30).topics:
            if topic.startswith(self.settings.prefix):
                kafka.delete_topic(self.settings, topic)
        groups = [group.group_id for group in admin.list_consumer_groups().result().valid]
        if ours := [group for group in groups if self.settings.prefix in group]:
            for deleted in admin.delete_consumer_groups(ours).values():
                with suppress(
                    KafkaException
                ):  # its members may be there for some seconds more; an empty group costs nothing
                    deleted.result()


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that give a program these settings."""
    return os.environ | {
        "LAKEHOUSE_HOME": str(settings.home),
        "LAKEHOUSE_PREFIX": settings.prefix,
        "LAKEHOUSE_KAFKA__USER_ACTIONS_TOPIC": settings.kafka.user_actions_topic,
    }


def messages(count: int, bad_ratio: float = 0.0) -> list[Message]:
    """Messages of the last two whole days, one of each in turn, so that both dates are equally large."""
    days = [datetime.now(UTC).date() - timedelta(days=back) for back in (1, 2)]
    halves = [generate(seed=SEED, day=day, count=count // 2 + count % 2, bad_ratio=bad_ratio) for day in days]
    both = chain.from_iterable(zip(*halves, strict=True))
    return [Message(message.key, message.value) for message in islice(both, count)]


def producer(settings: Settings, linger_millis: int = 50) -> Producer:
    """A producer with the guarantees of the project's own, without its account of each message, for speed."""
    return Producer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "zstd",
            "linger.ms": linger_millis,
            "message.max.bytes": MAX_MESSAGE_BYTES,
            "queue.buffering.max.messages": 500_000,
        }
    )


def send(topic: Topic, to_send: Iterable[Message]) -> None:
    """Send messages as fast as Kafka takes them; the end offsets say whether all arrived."""
    client = producer(topic.settings)
    name = topic.name
    for key, value, _ in to_send:
        while True:
            try:
                client.produce(name, value, key)
                break
            except BufferError:
                client.poll(0.05)
    if left := client.flush(120):
        raise LakehouseError(f"Kafka did not confirm {left:,} messages to {name}")


def count_offsets(coordinates: Iterator[tuple[Any, Any]], ends: dict[int, int]) -> tuple[int, int, int]:
    """Count (lost, doubled, rows) of batches of (topic partitions, offsets) against the end offsets of a topic.

    An offset beyond the end counts as doubled, because it is one row too many.
    """
    times = {partition: np.zeros(end, dtype=np.int32) for partition, end in ends.items()}
    rows = beyond = 0
    for partitions, offsets in coordinates:
        rows += len(offsets)
        beyond += len(offsets)
        for partition, counts in times.items():
            inside = offsets[(partitions == partition) & (offsets < len(counts))]
            beyond -= len(inside)
            np.add.at(counts, inside, 1)
    lost = sum(int((counts == 0).sum()) for counts in times.values())
    doubled = sum(int((counts - (counts > 0)).sum()) for counts in times.values()) + beyond
    return lost, doubled, rows


def _coordinates(table: Table) -> Iterator[tuple[Any, Any]]:
    for batch in table.scan(selected_fields=("kafka_partition", "kafka_offset")).to_arrow_batch_reader():
        yield batch.column("kafka_partition").to_numpy(), batch.column("kafka_offset").to_numpy()
