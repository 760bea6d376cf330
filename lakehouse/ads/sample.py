"""The impressions that the mock ad API tells: the same scenario and hour always give the same bytes; pure.

A record belongs to the hour of its `updated_at`. What an hour has: impressions shown in it, changes of impressions of
hours before (a click, another cost), impressions told days late, copies of records, and records that break the
contract, each kind in turn.
"""

import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from lakehouse.generator import CATALOGUE

HOUR: Final = timedelta(hours=1)
_CAMPAIGNS: Final = ("spring-sale", "back-to-school", "always-on", "newcomers", "last-minute")
_USERS: Final = 2_000
_HOURS_OF_UPDATES: Final = 72


@dataclass(frozen=True, slots=True)
class Scenario:
    """What an account's data is like.

    Attributes:
        impressions_per_hour: newly shown.
        update_ratio: changes of earlier impressions, as a share of those.
        late_ratio: impressions told late, as a share of those.
        late_days: how late at most, in days; changes may come as late as that too.
        duplicate_ratio: records told twice within their hour.
        bad_ratio: records that break the contract.
    """

    seed: int = 7
    impressions_per_hour: int = 60
    update_ratio: float = 0.2
    late_ratio: float = 0.02
    late_days: int = 45
    duplicate_ratio: float = 0.02
    bad_ratio: float = 0.01


def records(scenario: Scenario, hour: datetime) -> list[bytes]:
    """All records whose `updated_at` lies in the hour that begins then, in the order of the API."""
    rng = _rng(scenario, "hour", hour)
    count = scenario.impressions_per_hour
    told = [_impression(scenario, hour, number) for number in range(count)]
    told += [_update(scenario, hour, rng) for _ in range(round(count * scenario.update_ratio))]
    told += [_late(scenario, hour, number, rng) for number in range(round(count * scenario.late_ratio))]
    lines = [encode(record) for record in told]
    for number in range(round(count * scenario.bad_ratio)):
        lines.insert(rng.randrange(len(lines) + 1), _broken(scenario, hour, number))
    for _ in range(round(count * scenario.duplicate_ratio)):
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    return lines


def encode(record: dict[str, Any]) -> bytes:
    """Write a record as the API does, on one line."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


def _rng(scenario: Scenario, *what: object) -> random.Random:
    return random.Random(f"{scenario.seed} {' '.join(map(str, what))}")  # noqa: S311 - the same each time is the point


def _impression(scenario: Scenario, hour: datetime, number: int) -> dict[str, Any]:
    """The impression of this number that was shown in this hour, as it was told first."""
    rng = _rng(scenario, "impression", hour, number)
    shown_at = hour + timedelta(microseconds=rng.randrange(3_500_000_000))
    return _record(rng, f"{hour:%Y%m%d%H}-{number:06}", shown_at, shown_at + timedelta(seconds=rng.randrange(1, 60)))


def _record(rng: random.Random, impression_id: str, shown_at: datetime, updated_at: datetime) -> dict[str, Any]:
    product = rng.choice(CATALOGUE)
    campaign = rng.choice(_CAMPAIGNS)
    return {
        "impression_id": impression_id,
        "campaign": campaign,
        "ad": f"{campaign}-{rng.randrange(1, 6)}",
        "sku": product.sku,
        "user_id": f"user_{min(int(rng.paretovariate(0.6)), _USERS):05}",
        "shown_at": _text(shown_at),
        "clicked_at": None,
        "cost_micros": rng.randrange(500, 20_000),
        "updated_at": _text(updated_at),
    }


def _update(scenario: Scenario, hour: datetime, rng: random.Random) -> dict[str, Any]:
    """A change of an impression of an earlier hour: mostly a click, now and then another cost."""
    far = rng.random() < scenario.late_ratio
    back = rng.randrange(1, 24 * scenario.late_days if far else _HOURS_OF_UPDATES)
    earlier = hour - back * HOUR
    record = _impression(scenario, earlier, rng.randrange(scenario.impressions_per_hour))
    if rng.random() < 0.8:
        shown_at = datetime.fromisoformat(record["shown_at"])
        record["clicked_at"] = _text(shown_at + timedelta(seconds=rng.randrange(1, 90)))
        record["cost_micros"] += 100_000
    else:
        record["cost_micros"] += rng.randrange(1, 1_000)
    return record | {"updated_at": _text(hour + timedelta(microseconds=rng.randrange(3_600_000_000)))}


def _late(scenario: Scenario, hour: datetime, number: int, rng: random.Random) -> dict[str, Any]:
    back = timedelta(seconds=rng.randrange(24 * 3600, 24 * 3600 * max(2, scenario.late_days)))
    updated_at = hour + timedelta(microseconds=rng.randrange(3_600_000_000))
    return _record(rng, f"{hour:%Y%m%d%H}-late-{number:06}", updated_at - back, updated_at)


def _broken(scenario: Scenario, hour: datetime, number: int) -> bytes:
    record = _impression(scenario, hour, 1_000_000 + number)
    kinds: tuple[Any, ...] = (
        lambda: encode(record)[:-7],
        lambda: encode({key: value for key, value in record.items() if key != "sku"}),
        lambda: encode(record | {"cost_micros": "12"}),
        lambda: encode(record | {"cost_micros": -1}),
        lambda: encode(record | {"clicked_at": _text(datetime.fromisoformat(record["shown_at"]) - HOUR)}),
        lambda: encode(record | {"shown_at": "yesterday"}),
        lambda: b"<html>busy</html>",
    )
    return kinds[(hour.hour + number) % len(kinds)]()


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
