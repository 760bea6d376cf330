"""The command behind `make bench-dbt`: measure what was asked for, write the results, and from them the document."""

from typing import Annotated, Any, Final

import typer

from bench import report, results
from bench.command import Document, Quick, run
from bench.say import say
from bench.warehouse import daily, layout
from bench.warehouse.ground import Warehouse
from bench.warehouse.report import ratios
from lakehouse.cli.output import install_progress
from lakehouse.settings import PROJECT_ROOT
from lakehouse.stack import local

MEASURES: Final = ("daily", "user_history")
RESULTS: Final = PROJECT_ROOT / "bench" / "results" / "warehouse.json"
PAGE: Final = PROJECT_ROOT / "docs" / "benchmarks.md"
QUESTIONS: Final = {
    "events of the last days by product": """
        SELECT p.product_name, count(*)
        FROM {lake}events.user_actions e
        JOIN {lake}marts.dim_products p ON p.sku = e.sku AND p.is_current
        WHERE e.event_date >= (SELECT max(event_date) FROM {lake}marts.fct_events_daily) - INTERVAL '7' DAY
        GROUP BY p.product_name
    """,
    "users of the last days and what they did before": """
        SELECT u.cohort_week, count(*)
        FROM {lake}events.user_actions e
        JOIN {lake}marts.dim_users u ON u.user_id = e.user_id
        WHERE e.event_date >= (SELECT max(event_date) FROM {lake}marts.fct_events_daily) - INTERVAL '7' DAY
        GROUP BY u.cohort_week
    """,
    "a month of the daily mart": """
        SELECT event_name, platform, sum(event_count)
        FROM {lake}marts.fct_events_daily
        WHERE event_date >= (SELECT max(event_date) FROM {lake}marts.fct_events_daily) - INTERVAL '30' DAY
        GROUP BY event_name, platform
    """,
}


def main(
    days: Annotated[
        list[int] | None, typer.Option(min=1, help="Lengths of the two histories [default: 7, 365].")
    ] = None,
    events_per_day: Annotated[int, typer.Option(min=1000, help="Events of a date in the histories.")] = 10_000,
    rounds: Annotated[int, typer.Option(min=1, help="Days brought to each history and measured.")] = 5,
    user_days: Annotated[int, typer.Option(min=1, help="Dates in the tables that one user's history is read of.")] = 30,
    user_events_per_day: Annotated[int, typer.Option(min=1000, help="Events of a date in those.")] = 1_000_000,
    only: Annotated[
        list[str] | None, typer.Option(help=f"What to measure, several times: {', '.join(MEASURES)}.")
    ] = None,
    quick: Quick = False,
    document: Document = False,
) -> None:
    """Measure the warehouse on this machine's stack, in environments of its own, and write results and document.

    Examples:

    `python -m bench.warehouse --quick`

    `python -m bench.warehouse --only daily --days 7 --days 365 --events-per-day 20000 --rounds 3`

    `python -m bench.warehouse --only user_history --user-days 10`
    """
    if document:
        PAGE.write_text(report.page(RESULTS.parent))
        return
    lengths = tuple(days or ((2, 10) if quick else (7, 365)))
    if len(lengths) != 2 or lengths[0] >= lengths[1]:
        raise typer.BadParameter("--days is given twice, the shorter history first")
    names = tuple(only or MEASURES)
    if unknown := set(names) - set(MEASURES):
        raise typer.BadParameter(f"no {', '.join(sorted(unknown))}; there is: {', '.join(MEASURES)}")
    if quick:
        events_per_day, rounds, user_days, user_events_per_day = 2_000, 1, 2, 200_000
    with install_progress() as progress:
        stack = local.up("core", progress=progress, notice=lambda server, event: say(f"{server}: {event}"))
    if results.stamp(stack)["airflow_running"]:
        say("Airflow runs and works beside the bench; `make stop`, then `make start PROFILE=core` gives truer figures")
    trial = stack.home / "bench"
    file, page = (trial / RESULTS.name, trial / PAGE.name) if quick else (RESULTS, PAGE)

    def keep(section: str, content: dict[str, Any]) -> None:
        results.save(file, results.load(file) | {section: results.stamp(stack) | content}, ratios)
        page.write_text(report.page(file.parent))

    def ask(warehouse: Warehouse) -> None:
        keep("analyze", layout.analyze(warehouse, QUESTIONS))

    if "daily" in names:
        keep("daily", daily.measure(stack, lengths, events_per_day, rounds, ask))
    if "user_history" in names:
        keep("user_history", layout.user_history(stack, user_days, user_events_per_day))
    say(f"results in {file}, the document in {page}")


if __name__ == "__main__":
    run(main)
