"""The mock's data: the same each time, and with everything in it that a load must cope with."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from lakehouse.ads.contract import Reason, Rejection, decode
from lakehouse.ads.sample import HOUR, Scenario, records

NOON = datetime(2023, 10, 23, 12, tzinfo=UTC)
RICH = Scenario(impressions_per_hour=500, bad_ratio=0.02, duplicate_ratio=0.02, late_ratio=0.02)


def test_the_same_hour_gives_the_same_bytes_and_another_one_others() -> None:
    assert records(RICH, NOON) == records(RICH, NOON)
    assert records(RICH, NOON) != records(RICH, NOON + HOUR)
    assert records(RICH, NOON) != records(Scenario(seed=8, impressions_per_hour=500), NOON)


def test_an_hour_has_new_changed_late_repeated_and_broken_records() -> None:
    lines = records(RICH, NOON)
    assert len(lines) == 500 + 100 + 10 + 10 + 10
    verdicts = [decode(line) for line in lines]
    good = [verdict for verdict in verdicts if not isinstance(verdict, Rejection)]
    assert {verdict.reason for verdict in verdicts if isinstance(verdict, Rejection)} == set(Reason)
    assert all(NOON <= record["updated_at"] < NOON + HOUR for record in good)
    assert sum(record["shown_at"] < NOON - timedelta(days=1) for record in good) >= 10
    assert sum(record["clicked_at"] is not None for record in good) > 50
    assert max(Counter(lines).values()) > 1


def test_a_changed_impression_is_one_that_was_told_before() -> None:
    told = {
        record["impression_id"]: record["shown_at"]
        for back in range(1, 73)
        for line in records(Scenario(bad_ratio=0), NOON - back * HOUR)
        if (record := decode(line)) and not isinstance(record, Rejection)
    }
    changed = [
        record
        for line in records(Scenario(bad_ratio=0, late_ratio=0), NOON)
        if not isinstance(record := decode(line), Rejection) and record["shown_at"] < NOON
    ]
    assert changed
    assert all(told[record["impression_id"]] == record["shown_at"] for record in changed)
