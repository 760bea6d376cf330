"""What tests with a shop of their own share: its tables and topic, its messages, and waiting for what it does."""

import json
import time
from collections.abc import Callable
from typing import Any

from lakehouse.adapters import kafka
from lakehouse.adapters.kafka import Message
from lakehouse.environment import apply
from lakehouse.settings import Settings

EVENT_COLUMNS = (
    "(event_datetime, event_date, event_name, user_id, platform, product_name, sku, unknown_fields, "
    "kafka_topic, kafka_partition, kafka_offset, kafka_timestamp, ingested_at, replayed_at)"
)
"""Of `events.user_actions`, for rows that a test inserts by hand; the others are null."""


def open_shop(settings: Settings, partitions: int) -> Settings:
    """Make all tables, and an empty topic of so many partitions."""
    kafka.create_topic(settings, settings.user_actions_topic, partitions)
    apply(settings)
    return settings


def event(user_id: str, *, day: int = 23, second: int = 56, **more: Any) -> bytes:
    """An event that the contract accepts, with these unknown fields."""
    known = {
        "timestamp": f"2023-10-{day}T12:34:{second:02}Z",
        "event_name": "view",
        "user_identifiers": {"platform": "web", "id": user_id},
        "product_information": {"name": "Wireless Mouse", "SKU": "SKU-1001"},
    }
    return json.dumps(known | more).encode()


def good(number: int, day: int = 23) -> Message:
    """A message with the event of the user of this number."""
    return Message(b"%d" % number, event(f"user_{number}", day=day, second=number % 60))


def bad(number: int) -> Message:
    """A message that is no JSON."""
    return Message(b"%d" % number, b"bad %d" % number)


def wait_until(done: Callable[[], bool], what: str | Callable[[], str], seconds: float = 240) -> None:
    """Wait until it is done; the assertion that fails otherwise says what was waited for."""
    deadline = time.monotonic() + seconds
    while not done():
        late = time.monotonic() > deadline
        assert not late, f"waited {seconds} seconds in vain: {what if isinstance(what, str) else what()}"
        time.sleep(0.2)
