"""Airflow's DAGs and runs through its official client, with all that the DAG control API tells of them.

Commands use the few calls of `lakehouse.adapters.airflow` instead: importing the official client takes seconds.
The words of an error are the same.
"""

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

import urllib3
from airflow_client import client
from airflow_client.client.exceptions import ApiException, OpenApiException

from lakehouse.adapters import deadlines
from lakehouse.adapters.airflow import (
    FINISHED_STATES,
    LOGIN,
    PAGE,
    REFUSED_LOGINS,
    REFUSED_TOKENS,
    AirflowRefusedError,
    absence,
    login_of,
    refusal,
    refused_login,
    stubbornly,
)
from lakehouse.errors import ServerUnavailableError, TransientError
from lakehouse.settings import AirflowSettings

Found = TypeVar("Found")


class AirflowAnswerError(TransientError):
    """Airflow's answer can't be understood: something else may stand at its address, or another version of it."""


@dataclass(frozen=True, slots=True)
class Dag:
    """A DAG; key: `dag_id`.

    Attributes:
        schedule: in words; None when only triggers start it.
        params: what a run can be given, by name; each with `value`, its default, `schema`, a JSON schema, and
            `description`. None in a list of DAGs, which does not tell.
    """

    dag_id: str
    description: str | None
    is_paused: bool
    schedule: str | None
    next_run_at: datetime | None
    tags: tuple[str, ...]
    params: Mapping[str, Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class DagRun:
    """A run of a DAG; key: `dag_id`, `run_id`.

    Attributes:
        state: `queued`, `running`, `success` or `failed`.
        run_type: `manual`, `scheduled`, `asset_triggered`, `backfill`, …
        conf: what it was given.
    """

    dag_id: str
    run_id: str
    state: str
    run_type: str
    conf: Mapping[str, Any]
    note: str | None
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self.state in FINISHED_STATES


@dataclass(frozen=True, slots=True)
class TaskRun:
    """A task of a run; key: `task_id`, `map_index`.

    Attributes:
        map_index: which one of a mapped task; -1 of any other.
        state: Airflow's word for it; `none` before it is scheduled.
        try_number: of the latest attempt, from 1; 0 before the first.
        hostname: of the machine of that attempt; empty before it starts.
        pid: of the attempt's process there; None before it starts.
        log_url: of the page that shows the attempt's log.
    """

    task_id: str
    map_index: int
    state: str
    try_number: int
    started_at: datetime | None
    ended_at: datetime | None
    hostname: str
    pid: int | None
    log_url: str


class Connection:
    """A logged-in connection to one Airflow, for any number of threads."""

    def __init__(self, settings: AirflowSettings) -> None:
        self.settings = settings
        configuration = client.Configuration(
            host=settings.url.rstrip("/"),
            retries=False,  # pyright: ignore[reportArgumentType]  # of urllib3: no second attempt, and no redirect
        )
        configuration.proxy = None  # one from the environment must not see the token
        self.api = client.ApiClient(configuration)
        deadlines.hold(self.api.rest_client.pool_manager)

    def close(self) -> None:
        """Close what it has open."""
        self.api.rest_client.pool_manager.clear()

    @property
    def is_logged_in(self) -> bool:
        """Whether there is a token, which may have run out."""
        return self.api.configuration.access_token is not None

    def log_in(self, *, _request_timeout: float) -> None:
        """Take a new token; the client, which has no method for it, would call its argument so."""
        api = self.api
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        answer = api.call_api(
            "POST",
            api.configuration.host + LOGIN,
            headers,
            login_of(self.settings),
            _request_timeout=_request_timeout,
        )
        answer.read()
        found: Any = api.response_deserialize(answer, {"2XX": "object"}).data
        api.configuration.access_token = found["access_token"]


class AirflowRuns:
    """What a request of the control API asks of Airflow; it has to end within so many seconds together, login included.

    Only `fail` and `succeed` ask again after a fault; nothing else is sent twice, but for what Airflow refused because
    the token had run out.
    Every method raises these:

    Raises:
        ServerUnavailableError: Airflow can't be reached, answers with a passing fault, or the time is up.
        AirflowAnswerError: the answer makes no sense.
        AirflowRefusedError: Airflow refuses the request, for example because there is no such run.
        SettingsError: Airflow refuses our login.
    """

    def __init__(self, connection: Connection, timeout_seconds: float) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + timeout_seconds

    def unhealthy_parts(self) -> tuple[str, ...]:
        """Return the parts of Airflow that a run needs and that are not healthy; needs no login."""
        api = client.MonitorApi(self._connection.api)
        return self._ask("GET monitor/health", api.get_health, read=_unhealthy_parts, needs_login=False)

    def dags(self) -> tuple[Dag, ...]:
        """Return every DAG that has a file, ordered by id."""
        api = client.DAGApi(self._connection.api)
        ask = functools.partial(api.get_dags, exclude_stale=True, order_by=["dag_id"])
        return tuple(self._all("GET dags", ask, lambda answer: map(_dag, answer.dags)))

    def dag(self, dag_id: str) -> Dag:
        """Return a DAG with its params."""
        api = client.DAGApi(self._connection.api)
        return self._ask(f"GET dags/{dag_id}/details", api.get_dag_details, dag_id, read=_dag)

    def runs(self, dag_id: str, states: Sequence[str], limit: int, offset: int) -> tuple[tuple[DagRun, ...], int]:
        """Return a page of a DAG's runs, the newest first, and how many there are on all pages.

        Args:
            dag_id: of the DAG.
            states: only runs in one of these; empty: in any.
            limit: how many at most.
            offset: how many of the newest are left out.
        """
        api = client.DagRunApi(self._connection.api)
        return self._ask(
            f"GET dags/{dag_id}/dagRuns",
            api.get_dag_runs,
            dag_id,
            read=lambda answer: (tuple(map(_run, answer.dag_runs)), answer.total_entries or 0),
            state=list(states) or None,
            order_by=["-run_after", "-id"],
            limit=limit,
            offset=offset,
        )

    def run(self, dag_id: str, run_id: str) -> DagRun:
        """Return the run as it is now."""
        api = client.DagRunApi(self._connection.api)
        return self._ask(f"GET dags/{dag_id}/dagRuns/{run_id}", api.get_dag_run, dag_id, run_id, read=_run)

    def tasks(self, dag_id: str, run_id: str) -> tuple[TaskRun, ...]:
        """Return the tasks of the run, ordered by id."""
        api = client.TaskInstanceApi(self._connection.api)
        ask = functools.partial(api.get_task_instances, dag_id, run_id)
        request = f"GET dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        tasks = self._all(request, ask, lambda answer: map(self._task, answer.task_instances))
        return tuple(sorted(tasks, key=lambda task: (task.task_id, task.map_index)))

    def start(self, dag_id: str, run_id: str, conf: Mapping[str, Any], note: str) -> DagRun:
        """Start a run; a `run_id` that is taken is refused with 409.

        Raises:
            ServerUnavailableError: the answer got lost, too; whether the run began, `run` tells.
        """
        api = client.DagRunApi(self._connection.api)
        # The key `logical_date` has to be there; null says that the run stands for no interval.
        body = client.TriggerDAGRunPostBody(dag_run_id=run_id, logical_date=None, conf=dict(conf), note=note)
        return self._ask(f"POST dags/{dag_id}/dagRuns", api.trigger_dag_run, dag_id, body, read=_run)

    @stubbornly
    def fail(self, dag_id: str, run_id: str) -> DagRun:
        """Mark a run as failed, which ends its tasks, unless it has finished."""
        run = self.run(dag_id, run_id)
        if run.finished:  # the request would turn a success into a failure
            return run
        return self._mark(dag_id, run_id, client.DagRunMutableStates.FAILED)

    @stubbornly
    def succeed(self, dag_id: str, run_id: str) -> DagRun:
        """Mark a run as successful, and all of its tasks with it."""
        return self._mark(dag_id, run_id, client.DagRunMutableStates.SUCCESS)

    def delete(self, dag_id: str, run_id: str) -> None:
        """Delete a run and what Airflow knows of its tasks; one that is running is refused with 409."""
        api = client.DagRunApi(self._connection.api)
        self._ask(f"DELETE dags/{dag_id}/dagRuns/{run_id}", api.delete_dag_run, dag_id, run_id, read=lambda _: None)

    def _mark(self, dag_id: str, run_id: str, state: client.DagRunMutableStates) -> DagRun:
        api = client.DagRunApi(self._connection.api)
        body = client.DAGRunPatchBody(state=state)
        return self._ask(f"PATCH dags/{dag_id}/dagRuns/{run_id}", api.patch_dag_run, dag_id, run_id, body, read=_run)

    def _task(self, found: client.TaskInstanceResponse) -> TaskRun:
        ids = (quote(name, safe="") for name in (found.dag_id, found.dag_run_id, found.task_id))
        page = "{}/dags/{}/runs/{}/tasks/{}".format(self._connection.settings.pages_url, *ids)
        mapped = "" if found.map_index < 0 else f"/mapped/{found.map_index}"
        return TaskRun(
            task_id=found.task_id,
            map_index=found.map_index,
            state=found.state.value if found.state else "none",
            try_number=found.try_number,
            started_at=found.start_date,
            ended_at=found.end_date,
            hostname=found.hostname or "",
            pid=found.pid,
            log_url=f"{page}{mapped}?try_number={found.try_number}",
        )

    def _all(self, request: str, ask: Callable[..., object], read: Callable[[Any], Iterable[Found]]) -> list[Found]:
        """Ask for one page after the other."""
        found = list[Found]()
        while True:
            page, total = self._ask(
                request,
                ask,
                read=lambda answer: (list(read(answer)), answer.total_entries or 0),
                limit=PAGE,
                offset=len(found),
            )
            found += page
            if not page or len(found) >= total:
                return found

    def _ask(
        self,
        request: str,
        ask: Callable[..., object],
        *arguments: Any,
        read: Callable[[Any], Found],
        needs_login: bool = True,
        **options: Any,
    ) -> Found:
        """Call a method of the client.

        Args:
            request: names it in errors.
            ask: the method.
            arguments: of the method.
            read: takes what is wanted from its answer; that fails, too, if the answer is not Airflow's.
            needs_login: whether the method does.
            options: of the method.
        """
        connection = self._connection
        fresh = needs_login and not connection.is_logged_in
        try:
            if fresh:
                self._log_in()
            try:
                answer = ask(*arguments, **options, _request_timeout=self._remaining_seconds())
            except ApiException as error:
                if error.status not in REFUSED_TOKENS or fresh or not needs_login:
                    raise
                self._log_in()
                answer = ask(*arguments, **options, _request_timeout=self._remaining_seconds())
            return read(answer)
        except urllib3.exceptions.DecodeError as error:
            raise _nonsense(request, type(error).__name__) from error
        except urllib3.exceptions.HTTPError as error:
            raise absence(connection.settings, error) from error
        except ApiException as error:
            raise _translated(request, error) from error
        except (OpenApiException, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise _nonsense(request, type(error).__name__) from error

    def _log_in(self) -> None:
        connection = self._connection
        try:
            self._ask(f"POST {LOGIN}", connection.log_in, read=lambda _: None, needs_login=False)
        except AirflowRefusedError as error:
            if error.status in REFUSED_LOGINS:
                raise refused_login(connection.settings) from error
            raise

    def _remaining_seconds(self) -> float:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise ServerUnavailableError(f"Airflow at {self._connection.settings.url} takes too long: ask again later")
        return remaining


def _translated(request: str, error: ApiException) -> Exception:
    if not error.status:  # TLS failed
        return ServerUnavailableError(f"Airflow can't be reached for {request}: {error.reason}")
    if error.status < 400:  # a redirect leads elsewhere, and the token must not
        return _nonsense(request, f"status {error.status}")
    return refusal(error.status, request, error.body or "")


def _nonsense(request: str, what: str) -> AirflowAnswerError:
    return AirflowAnswerError(
        f"the answer to {request} is not Airflow's ({what}): look what LAKEHOUSE_AIRFLOW__URL leads to"
    )


def _unhealthy_parts(found: client.HealthInfoResponse) -> tuple[str, ...]:
    parts = {"metadatabase": found.metadatabase, "scheduler": found.scheduler}
    return tuple(name for name, part in parts.items() if part.status != "healthy")


def _dag(found: Any) -> Dag:
    return Dag(
        dag_id=found.dag_id,
        description=found.description,
        is_paused=found.is_paused,
        schedule=found.timetable_description,
        next_run_at=found.next_dagrun_run_after,
        tags=tuple(sorted(tag.name for tag in found.tags)),
        params=getattr(found, "params", None),
    )


def _run(found: client.DAGRunResponse) -> DagRun:
    return DagRun(
        dag_id=found.dag_id,
        run_id=found.dag_run_id,
        state=found.state.value,
        run_type=found.run_type.value,
        conf=found.conf or {},
        note=found.note,
        queued_at=found.queued_at,
        started_at=found.start_date,
        ended_at=found.end_date,
    )
