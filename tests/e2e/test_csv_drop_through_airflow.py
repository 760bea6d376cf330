"""The real scheduler and triggerer wait for a file without a worker, and the Spark job brings it into the tables."""

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from lakehouse import csv_drop
from lakehouse.adapters.airflow import Airflow, Run
from lakehouse.audit import audit
from lakehouse.audit_files import FilesLedger
from lakehouse.settings import PROJECT_ROOT, Settings
from tests.files import away_from_midnight
from tests.shops import open_shop, wait_until

pytestmark = pytest.mark.integration

DAG = "event_transformation"
CAME = {"wait_for_files": "success", "files_of_days_before": "skipped"}


@pytest.fixture
def shop(full_stack: Settings, environment: Settings) -> Settings:
    return open_shop(environment, 1)


@pytest.fixture
def start(airflow: Airflow, shop: Settings) -> Iterator[Callable[..., Run]]:
    """Start a run with these params; one that still waits when the test ends is stopped."""
    started = list[Run]()

    def start(**conf: Any) -> Run:
        started.append(airflow.trigger(DAG, f"test-{uuid.uuid4()}", {"prefix": shop.prefix} | conf))
        return started[-1]

    yield start
    for run in started:
        airflow.stop(DAG, run.run_id)


def states(airflow: Airflow, run: Run) -> dict[str, str]:
    return {task.task_id: task.state for task in airflow.tasks(DAG, run.run_id)}


def is_waiting(airflow: Airflow, run: Run) -> bool:
    return states(airflow, run).get("wait_for_files") == "deferred"


def ended(airflow: Airflow, run: Run) -> dict[str, str]:
    assert airflow.wait(DAG, run.run_id, timeout_seconds=300).state == "success", airflow.failure(DAG, run.run_id)
    return states(airflow, run)


def drop(shop: Settings, day: date) -> None:
    csv_drop.drop(shop, PROJECT_ROOT / "data" / "example.csv", day)


def test_a_run_waits_for_the_days_file_and_brings_it_and_the_next_finds_nothing_new(
    airflow: Airflow, shop: Settings, start: Callable[..., Run]
) -> None:
    away_from_midnight()
    day = datetime.now(UTC).date()  # which a run takes that is told no date
    other_day = day - timedelta(days=30)
    in_vain = start(date=str(other_day))  # as that of the schedule does from 05:00 on
    wait_until(lambda: is_waiting(airflow, in_vain), "the first sensor to defer", 120)
    run = start()
    wait_until(lambda: is_waiting(airflow, run), "the sensor to defer", 120)
    drop(shop, day)
    assert ended(airflow, run) == CAME | {"event_transformation": "success"}
    report = audit(shop)
    assert report.gaps == ()
    assert report.files == FilesLedger(1, 12, 9, 3, 0)
    again = start(date=str(day), days_back=0)
    assert ended(airflow, again) == CAME | {"event_transformation": "skipped"}
    assert is_waiting(airflow, in_vain)
    drop(shop, other_day)
    assert ended(airflow, in_vain) == CAME | {"event_transformation": "success"}
    assert audit(shop).files == FilesLedger(2, 24, 18, 6, 0)


def test_of_two_runs_that_wait_for_the_same_files_one_brings_them(
    airflow: Airflow, shop: Settings, start: Callable[..., Run]
) -> None:
    day = datetime.now(UTC).date()
    runs = [start(date=str(day), days_back=0) for _ in range(2)]
    wait_until(lambda: all(is_waiting(airflow, run) for run in runs), "both sensors to defer", 120)
    drop(shop, day)
    loaded = [ended(airflow, run) for run in runs]
    assert sorted(one["event_transformation"] for one in loaded) == ["skipped", "success"]
    report = audit(shop)
    assert report.gaps == ()
    assert report.files == FilesLedger(1, 12, 9, 3, 0)
