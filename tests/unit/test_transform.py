"""What is read from dbt's answers, and what its process may see."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from lakehouse import transform
from lakehouse.publish import Mart
from lakehouse.settings import Settings
from lakehouse.transform import Failure, is_passing_fault, read_result

TRINO_SAYS_NO_TABLE = (
    'Database Error in model fct_events_daily TrinoUserError(type=USER_ERROR, name=TABLE_NOT_FOUND, message="line 1: '
    "Table 'lake.events.user_actions' does not exist\", query_id=20261121_150430_00047_gf6xn)"
)
CATALOG_AWAY = (
    "Database Error in model fct_events_daily TrinoExternalError(type=EXTERNAL, name=ICEBERG_CATALOG_ERROR, "
    'message="Failed to load table: user_actions in events namespace", query_id=20261121_150430_00048_gf6xn)'
)
TRINO_AWAY = (
    "Runtime Error HTTPConnectionPool(host='127.0.0.1', port=18080): Max retries exceeded with url: /v1/statement "
    "(Caused by NewConnectionError(\"HTTPConnection(host='127.0.0.1', port=18080): Failed to establish a new "
    'connection: [Errno 111] Connection refused"))'
)


def node(unique_id: str, status: str, message: str | None = None) -> dict[str, object]:
    return {"unique_id": unique_id, "status": status, "message": message}


def test_a_result_counts_models_and_tests_and_leaves_the_rest_out() -> None:
    result = read_result(
        {
            "elapsed_time": 12.345,
            "results": [
                node("model.lakehouse.stg_events__user_actions", "success", "CREATE VIEW"),
                node("model.lakehouse.fct_events_daily", "error", "Database Error\n  in model"),
                node("test.lakehouse.never_null_fct_events_daily_.a1b2", "skipped"),
                node("test.lakehouse.daily_counts_equal_the_events", "warn", "Got 1 result"),
                node("unit_test.lakehouse.fct_events_daily.an_empty_table", "pass"),
                node("exposure.lakehouse.shop_activity", "no-op", "NO-OP"),
            ],
        }
    )
    assert (result.models, result.tests, result.passed, result.skipped) == (2, 3, 3, 1)
    assert result.failed == (
        Failure(name="fct_events_daily", resource_type="model", message="Database Error in model"),
    )
    assert result.seconds == 12.3
    assert result.built == ("model.lakehouse.stg_events__user_actions",)


def test_a_failing_test_is_named_with_what_dbt_says() -> None:
    failing = node("test.lakehouse.daily_counts_equal_the_events", "fail", "Got 2 results, configured to fail if != 0")
    result = read_result({"elapsed_time": 1.0, "results": [failing]})
    assert transform.describe(result.failed) == (
        "dbt: 1 failed; test daily_counts_equal_the_events: Got 2 results, configured to fail if != 0"
    )


def test_the_tables_of_a_project_are_known_with_what_they_are_made_of_and_the_marts_are_those_in_build() -> None:
    def model(name: str, schema: str, materialized: str, *parents: str) -> dict[str, object]:
        return {
            "resource_type": "model",
            "schema": schema,
            "alias": name,
            "description": "What users did.\nOne row a day.",
            "columns": {"event_date": {"description": "UTC date."}, "event_count": {"description": ""}},
            "config": {"materialized": materialized},
            "depends_on": {"nodes": list(parents)},
        }

    nodes = {
        "stg": model("stg_events", "test_staging", "view", "source.lakehouse.events"),
        "sessions": model("int_sessions", "test_intermediate", "incremental", "stg"),
        "latest": model("int_latest", "test_intermediate", "view", "sessions"),
        "mart": model("fct_events_daily", "test_build", "incremental", "latest", "stg"),
        "test.lakehouse.never_null": model("never_null", "test_build", "test", "mart") | {"resource_type": "test"},
    }
    mart = Mart("fct_events_daily", "What users did. One row a day.", {"event_date": "UTC date.", "event_count": ""})
    assert transform.read_models({"nodes": nodes}, "test_build") == {
        "mart": transform.Model(name="fct_events_daily", made_of=frozenset({"sessions"}), mart=mart),
        "sessions": transform.Model(name="int_sessions", made_of=frozenset(), mart=None),
    }


def test_the_last_build_is_told_and_what_else_dbt_did_is_not(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert transform.last_build(settings) is None
    results: dict[str, object] = {
        "metadata": {"generated_at": "2026-11-20T12:00:00.000000Z"},
        "args": {"which": "build"},
        "elapsed_time": 1.0,
        "results": [node("test.lakehouse.never_null", "fail", "Got 1 result")],
    }
    target = transform.target_directory(settings)
    target.mkdir(parents=True)
    (target / "run_results.json").write_text(json.dumps(results))
    last = transform.last_build(settings)
    assert last is not None
    assert last.ended_at == datetime(2026, 11, 20, 12, tzinfo=UTC)
    assert [failure.name for failure in last.failed] == ["never_null"]

    (target / "run_results.json").write_text(json.dumps(results | {"args": {"which": "generate"}}))
    assert transform.last_build(settings) is None


def test_of_many_failures_the_first_five_are_named() -> None:
    results = [node(f"model.lakehouse.m{number}", "error", "Database Error") for number in range(1, 8)]
    told = transform.describe(read_result({"elapsed_time": 1.0, "results": results}).failed)
    assert told.startswith("dbt: 7 failed; model m1: Database Error; ")
    assert told.endswith("; model m5: Database Error; and 2 more")


@pytest.mark.parametrize(
    ("message", "passing"),
    [
        (TRINO_AWAY, True),
        (CATALOG_AWAY, True),
        ("TrinoInternalError(type=INTERNAL_ERROR, name=SERVER_STARTING_UP, message=…)", True),
        ("error 503: service unavailable", True),
        ("error 500: b'java.lang.IllegalStateException: authenticators were not loaded", True),  # Trino, starting
        (TRINO_SAYS_NO_TABLE, False),
        ("TrinoQueryError(type=INSUFFICIENT_RESOURCES, name=EXCEEDED_LOCAL_MEMORY_LIMIT, message=…)", False),
        ("Got 2 results, configured to fail if != 0", False),
        ("Compilation Error in model fct_events_daily", False),
    ],
)
def test_only_faults_that_pass_by_themselves_are_retried(message: str, passing: bool) -> None:
    assert is_passing_fault(message) is passing


def test_dbt_sees_the_settings_and_nothing_of_the_callers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/elsewhere.pem")
    monkeypatch.setenv("DBT_PROFILE", "elsewhere")
    seen = transform.environment(Settings(home=tmp_path, prefix="test_ab12_"))
    assert "REQUESTS_CA_BUNDLE" not in seen
    assert "DBT_PROFILE" not in seen
    assert seen["LAKEHOUSE_PREFIX"] == "test_ab12_"
    assert seen["DBT_SEND_ANONYMOUS_USAGE_STATS"] == "false"


def test_a_time_to_take_in_again_reaches_the_models_as_trino_writes_it() -> None:
    since = datetime(2026, 1, 30, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert transform._arrived(since) == {"LAKEHOUSE_ARRIVED_SINCE": "2026-01-29 23:30:00.000000 UTC"}
    assert transform._arrived(None) == {}


def test_environments_do_not_share_a_target_directory(tmp_path: Path) -> None:
    assert transform.target_directory(Settings(home=tmp_path, prefix="test_ab12_")) == tmp_path / "dbt" / "test_ab12"
    assert transform.target_directory(Settings(home=tmp_path, prefix="")) == tmp_path / "dbt" / "main"


def test_a_second_build_of_the_same_environment_waits_for_nothing_and_says_why(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    target = transform.target_directory(settings)
    target.mkdir(parents=True)
    with transform.only_one(target), pytest.raises(transform.TransientError, match="another dbt build is running"):
        transform.build(settings)
