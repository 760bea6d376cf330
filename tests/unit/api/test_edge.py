"""What every request passes through, on an API whose Airflow is away."""

import asyncio
import http.server
import json
import logging
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from limits.storage import MemoryStorage

from lakehouse import callers
from lakehouse.api import access
from lakehouse.api.app import make
from lakehouse.api.audit_log import AuditLog
from lakehouse.api.edge import KEPT_OF_STRANGERS
from lakehouse.api.readiness import READY_SECONDS
from lakehouse.callers import Callers
from lakehouse.settings import AirflowSettings
from tests.apis import JWT_SECRET, Api


def problem_of(answer: Any) -> str:
    """The kind of the problem that an answer tells, after a look at its form."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert {"type", "title", "status", "detail", "instance", "request_id"} <= document.keys()
    assert document["status"] == answer.status_code
    assert document["request_id"] == answer.headers["x-request-id"]
    return document["type"].removeprefix("urn:lakehouse:problem:")


def changed(api: Api, **changes: Any) -> TestClient:
    """A client of that API with other settings."""
    own = api.settings.api.model_copy(update=changes)
    return TestClient(make(api.settings.model_copy(update={"api": own})))


@pytest.fixture
def silent() -> Iterator[AirflowSettings]:
    """An Airflow that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield AirflowSettings.model_validate({"url": f"http://127.0.0.1:{server.getsockname()[1]}"})


def audited(api: Api) -> list[dict[str, Any]]:
    lines = api.audit_file.read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "time"} for line in lines]


def test_who_is_unknown_is_told_how_to_be_known(client: TestClient) -> None:
    for headers in ({}, {"X-API-Key": "x"}, {"Authorization": "Bearer x"}, {"Authorization": "Basic eDp4"}):
        answer = client.get("/dags", headers=headers)
        assert (answer.status_code, problem_of(answer)) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_a_key_and_a_token_are_as_good(client: TestClient, api: Api) -> None:
    caller, now = callers.read(api.settings.api_callers_file).named("viewer"), datetime.now(UTC)
    fresh, old = (callers.token(caller, JWT_SECRET, 5, begun) for begun in (now, now - timedelta(minutes=6)))
    assert client.get("/dags", headers=api.key("viewer")).status_code == 503  # Airflow is away
    assert client.get("/dags", headers={"Authorization": f"Bearer {fresh}"}).status_code == 503
    assert client.get("/dags", headers={"Authorization": f"Bearer {old}"}).status_code == 401


def test_a_role_that_does_not_suffice_is_refused(client: TestClient, api: Api) -> None:
    for method, path, name in (
        ("POST", "/dags/transform/runs", "viewer"),
        ("POST", "/dags/transform/runs/r/stop", "viewer"),
        ("DELETE", "/dags/transform/runs/r", "operator"),
    ):
        answer = client.request(method, path, headers=api.key(name))
        assert (answer.status_code, problem_of(answer)) == (403, "forbidden")


def test_a_dag_outside_the_list_is_answered_like_one_that_does_not_exist(client: TestClient, api: Api) -> None:
    hidden = client.get("/dags/ingest_user_actions", headers=api.key("operator"))
    missing = client.get("/dags/no_such_dag", headers=api.key("operator"))
    assert hidden.status_code == missing.status_code == 404
    assert hidden.json()["detail"] == missing.json()["detail"]
    for method, path in (
        ("GET", "/dags/ingest_user_actions/runs"),
        ("GET", "/dags/ingest_user_actions/runs/r"),
        ("POST", "/dags/ingest_user_actions/runs"),
        ("POST", "/dags/ingest_user_actions/runs/r/stop"),
    ):
        assert client.request(method, path, headers=api.key("operator")).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/dags/~",
        "/dags/~/runs",
        "/dags/..%2f..%2fapi%2fv2%2fpools",
        "/dags/%2e%2e/runs",
        "/dags/transform/runs/~",
        "/dags/transform/runs/..%2f..%2fx",
        "/dags/transform/runs/%2e%2e",
        "/dags/transform/runs/a%0ab",
        "/dags/transform/runs/a%20b",
        "/dags/transform%3fx/runs",
        "/dags/tr%C3%A4nsform/runs",
    ],
)
def test_no_id_leads_out_of_its_place_in_the_path(client: TestClient, api: Api, path: str) -> None:
    answer = client.get(path, headers=api.key("admin"))
    assert answer.status_code in {404, 422}  # and not 503, which would have asked Airflow
    assert problem_of(answer) in {"not-found", "invalid"}


def test_what_is_unknown_to_the_framework_is_a_problem_as_well(client: TestClient) -> None:
    assert problem_of(client.get("/no/such/path")) == "not-found"
    answer = client.put("/dags")
    assert (answer.status_code, problem_of(answer), answer.headers["allow"]) == (405, "method-not-allowed", "GET")
    assert client.put("/dags/transform/runs").headers["allow"] == "GET, POST"


@pytest.mark.parametrize("body", [b"{nope", b"[" * 20_000, b"[1]", b'"x"', b'{"conf": 1}', b'{"confs": {}}', b"\xff"])
def test_a_body_that_does_not_fit_is_named_and_never_a_mistake_of_ours(
    client: TestClient, api: Api, body: bytes
) -> None:
    headers = {**api.key("admin"), "Content-Type": "application/json"}
    answer = client.post("/dags/transform/runs", content=body, headers=headers)
    assert (answer.status_code, problem_of(answer)) == (422, "invalid")
    assert answer.json().get("errors") or answer.json()["detail"] == "the body can't be read as JSON"


def test_of_a_body_that_does_not_fit_in_thousands_of_places_the_first_are_told(client: TestClient, api: Api) -> None:
    body = {f"x{number}": 1 for number in range(5000)}
    answer = client.post("/dags/transform/runs", json=body, headers=api.key("admin"))
    assert (answer.status_code, len(answer.json()["errors"])) == (422, 100)


def test_who_is_unknown_hears_that_before_what_was_sent_is_looked_at(client: TestClient, api: Api) -> None:
    headers = {"Content-Type": "application/json"}
    for body in (b"{nope", b'{"confs": {}}'):
        answer = client.post("/dags/transform/runs", content=body, headers=headers)
        assert (answer.status_code, problem_of(answer)) == (401, "unauthenticated")
    assert [line["problem"] for line in audited(api)] == ["unauthenticated"] * 2


def test_a_body_is_bounded_whatever_length_it_announces(client: TestClient, api: Api) -> None:
    for content in (b"x" * 65_537, iter([b"x" * 40_000, b"x" * 40_000])):
        answer = client.post("/dags/transform/runs", content=content, headers=api.key("admin"))
        assert (answer.status_code, problem_of(answer)) == (413, "too-large")


def test_too_many_requests_of_a_caller_wait_and_do_not_hold_up_another(api: Api) -> None:
    with changed(api, requests_per_minute=3) as client:
        statuses = [client.get("/dags/~", headers=api.key("admin")).status_code for _ in range(4)]
        last = client.get("/dags/~", headers=api.key("admin"))
        other = client.get("/dags/~", headers=api.key("viewer"))
    assert statuses == [422, 422, 422, 429]
    assert problem_of(last) == "too-many-requests"
    assert 1 <= int(last.headers["retry-after"]) <= 60
    assert other.status_code == 422
    kept = [(line["caller"], line["status"]) for line in audited(api)]
    assert kept == [*[("admin", 422)] * 3, ("admin", 429), ("viewer", 422)]  # the first refusal stands for the others


def test_guessing_is_slowed_down_without_shutting_out_who_is_known(api: Api) -> None:
    with changed(api, refused_logins_per_minute=2) as client:
        assert [client.get("/dags", headers={"X-API-Key": "x"}).status_code for _ in range(4)] == [401, 401, 429, 429]
        assert client.get("/dags/~", headers=api.key("viewer")).status_code == 422
    assert [line["status"] for line in audited(api)] == [401, 401, 422]  # strangers can't fill the log


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::7", "2001:db8:1:3::/64"),
        ("unknown", "unknown"),
    ],
)
def test_all_addresses_that_one_stranger_may_have_are_counted_together(address: str, network: str) -> None:
    assert access.network(address) == network


def test_strangers_of_many_addresses_fill_neither_the_audit_log_nor_the_memory(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = list[MemoryStorage]()

    def store() -> MemoryStorage:
        stores.append(MemoryStorage())
        return stores[-1]

    monkeypatch.setattr(access, "MemoryStorage", store)
    app = make(api.settings)
    with TestClient(app):
        for number in range(100):
            assert TestClient(app, client=(f"192.0.2.{number}", 1)).get("/dags").status_code == 401
        assert len(audited(api)) == KEPT_OF_STRANGERS.amount
        later = time.time() + 121
        monkeypatch.setattr(time, "time", lambda: later)
        TestClient(app, client=("192.0.2.200", 1)).get("/dags")
        until = time.monotonic() + 5  # they are forgotten in a thread of their own
        while max(len(one.storage) for one in stores) > 1 and time.monotonic() < until:
            time.sleep(0.05)
    assert max(one.reset() or 0 for one in stores) == 1


def test_a_caller_with_many_requests_at_once_holds_up_no_other(api: Api, silent: AirflowSettings) -> None:
    slow = api.settings.api.model_copy(update={"request_timeout_seconds": 2})
    settings = api.settings.model_copy(update={"api": slow, "airflow": silent})
    with TestClient(make(settings)) as client, ThreadPoolExecutor(51) as threads:

        def ask(name: str) -> Any:
            return client.get("/dags", headers=api.key(name))

        asked = [threads.submit(ask, name) for name in ("viewer",) * 25 + ("admin",) * 25]
        begun = time.monotonic()
        while sum(one.done() for one in asked) < 10 and time.monotonic() < begun + 2:
            time.sleep(0.01)
        refused = [one.result() for one in asked if one.done()]
        # All threads wait for Airflow now, and who needs none is answered.
        assert client.get("/dags/~", headers=api.key("operator")).status_code == 422
        assert client.get("/healthz").status_code == 200
        assert not all(one.done() for one in asked)
        late = threads.submit(ask, "operator")
        answers = Counter(one.result().status_code for one in asked)
        assert late.result().status_code == 503
        assert time.monotonic() - begun < 3.5  # waiting for a thread counts
    assert answers == {503: 40, 429: 10}
    assert {(problem_of(one), one.headers["retry-after"]) for one in refused} == {("too-many-requests", "5")}


def test_readiness_is_looked_at_while_all_threads_are_taken(
    api: Api, silent: AirflowSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakehouse.api.readiness.READY_SECONDS", 0.2)
    slow = api.settings.api.model_copy(update={"request_timeout_seconds": 2})
    settings = api.settings.model_copy(update={"api": slow, "airflow": silent})
    with TestClient(make(settings)) as client, ThreadPoolExecutor(50) as threads:
        asked = [
            threads.submit(client.get, "/dags", headers=api.key(name))
            for name in ("viewer",) * 20 + ("admin",) * 20 + ("operator",) * 5
        ]
        time.sleep(0.5)
        begun = time.monotonic()
        assert client.get("/readyz").status_code == 503
        assert time.monotonic() - begun < 1
        assert not any(one.done() for one in asked)


def test_the_callers_file_is_read_anew_when_it_changes(client: TestClient, api: Api) -> None:
    assert client.get("/dags/~", headers=api.key("viewer")).status_code == 422
    api.settings.api_callers_file.write_text(Callers().model_dump_json())
    assert client.get("/dags/~", headers=api.key("viewer")).status_code == 401


def test_a_callers_file_that_can_not_be_read_is_the_servers_fault_and_told_in_its_log(
    client: TestClient, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    api.settings.api_callers_file.write_text("{")
    answer = client.get("/dags", headers=api.key("viewer"))
    assert (answer.status_code, problem_of(answer)) == (503, "not-ready")
    assert "file of the callers" in client.get("/readyz").json()["detail"]
    assert str(api.settings.api_callers_file) in caplog.text
    assert str(api.settings.api_callers_file) not in answer.text


def test_a_callers_file_below_no_folder_is_the_servers_fault_too(api: Api, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    changed = api.settings.api.model_copy(update={"callers_file": tmp_path / "file" / "callers.json"})
    with TestClient(make(api.settings.model_copy(update={"api": changed}))) as astray:
        for path in ("/dags", "/readyz"):
            answer = astray.get(path, headers=api.key("operator"))
            assert (answer.status_code, problem_of(answer)) == (503, "not-ready")


@pytest.mark.parametrize("place", ["callers_file", "audit_file"])
def test_without_its_callers_or_its_audit_log_no_request_should_come(
    api: Api, tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    missing = {"callers_file": tmp_path / "none.json", "audit_file": tmp_path / "file" / "audit.jsonl"}[place]
    with changed(api, **{place: missing}) as client:
        answer = client.get("/readyz")
    assert (answer.status_code, problem_of(answer)) == (503, "not-ready")
    assert {"callers_file": "callers is missing", "audit_file": "audit log can't"}[place] in answer.json()["detail"]
    assert str(tmp_path) not in answer.text
    assert (str(tmp_path) in caplog.text) is (place == "audit_file")


class Wary(http.server.BaseHTTPRequestHandler):
    """An Airflow that is healthy and lets nobody in."""

    def answer(self) -> None:
        is_look = self.path.endswith("/monitor/health")
        parts = {part: {"status": "healthy"} for part in ("metadatabase", "scheduler", "triggerer", "dag_processor")}
        body = json.dumps(parts if is_look else {"detail": "Invalid credentials"}).encode()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200 if is_look else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815 - as http.server calls them

    def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pass


def test_while_airflow_refuses_our_login_no_request_should_come(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Wary) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        airflow = AirflowSettings.model_validate({"url": f"http://127.0.0.1:{server.server_address[1]}"})
        with TestClient(make(api.settings.model_copy(update={"airflow": airflow}))) as client:
            answer = client.get("/readyz")
        server.shutdown()
    assert (answer.status_code, problem_of(answer)) == (503, "not-ready")
    assert "Airflow does not let us in" in answer.json()["detail"]
    assert "LAKEHOUSE_AIRFLOW__PASSWORD" in caplog.text


def test_airflow_is_not_asked_for_each_look_at_readiness_also_while_it_is_away(
    api: Api, silent: AirflowSettings
) -> None:
    with TestClient(make(api.settings.model_copy(update={"airflow": silent}))) as client:
        begun = time.monotonic()
        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(lambda _: client.get("/readyz"), range(20)))
        assert time.monotonic() - begun < 2 * READY_SECONDS
    assert [problem_of(answer) for answer in answers] == ["not-ready"] * 20


def test_no_path_is_redirected(client: TestClient, api: Api) -> None:
    answer = client.get("/dags/", headers={**api.key("viewer"), "Host": "elsewhere"}, follow_redirects=False)
    assert (answer.status_code, "location" in answer.headers) == (404, False)


def test_an_airflow_that_is_away_is_told_as_such_without_its_address(client: TestClient, api: Api) -> None:
    answer = client.get("/dags", headers=api.key("viewer"))
    assert (answer.status_code, problem_of(answer), answer.headers["retry-after"]) == (503, "airflow-away", "5")
    assert "127.0.0.1" not in answer.text
    assert problem_of(client.get("/readyz")) == "not-ready"
    assert client.get("/healthz").json() == {"status": "ok"}


def test_a_server_that_ends_is_alive_but_not_ready(client: TestClient) -> None:
    client.app.state.readiness.is_draining = True  # type: ignore[attr-defined]
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_a_mistake_of_ours_is_logged_under_the_request_id_and_not_shown(
    client: TestClient, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    client.app.state.access = None  # type: ignore[attr-defined]
    with caplog.at_level(logging.ERROR):
        answer = client.get("/dags", headers={"X-Request-ID": "mine-1"})
    assert (answer.status_code, problem_of(answer)) == (500, "internal")
    assert "NoneType" not in answer.text
    assert f"request {answer.headers['x-request-id']} failed" in caplog.text


@pytest.mark.parametrize(("given", "kept"), [("mine-1_A", True), ("x" * 64, True), ("x" * 65, False), ("a b", False)])
def test_a_request_id_begins_with_the_callers_if_that_is_a_plain_word_and_comes_once(
    client: TestClient, given: str, kept: bool
) -> None:
    first, second = (client.get("/healthz", headers={"X-Request-ID": given}).headers["x-request-id"] for _ in range(2))
    assert first.startswith(f"{given}-") is kept
    assert re.fullmatch(r"([A-Za-z0-9_-]{1,64}-)?[0-9a-f]{16}", first)
    assert first != second


Send = Callable[[Any], Awaitable[None]]


def test_an_answer_that_nobody_takes_is_given_up_and_holds_up_nobody_meanwhile(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    patience = api.settings.api.model_copy(update={"request_timeout_seconds": 2})
    app: Any = make(api.settings.model_copy(update={"api": patience}))

    async def never(_: Any) -> None:
        await asyncio.Event().wait()

    def get(path: str, send: Send, headers: dict[str, str]) -> Awaitable[None]:
        whole = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            return whole.pop() if whole else await never(None)

        told = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "asgi": {"spec_version": "2.3"}, "http_version": "1.1", "method": "GET", "path": path}
        return app({**scope, "query_string": b"", "headers": told, "client": ("192.0.2.1", 1)}, receive, send)

    async def race() -> tuple[float, list[int]]:
        statuses = list[int]()

        async def take(message: Any) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        begun = time.monotonic()
        untaken = [
            asyncio.ensure_future(get(path, never, headers))
            for path, headers in (("/static-offline-docs/redoc.standalone.js", {}), ("/dags/~", api.key("viewer")))
            for _ in range(110)
        ]
        await asyncio.sleep(0.2)
        for name in ("viewer", "admin"):
            await get("/dags/~", take, api.key(name))
        assert not any(one.done() for one in untaken)
        await asyncio.wait_for(asyncio.gather(*untaken), 10)
        return time.monotonic() - begun, statuses

    with TestClient(app):
        seconds, statuses = asyncio.run(race())
    assert (seconds < 5, statuses) == (True, [422, 422])
    assert caplog.text.count("its answer was not taken in time") == 220
    assert "Traceback" not in caplog.text


def test_every_answer_is_safe_in_a_browser_and_pages_load_nothing_from_elsewhere(client: TestClient) -> None:
    for path in ("/healthz", "/nope", "/docs", "/redoc", "/openapi.json"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert headers["content-security-policy"].startswith("default-src '")
    for path in ("/docs", "/redoc"):
        page = client.get(path).text
        linked = re.findall(r"(?:src|href)=\"([^\"]+)\"", page)
        assert linked
        assert [client.get(link).status_code for link in linked if not link.startswith("data:")] == [200] * len(linked)
        assert "http" not in "".join(linked)


def test_a_refusal_is_kept_with_who_what_and_why(client: TestClient, api: Api) -> None:
    answer = client.delete("/dags/transform/runs/r1", headers=api.key("operator"))
    assert audited(api) == [
        {
            "request_id": answer.headers["x-request-id"],
            "caller": "operator",
            "role": "operator",
            "address": "testclient",
            "action": "delete_run",
            "dag_id": "transform",
            "run_id": "r1",
            "problem": "forbidden",
            "outcome": "refused",
            "status": 403,
        }
    ]


def test_a_change_is_kept_before_it_is_made_and_after(client: TestClient, api: Api) -> None:
    client.delete("/dags/transform/runs/r1", headers=api.key("admin"))
    assert [(line["action"], line["outcome"], line.get("status")) for line in audited(api)] == [
        ("delete_run", "asked", None),
        ("delete_run", "failed", 503),
    ]


def test_what_can_not_be_kept_is_not_done(client: TestClient, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(AuditLog, "write", fail)
    answer = client.delete("/dags/transform/runs/r1", headers=api.key("admin"))
    assert (answer.status_code, problem_of(answer)) == (503, "not-ready")
    assert "nothing was done" in answer.json()["detail"]


def test_no_request_writes_a_line_of_its_own_into_the_audit_log(client: TestClient, api: Api) -> None:
    client.get("/dags/transform/runs/x%0a%7b%22caller%22:%22admin%22%7d", headers=api.key("viewer"))
    client.get("/dags/" + "x" * 5000, headers=api.key("viewer"))
    lines = api.audit_file.read_text().splitlines()
    assert len(lines) == 2
    assert [json.loads(line)["caller"] for line in lines] == ["viewer", "viewer"]
    assert max(map(len, lines)) < 1000


def test_no_key_and_no_token_is_kept_anywhere(client: TestClient, api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        client.get("/dags/~", headers=api.key("viewer"))
        client.get("/dags", headers={"Authorization": "Bearer a-secret-token", "X-API-Key": "a-secret-key"})
    texts = (api.audit_file.read_text(), caplog.text, client.get("/metrics").text)
    secret = ("a-secret", api.keys["viewer"])
    assert [text for text in texts if any(one in text for one in secret)] == []


def test_the_audit_log_is_private_and_begins_anew_when_it_is_large(api: Api) -> None:
    small = api.settings.model_copy(
        update={"api": api.settings.api.model_copy(update={"audit_file_bytes": 1000, "audit_files": 2})}
    )
    log = AuditLog(small)
    for number in range(100):
        log.write({"number": number})
    log.close()
    assert sorted(path.name for path in api.audit_file.parent.glob("audit*")) == [
        "audit.jsonl",
        "audit.jsonl.1",
        "audit.jsonl.2",
    ]
    assert [path.stat().st_mode & 0o077 for path in api.audit_file.parent.glob("audit*")] == [0] * 3
    assert json.loads(api.audit_file.read_text().splitlines()[-1])["number"] == 99


def test_metrics_tell_routes_and_no_names(client: TestClient, api: Api) -> None:
    client.get("/dags/transform", headers=api.key("viewer"))
    client.get("/dags/no_such_dag/runs", headers={})
    client.get("/some/path/that/is/no/route")
    client.request("BREW", "/dags")
    page = client.get("/metrics").text
    assert 'lakehouse_api_requests_total{method="GET",route="/dags/{dag_id}",status="503"} 1.0' in page
    assert 'lakehouse_api_requests_total{method="GET",route="other",status="404"} 1.0' in page
    assert 'lakehouse_api_requests_total{method="other",route="/dags",status="405"} 1.0' in page
    assert 'lakehouse_api_refused_total{reason="unauthenticated"} 1.0' in page
    assert 'lakehouse_api_request_duration_seconds_count{method="GET",route="/dags/{dag_id}"} 1.0' in page
    assert 'lakehouse_api_build_info{version="0.1.0"} 1.0' in page
    assert [name for name in ("transform", "no_such_dag", "some/path", "BREW", "viewer") if name in page] == []
