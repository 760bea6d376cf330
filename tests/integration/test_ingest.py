"""Ingest on real servers: every message in one table, once, wherever a run dies."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from lakehouse import ingest
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.catalog import Lake
from lakehouse.adapters.kafka import Message
from lakehouse.audit import audit
from lakehouse.environment import apply
from lakehouse.errors import DataLossError, TerminalError
from lakehouse.ingest import IngestResult
from lakehouse.ledger import POSITION, TOPIC_ID, offsets_text, position
from lakehouse.settings import Settings
from lakehouse.tables import INGESTED, USER_ACTIONS, USER_ACTIONS_QUARANTINE, TableSpec
from tests.shops import bad, good, open_shop, wait_until

pytestmark = pytest.mark.integration

PARTITIONS = 3
LAKEHOUSE = str(Path(sys.executable).with_name("lakehouse"))

# Kills the whole process with SIGKILL when it is about to commit for the n-th time, counted from 0.
INGEST_AND_DIE = """
import os, signal, sys
from lakehouse import ingest
from lakehouse.adapters.catalog import Lake
from lakehouse.settings import get_settings
from lakehouse.stack import artifacts

append = Lake.append
left = int(sys.argv[1])

def append_or_die(*arguments, **options):
    global left
    if any(key.startswith("lakehouse.position.") for key in options["properties"]):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
    return append(*arguments, **options)

Lake.append = append_or_die
ingest.run(artifacts.with_local_spark(get_settings()))
"""


@pytest.fixture
def shop(environment: Settings) -> Settings:
    """An environment with its tables and an empty topic."""
    return open_shop(environment, PARTITIONS)


def send(settings: Settings, *messages: Message) -> None:
    kafka.send(settings, settings.user_actions_topic, messages)


def with_ingest(settings: Settings, **update: int) -> Settings:
    return settings.model_copy(update={"ingest": settings.ingest.model_copy(update=update)})


def held(settings: Settings, spec: TableSpec, *columns: str) -> list[tuple[Any, ...]]:
    rows = Lake(settings).load(spec).scan(selected_fields=columns).to_arrow()
    return sorted(zip(*(rows[column].to_pylist() for column in columns), strict=True))


def users(settings: Settings) -> list[str]:
    return [user for (user,) in held(settings, USER_ACTIONS, "user_id")]


def refused(settings: Settings) -> list[bytes]:
    return [raw for (raw,) in held(settings, USER_ACTIONS_QUARANTINE, "raw")]


def assert_every_offset_is_in_one_table_once(settings: Settings) -> None:
    coordinates = [
        coordinate for spec in INGESTED for coordinate in held(settings, spec, "kafka_partition", "kafka_offset")
    ]
    available = kafka.offsets(settings, settings.user_actions_topic)
    assert sorted(coordinates) == [(p, o) for p, (start, end) in available.items() for o in range(start, end)]
    lake = Lake(settings)
    assert position(lake.load(USER_ACTIONS).properties, settings.user_actions_topic) == {
        p: end for p, (_, end) in available.items()
    }


def counts(result: IngestResult) -> tuple[int, int, int, int]:
    return result.published_rows, result.quarantined_rows, result.absent_offsets, result.commits


def environment_of(settings: Settings) -> dict[str, str]:
    return os.environ | {"LAKEHOUSE_PREFIX": settings.prefix, "LAKEHOUSE_HOME": str(settings.home)}


def ingest_and_die(settings: Settings, commits: int) -> None:
    """Run an ingest in a process of its own that is killed before the commit after so many."""
    done = subprocess.run(
        [sys.executable, "-c", INGEST_AND_DIE, str(commits)],
        env=environment_of(settings),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == -9, done.stdout + done.stderr


def test_good_and_bad_messages_are_counted_and_a_second_run_adds_nothing(shop: Settings) -> None:
    send(shop, *(good(n) for n in range(7)), good(7, day=22), bad(0), bad(1), Message(b"t", None))
    steps: list[tuple[int, int]] = []
    result = ingest.run(shop, lambda done, to_do: steps.append((done, to_do)))
    assert counts(result) == (8, 3, 0, 1)
    assert list(result.position) == [shop.user_actions_topic]
    assert result.quarantined_by_reason == {"not_json": 2, "tombstone": 1}
    assert steps == sorted(steps)
    assert steps[-1] == (11, 11)
    assert users(shop) == [f"user_{n}" for n in range(8)]
    assert Counter(map(str, (day for (day,) in held(shop, USER_ACTIONS, "event_date")))) == {
        "2023-10-22": 1,
        "2023-10-23": 7,
    }
    assert_every_offset_is_in_one_table_once(shop)

    again = ingest.run(shop)
    assert counts(again) == (0, 0, 0, 0)
    assert again.position == result.position
    assert_every_offset_is_in_one_table_once(shop)

    catalog, prefix = shop.catalog.name, shop.prefix
    found = trino.query(
        shop.trino_as("admin"),
        f'select user_id, kafka_partition, kafka_offset from {catalog}."{prefix}events".user_actions',
    )
    assert sorted(found) == held(shop, USER_ACTIONS, "user_id", "kafka_partition", "kafka_offset")
    assert trino.query(
        shop.trino_as("admin"),
        f'select reason, raw, kafka_headers is null from {catalog}."{prefix}quarantine".user_actions order by 1, 2',
    ) == [("not_json", b"bad 0", True), ("not_json", b"bad 1", True), ("tombstone", None, True)]

    bounds = Lake(shop).load(USER_ACTIONS_QUARANTINE).inspect.files().to_pylist()
    named = {number for file in bounds for number, _ in file["lower_bounds"] or ()}
    assert not named & {2, 4, 9, 10, 14, 15, 16}  # what may name a person, headers included


def test_a_topic_of_bad_messages_only_moves_the_position_of_both_tables(shop: Settings) -> None:
    send(shop, *(bad(n) for n in range(5)))
    assert counts(ingest.run(shop)) == (0, 5, 0, 1)
    lake = Lake(shop)
    topic = shop.user_actions_topic
    assert position(lake.load(USER_ACTIONS).properties, topic) == position(
        lake.load(USER_ACTIONS_QUARANTINE).properties, topic
    )
    assert list(lake.load(USER_ACTIONS).scan().plan_files()) == []
    assert counts(ingest.run(shop)) == (0, 0, 0, 0)
    assert_every_offset_is_in_one_table_once(shop)


def test_an_empty_topic_is_no_work_and_a_missing_one_an_error(shop: Settings) -> None:
    assert counts(ingest.run(shop)) == (0, 0, 0, 0)
    kafka.delete_topic(shop, shop.user_actions_topic)
    with pytest.raises(TerminalError, match="there is no such topic"):
        ingest.run(shop)


def test_a_message_of_50_megabytes_is_set_aside_byte_for_byte(shop: Settings) -> None:
    huge = os.urandom(50 * 1024 * 1024)
    send(shop, good(1), Message(b"1", huge), good(2))
    result = ingest.run(shop)
    assert counts(result) == (2, 1, 0, 1)
    assert result.quarantined_by_reason == {"too_large": 1}
    assert refused(shop) == [huge]
    assert_every_offset_is_in_one_table_once(shop)


def test_a_large_lag_is_taken_in_several_commits(shop: Settings) -> None:
    send(shop, *(good(n) for n in range(20)), *(bad(n) for n in range(5)))
    steps: list[tuple[int, int]] = []
    result = ingest.run(
        with_ingest(shop, rows_per_run=10, rows_per_task=4), lambda done, to_do: steps.append((done, to_do))
    )
    assert counts(result) == (20, 5, 0, 3)
    assert steps == sorted(steps)
    assert {(10, 25), (20, 25), (25, 25)} <= set(steps)
    assert_every_offset_is_in_one_table_once(shop)


def test_messages_of_an_aborted_transaction_are_no_messages(shop: Settings) -> None:
    producer = Producer(
        {"bootstrap.servers": shop.kafka.bootstrap_servers, "transactional.id": f"{shop.prefix}transactions"}
    )
    producer.init_transactions(60)
    for number, finish in enumerate((producer.commit_transaction, producer.abort_transaction)):
        producer.begin_transaction()
        message = good(number)
        producer.produce(shop.user_actions_topic, message.value, partition=0)
        producer.flush(60)
        finish(60)
    # Kafka confirms the end of a transaction before it writes the marker of it.
    wait_until(lambda: kafka.offsets(shop, shop.user_actions_topic)[0] == (0, 4), "both markers are not there", 30)
    result = ingest.run(shop)
    assert users(shop) == ["user_0"]
    assert counts(result) == (1, 0, 3, 1)  # the aborted message and the marker at the end of each transaction
    assert result.position[shop.user_actions_topic][0] == 4


def test_a_kill_before_any_commit_loses_and_doubles_nothing(shop: Settings) -> None:
    send(shop, *(good(n) for n in range(6)), *(bad(n) for n in range(4)))
    ingest_and_die(shop, commits=0)
    assert users(shop) == []
    assert refused(shop) == []
    assert counts(ingest.run(shop)) == (6, 4, 0, 1)
    assert_every_offset_is_in_one_table_once(shop)


def test_a_kill_between_the_commits_loses_and_doubles_nothing(shop: Settings) -> None:
    send(shop, *(good(n) for n in range(6)), *(bad(n) for n in range(4)))
    ingest_and_die(shop, commits=1)
    assert users(shop) == []
    assert refused(shop) == [b"bad %d" % n for n in range(4)]
    send(shop, good(6), bad(4))  # meanwhile more came
    result = ingest.run(with_ingest(shop, rows_per_run=7))
    assert counts(result) == (7, 1, 0, 2)
    assert refused(shop) == [b"bad %d" % n for n in range(5)]
    assert_every_offset_is_in_one_table_once(shop)


def test_a_kill_between_the_commits_on_a_topic_partition_added_later_doubles_nothing(environment: Settings) -> None:
    shop, topic = environment, environment.user_actions_topic
    kafka.create_topic(shop, topic, 1)
    apply(shop)
    send(shop, *(good(n) for n in range(10)))
    assert ingest.run(shop).position == {shop.user_actions_topic: {0: 10}}
    admin = AdminClient({"bootstrap.servers": shop.kafka.bootstrap_servers})
    admin.create_partitions([NewPartitions(topic, 2)])[topic].result(30)
    wait_until(lambda: len(kafka.offsets(shop, topic)) == 2, "the topic has its second partition", 30)
    send(shop, *(bad(n) for n in range(20)))
    assert kafka.offsets(shop, topic)[1][1] > 0
    ingest_and_die(shop, commits=1)
    assert counts(ingest.run(shop)) == (0, 0, 0, 1)
    assert_every_offset_is_in_one_table_once(shop)


def test_several_topics_feed_one_table_each_with_a_position_of_its_own(shop: Settings) -> None:
    first = shop.user_actions_topic
    both = shop.model_copy(update={"kafka": shop.kafka.model_copy(update={"more_user_actions_topics": " returns , "})})
    second = f"{shop.prefix}returns"
    kafka.create_topic(shop, second, 1)
    try:
        send(shop, *(good(n) for n in range(3)), bad(0))
        kafka.send(shop, second, [good(10), bad(1), good(11)])
        steps: list[tuple[int, int]] = []
        result = ingest.run(both, lambda done, to_do: steps.append((done, to_do)))
        assert counts(result) == (5, 2, 0, 2)
        assert list(result.position) == [first, second]
        assert result.position[second] == {0: 3}
        assert steps == sorted(steps)
        assert steps[-1] == (7, 7)
        assert counts(ingest.run(both)) == (0, 0, 0, 0)
        kafka.send(shop, second, [good(12)])
        assert counts(ingest.run(both)) == (1, 0, 0, 1)
        topics = Counter(topic for (topic,) in held(shop, USER_ACTIONS, "kafka_topic"))
        assert topics == {first: 3, second: 3}
        assert audit(shop).gaps == ()
    finally:
        kafka.delete_topic(shop, second)


def test_two_ingesters_at_once_write_every_row_once(shop: Settings) -> None:
    send(shop, *(good(n) for n in range(30)), *(bad(n) for n in range(10)))
    runs = [
        subprocess.Popen(
            [LAKEHOUSE, "ingest", "run", "--output", "json"],
            env=environment_of(shop),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    published = 0
    for process in runs:
        stdout, stderr = process.communicate(timeout=180)
        if process.returncode == 0:
            published += json.loads(stdout)["published_rows"]
        else:
            assert process.returncode == 1, stderr
            assert "another run was quicker" in stderr
    assert published == 30
    assert_every_offset_is_in_one_table_once(shop)


def test_messages_that_retention_took_before_they_were_read_are_an_error(shop: Settings) -> None:
    _stand_at(shop, {0: 0, 1: 0, 2: 0})
    send(shop, *(good(n) for n in range(30)))
    topic = shop.user_actions_topic
    kafka.delete_records(shop, topic)
    end = kafka.offsets(shop, topic)[0][1]
    assert end > 0
    with pytest.raises(DataLossError, match=rf"offsets 0 to {end - 1} of {topic}/0"):
        ingest.run(shop)


def test_a_topic_that_was_made_anew_is_an_error(shop: Settings) -> None:
    topic = shop.user_actions_topic
    _stand_at(shop, {0: 5, 1: 0, 2: 0})
    with pytest.raises(DataLossError, match=rf"read {topic}/0 up to offset 5 and Kafka ends at 0"):
        ingest.run(shop)
    kafka.delete_topic(shop, topic)
    wait_until(lambda: _is_gone(shop), "the topic is gone", 30)
    kafka.create_topic(shop, topic, 2)
    _stand_at(shop, {0: 0, 1: 0, 2: 7}, before={0: 5, 1: 0, 2: 0})
    with pytest.raises(DataLossError, match=rf"{topic} has no partition 2.*up to offset 7"):
        ingest.run(shop)


def test_a_topic_that_was_made_anew_and_grew_past_the_position_is_an_error(shop: Settings) -> None:
    topic = shop.user_actions_topic
    send(shop, *[Message(b"user", b"not json")] * 5)
    _stand_at(shop, {0: 0, 1: 0, 2: 0}, facts={TOPIC_ID + topic: "the id before"})
    with pytest.raises(DataLossError, match=rf"{topic} was made anew: .* id the id before"):
        ingest.run(shop)
    gaps = [gap for gap in audit(shop).gaps if gap.kind == "kafka"]
    assert [(gap.where, gap.rows) for gap in gaps] == [(topic, 0)]


def _stand_at(
    settings: Settings,
    after: dict[int, int],
    before: dict[int, int] | None = None,
    facts: dict[str, str] | None = None,
) -> None:
    key = POSITION + settings.user_actions_topic
    Lake(settings).append(
        USER_ACTIONS,
        [],
        expected={key: offsets_text(before) if before else None},
        properties={key: offsets_text(after)} | (facts or {}),
        run_id=str(after),
        summary={},
    )


def _is_gone(settings: Settings) -> bool:
    try:
        kafka.offsets(settings, settings.user_actions_topic)
    except TerminalError:
        return True
    return False
