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
from lakehouse.settings import Settings, TrinoRole, get_settings
from lakehouse.stack import artifacts

_QUIET = ("--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow", "-XX:TieredStopAtLevel=1")


def trino_cli(settings: Settings, role: TrinoRole, *arguments: str) -> list[str]:
    """The command line of the Trino CLI as one of Trino's users; the password comes by `cli_environment`."""
    program = artifacts.trino_cli(settings)
    if not program.exists():
        raise TerminalError("the Trino CLI is not installed here: run `lakehouse stack install`")
    login = settings.trino_as(role)
    java = [str(artifacts.java(settings)), *_QUIET]
    if not sys.stdin.isatty():
        java.append("-Dorg.jline.terminal.dumb=true")  # else it warns that there is no terminal
    target = ["--server", login.url, "--user", login.user, "--timezone", "UTC"]
    target += ["--password"] if login.password else []
    target += ["--truststore-path", str(login.ca_file)] if login.tls and login.ca_file else []
    target += ["--catalog", settings.catalog.name, "--schema", f"{settings.prefix}marts"]
    return [*java, "-jar", str(program), *target, *arguments]


def cli_environment(settings: Settings, role: TrinoRole) -> dict[str, str]:
    """What the Trino CLI finds in its environment: ours and the password, which no list of processes then shows."""
    password = settings.trino_as(role).password
    login = {"TRINO_PASSWORD": password.get_secret_value()} if password else {}
    # The CLI pages what it prints to a terminal with `less`, which a fresh machine lacks.
    return dict(os.environ) | {"TRINO_PAGER": os.environ.get("TRINO_PAGER", "")} | login


def sql(
    statement: Annotated[str | None, typer.Argument(help="One statement; without it you get a prompt.")] = None,
    as_role: Annotated[
        TrinoRole, typer.Option("--as", help="Whose rights the statement has; see docs/access.md.")
    ] = "analyst",
    output_format: Annotated[
        str, typer.Option("--format", help="ALIGNED, CSV, CSV_HEADER, JSON, TSV, VERTICAL or another of the Trino CLI.")
    ] = "ALIGNED",
) -> None:
    """Ask Trino, through its own command line client; it starts in the schema of the marts.

    Examples:

    `lakehouse sql`

    `lakehouse sql 'select * from fct_events_daily' --format CSV_HEADER`

    `lakehouse sql 'select count(*) from events.user_actions' --as transform`

    `lakehouse sql 'select query, cpu_seconds from ops.query_history' --as admin`
    """
    settings = get_settings()
    arguments = ["--execute", statement, "--output-format", output_format] if statement else []
    command = trino_cli(settings, as_role, *arguments)
    if code := subprocess.run(command, check=False, env=cli_environment(settings, as_role)).returncode:
        raise typer.Exit(code)


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
