"""Who calls, how often, and what they may: each route says which role it needs."""

import logging
import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from lakehouse import callers
from lakehouse.api import problems
from lakehouse.api.models import DagId
from lakehouse.api.problems import ProblemError
from lakehouse.callers import Caller, Callers, Role
from lakehouse.errors import SettingsError
from lakehouse.settings import Settings

CHALLENGE: Final = 'Bearer realm="lakehouse", ApiKey realm="lakehouse"'

_key_header = APIKeyHeader(
    name="X-API-Key", auto_error=False, scheme_name="key", description="Made by `lakehouse api keys add`."
)
_bearer = HTTPBearer(
    auto_error=False, bearerFormat="JWT", scheme_name="token", description="Made by `lakehouse api token`."
)


class Access:
    """Knows the callers and counts their requests; one for a server, for all its threads."""

    def __init__(self, settings: Settings) -> None:
        self._file = _CallersFile(settings.api_callers_file)
        self._secret = settings.api.jwt_secret.get_secret_value()
        self._requests = RateLimitItemPerMinute(settings.api.requests_per_minute, namespace="requests")
        self._refused_logins = RateLimitItemPerMinute(settings.api.refused_logins_per_minute, namespace="logins")
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def callers(self) -> Callers:
        """Return the callers as the file has them now.

        Raises:
            SettingsError: the file can't be read.
        """
        return self._file.callers()

    def caller(self, key: str | None, token: str | None, address: str) -> Caller:
        """Return who sends this key, or this token, from an address, unless that one sends too many requests.

        Raises:
            ProblemError: it is nobody, or too many requests came.
            SettingsError: the file of the callers can't be read.
        """
        known, now = self.callers(), datetime.now(UTC)
        if key is not None:
            caller = known.with_key(key, now)
        else:
            caller = known.with_token(token, self._secret, now) if token is not None else None
        if caller is None:
            # Counted apart from good requests, so that nobody can shut out a caller behind the same address.
            self._count(self._refused_logins, address, "refused logins from this address")
            detail = "" if key is None and token is None else "this key or token is unknown or has expired"
            raise ProblemError(problems.UNAUTHENTICATED, detail, headers={"WWW-Authenticate": CHALLENGE})
        self._count(self._requests, caller.name, "requests of this caller")
        return caller

    def _count(self, limit: RateLimitItem, of: str, what: str) -> None:
        if not self._limiter.hit(limit, of):
            seconds = max(1, math.ceil(self._limiter.get_window_stats(limit, of).reset_time - time.time()))
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


def _caller(
    request: Request,
    key: Annotated[str | None, Security(_key_header)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    address = request.client.host if request.client else "unknown"
    access: Access = request.app.state.access
    try:
        caller = access.caller(key, bearer.credentials if bearer else None, address)
    except SettingsError as error:
        logging.getLogger("lakehouse.api").error("request %s: %s", request.state.request_id, error)  # noqa: TRY400
        detail = "the file of the callers can't be read: see the server's log"
        raise ProblemError(problems.NOT_READY, detail) from error
    request.state.caller = caller  # for the audit log
    return caller


def _with_role(needed: Role) -> Callable[[Caller], Caller]:
    def check(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
        if not caller.role.covers(needed):
            raise ProblemError(problems.FORBIDDEN, f"this needs the role {needed}; yours is {caller.role}")
        return caller

    return check


def _with_dag(needed: Role) -> Callable[[Caller, DagId], Caller]:
    def check(caller: Annotated[Caller, Depends(_with_role(needed))], dag_id: DagId) -> Caller:
        if not caller.sees(dag_id):  # the same answer as for a DAG that does not exist
            raise ProblemError(problems.NOT_FOUND_HERE, "there is no such DAG or run")
        return caller

    return check


Viewer = Annotated[Caller, Depends(_with_role(Role.VIEWER))]
ViewerOfDag = Annotated[Caller, Depends(_with_dag(Role.VIEWER))]
OperatorOfDag = Annotated[Caller, Depends(_with_dag(Role.OPERATOR))]
AdminOfDag = Annotated[Caller, Depends(_with_dag(Role.ADMIN))]
