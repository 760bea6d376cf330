"""What tests of announced files share: their lines, their announcements, and what the aggregates must be of them."""

import hashlib
import json
import time
from collections.abc import Iterable
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from lakehouse.adapters import file_store, kafka
from lakehouse.adapters.kafka import Message
from lakehouse.adapters.objects import Objects, ObjectState
from lakehouse.adapters.postgres import connect
from lakehouse.file_contract import TOPIC_PARTITIONS, Notification
from lakehouse.settings import Settings

HEADER = "user_id,sku,product_name,quantity,amount"
MEASURES = (
    "dataset, event_date::text, sku, product_name, line_count, user_count, quantity_sum, amount_sum, amount_min, "
    "amount_max, amount_mean, amount_median"
)
Row = tuple[Any, ...]


def next_second() -> None:
    """Wait until the object store's time, which is in seconds, is another one."""
    time.sleep(1.05 - time.time() % 1)


def away_from_midnight() -> None:
    """Wait until the UTC date stays what it is for two minutes at least."""
    left = 86_400 - time.time() % 86_400
    if left < 120:
        time.sleep(left + 1)


class Line(NamedTuple):
    """A line of a file of tests."""

    user_id: str
    sku: str
    quantity: int
    amount: str


def open_counter(settings: Settings) -> Settings:
    """Make the tables and the topic."""
    file_store.apply(settings)
    kafka.create_topic(settings, settings.file_notifications_topic, TOPIC_PARTITIONS)
    return settings


def content(lines: Iterable[Line], day: str = "2023-10-23", dataset: str = "sales") -> bytes:
    """A CSV file of lines."""
    moment = {"sales": "sold_at", "returns": "returned_at"}[dataset]
    rows = [f"{day}T12:00:00Z,{x.user_id},{x.sku},Name of {x.sku},{x.quantity},{x.amount}" for x in lines]
    return "\n".join([f"{moment},{HEADER}", *rows, ""]).encode()


def store(settings: Settings, name: str, data: bytes | Path) -> ObjectState:
    """Upload an object, with the environment's prefix before its name."""
    whole = data if isinstance(data, bytes) else data.read_bytes()
    sha256 = hashlib.sha256(whole).hexdigest()
    return Objects(settings.s3).put(settings.s3.file_drop_bucket, f"{settings.prefix}{name}", whole, sha256)


def notification(key: str = "a.csv", version: str = "v1", **more: Any) -> Notification:
    """A notification of a version of a file that nobody has stored."""
    known: dict[str, Any] = {
        "bucket": "file-drop",
        "key": key,
        "version_id": version,
        "etag": None,
        "size_bytes": 10,
        "sha256": "0" * 64,
        "format": "csv",
        "dataset": "sales",
        "event_date": date(2023, 10, 23),
    }
    return Notification(**known | more)


def announcement(stored: ObjectState, **changes: Any) -> dict[str, Any]:
    """What a notification of an object says."""
    suffix = stored.version.key.rpartition(".")[2]
    return {
        "bucket": stored.version.bucket,
        "key": stored.version.key,
        "version_id": stored.version.version_id,
        "etag": stored.version.etag,
        "size_bytes": stored.size_bytes,
        "sha256": stored.sha256,
        "format": suffix,
        "dataset": "sales",
        "event_date": "2023-10-23",
    } | changes


def send(settings: Settings, *values: dict[str, Any] | bytes | None) -> None:
    """Send notifications; those of one key keep their order."""
    kafka.send(
        settings,
        settings.file_notifications_topic,
        [
            Message(str(value["key"]).encode(), json.dumps(value).encode())
            if isinstance(value, dict)
            else Message(b"raw", value)
            for value in values
        ],
    )


def ask(settings: Settings, query: str) -> list[Row]:
    """Ask PostgreSQL; `{s}` is the schema."""
    with connect(settings) as connection:
        return connection.execute(query.format(s=f'"{settings.prefix}reporting"').encode()).fetchall()


def aggregates(settings: Settings) -> list[Row]:
    """All rows with lines, by their key."""
    return ask(settings, f"SELECT {MEASURES} FROM {{s}}.file_aggregates WHERE line_count > 0 ORDER BY 1, 2, 3")


def ledger(settings: Settings) -> list[Row]:
    """Name without folders and prefix, status and reason of each file, in the order of the ledger."""
    named = "regexp_replace(key, '^.*/', ''), status, reason"
    return ask(settings, f"SELECT {named} FROM {{s}}.file_ledger ORDER BY file_id")


def counted(lines: Iterable[Line], day: str = "2023-10-23", dataset: str = "sales") -> list[Row]:
    """What the aggregates of lines must be, computed by other means than the product's."""
    products: dict[str, list[Line]] = {}
    for line in lines:
        products.setdefault(line.sku, []).append(line)
    rows: list[Row] = []
    for sku, held in sorted(products.items()):
        amounts = [Decimal(line.amount) for line in held]
        mean = (sum(amounts) / len(amounts)).quantize(Decimal("0.000001"), ROUND_HALF_UP)
        rows.append(
            (
                *(dataset, day, sku, f"Name of {sku}", len(held), len({line.user_id for line in held})),
                *(sum(line.quantity for line in held), sum(amounts), min(amounts), max(amounts), mean, median(amounts)),
            )
        )
    return rows
