"""The clients of Airflow's REST API, against the real servers."""

import uuid
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from pydantic import SecretStr

from lakehouse.adapters import airflow as adapter
from lakehouse.adapters.airflow import Airflow, Run, Task
from lakehouse.adapters.airflow_runs import AirflowRuns, Connection
from lakehouse.errors import ServerUnavailableError, SettingsError, TerminalError
from lakehouse.settings import AirflowSettings, Settings

pytestmark = pytest.mark.integration

DAG_ID = "ingest_user_actions"


@pytest.fixture(scope="module")
def finished(airflow: Airflow) -> Run:
    """A run that has finished; how, depends on what is in Kafka."""
    run_id = f"contract-{uuid.uuid4()}"
    airflow.trigger(DAG_ID, run_id)
    return airflow.wait(DAG_ID, run_id, timeout_seconds=600)


def test_every_part_is_healthy(airflow: Airflow) -> None:
    parts = ("metadatabase", "scheduler", "dag_processor", "triggerer")
    assert airflow.health() == dict.fromkeys(parts, "healthy")
    assert airflow.version().startswith("3.")


def test_the_dag_processor_has_read_every_dag(airflow: Airflow) -> None:
    assert airflow.import_errors() == {}
    dags = {"ingest_user_actions", "transform", "maintain_tables", "archive_events", "collect_queries"}
    assert airflow.dag_ids() >= dags


def test_dags_beyond_the_first_page_are_listed_too(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, paused = airflow.dag_ids(), airflow.paused()
    assert len(listed) > 2
    monkeypatch.setattr(adapter, "PAGE", 2)
    assert (airflow.dag_ids(), airflow.paused()) == (listed, paused)


def test_a_run_id_starts_one_run_only(airflow: Airflow, finished: Run) -> None:
    assert airflow.trigger(DAG_ID, finished.run_id) == finished


def test_waiting_reports_each_change_and_ends_with_the_final_state(airflow: Airflow, finished: Run) -> None:
    seen: list[tuple[Run, tuple[Task, ...]]] = []
    assert airflow.wait(DAG_ID, finished.run_id, 10, on_change=lambda *change: seen.append(change)) == finished
    ((run, (task,)),) = seen
    assert run == finished
    assert (task.task_id, task.state in {"success", "skipped", "failed"}) == ("ingest", True)


def test_a_finished_run_is_among_those_that_ended_since_its_end(airflow: Airflow, finished: Run) -> None:
    (newest,) = airflow.past_runs([DAG_ID], most=1)
    assert newest.dag_id == DAG_ID
    assert newest.prefix == ""
    assert newest.seconds > 0
    ended = airflow.past_runs(since=newest.ended_at)
    assert newest in ended
    assert all(run.ended_at >= newest.ended_at for run in ended)
    assert all(run.succeeded for run in airflow.past_runs([DAG_ID], {"success"}))


def test_a_run_is_late_from_its_deadline_on_and_for_its_environment_alone(airflow: Airflow) -> None:
    prefix = f"test_{uuid.uuid4().hex[:8]}_"
    run_id = f"contract-{uuid.uuid4()}"
    airflow.trigger(DAG_ID, run_id, {"prefix": prefix})
    now = datetime.now(UTC)
    try:
        deadline = now + timedelta(minutes=30)  # of this DAG
        assert airflow.late_runs(deadline - timedelta(minutes=1), prefix) == {}
        assert airflow.late_runs(deadline + timedelta(minutes=1), prefix) == {DAG_ID: 1}
        assert airflow.late_runs(deadline + timedelta(minutes=1), f"other_{prefix}") == {}
    finally:
        airflow.stop(DAG_ID, run_id)


def test_each_dag_is_paused_or_not(airflow: Airflow) -> None:
    assert airflow.paused().keys() >= airflow.dag_ids()


def test_only_a_failed_run_has_a_failure_to_show(airflow: Airflow, finished: Run) -> None:
    assert bool(airflow.failure(DAG_ID, finished.run_id)) == (finished.state == "failed")
    (task,) = airflow.tasks(DAG_ID, finished.run_id)
    assert "Running: lakehouse ingest run" in airflow.log_tail(DAG_ID, finished.run_id, task, lines=100_000)
    assert len(airflow.log_tail(DAG_ID, finished.run_id, task, lines=1).splitlines()) == 1


def test_stopping_a_finished_run_leaves_its_state(airflow: Airflow, finished: Run) -> None:
    assert airflow.stop(DAG_ID, finished.run_id) == finished


def test_a_stopped_run_has_failed(airflow: Airflow) -> None:
    run_id = f"contract-{uuid.uuid4()}"
    airflow.trigger(DAG_ID, run_id)
    assert airflow.stop(DAG_ID, run_id).state == "failed"
    assert airflow.run(DAG_ID, run_id).state == "failed"


def test_waiting_for_a_run_that_takes_longer_is_transient(airflow: Airflow) -> None:
    run_id = f"contract-{uuid.uuid4()}"
    airflow.trigger(DAG_ID, run_id)
    with pytest.raises(ServerUnavailableError, match=f"run {run_id} of {DAG_ID} is still"):
        airflow.wait(DAG_ID, run_id, timeout_seconds=0)
    airflow.stop(DAG_ID, run_id)


def test_an_unknown_dag_or_run_is_terminal(airflow: Airflow) -> None:
    with pytest.raises(TerminalError, match="404"):
        airflow.trigger("no_such_dag", "run")
    with pytest.raises(TerminalError, match="404"):
        airflow.run(DAG_ID, "no such run")


def test_a_pool_is_made_once(airflow: Airflow) -> None:
    for _ in range(2):
        airflow.ensure_pool("transform", 1, "One dbt writer at a time")


def test_a_wrong_password_is_a_settings_error_that_does_not_show_it(full_stack: Settings) -> None:
    wrong = full_stack.airflow.model_copy(update={"password": SecretStr("not-the-password")})
    with Airflow(wrong) as client, pytest.raises(SettingsError, match="refuses the login") as raised:
        client.dag_ids()
    assert "not-the-password" not in str(raised.value)


def test_a_server_that_is_away_is_transient() -> None:
    nobody = AirflowSettings.model_validate({"url": "http://127.0.0.1:1"})
    with Airflow(nobody) as client, pytest.raises(ServerUnavailableError, match="stack up"):
        client.dag_ids()


def test_links_to_logs_lead_to_where_people_open_the_pages(full_stack: Settings, finished: Run) -> None:
    public = full_stack.airflow.model_copy(update={"public_url": "https://airflow.example.com/data/"})
    connection = Connection(public)
    (task,) = AirflowRuns(connection, 30).tasks(DAG_ID, finished.run_id)
    connection.close()
    path = f"dags/{DAG_ID}/runs/{finished.run_id}/tasks/ingest?try_number=1"
    assert task.log_url == f"https://airflow.example.com/data/{path}"


@pytest.mark.filterwarnings("ignore:The HMAC key")  # that key is Airflow's, and so is the algorithm
@pytest.mark.parametrize("refused", ["run out", "of another secret"])
def test_a_token_that_is_refused_is_asked_for_anew_by_both_clients(
    full_stack: Settings, airflow: Airflow, refused: str
) -> None:
    connection = Connection(full_stack.airflow)
    connection.log_in(_request_timeout=30)
    token = connection.api.configuration.access_token
    assert token
    claims = jwt.decode(token, options={"verify_signature": False})
    secret = full_stack.stack.airflow_jwt_secret.get_secret_value()
    if refused == "run out":
        past = datetime.now(UTC) - timedelta(days=1)
        claims |= {"iat": past, "nbf": past, "exp": past}
    else:
        secret = secret[::-1]
    old = jwt.encode(claims, secret, jwt.get_unverified_header(token)["alg"])
    airflow._token = connection.api.configuration.access_token = old
    listed = {dag.dag_id for dag in AirflowRuns(connection, 30).dags()}
    connection.close()
    assert listed >= airflow.dag_ids()
    assert old not in (connection.api.configuration.access_token, airflow._token)


def test_a_wrong_password_is_told_alike_by_both_clients(full_stack: Settings) -> None:
    connection = Connection(full_stack.airflow.model_copy(update={"password": SecretStr("not-the-password")}))
    with pytest.raises(SettingsError, match="refuses the login") as raised:
        AirflowRuns(connection, 30).dags()
    connection.close()
    assert "not-the-password" not in str(raised.value)
