"""What people are told when a task fails or a run is late; the channels end in a mail and a web server of the test."""

import asyncio
import importlib
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lakehouse.settings import PROJECT_ROOT
from tests.sinks import Sinks, listening

RUN_ID = "scheduled__2026-01-31T00:05:00+00:00"
RUN_URL = "http://localhost:8080/dags/transform/runs/scheduled__2026-01-31T00%3A05%3A00%2B00%3A00"
FAILURE = {
    "ti": SimpleNamespace(dag_id="transform", task_id="dbt_build", run_id=RUN_ID),
    "exception": RuntimeError("lakehouse transform run ended with 1: <model> broke"),
}


def lateness(run_type: str = "scheduled", state: str = "running") -> dict[str, Any]:
    run = {"dag_id": "transform", "dag_run_id": RUN_ID, "run_type": run_type, "state": state}
    return {"dag_run": run, "deadline": {"deadline_time": "2026-01-31T01:05:00Z"}}


@pytest.fixture
def alerts(airflow: None) -> Any:
    return importlib.import_module("alerts")


@pytest.fixture
def sinks() -> Iterator[Sinks]:
    with listening() as found:
        yield found


@pytest.fixture
def connected(sinks: Sinks, monkeypatch: pytest.MonkeyPatch) -> Sinks:
    """All three channels, by Connections of the environment."""
    for connection in sinks.connections():
        name = connection.pop("connection_id")
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
    return sinks


def test_a_failure_goes_to_every_channel_with_the_way_to_its_run_and_its_runbook(
    alerts: Any, connected: Sinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_RUNBOOKS_URL", "https://example.com/docs/operations.md")
    alerts.task_failed(FAILURE)
    runbook = "https://example.com/docs/operations.md#transform"
    (mail,) = connected.mails
    assert mail["Subject"] == f"transform: task dbt_build failed in run {RUN_ID}"
    assert mail["To"] == "on-call@example.com"
    (part,) = [part for part in mail.walk() if part.get_content_type() == "text/html"]
    shown = part.get_content()
    assert "&lt;model&gt; broke" in shown
    assert f'href="{RUN_URL}"' in shown
    assert f'href="{runbook}"' in shown
    (slack_path, slack), (pagerduty_path, pagerduty) = connected.posts
    assert slack_path == "/slack/T0/B0"
    assert slack["text"].splitlines() == [
        f"transform: task dbt_build failed in run {RUN_ID}",
        "lakehouse transform run ended with 1: &lt;model&gt; broke",
        f"Run: {RUN_URL}",
        f"Runbook: {runbook}",
    ]
    assert pagerduty_path == "/v2/enqueue"
    assert (pagerduty["routing_key"], pagerduty["event_action"]) == ("key-1", "trigger")
    assert pagerduty["dedup_key"] == "transform failed"
    assert pagerduty["payload"]["severity"] == "error"
    assert pagerduty["payload"]["custom_details"]["runbook"] == runbook


def test_only_channels_that_have_a_connection_are_told(
    alerts: Any, sinks: Sinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slack,) = [one for one in sinks.connections() if one.pop("connection_id") == "alerts_slack"]
    monkeypatch.setenv("AIRFLOW_CONN_ALERTS_SLACK", json.dumps(slack))
    alerts.task_failed(FAILURE)
    assert [path for path, _ in sinks.posts] == ["/slack/T0/B0"]
    assert sinks.mails == []


def test_without_any_connection_an_alert_is_a_line_of_the_log(alerts: Any, caplog: pytest.LogCaptureFixture) -> None:
    alerts.task_failed(FAILURE)
    assert f"transform: task dbt_build failed in run {RUN_ID}" in caplog.text
    assert f"Runbook: {(PROJECT_ROOT / 'docs' / 'operations.md').as_uri()}#transform" in caplog.text


def test_a_channel_that_is_down_keeps_no_other_from_hearing_of_it(alerts: Any, connected: Sinks) -> None:
    connected.status = 500
    with pytest.raises(ExceptionGroup) as raised:
        alerts.task_failed(FAILURE)
    assert len(raised.value.exceptions) == 2
    assert len(connected.mails) == 1
    assert {path for path, _ in connected.posts} == {"/slack/T0/B0", "/v2/enqueue"}


def test_a_missed_deadline_says_which_run_is_late_and_since_when(alerts: Any, connected: Sinks) -> None:
    asyncio.run(alerts.deadline_missed(lateness()))
    (mail,) = connected.mails
    assert mail["Subject"] == f"transform: run {RUN_ID} is running and was due at 2026-01-31T01:05:00Z"
    assert connected.posts[1][1]["dedup_key"] == "transform late"
    assert connected.posts[1][1]["payload"]["severity"] == "warning"


@pytest.mark.parametrize("late", [lateness(run_type="backfill"), lateness(state="failed")], ids=["backfill", "failed"])
def test_a_run_of_a_backfill_is_never_late_and_a_failed_one_was_told_already(
    alerts: Any, connected: Sinks, late: dict[str, Any]
) -> None:
    asyncio.run(alerts.deadline_missed(late))
    assert (connected.mails, connected.posts) == ([], [])
