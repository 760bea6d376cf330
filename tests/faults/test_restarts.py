"""Servers killed and brought back by their supervisor while an ingest is at work, on a stack of the tests' own."""

import os
import secrets
import signal
import time
from collections.abc import Iterator

import pytest

from lakehouse import query_history
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.catalog import Lake
from lakehouse.errors import LakehouseError
from lakehouse.stack import artifacts
from lakehouse.stack.launch import NAME_MARK
from lakehouse.tables import QUERY_HISTORY
from tests.faults.harness import Shop, opened
from tests.shops import wait_until
from tests.stacks import Stack, own_stack

pytestmark = [pytest.mark.integration, pytest.mark.faults]

KILLED_AT = {
    "kafka": "planned:hold:2",
    "minio": "mid-file:hold:8",
    "catalog": "events-sending:hold:2",
    "postgres": "quarantine-sending:hold:2",
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A second stack, because these servers die; with Trino, which the audit asks."""
    with own_stack(tmp_path_factory.mktemp("servers") / "home") as stack:
        stack.run("up", "--profile", "core")
        yield stack


@pytest.fixture
def shop(servers: Stack) -> Iterator[Shop]:
    settings = artifacts.with_local_spark(servers.settings())
    settings = settings.model_copy(update={"prefix": f"test_{secrets.token_hex(4)}_"})
    with opened(settings, servers.environment) as shop:
        yield shop
    Lake(settings).drop_environment()
    kafka.delete_topic(settings, settings.user_actions_topic)


def kill(servers: Stack, name: str) -> int:
    pid = servers.status()[name]["pid"]
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.mark.parametrize("name", KILLED_AT)
def test_a_run_during_which_a_server_is_killed_loses_and_doubles_nothing(servers: Stack, shop: Shop, name: str) -> None:
    shop.send(300)
    run = shop.ingest(failpoint=KILLED_AT[name])
    wait_until(run.is_held, "the run gets there")
    pid = kill(servers, name)
    run.release()
    run.ends(0, 3, 75)
    servers.wait_until_healthy(without_pid=pid)
    shop.finish()
    shop.assert_settled()


def test_a_follower_outlives_every_server(servers: Stack, shop: Shop) -> None:
    shop.send(100)
    follower = shop.follow()
    wait_until(lambda: shop.committed_rows() == 100, "the follower commits")
    for sent, name in enumerate(KILLED_AT, start=2):
        pid = kill(servers, name)
        servers.wait_until_healthy(without_pid=pid)
        shop.send(100)
        wait_until(
            lambda rows=100 * sent: shop.committed_rows() == rows, f"the follower goes on after {name} came back"
        )
        assert follower.process.poll() is None, follower.said
    follower.process.terminate()
    follower.ends(0)
    shop.assert_settled()


def test_trino_answers_while_kafka_hangs_and_tells_its_queries_afterwards(servers: Stack, shop: Shop) -> None:
    settings, mark = shop.settings, secrets.token_hex(8)

    def told() -> int:
        query_history.collect(settings)
        return Lake(settings).load(QUERY_HISTORY).scan(f"query = 'SELECT 1 /* {mark} */'").count()

    pid = servers.status()["kafka"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        for _ in range(20):
            trino.query(settings.trino_as("analyst"), f"SELECT 1 /* {mark} */")
        assert time.monotonic() - started < 20
    finally:
        os.kill(pid, signal.SIGCONT)
    servers.wait_until_healthy()
    wait_until(lambda: told() == 20, "Trino tells them once Kafka answers")


def test_trino_starts_and_answers_without_kafka(servers: Stack, shop: Shop) -> None:
    pid = servers.status()["kafka"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        (server,) = [p for p in servers.processes() if p.environ().get(NAME_MARK) == "trino"]
        server.kill()

        def answers() -> bool:
            try:
                return trino.query(shop.settings.trino_as("analyst"), "SELECT 1", attempts=1) == [(1,)]
            except LakehouseError:
                return False

        wait_until(answers, "Trino comes back without Kafka")
    finally:
        os.kill(pid, signal.SIGCONT)
    servers.wait_until_healthy()
