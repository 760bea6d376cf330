"""What can be asked: DAGs and their runs, and to run, stop or delete one."""

import hashlib
import secrets
import time
from itertools import chain
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from lakehouse.adapters.airflow import CONFLICT, AirflowRefusedError
from lakehouse.adapters.airflow_runs import AirflowAnswerError, AirflowRuns, DagRun
from lakehouse.api import access, conf, models, problems, stopping
from lakehouse.api.edge import facts
from lakehouse.api.models import DagId, IdempotencyKey, RunId
from lakehouse.api.problems import ProblemError, responses
from lakehouse.errors import LakehouseError, ServerUnavailableError
from lakehouse.settings import Settings

MOST_RUNS: Final = 100
MOST_WAITING_STOPS: Final = 10
"""At once; each goes through all processes twice a second. Further ones stop their run too, but wait for nothing."""
NO_RUNS_NOW: Final = ("has import errors", "does not allow manual runs")
"""What Airflow says of a DAG by the same status as of a conf that does not fit."""
_NOTHING: Final = models.RunRequest()
_FROM_AIRFLOW: Final = (problems.AIRFLOW_AWAY, problems.AIRFLOW_NONSENSE)
_OF_CALLERS: Final = (
    problems.UNAUTHENTICATED,
    problems.FORBIDDEN,
    problems.INVALID,
    problems.TOO_MANY_REQUESTS,
    *_FROM_AIRFLOW,
)
_OF_DAGS: Final = (*_OF_CALLERS, problems.NOT_FOUND_HERE)
_LOCATION: Final = {"Location": problems.header("The path of the run.")}

health = APIRouter(tags=["health"])
dags = APIRouter(prefix="/dags", tags=["DAGs"], route_class=access.CallersRoute)
runs = APIRouter(prefix="/dags/{dag_id}/runs", tags=["runs"], route_class=access.CallersRoute)


def _settings(request: Request) -> Settings:
    return request.app.state.settings


def _airflow(request: Request) -> AirflowRuns:
    return AirflowRuns(request.app.state.connection, _settings(request).api.request_timeout_seconds)


def _airflow_in_time(request: Request) -> AirflowRuns:
    """Airflow for as long as the answer may still take; waiting for a thread has taken of it, too."""
    remaining = request.state.arrived_at + _settings(request).api.request_timeout_seconds - time.monotonic()
    return AirflowRuns(request.app.state.connection, remaining)


@health.get("/healthz", summary="Alive?", responses=responses())
async def healthz() -> models.Health:
    """Say that the server is alive; needs no login."""
    return models.Health(status="ok")


@health.get("/readyz", summary="Ready?", responses=responses())
async def readyz(request: Request) -> models.Health:
    """Say whether requests should come here: Airflow answers, and this server is not about to end; needs no login."""
    await request.app.state.readiness.check()
    return models.Health(status="ready")


@health.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"example": 'lakehouse_api_build_info{version="0.1.0"} 1.0\n'}}}}
    | responses(),
)
async def metrics(request: Request) -> Response:
    """Tell Prometheus how much was asked, how long it took and what was refused; needs no login."""
    return Response(request.app.state.metrics.page(), media_type="text/plain; version=0.0.4")


@dags.get("", summary="List DAGs", responses=responses(*_OF_CALLERS))
def list_dags(request: Request, caller: access.Viewer) -> models.Dags:
    """List the DAGs that the caller may see."""
    return models.Dags(
        dags=[models.Dag.model_validate(dag) for dag in _airflow_in_time(request).dags() if caller.sees(dag.dag_id)]
    )


@dags.get("/{dag_id}", summary="Show a DAG", responses=responses(*_OF_DAGS))
def get_dag(request: Request, caller: access.ViewerOfDag, dag_id: DagId) -> models.DagDetails:
    """Show a DAG, with what its runs can be given."""
    return models.DagDetails.model_validate(_airflow_in_time(request).dag(dag_id))


@runs.get("", summary="List runs", responses=responses(*_OF_DAGS))
def list_runs(
    request: Request,
    caller: access.ViewerOfDag,
    dag_id: DagId,
    state: Annotated[
        list[models.RunState] | None, Query(description="Only runs in this state; several may be given.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_RUNS, description="How many at most.")] = 50,
    offset: Annotated[int, Query(ge=0, le=1_000_000, description="How many of the newest are left out.")] = 0,
) -> models.Runs:
    """List a DAG's runs, the newest first."""
    found, total = _airflow_in_time(request).runs(dag_id, [one.value for one in state or ()], limit, offset)
    return models.Runs(runs=[models.Run.model_validate(run) for run in found], total=total, limit=limit, offset=offset)


@runs.get("/{run_id}", summary="Show a run", responses=responses(*_OF_DAGS))
def get_run(request: Request, caller: access.ViewerOfDag, dag_id: DagId, run_id: RunId) -> models.RunDetails:
    """Show a run, with the state of each task and where its log is."""
    airflow = _airflow_in_time(request)
    run, tasks = airflow.run(dag_id, run_id), airflow.tasks(dag_id, run_id)
    return models.RunDetails(
        **models.Run.model_validate(run).model_dump(), tasks=[models.Task.model_validate(task) for task in tasks]
    )


@runs.post(
    "",
    summary="Run a DAG",
    status_code=201,
    responses={
        200: {
            "model": models.Run,
            "description": "This Idempotency-Key had started the run before.",
            "headers": _LOCATION,
        },
        201: {"headers": _LOCATION},
    }
    | responses(*_OF_DAGS, problems.NOT_RUNNABLE, problems.KEY_REUSED, problems.START_UNKNOWN),
)
def run_dag(
    request: Request,
    response: Response,
    caller: access.OperatorOfDag,
    dag_id: DagId,
    wanted: models.RunRequest = _NOTHING,
    idempotency_key: IdempotencyKey = None,
) -> models.Run:
    """Start a run of a DAG.

    With the header `Idempotency-Key` the same request can be sent again, for example when its answer got lost, and
    never starts a second run; a run that was deleted meanwhile is started anew.
    """
    given = wanted.conf
    airflow = _airflow_in_time(request)
    wrong = conf.faults(given, airflow.dag(dag_id).params or {}, request.app.state.spark_masters)
    if first := next(wrong, None):
        raise ProblemError(problems.INVALID, errors=chain([first], wrong))
    if idempotency_key is None:
        run_id = f"api__{secrets.token_hex(16)}"
    else:
        run_id = f"api__{hashlib.sha256(f'{caller.name}/{dag_id}/{idempotency_key}'.encode()).hexdigest()[:32]}"
    request.state.run_id = run_id
    _record(request)
    note = f"by caller {caller.name}, request {request.state.request_id}"
    try:
        run = airflow.start(dag_id, run_id, given, note)
    except AirflowRefusedError as error:
        if error.status in (400, 422):
            raise _refused(error) from error
        if error.status != CONFLICT:
            raise
        run = airflow.run(dag_id, run_id)
    except (ServerUnavailableError, AirflowAnswerError) as error:
        run = _begun(request, dag_id, run_id, error, is_repeatable=idempotency_key is not None)
    if run.note != note:  # then another request has started it
        if run.conf != given:
            raise ProblemError(problems.KEY_REUSED, f"it started run {run_id} with another conf: take a new key")
        response.status_code = 200
    response.headers["Location"] = f"/dags/{dag_id}/runs/{run_id}"
    return models.Run.model_validate(run)


@runs.post("/{run_id}/stop", summary="Stop a run", responses=responses(*_OF_DAGS))
async def stop_run(
    request: Request,
    caller: access.OperatorOfDag,
    dag_id: DagId,
    run_id: RunId,
    wait_seconds: Annotated[
        float | None,
        Query(ge=0, le=3600, description="How long to wait at most; by default, and at most, what the server allows."),
    ] = None,
) -> models.Stopped:
    """Stop a run: end its tasks and the Spark job they started, and wait until they are gone.

    The answer comes as soon as nothing is left, or when the time is up and then says what is left; asking again waits
    again. A run that has finished stays as it is.
    """
    await run_in_threadpool(_record, request)
    return await _stop(request, dag_id, run_id, wait_seconds)


@runs.delete(
    "/{run_id}",
    summary="Delete a run",
    status_code=204,
    responses=responses(*_OF_DAGS, problems.STILL_RUNNING, problems.NOT_GONE),
)
async def delete_run(
    request: Request,
    caller: access.AdminOfDag,
    dag_id: DagId,
    run_id: RunId,
    force: Annotated[bool, Query(description="Stop the run first, if it has not finished.")] = False,
) -> None:
    """Delete a run, with what Airflow knows of its tasks; what it wrote into tables stays."""
    await run_in_threadpool(_record, request)
    run = await run_in_threadpool(_airflow(request).run, dag_id, run_id)
    if not run.finished and not force:
        raise _still_running(run)
    # A run that has finished may have left something, and once it is deleted nobody can ask for that any more.
    stopped = await _stop(request, dag_id, run_id, 0 if run.finished else None)
    if not stopped.gone:
        left = ", ".join(f"{one.what} on {one.host}" for one in stopped.left)
        raise ProblemError(problems.NOT_GONE, f"left: {left}; delete it when that is gone")
    try:
        await run_in_threadpool(_airflow(request).delete, dag_id, run_id)
    except AirflowRefusedError as error:
        if error.status == CONFLICT:  # somebody has started it anew meanwhile
            raise _still_running(run) from error
        raise


async def _stop(request: Request, dag_id: str, run_id: str, wait_seconds: float | None) -> models.Stopped:
    waiting: set[str] = request.app.state.waiting_stops
    allowed = _settings(request).api.stop_seconds if len(waiting) < MOST_WAITING_STOPS else 0
    waiting.add(request.state.request_id)
    try:
        return await stopping.stop(
            lambda: _airflow(request),
            _settings(request).api,
            dag_id,
            run_id,
            allowed if wait_seconds is None else min(wait_seconds, allowed),
            lambda: request.app.state.readiness.is_draining,
        )
    finally:
        waiting.discard(request.state.request_id)


def _refused(error: AirflowRefusedError) -> ProblemError:
    """Tell why Airflow takes no request to start a run, whose conf fits as far as we can see."""
    if any(words in str(error) for words in NO_RUNS_NOW):
        return ProblemError(
            problems.NOT_RUNNABLE, "Airflow could not read its file anew, or lets nobody run it: see the server's log"
        )
    # Its own look at the params found more than ours.
    return ProblemError(problems.INVALID, "Airflow refuses this conf: look at the params of the DAG")


def _begun(request: Request, dag_id: str, run_id: str, error: LakehouseError, *, is_repeatable: bool) -> DagRun:
    """Look whether a run began whose start was not answered, or by nonsense; it is never started twice.

    Raises:
        ProblemError: it is not there yet, or nobody can tell.
    """
    try:
        return _airflow(request).run(dag_id, run_id)
    except LakehouseError:
        again = "with the same Idempotency-Key never starts a second one" if is_repeatable else "may start a second one"
        raise ProblemError(
            problems.START_UNKNOWN,
            f"GET /dags/{dag_id}/runs/{run_id} tells; asking again {again}",
            headers={"Retry-After": "5"} if is_repeatable else None,
        ) from error


def _still_running(run: DagRun) -> ProblemError:
    path = f"/dags/{run.dag_id}/runs/{run.run_id}"
    return ProblemError(
        problems.STILL_RUNNING,
        f"run {run.run_id} is {run.state}: stop it by POST {path}/stop, or delete it with ?force=true",
    )


def _record(request: Request) -> None:
    """Write into the audit log what is about to be done; what can't be written there is not done."""
    try:
        request.app.state.audit_log.write({**facts(request.scope), "outcome": "asked"})
    except OSError as error:
        raise ProblemError(problems.NOT_READY, "nothing was done, because the audit log can't be written") from error
