"""What the history keeps of an event as Trino sends it, and of one that is none."""

import json
from datetime import UTC, date, datetime
from typing import Any

import pytest

from lakehouse.query_history import read_event
from lakehouse.tables import QUERY_HISTORY

ARRIVED = datetime(2026, 11, 21, 23, 59, 59, tzinfo=UTC)
FROM_ELSEWHERE = {"kafka_topic", "kafka_partition", "kafka_offset", "kafka_timestamp", "collected_at"}


def event(**changed: Any) -> dict[str, Any]:
    """An event of Trino 476, cut down to what is read."""
    return {
        "metadata": {"queryId": "20261121_222205_00963_7nbxg", "query": "SELECT 1", "queryState": "FINISHED"},
        "statistics": {
            "cpuTime": 0.025,
            "wallTime": 0.911,
            "queuedTime": 0.006,
            "peakUserMemoryBytes": 749,
            "physicalInputBytes": 10,
            "physicalInputRows": 2,
            "writtenBytes": 5,
            "writtenRows": 1,
            "outputRows": 3,
        },
        "context": {
            "user": "analyst",
            "source": "trino-cli",
            "catalog": "lake",
            "schema": "marts",
            "resourceGroupId": ["all", "dashboards"],
            "queryType": "SELECT",
        },
        "createTime": "2026-11-21T23:22:24.620Z",
        "endTime": "2026-11-22T00:00:01.531Z",
    } | changed


def read(payload: Any) -> dict[str, Any]:
    return read_event(json.dumps({"eventPayload": payload}).encode(), ARRIVED)


def test_an_event_fills_every_column() -> None:
    row = read(event())
    assert row.keys() == {column.name for column in QUERY_HISTORY.columns} - FROM_ELSEWHERE
    assert row == {
        "query_id": "20261121_222205_00963_7nbxg",
        "state": "FINISHED",
        "trino_user": "analyst",
        "source": "trino-cli",
        "resource_group": "all.dashboards",
        "catalog_name": "lake",
        "schema_name": "marts",
        "query_type": "SELECT",
        "query": "SELECT 1",
        "error_type": None,
        "error_name": None,
        "error_message": None,
        "created_at": datetime(2026, 11, 21, 23, 22, 24, 620_000, tzinfo=UTC),
        "ended_at": datetime(2026, 11, 22, 0, 0, 1, 531_000, tzinfo=UTC),
        "ended_date": date(2026, 11, 22),
        "wall_seconds": 0.911,
        "queued_seconds": 0.006,
        "cpu_seconds": 0.025,
        "peak_memory_bytes": 749,
        "read_bytes": 10,
        "read_rows": 2,
        "written_bytes": 5,
        "written_rows": 1,
        "output_rows": 3,
        "problem": None,
    }


def test_a_failure_is_told_by_its_type_its_name_and_its_message() -> None:
    failure = {"errorCode": {"name": "TABLE_NOT_FOUND", "type": "USER_ERROR"}, "failureMessage": "no such table"}
    row = read(event(failureInfo=failure))
    assert (row["error_type"], row["error_name"], row["error_message"]) == (
        "USER_ERROR",
        "TABLE_NOT_FOUND",
        "no such table",
    )


def test_a_query_refused_before_it_had_a_group_or_a_session_is_read() -> None:
    row = read(event(context={"user": "analyst"}))
    assert (row["trino_user"], row["resource_group"], row["catalog_name"]) == ("analyst", None, None)
    assert row["problem"] is None


@pytest.mark.parametrize(
    "value",
    [None, b"", b"\xff", b"{", b"[]", b"7", b"{}", b'{"eventPayload": null}', b'{"eventPayload": {"metadata": {}}}'],
)
def test_what_is_no_event_becomes_a_row_with_its_problem_on_the_day_it_arrived(value: bytes | None) -> None:
    row = read_event(value, ARRIVED)
    assert row["problem"]
    assert {name for name, found in row.items() if found is not None} == {"problem", "ended_at", "ended_date"}
    assert (row["ended_at"], row["ended_date"]) == (ARRIVED, date(2026, 11, 21))


def test_an_event_with_a_broken_time_is_no_event() -> None:
    assert "ValueError" in read(event(endTime="yesterday"))["problem"]
