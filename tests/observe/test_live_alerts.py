"""Alerts that really come: a stack is broken on purpose, people are told on every channel, and told when it is over.

The stack is the test's own, with the exporter, Prometheus and Alertmanager, and without Airflow. Its rules are those of
the project with all that lasts thirty times shorter (`shortened`); how often its programs look is a setting.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import yaml

from lakehouse import ingest
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.catalog import Lake
from lakehouse.settings import Settings
from lakehouse.stack import artifacts
from lakehouse.stack.supervision import Supervision
from lakehouse.tables import USER_ACTIONS
from tests.alerts import RULE_FILES
from tests.shops import bad, good, wait_until
from tests.sinks import Sinks, listening, text_of
from tests.stacks import Stack, own_stack

pytestmark = [pytest.mark.integration, pytest.mark.observe]

SHORTER = 30
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
STARTED = ("trino", "exporter", "prometheus", "alertmanager")
"""With what these need, all but Airflow and what serves it."""


def shortened(rules: str) -> str:
    """Make the text of a rule file in which every duration is so many times shorter: waits, windows and offsets."""
    parsed = yaml.safe_load(rules)
    for rule in (rule for group in parsed["groups"] for rule in group["rules"]):
        for key in {"expr", "for", "keep_firing_for"} & rule.keys():
            rule[key] = re.sub(r"(?<![\w.])(\d+)([smhd])\b", _shorter, rule[key])
    return yaml.safe_dump(parsed)


def _shorter(duration: re.Match[str]) -> str:
    return f"{max(1, int(duration[1]) * SECONDS[duration[2]] // SHORTER)}s"


def test_durations_of_rules_get_shorter_and_names_and_numbers_stay() -> None:
    rule = {
        "record": "a:window5m",
        "expr": "sum_over_time(a:window5m[1h:5m] offset 15m) / 12 > 14.4 * 0.01",
        "for": "2m",
    }
    (made,) = yaml.safe_load(shortened(yaml.safe_dump({"groups": [{"name": "g", "rules": [rule]}]})))["groups"][0][
        "rules"
    ]
    expected = "sum_over_time(a:window5m[120s:10s] offset 30s) / 12 > 14.4 * 0.01"
    assert made == {"record": "a:window5m", "expr": expected, "for": "4s"}


@dataclass(frozen=True)
class Watched:
    """A running stack, and where its alerts end."""

    stack: Stack
    settings: Settings
    sinks: Sinks

    def told(self) -> dict[str, str]:
        """All that each channel was told."""
        posts = self.sinks.posts
        return {
            "email": "".join(map(text_of, self.sinks.mails)),
            "slack": "".join(body["attachments"][0]["text"] for path, body in posts if path.startswith("/slack")),
            "pagerduty": "".join(
                body["payload"]["custom_details"]["alerts"] for path, body in posts if path == "/v2/enqueue"
            ),
        }

    def is_told(self, summary: str, status: str) -> None:
        """Wait until every channel was told that this fires, or is resolved."""
        line = re.compile(rf"{summary} \({status}\)")
        wait_until(
            lambda: all(line.search(told) for told in self.told().values()), lambda: f"{line.pattern} in {self.told()}"
        )

    def ingest(self) -> None:
        ingest.run(artifacts.with_local_spark(self.settings))

    def value(self, query: str) -> float | None:
        """Ask Prometheus for one number."""
        answer = httpx.get(
            f"{self.settings.prometheus.url}/api/v1/query", params={"query": query}, trust_env=False, timeout=10
        )
        found = answer.json()["data"]["result"]
        return float(found[0]["value"][1]) if found else None


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    place = tmp_path_factory.mktemp("watched")
    for path in RULE_FILES:
        (place / path.name).write_text(shortened(path.read_text()))
    with listening() as sinks, own_stack(place / "home") as laid_out:
        often = {
            "LAKEHOUSE_PROMETHEUS__RULES_DIRECTORY": str(place),
            "LAKEHOUSE_PROMETHEUS__SCRAPE_SECONDS": "2",
            "LAKEHOUSE_ALERTMANAGER__GROUP_WAIT_SECONDS": "1",
            "LAKEHOUSE_ALERTMANAGER__GROUP_INTERVAL_SECONDS": "2",
            "LAKEHOUSE_ALERTMANAGER__EMAIL_REQUIRE_TLS": "false",
            "LAKEHOUSE_EXPORTER__REFRESH_SECONDS": "1",
            "LAKEHOUSE_EXPORTER__TABLES_SECONDS": "2",
            "LAKEHOUSE_EXPORTER__AUDIT_SECONDS": "20",
        }
        channels = {f"LAKEHOUSE_ALERTMANAGER__{key.upper()}": value for key, value in sinks.of_alertmanager().items()}
        stack = replace(laid_out, environment=laid_out.environment | often | channels)
        stack.run("up", "--profile", "observe", *STARTED)
        settings = stack.settings()
        silence(settings, {"server": "airflow"}, {"job": "dag-control"})
        watched = Watched(stack, settings, sinks)
        wait_until(lambda: watched.value('up{job="lakehouse-exporter"}') == 1, "Prometheus to see the exporter")
        yield watched


def silence(settings: Settings, *what: dict[str, str]) -> None:
    """Say nothing of what the stack leaves out."""
    now = datetime.now(UTC)
    times = {"startsAt": now.isoformat(), "endsAt": (now + timedelta(hours=1)).isoformat()}
    for labels in what:
        matchers = [{"name": name, "value": value, "isRegex": False} for name, value in labels.items()]
        body = {"matchers": matchers, **times, "createdBy": "a test", "comment": "it is left out"}
        answer = httpx.post(f"{settings.alertmanager.url}/api/v2/silences", json=body, trust_env=False, timeout=10)
        answer.raise_for_status()


def test_a_kafka_that_is_stopped_is_told_and_so_is_its_return(watched: Watched) -> None:
    wait_until(lambda: watched.value('lakehouse_server_up{server="kafka"}') == 1, "Kafka to be seen")
    Supervision(watched.settings).stop_server("kafka")
    watched.is_told("kafka does not answer", "firing")
    watched.stack.run("up", "--profile", "observe", "kafka")
    watched.is_told("kafka does not answer", "resolved")


def test_an_exporter_that_ends_is_told_and_does_not_tell_that_all_is_well(watched: Watched) -> None:
    supervision = Supervision(watched.settings)
    supervision.stop_server("catalog")
    watched.is_told("catalog does not answer", "firing")
    supervision.stop_server("exporter")
    blind = "the exporter does not answer: nobody sees the pipeline"
    watched.is_told(blind, "firing")
    wait_until(lambda: watched.value('ALERTS{alertname="ServerDown", server="catalog"}') is None, "the alert to end")
    watched.stack.run("up", "--profile", "observe", "catalog", "exporter")
    watched.is_told(blind, "resolved")
    assert [text for text in watched.told().values() if "catalog does not answer (resolved)" in text] == []


def test_a_row_that_somebody_deletes_is_told_as_a_gap_until_it_is_back(watched: Watched) -> None:
    settings = watched.settings
    kafka.send(settings, settings.user_actions_topic, map(good, range(200)))
    watched.ingest()
    before = Lake(settings).load(USER_ACTIONS).metadata.current_snapshot_id
    table, admin = f"{settings.catalog.name}.{USER_ACTIONS.identifier}", settings.trino_as("admin")
    trino.query(admin, f"DELETE FROM {table} WHERE user_id = 'user_7'")
    watched.is_told("the ledger `kafka` does not add up: rows are lost or doubled \\(gaps: 1\\)", "firing")
    trino.query(admin, f"ALTER TABLE {table} EXECUTE rollback_to_snapshot({before})")
    watched.is_told("the ledger `kafka` does not add up: .*", "resolved")


def test_a_flood_of_bad_events_is_told_until_it_is_over(watched: Watched) -> None:
    settings = watched.settings
    seen = 'lakehouse_rows_published_total{table="events.user_actions"} offset 40s'
    wait_until(lambda: (watched.value(seen) or 0) > 0, "the rows before the flood to be seen")
    kafka.send(settings, settings.user_actions_topic, map(bad, range(500)))
    watched.ingest()
    watched.is_told("100% of what came for events.user_actions is in quarantine", "firing")
    watched.is_told("100% of what came for events.user_actions is in quarantine", "resolved")
