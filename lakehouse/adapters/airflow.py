"""Airflow's REST API: trigger a run, follow it, stop it, and say why it failed."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from lakehouse.errors import LakehouseError, ServerUnavailableError, SettingsError, TerminalError
from lakehouse.settings import AirflowSettings

FINISHED_STATES = frozenset({"success", "failed"})
POLL_SECONDS = 1.0
UNAUTHORIZED, NOT_FOUND, CONFLICT = 401, 404, 409
REFUSED_LOGINS = frozenset({400, 401, 403})
PASSING_FAULTS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One run of a DAG; key: `dag_id`, `run_id`.

    Attributes:
        state: `queued`, `running`, `success` or `failed`.
    """

    dag_id: str
    run_id: str
    state: str

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self.state in FINISHED_STATES


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One task of a run.

    Attributes:
        state: Airflow's word for it (`running`, `up_for_retry`, `skipped`, …); `none` before it is scheduled.
        try_number: of the latest attempt, from 1; 0 before the first.
    """

    task_id: str
    state: str
    try_number: int


class Airflow:
    """A client of one Airflow API server; logs in at the first call, and again when the token has run out.

    Every method raises these:

    Raises:
        ServerUnavailableError: the server can't be reached or answers with a passing fault.
        SettingsError: the login is refused.
        TerminalError: the server refuses the request, for example because there is no such DAG.
    """

    def __init__(self, settings: AirflowSettings, timeout_seconds: float = 30) -> None:
        self._settings = settings
        self._timeout_seconds = timeout_seconds
        self._token = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @functools.cached_property
    def _http(self) -> httpx.Client:
        # A proxy from the environment must not see the token, and would not find a server on the loopback.
        return httpx.Client(base_url=self._settings.url, timeout=self._timeout_seconds, trust_env=False)

    def version(self) -> str:
        """Return the version of the server; needs no login."""
        return self._send("GET", "/api/v2/version", login=False)["version"]

    def health(self) -> dict[str, str]:
        """Return the health of each part by its name (`scheduler`, `triggerer`, `dag_processor`, `metadatabase`).

        `healthy` means a heartbeat in the last 30 seconds.
        Needs no login.
        """
        answer = self._send("GET", "/api/v2/monitor/health", login=False)
        return {part: facts.get("status") or "unhealthy" for part, facts in answer.items()}

    def dag_ids(self) -> frozenset[str]:
        """Return the ids of the DAGs that the DAG processor has read without an error."""
        answer = self._send("GET", "/api/v2/dags", query={"limit": 100, "exclude_stale": True})
        return frozenset(dag["dag_id"] for dag in answer["dags"] if not dag["has_import_errors"])

    def import_errors(self) -> dict[str, str]:
        """Return the traceback of each DAG file that can't be imported, by its file name."""
        answer = self._send("GET", "/api/v2/importErrors", query={"limit": 100})
        return {error["filename"]: error["stack_trace"] for error in answer["import_errors"]}

    def trigger(self, dag_id: str, run_id: str, conf: Mapping[str, Any] | None = None) -> Run:
        """Start a run of `dag_id`, or return the one that already has this `run_id`."""
        path = f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns"
        # The API demands the key `logical_date`; null says that the run stands for no interval.
        body = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf or {})}
        answer = self._request("POST", path, body=body)
        if answer.status_code == CONFLICT:
            return self.run(dag_id, run_id)
        return _run(_json(answer))

    def run(self, dag_id: str, run_id: str) -> Run:
        """Return the run as it is now."""
        return _run(self._send("GET", _run_path(dag_id, run_id)))

    def wait(
        self,
        dag_id: str,
        run_id: str,
        timeout_seconds: float,
        on_change: Callable[[Run, tuple[Task, ...]], None] | None = None,
    ) -> Run:
        """Wait until the run has finished, well or badly, and return it.

        Servers that restart meanwhile are waited for.

        Args:
            dag_id: of the run.
            run_id: of the run.
            timeout_seconds: how long to wait at most.
            on_change: called with the run and its tasks whenever one of their states has changed.

        Raises:
            ServerUnavailableError: the run has not finished in time, or the server stayed away until then.
        """
        deadline = time.monotonic() + timeout_seconds
        seen: tuple[Run, tuple[Task, ...]] | None = None
        while True:
            absence: ServerUnavailableError | None = None
            try:
                # The tasks first: once the run has finished, they are read after their last change.
                tasks = self.tasks(dag_id, run_id)
                run = self.run(dag_id, run_id)
                if run.finished:
                    tasks = self.tasks(dag_id, run_id)
                if (run, tasks) != seen and on_change is not None:
                    on_change(run, tasks)
                seen = run, tasks
                if run.finished:
                    return run
            except ServerUnavailableError as error:
                absence = error
            if time.monotonic() >= deadline:
                if absence is not None:
                    raise absence
                raise ServerUnavailableError(
                    f"run {run_id} of {dag_id} is still {seen[0].state if seen else 'unknown'} "
                    f"after {timeout_seconds:.0f} s: open {self._settings.url}/dags/{dag_id}/runs/{run_id}"
                )
            time.sleep(POLL_SECONDS)

    def tasks(self, dag_id: str, run_id: str) -> tuple[Task, ...]:
        """Return the tasks of the run, ordered by their ids."""
        answer = self._send("GET", f"{_run_path(dag_id, run_id)}/taskInstances", query={"limit": 100})
        tasks = [Task(t["task_id"], t["state"] or "none", t["try_number"]) for t in answer["task_instances"]]
        return tuple(sorted(tasks, key=lambda task: task.task_id))

    def result(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any] | None:
        """Return what a task gave back; None when it gave nothing, as one that was skipped."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task_id, safe='')}/xcomEntries/return_value"
        answer = self._request("GET", path, query={"deserialize": False})
        if answer.status_code == NOT_FOUND:
            return None
        value = _json(answer)["value"]
        return json.loads(value) if isinstance(value, str) else value

    def log_tail(self, dag_id: str, run_id: str, task: Task, lines: int = 40) -> str:
        """Return the last lines of the log of the task's latest attempt; empty when it never started."""
        if task.try_number < 1:
            return ""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task.task_id, safe='')}/logs/{task.try_number}"
        answer = self._send("GET", path, query={"full_content": True})
        shown = [line for entry in answer["content"] for line in _log_lines(entry)]
        return "\n".join(shown[-lines:])

    def failure(self, dag_id: str, run_id: str, lines: int = 40) -> str:
        """Return the log tail of the first failed task of the run; empty when none failed."""
        for task in self.tasks(dag_id, run_id):
            if task.state == "failed":
                return f"task {task.task_id}, attempt {task.try_number}:\n{self.log_tail(dag_id, run_id, task, lines)}"
        return ""

    def runs_caused_by(self, dag_id: str, run_id: str) -> tuple[Run, ...]:
        """Return the runs of other DAGs that the assets updated by this run have started so far.

        The scheduler creates them some seconds after the run has finished.
        """
        query = {"source_dag_id": dag_id, "source_run_id": run_id, "limit": 100}
        answer = self._send("GET", "/api/v2/assets/events", query=query)
        caused = [run for event in answer["asset_events"] for run in event["created_dagruns"]]
        return tuple(Run(run["dag_id"], run["run_id"], run["state"]) for run in caused)

    def stop(self, dag_id: str, run_id: str) -> Run:
        """Mark the run as failed if it has not finished; its tasks get SIGTERM within about ten seconds."""
        run = self.run(dag_id, run_id)
        if run.finished:  # the same request would turn a success into a failure
            return run
        return _run(self._send("PATCH", _run_path(dag_id, run_id), body={"state": "failed"}))

    def ensure_pool(self, name: str, slots: int, description: str) -> None:
        """Create the pool unless there is one of this name; its slots then stay as somebody set them."""
        body = {"name": name, "slots": slots, "description": description, "include_deferred": False}
        answer = self._request("POST", "/api/v2/pools", body=body)
        if answer.status_code != CONFLICT:
            _json(answer)

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int | bool] | None = None,
        body: Mapping[str, Any] | None = None,
        login: bool = True,
    ) -> dict[str, Any]:
        return _json(self._request(method, path, query=query, body=body, login=login))

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int | bool] | None = None,
        body: Mapping[str, Any] | None = None,
        login: bool = True,
    ) -> httpx.Response:
        try:
            if login and not self._token:
                self._log_in()
            answer = self._once(method, path, query, body)
            if login and answer.status_code == UNAUTHORIZED:
                self._log_in()
                answer = self._once(method, path, query, body)
        except httpx.TransportError as error:
            raise ServerUnavailableError(
                f"Airflow at {self._settings.url} does not answer ({type(error).__name__}): "
                "start it with `lakehouse stack up --profile full`, or look at `lakehouse stack status`"
            ) from error
        return answer

    def _once(
        self, method: str, path: str, query: Mapping[str, str | int | bool] | None, body: Mapping[str, Any] | None
    ) -> httpx.Response:
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        return self._http.request(method, path, params=query, json=body, headers=headers)

    def _log_in(self) -> None:
        self._token = ""
        login = {"username": self._settings.user, "password": self._settings.password.get_secret_value()}
        answer = self._once("POST", "/auth/token", None, login)
        if answer.status_code in REFUSED_LOGINS:
            raise SettingsError(
                f"Airflow at {self._settings.url} refuses the login of user {self._settings.user!r}: "
                "set LAKEHOUSE_AIRFLOW__USER and LAKEHOUSE_AIRFLOW__PASSWORD to an account of its UI"
            )
        self._token = _json(answer)["access_token"]


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"


def _run(answer: Mapping[str, Any]) -> Run:
    return Run(answer["dag_id"], answer["dag_run_id"], answer["state"])


def _log_lines(entry: str | Mapping[str, Any]) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    # Entries without a time only say where the log lies.
    if "timestamp" not in entry or entry["event"].startswith(("::group::", "::endgroup::")):
        return []
    details: list[dict[str, str]] = entry.get("error_detail") or []
    errors = [f"{detail['exc_type']}: {detail['exc_value']}" for detail in details]
    return [entry["event"], *errors]


def _json(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_success:
        return answer.json()
    raise _refusal(answer)


def _refusal(answer: httpx.Response) -> LakehouseError:
    kind = ServerUnavailableError if answer.status_code in PASSING_FAULTS else TerminalError
    request = answer.request
    return kind(f"Airflow answers {answer.status_code} to {request.method} {request.url.path}: {answer.text[:500]}")
