"""The real scheduler runs every DAG, backfills a range, stops Spark with its run, and tells people what went wrong."""

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import Producer

from lakehouse import publish
from lakehouse.adapters import kafka
from lakehouse.adapters.airflow import Airflow, Run
from lakehouse.adapters.catalog import Lake
from lakehouse.adapters.postgres import connect
from lakehouse.archive import parts
from lakehouse.audit import audit
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS
from tests.clusters import is_at_a_task, standalone, wait_for
from tests.shops import event, good, open_shop, wait_until
from tests.sinks import Sinks, listening
from tests.stacks import has_ended, processes_with

pytestmark = pytest.mark.integration

LAKEHOUSE = str(Path(sys.executable).with_name("lakehouse"))
INGEST = "ingest_user_actions"
WAIT_SECONDS = 120
WOKEN_SECONDS = 600
"""Airflow makes a run for what woke a DAG when no other run of it is at work, such as the hourly build."""
STOP_SECONDS = 30
"""Airflow tells a task to end at its next heartbeat; some of them are allowed to pass on a busy machine."""


@pytest.fixture
def shop(full_stack: Settings, environment: Settings) -> Settings:
    return open_shop(environment, 2)


@pytest.fixture
def sinks(airflow: Airflow) -> Iterator[Sinks]:
    """All three channels, by Connections of the running Airflow; one that a person has made there is not touched."""
    with listening() as found:
        made = list[str]()
        try:
            for connection in found.connections():
                airflow._send("POST", "/api/v2/connections", body=connection)
                made.append(connection["connection_id"])
            yield found
        finally:
            for name in made:
                airflow._request("DELETE", f"/api/v2/connections/{name}")


def trigger(airflow: Airflow, dag_id: str, settings: Settings, **conf: Any) -> Run:
    return airflow.trigger(dag_id, f"test-{uuid.uuid4()}", {"prefix": settings.prefix} | conf)


def states(airflow: Airflow, run: Run, seconds: float = 600) -> tuple[str, list[str]]:
    """How a run ended, and its tasks."""
    ended = airflow.wait(run.dag_id, run.run_id, timeout_seconds=seconds)
    assert ended.state == "success", airflow.failure(run.dag_id, run.run_id)
    return ended.state, [task.state for task in airflow.tasks(run.dag_id, run.run_id)]


def send(settings: Settings, messages: int) -> None:
    kafka.send(settings, settings.user_actions_topic, [good(number) for number in range(messages)])


def rows(settings: Settings) -> int:
    return Lake(settings).load(USER_ACTIONS).scan().count()


@pytest.mark.timeout(1800)
def test_new_events_wake_the_models_and_the_tables_are_kept(airflow: Airflow, shop: Settings) -> None:
    send(shop, 20)
    ingest = trigger(airflow, INGEST, shop)
    assert states(airflow, ingest) == ("success", ["success"])
    assert rows(shop) == 20
    # The assets wake the DAGs in the environment that the news are of.
    transform = wait_for(lambda: caused(airflow, ingest, "transform"), WOKEN_SECONDS, 1)
    assert states(airflow, transform) == ("success", ["success"])
    (mart,) = [one for one in publish.status(shop) if one.mart == "fct_events_daily"]
    assert mart.rows == 1
    maintain = trigger(airflow, "maintain_tables", shop, tables=[USER_ACTIONS.identifier])
    assert states(airflow, maintain) == ("success", ["success"])  # a table that is new has no statistics
    archive = wait_for(lambda: caused(airflow, maintain, "archive_events"), WOKEN_SECONDS, 1)
    assert states(airflow, archive) == ("success", ["success"])
    assert [(str(part.date), part.rows) for part in parts(shop)] == [("2023-10-23", 20)]  # long past the policy
    # Nothing is left to do, and nobody is woken.
    assert states(airflow, trigger(airflow, "maintain_tables", shop, tables=[USER_ACTIONS.identifier]))[1] == [
        "skipped"
    ]
    assert states(airflow, trigger(airflow, "archive_events", shop, before="2023-10-24"))[1] == ["skipped"]
    collect = airflow.trigger("collect_queries", f"test-{uuid.uuid4()}")
    assert states(airflow, collect) == ("success", ["success"])


def caused(airflow: Airflow, run: Run, dag_id: str) -> Run | None:
    return next((one for one in airflow.runs_caused_by(run.dag_id, run.run_id) if one.dag_id == dag_id), None)


def test_a_backfill_cuts_a_backlog_by_the_times_of_its_messages_and_one_run_waits_for_the_other(
    airflow: Airflow, full_stack: Settings, environment: Settings
) -> None:
    shop = environment
    kafka.create_topic(shop, shop.user_actions_topic, 2, {"message.timestamp.type": "CreateTime"})
    open_shop(shop, 2)
    first, second = free_ticks(airflow)
    for moment, count in ((first - timedelta(minutes=1), 5), (first, 7), (second, 11)):
        send_stamped(shop, moment, count)
    conf = json.dumps({"prefix": shop.prefix})
    span = ("--from-date", first.isoformat(), "--to-date", second.isoformat())
    command = [LAKEHOUSE, "stack", "airflow", "backfill", "create", "--dag-id", INGEST, *span, "--dag-run-conf", conf]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {datetime.fromisoformat(run["logical_date"]): run for run in backfilled(airflow, shop)}
    assert sorted(runs) == [first, second]
    for run in runs.values():
        assert states(airflow, Run(INGEST, run["dag_run_id"], "queued")) == ("success", ["success"])
    report = audit(shop)
    assert report.ok, report.gaps
    assert sum(row.published_rows for row in report.ledger) == 12
    assert sum(row.lag_rows for row in report.ledger) == 11  # stamped at the end of the last interval
    results = [airflow.result(INGEST, run["dag_run_id"], "ingest") or {} for _, run in sorted(runs.items())]
    assert [one["published_rows"] for one in results] == [5, 7]


def free_ticks(airflow: Airflow) -> tuple[datetime, datetime]:
    """Two times of the schedule in a row, some hours ago, that have no run yet."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    first = now - timedelta(minutes=now.minute % 5, hours=3)
    while True:
        span = {"logical_date_gte": first.isoformat(), "logical_date_lte": (first + timedelta(minutes=5)).isoformat()}
        if not airflow._send("GET", f"/api/v2/dags/{INGEST}/dagRuns", query=span)["dag_runs"]:
            return first, first + timedelta(minutes=5)
        first -= timedelta(minutes=10)


def send_stamped(settings: Settings, moment: datetime, count: int) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for number in range(count):
        producer.produce(settings.user_actions_topic, event(f"user_{number}"), timestamp=int(moment.timestamp() * 1000))
    assert producer.flush(30) == 0


def backfilled(airflow: Airflow, settings: Settings) -> list[dict[str, Any]]:
    query: dict[str, str | int | bool] = {"run_type": "backfill", "limit": 100, "order_by": "-id"}
    runs = airflow._send("GET", f"/api/v2/dags/{INGEST}/dagRuns", query=query)["dag_runs"]
    return [run for run in runs if (run["conf"] or {}).get("prefix") == settings.prefix]


def test_a_failed_run_is_told_with_its_error_and_its_runbook(airflow: Airflow, sinks: Sinks) -> None:
    prefix = f"test_{uuid.uuid4().hex[:8]}_"
    run = airflow.trigger(INGEST, f"test-{uuid.uuid4()}", {"prefix": prefix})
    assert airflow.wait(INGEST, run.run_id, 300).state == "failed"
    (task,) = airflow.tasks(INGEST, run.run_id)
    assert task.try_number == 1  # nothing is there, and a retry would not change that
    wait_until(lambda: len(posts(sinks, run)) == 2 and mails(sinks, run), "an alert on every channel", 60)
    (mail,) = mails(sinks, run)
    assert mail["Subject"] == f"{INGEST}: task ingest failed in run {run.run_id}"
    by_path = dict(posts(sinks, run))
    text = by_path["/slack/T0/B0"]["text"]
    assert f"{prefix}user-actions" in text  # what the command said is missing
    assert f"/dags/{INGEST}/runs/{run.run_id}" in text
    assert text.endswith(f"docs/operations.md#{INGEST}")
    assert by_path["/v2/enqueue"]["payload"]["severity"] == "error"


def mails(sinks: Sinks, run: Run) -> list[EmailMessage]:
    """What was mailed of a run; what an earlier test woke may fail by now, since its environment is gone."""
    return [mail for mail in sinks.mails if run.run_id in mail["Subject"]]


def posts(sinks: Sinks, run: Run) -> list[tuple[str, Any]]:
    return [(path, body) for path, body in sinks.posts if run.run_id in json.dumps(body)]


@dataclass(frozen=True, slots=True)
class Workers:
    """Where Spark's tasks run.

    Attributes:
        conf: what the run is given to run them there.
        executors: the processes there that are not of the run's own environment.
    """

    conf: dict[str, str]
    executors: Callable[[], list[psutil.Process]]


@pytest.fixture(params=["on this machine", "on a cluster"])
def workers(request: pytest.FixtureRequest, full_stack: Settings, tmp_path: Path) -> Iterator[Workers]:
    if request.param == "on this machine":
        yield Workers({}, list)
        return
    with standalone(full_stack, tmp_path) as cluster:
        yield Workers(
            {"spark_master": cluster.master},
            lambda: [
                child for worker in cluster.workers for child in worker.children(recursive=True) if not has_ended(child)
            ],
        )


def test_a_run_that_is_late_is_told_and_stopping_it_ends_spark(
    airflow: Airflow, shop: Settings, sinks: Sinks, workers: Workers
) -> None:
    send(shop, 20_000)

    def alive() -> list[psutil.Process]:
        return [*processes_with("LAKEHOUSE_PREFIX", shop.prefix), *workers.executors()]

    def at_a_task() -> psutil.Process | None:
        return next((process for process in alive() if is_at_a_task(process)), None)

    run = trigger(airflow, INGEST, shop, **workers.conf)
    try:
        task = wait_for(at_a_task, pause_seconds=0.3)  # each look goes through every process of the machine
        task.suspend()  # so that the run can't end by itself
        assert any(map(is_java, alive()))
        pass_deadline(shop, run)
        wait_until(lambda: bool(mails(sinks, run)), "the alert of a missed deadline", WAIT_SECONDS)
        (mail,) = mails(sinks, run)
        assert mail["Subject"].startswith(f"{INGEST}: run {run.run_id} is running and was due at ")
        assert airflow.stop(INGEST, run.run_id).state == "failed"
        wait_until(lambda: not alive(), lambda: f"{alive()} to end", STOP_SECONDS)
    finally:
        airflow.stop(INGEST, run.run_id)
        for process in alive():
            with suppress(psutil.Error):
                process.kill()
    assert rows(shop) == 0
    time.sleep(5)  # a retry would have begun
    assert [task.state for task in airflow.tasks(INGEST, run.run_id)] == ["failed"]
    assert len(mails(sinks, run)) == 1  # who stopped it knows


def is_java(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return Path(process.exe()).name == "java"
    return False


def pass_deadline(settings: Settings, run: Run) -> None:
    """Let the run's deadline lie in the past."""
    with connect(settings, database="airflow") as connection:
        changed = connection.execute(
            "UPDATE deadline SET deadline_time = now() - interval '1 minute' FROM dag_run"
            " WHERE dag_run.id = deadline.dagrun_id AND dag_run.run_id = %s",
            (run.run_id,),
        ).rowcount
    assert changed == 1
