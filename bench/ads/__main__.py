"""The command behind `make bench-ads`: measure, write the results, and from them the document."""

from typing import Annotated, Any, Final

import typer

from bench import report, results
from bench.ads import measure
from bench.ads.report import ratios
from bench.command import Document, Quick, run
from bench.say import say
from lakehouse.cli.output import install_progress
from lakehouse.settings import PROJECT_ROOT
from lakehouse.stack import local

MEASURES: Final = ("speed", "memory")
RESULTS: Final = PROJECT_ROOT / "bench" / "results" / "ads.json"
PAGE: Final = PROJECT_ROOT / "docs" / "benchmarks.md"


def main(
    rows: Annotated[int, typer.Option(min=1000, help="Impressions of a round.")] = 500_000,
    dates: Annotated[int, typer.Option(min=1, help="Dates that they are spread over.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 5,
    memory_rows: Annotated[
        list[int] | None, typer.Option(min=1000, help="Two sizes of one date [default: 200000, 1000000].")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help=f"What to measure, several times: {', '.join(MEASURES)}.")
    ] = None,
    quick: Quick = False,
    document: Document = False,
) -> None:
    """Measure loading and archiving of ad data on this machine's stack, and write results and document.

    Examples:

    `python -m bench.ads --quick`

    `python -m bench.ads --only speed --rows 1000000 --rounds 3`
    """
    if document:
        PAGE.write_text(report.page(RESULTS.parent))
        return
    names = tuple(only or MEASURES)
    if unknown := set(names) - set(MEASURES):
        raise typer.BadParameter(f"no {', '.join(sorted(unknown))}; there is: {', '.join(MEASURES)}")
    small, large = memory_rows or ([5_000, 20_000] if quick else [200_000, 1_000_000])
    if quick:
        rows, rounds = 20_000, 1
    with install_progress() as progress:
        stack = local.up("core", progress=progress, notice=lambda server, event: say(f"{server}: {event}"))
    trial = stack.home / "bench"
    file, page = (trial / RESULTS.name, trial / PAGE.name) if quick else (RESULTS, PAGE)

    def keep(section: str, content: dict[str, Any]) -> None:
        results.save(file, results.load(file) | {section: results.stamp(stack) | content}, ratios)
        page.write_text(report.page(file.parent))

    if "speed" in names:
        keep("speed", measure.speed(stack, rows, dates, rounds))
    if "memory" in names:
        keep("memory", measure.memory(stack, (small, large)))
    say(f"results in {file}, the document in {page}")


if __name__ == "__main__":
    run(main)
