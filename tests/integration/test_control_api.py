"""The DAG control API on the real Airflow: one server, asked as its callers would."""

import asyncio
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import psutil
import pytest
import schemathesis
from fastapi.testclient import TestClient
from pydantic import SecretStr

from lakehouse.adapters import kafka, leftovers
from lakehouse.adapters.airflow_runs import AirflowRuns, Connection, DagRun, TaskRun
from lakehouse.api import routes, stopping
from lakehouse.api.app import make
from lakehouse.api.models import Stopped
from lakehouse.settings import PROJECT_ROOT, AirflowSettings, ApiSettings, Settings
from tests.apis import Api, api_of
from tests.clusters import is_at_a_task, standalone, wait_for
from tests.shops import good, open_shop, wait_until
from tests.stacks import free_url, processes_with

pytestmark = pytest.mark.integration

DAG = "maintain_tables"
HARMLESS = {"conf": {"dry_run": True}}
NO_DAG = "no_such_dag"
SCHEMA = schemathesis.openapi.from_dict(make(Settings()).openapi())
WAIT_SECONDS = 120
STOP_SECONDS = 40


@dataclass(frozen=True)
class Server:
    """A server of our own.

    Attributes:
        lines: what it has written to standard output, where its audit log goes.
    """

    process: subprocess.Popen[str]
    client: httpx.Client
    lines: list[str]


@contextmanager
def serving(api: Api, **more: str) -> Generator[Server]:
    """Start a server whose home and directory are places where nothing can be written; it ends well at the end."""
    url = free_url()
    own = {
        "LAKEHOUSE_HOME": "/proc/no-home",
        "LAKEHOUSE_AIRFLOW__URL": api.settings.airflow.url,
        "LAKEHOUSE_API__URL": url,
        "LAKEHOUSE_API__CALLERS_FILE": str(api.settings.api_callers_file),
        "LAKEHOUSE_API__AUDIT_FILE": "-",
        "LAKEHOUSE_API__JWT_SECRET": api.settings.api.jwt_secret.get_secret_value(),
        "LAKEHOUSE_API__REQUESTS_PER_MINUTE": "100000",
        "LAKEHOUSE_API__REFUSED_LOGINS_PER_MINUTE": "100000",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
    with (
        subprocess.Popen(
            [sys.executable, "-m", "lakehouse.api"],
            env=inherited | own | more,
            cwd="/proc",
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
        httpx.Client(base_url=url, timeout=90, trust_env=False) as client,
    ):
        lines = list[str]()
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()), daemon=True)
        reader.start()
        try:
            wait_until(lambda: is_up(client), "the server to answer", 60)
            yield Server(process, client, lines)
        finally:
            if process.poll() is None:
                process.terminate()
            code = process.wait(30)
            reader.join()
        assert code == 0


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def api(full_stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Api:
    """Its operator sees no DAG that exists, so that nothing which that one sends can start a run."""
    return api_of(full_stack, tmp_path_factory.mktemp("api"), {"operator": (NO_DAG,)})


@pytest.fixture(scope="module")
def client(api: Api) -> Iterator[httpx.Client]:
    with serving(api) as server:
        yield server.client


@pytest.fixture(scope="module")
def admin(client: httpx.Client, api: Api) -> Callable[..., httpx.Response]:
    """Ask as the admin."""

    def ask(method: str, path: str, **more: Any) -> httpx.Response:
        headers = {**api.key("admin"), **more.pop("headers", {})}
        return client.request(method, path, headers=headers, **more)

    return ask


Ask = Callable[..., httpx.Response]


def test_it_shows_the_dags_and_what_their_runs_can_be_given(admin: Ask, client: httpx.Client, api: Api) -> None:
    wait_until(lambda: client.get("/readyz").status_code == 200, "the server to be ready", WAIT_SECONDS)
    assert admin("GET", "/readyz").json() == {"status": "ready"}
    listed = {dag["dag_id"] for dag in admin("GET", "/dags").json()["dags"]}
    assert listed >= {"ingest_user_actions", "transform", DAG}
    shown = admin("GET", f"/dags/{DAG}").json()
    assert shown["params"]["dry_run"]["schema"]["type"] == "boolean"
    assert client.get("/dags", headers=api.key("operator")).json() == {"dags": []}


def test_a_run_is_started_shown_and_deleted(admin: Ask) -> None:
    started = admin("POST", f"/dags/{DAG}/runs", json=HARMLESS)
    assert started.status_code == 201, started.text
    path = started.headers["location"]
    wait_until(lambda: admin("GET", path).json()["state"] in {"success", "failed"}, "the run to finish", WAIT_SECONDS)
    shown = admin("GET", path).json()
    assert shown["conf"] == HARMLESS["conf"]
    assert shown["note"] == f"by caller admin, request {started.headers['x-request-id']}"
    (task,) = shown["tasks"]
    assert task["try_number"] == 1
    assert task["log_url"].endswith(f"{path}/tasks/{task['task_id']}?try_number=1")
    page = admin("GET", f"/dags/{DAG}/runs", params={"state": shown["state"], "limit": 1}).json()
    assert page["runs"][0]["run_id"] == shown["run_id"]
    assert page["total"] >= len(page["runs"]) == 1
    stopped = admin("POST", f"{path}/stop").json()
    assert (stopped["run"]["state"], stopped["gone"]) == (shown["state"], True)  # what has finished stays as it is
    assert admin("DELETE", path).status_code == 204
    assert admin("DELETE", path).status_code == admin("GET", path).status_code == 404


@dataclass(frozen=True, slots=True)
class Ended:
    """A run of the real Airflow that has just ended well, and who asks for it."""

    run: DagRun
    connection: Connection

    def stop(self, airflow: type[AirflowRuns], **settings: Any) -> Stopped:
        """Stop it, with an Airflow that tells something else."""
        return asyncio.run(
            stopping.stop(
                lambda: airflow(self.connection, 30),
                ApiSettings(**settings),
                self.run.dag_id,
                self.run.run_id,
                0,
                lambda: False,
            )
        )


@pytest.fixture
def ended(full_stack: Settings, admin: Ask) -> Iterator[Ended]:
    path = admin("POST", f"/dags/{DAG}/runs", json=HARMLESS).headers["location"]
    wait_until(lambda: admin("GET", path).json()["state"] == "success", "the run to succeed", WAIT_SECONDS)
    connection = Connection(full_stack.airflow)
    yield Ended(AirflowRuns(connection, 30).run(DAG, path.rpartition("/")[2]), connection)
    connection.close()
    admin("DELETE", path)


class Late(AirflowRuns):
    """Tells that a run still runs, as it did a moment ago."""

    def run(self, dag_id: str, run_id: str) -> DagRun:
        return replace(super().run(dag_id, run_id), state="running")


class Elsewhere(AirflowRuns):
    """Tells that the tasks were ended from outside on another machine."""

    def tasks(self, dag_id: str, run_id: str) -> tuple[TaskRun, ...]:
        tasks = super().tasks(dag_id, run_id)
        return tuple(replace(task, hostname="worker-1", state="failed") for task in tasks)


def test_a_run_that_succeeds_while_it_is_stopped_stays_a_success(ended: Ended) -> None:
    assert ended.stop(Late).run.state == "success"
    assert AirflowRuns(ended.connection, 30).run(DAG, ended.run.run_id).state == "success"


def test_what_is_out_of_sight_is_told_at_every_stop_and_keeps_its_run_from_being_deleted(
    ended: Ended, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        stopped = ended.stop(Elsewhere)
        assert (stopped.gone, {(one.kind, one.host) for one in stopped.left}) == (False, {("unseen", "worker-1")})
    monkeypatch.setattr(routes, "AirflowRuns", Elsewhere)
    with TestClient(make(api.settings)) as client:
        answer = client.delete(f"/dags/{DAG}/runs/{ended.run.run_id}", headers=api.key("admin"))
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:lakehouse:problem:not-gone")
    assert "on worker-1" in answer.json()["detail"]


def test_a_stop_beside_too_many_others_says_at_once_what_is_left(
    ended: Ended, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "MOST_WAITING_STOPS", 0)
    path, marked = f"/dags/{DAG}/runs/{ended.run.run_id}", {leftovers.RUN: f"{DAG}/{ended.run.run_id}/task"}
    with TestClient(make(api.settings), headers=api.key("admin")) as client:
        with subprocess.Popen(["/bin/sleep", "60"], env=marked) as left:
            stopped = client.post(f"{path}/stop").json()
            assert (stopped["gone"], [one["what"] for one in stopped["left"]]) == (False, [f"sleep, pid {left.pid}"])
            assert stopped["waited_seconds"] < STOP_SECONDS / 4
            assert client.delete(path).status_code == 409
            left.terminate()
        assert client.delete(path).status_code == 204


def test_a_key_starts_one_run_however_often_it_is_sent_and_at_once(admin: Ask) -> None:
    key = {"Idempotency-Key": f"test-{time.time_ns()}"}

    def start(_: int) -> httpx.Response:
        return admin("POST", f"/dags/{DAG}/runs", json=HARMLESS, headers=key)

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(start, range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
    (path,) = {answer.headers["location"] for answer in answers}
    other = admin("POST", f"/dags/{DAG}/runs", json={"conf": {"dry_run": False}}, headers=key)
    assert (other.status_code, other.json()["type"]) == (422, "urn:lakehouse:problem:idempotency-key-reused")
    assert admin("DELETE", path, params={"force": True}).status_code == 204


def test_a_conf_that_does_not_fit_the_params_starts_nothing(admin: Ask) -> None:
    before = admin("GET", f"/dags/{DAG}/runs").json()["total"]
    wrong = {"tables": ["no table"], "dry_run": "yes", "dry_runs": True}
    answer = admin("POST", f"/dags/{DAG}/runs", json={"conf": wrong})
    assert answer.status_code == 422
    assert [fault["place"] for fault in answer.json()["errors"]] == [
        "body.conf.tables.0",
        "body.conf.dry_run",
        "body.conf.dry_runs",
    ]
    master = admin("POST", "/dags/ingest_user_actions/runs", json={"conf": {"spark_master": "spark://elsewhere:7077"}})
    assert master.status_code == 422
    assert admin("GET", f"/dags/{DAG}/runs").json()["total"] == before


def test_stopping_a_run_ends_spark_before_it_is_answered(
    full_stack: Settings, environment: Settings, tmp_path: Path
) -> None:
    shop = open_shop(environment, 2)
    kafka.send(shop, shop.user_actions_topic, [good(number) for number in range(20_000)])
    with standalone(full_stack, tmp_path) as cluster:
        page = master_page(tmp_path)
        own = api_of(full_stack, tmp_path)
        more = {"LAKEHOUSE_API__SPARK_MASTERS": cluster.master, "LAKEHOUSE_API__SPARK_MASTER_PAGE": page}
        with serving(own, **more) as server:
            client = server.client
            client.headers.update(own.key("admin"))
            conf = {"prefix": shop.prefix, "spark_master": cluster.master}
            path = client.post("/dags/ingest_user_actions/runs", json={"conf": conf}).headers["location"]
            run = path.removeprefix("/dags/").replace("/runs/", "/")

            def at_a_task() -> psutil.Process | None:
                workers = (child for worker in cluster.workers for child in worker.children(recursive=True))
                return next((process for process in workers if is_at_a_task(process)), None)

            try:
                wait_for(at_a_task, WAIT_SECONDS, 0.3).suspend()  # so that the run can't end by itself
                refused = client.delete(path)
                assert (refused.status_code, "force=true" in refused.json()["detail"]) == (409, True)
                hasty = client.post(f"{path}/stop", params={"wait_seconds": 0}).json()
                assert (hasty["gone"], hasty["run"]["state"]) == (False, "failed")
                left = {one["kind"] for one in hasty["left"]}
                assert left == {"process", "spark_application"}
                assert any(one["what"].startswith("java") for one in hasty["left"])
                stopped = client.post(f"{path}/stop").json()
                assert (stopped["gone"], stopped["left"]) == (True, [])
                assert stopped["waited_seconds"] < STOP_SECONDS
                assert processes_with("LAKEHOUSE_RUN", f"{run}/ingest") == []
                assert run not in httpx.get(f"{page}/json/", trust_env=False).text.partition("completedapps")[0]
            finally:
                assert client.delete(path, params={"force": True}).status_code == 204


def master_page(directory: Path) -> str:
    """Where the master of a cluster of our own has its pages."""
    log = (directory / "master.log").read_text()
    found = re.search(r"started service 'MasterUI' on port (\d+)", log)
    assert found, log
    return f"http://127.0.0.1:{found[1]}"


def test_it_drains_on_sigterm_and_has_written_no_file(api: Api) -> None:
    with serving(api, LAKEHOUSE_API__DRAIN_SECONDS="10") as server:
        client = server.client
        run = client.post(f"/dags/{DAG}/runs", json=HARMLESS, headers=api.key("admin")).headers["location"]
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: client.get("/readyz").status_code == 503, "the server to say that it ends", 5)
        assert client.get("/healthz").status_code == 200  # and still it answers
        forced = client.delete(run, params={"force": True}, headers=api.key("admin"))
        assert forced.status_code in {204, 409}  # 409 if its task was at work, for it waits no longer
        assert server.process.wait(30) == 0
        assert not is_up(client)
    lines = [json.loads(line) for line in server.lines]
    assert [(line["action"], line["outcome"]) for line in lines][:2] == [("run_dag", "asked"), ("run_dag", "done")]


def test_strangers_that_send_slowly_hold_up_nobody(api: Api) -> None:
    half = b"POST /dags/x/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
    with serving(api) as server, ExitStack() as stack:
        address = (server.client.base_url.host, server.client.base_url.port or 80)
        for _ in range(150):
            stack.enter_context(socket.create_connection(address, timeout=10)).sendall(half)

        def start(client: httpx.Client) -> int:
            return client.post(f"/dags/{NO_DAG}/runs", json=HARMLESS, headers=api.key("admin")).status_code

        wait_until(lambda: start(server.client) == 503, "their bodies to be on their way", 5)
        assert server.client.get("/dags", headers=api.key("admin")).status_code == 200
        elsewhere = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(base_url=server.client.base_url, transport=elsewhere, timeout=30, trust_env=False) as other:
            assert start(other) == 404


def test_strangers_that_take_no_answer_hold_up_nobody(api: Api) -> None:
    page = b"GET /static-offline-docs/redoc.standalone.js HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(api) as server, ExitStack() as stack:
        address = (server.client.base_url.host, server.client.base_url.port or 80)
        for _ in range(110):
            stranger = stack.enter_context(socket.socket())
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stranger.connect(address)
            stranger.sendall(12 * page)

        def are_waiting() -> bool:
            return len([one for one in psutil.Process(server.process.pid).open_files() if "redoc" in one.path]) > 100

        wait_until(are_waiting, "their answers to be on their way", 10)
        assert server.client.get("/dags", headers=api.key("admin")).status_code == 200


def test_a_body_that_trickles_in_is_given_up(api: Api) -> None:
    with serving(api, LAKEHOUSE_API__REQUEST_TIMEOUT_SECONDS="0.5") as server:
        address = (server.client.base_url.host, server.client.base_url.port or 80)
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(b"POST /dags/x/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 408 ")
    assert "urn:lakehouse:problem:slow-request" in answer


class Nonsense(http.server.BaseHTTPRequestHandler):
    """Something that is not Airflow: the path begins with what it answers."""

    asked: list[str]

    def answer(self) -> None:
        self.asked.append(self.path)
        kind = self.path.split("/")[1]
        if self.path.endswith("/auth/token") and kind != "login":
            self.say(201, b'{"access_token": "x"}')
        elif kind == "page":
            self.say(200, b"<html>welcome</html>", "text/html")
        elif kind == "other":
            self.say(200, b'{"dags": [{"id": 1}], "total_entries": 1}')
        elif kind == "redirect":
            self.say(302, b"", location=f"http://127.0.0.1:{self.server.server_address[1]}/elsewhere")
        else:
            self.say(403, b'{"detail": "the secret\nof Airflow"}')

    do_GET = do_POST = answer  # noqa: N815 - as http.server calls them

    def say(self, status: int, body: bytes, media_type: str = "application/json", location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def nonsense() -> Iterator[str]:
    Nonsense.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nonsense) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("kind", ["page", "other", "redirect", "refusal", "login"])
def test_what_is_not_airflow_is_told_as_such(
    nonsense: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    airflow = AirflowSettings.model_validate({"url": f"{nonsense}/{kind}"})
    api = api_of(Settings(home=tmp_path, airflow=airflow), tmp_path)
    with TestClient(make(api.settings)) as client:
        answer = client.get("/dags", headers=api.key("viewer"))
    assert (answer.status_code, answer.json()["type"]) == (502, "urn:lakehouse:problem:airflow-nonsense")
    assert "secret" not in answer.text
    assert [one for one in caplog.messages if "\n" in one] == []  # what it repeats makes no line of our log
    assert "/elsewhere" not in Nonsense.asked  # the token stays where it belongs


class Forgetful(http.server.BaseHTTPRequestHandler):
    """Passes requests on to Airflow, but answers one that starts a run not at all, or by a page."""

    airflow: str
    passes_on: bool
    says: bytes
    starts: int

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_start = self.command == "POST" and self.path.endswith("/dagRuns")
        Forgetful.starts += is_start
        if is_start and not self.passes_on:
            self.wfile.write(self.says)
            self.close_connection = True
            return
        wanted = {name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers}
        answer = httpx.request(
            self.command, self.airflow + self.path, content=body, headers=wanted, timeout=30, trust_env=False
        )
        if is_start:
            self.wfile.write(self.says)
            self.close_connection = True
            return
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_POST = forward  # noqa: N815 - as http.server calls them

    def log_message(self, *_: object) -> None:
        pass


PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 7\r\nConnection: close\r\n\r\n<html/>"


@contextmanager
def forgetful(full_stack: Settings, tmp_path: Path, *, passes_on: bool, says: bytes) -> Generator[TestClient]:
    """An API whose admin asks an Airflow that answers no start."""
    Forgetful.airflow, Forgetful.passes_on = full_stack.airflow.url, passes_on
    Forgetful.says, Forgetful.starts = says, 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forgetful) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        airflow = full_stack.airflow.model_copy(update={"url": url})
        api = api_of(full_stack.model_copy(update={"airflow": airflow}), tmp_path)
        with TestClient(make(api.settings), headers=api.key("admin")) as client:
            yield client
        server.shutdown()


@pytest.mark.parametrize("says", [b"", PAGE], ids=["lost", "a page"])
def test_a_key_stands_for_one_conf_even_if_the_answer_gets_lost_on_its_way(
    full_stack: Settings, admin: Ask, tmp_path: Path, says: bytes
) -> None:
    key = {"Idempotency-Key": f"test-{time.time_ns()}"}
    first = admin("POST", f"/dags/{DAG}/runs", json=HARMLESS, headers=key)
    with forgetful(full_stack, tmp_path, passes_on=True, says=says) as client:
        again = client.post(f"/dags/{DAG}/runs", json=HARMLESS, headers=key)
        other = client.post(f"/dags/{DAG}/runs", json={"conf": {"dry_run": False}}, headers=key)
    assert admin("DELETE", first.headers["location"], params={"force": True}).status_code == 204
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 422)
    assert again.headers["location"] == first.headers["location"]
    assert other.json()["type"] == "urn:lakehouse:problem:idempotency-key-reused"


@pytest.mark.parametrize("says", [b"", PAGE], ids=["lost", "a page"])
@pytest.mark.parametrize("passes_on", [True, False], ids=["after it began", "before it began"])
def test_a_start_whose_answer_gets_lost_is_looked_for_and_never_sent_again(
    full_stack: Settings, admin: Ask, tmp_path: Path, says: bytes, *, passes_on: bool
) -> None:
    with forgetful(full_stack, tmp_path, passes_on=passes_on, says=says) as client:
        answer = client.post(f"/dags/{DAG}/runs", json=HARMLESS)
    assert Forgetful.starts == 1
    if passes_on:
        assert answer.status_code == 201
        assert admin("DELETE", answer.headers["location"], params={"force": True}).status_code == 204
    else:
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:lakehouse:problem:start-unknown")
        path = re.search(r"GET (/\S+) tells", answer.json()["detail"])
        assert path
        assert "asking again may start a second one" in answer.json()["detail"]
        assert admin("GET", path[1]).status_code == 404


def test_a_wrong_login_to_airflow_is_not_the_callers_fault(full_stack: Settings, tmp_path: Path) -> None:
    wrong = full_stack.airflow.model_copy(update={"password": SecretStr("not-the-password")})
    api = api_of(full_stack.model_copy(update={"airflow": wrong}), tmp_path)
    with TestClient(make(api.settings)) as client:
        answer = client.get("/dags", headers=api.key("viewer"))
    assert answer.status_code == 502
    assert "not-the-password" not in answer.text


def test_every_example_of_the_page_works(client: httpx.Client, api: Api) -> None:
    page = (PROJECT_ROOT / "docs" / "control-api.md").read_text()
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    assert script.count("curl ") == 11
    own = script.replace("http://127.0.0.1:18086", str(client.base_url).rstrip("/"))
    environment = os.environ | {
        "LAKEHOUSE_API__CALLERS_FILE": str(api.settings.api_callers_file),
        "LAKEHOUSE_API__JWT_SECRET": api.settings.api.jwt_secret.get_secret_value(),
    }
    done = subprocess.run(
        ["/bin/sh", "-eu", "-c", own],
        cwd=PROJECT_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"gone":true' in done.stdout


@SCHEMA.parametrize()
@hypothesis.settings(max_examples=20, database=None, derandomize=True)
def test_the_server_does_what_its_schema_says(case: schemathesis.Case, client: httpx.Client, api: Api) -> None:
    for role in ("viewer", "operator"):  # neither can start anything: the one may not, the other sees no DAG
        case.call_and_validate(base_url=str(client.base_url), headers=api.key(role))


def test_a_run_that_begins_stops_and_goes_is_answered_as_the_schema_says(client: httpx.Client, api: Api) -> None:
    def answered(method: str, path: str, run_id: str = "", **more: Any) -> Any:
        case = SCHEMA[path][method].Case(path_parameters={"dag_id": DAG, "run_id": run_id}, **more)
        return case.call_and_validate(base_url=str(client.base_url), headers=api.key("admin"))

    begun = answered("POST", "/dags/{dag_id}/runs", body=HARMLESS)
    run_id = begun.json()["run_id"]
    one = "/dags/{dag_id}/runs/{run_id}"
    stopped = answered("POST", f"{one}/stop", run_id)
    gone = answered("DELETE", one, run_id, query={"force": "true"})
    assert [answer.status_code for answer in (begun, stopped, gone)] == [201, 200, 204]
