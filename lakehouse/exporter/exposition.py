"""What the watches hold as metrics, and the HTTP server that tells them.

/metrics    the metrics, as OpenMetrics or as Prometheus' text, as the caller likes
/healthz    200 while the program serves
/readyz     200 once every collector has looked or has failed to in its time, 503 before
"""

import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from socketserver import ThreadingMixIn
from threading import Thread, current_thread
from typing import Any, Final
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector as RegistryCollector

from lakehouse import __version__
from lakehouse.exporter.looks import Fact, Watches, join
from lakehouse.exporter.metrics import EXPORTER_BUILD_INFO, METRICS, SCRAPE_CPU_SECONDS

REQUEST_SECONDS: Final = 10.0
"""How long a caller may say nothing."""
LAST_ANSWER_SECONDS: Final = 3.0
"""How long answers under way may still take when the program ends."""
_FAMILIES: Final = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}

Family = GaugeMetricFamily | CounterMetricFamily


def families(facts: Iterable[Fact]) -> Iterator[Family]:
    """The facts as families of Prometheus, in the order of the catalogue, without those that have no fact."""
    found: dict[str, list[Fact]] = {}
    for fact in facts:
        found.setdefault(fact.metric.name, []).append(fact)
    for metric in METRICS:
        if of_metric := found.get(metric.name):
            family = _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels)
            for fact in of_metric:
                family.add_metric(fact.labels, fact.value)
            yield family


class Exposition:
    """Answers scrapes from what the watches hold."""

    def __init__(self, watches: Watches) -> None:
        self._watches = watches
        self._used_until = time.process_time()
        self._used: float | None = None

    def facts(self) -> Iterator[Fact]:
        """Everything there is to tell now."""
        for report in self._watches.reports():
            yield from report.all_facts()
        yield Fact(EXPORTER_BUILD_INFO, 1, (__version__,))
        if self._used is not None:
            yield Fact(SCRAPE_CPU_SECONDS, self._used)

    def answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        match environ["PATH_INFO"]:
            case "/metrics":
                return self._scrape(environ, start_response)
            case "/healthz":
                return _say(start_response, HTTPStatus.OK, "ok")
            case "/readyz":
                waiting = [report.collector for report in self._watches.reports() if not report.is_settled]
                if waiting:
                    return _say(start_response, HTTPStatus.SERVICE_UNAVAILABLE, f"not yet: {', '.join(waiting)}")
                return _say(start_response, HTTPStatus.OK, "ready")
            case _:
                return _say(start_response, HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz")

    def _scrape(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Once(lambda: families(self.facts())))
        told = make_wsgi_app(registry)(environ, start_response)
        used = time.process_time()
        self._used, self._used_until = used - self._used_until, used
        return told


class _Once(RegistryCollector):
    """The one collector of a scrape's registry."""

    def __init__(self, find: Callable[[], Iterable[Family]]) -> None:
        self.collect = find


class _Server(ThreadingMixIn, WSGIServer):
    """Answers each request in a thread of its own; closing it waits a moment for those under way."""

    daemon_threads = True  # a caller who dribbles must not keep the program from ending

    def __init__(self, address: tuple[str, int]) -> None:
        self._under_way: set[Thread] = set()
        super().__init__(address, _Handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one request, in its thread."""
        self._under_way.add(current_thread())
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._under_way.discard(current_thread())

    def server_close(self) -> None:
        """Close the port, and wait a moment for answers under way."""
        super().server_close()
        join(tuple(self._under_way), LAST_ANSWER_SECONDS)


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Say nothing: a scrape every few seconds is no news."""


def listen(url: str, exposition: Exposition) -> WSGIServer:
    """Open the port of an address; `serve_forever` of what it returns answers until `shutdown`.

    Raises:
        OSError: the port is taken, or not ours to open.
    """
    address = urlsplit(url)
    server = _Server((address.hostname or "127.0.0.1", address.port or 80))
    server.set_app(exposition.answer)
    return server


def _say(start_response: StartResponse, status: HTTPStatus, text: str) -> list[bytes]:
    start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]
