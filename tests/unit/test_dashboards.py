"""The dashboards are what their code makes, ask for what is measured, and say what an alert would."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from compose.grafana import build, panels, rules
from lakehouse.exporter.metrics import METRICS
from lakehouse.settings import PROJECT_ROOT, Settings
from tests.alerts import ALERTS

PROVISIONING = PROJECT_ROOT / "compose" / "grafana" / "provisioning"
LABELS = {metric.name: set(metric.labels) for metric in METRICS} | {
    "lakehouse_api_requests_total": {"method", "route", "status"},
    "lakehouse_api_request_duration_seconds_bucket": {"method", "route", "le"},
    "lakehouse_api_refused_total": {"reason"},
}
"""Of the exporter's metrics and the control API's."""


def dashboard(name: str) -> dict[str, Any]:
    return json.loads((build.DIRECTORY / f"{name}.json").read_text())


def panels_of(name: str) -> list[dict[str, Any]]:
    return [panel for panel in dashboard(name)["panels"] if panel["type"] != "row"]


def queries(name: str) -> Iterator[dict[str, Any]]:
    for panel in panels_of(name):
        yield from panel["targets"]


@pytest.mark.parametrize("name", build.DASHBOARDS)
def test_a_dashboard_is_what_its_code_and_the_alert_rules_make(name: str) -> None:
    assert (build.DIRECTORY / f"{name}.json").read_text() == build.text(name), "run `make dashboards`"


def test_there_is_no_dashboard_without_code() -> None:
    assert {path.stem for path in build.DIRECTORY.iterdir()} == set(build.DASHBOARDS)


@pytest.mark.parametrize("name", build.DASHBOARDS)
def test_panels_ask_for_metrics_that_are_measured_or_recorded(name: str) -> None:
    asked = {metric for query in queries(name) for metric in rules.metrics_in(query["expr"])}
    assert asked
    assert asked - set(LABELS) - rules.recorded() == set()


@pytest.mark.parametrize("name", build.DASHBOARDS)
def test_a_legend_names_labels_that_the_metric_has(name: str) -> None:
    for query in queries(name):
        named = set(re.findall(r"\{\{(\w+)\}\}", query.get("legendFormat", "")))
        for metric in rules.metrics_in(query["expr"]) - rules.recorded():
            assert named <= LABELS[metric], query


def test_the_list_at_the_top_filters_by_a_label_that_its_metric_has() -> None:
    for name in build.DASHBOARDS:
        for chosen in dashboard(name)["templating"]["list"]:
            if chosen["type"] == "query":
                metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", chosen["query"]).groups()  # type: ignore[union-attr]
                assert label == chosen["name"]
                assert label in LABELS[metric]


@pytest.mark.parametrize("name", build.DASHBOARDS)
def test_every_panel_has_a_title_a_unit_and_says_what_it_shows(name: str) -> None:
    assert [
        panel["title"]
        for panel in panels_of(name)
        if not (panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"])
    ] == []


@pytest.mark.parametrize("name", build.DASHBOARDS)
def test_panels_fill_the_rows_of_the_page_and_never_overlap(name: str) -> None:
    squares = [
        {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        for panel in dashboard(name)["panels"]
        for at in [panel["gridPos"]]
    ]
    assert [pair for pair in combinations(squares, 2) if pair[0] & pair[1]] == []
    covered = set.union(*squares)
    assert covered == {(x, y) for x in range(24) for y in range(max(y for _, y in covered) + 1)}
    numbers = [panel["id"] for panel in dashboard(name)["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_what_an_alert_compares_with_is_read_from_its_rule() -> None:
    expr = (
        "max by (a) (lakehouse_a_bytes) > 14.4 * 0.01 and (lakehouse:b:ratio < 0.5 or lakehouse_c == 1)"
        " unless lakehouse_d > on (a) lakehouse_e"
    )
    assert list(rules.bounds_in(expr, "warning")) == [
        rules.Bound(frozenset({"lakehouse_a_bytes"}), 0.144, below=False, severity="warning"),
        rules.Bound(frozenset({"lakehouse:b:ratio"}), 0.5, below=True, severity="warning"),
    ]


@pytest.mark.parametrize(
    ("exprs", "steps"),
    [
        (["lakehouse_a < 0.05", "lakehouse_a < 0.15"], [(None, "red"), (0.05, "orange"), (0.15, "green")]),
        (["lakehouse_a > 0.5", "lakehouse_a > 0.05"], [(None, "green"), (0.05, "orange"), (0.5, "red")]),
        (["lakehouse_a > 0"], [(None, "green"), (1, "red")]),
        (["lakehouse_a == 1"], [(None, "text")]),
        (["lakehouse_of_another_panel > 5"], [(None, "text")]),
        (["lakehouse_a > 5 or lakehouse_left_out > 3"], [(None, "green"), (5, "red")]),
    ],
)
def test_colours_begin_where_alerts_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exprs: list[str], steps: list[tuple[float | None, str]]
) -> None:
    watched = [
        {"alert": "Bad", "expr": expr, "labels": {"severity": severity}, "annotations": {"runbook_url": "a.md#bad"}}
        for expr, severity in zip(exprs, ["critical", "warning"], strict=False)
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": watched}]}))
    monkeypatch.setattr(rules, "RULES", tmp_path)
    expr = "sum(lakehouse_a unless lakehouse_left_out == 1)"
    shown = panels.number("Title", expr, says="What it shows.", watched=["Bad"]).build()
    assert shown.description == "What it shows.\n\nRunbook: `a.md#bad`"
    assert [(step.value, step.color) for step in shown.field_config.defaults.thresholds.steps] == steps


@pytest.mark.parametrize(
    ("name", "title", "alert"),
    [
        ("dags", "Failed", "DagFailed"),
        ("dags", "Late", "DagLate"),
        ("dags", "Longest without success", "DagWithoutSuccess"),
        ("tables", "Oldest archive", "ArchiveStale"),
    ],
)
def test_a_number_that_an_alert_colours_leaves_out_what_the_alert_leaves_out(name: str, title: str, alert: str) -> None:
    (panel,) = [panel for panel in panels_of(name) if panel["title"] == title]
    (rule,) = [rule for rule in ALERTS if rule["alert"] == alert]
    left_out = "unless" + rule["expr"].split("unless")[1].split("or max by")[0]
    assert "".join(left_out.split()) in "".join(panel["targets"][0]["expr"].split())


def test_the_share_of_errors_is_that_of_its_alert() -> None:
    (panel,) = [panel for panel in panels_of("api") if panel["title"] == "Errors of the server"]
    (rule,) = [rule for rule in ALERTS if rule["alert"] == "DagControlErrors"]
    rates = r"rate\(lakehouse_api_requests_total\{.*?\}\[\w+\]\)"
    assert set(re.findall(rates, panel["targets"][0]["expr"])) == set(re.findall(rates, rule["expr"]))


def test_every_alert_has_a_panel_that_shows_why_it_fires() -> None:
    described = "".join(panel["description"] for name in build.DASHBOARDS for panel in panels_of(name))
    runbooks = {name: alert.runbook for name in rules.names() for alert in rules.alerts(name)}
    assert runbooks
    assert [name for name, runbook in runbooks.items() if f"`{runbook}`" not in described] == []


def test_an_alert_that_no_rule_has_is_refused() -> None:
    with pytest.raises(LookupError, match=r"no rule in .* is called NeverHeardOf"):
        rules.alerts("NeverHeardOf")


def test_grafana_is_given_the_data_source_and_the_dashboards() -> None:
    sources = yaml.safe_load((PROVISIONING / "datasources" / "lakehouse.yml").read_text())["datasources"]
    prometheus, alertmanager = sources
    assert (prometheus["type"], alertmanager["type"]) == ("prometheus", "alertmanager")
    assert prometheus["jsonData"]["timeInterval"] == f"{Settings().prometheus.scrape_seconds}s"
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "lakehouse.yml").read_text())["providers"]
    assert provider["type"] == "file"
