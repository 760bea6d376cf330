"""Airflow's REST API: trigger a run, follow it, stop it, and say why it failed."""

import dataclasses
import functools
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import tenacity

from lakehouse.errors import LakehouseError, ServerUnavailableError, SettingsError, TerminalError
from lakehouse.settings import AirflowSettings

FINISHED_STATES = frozenset({"success", "failed"})
POLL_SECONDS = 1.0
PAGE = 100
"""Airflow lists no more at a time."""
NOT_FOUND, CONFLICT = 404, 409
REFUSED_TOKENS = frozenset({401, 403})
"""What Airflow answers to a token that has run out, and to one that it can't verify, such as after a new secret."""
LOGIN = "/auth/token"
REFUSED_LOGINS = frozenset({400, 401, 403})
PASSING_FAULTS = frozenset({408, 425, 429, 500, 502, 503, 504})


stubbornly = tenacity.retry(
    retry=tenacity.retry_if_exception_type(ServerUnavailableError),
    stop=tenacity.stop_after_attempt(3),
    wait=tenacity.wait_fixed(POLL_SECONDS),
    reraise=True,
)
"""For stopping a run: while the scheduler writes of the same run, the database may let Airflow's answer be a 500."""


class AirflowRefusedError(TerminalError):
    """Airflow understood a request and refuses it; `status` is the code of its answer."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


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


@dataclasses.dataclass(frozen=True, slots=True)
class PastRun:
    """A run that has finished, well or badly.

    Attributes:
        prefix: of the environment that the run was for; empty for the main one.
        seconds: from start to end.
    """

    dag_id: str
    succeeded: bool
    ended_at: datetime
    seconds: float
    prefix: str


class Airflow:
    """A client of one Airflow API server; logs in at the first call, and again when the token has run out.

    Every method raises these:

    Raises:
        ServerUnavailableError: the server can't be reached or answers with a passing fault.
        SettingsError: the login is refused.
        AirflowRefusedError: the server refuses the request, for example because there is no such DAG.
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
        return frozenset(dag["dag_id"] for dag in self._dags() if not dag["has_import_errors"])

    def paused(self) -> dict[str, bool]:
        """Say of each DAG that is not gone whether it is paused, by its id."""
        return {dag["dag_id"]: dag["is_paused"] for dag in self._dags()}

    def _dags(self) -> list[dict[str, Any]]:
        """All DAGs that are not gone, page by page."""
        found: list[dict[str, Any]] = []
        while True:
            query = {"limit": PAGE, "offset": len(found), "exclude_stale": True}
            answer = self._send("GET", "/api/v2/dags", query=query)
            found += answer["dags"]
            if not answer["dags"] or len(found) >= answer["total_entries"]:
                return found

    def past_runs(
        self,
        dag_ids: Collection[str] = (),
        states: Collection[str] = FINISHED_STATES,
        *,
        since: datetime | None = None,
        most: int = PAGE,
    ) -> tuple[PastRun, ...]:
        """List runs that have finished, the one that ended last first.

        Args:
            dag_ids: only of these DAGs, if any is named.
            states: only those that ended so.
            since: only those that ended at this moment or later.
            most: so many at most.
        """
        body = {"dag_ids": sorted(dag_ids), "states": sorted(states), "order_by": "-end_date", "page_limit": most}
        ended = {"end_date_gte": since.isoformat()} if since else {}
        runs = self._send("POST", "/api/v2/dags/~/dagRuns/list", body=body | ended)["dag_runs"]
        return tuple(_past_run(run) for run in runs if run["end_date"])

    def late_runs(self, now: datetime, prefix: str) -> Counter[str]:
        """Count the runs for an environment that go on past their deadline, by DAG."""
        body = {"states": ["queued", "running"], "page_limit": PAGE}
        running = self._send("POST", "/api/v2/dags/~/dagRuns/list", body=body)["dag_runs"]
        return Counter(run["dag_id"] for run in running if _prefix(run) == prefix and self._is_late(run, now))

    def _is_late(self, run: Mapping[str, Any], now: datetime) -> bool:
        # The public API tells no deadlines; this is what Airflow's own pages ask.
        path = _run_path(run["dag_id"], run["dag_run_id"]).replace("/api/v2/", "/ui/")
        query = {"limit": 1, "deadline_time_lt": now.isoformat()}
        return bool(self._send("GET", f"{path}/deadlines", query=query)["total_entries"])

    def import_errors(self) -> dict[str, str]:
        """Return the traceback of each DAG file that can't be imported, by its file name."""
        answer = self._send("GET", "/api/v2/importErrors", query={"limit": PAGE})
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
                    f"after {timeout_seconds:.0f} s: open {self._settings.pages_url}/dags/{dag_id}/runs/{run_id}"
                )
            time.sleep(POLL_SECONDS)

    def tasks(self, dag_id: str, run_id: str) -> tuple[Task, ...]:
        """Return the tasks of the run, ordered by their ids."""
        answer = self._send("GET", f"{_run_path(dag_id, run_id)}/taskInstances", query={"limit": PAGE})
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
        query = {"source_dag_id": dag_id, "source_run_id": run_id, "limit": PAGE}
        answer = self._send("GET", "/api/v2/assets/events", query=query)
        caused = [run for event in answer["asset_events"] for run in event["created_dagruns"]]
        return tuple(Run(run["dag_id"], run["run_id"], run["state"]) for run in caused)

    @stubbornly
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
        if login and not self._token:
            self._log_in()
        answer = self._once(method, path, query, body)
        if login and answer.status_code in REFUSED_TOKENS:
            self._log_in()
            answer = self._once(method, path, query, body)
        return answer

    def _once(
        self, method: str, path: str, query: Mapping[str, str | int | bool] | None, body: Mapping[str, Any] | None
    ) -> httpx.Response:
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            return self._http.request(method, path, params=query, json=body, headers=headers)
        except httpx.RequestError as error:
            raise absence(self._settings, error) from error

    def _log_in(self) -> None:
        self._token = ""
        answer = self._once("POST", LOGIN, None, login_of(self._settings))
        if answer.status_code in REFUSED_LOGINS:
            raise refused_login(self._settings)
        self._token = _json(answer)["access_token"]


def login_of(settings: AirflowSettings) -> dict[str, str]:
    """Say what to ask for a token with."""
    return {"username": settings.user, "password": settings.password.get_secret_value()}


def refused_login(settings: AirflowSettings) -> SettingsError:
    """Tell that there is no token for us."""
    return SettingsError(
        f"Airflow at {settings.url} refuses the login of user {settings.user!r}: "
        "set LAKEHOUSE_AIRFLOW__USER and LAKEHOUSE_AIRFLOW__PASSWORD to an account of its UI"
    )


def absence(settings: AirflowSettings, error: Exception) -> ServerUnavailableError:
    """Tell that no answer came."""
    return ServerUnavailableError(
        f"Airflow at {settings.url} does not answer ({type(error).__name__}): "
        "start it with `lakehouse stack up --profile full`, or look at `lakehouse stack status`"
    )


def refusal(status: int, request: str, text: str) -> LakehouseError:
    """Tell that the answer to a request, such as `GET /api/v2/dags`, has this status."""
    message = f"Airflow answers {status} to {request}: {text[:500]}"
    return ServerUnavailableError(message) if status in PASSING_FAULTS else AirflowRefusedError(message, status)


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"


def _run(answer: Mapping[str, Any]) -> Run:
    return Run(answer["dag_id"], answer["dag_run_id"], answer["state"])


def _past_run(answer: Mapping[str, Any]) -> PastRun:
    return PastRun(
        dag_id=answer["dag_id"],
        succeeded=answer["state"] == "success",
        ended_at=datetime.fromisoformat(answer["end_date"]),
        seconds=answer["duration"] or 0.0,
        prefix=_prefix(answer),
    )


def _prefix(answer: Mapping[str, Any]) -> str:
    return (answer["conf"] or {}).get("prefix") or ""


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
    raise refusal(answer.status_code, f"{answer.request.method} {answer.request.url.path}", answer.text)
