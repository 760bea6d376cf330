"""The DAGs run in this process, with a small shell program in the place of `lakehouse`."""

import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # Airflow's own modules use what others have deprecated


def run(dagbag: Any, dag_id: str, script: str, path: Path, patch: pytest.MonkeyPatch) -> Any:
    program = path / "lakehouse"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    patch.setenv("PATH", os.pathsep.join((str(path), os.environ["PATH"])))
    return dagbag.dags[dag_id].test()


def updates(run_id: str) -> list[str]:
    from airflow.models.asset import AssetEvent, AssetModel  # noqa: PLC0415
    from airflow.utils.session import create_session  # noqa: PLC0415
    from sqlalchemy import select  # noqa: PLC0415

    query = select(AssetModel.name).join(AssetEvent, AssetEvent.asset_id == AssetModel.id)
    with create_session() as session:
        return list(session.scalars(query.where(AssetEvent.source_run_id == run_id)))


def test_an_ingest_with_new_rows_updates_its_asset(
    dagbag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """echo '{"published_rows": 3, "quarantined_rows": 0}'"""
    finished = run(dagbag, "ingest_user_actions", script, tmp_path, monkeypatch)
    assert finished.state == "success"
    assert updates(finished.run_id) == ["events.user_actions"]


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
