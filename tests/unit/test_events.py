import json
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lakehouse import events
from lakehouse.events import Event, Reason, Rejection, decode, decode_exactly
from lakehouse.transforms import collector_off

ROOT = Path(__file__).resolve().parents[2]
# 2023-10-23T12:34:56Z and 2023-10-24T00:00:00Z, from `date -u -d … +%s`.
SAMPLE_MICROS = 1_698_064_496 * 1_000_000
KAFKA_MICROS = 1_698_105_600 * 1_000_000
DAY_MICROS = 86_400 * 1_000_000

SAMPLE = (
    b'{"timestamp": "2023-10-23T12:34:56Z", "event_name": "view", '
    b'"user_identifiers": {"platform": "web", "id": "user_12345"}, '
    b'"product_information": {"name": "Wireless Mouse", "SKU": "SKU-1001"}}'
)


def message(**changes: Any) -> bytes:
    document: dict[str, Any] = json.loads(SAMPLE)
    for path, value in changes.items():
        group, _, name = path.rpartition("__")
        (document[group] if group else document)[name] = value
    return json.dumps(document).encode()


def verdict(raw: bytes | None, kafka_micros: int = KAFKA_MICROS) -> Event | Rejection:
    fast = decode(raw, kafka_micros)
    assert fast == decode_exactly(raw, kafka_micros)
    return fast


def accepted(raw: bytes) -> Event:
    event = verdict(raw)
    assert isinstance(event, Event), event
    return event


def rejected(raw: bytes | None) -> tuple[str, str | None]:
    rejection = verdict(raw)
    assert isinstance(rejection, Rejection), rejection
    return rejection.reason.value, rejection.field


def test_the_sample_event_becomes_these_columns() -> None:
    event = accepted(SAMPLE)
    assert event == Event(
        event_micros=SAMPLE_MICROS,
        event_name="view",
        user_id="user_12345",
        platform="web",
        product_name="Wireless Mouse",
        sku="SKU-1001",
        unknown_fields=None,
    )
    assert event.event_datetime == datetime(2023, 10, 23, 12, 34, 56, tzinfo=UTC)
    assert event.event_date == date(2023, 10, 23)


def test_each_hand_made_event_gets_the_verdict_written_beside_it() -> None:
    from lakehouse.produce import read_messages  # noqa: PLC0415 - only this test needs it

    records = [json.loads(line) for line in (ROOT / "data/hand-made-events.jsonl").read_text().splitlines()]
    sidecar = [record for record in records if "value_base64" in record]
    in_sidecar = list(read_messages(ROOT / "data/user-actions-2023-10-23.jsonl"))[-len(sidecar) :]
    values = [record["value"].encode() for record in records if "value" in record] + in_sidecar
    wanted = [record["verdict"] for record in records if "value" in record] + [record["verdict"] for record in sidecar]
    kafka_micros = 1_795_219_200 * 1_000_000  # 2026-11-21
    verdicts = [verdict(value, kafka_micros) for value in values]
    assert [v.reason.value if isinstance(v, Rejection) else "published" for v in verdicts] == wanted
    assert set(wanted) == {"published", *Reason}


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2023-10-23T12:34:56Z", SAMPLE_MICROS),
        ("2023-10-23t12:34:56z", SAMPLE_MICROS),
        ("2023-10-23T12:34:56+00:00", SAMPLE_MICROS),
        ("2023-10-23T12:34:56-00:00", SAMPLE_MICROS),
        ("2023-10-23T14:34:56+02:00", SAMPLE_MICROS),
        ("2023-10-23T07:04:56-05:30", SAMPLE_MICROS),
        ("2023-10-24T12:33:56+23:59", SAMPLE_MICROS),
        ("2023-10-23T12:34:56.5Z", SAMPLE_MICROS + 500_000),
        ("2023-10-23T12:34:56.123Z", SAMPLE_MICROS + 123_000),
        ("2023-10-23T12:34:56.000001Z", SAMPLE_MICROS + 1),
        ("2023-10-23T12:34:56.999999999Z", SAMPLE_MICROS + 999_999),
        ("2023-10-23T14:34:56.25+02:00", SAMPLE_MICROS + 250_000),
        ("2023-10-23T12:34:56.25z", SAMPLE_MICROS + 250_000),
        ("2020-02-29T00:00:00Z", 1_582_934_400 * 1_000_000),
    ],
)
def test_timestamps_become_utc_microseconds(text: str, micros: int) -> None:
    assert accepted(message(timestamp=text)).event_micros == micros


@pytest.mark.parametrize(
    "text",
    [
        "2023-10-23 12:34:56Z",
        "2023-10-23T12:34Z",
        "2023-10-23T12:34:56,5Z",
        "2023-10-23T12:34:56.Z",
        "2023-10-23T12:34:56+0200",
        "2023-10-23T12:34:56+02",
        "2023-10-23T12:34:56+24:00",
        "2023-10-23T12:34:56+02:60",
        "2023-10-23T24:00:00Z",
        "2023-10-23T12:60:00Z",
        "2023-10-23T23:59:60Z",
        "2023-13-01T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "20231023T123456Z",
        "2023-W43-1T12:34:56Z",
        "٢٠٢٣-10-23T12:34:56Z",
        "2023-10-23T12:34:56.²Z",
        "2023-10-23T12:34:56Z ",
        " 2023-10-23T12:34:56Z",
        "2023-10-23T12:34:56ZZ",
        "2023-10-23T12:34:56.99.1234z",
        "2023-10-23T12:34:56.99.123Z",
        "2023-10-23",
        "1698064496",
        "now",
    ],
)
def test_other_forms_of_a_timestamp_are_refused(text: str) -> None:
    assert rejected(message(timestamp=text)) == ("invalid_timestamp", "timestamp")


def test_the_timestamp_is_a_required_string() -> None:
    assert rejected(SAMPLE.replace(b'"timestamp"', b'"Timestamp"')) == ("misspelled_field", "timestamp")
    assert rejected(SAMPLE.replace(b'"timestamp"', b'"time"')) == ("missing_field", "timestamp")
    assert rejected(message(timestamp=None)) == ("null_field", "timestamp")
    assert rejected(message(timestamp=1_698_064_496)) == ("wrong_type", "timestamp")
    assert rejected(message(timestamp="")) == ("empty_field", "timestamp")
    assert rejected(message(timestamp="2" * 65)) == ("too_long", "timestamp")


@pytest.mark.parametrize("text", ["2023-10-23T12:34:56", "2023-10-23T12:34:56.123"])
def test_a_timestamp_without_offset_has_its_own_reason(text: str) -> None:
    assert rejected(message(timestamp=text)) == ("timestamp_without_offset", "timestamp")


@pytest.mark.parametrize(
    ("kafka_micros", "plausible"),
    [
        (SAMPLE_MICROS - DAY_MICROS, True),
        (SAMPLE_MICROS - DAY_MICROS - 1, False),
        (SAMPLE_MICROS + 3653 * DAY_MICROS, True),
        (SAMPLE_MICROS + 3653 * DAY_MICROS + 1, False),
    ],
)
def test_the_plausible_range_hangs_on_the_timestamp_of_kafka(kafka_micros: int, plausible: bool) -> None:
    judged = verdict(SAMPLE, kafka_micros)
    assert isinstance(judged, Event) == plausible
    if isinstance(judged, Rejection):
        assert judged.reason is Reason.IMPLAUSIBLE_TIMESTAMP


@pytest.mark.parametrize(
    ("path", "field", "longest"),
    [
        ("event_name", "event_name", 64),
        ("user_identifiers__platform", "user_identifiers.platform", 64),
        ("user_identifiers__id", "user_identifiers.id", 256),
        ("product_information__name", "product_information.name", 1024),
        ("product_information__SKU", "product_information.SKU", 128),
    ],
)
def test_each_string_has_its_rules(path: str, field: str, longest: int) -> None:
    accepted(message(**{path: "é" * longest}))
    assert rejected(message(**{path: "é" * (longest + 1)})) == ("too_long", field)
    for blank in ("", " ", " \u3000"):
        assert rejected(message(**{path: blank})) == ("empty_field", field)
    for control in ("\x00", "a\nb", "a\x1f"):
        assert rejected(message(**{path: control})) == ("control_character", field)
    for value in (7, 1.5, True, ["a"], {"a": "b"}):
        assert rejected(message(**{path: value})) == ("wrong_type", field)
    assert rejected(message(**{path: None})) == ("null_field", field)
    group, _, name = path.rpartition("__")
    document = json.loads(SAMPLE)
    members = document[group] if group else document
    value = members.pop(name)
    assert rejected(json.dumps(document).encode()) == ("missing_field", field)
    members[name.swapcase()] = value
    assert rejected(json.dumps(document).encode()) == ("misspelled_field", field)
    members[name] = value
    assert json.loads(accepted(json.dumps(document).encode()).unknown_fields or "") == (
        {group: {name.swapcase(): value}} if group else {name.swapcase(): value}
    )


def test_unknown_fields_are_kept_as_they_were_written() -> None:
    raw = SAMPLE.replace(b'"SKU-1001"', b'"SKU-1001", "color": "r\\u00e9d\\n", "price": 19.90')
    raw = raw.replace(b'"view"', b'"view", "n": [12345678901234567890123, -0.0, 1E5, null, true, {}], "\\"": "\\/"')
    assert accepted(raw).unknown_fields == (
        '{"n":[12345678901234567890123,-0.0,1E5,null,true,{}],"\\"":"/",'
        '"product_information":{"color":"réd\\n","price":19.90}}'
    )


def test_escaped_names_and_pairs_of_surrogates_are_plain_json() -> None:
    raw = SAMPLE.replace(b'"event_name"', b'"event\\u005fname"').replace(b"Mouse", b"\\ud83d\\uDC2D")
    assert accepted(raw).product_name == "Wireless 🐭"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (None, "tombstone"),
        (b"", "blank"),
        (b"\r\n\t ", "blank"),
        (b" " * 1_048_577, "too_large"),
        (b"\xef\xbb\xbf" + SAMPLE, "byte_order_mark"),
        (b"\xef\xbb\xbf", "byte_order_mark"),
        (SAMPLE.replace(b"view", b"\xed\xa0\x80"), "not_utf8"),
        (SAMPLE.replace(b"view", b"\xc0\x80"), "not_utf8"),
        (SAMPLE.replace(b"view", b"\xf4\x90\x80\x80"), "not_utf8"),
        (b"\x00", "not_json"),
        (b"\x0c" + SAMPLE, "not_json"),
        (b"\xc2\xa0" + SAMPLE, "not_json"),
        (SAMPLE[:-1], "not_json"),
        (SAMPLE[:-1] + b",}", "not_json"),
        (SAMPLE.replace(b"view", b"vi\tew"), "not_json"),
        (SAMPLE.replace(b"view", b"vi\\xew"), "not_json"),
        (SAMPLE.replace(b'"view"', b'"view" // a comment'), "not_json"),
        (SAMPLE[:-1] + b', "n": 01}', "not_json"),
        (SAMPLE[:-1] + b', "n": +1}', "not_json"),
        (SAMPLE[:-1] + b', "n": .5}', "not_json"),
        (SAMPLE[:-1] + b', "n": 0x1}', "not_json"),
        (SAMPLE[:-1] + b', "n": -Infinity}', "invalid_number"),
        (SAMPLE[:-1] + b', "n": -1e400}', "invalid_number"),
        (SAMPLE[:-1] + b', "n": ' + b"9" * 5000 + b"}", "invalid_number"),
        (SAMPLE + SAMPLE, "trailing_data"),
        (SAMPLE + b"\x00", "trailing_data"),
        (SAMPLE + b"\xc2\xa0", "trailing_data"),
        (b"null", "not_an_object"),
        (b"1", "not_an_object"),
        (SAMPLE[:-1] + b', "event_name": "view"}', "duplicate_key"),
        (SAMPLE[:-1] + b', "\\u0065vent_name": "view"}', "duplicate_key"),
        (SAMPLE[:-1] + b', "u": [{"a": {"b": 1, "b": 1}}]}', "duplicate_key"),
        (SAMPLE.replace(b'"id":', b'"id": "x", "id":'), "duplicate_key"),
        (SAMPLE[:-1] + b', "u": "\\udc00"}', "lone_surrogate"),
        (SAMPLE[:-1] + b', "\\ud800": 1}', "lone_surrogate"),
        (SAMPLE.replace(b"view", b"\\ud800\\ud800"), "lone_surrogate"),
    ],
    ids=repr,
)
def test_messages_that_are_not_strict_json_are_set_aside(raw: bytes | None, reason: str) -> None:
    assert rejected(raw)[0] == reason


def test_a_repeated_name_is_reported_with_its_path() -> None:
    assert rejected(SAMPLE[:-1] + b', "u": [{"a": {"b": 1, "b": 1}}]}')[1] == "u[0].a.b"


def test_size_and_depth_are_allowed_up_to_their_bounds() -> None:
    accepted(SAMPLE.ljust(1_048_576))
    accepted(SAMPLE[:-1] + b', "u": ' + b"[" * 31 + b"]" * 31 + b"}")
    assert rejected(SAMPLE[:-1] + b', "u": ' + b"[" * 32 + b"]" * 32 + b"}")[0] == "too_deep"
    accepted(SAMPLE[:-1] + b', "u": "' + b"[" * 100 + b'"}')


@pytest.mark.parametrize(
    "raw",
    [
        b"x" * 50_000_000,
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b'"' + b'\\"' * 500_000,
        b"[[" * 20 + b'"' + b'\\"' * 500_000,
        b"[" + b"[]," * 300_000,
        b"[" * 40 + b'"\\' * 300_000,
        SAMPLE[:-1] + b', "n": ' + b"9" * 1_000_000 + b"}",
        SAMPLE[:-1] + b', "' + b"k" * 1_000_000 + b'": "\\ud800"}',
        SAMPLE[:-1] + b', "' + b"k" * 500_000 + b'": 1, "' + b"k" * 500_000 + b'": 1}',
        SAMPLE.replace(b"2023-10", b"2" * 1_000_000),
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_hostile_messages_are_judged_fast_and_their_rejection_is_small(raw: bytes) -> None:
    with collector_off():  # as ingest decodes; else the collector walks all that the other tests hold
        started = time.process_time()
        rejection = decode(raw, KAFKA_MICROS)
        assert time.process_time() - started < 2
    assert isinstance(rejection, Rejection)
    assert len(rejection.message) < 200
    assert len(rejection.field or "") <= 200


def test_both_decoders_agree_on_every_change_of_one_byte() -> None:
    for place in range(len(SAMPLE)):
        without = SAMPLE[:place] + SAMPLE[place + 1 :]
        assert decode(without, KAFKA_MICROS) == decode_exactly(without, KAFKA_MICROS)
        for byte in b'\x00\t\n\x1f "\\{}[],:09aZzT+-.N\x7f\x80\xc3\xed\xff':
            one = bytes([byte])
            replaced = SAMPLE[:place] + one + SAMPLE[place + 1 :]
            inserted = SAMPLE[:place] + one + SAMPLE[place:]
            assert decode(replaced, KAFKA_MICROS) == decode_exactly(replaced, KAFKA_MICROS)
            assert decode(inserted, KAFKA_MICROS) == decode_exactly(inserted, KAFKA_MICROS)


TOKENS = [
    b'"SKU"', b'"sku"', b'"id": "x", ', b'"event_name": "view", ', b'"user_identifiers": null, ', b'"', b'\\"', b"\\",
    b"\\ud800", b"\\ud83d\\udc2d", b"\\u0022", b"\\u0000", b"\\n", b"NaN", b"1e400", b"null", b"{}", b"[", b"]", b"{",
    b"}", b",", b":", b" ", b"\n", b"\x00", b"\xff", "é".encode(), "\u2003".encode(), b'"a": {"b": [1, 2.50]}, ',
    b".5Z", b"+02:00", b'"": "", ', b'"timestamp": "2023-10-23T12:34:56.7Z", ', SAMPLE,
]  # fmt: skip

edits = st.lists(
    st.tuples(
        st.integers(0, len(SAMPLE)), st.integers(0, 12), st.one_of(st.sampled_from(TOKENS), st.binary(max_size=3))
    ),
    max_size=5,
)


@given(edits)
@settings(max_examples=600)
def test_both_decoders_agree_on_mutated_messages(changes: list[tuple[int, int, bytes]]) -> None:
    raw = SAMPLE
    for place, length, token in changes:
        raw = raw[:place] + token + raw[place + length :]
    assert decode(raw, KAFKA_MICROS) == decode_exactly(raw, KAFKA_MICROS)


timestamp_parts = st.sampled_from(
    ["2023-10-23T12:34:56", "2023-02-30t00:00:00", ".5", ".1234567", "Z", "z", "+02:00", "7"]
)


@given(st.lists(timestamp_parts, max_size=4).map("".join) | st.text(alphabet="0123456789-+:.TtZz ", max_size=30))
@example("2023-10-23T12:34:56.99.1234z")
@example("2023-10-23T12:34:56.1234567z")
@settings(max_examples=500)
def test_looked_up_timestamps_equal_computed_ones(text: str) -> None:
    looked_up = events._timestamp_micros(text)
    assert looked_up is None or looked_up == events._timestamp_micros_exactly(text)


@given(st.datetimes(datetime(2014, 1, 1), datetime(2023, 10, 24)), st.integers(-23 * 60, 23 * 60), st.booleans())  # noqa: DTZ001 - the zone is drawn beside it
def test_every_offset_gives_the_moment_that_datetime_computes(moment: datetime, minutes: int, cut: bool) -> None:
    sign = "-" if minutes < 0 else "+"
    moment = moment.replace(microsecond=0) if cut else moment
    text = f"{moment.isoformat()}{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    expected = moment.replace(tzinfo=UTC) - timedelta(minutes=minutes)
    assert accepted(message(timestamp=text)).event_datetime == expected


@given(st.text(min_size=1, max_size=60).filter(lambda text: not text.isspace() and min(text) > "\x1f"))
def test_any_printable_text_arrives_unchanged(text: str) -> None:
    assert accepted(message(user_identifiers__id=text)).user_id == text
    assert accepted(json.dumps(json.loads(message(product_information__name=text)), ensure_ascii=False).encode()) == (
        accepted(message(product_information__name=text))
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda name: name not in json.loads(SAMPLE)), json_values, min_size=1))
def test_unknown_fields_come_back_as_the_same_json(unknown: dict[str, Any]) -> None:
    event = accepted(json.dumps(json.loads(SAMPLE) | unknown).encode())
    assert json.loads(event.unknown_fields or "") == unknown
