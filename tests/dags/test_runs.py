"""The DAGs run in this process, with a small shell program in the place of `lakehouse`."""

import copy
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # Airflow's own modules use what others have deprecated


def run(dagbag: Any, dag_id: str, script: str, path: Path, patch: pytest.MonkeyPatch, **options: Any) -> Any:
    program = path / "lakehouse"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    patch.setenv("PATH", os.pathsep.join((str(path), os.environ["PATH"])))
    dag = copy.deepcopy(dagbag.dags[dag_id])  # a run leaves its conf in the params
    for task in dag.tasks:
        task.params = copy.deepcopy(task.params)  # which the copy of a task shares with the task
    dag.deadline = None  # Airflow would look for what only a scheduler has stored
    return dag.test(**options)


def updates(run_id: str) -> list[str]:
    return [name for name, _ in events(run_id)]


def events(run_id: str) -> list[tuple[str, Any]]:
    from airflow.models.asset import AssetEvent, AssetModel  # noqa: PLC0415
    from airflow.utils.session import create_session  # noqa: PLC0415
    from sqlalchemy import select  # noqa: PLC0415

    query = select(AssetModel.name, AssetEvent.extra).join(AssetEvent, AssetEvent.asset_id == AssetModel.id)
    with create_session() as session:
        return [tuple(row) for row in session.execute(query.where(AssetEvent.source_run_id == run_id))]


def test_an_ingest_with_new_rows_updates_its_asset(
    dagbag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """echo '{"published_rows": 3, "quarantined_rows": 0}'"""
    finished = run(dagbag, "ingest_user_actions", script, tmp_path, monkeypatch)
    assert finished.state == "success"
    assert updates(finished.run_id) == ["events.user_actions"]


@pytest.mark.parametrize("prefix", ["", "dev_"])
def test_an_asset_tells_in_which_environment_something_is_new(
    dagbag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    script = """echo '{"published_rows": 3, "quarantined_rows": 0}'"""
    finished = run(dagbag, "ingest_user_actions", script, tmp_path, monkeypatch, run_conf={"prefix": prefix or None})
    assert events(finished.run_id) == [("events.user_actions", {"prefixes": [prefix]})]


def test_an_ingest_without_new_rows_succeeds_and_updates_nothing(
    dagbag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """echo '{"published_rows": 0, "quarantined_rows": 0}'"""
    finished = run(dagbag, "ingest_user_actions", script, tmp_path, monkeypatch)
    assert finished.state == "success"
    assert updates(finished.run_id) == []


def test_a_transform_that_fails_updates_nothing(dagbag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = run(dagbag, "transform", "exit 1", tmp_path, monkeypatch)
    assert finished.state == "failed"
    assert updates(finished.run_id) == []


@pytest.mark.parametrize(
    ("options", "called_with"),
    [
        ({}, "ingest run --output json --until=2026-01-30T00:05:00+00:00 "),
        ({"run_conf": {"until": "2026-01-29"}}, "ingest run --output json --until=2026-01-29 "),
        ({"run_conf": {"prefix": "dev_"}}, "ingest run --output json --until=2026-01-30T00:05:00+00:00 dev_"),
    ],
)
def test_an_ingest_reads_to_the_end_of_its_interval_unless_it_is_told_otherwise(
    dagbag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], called_with: str
) -> None:
    monkeypatch.delenv("LAKEHOUSE_PREFIX", raising=False)
    script = f"""echo "$* $LAKEHOUSE_PREFIX" > {tmp_path}/call; echo '{{"published_rows": 1, "quarantined_rows": 0}}'"""
    moment = datetime(2026, 1, 30, 0, 5, tzinfo=UTC)
    finished = run(dagbag, "ingest_user_actions", script, tmp_path, monkeypatch, logical_date=moment, **options)
    assert finished.state == "success"
    assert (tmp_path / "call").read_text() == f"{called_with}\n"


def test_a_transform_takes_what_arrived_and_only_what_is_asked_for_beside(
    dagbag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"""echo "$*" > {tmp_path}/call; echo '{{}}'"""
    assert run(dagbag, "transform", script, tmp_path, monkeypatch).state == "success"
    assert (tmp_path / "call").read_text() == "transform run --output json\n"
    conf = {"select": "+fct_events_daily", "since": "2026-01-30", "full_refresh": True}
    assert run(dagbag, "transform", script, tmp_path, monkeypatch, run_conf=conf).state == "success"
    wanted = "transform run --output json --select=+fct_events_daily --since=2026-01-30 --full-refresh\n"
    assert (tmp_path / "call").read_text() == wanted


@pytest.mark.parametrize(
    ("dag_id", "done", "nothing", "asset"),
    [
        (
            "file_notifications",
            """{"announced": 1, "refused": 0, "done": 0, "failed": {}, "replaced": 0}""",
            """{"announced": 0, "refused": 0, "done": 0, "failed": {}, "replaced": 0}""",
            "reporting.file_aggregates",
        ),
        ("maintain_tables", """{"actions": [{"table": "t"}]}""", """{"actions": []}""", "ops.maintenance_runs"),
        (
            "archive_events",
            """{"archived": [{"date": "2026-01-30"}], "withdrawn": []}""",
            """{"archived": [], "withdrawn": []}""",
            "events.user_actions_archive",
        ),
    ],
)
def test_a_run_wakes_others_only_when_it_did_something(
    dagbag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dag_id: str, done: str, nothing: str, asset: str
) -> None:
    for result, updated in ((done, [asset]), (nothing, [])):
        finished = run(dagbag, dag_id, f"echo '{result}'", tmp_path, monkeypatch)
        assert finished.state == "success"
        assert updates(finished.run_id) == updated


@pytest.mark.parametrize(
    ("conf", "called_with"),
    [
        ({}, "csv run --output json --date=2026-01-30 \n"),
        (
            {"date": "2026-01-28", "days_back": 0, "prefix": "dev_"},
            "csv run --output json --date=2026-01-28 --days-back=0 dev_\n",
        ),
    ],
)
def test_files_are_those_of_the_runs_date_unless_it_is_told_otherwise(
    dagbag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conf: dict[str, Any], called_with: str
) -> None:
    monkeypatch.delenv("LAKEHOUSE_PREFIX", raising=False)
    counts = """{"published_rows": 1, "quarantined_rows": 0, "withdrawn_rows": 0}"""
    script = f"""echo "$* $LAKEHOUSE_PREFIX" > {tmp_path}/call; echo '{counts}'"""
    options = {"logical_date": datetime(2026, 1, 30, 5, tzinfo=UTC), "mark_success_pattern": "wait_for_files"}
    finished = run(dagbag, "event_transformation", script, tmp_path, monkeypatch, run_conf=conf, **options)
    assert finished.state == "success"
    assert (tmp_path / "call").read_text() == called_with
    assert updates(finished.run_id) == ["events.user_actions"]


def test_when_no_file_came_the_run_fails_and_files_of_the_days_before_come_all_the_same(
    dagbag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowSensorTimeout  # noqa: PLC0415

    def nothing_came(*_: object, **__: object) -> None:
        raise AirflowSensorTimeout("no CSV file came")

    monkeypatch.delenv("LAKEHOUSE_PREFIX", raising=False)
    monkeypatch.setattr(type(dagbag.dags["event_transformation"].get_task("wait_for_files")), "execute", nothing_came)
    counts = """{"published_rows": 1, "quarantined_rows": 0, "withdrawn_rows": 0}"""
    script = f"""echo "$*" >> {tmp_path}/call; echo '{counts}'"""
    options = {"logical_date": datetime(2026, 1, 31, 5, tzinfo=UTC)}
    finished = run(dagbag, "event_transformation", script, tmp_path, monkeypatch, **options)
    assert finished.state == "failed"
    assert (tmp_path / "call").read_text() == "csv run --output json --date=2026-01-31\n"
    assert updates(finished.run_id) == ["events.user_actions"]


def test_when_no_file_came_in_time_the_error_says_where_none_came(dagbag: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import AirflowSensorTimeout  # noqa: PLC0415

    monkeypatch.delenv("LAKEHOUSE_PREFIX", raising=False)
    dag = dagbag.dags["event_transformation"]
    wait = copy.deepcopy(dag.get_task("wait_for_files"))
    wait.run_date = "2026-01-30"
    context = {"dag": dag, "params": {"date": None, "prefix": None}}
    told = "no CSV file came to s3://user-events/year=2026/month=01/day=30/[*].csv within 5 hours"
    with pytest.raises(AirflowSensorTimeout, match=told):
        wait.resume_execution("__fail__", {"error": "Trigger timeout"}, context)
    context["params"] = {"date": "2026-01-28", "prefix": "dev_"}
    with pytest.raises(AirflowSensorTimeout, match="s3://user-events/dev_year=2026/month=01/day=28/"):
        wait.resume_execution("__fail__", {"error": "Trigger timeout"}, context)


@pytest.mark.parametrize(
    ("dag_id", "answer", "updated"),
    [
        ("api-load", '{"records": 3, "recovered": [], "merged_rows": 0}', ["ads.impressions"]),
        ("api-load", '{"records": 0, "recovered": ["a run"], "merged_rows": 0}', ["ads.impressions"]),
        ("api-load", '{"records": 0, "recovered": [], "merged_rows": 0}', []),
        ("archive_ads", '{"archived": [{"rows": 3}], "abandoned": []}', ["ads.impressions_archive"]),
        ("archive_ads", '{"archived": [], "abandoned": [], "due": [{"rows": 3}]}', []),
    ],
)
def test_ads_that_came_or_moved_update_their_asset(
    dagbag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dag_id: str, answer: str, updated: list[str]
) -> None:
    finished = run(dagbag, dag_id, f"echo '{answer}'", tmp_path, monkeypatch)
    assert finished.state == "success"
    assert updates(finished.run_id) == updated


def test_a_load_of_ads_asks_for_the_interval_of_its_params(
    dagbag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    script = (
        f"""echo "$* $LAKEHOUSE_ADS__ACCOUNT" > {told}; echo '{{"records": 1, "recovered": [], "merged_rows": 0}}'"""
    )
    conf = {"from": "2023-10-23T00:00:00Z", "until": "2023-10-24T00:00:00Z", "account": "other"}
    assert run(dagbag, "api-load", script, tmp_path, monkeypatch, run_conf=conf).state == "success"
    assert told.read_text().split() == [
        *("ads", "load", "--output", "json"),
        "--from=2023-10-23T00:00:00Z",
        "--until=2023-10-24T00:00:00Z",
        "other",
    ]
