"""Whether requests should come to this server."""

import asyncio
import time
from typing import Final

from fastapi.concurrency import run_in_threadpool

from lakehouse.adapters.airflow_runs import AirflowRuns, Connection
from lakehouse.api import problems
from lakehouse.api.access import Access
from lakehouse.api.problems import ProblemError
from lakehouse.errors import LakehouseError, SettingsError

READY_SECONDS: Final = 2.0
"""How long a look may take and then counts, so that nobody can have Airflow asked by every request for readiness."""


class Readiness:
    """Looks now and then what a request would need."""

    def __init__(self, connection: Connection, access: Access) -> None:
        self.is_draining = False
        self._connection = connection
        self._access = access
        self._missing = ""
        self._known_until = 0.0
        self._lock = asyncio.Lock()

    async def check(self) -> None:
        """Raise a problem if no request should come here."""
        if self.is_draining:
            raise ProblemError(problems.NOT_READY)
        async with self._lock:
            if time.monotonic() >= self._known_until:
                self._missing = await run_in_threadpool(self._look)
                self._known_until = time.monotonic() + READY_SECONDS
        if self._missing:
            raise ProblemError(problems.NOT_READY, self._missing)

    def _look(self) -> str:
        """Say what is missing; nothing if all is there."""
        try:
            self._access.callers()
        except SettingsError:
            return "the file of the callers can't be read: see the server's log"
        try:
            unhealthy = AirflowRuns(self._connection, READY_SECONDS).unhealthy_parts()
        except LakehouseError:
            return "Airflow does not answer"
        return f"Airflow's {' and '.join(unhealthy)} is not healthy" if unhealthy else ""
