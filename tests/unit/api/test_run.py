"""Starting a run whose answer gets lost: none is started twice, and the caller learns where it is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from lakehouse.adapters.airflow import AirflowRefusedError
from lakehouse.adapters.airflow_runs import AirflowAnswerError, Dag, DagRun
from lakehouse.api import routes
from lakehouse.api.app import make
from lakehouse.errors import LakehouseError, ServerUnavailableError, SettingsError
from tests.apis import Api
from tests.unit.api.test_edge import problem_of

PATH = "/dags/transform/runs"
LOST = ServerUnavailableError("no answer came")
NONSENSE = AirflowAnswerError("a proxy answers")


@dataclass
class Forgetful:
    """An Airflow that starts runs; what it then answers, and whether it lets itself be looked at, a test says."""

    runs: dict[str, DagRun] = field(default_factory=dict)
    answer: LakehouseError | None = None
    starts: bool = True
    look: LakehouseError | None = None

    def dag(self, dag_id: str) -> Dag:
        return Dag(dag_id, None, False, None, None, (), {"free": {"value": 1}})

    def start(self, dag_id: str, run_id: str, conf: Mapping[str, Any], note: str) -> DagRun:
        taken = run_id in self.runs
        if self.starts and not taken:
            self.runs[run_id] = DagRun(dag_id, run_id, "queued", "manual", conf, note, None, None, None)
        if self.answer:
            raise self.answer
        if taken:
            raise AirflowRefusedError("there is such a run", 409)
        return self.runs[run_id]

    def run(self, dag_id: str, run_id: str) -> DagRun:
        if self.look:
            raise self.look
        if run_id not in self.runs:
            raise AirflowRefusedError(f"{dag_id} has no such run", 404)
        return self.runs[run_id]


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Forgetful:
    found = Forgetful()

    def connected(_connection: object, _seconds: float) -> Forgetful:
        return found

    monkeypatch.setattr(routes, "AirflowRuns", connected)
    return found


@pytest.fixture
def client(api: Api) -> Iterator[TestClient]:
    with TestClient(make(api.settings), headers=api.key("admin")) as found:
        yield found


def asked(client: TestClient, value: int, key: str | None = "once") -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post(PATH, json={"conf": {"free": value}}, headers=headers)


@pytest.mark.parametrize("conf", [b'{"\\ud800": 1}', b'{"free": "\\ud800"}', b'{"free": ["\\ud800"]}'])
def test_half_a_character_is_refused_and_never_a_mistake_of_ours(
    client: TestClient, airflow: Forgetful, conf: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post(PATH, content=b'{"conf": ' + conf + b"}", headers=headers)
    assert (answer.status_code, problem_of(answer)) == (422, "invalid")
    assert airflow.runs == {}


def test_of_a_conf_that_does_not_fit_in_thousands_of_places_the_first_are_told(
    client: TestClient, airflow: Forgetful
) -> None:
    answer = client.post(PATH, json={"conf": {f"x{number}": 1 for number in range(5000)}})
    assert (answer.status_code, len(answer.json()["errors"])) == (422, 100)
    assert airflow.runs == {}


@pytest.mark.parametrize("answer", [LOST, NONSENSE], ids=["lost", "nonsense"])
@pytest.mark.parametrize("key", ["once", None])
def test_a_run_that_began_is_answered_whatever_became_of_airflows_answer(
    client: TestClient, airflow: Forgetful, answer: LakehouseError, key: str | None
) -> None:
    airflow.answer = answer
    begun = asked(client, 1, key)
    assert (begun.status_code, begun.headers["location"]) == (201, f"{PATH}/{begun.json()['run_id']}")
    assert len(airflow.runs) == 1


@pytest.mark.parametrize("answer", [None, LOST, NONSENSE], ids=["taken", "lost", "nonsense"])
def test_a_key_stands_for_one_conf_even_if_the_answer_gets_lost(
    client: TestClient, airflow: Forgetful, answer: LakehouseError | None
) -> None:
    first = asked(client, 1)
    airflow.answer = answer
    again, other = asked(client, 1), asked(client, 2)
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 422)
    assert again.headers["location"] == first.headers["location"]
    assert problem_of(other) == "idempotency-key-reused"
    assert len(airflow.runs) == 1


def test_a_conf_that_airflow_tells_in_other_words_is_still_that_of_its_own_request(
    client: TestClient, airflow: Forgetful, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = airflow.run

    def filled(dag_id: str, run_id: str) -> DagRun:
        return replace(found(dag_id, run_id), conf={"free": 1, "other": None})

    monkeypatch.setattr(airflow, "run", filled)
    airflow.answer = LOST
    assert asked(client, 1).status_code == 201


@pytest.mark.parametrize(
    "look",
    [None, LOST, NONSENSE, AirflowRefusedError("no", 403), SettingsError("no login")],
    ids=["not there", "lost", "nonsense", "refused", "no login"],
)
@pytest.mark.parametrize(("key", "waits"), [("once", "5"), (None, None)])
def test_where_nobody_can_tell_the_path_is_told_and_only_a_key_invites_to_ask_again(
    client: TestClient,
    airflow: Forgetful,
    caplog: pytest.LogCaptureFixture,
    look: LakehouseError | None,
    key: str | None,
    waits: str | None,
) -> None:
    airflow.answer, airflow.starts, airflow.look = LOST, False, look
    answer = asked(client, 1, key)
    assert (answer.status_code, problem_of(answer)) == (503, "start-unknown")
    assert f"GET {PATH}/api__" in answer.json()["detail"]
    assert answer.headers.get("retry-after") == waits
    assert f"request {answer.headers['x-request-id']}: 'no answer came'" in caplog.text


@pytest.mark.parametrize(
    ("words", "status", "kind"),
    [
        ("Dag with dag_id: 'x' has import errors and cannot be triggered", 409, "not-runnable"),
        ("Dag with dag_id: 'x' does not allow manual runs", 409, "not-runnable"),
        ("Invalid input for param free", 422, "invalid"),
    ],
)
def test_a_dag_that_takes_no_run_is_no_fault_of_the_conf_and_airflows_words_are_logged(
    client: TestClient, airflow: Forgetful, caplog: pytest.LogCaptureFixture, words: str, status: int, kind: str
) -> None:
    airflow.answer, airflow.starts = AirflowRefusedError(f"Airflow answers 400: {words}", 400), False
    answer = asked(client, 1)
    assert (answer.status_code, problem_of(answer)) == (status, kind)
    assert answer.headers["x-request-id"] in caplog.text
    assert words in caplog.text
    assert words not in answer.text
