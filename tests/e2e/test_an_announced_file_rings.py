"""The real Airflow hears an announcement: the doorbell rings, a run takes the file up, and bad bytes end nothing."""

import secrets
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient

from lakehouse import announce, audit_notifications
from lakehouse.adapters import kafka
from lakehouse.adapters.airflow import Airflow
from lakehouse.adapters.file_store import FileStore, ListedFile
from lakehouse.adapters.kafka import Message
from lakehouse.announce import Announced
from lakehouse.settings import Settings
from tests.files import HEADER
from tests.shops import wait_until

pytestmark = pytest.mark.integration

DAG = "file_notifications"
WAIT_SECONDS = 180


@pytest.fixture
def own(full_stack: Settings) -> Settings:
    """The environment that Airflow itself works in: the doorbell hangs there and nowhere else."""
    return full_stack


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file without lines, of a day of long ago, so that it changes no number of anybody's.

    It stays in the bucket: a day of which a file is gone could not be computed when another one comes.
    """
    day = date(2020, 1, 1) + timedelta(days=secrets.randbelow(1000))
    path = tmp_path / f"test-{secrets.token_hex(8)}-{day}.csv"
    path.write_text(f"sold_at,{HEADER}\n")
    return path


def rung(airflow: Airflow) -> set[str]:
    query: dict[str, str | int | bool] = {"run_type": "asset_triggered", "limit": 100, "order_by": "-id"}
    runs: list[dict[str, Any]] = airflow._send("GET", f"/api/v2/dags/{DAG}/dagRuns", query=query)["dag_runs"]
    return {run["dag_run_id"] for run in runs}


def listens(settings: Settings) -> bool:
    """Whether the doorbell has partitions to listen to; what was sent before its group did is never heard."""
    group = f"{settings.prefix}file-doorbell"
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    found = admin.describe_consumer_groups([group])[group].result(30)
    return found.state == ConsumerGroupState.STABLE and any(
        member.assignment and member.assignment.topic_partitions for member in found.members
    )


def status(settings: Settings, announced: Announced) -> str | None:
    files: list[ListedFile] = FileStore(settings).files(None, "sales", None, 1000)
    return next((one.status for one in files if one.version == announced.version), None)


def test_an_announced_file_wakes_a_run_that_takes_it_up_whatever_came_before(own: Settings, file: Path) -> None:
    wait_until(lambda: listens(own), "nobody listens to the doorbell", WAIT_SECONDS)
    with Airflow(own.airflow) as airflow:
        before = rung(airflow)
        # No UTF-8: the run sets it aside, and the doorbell goes on ringing.
        kafka.send(own, own.file_notifications_topic, [Message(b"test", b"\xff\x00 not a notification")])
        wait_until(lambda: bool(rung(airflow) - before), "the doorbell did not ring", WAIT_SECONDS)
        (announced,) = announce.announce(own, [file], "sales")
        wait_until(lambda: status(own, announced) == "done", "no run took the file up", WAIT_SECONDS)
        assert audit_notifications.audit(own).ok
