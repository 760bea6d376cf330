"""DuckDB in the place of the decoder: librdkafka, DuckDB's `from_json`, pyiceberg; one commit each half a million rows.

Arguments: table.
"""

import sys
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from bench.contenders.python_source import batches, load_table
from lakehouse.settings import get_settings

BATCH_ROWS = 500_000
MICROS = pa.timestamp("us", tz="UTC")
DECODE = """
SELECT
    event.timestamp::TIMESTAMPTZ AS event_datetime,
    event.timestamp::TIMESTAMPTZ::DATE AS event_date,
    event.event_name,
    event.user_identifiers.id AS user_id,
    event.user_identifiers.platform AS platform,
    event.product_information.name AS product_name,
    event.product_information.SKU AS sku,
    NULL::VARCHAR AS unknown_fields,
    $topic AS kafka_topic,
    kafka_partition,
    kafka_offset,
    kafka_timestamp,
    $ingested_at AS ingested_at
FROM (
    SELECT *, from_json(value, '{
        "timestamp": "VARCHAR", "event_name": "VARCHAR",
        "user_identifiers": {"platform": "VARCHAR", "id": "VARCHAR"},
        "product_information": {"name": "VARCHAR", "SKU": "VARCHAR"}
    }') AS event
    FROM messages
)
"""


def main(name: str) -> None:
    """Drain the topic into the table."""
    settings = get_settings()
    table = load_table(settings, name)
    decoder = duckdb.connect()
    decoder.execute("SET TimeZone = 'UTC'")
    for batch in batches(settings, BATCH_ROWS):
        kafka_millis = pa.array([message.timestamp()[1] for message in batch], pa.timestamp("ms", tz="UTC"))
        messages = pa.table(
            {
                "value": pa.array([message.value() for message in batch], pa.binary()).cast(pa.string()),
                "kafka_partition": pa.array([message.partition() for message in batch], pa.int32()),
                "kafka_offset": pa.array([message.offset() for message in batch], pa.int64()),
                "kafka_timestamp": kafka_millis.cast(MICROS),
            }
        )
        decoder.register("messages", messages)
        parameters = {"topic": settings.user_actions_topic, "ingested_at": datetime.now(UTC)}
        table.append(decoder.sql(DECODE, params=parameters).to_arrow_table())
        decoder.unregister("messages")


if __name__ == "__main__":
    main(*sys.argv[1:])
