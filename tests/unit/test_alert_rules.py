"""What every alert rule has: a grade, words that help, a runbook, metrics that exist, and cases that try it."""

import re
from typing import Any

import pytest
import yaml
from pydantic import SecretStr, ValidationError

from lakehouse.api.metrics import Metrics
from lakehouse.exporter.metrics import METRICS
from lakehouse.exporter.servers import SERVERS
from lakehouse.settings import PROJECT_ROOT, AlertmanagerSettings, PrometheusSettings, Settings
from lakehouse.stack import alertmanager, prometheus
from tests.alerts import ALERTS, Rule, cases, name_of, rules

EXPORTED = {metric.name for metric in METRICS}
OF_API = set(re.findall(r"^# TYPE (\w+) ", Metrics().page().decode(), re.MULTILINE))
RUNBOOKS = (PROJECT_ROOT / "docs" / "runbooks.md").read_text()
OBSERVABILITY = (PROJECT_ROOT / "docs" / "observability.md").read_text()
each_alert = pytest.mark.parametrize("alert", ALERTS, ids=name_of)


def metrics_in(rule: Rule) -> set[str]:
    return set(re.findall(r"\b(lakehouse_\w+)\b", rule["expr"]))


@each_alert
def test_an_alert_says_how_grave_it_is_what_happened_and_what_next(alert: Rule) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["description"].rstrip().endswith(".")


@each_alert
def test_the_runbook_of_an_alert_is_a_heading_of_its_name(alert: Rule) -> None:
    assert alert["annotations"]["runbook_url"] == f"docs/runbooks.md#{alert['alert'].lower()}"
    assert f"\n## {alert['alert']}\n" in RUNBOOKS


def test_every_runbook_is_that_of_an_alert_and_every_alert_stands_in_the_table_of_alerts() -> None:
    names = {alert["alert"] for alert in ALERTS}
    assert set(re.findall(r"^## (.*)$", RUNBOOKS, re.MULTILINE)) == names
    table = re.findall(r"^\| \[(\w+)\]\(runbooks\.md#\w+\) \| ([\w, ]+) \|", OBSERVABILITY, re.MULTILINE)
    severities = {name: [one["labels"]["severity"] for one in ALERTS if one["alert"] == name] for name in names}
    assert {name: said.split(", ") for name, said in table} == severities


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_metric_of_a_rule_exists(rule: Rule) -> None:
    assert metrics_in(rule) - EXPORTED - OF_API == set()


def test_every_recorded_number_is_used_by_a_rule() -> None:
    used = {name for rule in rules() for name in re.findall(r"[\w:]+", rule["expr"])}
    assert {rule["record"] for rule in rules() if "record" in rule} - used == set()


@each_alert
def test_an_alert_has_a_case_that_fires_with_all_it_says_and_one_that_stays_silent(alert: Rule) -> None:
    """Of labels and annotations `promtool` compares every one, so a case has to name them all."""
    severity = alert["labels"]["severity"]
    expected = list(cases(alert["alert"]))
    fired = [one for case in expected for one in case if one["exp_labels"]["severity"] == severity]
    assert fired
    assert all(one["exp_labels"].items() >= alert["labels"].items() for one in fired)
    assert all(one["exp_annotations"].keys() == alert["annotations"].keys() for one in fired)
    assert any(severity not in {one["exp_labels"]["severity"] for one in case} for case in expected)


@each_alert
def test_what_only_the_exporter_knows_is_marked_so_and_outlives_it_until_its_end_is_told(alert: Rule) -> None:
    (blind,) = [one for one in ALERTS if one["alert"] == "ExporterBlind"]
    is_exporters = "lakehouse:" in alert["expr"] or bool(metrics_in(alert) & EXPORTED)
    assert (alert["labels"].get("source") == "exporter") == is_exporters
    assert blind["for"] == "1m"
    assert alert.get("keep_firing_for") == ("5m" if is_exporters or alert is blind else None)


def filled(**channels: Any) -> dict[str, Any]:
    settings = Settings(alertmanager=AlertmanagerSettings(**channels))
    return yaml.safe_load(alertmanager.configuration(settings))


def channels_of(configuration: dict[str, Any]) -> dict[str, list[str]]:
    return {
        receiver["name"]: [name for name, entries in receiver.items() if name != "name" and entries]
        for receiver in configuration["receivers"]
    }


OF_SERVER = {
    "kafka": "lake",
    "catalog": "lake",
    "minio": "lake",
    "postgres": "lake",
    "airflow": "airflow",
    "airflow-scheduler": "airflow",
    "airflow-dag-processor": "airflow",
    "airflow-triggerer": "airflow",
    "trino": "trino",
}
"""Which word of the label `needs` stands for which server."""


def matched(matchers: list[str], labels: dict[str, str]) -> bool:
    parts = [re.split(r"(=~?)", matcher, maxsplit=1) for matcher in matchers]
    return all(
        re.fullmatch(value.strip('"') if kind == "=~" else re.escape(value.strip('"')), labels.get(name, ""))
        for name, kind, value in parts
    )


def test_every_server_is_needed_by_some_alert() -> None:
    assert set(SERVERS) < set(OF_SERVER)
    assert {need for alert in ALERTS for need in needs_of(alert)} == set(OF_SERVER.values())


def test_what_tells_two_critical_alerts_of_one_name_apart_gives_each_a_message_of_its_own() -> None:
    """PagerDuty wakes nobody for an alert that joins a message whose incident is open."""
    (critical,) = filled()["route"]["routes"]
    assert critical["matchers"] == ['severity="critical"']
    fired = [one["exp_labels"] for alert in ALERTS for case in cases(alert["alert"]) for one in case]
    apart = {name for labels in fired if labels["severity"] == "critical" for name in labels}
    of_scrape = {"job", "instance"}  # the API and the exporter are one server each
    assert {"alertname", *apart} - {"source"} - of_scrape == set(critical["group_by"])


def needs_of(alert: Rule) -> list[str]:
    return alert["labels"].get("needs", "").split()


@pytest.mark.parametrize("server", OF_SERVER)
def test_a_server_that_is_down_holds_back_the_warnings_of_what_needs_it_and_nothing_else(server: str) -> None:
    down = {"alertname": "ServerDown", "severity": "critical", "server": server}
    of_servers = [rule for rule in filled()["inhibit_rules"] if "equal" not in rule]
    targets = [rule["target_matchers"] for rule in of_servers if matched(rule["source_matchers"], down)]

    def held_back(severity: str) -> set[str]:
        labels = {alert["alert"]: alert["labels"] | {"severity": severity} for alert in ALERTS if needs_of(alert)}
        return {name for name, known in labels.items() if any(matched(target, known) for target in targets)}

    assert held_back("warning") == {alert["alert"] for alert in ALERTS if OF_SERVER[server] in needs_of(alert)}
    assert held_back("critical") == set()


MAIL = {"email_to": "a@example.com", "email_from": "b@example.com", "email_smarthost": "mail.example.com:587"}
SLACK = {"slack_webhook": SecretStr("https://example.com/hook")}
PAGERDUTY = {"pagerduty_routing_key": SecretStr("key-1")}


@pytest.mark.parametrize(
    ("channels", "critical", "warning"),
    [
        ({}, [], []),
        (MAIL, ["email_configs"], ["email_configs"]),
        (SLACK, ["slack_configs"], ["slack_configs"]),
        (PAGERDUTY, ["pagerduty_configs"], []),
        (
            MAIL | SLACK | PAGERDUTY,
            ["pagerduty_configs", "slack_configs", "email_configs"],
            ["slack_configs", "email_configs"],
        ),
    ],
)
def test_a_channel_without_settings_is_left_out(
    channels: dict[str, Any], critical: list[str], warning: list[str]
) -> None:
    assert channels_of(filled(**channels)) == {"critical": critical, "warning": warning}


def test_no_secret_stands_in_the_configuration() -> None:
    text = alertmanager.configuration(
        Settings(alertmanager=AlertmanagerSettings(**MAIL, **SLACK, **PAGERDUTY))
    ).decode()
    assert "https://example.com/hook" not in text
    assert "key-1" not in text


def test_mail_is_set_up_whole_or_not_at_all() -> None:
    with pytest.raises(ValidationError, match="email_to, email_from and email_smarthost go together"):
        AlertmanagerSettings(email_to="a@example.com")


def test_prometheus_asks_the_addresses_of_the_settings_as_often_as_they_say() -> None:
    settings = Settings(prometheus=PrometheusSettings(url="http://127.0.0.1:29011", scrape_seconds=2))
    read = yaml.safe_load(prometheus.configuration(settings))
    assert read["global"] == {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"}
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in read["scrape_configs"]}
    assert targets == {
        "lakehouse-exporter": ["127.0.0.1:18090"],
        "dag-control": ["127.0.0.1:18086"],
        "prometheus": ["127.0.0.1:29011"],
        "alertmanager": ["127.0.0.1:18092"],
    }
    assert read["rule_files"] == [str(PROJECT_ROOT / "compose" / "prometheus" / "rules" / "*.yml")]
