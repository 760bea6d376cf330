"""The warehouse's bench: its histories, and the figures and words it makes of what it measured."""

import datetime as dt
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from bench import report, results
from bench.history import DAYS_LATE, Shop
from bench.warehouse import daily, ground, layout
from bench.warehouse.ground import Query
from bench.warehouse.report import BARS, parts, ratios
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_QUARANTINE

SHOP = Shop(dt.date(2023, 10, 23), 2_000)
COORDINATES = ("kafka_topic", "kafka_partition", "kafka_offset")


def offsets(rows: pa.Table) -> list[int]:
    return sorted(rows.column("kafka_offset").to_pylist())


def test_a_date_has_its_events_and_no_others() -> None:
    rows = SHOP.history(-1, 99)
    assert rows.schema == USER_ACTIONS.arrow_schema
    assert rows.num_rows == 2_000
    assert rows.column("event_date").unique().to_pylist() == [dt.date(2023, 10, 22)]
    moments = rows.column("event_datetime").to_pylist()
    assert moments == sorted(moments)
    assert {moment.date() for moment in moments} == {dt.date(2023, 10, 22)}


def test_the_same_day_has_the_same_events_in_every_history() -> None:
    again = Shop(dt.date(2023, 10, 23), 2_000)
    assert again.history(0, 0).equals(SHOP.history(0, 0))
    assert again.arrivals(5).equals(SHOP.arrivals(5))


def test_a_week_has_seen_nearly_all_who_ever_come() -> None:
    shop = Shop(dt.date(2023, 10, 23), 2_000, daily.users_of(2_000))
    week = pa.concat_tables(shop.history(day, 99) for day in range(7)).column("user_id").unique()
    assert 190 <= len(week) <= shop.users == 200


def test_what_arrives_day_by_day_is_the_history_that_is_made_at_once() -> None:
    by_day = pa.concat_tables(SHOP.arrivals(day) for day in range(7))
    at_once = pa.concat_tables(SHOP.history(day, 6) for day in range(1 - len(DAYS_LATE), 7))
    at_once = at_once.filter(pc.greater_equal(at_once.column("kafka_offset"), min(offsets(SHOP.arrivals(0)))))
    assert offsets(by_day) == offsets(at_once)


def test_no_two_messages_share_their_coordinates() -> None:
    pieces = [SHOP.arrivals(day).select(COORDINATES) for day in range(5)]
    pieces += [SHOP.refused(day).select(COORDINATES) for day in range(5)]
    rows = pa.concat_tables(pieces)
    assert rows.group_by(COORDINATES).aggregate([]).num_rows == rows.num_rows


def test_some_events_arrive_late_and_each_is_ingested_after_kafka_got_it() -> None:
    rows = SHOP.arrivals(3)
    dates = rows.column("event_date").to_pylist()
    assert 0.97 < dates.count(dt.date(2023, 10, 26)) / len(dates) < 1
    assert min(dates) < dt.date(2023, 10, 26) == max(dates)
    assert pc.all(pc.greater(rows.column("ingested_at"), rows.column("kafka_timestamp"))).as_py()
    assert {moment.hour for moment in rows.column("ingested_at").to_pylist()} == {0, 6, 12, 18}


def test_refused_messages_have_the_columns_of_quarantine() -> None:
    rows = SHOP.refused(0)
    assert rows.schema == USER_ACTIONS_QUARANTINE.arrow_schema
    assert rows.num_rows == 10


def test_the_last_day_brought_is_yesterday() -> None:
    anchor = daily.anchor_of(dt.date(2023, 10, 23), rounds=3)
    last = 3 + daily.WARM_UP_ROUNDS
    assert Shop(anchor, 1).date_of(last) == dt.date(2023, 10, 22)


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ('/* {"app": "dbt", "node_id": "model.lakehouse.dim_users"} */ create table x', "model.lakehouse.dim_users"),
        ('/* {"app": "dbt", "connection_name": "list_lake"} */ select 1', ""),
        ("/* no json */ select 1", ""),
        ("/* 42 */ select 1", ""),
        ("select 1", ""),
    ],
)
def test_a_query_tells_which_node_it_is_of(text: str, node: str) -> None:
    assert ground.node_of(text) == node


def test_a_build_is_accounted_for_node_by_node() -> None:
    queries = [Query("model.l.a", 100, 0.5), Query("model.l.a", 20, 0.25), Query("", 3, 0.125)]
    build = ground.account({"model.l.a": 1.5, "test.l.b.c0ffee": 0.2}, queries, 9.0, sent=200)
    assert (build.seconds, build.input_bytes, build.sent_bytes, build.queries) == (9.0, 123, 200, 3)
    assert build.nodes["model.l.a"] == {"seconds": 1.5, "input_bytes": 120, "cpu_seconds": 0.75, "queries": 2}
    assert build.nodes["test.l.b.c0ffee"] == {"seconds": 0.2, "input_bytes": 0, "cpu_seconds": 0, "queries": 0}
    assert build.nodes[""]["input_bytes"] == 3


STAMP: dict[str, Any] = {
    "measured_at": "2023-10-23T12:00:00Z",
    "commit": "abc1234",
    "airflow_running": False,
    "machine": {"cores": 2, "cpu": "a fast one", "memory_bytes": 24 * 2**30},
}


def build(seconds: float, input_bytes: int) -> dict[str, Any]:
    node = {"seconds": seconds / 2, "input_bytes": input_bytes, "cpu_seconds": 1.0, "queries": 2}
    nodes = {"model.lakehouse.fct_events_daily": node}
    figures = {"seconds": seconds, "input_bytes": input_bytes, "sent_bytes": 2 * input_bytes, "queries": 9}
    return figures | {"cpu_seconds": 1.0, "nodes": nodes}


def answer(rows: int, input_bytes: int) -> dict[str, Any]:
    return {"rows": rows, "input_bytes": input_bytes, "cpu_seconds": 0.25, "seconds": 0.5}


def everything() -> dict[str, Any]:
    """Results whose ratios are easy to reckon."""
    history = {"events": {"rows": 14_000, "files": 7, "file_bytes": 140_000}, "full": build(60, 9_000)}
    short = history | {"builds": [build(10, 1_000), build(20, 1_000), build(10, 2_000)]}
    long = history | {"builds": [build(11, 1_100), build(21, 1_000), build(20, 2_400)]}
    table = {
        "written": {"rows": 8, "files": 4, "file_bytes": 80},
        "compacted": {"rows": 8, "files": 1, "file_bytes": 64},
    }
    table |= {"compaction_seconds": 1.0}
    ours = table | {
        "sort_by": ["user_id"],
        "users": [answer(500, 1_000_000), answer(5, 200_000)],
        "sent_bytes": 1_500_000,
    }
    other = table | {"sort_by": [], "users": [answer(500, 20_000_000), answer(5, 10_000_000)], "sent_bytes": 31_000_000}
    question = {"plan_changed": False, "seconds_before": 1.0, "seconds_after": 1.1}
    return {
        "daily": STAMP
        | {
            "days": [7, 365],
            "events_per_day": 2_000,
            "users": 200,
            "rounds": 3,
            "histories": {"7": short, "365": long},
        },
        "user_history": STAMP
        | {"days": 2, "events_per_day": 4, "ranks": [0, 5000]}
        | {"tables": {"user_actions": ours, "user_actions_unsorted": other}},
        "analyze": STAMP | {"analyze_seconds": 3.0, "queries": {"a question": question}},
    }


def test_the_ratios_are_medians_over_rounds_and_sums_over_users() -> None:
    assert ratios(everything()) == {
        "dbt_day_seconds_365_vs_7": 1.1,
        "dbt_day_bytes_365_vs_7": 1.1,
        "user_history_bytes_sorted_vs_unsorted": 0.04,
    }
    assert ratios({}) == dict.fromkeys(bar.key for bar in BARS)


def test_a_node_that_a_build_lacks_counts_as_nothing() -> None:
    without = build(10, 1_000) | {"nodes": {}}
    assert daily.medians([build(10, 500), without, without])["model.lakehouse.fct_events_daily"]["input_bytes"] == 0


def test_the_warehouse_has_its_part_of_the_document() -> None:
    page = report.render({}, everything())
    assert "| `dbt_day_bytes_365_vs_7` | " in page
    assert "| ≤ 1.2 | ≤ 1.05 | 1.10 | must met |" in page
    assert "| ≤ 0.1 | ≤ 0.0333 | 0.040 | must met |" in page
    assert "| `fct_events_daily` | 5.00 | 10.00 | 1.0 | 1.1 | 1.10 |" in page
    assert "| 5,000 | 5 | 0.20 | 10.00 |" in page
    assert "| `user_actions_unsorted` | as they arrived | 4 → 1 | 10.00 → 8.00 | 1 | 30.0 | 31.0 | 0.50 |" in page
    assert "| a question | no | 1.00 | 1.10 |" in page


def test_what_was_not_measured_is_not_told() -> None:
    page = "\n\n".join(parts({}))
    assert page.count("not measured yet") == len(BARS)
    assert "### One" not in page


def test_the_kept_results_hold_their_ratios() -> None:
    kept = results.load(results_file := report.NOTES.parent / "results" / "warehouse.json")
    assert not results_file.exists() or kept["ratios"] == ratios(kept)


def test_the_unsorted_copy_differs_in_the_order_alone() -> None:
    for spec in (layout.UNSORTED, layout.UNSORTED_IN_SMALL_GROUPS):
        assert (spec.columns, spec.partition_by) == (USER_ACTIONS.columns, USER_ACTIONS.partition_by)
        assert spec.sort_by == ()
