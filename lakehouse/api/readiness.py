"""Whether requests should come to this server."""

import asyncio
import logging
import time
from pathlib import Path
from typing import Final

from lakehouse.adapters.airflow_runs import AirflowRuns, Connection
from lakehouse.api import problems
from lakehouse.api.access import Access
from lakehouse.api.audit_log import AuditLog
from lakehouse.api.problems import ProblemError
from lakehouse.errors import LakehouseError

READY_SECONDS: Final = 2.0
"""How long a look may take and then counts, so that nobody can have Airflow asked by every request for readiness."""


class Readiness:
    """Looks now and then what a request would need.

    Args:
        connection: to Airflow.
        access: which knows the callers.
        callers_file: that of the callers, if it has to be there.
        audit_log: where changes are kept.
    """

    def __init__(self, connection: Connection, access: Access, callers_file: Path | None, audit_log: AuditLog) -> None:
        self.is_draining = False
        self._connection = connection
        self._access = access
        self._callers_file = callers_file
        self._audit_log = audit_log
        self._missing = ""
        self._known_until = 0.0
        self._lock = asyncio.Lock()

    async def check(self) -> None:
        """Raise a problem if no request should come here."""
        if self.is_draining:
            raise ProblemError(problems.NOT_READY)
        async with self._lock:
            if time.monotonic() >= self._known_until:
                self._missing = await asyncio.to_thread(self._look)  # not in a thread that requests may have taken
                self._known_until = time.monotonic() + READY_SECONDS
        if self._missing:
            raise ProblemError(problems.NOT_READY, self._missing)

    def _look(self) -> str:
        """Say what is missing; nothing if all is there."""
        airflow = AirflowRuns(self._connection, READY_SECONDS)
        wrong = "the file of the callers can't be read"
        try:
            self._access.callers()
            if self._callers_file and not self._callers_file.exists():
                return "the file of the callers is missing"
            wrong = "the audit log can't be opened"
            self._audit_log.check()
            wrong = "Airflow does not answer"
            if unhealthy := airflow.unhealthy_parts():
                return f"Airflow's {' and '.join(unhealthy)} is not healthy"
            wrong = "Airflow does not let us in"
            airflow.dags()  # needs our login, as does all that callers ask
        except (LakehouseError, OSError) as error:
            logging.getLogger("lakehouse.api").warning("not ready: %r", str(error))
            return f"{wrong}: see the server's log"
        return ""
