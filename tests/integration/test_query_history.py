"""Each query that Trino ran becomes one row of `ops.query_history`, whoever collects, and however often."""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lakehouse import query_history
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.catalog import Lake
from lakehouse.adapters.kafka import Message
from lakehouse.errors import FenceError, TerminalError
from lakehouse.query_history import Collected
from lakehouse.settings import Settings
from lakehouse.tables import QUERY_HISTORY
from tests.shops import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def history(environment: Settings) -> Settings:
    """An environment with an empty history of the server that all share."""
    Lake(environment).apply(QUERY_HISTORY)
    return environment


@pytest.fixture
def own_topic(environment: Settings) -> Iterator[Settings]:
    """An environment whose history comes from a topic of its own, to which no Trino sends."""
    topic = f"{environment.prefix}queries"
    own = environment.model_copy(update={"kafka": environment.kafka.model_copy(update={"trino_queries_topic": topic})})
    kafka.create_topic(own, topic, 1)
    Lake(own).apply(QUERY_HISTORY)
    yield own
    kafka.delete_topic(own, topic)


def held(settings: Settings, mark: str = "") -> list[dict[str, Any]]:
    rows = Lake(settings).load(QUERY_HISTORY).scan().to_arrow().to_pylist()
    return [row for row in rows if mark in (row["query"] or "")]


def collected(settings: Settings, mark: str, count: int) -> list[dict[str, Any]]:
    """Collect until the queries with this mark are there; Trino tells of a query soon after it has ended."""

    def arrived() -> bool:
        query_history.collect(settings)
        return len(held(settings, mark)) >= count

    wait_until(arrived, "the queries are not in the history", 60)
    return sorted(held(settings, mark), key=lambda row: row["created_at"])


def test_a_query_and_a_failed_one_are_told_with_who_asked_and_what_it_cost(history: Settings) -> None:
    mark = secrets.token_hex(8)
    prefix = history.prefix
    table = f"lake.{prefix}ops.query_history"
    busy = "UNNEST(sequence(1, 10000)) AS a (n) CROSS JOIN UNNEST(sequence(1, 100)) AS b (m)"  # costs something
    trino.query(history.trino_as("transform"), f"SELECT count(DISTINCT n * m) FROM {busy} /* {mark} */")
    with pytest.raises(TerminalError, match="PERMISSION_DENIED"):
        trino.query(history.trino_as("analyst"), f"SELECT count(*) FROM {table} /* {mark} */")
    rows = f"SELECT * FROM (VALUES 1, 2) AS t (n) /* {mark} */"
    trino.query(history.trino_as("admin"), f"CREATE TABLE lake.{prefix}ops.two AS {rows}")

    good, refused, written = collected(history, mark, 3)
    assert (good["trino_user"], good["state"], good["query_type"]) == ("transform", "FINISHED", "SELECT")
    assert (good["source"], good["resource_group"], good["output_rows"]) == ("lakehouse", "all.transform", 1)
    assert good["query"].endswith(f"/* {mark} */")
    assert good["error_name"] is good["problem"] is None
    assert 0 < good["cpu_seconds"] < 60
    assert good["queued_seconds"] <= good["wall_seconds"] < 60
    assert good["created_at"] < good["ended_at"] <= good["collected_at"]
    assert good["ended_at"].date() == good["ended_date"]
    assert (refused["trino_user"], refused["state"]) == ("analyst", "FAILED")
    assert (refused["error_type"], refused["error_name"]) == ("USER_ERROR", "PERMISSION_DENIED")
    assert "Access Denied" in refused["error_message"]
    assert (written["trino_user"], written["query_type"], written["written_rows"]) == ("admin", "INSERT", 2)
    assert written["written_bytes"] > 0
    found = trino.query(history.trino_as("admin"), f"SELECT trino_user FROM {table} WHERE query LIKE '%{mark}%'")
    assert sorted(found) == [("admin",), ("analyst",), ("transform",)]


def test_collecting_again_adds_nothing(own_topic: Settings) -> None:
    send(own_topic, 3)
    assert query_history.collect(own_topic) == Collected(rows=3, unreadable_rows=3, commits=1)
    assert query_history.collect(own_topic) == Collected()
    send(own_topic, 2)
    assert query_history.collect(own_topic) == Collected(rows=2, unreadable_rows=2, commits=1)
    assert offsets(own_topic) == [0, 1, 2, 3, 4]


def test_a_message_that_is_no_event_is_kept_as_a_row_that_says_so(own_topic: Settings) -> None:
    topic = own_topic.kafka.trino_queries_topic
    kafka.send(own_topic, topic, [Message(None, value) for value in (b"{", b"[]", b'{"eventPayload": {}}', None)])
    assert query_history.collect(own_topic).unreadable_rows == 4
    rows = sorted(held(own_topic), key=lambda row: row["kafka_offset"])
    assert [bool(row["problem"]) for row in rows] == [True] * 4
    assert all(row["ended_at"] == row["kafka_timestamp"] and row["query_id"] is None for row in rows)


def test_two_who_collect_at_once_add_each_query_once(own_topic: Settings) -> None:
    send(own_topic, 50)

    def collect() -> int:
        try:
            return query_history.collect(own_topic).rows
        except FenceError:
            return 0

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda _: collect(), range(4)))
    assert sum(counts) == 50
    assert offsets(own_topic) == list(range(50))


def test_a_large_backlog_comes_in_several_commits(own_topic: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_history, "ROWS_AT_ONCE", 20)
    send(own_topic, 50)
    assert query_history.collect(own_topic) == Collected(rows=50, unreadable_rows=50, commits=3)
    assert offsets(own_topic) == list(range(50))


def test_what_kafka_dropped_is_counted_and_collecting_goes_on(own_topic: Settings) -> None:
    send(own_topic, 3)
    query_history.collect(own_topic)
    send(own_topic, 2)
    kafka.delete_records(own_topic, own_topic.kafka.trino_queries_topic)
    send(own_topic, 2)
    assert query_history.collect(own_topic) == Collected(rows=2, unreadable_rows=2, lost_rows=2, commits=1)
    assert offsets(own_topic) == [0, 1, 2, 5, 6]
    assert query_history.collect(own_topic) == Collected()


def test_a_topic_that_was_made_anew_is_read_from_its_start(own_topic: Settings) -> None:
    topic = own_topic.kafka.trino_queries_topic
    send(own_topic, 3)
    query_history.collect(own_topic)
    kafka.delete_topic(own_topic, topic)
    kafka.create_topic(own_topic, topic, 1)
    send(own_topic, 2)
    assert query_history.collect(own_topic).rows == 2
    sources = sorted((row["kafka_topic"], row["kafka_offset"]) for row in held(own_topic))
    assert sources == [(topic, 0), (topic, 1), (topic, 2), (f"{topic}#2", 0), (f"{topic}#2", 1)]


def send(settings: Settings, count: int) -> None:
    kafka.send(settings, settings.kafka.trino_queries_topic, [Message(None, b"no event")] * count)


def offsets(settings: Settings) -> list[int]:
    return sorted(row["kafka_offset"] for row in held(settings))
