"""Who calls, how often, and what they may: each route says which role it needs."""

import ipaddress
import math
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter

from lakehouse import callers
from lakehouse.api import problems
from lakehouse.api.models import DagId
from lakehouse.api.places import Places
from lakehouse.api.problems import ProblemError
from lakehouse.callers import Caller, Callers, Role
from lakehouse.errors import SettingsError
from lakehouse.settings import Settings

MOST_REQUESTS_AT_ONCE: Final = 100
MOST_REQUESTS_OF_A_CALLER: Final = 20
"""At once; half of the threads, so that no caller alone can make the others wait for one."""
CHALLENGE: Final = 'Bearer realm="lakehouse", ApiKey realm="lakehouse"'

_key_header = APIKeyHeader(
    name="X-API-Key", auto_error=False, scheme_name="key", description="Made by `lakehouse api keys add`."
)
_bearer = HTTPBearer(
    auto_error=False, bearerFormat="JWT", scheme_name="token", description="Made by `lakehouse api token`."
)


class Access:
    """Knows the callers and counts their requests; one for a server."""

    def __init__(self, settings: Settings) -> None:
        self._file = _CallersFile(settings.api_callers_file)
        self._secret = settings.api.jwt_secret.get_secret_value()
        self._requests = RateLimitItemPerMinute(settings.api.requests_per_minute, namespace="requests")
        self._refused_logins = RateLimitItemPerMinute(settings.api.refused_logins_per_minute, namespace="logins")
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        # It forgets an address after two minutes; that of a moving window is kept for ever.
        self._login_limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._places = Places(MOST_REQUESTS_AT_ONCE, "requests are being answered")
        self._own_places = Places(
            MOST_REQUESTS_OF_A_CALLER, "requests of this caller are being answered", problems.TOO_MANY_REQUESTS
        )

    def callers(self) -> Callers:
        """Return the callers as the file has them now.

        Raises:
            SettingsError: the file can't be read.
        """
        return self._file.callers()

    def caller(self, key: str | None, token: str | None, address: str) -> Caller:
        """Return who sends this key, or this token, from an address.

        Raises:
            ProblemError: it is nobody, or the file of the callers can't be read.
        """
        try:
            known, now = self.callers(), datetime.now(UTC)
        except SettingsError as error:
            detail = "the file of the callers can't be read: see the server's log"
            raise ProblemError(problems.NOT_READY, detail) from error
        if key is not None:
            caller = known.with_key(key, now)
        else:
            caller = known.with_token(token, self._secret, now) if token is not None else None
        if caller is None:
            # Counted apart from good requests, so that nobody can shut out a caller behind the same address.
            what = "refused logins from this address"
            self._count(self._login_limiter, self._refused_logins, network(address), what)
            detail = "" if key is None and token is None else "this key or token is unknown or has expired"
            raise ProblemError(problems.UNAUTHENTICATED, detail, headers={"WWW-Authenticate": CHALLENGE})
        return caller

    async def answered(self, caller: Caller, answer: Callable[[], Awaitable[Response]]) -> Response:
        """Make the answer to a request of a caller, who holds a place until it is made, not until it is sent.

        Raises:
            ProblemError: too many requests came, or are being answered.
        """
        self._count(self._limiter, self._requests, caller.name, "requests of this caller")
        with self._own_places.taken(caller.name), self._places.taken():
            return await answer()

    def _count(self, limiter: RateLimiter, limit: RateLimitItem, of: str, what: str) -> None:
        if not limiter.hit(limit, of):
            seconds = max(1, math.ceil(limiter.get_window_stats(limit, of).reset_time - time.time()))
            raise ProblemError(
                problems.TOO_MANY_REQUESTS,
                f"{limit.amount} {what} a minute are answered: ask again in {seconds} s",
                headers={"Retry-After": str(seconds)},
            )


class _CallersFile:
    """The file of the callers, read anew when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._callers = Callers()

    def callers(self) -> Callers:
        with self._lock:
            try:
                found = self._path.stat()
                seen = (found.st_ino, found.st_mtime_ns, found.st_size)
            except OSError:  # reading it says what is wrong, unless there just is none
                seen = None
            if seen is None or seen != self._seen:
                self._callers, self._seen = callers.read(self._path), seen
            return self._callers


def network(address: str) -> str:
    """Return what one stranger may have all of: an address of IPv4, or the first 64 bits of IPv6."""
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    return str(found.ipv4_mapped or ipaddress.IPv6Network((found.packed[:8] + bytes(8), 64)))


class CallersRoute(APIRoute):
    """A route that asks who calls before it reads what is asked."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Guard the handler, which reads the body before it solves any dependency."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            access: Access = request.app.state.access
            key, bearer = await _key_header(request), await _bearer(request)
            address = request.client.host if request.client else "unknown"
            caller = access.caller(key, bearer.credentials if bearer else None, address)
            request.state.caller = caller  # for the audit log, of what is refused from here on, too
            return await access.answered(caller, lambda: handle(request))

        return guarded


async def _caller(
    request: Request,
    _key: Annotated[str | None, Security(_key_header)],  # both for the schema
    _token: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    return request.state.caller


def _with_role(needed: Role) -> Callable[[Caller], Awaitable[Caller]]:
    async def check(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
        if not caller.role.covers(needed):
            raise ProblemError(problems.FORBIDDEN, f"this needs the role {needed}; yours is {caller.role}")
        return caller

    return check


def _with_dag(needed: Role) -> Callable[[Caller, DagId], Awaitable[Caller]]:
    async def check(caller: Annotated[Caller, Depends(_with_role(needed))], dag_id: DagId) -> Caller:
        if not caller.sees(dag_id):  # the same answer as for a DAG that does not exist
            raise ProblemError(problems.NOT_FOUND_HERE, "there is no such DAG or run")
        return caller

    return check


Viewer = Annotated[Caller, Depends(_with_role(Role.VIEWER))]
ViewerOfDag = Annotated[Caller, Depends(_with_dag(Role.VIEWER))]
OperatorOfDag = Annotated[Caller, Depends(_with_dag(Role.OPERATOR))]
AdminOfDag = Annotated[Caller, Depends(_with_dag(Role.ADMIN))]
