import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from lakehouse import produce
from lakehouse.adapters import kafka
from lakehouse.adapters.kafka import Message
from lakehouse.errors import ServerUnavailableError, TerminalError
from lakehouse.settings import Settings

pytestmark = pytest.mark.integration

DATA = Path(__file__).resolve().parents[2] / "data"
SAMPLE_DAY = DATA / "user-actions-2023-10-23.jsonl"


@pytest.fixture
def topic(environment: Settings) -> Iterator[str]:
    name = environment.user_actions_topic
    kafka.create_topic(environment, name, 3)
    yield name
    kafka.delete_topic(environment, name)


def held(settings: Settings, topic: str) -> int:
    return sum(end - start for start, end in kafka.offsets(settings, topic).values())


def test_creating_a_topic_twice_changes_nothing(environment: Settings, topic: str) -> None:
    kafka.send(environment, topic, [Message(b"k", b"v")])
    assert kafka.create_topic(environment, topic, 7) is False
    assert sorted(kafka.offsets(environment, topic)) == [0, 1, 2]
    assert held(environment, topic) == 1


def test_a_topic_made_anew_has_another_id(environment: Settings, topic: str) -> None:
    first = kafka.topic_id(environment, topic)
    assert kafka.topic_id(environment, topic) == first
    kafka.delete_topic(environment, topic)
    kafka.create_topic(environment, topic, 1)
    assert kafka.topic_id(environment, topic) != first


def test_a_new_topic_holds_no_offsets(environment: Settings, topic: str) -> None:
    assert kafka.offsets(environment, topic) == {0: (0, 0), 1: (0, 0), 2: (0, 0)}
    assert list(kafka.read(environment, topic)) == []


def test_what_was_sent_is_read_back_byte_for_byte(environment: Settings, topic: str) -> None:
    messages = [
        Message(None, None),
        Message(b"", b""),
        Message(b"k\x00", b"\xff\n", (("h", b"\x00"), ("h", b""))),
        Message(b"k", b" " * 3_000_000),
    ]
    assert kafka.send(environment, topic, messages) == 4
    received = list(kafka.read(environment, topic))
    assert Counter((r.key, r.value, r.headers) for r in received) == Counter(tuple(message) for message in messages)


def test_messages_of_one_key_keep_their_order(environment: Settings, topic: str) -> None:
    kafka.send(environment, topic, (Message(b"%d" % (n % 5), b"%d" % n) for n in range(2000)))
    received = list(kafka.read(environment, topic))
    for key in range(5):
        numbers = [int(r.value or b"") for r in received if r.key == b"%d" % key]
        assert numbers == list(range(key, 2000, 5))
    assert sorted((r.partition, r.offset) for r in received) == [
        (partition, offset)
        for partition, (start, end) in kafka.offsets(environment, topic).items()
        for offset in range(start, end)
    ]


def test_the_broker_stamps_messages_with_its_own_clock(environment: Settings, topic: str) -> None:
    before = time.time() - 60
    kafka.send(environment, topic, [Message(None, b"v")])
    (received,) = kafka.read(environment, topic)
    assert before < received.timestamp_millis / 1000 < time.time() + 60


def test_a_rate_is_kept_and_progress_ends_at_the_count(environment: Settings, topic: str) -> None:
    kafka.send(environment, topic, [Message(None, b"v")])
    seen = list[int]()
    started = time.monotonic()
    kafka.send(environment, topic, (Message(None, b"v") for _ in range(100)), rate=100, progress=seen.append)
    assert 0.9 < time.monotonic() - started < 5
    assert seen == sorted(seen)
    assert seen[-1] == 100


def test_a_message_kafka_refuses_is_an_error_that_counts_the_confirmed(environment: Settings, topic: str) -> None:
    messages = [Message(None, b"v"), Message(None, os.urandom(kafka.MAX_MESSAGE_BYTES + 1)), Message(None, b"v")]
    with pytest.raises(TerminalError, match=r"1 of 1 messages sent were confirmed"):
        kafka.send(environment, topic, messages)
    assert held(environment, topic) == 1


def test_an_unknown_topic_is_an_error_that_says_what_to_do(environment: Settings) -> None:
    missing = f"{environment.prefix}nowhere"
    for call in (
        lambda: kafka.offsets(environment, missing),
        lambda: list(kafka.read(environment, missing)),
        lambda: kafka.send(environment, missing, [Message(None, b"v")]),
    ):
        with pytest.raises(TerminalError, match="there is no such topic"):
            call()
    assert kafka.delete_topic(environment, missing) is False


def test_a_kafka_that_is_away_is_a_passing_fault_within_the_time_limit(
    environment: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "REQUEST_SECONDS", 1.0)
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        away = environment.model_copy(
            update={"kafka": environment.kafka.model_copy(update={"bootstrap_servers": address})}
        )
        for call in (
            lambda: kafka.offsets(away, "t"),
            lambda: kafka.create_topic(away, "t", 1),
            lambda: kafka.send(away, "t", [Message(None, b"v")]),
        ):
            started = time.monotonic()
            with pytest.raises(ServerUnavailableError, match=address):
                call()
            assert time.monotonic() - started < 10


def test_producing_a_file_once_sends_it_once(environment: Settings, topic: str) -> None:
    first = produce.produce_file(environment, SAMPLE_DAY, once=True)
    assert (first.messages, first.sent, first.already_there) == (4051, 4051, 0)
    again = produce.produce_file(environment, SAMPLE_DAY, once=True)
    assert (again.messages, again.sent, again.already_there) == (4051, 0, 4051)
    received = Counter(r.value for r in kafka.read(environment, topic))
    assert received == Counter(produce.read_messages(SAMPLE_DAY))


def test_without_once_a_file_is_sent_again(environment: Settings, topic: str) -> None:
    for _ in range(2):
        assert produce.produce_file(environment, DATA / "sample-events.jsonl").sent == 3
    assert held(environment, topic) == 6
    assert {r.key for r in kafka.read(environment, topic)} == {b"user_12345", b"user_67890"}


def test_a_run_killed_halfway_is_completed_and_nothing_is_doubled(environment: Settings, topic: str) -> None:
    code = (
        "import sys; from pathlib import Path; from lakehouse.produce import produce_file;"
        "from lakehouse.settings import Settings;"
        "produce_file(Settings.model_validate_json(sys.argv[1]), Path(sys.argv[2]), rate=2000)"
    )
    # Only what names the topic; no secret goes on a command line.
    where = Settings(prefix=environment.prefix, kafka=environment.kafka).model_dump_json(include={"prefix", "kafka"})
    victim = subprocess.Popen([sys.executable, "-c", code, where, str(SAMPLE_DAY)])
    try:
        deadline = time.monotonic() + 30
        while held(environment, topic) < 500 and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    healed = produce.produce_file(environment, SAMPLE_DAY, once=True)
    assert 500 <= healed.already_there < 4051
    assert healed.sent == 4051 - healed.already_there
    assert Counter(r.value for r in kafka.read(environment, topic)) == Counter(produce.read_messages(SAMPLE_DAY))


def test_once_refuses_a_topic_whose_beginning_is_gone(environment: Settings, topic: str) -> None:
    produce.produce_file(environment, DATA / "sample-events.jsonl")
    kafka.delete_records(environment, topic)
    assert all(start == end for start, end in kafka.offsets(environment, topic).values())
    with pytest.raises(TerminalError, match="can't tell whether"):
        produce.produce_file(environment, DATA / "sample-events.jsonl", once=True)


def test_generated_messages_all_arrive(environment: Settings, topic: str) -> None:
    produced = produce.produce_generated(
        environment, count=3000, day=date(2023, 10, 23), seed=5, bad_ratio=0.01, late_ratio=0.01
    )
    assert produced.sent == held(environment, topic) == 3000
