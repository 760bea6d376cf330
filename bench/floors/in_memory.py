"""Only decode, and only write, in one process on messages in memory; prints the CPU seconds of each as JSON.

Arguments: how many events.
"""

import json
import sys
import time
from datetime import UTC, datetime
from typing import Final

import pyarrow as pa
from pyarrow import parquet

from bench.ground import messages
from lakehouse.adapters import s3
from lakehouse.settings import Settings, get_settings
from lakehouse.transforms import decode_batch

BATCH_ROWS: Final = 20_000
FILE_ROWS: Final = 500_000
UNIQUE: Final = ("user_id", "kafka_offset", "kafka_timestamp", "event_datetime")


def batch(values: list[bytes | None], first_offset: int) -> pa.RecordBatch:
    """Kafka rows as a task reads them."""
    rows = len(values)
    return pa.RecordBatch.from_pydict(
        {
            "value": pa.array(values, pa.binary()),
            "partition": pa.repeat(pa.scalar(0, pa.int32()), rows),
            "offset": pa.array(range(first_offset, first_offset + rows), pa.int64()),
            "timestamp": pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC")), rows),
        }
    )


def write(settings: Settings, rows: pa.Table) -> None:
    """Sort rows and write them to the object store, one file a date, as ingest does; then remove the files."""
    store = s3.filesystem(settings.s3)
    folder = f"{settings.s3.warehouse_bucket}/bench-write-only"
    for start in range(0, rows.num_rows, FILE_ROWS):
        piece = rows.slice(start, FILE_ROWS).sort_by(
            [(name, "ascending") for name in ("event_date", "event_name", "user_id")]
        )
        dictionaries = [name for name in piece.column_names if name not in UNIQUE]
        parquet.write_table(
            piece, f"{folder}/{start}.parquet", filesystem=store, compression="zstd", use_dictionary=dictionaries
        )
    store.delete_dir(folder)


def main(events: str) -> None:
    """Measure both."""
    distinct = [message.value for message in messages(min(int(events), 200_000))]
    batches = [batch(distinct[start : start + BATCH_ROWS], start) for start in range(0, len(distinct), BATCH_ROWS)]
    rounds = max(1, int(events) // len(distinct))
    started = time.process_time()
    for _ in range(rounds):
        for rows in batches:
            decode_batch(rows, "in-memory", datetime.now(UTC))
    decode_seconds = time.process_time() - started
    decoded = pa.concat_tables([decode_batch(rows, "in-memory", datetime.now(UTC)).events for rows in batches])
    all_rows = pa.concat_tables([decoded] * rounds)
    settings = get_settings()
    started = time.process_time()
    write(settings, all_rows)
    write_seconds = time.process_time() - started
    count = rounds * len(distinct)
    print(json.dumps({"events": count, "decode": decode_seconds, "write": write_seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
