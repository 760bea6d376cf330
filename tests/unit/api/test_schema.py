"""The OpenAPI schema and the page about it tell all that can be answered."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from lakehouse.api import problems
from lakehouse.settings import PROJECT_ROOT

PAGE = (PROJECT_ROOT / "docs" / "control-api.md").read_text()
ENDPOINTS = {
    ("GET", "/dags"),
    ("GET", "/dags/{dag_id}"),
    ("GET", "/dags/{dag_id}/runs"),
    ("POST", "/dags/{dag_id}/runs"),
    ("GET", "/dags/{dag_id}/runs/{run_id}"),
    ("DELETE", "/dags/{dag_id}/runs/{run_id}"),
    ("POST", "/dags/{dag_id}/runs/{run_id}/stop"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
}
OPEN = {"/healthz", "/readyz", "/metrics"}


@pytest.fixture
def schema(client: TestClient) -> dict[str, Any]:
    return client.get("/openapi.json").json()


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_every_endpoint_is_there_and_no_other(schema: dict[str, Any]) -> None:
    assert schema["openapi"].startswith("3.1")
    assert {(method, path) for method, path, _ in operations(schema)} == ENDPOINTS


def test_all_but_health_and_metrics_need_a_caller(schema: dict[str, Any]) -> None:
    assert {path for _, path, operation in operations(schema) if "security" not in operation} == OPEN


def test_every_answer_has_an_example(schema: dict[str, Any]) -> None:
    without = [
        (path, status)
        for _, path, operation in operations(schema)
        for status, answer in operation["responses"].items()
        for content in answer.get("content", {}).values()
        if not ("examples" in content or "example" in content or shows(schema, content["schema"]))
    ]
    assert without == []


def shows(schema: dict[str, Any], part: dict[str, Any]) -> bool:
    """Whether each value of an object, or of those it is made of, has an example."""
    if "examples" in part:
        return True
    if "$ref" in part:
        return shows(schema, schema["components"]["schemas"][part["$ref"].rpartition("/")[2]])
    if part.get("type") == "array":
        return shows(schema, part["items"])
    return "properties" in part and all(shows(schema, one) for one in part["properties"].values())


def test_every_status_of_a_problem_is_documented_where_it_can_occur(schema: dict[str, Any]) -> None:
    for _, path, operation in operations(schema):
        documented = {int(status) for status in operation["responses"]}
        assert {408, 413, 500, 503} <= documented
        if path not in OPEN:
            assert {401, 403, 422, 429, 502} <= documented
        if "{dag_id}" in path:
            assert 404 in documented
    delete = schema["paths"]["/dags/{dag_id}/runs/{run_id}"]["delete"]["responses"]
    assert {"204", "409"} <= delete.keys()
    assert {"200", "201"} <= schema["paths"]["/dags/{dag_id}/runs"]["post"]["responses"].keys()


def test_every_header_that_tells_something_is_documented(schema: dict[str, Any]) -> None:
    for _, path, operation in operations(schema):
        headers = {status: set(answer["headers"]) for status, answer in operation["responses"].items()}
        assert [status for status, names in headers.items() if "X-Request-ID" not in names] == []
        assert "Retry-After" in headers["503"]
        if path not in OPEN:
            assert ("WWW-Authenticate" in headers["401"], "Retry-After" in headers["429"]) == (True, True)
    run = schema["paths"]["/dags/{dag_id}/runs"]["post"]["responses"]
    assert {status for status, answer in run.items() if "Location" in answer["headers"]} == {"200", "201"}


def test_every_problem_is_told_in_the_schema_and_on_the_page(schema: dict[str, Any]) -> None:
    text = str(schema)
    known = {kind.name for kind in problems.KINDS}
    assert len(known) == len(problems.KINDS) == 17
    assert [name for name in known - {"method-not-allowed"} if f"{problems.TYPE_PREFIX}{name}" not in text] == []
    rows = {name: int(status) for status, name in re.findall(r"^\| (\d{3}) \| `([a-z-]+)` \|", PAGE, re.MULTILINE)}
    assert rows == {kind.name: kind.status for kind in problems.KINDS}


def test_every_endpoint_is_shown_on_the_page() -> None:
    assert [path for _, path in sorted(ENDPOINTS) if f"`{path}`" not in PAGE and f" {path}`" not in PAGE] == []


def test_every_risk_of_owasp_is_met_by_a_test_that_exists() -> None:
    rows = re.findall(r"^\| (API\d+:2023)[^|]*\|[^|]*\|([^|]*)\|$", PAGE, re.MULTILINE)
    assert [risk for risk, _ in rows] == [f"API{number}:2023" for number in range(1, 11)]
    for risk, cell in rows:
        named = re.findall(r"`(test_\w+)`", cell)
        assert named, risk
        assert set(named) - names_of_tests() == set()


def names_of_tests() -> set[str]:
    files = [*Path(__file__).parent.glob("test_*.py"), PROJECT_ROOT / "tests" / "integration" / "test_control_api.py"]
    return {
        node.name
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
