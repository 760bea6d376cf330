"""What every request passes through: its id, its bounds, the headers of its answer, and what is kept of it."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Final

from fastapi.responses import JSONResponse
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lakehouse.api import problems
from lakehouse.api.audit_log import AuditLog
from lakehouse.api.metrics import Metrics
from lakehouse.api.places import Places
from lakehouse.api.problems import TOO_MANY_REQUESTS, UNAUTHENTICATED, ProblemError

MOST_BODY_BYTES: Final = 64 << 10
MOST_BODIES_OF_AN_ADDRESS: Final = 20
"""On their way at once; whoever sends slowly holds up no other address, and no request without a body."""
GIVEN_UP: Final = 499
"""Counted as the status of a request whose caller left before it was answered."""
KEPT_OF_STRANGERS: Final = RateLimitItemPerMinute(60)
"""Lines of the audit log, of all together; they have any number of addresses."""
KEPT_OF_THE_SAME: Final = RateLimitItemPerMinute(1)
"""Lines of the audit log that tell of too many requests, of each caller."""
UNCHANGING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_is_request_id: Final = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
_PAGES: Final = ("/docs", "/redoc", "/static-offline-docs/")
_SAFE: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_SAFE_PAGE: Final = _SAFE | {
    # The pages carry a script of their own in line; a browser then asks no other host for anything.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'"
    "; img-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'",
}

_log = logging.getLogger("lakehouse.api")


class _UntakenError(Exception):
    """The peer does not take its answer."""


class Edge:
    """The middleware around all others; it alone answers an error that nobody expected."""

    def __init__(self, app: ASGIApp, *, audit_log: AuditLog, metrics: Metrics, request_timeout_seconds: float) -> None:
        self._app = app
        self._audit_log = audit_log
        self._metrics = metrics
        self._request_timeout_seconds = request_timeout_seconds
        self._bodies = Places(MOST_BODIES_OF_AN_ADDRESS, "bodies are on their way from this address")
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and answer, count and keep it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = _request_id(scope)
        try:
            await self._pass_on(scope, receive, self._answer(scope, send))
        except _UntakenError:  # the server cuts a connection whose answer is not whole
            _log.warning("request %s: its answer was not taken in time", state["request_id"])
        finally:
            seconds, status = time.perf_counter() - begun, state.get("status")
            self._metrics.count(scope["method"], _route(scope), status or GIVEN_UP, seconds, state.get("problem"))
            self._keep(scope, status)

    async def _pass_on(self, scope: Scope, receive: Receive, answer: Send) -> None:
        try:
            with self._bodies.taken(_address(scope)) if _has_body(scope) else nullcontext():
                arrived = await self._arrived(receive)
            scope["state"]["arrived_at"] = time.monotonic()
            await self._app(scope, arrived, answer)
        except ProblemError as problem:
            await problem_response(scope, problem)(scope, receive, answer)
        except _UntakenError:
            raise
        except Exception:
            _log.exception("request %s failed", scope["state"]["request_id"])
            if "status" in scope["state"]:
                raise  # half an answer is out, so only cutting the connection says that it is none
            await problem_response(scope, ProblemError(problems.INTERNAL))(scope, receive, answer)

    def _answer(self, scope: Scope, send: Send) -> Send:
        """Add the headers of every answer, and wait for nobody who does not take it."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope["state"]["status"] = message["status"]
                headers = MutableHeaders(scope=message)
                headers[problems.REQUEST_ID] = scope["state"]["request_id"]
                headers.update(_SAFE_PAGE if scope["path"].startswith(_PAGES) else _SAFE)
            try:
                async with asyncio.timeout(self._request_timeout_seconds):
                    await send(message)
            except TimeoutError:
                raise _UntakenError from None

        return answer

    def _keep(self, scope: Scope, status: int | None) -> None:
        """Write into the audit log how a change or a refusal ended."""
        if self._is_kept(scope):
            try:
                self._audit_log.write({**facts(scope), "outcome": _outcome(status), "status": status})
            except OSError:
                _log.exception("the audit log misses the end of request %s", scope["state"]["request_id"])

    def _is_kept(self, scope: Scope) -> bool:
        """Whether it is a change or a refusal; of what comes in any number the first ones, lest they drown the rest."""
        caller, problem = scope["state"].get("caller"), scope["state"].get("problem")
        if caller is None:
            return problem == UNAUTHENTICATED.name and self._limiter.hit(KEPT_OF_STRANGERS)
        if problem == TOO_MANY_REQUESTS.name:
            return self._limiter.hit(KEPT_OF_THE_SAME, caller.name)
        return problem is not None or scope["method"] not in UNCHANGING

    async def _arrived(self, receive: Receive) -> Receive:
        """Read the whole body, within its bounds, and return what gives it to the application."""
        body = bytearray()
        # Not the announced length: it may be missing, or a lie.
        try:
            async with asyncio.timeout(self._request_timeout_seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return _always(message)
                    body += message.get("body", b"")
                    if len(body) > MOST_BODY_BYTES:
                        raise ProblemError(problems.TOO_LARGE, f"a body has at most {MOST_BODY_BYTES:,} bytes")
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise ProblemError(
                problems.SLOW_REQUEST, f"its body took more than {self._request_timeout_seconds:g} s"
            ) from None
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        return replay


def facts(scope: Scope) -> Mapping[str, str | int | None]:
    """What the audit log tells of a request: who, from where, and what was asked of which run."""
    state: dict[str, Any] = scope["state"]
    caller, path = state.get("caller"), scope.get("path_params") or {}
    route = scope.get("route")
    return {
        "request_id": state["request_id"],
        "caller": caller.name if caller else None,
        "role": caller.role.value if caller else None,
        "address": _address(scope),
        "action": getattr(route, "name", None) or f"{scope['method']} {scope['path']}",
        "dag_id": path.get("dag_id"),
        "run_id": state.get("run_id") or path.get("run_id"),
        "problem": state.get("problem"),
    }


def problem_response(scope: Scope, problem: ProblemError) -> JSONResponse:
    """The answer that tells a problem, which is kept with the request."""
    scope["state"]["problem"] = problem.kind.name
    body = problem.body(scope["path"], scope["state"]["request_id"])
    return JSONResponse(body, problem.kind.status, problem.headers, problems.MEDIA_TYPE)


def _request_id(scope: Scope) -> str:
    """Make an id; one that the caller gave only begins it, else two requests could share a line of the audit log."""
    given, own = Headers(scope=scope).get("x-request-id", ""), secrets.token_hex(8)
    return f"{given}-{own}" if _is_request_id(given) else own


def _address(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _has_body(scope: Scope) -> bool:
    return not {"content-length", "transfer-encoding"}.isdisjoint(Headers(scope=scope))


def _route(scope: Scope) -> str:
    route = scope.get("route")
    return getattr(route, "path", None) or "other"


def _outcome(status: int | None) -> str:
    if status is None:
        return "unanswered"
    return "done" if status < 400 else "refused" if status < 500 else "failed"


def _always(message: Message) -> Receive:
    async def receive() -> Message:
        return message

    return receive
