"""The real scheduler and triggerer wait for a file without a worker, and the Spark job brings it into the tables."""

import uuid
from datetime import UTC, datetime

import pytest

from lakehouse import csv_drop
from lakehouse.adapters.airflow import Airflow, Run
from lakehouse.audit import audit
from lakehouse.audit_files import FilesLedger
from lakehouse.settings import PROJECT_ROOT, Settings
from tests.shops import open_shop, wait_until

pytestmark = pytest.mark.integration

DAG = "event_transformation"


@pytest.fixture
def shop(full_stack: Settings, environment: Settings) -> Settings:
    return open_shop(environment, 1)


def states(airflow: Airflow, run: Run) -> dict[str, str]:
    return {task.task_id: task.state for task in airflow.tasks(DAG, run.run_id)}


def ended(airflow: Airflow, run: Run) -> dict[str, str]:
    assert airflow.wait(DAG, run.run_id, timeout_seconds=300).state == "success", airflow.failure(DAG, run.run_id)
    return states(airflow, run)


def test_a_run_waits_for_the_days_file_and_brings_it_and_the_next_finds_nothing_new(
    airflow: Airflow, shop: Settings
) -> None:
    day = datetime.now(UTC).date()  # which a run takes that is told no date
    run = airflow.trigger(DAG, f"test-{uuid.uuid4()}", {"prefix": shop.prefix})
    wait_until(lambda: states(airflow, run).get("wait_for_files") == "deferred", "the sensor to defer", 120)
    csv_drop.drop(shop, PROJECT_ROOT / "data" / "example.csv", day)
    came = {"wait_for_files": "success", "files_of_days_before": "skipped"}
    assert ended(airflow, run) == came | {"event_transformation": "success"}
    report = audit(shop)
    assert report.gaps == ()
    assert report.files == FilesLedger(1, 12, 9, 3, 0)
    conf = {"prefix": shop.prefix, "date": str(day), "days_back": 0}
    again = airflow.trigger(DAG, f"test-{uuid.uuid4()}", conf)
    assert ended(airflow, again) == came | {"event_transformation": "skipped"}
