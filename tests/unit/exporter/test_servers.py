"""What a server says while it is not well, which a real one does not say at the wish of a test."""

import json
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lakehouse.exporter.clients import Clients
from lakehouse.exporter.looks import Fact
from lakehouse.exporter.metrics import SERVER_LATENCY_SECONDS, SERVER_UP
from lakehouse.exporter.servers import airflow, server
from lakehouse.settings import AirflowSettings, CatalogSettings, Settings, TrinoSettings
from tests.stacks import free_url

PARTS = {
    "metadatabase": "airflow",
    "scheduler": "airflow-scheduler",
    "dag_processor": "airflow-dag-processor",
    "triggerer": "airflow-triggerer",
}
"""The server that each part of Airflow's answer is told as."""
NONSENSE: tuple[object, ...] = ("<html>Sign in</html>", [], {}, None, {"metadatabase": []})


@contextmanager
def answering(answers: Mapping[str, Any]) -> Generator[int]:
    """A port where each of these paths is answered with its text, or with its JSON."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers[self.path]
            body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the standard library
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as listening:
        threading.Thread(target=listening.serve_forever, args=[0.01]).start()
        try:
            yield listening.server_port
        finally:
            listening.shutdown()


def facts_of_airflow(health: object) -> list[Fact]:
    with answering({"/api/v2/monitor/health": health}) as port:
        settings = Settings(airflow=AirflowSettings(url=f"http://127.0.0.1:{port}"))
        with Clients(settings) as clients:
            return list(airflow(clients))


def up_of_airflow(health: object) -> dict[str, float]:
    return {fact.labels[0]: fact.value for fact in facts_of_airflow(health) if fact.metric is SERVER_UP}


@pytest.mark.parametrize(("is_starting", "is_up"), [(True, 0), (False, 1)])
def test_a_trino_that_starts_takes_no_queries_and_is_not_up(is_starting: bool, is_up: int) -> None:
    with answering({"/v1/info": {"starting": is_starting}}) as port:
        settings = Settings(trino=TrinoSettings(port=port, tls=False))
        with Clients(settings) as clients:
            (up,) = [fact.value for fact in server(clients, "trino") if fact.metric is SERVER_UP]
    assert up == is_up


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_trino_that_answers_nonsense_is_down(nonsense: object) -> None:
    with answering({"/v1/info": nonsense}) as port:
        settings = Settings(trino=TrinoSettings(port=port, tls=False))
        with Clients(settings) as clients:
            assert list(server(clients, "trino")) == [Fact(SERVER_UP, 0, ("trino",))]


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_an_airflow_that_answers_nonsense_is_down(nonsense: object) -> None:
    assert up_of_airflow(nonsense) == {"airflow": 0}


def test_a_file_of_trusted_signers_that_is_missing_costs_trino_alone(tmp_path: Path) -> None:
    trino = TrinoSettings(ca_file=tmp_path / "missing.pem")
    with answering({"/healthz": "ok"}) as port:
        settings = Settings(trino=trino, catalog=CatalogSettings(uri=f"http://127.0.0.1:{port}"))
        with Clients(settings) as clients:
            assert Fact(SERVER_UP, 1, ("catalog",)) in list(server(clients, "catalog"))


def test_an_airflow_whose_parts_are_all_healthy_is_up() -> None:
    assert up_of_airflow({part: {"status": "healthy"} for part in PARTS}) == dict.fromkeys(PARTS.values(), 1)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("status", ["unhealthy", None])
def test_a_part_of_airflow_without_a_heartbeat_is_down_though_the_api_server_answers(
    part: str, status: str | None
) -> None:
    up = up_of_airflow({one: {"status": "healthy"} for one in PARTS} | {part: {"status": status}})
    assert [server for server, value in up.items() if not value] == [PARTS[part]]


@pytest.mark.parametrize(("status", "count"), [("healthy", 1), ("unhealthy", 0)])
def test_a_latency_is_told_of_an_airflow_that_answers_well(status: str, count: int) -> None:
    health = {part: {"status": "healthy"} for part in PARTS} | {"metadatabase": {"status": status}}
    assert [fact.metric for fact in facts_of_airflow(health)].count(SERVER_LATENCY_SECONDS) == count


def test_an_airflow_that_does_not_answer_is_down_and_says_nothing_of_its_parts() -> None:
    with Clients(Settings(airflow=AirflowSettings(url=free_url()))) as clients:
        assert [(fact.metric, fact.labels, fact.value) for fact in airflow(clients)] == [(SERVER_UP, ("airflow",), 0)]
