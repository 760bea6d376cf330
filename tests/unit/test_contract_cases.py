"""Every documented case of the contract through every way a message is decoded.

The cases and what must come of them are typed by hand in `golden/contract-cases.jsonl`, one a line. `message` is

- null, a message without a value;
- a text, sent as UTF-8;
- `{"base64": …}`, bytes;
- `{"repeat": text, "times": n}`;
- `{"sample_with": {old: new, …}}`, the sample event with texts in it replaced, each of which it holds once;
- a list of these, one after the other.

`published` names the columns that differ from the sample's; `quarantined` and `field` say why it is refused.
`kafka_timestamp` is by default the midnight after the sample event.
"""

import base64
import itertools
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lakehouse.events import Event, Reason, Rejection, decode, decode_exactly
from lakehouse.transforms import Decoded, decode_batch

CASES: list[dict[str, Any]] = [
    json.loads(line)
    for line in (Path(__file__).parent / "golden/contract-cases.jsonl").read_text(encoding="utf-8").split("\n")
    if line
]
SAMPLE = (
    '{"timestamp": "2023-10-23T12:34:56Z", "event_name": "view", '
    '"user_identifiers": {"platform": "web", "id": "user_12345"}, '
    '"product_information": {"name": "Wireless Mouse", "SKU": "SKU-1001"}}'
)
COLUMNS_OF_THE_SAMPLE = {
    "event_datetime": "2023-10-23T12:34:56.000000Z",
    "event_date": "2023-10-23",
    "event_name": "view",
    "user_id": "user_12345",
    "platform": "web",
    "product_name": "Wireless Mouse",
    "sku": "SKU-1001",
    "unknown_fields": None,
}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INGESTED_AT = datetime(2026, 11, 21, tzinfo=UTC)


def content(part: Any) -> bytes:
    match part:
        case str():
            return part.encode()
        case list():
            return b"".join(map(content, part))
        case {"base64": text}:
            return base64.b64decode(text, validate=True)
        case {"repeat": text, "times": times}:
            return text.encode() * times
        case {"sample_with": changes}:
            raw = SAMPLE.encode()
            for old, new in changes.items():
                assert raw.count(old.encode()) == 1, old
                raw = raw.replace(old.encode(), content(new))
            return raw
    raise ValueError(part)


def raw_of(case: dict[str, Any]) -> bytes | None:
    return None if case["message"] is None else content(case["message"])


def kafka_time_of(case: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(case.get("kafka_timestamp", "2023-10-24T00:00:00Z"))


def wanted_of(case: dict[str, Any]) -> dict[str, str | None] | tuple[str, str | None]:
    """The columns of the published event, or the reason and the field."""
    if "published" in case:
        changed = {column: content(part).decode() for column, part in case["published"].items()}
        assert changed.keys() <= COLUMNS_OF_THE_SAMPLE.keys()
        return COLUMNS_OF_THE_SAMPLE | changed
    return case["quarantined"], case["field"]


def told(verdict: Event | Rejection) -> dict[str, str | None] | tuple[str, str | None]:
    if isinstance(verdict, Rejection):
        return verdict.reason.value, verdict.field
    return {
        "event_datetime": verdict.event_datetime.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "event_date": verdict.event_date.isoformat(),
        "event_name": verdict.event_name,
        "user_id": verdict.user_id,
        "platform": verdict.platform,
        "product_name": verdict.product_name,
        "sku": verdict.sku,
        "unknown_fields": verdict.unknown_fields,
    }


def batch_of(*cases: dict[str, Any]) -> pa.RecordBatch:
    """Kafka rows; the offset is the place among the cases."""
    return pa.record_batch(
        {
            "value": pa.array(map(raw_of, cases), pa.binary()),
            "topic": pa.array(["user-actions"] * len(cases), pa.string()),
            "partition": pa.array([0] * len(cases), pa.int32()),
            "offset": pa.array(range(len(cases)), pa.int64()),
            "timestamp": pa.array(map(kafka_time_of, cases), pa.timestamp("us", tz="UTC")),
        }
    )


def rows_of(decoded: Decoded) -> dict[int, dict[str, str | None] | tuple[str, str | None]]:
    """What came of each offset, which must be in one of the tables and once."""
    events = [
        (
            row["kafka_offset"],
            {column: row[column] for column in COLUMNS_OF_THE_SAMPLE}
            | {
                "event_datetime": row["event_datetime"].strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "event_date": row["event_date"].isoformat(),
            },
        )
        for row in decoded.events.to_pylist()
    ]
    refused = [(row["kafka_offset"], (row["reason"], row["field"])) for row in decoded.quarantine.to_pylist()]
    found = dict([*events, *refused])
    assert len(found) == len(events) + len(refused)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_a_case_has_its_outcome_in_every_way_of_decoding(case: dict[str, Any]) -> None:
    raw, wanted = raw_of(case), wanted_of(case)
    kafka_micros = (kafka_time_of(case) - EPOCH) // timedelta(microseconds=1)
    assert told(decode_exactly(raw, kafka_micros)) == wanted
    assert decode(raw, kafka_micros) == decode_exactly(raw, kafka_micros)
    assert rows_of(decode_batch(batch_of(case), "user-actions", INGESTED_AT)) == {0: wanted}
    good = {"message": SAMPLE}
    among_good_ones = decode_batch(batch_of(good, good, case, good), "user-actions", INGESTED_AT)
    plain = COLUMNS_OF_THE_SAMPLE
    assert rows_of(among_good_ones) == {0: plain, 1: plain, 2: wanted, 3: plain}
    kept = [row["raw"] for row in among_good_ones.quarantine.to_pylist()]
    assert kept == ([raw] if "quarantined" in case else [])


def test_all_cases_in_one_batch_keep_their_outcome() -> None:
    good = {"message": SAMPLE}
    cases = list(itertools.chain.from_iterable((good, case) for case in CASES))
    batch = batch_of(*cases)
    wanted = {offset: wanted_of(case) for offset, case in enumerate(cases) if offset % 2}
    wanted |= dict.fromkeys(range(0, len(cases), 2), COLUMNS_OF_THE_SAMPLE)
    assert rows_of(decode_batch(batch, "user-actions", INGESTED_AT)) == wanted
    assert rows_of(decode_batch(batch.slice(7, 100), "user-actions", INGESTED_AT)) == {
        offset: wanted[offset] for offset in range(7, 107)
    }


def test_the_cases_are_distinct_and_each_reason_has_some() -> None:
    assert len({case["id"] for case in CASES}) == len(CASES)
    assert len({(case["id"].partition("/")[0], case["case"]) for case in CASES}) == len(CASES)
    assert {case["quarantined"] for case in CASES if "quarantined" in case} == {reason.value for reason in Reason}
