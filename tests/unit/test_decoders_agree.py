"""The quick ways of decoding against the reference, on messages that are nearly good and on any mix of them."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lakehouse.events import Event, decode, decode_exactly
from lakehouse.transforms import decode_batch

# 2023-10-24T00:00:00Z, from `date -u -d … +%s`.
KAFKA_MICROS = 1_698_105_600 * 1_000_000
DAY_MICROS = 86_400 * 1_000_000
INGESTED_AT = datetime(2026, 11, 21, tzinfo=UTC)
EVENT_COLUMNS = ("event_name", "user_id", "platform", "product_name", "sku", "unknown_fields")

SAMPLE = (
    b'{"timestamp": "2023-10-23T12:34:56Z", "event_name": "view", '
    b'"user_identifiers": {"platform": "web", "id": "user_12345"}, '
    b'"product_information": {"name": "Wireless Mouse", "SKU": "SKU-1001"}}'
)
COMPACT = json.dumps(json.loads(SAMPLE), separators=(",", ":")).encode()


def assert_a_batch_agrees(messages: Sequence[tuple[bytes | None, int]], start: int = 0) -> None:
    """Hold `decode_batch`, from row `start` on, to the reference: each row, each column, and nothing else."""
    values, kafka_micros = [raw for raw, _ in messages], [micros for _, micros in messages]
    batch = pa.record_batch(
        {
            "value": pa.array(values, pa.binary()),
            "topic": pa.array(["user-actions"] * len(messages), pa.string()),
            "partition": pa.array([0] * len(messages), pa.int32()),
            "offset": pa.array(range(len(messages)), pa.int64()),
            "timestamp": pa.array(kafka_micros, pa.timestamp("us", tz="UTC")),
        }
    ).slice(start)
    events, quarantine = decode_batch(batch, "user-actions", INGESTED_AT)
    verdicts = {place: decode_exactly(*messages[place]) for place in range(start, len(messages))}
    wanted_events = [
        (place, v.event_micros, v.event_date, *(getattr(v, column) for column in EVENT_COLUMNS))
        for place, v in verdicts.items()
        if isinstance(v, Event)
    ]
    found = events.set_column(0, "event_datetime", events["event_datetime"].cast(pa.int64()))
    assert rows_of(found, ("event_datetime", "event_date", *EVENT_COLUMNS)) == wanted_events
    wanted_refusals = [
        (place, v.reason.value, v.message, v.field, values[place])
        for place, v in verdicts.items()
        if not isinstance(v, Event)
    ]
    assert rows_of(quarantine, ("reason", "message", "field", "raw")) == wanted_refusals


def rows_of(table: pa.Table, columns: Iterable[str]) -> list[tuple[Any, ...]]:
    """The columns after the offset, in the order of the offsets."""
    chosen = (table[column].to_pylist() for column in ("kafka_offset", *columns))
    return sorted(zip(*chosen, strict=True), key=lambda row: row[0])


# Each in a batch of its own: one message that is not UTF-8 would send the others with it another way.
TOKENS = [
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\t", b"\n", b"\x00", b"\x1f", b"\x7f", b"0", b"z", b"Z"),
    *(b"+", b"-", b".", b"'", b"/", b'\\"', b"\\\\", b"\\n", b"\\u0041", b"\\ud800", b'""', b'","', b'":"', b", "),
    *("é".encode(), "\u0085".encode(), "\u00a0".encode(), "\u2028".encode(), "\u3000".encode(), "🐭".encode()),
    *(b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf", b"\xf4\x90\x80\x80"),
]


def changed(good: bytes, token: bytes) -> list[tuple[bytes, int]]:
    """Good messages and, among them, one for each place where the token stands instead of a byte."""
    replaced = [good[:place] + token + good[place + 1 :] for place in range(len(good))]
    return [(raw, KAFKA_MICROS) for raw in (good, *replaced, good)]


@pytest.mark.parametrize("good", [SAMPLE, COMPACT], ids=["spaced", "compact"])
def test_a_batch_agrees_wherever_a_byte_becomes_something_else(good: bytes) -> None:
    for token in TOKENS:
        assert_a_batch_agrees(changed(good, token))


def test_a_batch_agrees_wherever_a_byte_is_no_ascii() -> None:
    for byte in range(0x80, 0x100):
        assert_a_batch_agrees(changed(SAMPLE, bytes([byte])))


def test_a_batch_agrees_wherever_something_is_inserted() -> None:
    for token in TOKENS:
        inserted = [SAMPLE[:place] + token + SAMPLE[place:] for place in range(len(SAMPLE) + 1)]
        assert_a_batch_agrees([(raw, KAFKA_MICROS) for raw in (SAMPLE, *inserted)])


def test_a_batch_agrees_on_every_cut_and_every_repetition() -> None:
    cuts = [SAMPLE[:place] for place in range(len(SAMPLE))] + [SAMPLE[place:] for place in range(len(SAMPLE))]
    gone = [SAMPLE[:place] + SAMPLE[place + length :] for place in range(len(SAMPLE)) for length in (1, 2, 10)]
    twice = [SAMPLE[: place + 12] + SAMPLE[place:] for place in range(len(SAMPLE))]
    assert_a_batch_agrees([(raw, KAFKA_MICROS) for raw in (SAMPLE, *cuts, *gone, *twice)])


TIMESTAMPS = [
    *("2023-10-23T12:34:56Z", "2023-10-23T12:34:56.7Z", "2023-10-23T23:59:59.999999999999Z", "2023-10-23t01:02:03z"),
    *("2023-10-23T12:34:56.789+02:00", "2023-10-23T00:30:00+01:00", "2023-10-23T12:34:56-00:00"),
    *("2013-10-23T00:00:00Z", "9999-12-31T23:59:59Z", "2023-02-30T12:34:56Z", "2023-10-23T12:34:60Z", "", " "),
    *("2023-10-23T12:34:56", "2023-10-23 12:34:56Z", "2023-10-23T12:34:56+24:00", "0000-01-01T00:00:00Z"),
    *("2023-10-23T12:34:56.Z", "2023-10-23T12:34:5\uff16Z"),
]
STRINGS = [
    *("view", "é", "красный", "🐭", "a b", "", " ", "\u3000", "\u00a0\u2003", "\u200b", "\u0085", "x" * 64, "x" * 65),
    *("é" * 64, "é" * 65, "x" * 256, "x" * 1024, "x" * 1025, 'say "hi"', "back\\slash", "a\nb", "\x00", "\x7f", "null"),
]
texts = st.sampled_from(STRINGS) | st.text(max_size=6)
spaces = st.sampled_from(["", " ", "\n  ", "\t", "\r\n"])
unknown = st.none() | st.booleans() | st.integers() | st.just([1, {"a": None}]) | st.sampled_from(STRINGS)
extra = st.dictionaries(st.sampled_from(["color", "Event_Name", "ID", "é", "", "sku"]), unknown, max_size=1)


@st.composite
def layouts(draw: st.DrawFn) -> Any:
    """How one producer writes: the order of its fields and its whitespace."""
    orders = [draw(st.permutations(range(n))) for n in (4, 2, 2)]
    return orders, draw(spaces), draw(spaces), draw(st.booleans())


def written(layout: Any, timestamp: Any, strings: Sequence[Any], more: dict[str, Any]) -> bytes:
    (top, user, product), after_comma, after_colon, ascii_only = layout
    groups = [
        dict(reordered([("platform", strings[0]), ("id", strings[1])], user)),
        dict(reordered([("name", strings[2]), ("SKU", strings[3])], product)),
    ]
    fields = [
        *(("timestamp", timestamp), ("event_name", strings[4])),
        *(("user_identifiers", groups[0]), ("product_information", groups[1])),
    ]
    document = dict(reordered(fields, top)) | more
    separators = (f",{after_comma}", f":{after_colon}")
    return json.dumps(document, separators=separators, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def reordered(pairs: Sequence[tuple[str, Any]], order: Sequence[int]) -> list[tuple[str, Any]]:
    return [pairs[place] for place in order]


nearly_always_good = st.tuples(
    st.sampled_from(TIMESTAMPS[:7]), st.lists(st.sampled_from(STRINGS[:5]), min_size=5, max_size=5), st.just({})
)
anything = st.tuples(st.sampled_from(TIMESTAMPS), st.lists(texts | unknown, min_size=5, max_size=5), extra)
edits = st.lists(
    st.tuples(
        st.integers(0, 250),
        st.integers(0, 3),
        st.sampled_from([*TOKENS, b"\xff", b""]) | st.binary(max_size=2),
    ),
    max_size=2,
)


def edited(raw: bytes, changes: Sequence[tuple[int, int, bytes]]) -> bytes:
    for place, length, token in changes:
        raw = raw[:place] + token + raw[place + length :]
    return raw


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[bytes | None, int]]:
    """Messages of a few producers, most of them good, some of them broken in some place."""
    producers = draw(st.lists(layouts(), min_size=1, max_size=3))
    of_a_producer = st.builds(
        lambda layout, content, changes: edited(written(layout, *content), changes),
        st.sampled_from(producers),
        nearly_always_good | anything,
        st.just([]) | edits,
    )
    message = of_a_producer | st.sampled_from([None, b"", b" ", b"{}", SAMPLE, COMPACT, SAMPLE + b"\n"])
    micros = st.sampled_from(
        [KAFKA_MICROS, KAFKA_MICROS - DAY_MICROS, KAFKA_MICROS + 3653 * DAY_MICROS, -1000, KAFKA_MICROS + 1]
    )
    return draw(st.lists(st.tuples(message, st.just(KAFKA_MICROS) | micros), min_size=1, max_size=20))


@given(batches(), st.integers(0, 3))
@example([(SAMPLE, KAFKA_MICROS), (SAMPLE.replace(b"view", "\u2003".encode()), KAFKA_MICROS)], 0)
@example([(SAMPLE, KAFKA_MICROS), (SAMPLE.replace(b"view", b"\xff"), KAFKA_MICROS), (SAMPLE, KAFKA_MICROS)], 1)
@settings(max_examples=120)
def test_every_way_of_decoding_agrees_on_any_mix(messages: list[tuple[bytes | None, int]], start: int) -> None:
    for raw, kafka_micros in messages:
        assert decode(raw, kafka_micros) == decode_exactly(raw, kafka_micros)
    assert_a_batch_agrees(messages, min(start, len(messages)))


@given(layouts(), anything, edits)
@settings(max_examples=250)
def test_both_decoders_agree_on_any_layout(layout: Any, content: Any, changes: list[tuple[int, int, bytes]]) -> None:
    raw = edited(written(layout, *content), changes)
    assert decode(raw, KAFKA_MICROS) == decode_exactly(raw, KAFKA_MICROS)
