"""Who answers, how fast, and how the DAGs are."""

import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import httpx

from lakehouse.adapters import kafka, postgres
from lakehouse.adapters.airflow import FINISHED_STATES, PAGE, PastRun
from lakehouse.errors import LakehouseError
from lakehouse.exporter.clients import Clients, health_client
from lakehouse.exporter.looks import Fact
from lakehouse.exporter.metrics import (
    DAG_LAST_RUN_DURATION,
    DAG_LAST_RUN_FAILED,
    DAG_LAST_SUCCESS,
    DAG_LATE_RUNS,
    DAG_PAUSED,
    SERVER_LATENCY_SECONDS,
    SERVER_UP,
)

OVERLAP: Final = timedelta(minutes=5)
"""Our clock is not Airflow's, and a run's end may come into view later than that of one that ended after it."""
ASKED_ANEW: Final = timedelta(hours=1)
RUNS_OF_A_DAG: Final = 20
"""So many of the newest are looked through for one of this environment."""
HEALTHY: Final = "healthy"
_NO_SERVICE: Final = (LakehouseError, httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError)
"""No answer, one that says no, or one that another program gave in the server's place and makes no sense."""


def _answers(client: httpx.Client, url: str, most: int) -> httpx.Response:
    answer = client.get(url)
    if answer.status_code > most:
        raise httpx.HTTPError(f"{url} answers {answer.status_code}")
    return answer


def _trino(clients: Clients) -> None:
    # It listens long before it takes queries. That these end well too, the audits of the ledgers show.
    login = clients.settings.trino_as("analyst")
    # Read anew each time: a first start makes the file when this program runs already, and a later one may renew it.
    with health_client(ssl.create_default_context(cafile=login.ca_file)) as client:
        if _answers(client, f"{login.url}/v1/info", 200).json()["starting"]:
            raise httpx.HTTPError(f"{login.url} is still starting")


def _postgres(clients: Clients) -> None:
    with postgres.connect(clients.settings, autocommit=True) as connection:
        connection.execute("SELECT 1")


SERVERS: Final[Mapping[str, Callable[[Clients], object]]] = {
    "catalog": lambda clients: _answers(clients.http, f"{clients.settings.catalog.uri}/healthz", 200),
    "kafka": lambda clients: kafka.ping(clients.settings),
    # Any S3 server refuses whom it does not know, and so tells that it is there.
    "minio": lambda clients: _answers(clients.http, clients.settings.s3.endpoint, 499),
    "postgres": _postgres,
    "trino": _trino,
}
"""What each server is asked; it raises when the server does not answer as it should."""


def server(clients: Clients, name: str) -> Iterable[Fact]:
    """Whether a server answers, and how fast."""
    started = time.perf_counter()
    try:
        SERVERS[name](clients)
    except _NO_SERVICE:
        return [Fact(SERVER_UP, 0, (name,))]
    return [Fact(SERVER_UP, 1, (name,)), Fact(SERVER_LATENCY_SECONDS, time.perf_counter() - started, (name,))]


def airflow(clients: Clients) -> Iterator[Fact]:
    """Whether Airflow's API server answers, how fast, and which other parts it has heard of lately."""
    started = time.perf_counter()
    try:
        parts = clients.airflow_health.health()
        is_up = parts["metadatabase"] == HEALTHY
    except _NO_SERVICE:
        yield Fact(SERVER_UP, 0, ("airflow",))
        return
    yield Fact(SERVER_UP, is_up, ("airflow",))
    if is_up:
        yield Fact(SERVER_LATENCY_SECONDS, time.perf_counter() - started, ("airflow",))
    for part in ("scheduler", "dag_processor", "triggerer"):
        yield Fact(SERVER_UP, parts.get(part) == HEALTHY, (f"airflow-{part.replace('_', '-')}",))


class Dags:
    """How the DAGs are; it asks Airflow for each DAG once an hour, and between only for what has ended since.

    Runs that somebody made for another environment do not count.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._last: dict[str, PastRun] = {}
        self._succeeded: dict[str, PastRun] = {}
        self._known_until: datetime | None = None
        self._asked_at = datetime.min.replace(tzinfo=UTC)

    def __call__(self) -> Iterator[Fact]:
        """Look once."""
        client, now = self._clients.airflow, datetime.now(UTC)
        paused = client.paused()
        self._catch_up(paused, now)
        late = client.late_runs(now, self._clients.settings.prefix)
        for dag_id in sorted(paused):
            yield Fact(DAG_PAUSED, paused[dag_id], (dag_id,))
            yield Fact(DAG_LATE_RUNS, late[dag_id], (dag_id,))
            if last := self._last.get(dag_id):
                yield Fact(DAG_LAST_RUN_FAILED, not last.succeeded, (dag_id,))
                yield Fact(DAG_LAST_RUN_DURATION, last.seconds, (dag_id,))
            if succeeded := self._succeeded.get(dag_id):
                yield Fact(DAG_LAST_SUCCESS, succeeded.ended_at.timestamp(), (dag_id,))

    def _catch_up(self, dag_ids: Iterable[str], now: datetime) -> None:
        """Learn what has ended; all of it anew where something may lack, or may have been deleted."""
        client = self._clients.airflow
        since, self._known_until = self._known_until, None  # a look that fails leaves nothing to go on from
        if since and now - self._asked_at < ASKED_ANEW:
            ended = client.past_runs(since=since - OVERLAP)
            self._remember(ended)
            since = None if len(ended) == PAGE else since
        else:
            since = None
        if since is None:
            self._last, self._succeeded, self._asked_at = {}, {}, now
            for dag_id in dag_ids:
                for states in (FINISHED_STATES, {"success"}):
                    self._remember(client.past_runs([dag_id], states, most=RUNS_OF_A_DAG))
        self._known_until = now

    def _remember(self, runs: Iterable[PastRun]) -> None:
        for run in runs:
            if run.prefix != self._clients.settings.prefix:
                continue
            for known in (self._last, self._succeeded) if run.succeeded else (self._last,):
                before = known.get(run.dag_id)
                if before is None or run.ended_at >= before.ended_at:
                    known[run.dag_id] = run
