"""The command `lakehouse`: every job and every server of the platform, for people and for programs."""

import os
import sys
from typing import Annotated

import typer

from lakehouse import __version__
from lakehouse.cli import (
    ads,
    api,
    archive,
    csv_drop,
    demo,
    exporter,
    files,
    maintain,
    pipeline,
    quarantine,
    queries,
    query,
    stack,
    top,
    week,
)
from lakehouse.cli.output import errors
from lakehouse.errors import LakehouseError

app = typer.Typer(
    name="lakehouse",
    help="An online shop's lakehouse: events from Kafka to daily aggregates, on real servers.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(stack.app, name="stack")
app.add_typer(pipeline.tables_app, name="tables")
pipeline.tables_app.command("health")(maintain.health)
pipeline.tables_app.command("cost")(maintain.cost)
app.add_typer(maintain.app, name="maintain")
app.add_typer(pipeline.ingest_app, name="ingest")
app.add_typer(pipeline.transform_app, name="transform")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(archive.app, name="archive")
app.add_typer(files.app, name="files")
app.add_typer(csv_drop.app, name="csv")
app.add_typer(ads.app, name="ads")
app.add_typer(queries.app, name="queries")
app.add_typer(api.app, name="api")
app.add_typer(exporter.app, name="exporter")
app.command("top")(top.top)
app.command("produce")(pipeline.produce)
app.command("announce")(files.announce)
app.command("drop")(csv_drop.drop)
app.command("audit")(pipeline.audit)
app.command("demo")(demo.demo)
app.command("week")(week.week)
app.command("sql")(query.sql)
app.command("docs")(query.docs)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; the one place where an error becomes a message and an exit code.

    Exit codes: 0 done, 1 somebody has to act, 2 wrong usage, 3 a commit's outcome is unknown, 75 retry later,
    130 interrupted.
    """
    try:
        app()
    except LakehouseError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader, `head` for example, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _say(message: str) -> None:
    errors.print("error:", style="bold red", end=" ")
    errors.print(message, markup=False)
