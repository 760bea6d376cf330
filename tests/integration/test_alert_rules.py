"""The alert rules by Prometheus's own programs, and the routes by a real Alertmanager that tells a mail and web server.

No server of the stack is needed; the programs are those that the stack installs.
"""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from lakehouse.settings import AlertmanagerSettings, Settings, get_settings
from lakehouse.stack import alertmanager, install, prometheus
from lakehouse.stack.artifacts import go_program
from tests import stacks
from tests.alerts import ALERTS, CASE_FILES, RULE_FILES, Rule, name_of
from tests.shops import wait_until
from tests.sinks import Sinks, listening, text_of
from tests.stacks import free_url

pytestmark = pytest.mark.integration

SECONDS_TO_ARRIVE = 30


@pytest.fixture(scope="session")
def installed() -> Settings:
    """Settings whose cache has the programs."""
    settings = get_settings()
    install.install(settings, "observe")
    return settings


@pytest.fixture
def settings(installed: Settings, tmp_path: Path) -> Settings:
    """Settings with every channel, of a home of the test's own."""
    told = AlertmanagerSettings(
        email_to="on-call@example.com",
        email_from="lakehouse@example.com",
        email_smarthost="mail.example.com:587",
        slack_webhook=SecretStr("https://example.com/hook"),
        pagerduty_routing_key=SecretStr("key-1"),
    )
    return installed.model_copy(update={"home": tmp_path, "alertmanager": told})


Tool = Callable[..., str]


@pytest.fixture
def promtool(installed: Settings) -> Tool:
    return tool(go_program(installed, "prometheus", "promtool"))


@pytest.fixture
def amtool(installed: Settings) -> Tool:
    return tool(go_program(installed, "alertmanager", "amtool"))


def tool(program: Path) -> Tool:
    def run(*arguments: str | Path) -> str:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_prometheus_takes_every_rule_without_a_complaint(promtool: Tool) -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)


@pytest.mark.parametrize("cases", CASE_FILES, ids=lambda path: path.stem)
def test_every_alert_fires_and_stays_silent_as_its_cases_say(promtool: Tool, cases: Path) -> None:
    promtool("test", "rules", cases)


def test_prometheus_takes_its_configuration(promtool: Tool, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_bytes(prometheus.configuration(settings))
    promtool("check", "config", "--lint=all", "--lint-fatal", tmp_path / "prometheus.yml")


def test_alertmanager_takes_its_configuration_with_all_channels_and_without_any(
    amtool: Tool, settings: Settings
) -> None:
    amtool("check-config", alertmanager.write_configuration(settings))
    nobody = settings.model_copy(update={"alertmanager": AlertmanagerSettings()})
    amtool("check-config", alertmanager.write_configuration(nobody))


@pytest.mark.parametrize("alert", ALERTS, ids=name_of)
def test_every_alert_goes_where_its_severity_says(amtool: Tool, settings: Settings, alert: Rule) -> None:
    labels = {"alertname": alert["alert"]} | alert["labels"]
    file = f"--config.file={alertmanager.write_configuration(settings)}"
    asked = [f"{name}={value}" for name, value in labels.items()]
    amtool("config", "routes", "test", file, f"--verify.receivers={labels['severity']}", *asked)


def test_only_the_owner_reads_the_secrets(settings: Settings) -> None:
    place = alertmanager.write_configuration(settings).parent
    assert (place / "slack_webhook").read_text() == "https://example.com/hook"
    assert {oct(path.stat().st_mode & 0o777) for path in place.iterdir()} == {"0o600"}


class Alertmanager:
    """A running Alertmanager, its silences, and where it tells."""

    def __init__(self, url: str, sinks: Sinks, amtool: Tool) -> None:
        self.url, self.sinks, self._amtool = url, sinks, amtool

    def tell(self, *alerts: dict[str, str], ended: bool = False, summary: str = "so it is") -> None:
        """Tell it of alerts, as Prometheus does."""
        now = time.time()
        times = {"startsAt": rfc3339(now - 60)} | ({"endsAt": rfc3339(now)} if ended else {})
        notes = {"summary": summary, "description": "Do this.", "runbook_url": "docs/runbooks.md#x"}
        body = [{"labels": labels, "annotations": notes, **times} for labels in alerts]
        httpx.post(f"{self.url}/api/v2/alerts", json=body, trust_env=False).raise_for_status()

    def silence(self, *matchers: str) -> None:
        """Silence alerts, as people do."""
        options = ["--author=me", "--comment=why", "--duration=1h"]
        self._amtool(f"--alertmanager.url={self.url}", "silence", "add", *options, *matchers)

    def told(self) -> dict[str, set[str]]:
        """The names of alerts that each channel was told of, those that ended in lower case."""
        posts = self.sinks.posts
        return {
            "email": {named(str(mail["Subject"])) for mail in self.sinks.mails},
            "slack": {named(body["attachments"][0]["title"]) for path, body in posts if path.startswith("/slack")},
            "pagerduty": {named(body["payload"]["summary"]) for path, body in posts if path == "/v2/enqueue"},
        }

    def waits_for(self, **told: set[str]) -> None:
        wait_until(lambda: self.told() == told, lambda: str(self.told()), SECONDS_TO_ARRIVE)


def named(title: str) -> str:
    name = title.removeprefix("Resolved: ").partition(":")[0]
    return name.lower() if title.startswith("Resolved: ") else name


def rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


@pytest.fixture
def running(installed: Settings, tmp_path: Path, amtool: Tool) -> Iterator[Alertmanager]:
    url = free_url()
    with listening() as sinks:
        told = AlertmanagerSettings(
            url=url, group_wait_seconds=1, group_interval_seconds=1, **sinks.of_alertmanager(), email_require_tls=False
        )
        server = alertmanager.server(installed.model_copy(update={"home": tmp_path, "alertmanager": told}))
        with stacks.running(server):
            yield Alertmanager(url, sinks, amtool)


KAFKA_DOWN = {"alertname": "ServerDown", "severity": "critical", "source": "exporter", "server": "kafka"}
TRINO_DOWN = KAFKA_DOWN | {"server": "trino"}
DAG_FAILED = {"alertname": "DagFailed", "severity": "warning", "source": "exporter", "needs": "lake airflow trino"}
LAG = {"alertname": "KafkaLagGrowing", "severity": "warning", "source": "exporter", "needs": "lake airflow"}
BURN = {"alertname": "FreshnessBudgetBurn", "severity": "critical", "source": "exporter", "needs": "lake trino"}
GAP = {"alertname": "LedgerGap", "severity": "critical", "source": "exporter", "ledger": "kafka"}
BLIND = {"alertname": "ExporterBlind", "severity": "critical"}
FULL = {"alertname": "DiskFilling", "severity": "critical", "source": "exporter", "volume": "home"}


def test_a_critical_alert_goes_to_every_channel_a_warning_wakes_nobody_and_both_are_told_when_they_end(
    running: Alertmanager,
) -> None:
    running.tell(GAP, DAG_FAILED)
    both = {"LedgerGap", "DagFailed"}
    running.waits_for(email=both, slack=both, pagerduty={"LedgerGap"})
    (call,) = [body for path, body in running.sinks.posts if path == "/v2/enqueue"]
    assert (call["routing_key"], call["event_action"], call["payload"]["severity"]) == ("key-1", "trigger", "critical")
    assert "Do this." in json.dumps(call)
    mail = next(mail for mail in running.sinks.mails if "LedgerGap" in mail["Subject"])
    assert mail["Subject"] == "LedgerGap: so it is"
    shown = text_of(mail)
    assert "Do this." in shown
    assert "docs/runbooks.md#x" in shown
    running.tell(GAP, DAG_FAILED, ended=True)
    ended = both | {"ledgergap", "dagfailed"}
    running.waits_for(email=ended, slack=ended, pagerduty={"LedgerGap", "ledgergap"})


def test_a_server_that_is_down_holds_back_what_needs_it_and_not_a_gap(running: Alertmanager) -> None:
    running.tell(KAFKA_DOWN)
    running.waits_for(email={"ServerDown"}, slack={"ServerDown"}, pagerduty={"ServerDown"})
    running.tell(DAG_FAILED, GAP)
    both = {"ServerDown", "LedgerGap"}
    running.waits_for(email=both, slack=both, pagerduty=both)
    assert running.told()["slack"] == both


def test_a_server_that_is_down_holds_back_no_alert_that_wakes_people_and_none_that_does_not_need_it(
    running: Alertmanager,
) -> None:
    running.tell(TRINO_DOWN)
    running.waits_for(email={"ServerDown"}, slack={"ServerDown"}, pagerduty={"ServerDown"})
    running.tell(DAG_FAILED, LAG, BURN)
    told = {"ServerDown", "KafkaLagGrowing", "FreshnessBudgetBurn"}
    running.waits_for(email=told, slack=told, pagerduty=told - {"KafkaLagGrowing"})


def test_a_blind_exporter_holds_back_all_that_it_knew_and_its_end(running: Alertmanager) -> None:
    running.tell(BLIND)
    running.waits_for(email={"ExporterBlind"}, slack={"ExporterBlind"}, pagerduty={"ExporterBlind"})
    running.tell(GAP, KAFKA_DOWN)
    running.tell(GAP, KAFKA_DOWN, ended=True)
    other = {"alertname": "DagControlDown", "severity": "critical"}
    running.tell(other)
    both = {"ExporterBlind", "DagControlDown"}
    running.waits_for(email=both, slack=both, pagerduty=both)
    assert running.told()["slack"] == both


def test_a_critical_alert_holds_back_the_warning_of_the_same_volume_only(running: Alertmanager) -> None:
    running.tell(FULL)
    running.waits_for(email={"DiskFilling"}, slack={"DiskFilling"}, pagerduty={"DiskFilling"})
    mails = len(running.sinks.mails)
    running.tell(FULL | {"severity": "warning"}, FULL | {"severity": "warning", "volume": "archive"})
    wait_until(lambda: len(running.sinks.mails) > mails, "the warning", SECONDS_TO_ARRIVE)
    (group,) = [
        group
        for group in httpx.get(f"{running.url}/api/v2/alerts/groups", trust_env=False).json()
        if group["labels"]["severity"] == "warning"
    ]
    states = {alert["labels"]["volume"]: alert["status"]["state"] for alert in group["alerts"]}
    assert states == {"home": "suppressed", "archive": "active"}


def test_a_second_critical_alert_of_a_name_opens_an_incident_of_its_own(running: Alertmanager) -> None:
    def incidents() -> set[str]:
        return {body["dedup_key"] for path, body in running.sinks.posts if path == "/v2/enqueue"}

    for told, alert in enumerate((GAP, GAP | {"ledger": "ads"}, KAFKA_DOWN, TRINO_DOWN, FULL), start=1):
        running.tell(alert)
        wait_until(lambda told=told: len(incidents()) == told, lambda: str(incidents()), SECONDS_TO_ARRIVE)


def test_a_title_names_an_alert_that_fires_and_not_one_that_is_over(running: Alertmanager) -> None:
    over, fires = DAG_FAILED | {"dag_id": "a"}, DAG_FAILED | {"dag_id": "b"}
    running.tell(over, summary="a failed")
    running.tell(fires, summary="b failed")
    running.waits_for(email={"DagFailed"}, slack={"DagFailed"}, pagerduty=set())

    def titles_with(text: str) -> list[str]:
        return [str(mail["Subject"]) for mail in running.sinks.mails if text in text_of(mail)]

    wait_until(lambda: bool(titles_with("b failed (firing)")), "both to be told", SECONDS_TO_ARRIVE)
    running.tell(over, ended=True, summary="a failed")
    wait_until(lambda: bool(titles_with("a failed (resolved)")), "the end of one", SECONDS_TO_ARRIVE)
    assert titles_with("a failed (resolved)") == ["DagFailed: b failed"]
    running.tell(fires, ended=True, summary="b failed")
    wait_until(lambda: bool(titles_with("b failed (resolved)")), "the end of the other", SECONDS_TO_ARRIVE)
    assert titles_with("b failed (resolved)") == ["Resolved: DagFailed: b failed"]


def test_a_silenced_alert_is_told_to_nobody(running: Alertmanager) -> None:
    running.silence("alertname=LedgerGap", "ledger=kafka")
    running.tell(GAP, GAP | {"ledger": "ads"})
    running.waits_for(email={"LedgerGap"}, slack={"LedgerGap"}, pagerduty={"LedgerGap"})
    (mail,) = running.sinks.mails
    assert text_of(mail).count("so it is") == 1
