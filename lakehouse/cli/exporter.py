"""The health exporter: `lakehouse exporter serve|once`."""

import os
import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from lakehouse.cli.output import Format, Output, answers, errors, print_json, print_table
from lakehouse.errors import TransientError
from lakehouse.exporter.collectors import watching
from lakehouse.exporter.looks import Report
from lakehouse.exporter.service import end_at_once
from lakehouse.settings import get_settings

app = typer.Typer(help="Tell how the platform is, as metrics for Prometheus.", no_args_is_help=True)

PATIENCE_SECONDS = 120.0

Timeout = Annotated[
    float,
    typer.Option("--timeout", min=0, help="How long to wait for facts at most, in seconds; audits may take longer."),
]


@app.command("serve")
def serve() -> None:
    """Look at everything again and again, and answer at /metrics, /healthz and /readyz until Ctrl-C or SIGTERM.

    It only reads. docs/metrics.md says what each metric means.

    Example: `lakehouse exporter serve`
    """
    errors.print(f"metrics at {get_settings().exporter.url}/metrics", markup=False)
    # In this process's place, so that there is one way to serve and to end.
    os.execv(sys.executable, [sys.executable, "-m", "lakehouse.exporter"])


@app.command("once")
def once(timeout_seconds: Timeout = PATIENCE_SECONDS, output: Output = Format.TEXT) -> None:
    """Look at everything once and print the facts; exits 75 when some could not be found in time, and names them.

    Examples:

    `lakehouse exporter once`

    `lakehouse exporter once --timeout 3600`

    `lakehouse exporter once --output json`
    """
    reports = look(timeout_seconds)
    facts = [fact for report in reports for fact in report.facts]
    missing = unfound(reports)
    if output is Format.JSON:
        print_json(
            {
                "facts": [
                    {
                        "metric": fact.metric.name,
                        "labels": dict(zip(fact.metric.labels, fact.labels, strict=True)),
                        "value": fact.value,
                    }
                    for fact in facts
                ],
                "failed": missing,
            }
        )
    else:
        print_table(
            ["metric", "labels", "value"], [(f.metric.name, ", ".join(f.labels), f"{f.value:g}") for f in facts]
        )
        for collector, reason in missing.items():
            errors.print(f"{collector}: {reason}", markup=False)
        answers.print(f"{len(reports) - len(missing)} of {len(reports)} collectors found their facts", style="bold")
    if missing:
        end_at_once(TransientError.exit_code)


def look(timeout_seconds: float) -> list[Report]:
    """Let every collector look once, and wait so long for them at most."""
    with watching(get_settings()) as watches:
        watches.wait_until_settled(timeout_seconds)
        return watches.reports()


def unfound(reports: Iterable[Report]) -> dict[str, str]:
    """Say of each collector that has not found its facts why, by its name."""
    return {
        report.collector: report.error or "still looking"
        for report in reports
        if report.error is not None or not report.is_settled
    }
