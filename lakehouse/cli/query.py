"""Ways in for people: `lakehouse sql` and `lakehouse docs`."""

import functools
import http.server
import os
import subprocess
import sys
from typing import Annotated

import typer

from lakehouse import transform
from lakehouse.cli.output import errors
from lakehouse.errors import TerminalError
from lakehouse.settings import Settings, get_settings
from lakehouse.stack import artifacts

_QUIET = ("--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow", "-XX:TieredStopAtLevel=1")


def trino_cli(settings: Settings, *arguments: str) -> list[str]:
    """The command line of the Trino CLI with the address and the user of the settings."""
    program = artifacts.trino_cli(settings)
    if not program.exists():
        raise TerminalError("the Trino CLI is not installed here: run `lakehouse stack install`")
    server = f"http://{settings.trino.host}:{settings.trino.port}"
    java = [str(artifacts.java(settings)), *_QUIET]
    if not sys.stdin.isatty():
        java.append("-Dorg.jline.terminal.dumb=true")  # else it warns that there is no terminal
    target = ["--server", server, "--user", settings.trino.user, "--timezone", "UTC"]
    target += ["--catalog", settings.catalog.name, "--schema", f"{settings.prefix}marts"]
    return [*java, "-jar", str(program), *target, *arguments]


def sql(
    statement: Annotated[str | None, typer.Argument(help="One statement; without it you get a prompt.")] = None,
    output_format: Annotated[
        str, typer.Option("--format", help="ALIGNED, CSV, CSV_HEADER, JSON, TSV, VERTICAL or another of the Trino CLI.")
    ] = "ALIGNED",
) -> None:
    """Ask Trino, through its own command line client.

    Examples:

    `lakehouse sql`

    `lakehouse sql 'select * from fct_events_daily' --format CSV_HEADER`
    """
    arguments = ["--execute", statement, "--output-format", output_format] if statement else []
    code = subprocess.run(trino_cli(get_settings(), *arguments), check=False, env=_environment()).returncode
    if code:
        raise typer.Exit(code)


def _environment() -> dict[str, str]:
    # The CLI pages what it prints to a terminal with `less`, which a fresh machine lacks.
    return dict(os.environ) | {"TRINO_PAGER": os.environ.get("TRINO_PAGER", "")}


def docs(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 18089,
    generate_only: Annotated[bool, typer.Option("--generate-only", help="Write the page and stop.")] = False,
) -> None:
    """Make the documentation of the models, with their lineage, and serve it until Ctrl-C.

    Example: `lakehouse docs --port 18090`
    """
    page = transform.generate_docs(get_settings())
    if generate_only:
        print(page)
        return
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(page.parent))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise TerminalError(f"port {port} is taken: give another with --port") from error
    with server:
        errors.print(f"dbt docs: http://127.0.0.1:{port}/{page.name} (Ctrl-C ends)")
        sys.stdout.flush()
        server.serve_forever()
