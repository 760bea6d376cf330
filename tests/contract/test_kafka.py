import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from lakehouse import produce
from lakehouse.adapters import kafka
from lakehouse.adapters.kafka import Message
from lakehouse.errors import DataLossError, ServerUnavailableError, TerminalError
from lakehouse.plans import OffsetRange
from lakehouse.settings import Settings
from tests.shops import wait_until

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
    assert Counter((r.key, r.value, r.headers) for r in received) == Counter(message[:3] for message in messages)


def test_a_topic_that_takes_its_producers_times_keeps_them(environment: Settings) -> None:
    topic = environment.user_actions_topic
    kafka.create_topic(environment, topic, 1, {"message.timestamp.type": "CreateTime", "retention.ms": "-1"})
    kafka.send(environment, topic, [Message(None, b"v", timestamp_millis=1_698_019_200_000)])
    (received,) = kafka.read(environment, topic)
    assert received.timestamp_millis == 1_698_019_200_000


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


def test_a_moment_is_found_in_each_partition_that_has_a_later_message(environment: Settings) -> None:
    name = f"{environment.prefix}stamped"
    kafka.create_topic(environment, name, 3, {"message.timestamp.type": "CreateTime"})
    producer = Producer({"bootstrap.servers": environment.kafka.bootstrap_servers})
    moment = datetime.now(UTC).replace(microsecond=0)
    at = int(moment.timestamp() * 1000)
    for partition, stamps in {0: (at - 2, at - 1, at, at + 1), 1: (at - 1,)}.items():
        for stamp in stamps:
            producer.produce(name, b"v", partition=partition, timestamp=stamp)
    assert producer.flush(30) == 0
    try:
        assert kafka.offsets_at(environment, name, moment) == {0: 2}
        assert kafka.offsets_at(environment, name, moment - timedelta(seconds=1)) == {0: 0, 1: 0}
        assert kafka.offsets_at(environment, name, moment + timedelta(microseconds=1)) == {0: 3}
    finally:
        kafka.delete_topic(environment, name)


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
        "produce_file(Settings.model_validate_json(sys.argv[1]), Path(sys.argv[2]), rate=500)"
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


# Ranges


@pytest.fixture
def single(environment: Settings) -> Iterator[str]:
    """A topic of one partition."""
    name = f"{environment.user_actions_topic}-single"
    kafka.create_topic(environment, name, 1)
    yield name
    kafka.delete_topic(environment, name)


def rows_of(settings: Settings, topic: str, *ranges: OffsetRange) -> list[dict[str, Any]]:
    return [row for batch in kafka.read_ranges(settings.kafka, topic, ranges) for row in batch.to_pylist()]


def test_a_range_is_read_to_its_last_offset_and_no_further(environment: Settings, topic: str) -> None:
    kafka.send(environment, topic, [Message(b"%d" % n, b"value %d" % n) for n in range(300)])
    available = kafka.offsets(environment, topic)
    ranges = [OffsetRange(p, end // 3, 2 * end // 3) for p, (_, end) in available.items()]
    found = rows_of(environment, topic, *ranges)
    wanted = {(r.topic_partition, o) for r in ranges for o in range(r.start_offset, r.end_offset)}
    assert {(row["partition"], row["offset"]) for row in found} == wanted
    assert len(found) == len(wanted)
    assert all(row["value"] == b"value " + row["key"] for row in found)


def test_a_message_comes_with_all_that_it_had(environment: Settings, single: str) -> None:
    headers: Any = (("trace", b"1"), ("trace", b""), ("none", None))
    kafka.send(environment, single, [Message(None, None), Message(b"k\x00", b"\xff", headers)])
    ((at, *_),) = [[r.timestamp_millis for r in kafka.read(environment, single)]]
    first, second = rows_of(environment, single, OffsetRange(0, 0, 2))
    assert (first["key"], first["value"], first["headers"]) == (None, None, None)
    assert (second["key"], second["value"]) == (b"k\x00", b"\xff")
    assert second["headers"] == [
        {"key": "trace", "value": b"1"},
        {"key": "trace", "value": b""},
        {"key": "none", "value": None},
    ]
    assert first["timestamp"] == datetime.fromtimestamp(at / 1000, UTC)


def test_a_range_that_ends_in_an_aborted_transaction_ends(environment: Settings, single: str) -> None:
    producer = Producer(
        {"bootstrap.servers": environment.kafka.bootstrap_servers, "transactional.id": f"{environment.prefix}ranges"}
    )
    producer.init_transactions(60)
    for value, end in ((b"kept", producer.commit_transaction), (b"taken back", producer.abort_transaction)):
        producer.begin_transaction()
        producer.produce(single, value)
        producer.flush()
        end()
    # Each transaction ends in a marker, which Kafka writes soon after it has confirmed the end.
    wait_until(lambda: kafka.offsets(environment, single) == {0: (0, 4)}, "both markers are there", 30)
    assert [row["value"] for row in rows_of(environment, single, OffsetRange(0, 0, 4))] == [b"kept"]
    assert rows_of(environment, single, OffsetRange(0, 1, 3)) == []


def test_the_time_of_the_first_message_from_an_offset_on_is_found(environment: Settings, single: str) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    kafka.send(environment, single, [Message(None, b"%d" % n) for n in range(3)])
    (stamped,) = [received.timestamp_millis for received in kafka.read(environment, single) if received.offset == 1]
    found = kafka.stamped_from(environment, single, {0: 1})
    assert found == {0: datetime.fromtimestamp(stamped / 1000, UTC)}
    assert found[0] > before
    assert kafka.stamped_from(environment, single, {0: 3}) == {}


def test_the_first_message_behind_what_retention_took_is_the_first_that_is_left(
    environment: Settings, single: str
) -> None:
    kafka.send(environment, single, [Message(None, b"gone")])
    kafka.delete_records(environment, single)
    kafka.send(environment, single, [Message(None, b"left")])
    assert kafka.stamped_from(environment, single, {0: 0}) == kafka.stamped_from(environment, single, {0: 1}) != {}


def test_offsets_that_retention_took_or_that_never_were_are_lost_data(environment: Settings, single: str) -> None:
    kafka.send(environment, single, [Message(None, b"old")] * 5)
    with pytest.raises(DataLossError, match="lost offsets of partition 0"):
        rows_of(environment, single, OffsetRange(0, 0, 9))
    kafka.delete_records(environment, single)
    kafka.send(environment, single, [Message(None, b"new")])
    with pytest.raises(DataLossError, match="lost offsets of partition 0"):
        rows_of(environment, single, OffsetRange(0, 3, 6))
    assert [row["offset"] for row in rows_of(environment, single, OffsetRange(0, 5, 6))] == [5]


def test_reading_ranges_from_a_broker_that_is_gone_names_it(environment: Settings, single: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kafka, "REQUEST_SECONDS", 1.0)
        gone = environment.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:9"})
        with pytest.raises(ServerUnavailableError, match=r"127\.0\.0\.1:9"):
            list(kafka.read_ranges(gone, single, [OffsetRange(0, 0, 1)]))
