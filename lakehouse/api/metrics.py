"""What Prometheus is told of the API; labels are routes and statuses, never ids or names."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lakehouse import __version__
from lakehouse.api.problems import KINDS

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "lakehouse_api_requests_total", "Requests answered.", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "lakehouse_api_request_duration_seconds",
            "How long requests took, stops included.",
            ["method", "route"],
            registry=self._registry,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )
        self._refused = Counter(
            "lakehouse_api_refused_total", "Requests refused, by problem.", ["reason"], registry=self._registry
        )
        for kind in KINDS:  # a rate has to see the first of each
            self._refused.labels(kind.name)
        info = Gauge("lakehouse_api_build_info", "Always 1.", ["version"], registry=self._registry)
        info.labels(__version__).set(1)

    def count(self, method: str, route: str, status: int, seconds: float, problem: str | None) -> None:
        """Count a request that was answered."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        if problem is not None:
            self._refused.labels(problem).inc()

    def page(self) -> bytes:
        """All of them, in the text format that Prometheus reads."""
        return generate_latest(self._registry)
