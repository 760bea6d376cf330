"""What both Python scripts share: messages by librdkafka, and a table by pyiceberg."""

from collections.abc import Iterator

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition
from pyiceberg.catalog import load_catalog
from pyiceberg.table import Table

from lakehouse.settings import Settings


def batches(settings: Settings, rows: int) -> Iterator[list[Message]]:
    """Read the topic to the end it has now, in batches of at least so many rows."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": "bench",
            "enable.auto.commit": False,
            "fetch.message.max.bytes": 8 * 1024 * 1024,
        }
    )
    topic = settings.user_actions_topic
    numbers = consumer.list_topics(topic).topics[topic].partitions
    partitions = [TopicPartition(topic, number, OFFSET_BEGINNING) for number in numbers]
    left = sum(consumer.get_watermark_offsets(partition)[1] for partition in partitions)
    consumer.assign(partitions)
    batch: list[Message] = []
    while left:
        received = consumer.consume(10_000, timeout=1)
        left -= len(received)
        batch += received
        if batch and (len(batch) >= rows or not left):
            yield batch
            batch = []
    consumer.close()


def load_table(settings: Settings, table: str) -> Table:
    """Load a table of the catalog."""
    catalog = load_catalog(
        settings.catalog.name,
        **{
            "type": "rest",
            "uri": settings.catalog.uri,
            "credential": f"{settings.catalog.client_id}:{settings.catalog.client_secret.get_secret_value()}",
            "oauth2-server-uri": f"{settings.catalog.uri}/v1/oauth/tokens",
            "scope": "catalog",
            "s3.endpoint": settings.s3.endpoint,
            "s3.region": settings.s3.region,
            "s3.access-key-id": settings.s3.access_key,
            "s3.secret-access-key": settings.s3.secret_key.get_secret_value(),
            "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO",
        },
    )
    return catalog.load_table(table)
