"""`lakehouse ingest follow` as a process: commits as messages come, and ends when it is asked to."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lakehouse.adapters import kafka
from lakehouse.adapters.catalog import Lake
from lakehouse.audit import audit
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS
from tests.shops import bad, good, open_shop, wait_until

pytestmark = pytest.mark.integration

LAKEHOUSE = str(Path(sys.executable).with_name("lakehouse"))


@pytest.fixture
def shop(environment: Settings) -> Settings:
    return open_shop(environment, 2)


@contextmanager
def following(settings: Settings, log: Path, **more: str) -> Generator[subprocess.Popen[str]]:
    environment = os.environ | {"LAKEHOUSE_PREFIX": settings.prefix, "LAKEHOUSE_HOME": str(settings.home)} | more
    with log.open("w") as errors:
        process = subprocess.Popen(
            [LAKEHOUSE, "ingest", "follow", "--output", "json"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def published(settings: Settings) -> int:
    return Lake(settings).load(USER_ACTIONS).scan().count()


def test_messages_are_committed_as_they_come_until_a_signal_ends_it_cleanly(shop: Settings, tmp_path: Path) -> None:
    log = tmp_path / "log"
    topic = shop.user_actions_topic
    kafka.send(shop, topic, [good(0), good(1), bad(0)])
    with following(shop, log, LAKEHOUSE_INGEST__COMMIT_SECONDS="0.5") as process:
        wait_until(lambda: published(shop) == 2, log.read_text)
        kafka.send(shop, topic, [good(2)])
        wait_until(lambda: published(shop) == 3, log.read_text)
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=120)
    assert process.returncode == 0, log.read_text()
    answers = [json.loads(line) for line in stdout.splitlines()]
    assert [(a["published_rows"], a["quarantined_rows"], a["commits"]) for a in answers][-2:] == [(3, 1, 2), (3, 1, 2)]
    assert answers[0]["commits"] == 1
    assert "SIGTERM: ending after the commit in flight" in log.read_text()
    assert audit(shop).gaps == ()


def test_it_waits_for_a_catalog_that_is_down_and_says_so_and_ctrl_c_ends_the_waiting(
    shop: Settings, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with following(shop, log, LAKEHOUSE_CATALOG__URI="http://127.0.0.1:9") as process:
        wait_until(
            lambda: log.read_text().count("waiting: the catalog at http://127.0.0.1:9 did not answer") > 1,
            log.read_text,
        )
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0, log.read_text()
    assert json.loads(stdout.splitlines()[-1])["commits"] == 0
