"""The dashboard of the control API: what it is asked for, how fast it answers, and what it refuses."""

from grafana_foundation_sdk.builders import dashboard

from compose.grafana.page import page
from compose.grafana.panels import Query, lines, number


def build() -> dashboard.Dashboard:
    """Lay the dashboard out."""
    of_route = '{route=~"$route"}'
    latency = f"rate(lakehouse_api_request_duration_seconds_bucket{of_route}[$__rate_interval])"
    asked = 'sum(rate(lakehouse_api_requests_total{route=~"/dags.*"}[5m]))'
    failed = 'sum(rate(lakehouse_api_requests_total{route=~"/dags.*",status=~"5.."}[5m]))'
    requests = f"rate(lakehouse_api_requests_total{of_route}[$__rate_interval])"
    return page(
        "Lakehouse: control API",
        "What the control API is asked for, how fast it answers, and what it refuses.",
        {
            "": [
                number(
                    "Down",
                    'count(up{job="dag-control"}) - sum(up{job="dag-control"})',
                    says="Processes of the API that did not answer Prometheus.",
                    watched=["DagControlDown"],
                    bad_from=1,
                ),
                number(
                    "Errors of the server",
                    f"({failed} or vector(0)) / ({asked} > 0)",
                    says="Share of the requests for DAGs of the last five minutes that were answered with 5xx. "
                    "Up to five of them alert nobody, whatever their share.",
                    unit="percentunit",
                    watched=["DagControlErrors"],
                    empty="nobody asked for DAGs",
                    span=5,
                ),
                number(
                    "Latency, 95 %",
                    f"histogram_quantile(0.95, sum by (le) ({latency}))",
                    says="19 of 20 requests are answered within this.",
                    unit="s",
                    span=5,
                ),
                number("Requests", f"sum({requests})", says="Requests a second.", unit="reqps", span=5),
                number(
                    "Refused",
                    "sum(rate(lakehouse_api_refused_total[$__rate_interval]))",
                    says="Requests a second turned away: not known, not allowed, too many.",
                    unit="reqps",
                    empty="none since it started",
                    span=5,
                ),
            ],
            "Requests": [
                lines(
                    "Requests, by route",
                    Query(f"sum by (method, route) ({requests})", "{{method}} {{route}}"),
                    says="Requests a second.",
                    unit="reqps",
                ),
                lines(
                    "Requests, by status",
                    Query(f"sum by (status) ({requests})", "{{status}}"),
                    says="Requests a second. 4xx is the caller's doing, 5xx ours or Airflow's.",
                    unit="reqps",
                ),
                lines(
                    "Latency",
                    *(
                        Query(f"histogram_quantile({quantile}, sum by (le) ({latency}))", f"{quantile * 100:g} %")
                        for quantile in (0.5, 0.95, 0.99)
                    ),
                    says="The share of requests that is answered within the line. Stop waits until its job is gone.",
                    unit="s",
                ),
                lines(
                    "Refused, by reason",
                    Query("sum by (reason) (rate(lakehouse_api_refused_total[$__rate_interval]))", "{{reason}}"),
                    says="Requests a second. A burst of unknown callers is somebody who guesses.",
                    unit="reqps",
                    empty="nothing was refused since it started",
                ),
            ],
        },
        ("route", "lakehouse_api_requests_total"),
    )
