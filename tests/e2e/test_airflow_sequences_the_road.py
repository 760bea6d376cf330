"""New rows wake the models: the asset that an ingest updates starts the DAG `transform`, by the real scheduler."""

import time
import uuid
from typing import Any

import pytest

from lakehouse.adapters.airflow import Airflow
from lakehouse.adapters.catalog import Lake
from lakehouse.settings import Settings
from lakehouse.tables import ALL

pytestmark = pytest.mark.integration

WAIT_SECONDS = 120


def test_an_update_of_the_events_asset_starts_the_models(full_stack: Settings) -> None:
    lake = Lake(full_stack)
    for spec in ALL:
        lake.apply(spec)
    with Airflow(full_stack.airflow) as airflow:
        event = update_asset(airflow, "events.user_actions")
        run_id = caused_run(airflow, event["id"])
        assert airflow.wait("transform", run_id, timeout_seconds=600).state == "success", airflow.failure(
            "transform", run_id
        )


def update_asset(airflow: Airflow, name: str) -> dict[str, Any]:
    (asset,) = [a for a in airflow._send("GET", "/api/v2/assets")["assets"] if a["name"] == name]
    body = {"asset_id": asset["id"], "extra": {"test": uuid.uuid4().hex}}
    return airflow._send("POST", "/api/v2/assets/events", body=body)


def caused_run(airflow: Airflow, event_id: int) -> str:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        runs = airflow._send("GET", "/api/v2/dags/transform/dagRuns", query={"order_by": "-id", "limit": 5})["dag_runs"]
        for run in runs:
            if run["run_type"] == "asset_triggered":
                path = f"/api/v2/dags/transform/dagRuns/{run['dag_run_id']}/upstreamAssetEvents"
                if any(event["id"] == event_id for event in airflow._send("GET", path)["asset_events"]):
                    return run["dag_run_id"]
        time.sleep(1)
    raise AssertionError(f"no run of transform came of asset event {event_id} within {WAIT_SECONDS} s")
