"""How the API is put together."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from lakehouse import __version__
from lakehouse.adapters.airflow_runs import Connection
from lakehouse.api import problems, routes
from lakehouse.api.access import Access
from lakehouse.api.audit_log import AuditLog
from lakehouse.api.edge import Edge, problem_response
from lakehouse.api.metrics import Metrics
from lakehouse.api.problems import Fault, Problem, ProblemError
from lakehouse.api.readiness import Readiness
from lakehouse.errors import LakehouseError
from lakehouse.settings import Settings

_DESCRIPTION: Final = """
Callers send a key in `X-API-Key`, made by `lakehouse api keys add`, or a token as a bearer, made by `lakehouse api
token`. *Viewers* read, *operators* run and stop as well, *admins* delete as well; a DAG that a caller may not see does
not exist for it. Every error is a problem detail by RFC 9457, and every answer carries the request's id in
`X-Request-ID`.
"""


def make(settings: Settings) -> FastAPI:
    """Make the application; it keeps its parts in `state`, where the routes find them."""
    metrics, audit_log = Metrics(), AuditLog(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        yield
        app.state.connection.close()
        audit_log.close()

    app = FastAPIOffline(
        title="Lakehouse DAG control",
        version=__version__,
        summary="Runs of Airflow's DAGs: start, stop, delete, and look at them.",
        description=_DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would lead to whatever the header Host names, and take the key there
        swagger_ui_parameters={"validatorUrl": None},  # else the page sends the schema to a server elsewhere
    )
    app.state.settings = settings
    app.state.connection = Connection(settings.airflow)
    app.state.access = Access(settings)
    app.state.audit_log = audit_log
    app.state.metrics = metrics
    # A file that settings name has to be there; the other one comes with the first key.
    named = settings.api.callers_file
    app.state.readiness = Readiness(app.state.connection, app.state.access, named, audit_log)
    app.state.waiting_stops = set[str]()
    app.state.spark_masters = {name.strip() for name in settings.api.spark_masters.split(",") if name.strip()}
    for router in (routes.dags, routes.runs, routes.health):
        app.include_router(router)
    app.add_middleware(
        Edge,
        audit_log=audit_log,
        metrics=metrics,
        request_timeout_seconds=settings.api.request_timeout_seconds,
    )
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(LakehouseError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.openapi = lambda: _openapi(app)
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The schema, with the form of a problem, which the answers refer to."""
    if not app.openapi_schema:
        schema = get_openapi(
            title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes
        )
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schema["components"]["schemas"] |= problem.pop("$defs") | {problems.SCHEMA: problem}
        for path in schema["paths"].values():
            for operation in path.values():
                for answer in operation["responses"].values():
                    answer.setdefault("headers", {})[problems.REQUEST_ID] = problems.header("The request's id.")
        app.openapi_schema = schema
    return app.openapi_schema


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    if isinstance(error.__cause__, LakehouseError):
        _log(request, error.__cause__)
    return problem_response(request.scope, error)


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LakehouseError)
    problem = problems.of(error)
    if problem.kind.status >= 500:
        _log(request, error)
    return problem_response(request.scope, problem)


def _log(request: Request, error: LakehouseError) -> None:
    # Airflow may repeat what a caller sent it, so the text must not make a line of its own.
    logging.getLogger("lakehouse.api").warning("request %s: %r", request.state.request_id, str(error))


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # A path's part is looked at by its route and by who guards it, so it may be told twice.
    wrong = dict.fromkeys((".".join(map(str, one["loc"])), one["msg"]) for one in error.errors())
    faults = (Fault(place=place, message=message) for place, message in wrong)
    return problem_response(request.scope, ProblemError(problems.INVALID, errors=faults))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Answer what the framework itself refuses: an unknown path or method, or a body that is no JSON at all."""
    assert isinstance(error, HTTPException)
    kinds = {404: problems.NOT_FOUND_HERE, 405: problems.METHOD_NOT_ALLOWED, 400: problems.INVALID}
    kind = kinds.get(error.status_code, problems.INTERNAL)
    details = {404: "there is no such path", 400: "the body can't be read as JSON"}
    headers = {"Allow": ", ".join(_methods(request))} if kind is problems.METHOD_NOT_ALLOWED else None
    return problem_response(request.scope, ProblemError(kind, details.get(error.status_code, ""), headers=headers))


def _methods(request: Request) -> list[str]:
    """The methods of a path; the framework itself names those of the first route that fits it only."""
    fitting = [
        route
        for route in request.app.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
    ]
    return sorted({method for route in fitting for method in route.methods or ()})
