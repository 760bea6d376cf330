"""The whole road, by the commands that people use: Kafka, Spark, Iceberg, dbt on Trino, the daily aggregate."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lakehouse.settings import PROJECT_ROOT, Settings

pytestmark = pytest.mark.integration

SAMPLE = PROJECT_ROOT / "data" / "sample-events.jsonl"

# The three events of the sample, counted by hand.
DAILY = [
    ("2023-10-23", "click", "mobile", "1", "1"),
    ("2023-10-23", "purchase", "web", "1", "1"),
    ("2023-10-23", "view", "web", "1", "1"),
]


class Shell:
    """Runs `lakehouse` in the environment of one test."""

    def __init__(self, settings: Settings) -> None:
        self._environment = dict(os.environ) | {
            "LAKEHOUSE_HOME": str(settings.home),
            "LAKEHOUSE_PREFIX": settings.prefix,
        }

    def run(self, *arguments: str) -> str:
        program = Path(sys.executable).with_name("lakehouse")
        done = subprocess.run(
            [program, *arguments], check=False, capture_output=True, text=True, env=self._environment, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def answer(self, *arguments: str) -> Mapping[str, object]:
        return json.loads(self.run(*arguments, "--output", "json"))


def daily(shell: Shell) -> list[tuple[str, ...]]:
    statement = (
        "SELECT event_date, event_name, platform, event_count, user_count "
        "FROM fct_events_daily ORDER BY event_date, event_name, platform"
    )
    lines = shell.run("sql", statement, "--format", "TSV").splitlines()
    return [tuple(line.split("\t")) for line in lines]


def test_one_event_reaches_the_mart_and_a_replay_gives_the_same_answer(environment: Settings) -> None:
    shell = Shell(environment)

    shell.run("tables", "apply")
    assert shell.answer("produce", str(SAMPLE), "--once")["sent"] == 3
    first = shell.answer("ingest", "run")
    assert (first["published_rows"], first["quarantined_rows"]) == (3, 0)
    assert shell.answer("transform", "run")["failed"] == []
    assert daily(shell) == DAILY

    assert shell.answer("produce", str(SAMPLE), "--once")["already_there"] == 3
    again = shell.answer("ingest", "run")
    assert (again["published_rows"], again["quarantined_rows"]) == (0, 0)
    assert again["position"] == first["position"]
    assert shell.answer("transform", "run", "--select", "+fct_events_daily")["failed"] == []
    assert daily(shell) == DAILY

    shell.answer("transform", "run", "--select", "+fct_events_daily", "--full-refresh")
    assert daily(shell) == DAILY
