"""The exporter on the real servers: what happens to a shop is what it tells, whatever else is away."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lakehouse import file_notifications, ingest, query_history, transform
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.airflow import Airflow
from lakehouse.adapters.catalog import Lake
from lakehouse.adapters.kafka import Message
from lakehouse.adapters.marts import PUBLISHED
from lakehouse.adapters.observed import Observed
from lakehouse.exporter.clients import Clients
from lakehouse.exporter.collectors import collectors, watching
from lakehouse.exporter.exposition import Exposition, families
from lakehouse.exporter.looks import Fact, Report, Watch
from lakehouse.exporter.metrics import (
    ARCHIVE_AGE_SECONDS,
    BACKUP_AGE_SECONDS,
    COLLECTOR_ERRORS,
    DAG_LAST_RUN_DURATION,
    DAG_LAST_RUN_FAILED,
    DAG_LAST_SUCCESS,
    DAG_LATE_RUNS,
    DAG_PAUSED,
    METRICS,
    SERVER_UP,
)
from lakehouse.exporter.servers import ASKED_ANEW, Dags, server
from lakehouse.settings import Settings
from lakehouse.tables import QUERY_HISTORY, USER_ACTIONS
from tests.shops import bad, good, open_shop, wait_until
from tests.stacks import free_url

pytestmark = pytest.mark.integration

EVENTS = "events.user_actions"
NOT_UTF8 = Message(b"1", b"\xff")
SCRAPE_SECONDS = 15
MOST_CPU_SECONDS = 0.1


@pytest.fixture(scope="module")
def shop(module_environment: Settings) -> Settings:
    """A shop with two topic partitions: 30 events, 3 messages that are no JSON and one that is no UTF-8 wait there."""
    settings = open_shop(module_environment, 2)
    messages = [*map(good, range(30)), *map(bad, range(3)), NOT_UTF8]
    kafka.send(settings, settings.user_actions_topic, messages)
    return settings


def look(settings: Settings, *names: str) -> dict[str, dict[tuple[str, ...], float]]:
    """What these collectors find, by metric without its prefix and labels; each must find its facts."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    with Clients(settings) as clients:
        watches = [Watch(collector) for collector in collectors(clients) if collector.name in names]
        assert len(watches) == len(names)
        for watch in watches:
            watch.look()
            report = watch.report()
            assert report.is_up, report.error
            for fact in report.all_facts():
                found.setdefault(fact.metric.name.removeprefix("lakehouse_"), {})[fact.labels] = fact.value
    return found


def test_what_waits_is_lag_and_an_ingest_ends_it(shop: Settings) -> None:
    before = look(shop, "streams", "rows", "tables")
    waiting = {labels: lag for labels, lag in before["kafka_lag_records"].items() if labels[0] == "user-actions"}
    assert sorted(waiting) == [("user-actions", "0"), ("user-actions", "1")]
    assert sum(waiting.values()) == 34
    oldest = max(before["kafka_lag_seconds"][labels] for labels in waiting)
    assert 0 < oldest < 600
    assert before["freshness_seconds"][EVENTS,] == pytest.approx(oldest, abs=1)
    assert before["freshness_target_seconds"][EVENTS,] == shop.exporter.freshness_target_seconds
    assert before["rows_published_total"][EVENTS,] == 0
    assert before["table_snapshots"][EVENTS,] == 0

    ingest.run(shop)
    after = look(shop, "streams", "positions", "rows", "tables", "small-files")
    assert {after["kafka_lag_records"][labels] for labels in waiting} == {0}
    assert {after["kafka_lag_seconds"][labels] for labels in waiting} == {0}
    assert after["freshness_seconds"][EVENTS,] == 0
    assert 0 <= after["position_age_seconds"][EVENTS,] < 60
    assert after["rows_published_total"][EVENTS,] == 30
    refused = {reason: rows for (table, reason), rows in after["rows_quarantined_total"].items() if table == EVENTS}
    assert {reason: rows for reason, rows in refused.items() if rows} == {"not_json": 3, "not_utf8": 1}
    assert refused["wrong_type"] == 0  # so that the first one shows
    assert after["rows_replayed_total"][EVENTS,] == 0
    assert after["table_files"][EVENTS,] >= 1
    assert after["table_bytes"][EVENTS,] > 0
    assert after["table_snapshots"][EVENTS,] >= 1
    assert (after["table_small_files"][EVENTS,], after["table_overdue_files"][EVENTS,]) == (0, 0)  # just written


def test_rows_are_counted_by_what_came_and_not_by_what_maintenance_leaves(shop: Settings) -> None:
    before = look(shop, "rows", "tables")
    name = f"lake.{shop.prefix}{EVENTS}"
    trino.query(shop.trino_as("admin"), f"ALTER TABLE {name} EXECUTE optimize")
    after = look(shop, "rows", "tables")
    assert after["table_files"][EVENTS,] == 1
    for counter in ("rows_published_total", "rows_quarantined_total", "rows_replayed_total"):
        assert after[counter] == before[counter]


def test_a_mart_is_as_old_as_what_waits_for_its_build(shop: Settings) -> None:
    transform.build(shop, "+fct_events_daily +fct_data_quality_daily")
    fresh = look(shop, "marts", "rows")
    assert fresh["freshness_seconds"]["marts.fct_events_daily",] == 0
    assert fresh["rows_late_total"][EVENTS,] == 30  # the events are of 2023, and came today

    kafka.send(shop, shop.user_actions_topic, [good(40)])
    ingested_from = time.time()
    ingest.run(shop)
    stale = look(shop, "marts", "rows")
    assert 0 < stale["freshness_seconds"]["marts.fct_events_daily",] <= time.time() - ingested_from
    assert stale["rows_published_total"][EVENTS,] == 31


def test_a_mart_that_was_never_published_is_as_old_as_its_first_version(shop: Settings) -> None:
    mart = Observed(shop).table("build.fct_data_quality_daily")
    assert mart
    published, built_at = mart.snapshot_by_name(PUBLISHED), mart.history()[0].timestamp_ms / 1000
    assert published
    mart.manage_snapshots().remove_tag(PUBLISHED).commit()
    try:
        waits = look(shop, "marts")["freshness_seconds"]["marts.fct_data_quality_daily",]
        assert waits == pytest.approx(time.time() - built_at, abs=5)
    finally:
        mart.refresh().manage_snapshots().create_tag(published.snapshot_id, PUBLISHED).commit()


def test_queries_that_nobody_collected_are_not_counted_as_published(environment: Settings) -> None:
    topic = f"{environment.prefix}queries"
    own = changed(environment, "kafka", trino_queries_topic=topic)
    Lake(own).apply(QUERY_HISTORY)
    kafka.create_topic(own, topic, 1)

    def send_dropped_and(messages: int) -> None:
        kafka.send(own, topic, [Message(None, b"no event")] * 3)
        kafka.delete_records(own, topic)
        kafka.send(own, topic, [Message(None, b"no event")] * messages)
        query_history.collect(own)

    try:
        send_dropped_and(2)  # Kafka never held the first three for us
        assert look(own, "rows")["rows_published_total"] == {("ops.query_history",): 2}
        send_dropped_and(1)
        assert look(own, "rows")["rows_published_total"] == {("ops.query_history",): 3}
    finally:
        kafka.delete_topic(own, topic)


def test_a_lost_event_is_a_gap_of_the_ledger_until_it_is_back(shop: Settings) -> None:
    found = look(shop, "ledger-events", "ledger-files", "ledger-ads")
    assert found["ledger_gaps"] == {("kafka",): 0, ("csv",): 0, ("aggregate",): 0, ("ads",): 0}
    assert all(age < 60 for age in found["ledger_audit_age_seconds"].values())

    admin, name = shop.trino_as("admin"), f"lake.{shop.prefix}{EVENTS}"
    snapshot_id = Lake(shop).load(USER_ACTIONS).metadata.current_snapshot_id
    trino.query(admin, f"DELETE FROM {name} WHERE user_id = 'user_7'")
    assert look(shop, "ledger-events")["ledger_gaps"]["kafka",] == 1
    trino.query(admin, f"ALTER TABLE {name} EXECUTE rollback_to_snapshot({snapshot_id})")
    assert look(shop, "ledger-events")["ledger_gaps"]["kafka",] == 0


def test_a_topic_of_announced_files_that_is_gone_is_a_gap_once_one_was_announced(environment: Settings) -> None:
    topic = open_shop(environment, 1).file_notifications_topic
    assert "ledger_gaps" not in look(environment, "ledger-files")  # nobody has announced anything yet
    kafka.create_topic(environment, topic, 1)
    kafka.send(environment, topic, [NOT_UTF8])
    file_notifications.run(environment)
    assert look(environment, "ledger-files")["ledger_gaps"] == {("files",): 0}
    kafka.delete_topic(environment, topic)
    wait_until(lambda: look(environment, "ledger-files")["ledger_gaps"] == {("files",): 1}, "no gap", 30)
    kafka.create_topic(environment, topic, 1)
    assert look(environment, "ledger-files")["ledger_gaps"] == {("files",): 0}


def test_an_environment_that_was_not_made_has_no_rows_and_no_error(environment: Settings) -> None:
    found = look(
        environment,
        *("streams", "announcements", "positions", "marts", "rows", "files", "ads", "tables", "archive"),
        *("ledger-events", "ledger-files", "ledger-ads", "small-files"),
    )
    assert {name for name in found if not name.startswith("exporter_")} == set()


def test_a_dag_run_of_this_environment_is_told_and_no_other_one(full_stack: Settings, environment: Settings) -> None:
    settings = environment.model_copy(update={"airflow": full_stack.airflow})
    dag_id, run_id = "ingest_user_actions", f"exporter-{uuid.uuid4()}"
    assert "dag_last_run_failed" not in look(settings, "dags")
    with Airflow(settings.airflow) as airflow:
        airflow.trigger(dag_id, run_id, {"prefix": settings.prefix})
        airflow.stop(dag_id, run_id)
    found = look(settings, "dags")
    assert found["dag_last_run_failed"] == {(dag_id,): 1}
    assert "dag_last_success_timestamp_seconds" not in found
    assert found["dag_late_runs"][dag_id,] == 0
    assert set(found["dag_paused"].values()) <= {0, 1}


def test_a_run_that_was_deleted_is_forgotten_within_the_hour(full_stack: Settings, environment: Settings) -> None:
    settings = environment.model_copy(update={"airflow": full_stack.airflow})
    dag_id, run_id = "ingest_user_actions", f"exporter-{uuid.uuid4()}"
    with Clients(settings) as clients:
        clients.airflow.trigger(dag_id, run_id, {"prefix": settings.prefix})
        clients.airflow.stop(dag_id, run_id)
        dags = Dags(clients)
        assert Fact(DAG_LAST_RUN_FAILED, 1, (dag_id,)) in list(dags())
        assert clients.airflow._request("DELETE", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}").is_success
        assert Fact(DAG_LAST_RUN_FAILED, 1, (dag_id,)) in list(dags())
        dags._asked_at -= ASKED_ANEW
        assert not [fact for fact in dags() if fact.metric is DAG_LAST_RUN_FAILED]


def test_each_part_of_airflow_is_told(full_stack: Settings) -> None:
    parts = ("airflow", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")
    up = {(part,): 1 for part in parts}
    # A single look may fall into a moment in which a busy Airflow answers nobody.
    wait_until(lambda: look(full_stack, "server-airflow")["server_up"] == up, "not every part is up", 30)


def test_trino_is_up_as_soon_as_the_file_that_its_certificate_needs_is_there(stack: Settings, tmp_path: Path) -> None:
    fresh = stack.model_copy(update={"home": tmp_path})
    with Clients(fresh) as clients:
        assert list(server(clients, "trino")) == [Fact(SERVER_UP, 0, ("trino",))]
        fresh.own_ca_file.parent.mkdir()
        fresh.own_ca_file.write_bytes(stack.own_ca_file.read_bytes())
        assert Fact(SERVER_UP, 1, ("trino",)) in list(server(clients, "trino"))


@contextmanager
def deaf() -> Generator[int]:
    """A port where somebody takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield listening.getsockname()[1]


def settled(settings: Settings) -> list[Report]:
    with watching(settings) as watches:
        assert watches.wait_until_settled(60)
        return watches.reports()


def changed(settings: Settings, group: str, **values: object) -> Settings:
    return settings.model_copy(update={group: getattr(settings, group).model_copy(update=values)})


def test_a_server_that_is_away_or_never_answers_costs_its_own_facts_alone(shop: Settings) -> None:
    with deaf() as port:
        broken = changed(shop, "airflow", url="http://127.0.0.1:1")
        broken = changed(broken, "trino", host="127.0.0.1", port=port)
        broken = changed(broken, "exporter", audit_timeout_seconds=5.0)
        reports = {report.collector: report for report in settled(broken)}
    facts = {(fact.metric.name, fact.labels): fact.value for report in reports.values() for fact in report.all_facts()}
    servers = {labels[0]: value for (name, labels), value in facts.items() if name == SERVER_UP.name}
    assert servers == {"airflow": 0, "trino": 0, "catalog": 1, "kafka": 1, "minio": 1, "postgres": 1}
    assert not reports["dags"].is_up
    assert not reports["ledger-events"].is_up
    assert reports["dags"].error is not None
    assert "Airflow" in reports["dags"].error
    assert facts[COLLECTOR_ERRORS.name, ("ledger-events",)] == 1
    assert ("lakehouse_rows_published_total", (EVENTS,)) in facts


def test_a_bucket_that_is_not_there_costs_its_own_facts_alone(stack: Settings) -> None:
    broken = changed(stack, "s3", ads_bucket="not-there")
    with Clients(broken) as clients:
        watches = [Watch(collector) for collector in collectors(clients) if collector.name.startswith("bucket-")]
        for watch in watches:
            watch.look()
    reports = [watch.report() for watch in watches]
    assert len(reports) == 5
    assert [report.collector for report in reports if not report.is_up] == ["bucket-not-there"]
    counted = {fact.labels[0] for report in reports for fact in report.facts}
    assert {stack.s3.warehouse_bucket, stack.s3.file_drop_bucket} <= counted


def test_each_metric_is_of_the_catalogue_and_each_of_the_catalogue_is_told(shop: Settings) -> None:
    facts: list[Fact] = list(chain.from_iterable(report.all_facts() for report in settled(shop)))
    told = {family.name + ("_total" if family.type == "counter" else "") for family in families(facts)}
    # What this shop has not got: an archive, ad data, and, where Airflow does not run, DAGs.
    lacking = {ARCHIVE_AGE_SECONDS, BACKUP_AGE_SECONDS, DAG_LAST_RUN_DURATION, DAG_LAST_RUN_FAILED, DAG_LAST_SUCCESS}
    own = {"lakehouse_exporter_build_info", "lakehouse_exporter_scrape_cpu_seconds"}
    catalogue = {metric.name for metric in METRICS} - own
    assert told <= catalogue
    assert catalogue - told <= {metric.name for metric in {*lacking, DAG_LATE_RUNS, DAG_PAUSED}}


def test_a_warm_scrape_costs_less_than_a_tenth_of_a_second_of_cpu(shop: Settings) -> None:
    """All looks are counted, each as often as it falls to a scrape every 15 seconds, and so is the answer."""
    costs: dict[str, float] = {}
    with Clients(shop) as clients:
        watches = [Watch(collector) for collector in collectors(clients)]
        for watch in watches:
            watch.look()
        for watch in watches:
            began = time.process_time()
            watch.look()
            used = time.process_time() - began
            costs[watch.collector.name] = used * SCRAPE_SECONDS / watch.collector.every_seconds
    rarely = dict.fromkeys(("refresh_seconds", "tables_seconds", "audit_seconds", "listing_seconds"), 3600.0)
    with watching(changed(shop, "exporter", **rarely)) as watches:
        assert watches.wait_until_settled(60)
        costs["answer"] = cost_of_an_answer(Exposition(watches))
    assert sum(costs.values()) < MOST_CPU_SECONDS, costs


def cost_of_an_answer(exposition: Exposition) -> float:
    """CPU time of the second of two answers, in seconds."""
    environ: dict[str, object] = {"PATH_INFO": "/metrics"}
    setup_testing_defaults(environ)
    for _ in range(2):
        began = time.process_time()
        assert len(b"".join(exposition.answer(environ, lambda *_: print))) > 1000
    return time.process_time() - began


@contextmanager
def program(settings: Settings, url: str) -> Generator["subprocess.Popen[bytes]"]:
    environment = os.environ | {
        "LAKEHOUSE_PREFIX": settings.prefix,
        "LAKEHOUSE_EXPORTER__URL": url,
        "LAKEHOUSE_EXPORTER__REFRESH_SECONDS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # what Python itself keeps of a module is not meant
    }
    command = [sys.executable, "-m", "lakehouse.exporter"]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)  # a log in a file would be written
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def test_the_program_serves_until_sigterm_and_writes_nothing(shop: Settings) -> None:
    url = free_url()
    with program(shop, url) as running, httpx.Client(base_url=url, trust_env=False) as client:
        wait_until_ready(running, client)  # on some disks the first reader of a module's file writes when it was read
    with program(shop, url) as running, httpx.Client(base_url=url, trust_env=False) as client:
        wait_until_ready(running, client)
        assert client.get("/healthz").status_code == 200
        told = client.get("/metrics").text
        found = {family.name for family in text_string_to_metric_families(told)}
        assert {"lakehouse_kafka_lag_records", "lakehouse_rows_published"} <= found
        assert re.search(r'^lakehouse_exporter_collector_up\{collector="streams"\} 1\.0$', told, re.MULTILINE)
        assert written_by(running.pid) == 0
        began = time.monotonic()
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
        assert time.monotonic() - began < 10


def wait_until_ready(running: "subprocess.Popen[bytes]", client: httpx.Client) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if client.get("/readyz").status_code == 200:
                break
        except httpx.TransportError:
            pass
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)


def written_by(pid: int) -> int:
    """Bytes that a program has sent to a disk."""
    with open(f"/proc/{pid}/io", encoding="ascii") as counters:  # noqa: PTH123
        numbers: Mapping[str, str] = dict(line.split(": ") for line in counters.read().splitlines())
    return int(numbers["write_bytes"])
