"""What every DAG of the project must be like."""

import importlib.machinery
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

DAGS = Path(__file__).resolve().parents[2] / "dags"
HELPERS = {"lakehouse_command"}
DAG_IDS = sorted({path.stem for path in DAGS.glob("*.py")} - HELPERS)


@pytest.fixture(params=DAG_IDS)
def dag(request: pytest.FixtureRequest, dagbag: Any) -> Any:
    return dagbag.dags[request.param]


def test_dag_files_import_without_errors_or_warnings(dagbag: Any) -> None:
    assert dagbag.import_errors == {}
    assert dagbag.captured_warnings == {}


def test_a_dag_is_named_after_its_file(dagbag: Any) -> None:
    assert sorted(dagbag.dags) == DAG_IDS
    assert {dag_id: Path(dag.fileloc).stem for dag_id, dag in dagbag.dags.items()} == {i: i for i in DAG_IDS}


def test_a_dag_shows_its_runbook(dag: Any) -> None:
    for part in ("**Upstream**", "**Downstream**", "**Why this schedule**", "**Safe to re-run?**", "**Triage**"):
        assert part in dag.doc_md
    assert dag.description


def test_a_dag_has_tags_and_never_catches_up_or_runs_beside_itself(dag: Any) -> None:
    assert dag.tags
    assert dag.catchup is False
    assert dag.max_active_runs == 1


def test_a_task_has_an_owner_retries_and_a_time_limit(dag: Any) -> None:
    assert dag.tasks
    for task in dag.tasks:
        assert task.owner == "data-platform"
        assert task.retries == 5
        assert task.retry_exponential_backoff
        assert task.execution_timeout is not None


def test_reading_the_dags_opens_no_connection_and_starts_no_program(
    dagbag: Any, read_dags: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a DAG file reaches out while it is read")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert read_dags().import_errors == {}


def test_a_dag_file_is_read_in_less_than_a_second(dagbag: Any, read_dags: Callable[[], Any]) -> None:
    for file in read_dags().dagbag_stats:
        assert file.duration.total_seconds() < 1, file.file


@pytest.mark.parametrize("name", sorted(path.stem for path in DAGS.glob("*.py")))
def test_no_file_beside_the_dags_shadows_a_library(name: str) -> None:
    elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != DAGS]
    assert importlib.machinery.PathFinder.find_spec(name, elsewhere) is None
    assert name not in sys.stdlib_module_names


def test_the_assets_tie_ingest_to_transform(dagbag: Any) -> None:
    (ingest,) = dagbag.dags["ingest_user_actions"].tasks
    transform = dagbag.dags["transform"]
    assert [asset.name for asset in ingest.outlets] == ["events.user_actions"]
    assert transform.timetable.asset_condition.name == "events.user_actions"
    (dbt_build,) = transform.tasks
    assert [asset.name for asset in dbt_build.outlets] == ["marts.fct_events_daily"]
    assert dbt_build.pool == "transform"
