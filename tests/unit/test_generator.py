import importlib.util
import json
import re
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from lakehouse.errors import SettingsError, TerminalError
from lakehouse.events import Event, Reason, Rejection, decode
from lakehouse.generator import CATALOGUE, Generated, generate
from lakehouse.produce import read_messages

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
DAY = date(2023, 10, 23)
KAFKA_MICROS = 1_795_219_200 * 1_000_000  # 2026-11-21


def verdicts(messages: list[Generated]) -> list[Event | Rejection]:
    return [decode(message.value, int(message.sent_at.timestamp() * 1_000_000)) for message in messages]


def test_a_seed_and_a_day_always_give_the_same_messages() -> None:
    golden = (Path(__file__).parent / "golden/generated-seed-7.jsonl").read_text().splitlines()
    messages = generate(seed=7, day=DAY, count=30, bad_ratio=0.2, late_ratio=0.2)
    assert [
        json.dumps([repr(message.key), repr(message.value), message.sent_at.isoformat()]) for message in messages
    ] == golden


def test_another_seed_or_day_gives_other_messages() -> None:
    first = list(generate(seed=1, day=DAY, count=50))
    assert first != list(generate(seed=2, day=DAY, count=50))
    assert [m.key for m in first] != [m.key for m in generate(seed=1, day=date(2023, 10, 24), count=50)]


def test_without_ratios_every_message_is_a_good_one_of_that_day() -> None:
    messages = list(generate(seed=1, day=DAY, count=3000))
    events = [verdict for verdict in verdicts(messages) if isinstance(verdict, Event)]
    assert len(messages) == len(events) == 3000
    assert {event.event_date for event in events} == {DAY}
    assert {event.platform for event in events} == {"web", "mobile", "tablet"}
    assert [message.key for message in messages] == [event.user_id.encode() for event in events]
    moments = [event.event_micros for event in events]
    assert moments == sorted(moments)
    assert all(message.sent_at > event.event_datetime for message, event in zip(messages, events, strict=True))
    assert all(event.unknown_fields is None for event in events)


def test_a_session_goes_from_view_to_click_to_cart_to_purchase() -> None:
    events = [
        verdict for verdict in verdicts(list(generate(seed=1, day=DAY, count=5000))) if isinstance(verdict, Event)
    ]
    counts = Counter(event.event_name for event in events)
    assert counts["view"] > counts["click"] > counts["add_to_cart"] > counts["purchase"] > 0
    assert set(counts) == {"view", "click", "add_to_cart", "purchase"}
    carts = Counter((e.user_id, e.product_name) for e in events if e.event_name == "add_to_cart")
    purchases = Counter((e.user_id, e.product_name) for e in events if e.event_name == "purchase")
    assert purchases <= carts


def test_a_few_users_are_very_active_and_evenings_are_busy() -> None:
    messages = list(generate(seed=1, day=DAY, count=20_000))
    users = Counter(message.key for message in messages).most_common()
    assert sum(count for _, count in users[: len(users) // 10]) > 20_000 / 4
    hours = Counter(message.sent_at.hour for message in messages)
    assert max(hours, key=lambda hour: hours[hour]) == 20
    assert hours[20] > 5 * hours[3]


def test_twenty_two_bad_messages_cover_every_reason() -> None:
    messages = list(generate(seed=1, day=DAY, count=22, bad_ratio=1.0))
    assert {verdict.reason for verdict in verdicts(messages) if isinstance(verdict, Rejection)} == set(Reason)


def test_ratios_are_kept_and_oversized_messages_stay_rare() -> None:
    judged = verdicts(list(generate(seed=1, day=DAY, count=10_000, bad_ratio=0.02, late_ratio=0.05)))
    reasons = Counter(verdict.reason for verdict in judged if isinstance(verdict, Rejection))
    late = [verdict for verdict in judged if isinstance(verdict, Event) and verdict.event_date < DAY]
    assert 150 < reasons.total() < 250
    assert 400 < len(late) < 600
    assert {(DAY - event.event_date).days for event in late} == {1, 2, 3}
    assert reasons[Reason.TOO_LARGE] == 1


def test_articles_have_their_own_number() -> None:
    assert len({product.sku for product in CATALOGUE}) == len({product.name for product in CATALOGUE}) == 54
    assert {
        "Wireless Mouse": "SKU-1001",
        "Bluetooth Headphones": "SKU-2002",
        "Mechanical Keyboard": "SKU-3003",
    }.items() <= {product.name: product.sku for product in CATALOGUE}.items()


def test_the_sample_day_is_what_its_command_makes(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("build", DATA / "build.py")
    assert spec
    assert spec.loader
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    build.build(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {name: (DATA / name).read_bytes() for name in made}
    assert len(made) == 2


def test_the_sample_files_hold_what_their_readme_says() -> None:
    readme = (DATA / "README.md").read_text().partition("## What must come out of the day")[2].partition("\n## ")[0]
    by_reason = {name: int(count) for name, count in re.findall(r"^\| `(\w+)` \| (\d+) \|$", readme, re.MULTILINE)}
    by_day = {
        (day, name): int(count)
        for day, *counts in re.findall(
            r"^\| (2023-\d\d-\d\d) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", readme, re.MULTILINE
        )
        for name, count in zip(("view", "click", "add_to_cart", "purchase"), counts, strict=True)
        if int(count)
    }
    judged = [decode(value, KAFKA_MICROS) for value in read_messages(DATA / "user-actions-2023-10-23.jsonl")]
    assert by_reason == Counter(verdict.reason.value for verdict in judged if isinstance(verdict, Rejection))
    assert by_day == Counter((str(v.event_date), v.event_name) for v in judged if isinstance(v, Event))
    assert sum(by_reason.values()) == 45
    assert sum(by_day.values()) == 4006
    sample = [decode(value, KAFKA_MICROS) for value in read_messages(DATA / "sample-events.jsonl")]
    assert [
        (str(v.event_datetime), v.event_name, v.platform, v.user_id, v.product_name, v.sku)
        for v in sample
        if isinstance(v, Event)
    ] == [
        ("2023-10-23 12:34:56+00:00", "view", "web", "user_12345", "Wireless Mouse", "SKU-1001"),
        ("2023-10-23 12:35:10+00:00", "click", "mobile", "user_67890", "Bluetooth Headphones", "SKU-2002"),
        ("2023-10-23 12:36:05+00:00", "purchase", "web", "user_12345", "Mechanical Keyboard", "SKU-3003"),
    ]


def test_a_file_gives_its_lines_then_its_sidecar(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n\n  \n\xff\r\nlast')
    (tmp_path / "a.sidecar.jsonl").write_text('{"value_base64": null}\n{"value_base64": "AAo=", "pad_to_bytes": 4}\n')
    assert list(read_messages(tmp_path / "a.jsonl")) == [b'{"a": 1}', b"\xff\r", b"last", None, b"\x00\n  "]


@pytest.mark.parametrize("line", ['{"value": "x"}', '{"value_base64": "?"}', "x"])
def test_a_broken_sidecar_is_an_error_that_names_the_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "a.sidecar.jsonl").write_text(f'{{"value_base64": null}}\n{line}\n')
    with pytest.raises(TerminalError, match="line 2"):
        list(read_messages(tmp_path / "a.jsonl"))


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.jsonl"):
        list(read_messages(tmp_path / "none.jsonl"))


def test_generated_times_are_utc() -> None:
    (message,) = generate(seed=1, day=DAY, count=1)
    assert datetime(2023, 10, 23, tzinfo=UTC) <= message.sent_at < datetime(2023, 10, 25, tzinfo=UTC)
