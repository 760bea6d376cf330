"""Every query of every dashboard answers, on a Prometheus that looks at a shop of the test's own.

A query may have no answer only where its panel says why, for people to read.
"""

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from compose.grafana import build
from lakehouse.adapters import kafka
from lakehouse.adapters.airflow import Airflow
from lakehouse.settings import AlertmanagerSettings, ExporterSettings, PrometheusSettings, Settings
from lakehouse.stack import exporter, install, prometheus
from tests.clusters import wait_for
from tests.shops import bad, good, open_shop, wait_until
from tests.stacks import free_url, running

pytestmark = [pytest.mark.integration, pytest.mark.observe]

ANSWER_SECONDS = 90
RATE_INTERVAL = "1m"
"""What Grafana would put for `$__rate_interval`: four scrapes at least."""
DASHBOARDS = {name: json.loads((build.DIRECTORY / f"{name}.json").read_text()) for name in build.DASHBOARDS}


@pytest.fixture(scope="module")
def shop(full_stack: Settings, module_environment: Settings) -> Settings:
    """A shop with good and bad events, whose marts a DAG has built."""
    shop = open_shop(module_environment, 2)
    kafka.send(shop, shop.user_actions_topic, [*map(good, range(20)), *map(bad, range(5))])
    with Airflow(full_stack.airflow) as airflow:
        ingest = airflow.trigger("ingest_user_actions", f"test-{uuid.uuid4()}", {"prefix": shop.prefix})
        transform = wait_for(
            lambda: next(iter(airflow.runs_caused_by(ingest.dag_id, ingest.run_id)), None), 300, pause_seconds=1
        )
        assert airflow.wait(transform.dag_id, transform.run_id, timeout_seconds=600).state == "success"
    return shop


@pytest.fixture(scope="module")
def ask(shop: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Ask the HTTP API of a Prometheus that sees the shop through an exporter of its own, both in a hurry."""
    watched = shop.model_copy(
        update={
            "exporter": ExporterSettings(url=free_url(), tables_seconds=5, audit_seconds=30, listing_seconds=30),
            "prometheus": PrometheusSettings(url=free_url(), scrape_seconds=1),
            "alertmanager": AlertmanagerSettings(url=free_url()),  # nobody: what happens here is for no person
        }
    )
    install.install(watched, "observe")
    own_home = watched.model_copy(update={"home": tmp_path_factory.mktemp("home")})
    with running(exporter.server(watched)), running(prometheus.server(own_home)):

        def ask(path: str, **query: Any) -> Any:
            answer = httpx.get(f"{watched.prometheus.url}/api/v1/{path}", params=query, timeout=30, trust_env=False)
            assert answer.is_success, f"{query}: {answer.text}"
            return answer.json()["data"]

        yield ask


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, bool, str]]:
    """Each query of each panel, with all chosen at the top: its place, whether it must have an answer, and itself."""
    chosen = {f"${one['name']}": one["allValue"] for one in dashboard["templating"]["list"] if "allValue" in one}
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"]
            for variable, value in (chosen | {"$__rate_interval": RATE_INTERVAL}).items():
                expr = expr.replace(variable, value)
            yield f"{panel['title']}, {target['refId']}", "noValue" not in panel["fieldConfig"]["defaults"], expr


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_of_a_dashboard_answers(ask: Callable[..., Any], name: str) -> None:
    def unanswered() -> dict[str, str]:
        # What may be empty has to be a question that Prometheus understands all the same.
        asked = [
            (place, must, expr, ask("query", query=expr)["result"]) for place, must, expr in queries(DASHBOARDS[name])
        ]
        return {place: expr for place, must, expr, result in asked if must and not result}

    wait_until(lambda: not unanswered(), lambda: str(unanswered()), ANSWER_SECONDS)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_list_at_the_top_has_something_to_choose(ask: Callable[..., Any], name: str) -> None:
    for variable in DASHBOARDS[name]["templating"]["list"]:
        if variable["type"] == "query":
            metric = variable["query"].removeprefix("label_values(").partition(",")[0]
            assert ask(f"label/{variable['name']}/values", **{"match[]": metric})


def test_every_rule_that_the_dashboards_lean_on_is_evaluated_without_an_error(ask: Callable[..., Any]) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in ask("rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()), "the rules to be evaluated", 60)
    assert [(rule["name"], rule["lastError"]) for rule in rules() if rule["health"] != "ok"] == []
