"""A plain Python script: librdkafka, orjson and pyiceberg in one process, one commit each half a million rows.

Arguments: table.
"""

import sys
from datetime import UTC, datetime

import orjson
import pyarrow as pa

from bench.contenders.python_source import batches, load_table
from lakehouse.settings import get_settings

BATCH_ROWS = 500_000
MICROS = pa.timestamp("us", tz="UTC")


def main(name: str) -> None:
    """Drain the topic into the table."""
    settings = get_settings()
    table = load_table(settings, name)
    for messages in batches(settings, BATCH_ROWS):
        events = [orjson.loads(message.value()) for message in messages]
        users = [event["user_identifiers"] for event in events]
        products = [event["product_information"] for event in events]
        acted_at = pa.array([event["timestamp"] for event in events]).cast(MICROS)
        kafka_millis = pa.array([message.timestamp()[1] for message in messages], pa.timestamp("ms", tz="UTC"))
        rows = pa.table(
            {
                "event_datetime": acted_at,
                "event_date": acted_at.cast(pa.date32()),
                "event_name": [event["event_name"] for event in events],
                "user_id": [user["id"] for user in users],
                "platform": [user["platform"] for user in users],
                "product_name": [product["name"] for product in products],
                "sku": [product["SKU"] for product in products],
                "unknown_fields": pa.nulls(len(messages), pa.string()),
                "kafka_topic": pa.repeat(settings.user_actions_topic, len(messages)),
                "kafka_partition": pa.array([message.partition() for message in messages], pa.int32()),
                "kafka_offset": pa.array([message.offset() for message in messages], pa.int64()),
                "kafka_timestamp": kafka_millis.cast(MICROS),
                "ingested_at": pa.repeat(pa.scalar(datetime.now(UTC), MICROS), len(messages)),
            }
        )
        table.append(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
