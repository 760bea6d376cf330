"""`lakehouse stack`: the servers of this machine."""

import collections
import subprocess
from collections.abc import Collection
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from lakehouse.cli.output import Format, Output, answers, errors, install_progress, megabytes, print_json, print_table
from lakehouse.errors import TerminalError
from lakehouse.settings import Settings, get_settings
from lakehouse.stack import artifacts, checks, launch, local
from lakehouse.stack import install as installing
from lakehouse.stack.supervision import Supervision

app = typer.Typer(help="Run the real servers on this machine, without Docker.", no_args_is_help=True)


class Profile(StrEnum):
    """Which servers."""

    CORE = "core"
    FULL = "full"
    OBSERVE = "observe"


ProfileOption = Annotated[
    Profile,
    typer.Option(help="`core` leaves Airflow out; `full` has all that does the work; `observe` also watches over it."),
]


def bring_up(profile: Profile, only: Collection[str] = ()) -> Settings:
    """Bring the servers up and show how it goes; returns the settings with their credentials."""
    _announce_install(profile)
    with install_progress() as progress:
        return local.up(profile.value, only=only, progress=progress, notice=_notice)


def _announce_install(profile: Profile) -> None:
    settings = get_settings()
    if lacking := installing.missing(settings, profile.value):
        built = " and ".join(part for part in lacking if part in artifacts.GO_PARTS)
        compiled = f", and {built} to compile, which takes some minutes" if built else ""
        size = megabytes(sum(lacking.values()))
        errors.print(f"Installing {', '.join(lacking)} into {settings.cache}: {size} to download{compiled}, once")


def _notice(name: str, event: str) -> None:
    errors.print(f"  {name:<24}{event}", style="green" if event == "healthy" else "dim")


@app.command()
def install(profile: ProfileOption = Profile.FULL) -> None:
    """Fetch and build the servers without starting them; finished parts are kept when it breaks.

    Example: `lakehouse stack install`
    """
    _announce_install(profile)
    with install_progress() as progress:
        installing.install(get_settings(), profile.value, progress)
    errors.print(f"All servers are in {get_settings().cache}")


@app.command()
def up(
    servers: Annotated[list[str] | None, typer.Argument(help="Only these and what they need; default: all.")] = None,
    profile: ProfileOption = Profile.FULL,
    output: Output = Format.TEXT,
) -> None:
    """Start the servers that do not run yet and wait until they are healthy.

    Example: `lakehouse stack up --profile core`
    """
    bring_up(profile, servers or ())
    _report(output)


@app.command()
def down(output: Output = Format.TEXT) -> None:
    """Stop every process of this stack and nothing else; the data stays.

    Example: `lakehouse stack down`
    """
    stopped = local.down(_notice)
    if output is Format.JSON:
        print_json({"stopped": stopped})
    else:
        errors.print(f"{len(stopped)} servers stopped" if stopped else "nothing was running")


@app.command()
def status(output: Output = Format.TEXT) -> None:
    """Show each server's pid, port, memory and health; exits 1 when one that runs is not healthy.

    Example: `lakehouse stack status --output json`
    """
    _report(output)


def _report(output: Format) -> None:
    rows = local.status()
    if output is Format.JSON:
        print_json({"servers": [asdict(row) for row in rows]})
    else:
        print_table(
            ["server", "health", "pid", "port", "version", "memory", "address"],
            [
                (r.name, r.health, str(r.pid or ""), str(r.port or ""), r.version, megabytes(r.rss_bytes), r.url)
                for r in rows
            ],
        )
        answers.print(f"memory together: {megabytes(sum(row.rss_bytes for row in rows))}")
        for row in rows:
            if row.detail:
                answers.print(f"{row.name}: {row.detail}", markup=False)
    if any(row.health == "unhealthy" for row in rows):
        raise typer.Exit(1)


@app.command("airflow", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def airflow(context: typer.Context) -> None:
    """Run Airflow's own command line on this stack's Airflow.

    Examples:

    `lakehouse stack airflow dags list-runs transform`

    `lakehouse stack airflow backfill create --dag-id transform --from-date 2026-01-30 --to-date 2026-01-31`
    """
    settings = get_settings()
    command, environment = launch.client(settings, "airflow-api-server")
    if code := subprocess.run([*command, *context.args], env=environment, check=False).returncode:
        raise typer.Exit(code)


@app.command()
def logs(
    server: Annotated[str, typer.Argument(help="The server, as `lakehouse stack status` names it.")],
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines from the end.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
) -> None:
    """Show the end of a server's log.

    Example: `lakehouse stack logs trino -f`
    """
    path = Supervision(get_settings()).log_path(server)
    if not path.exists():
        known = ", ".join(sorted(log.stem for log in path.parent.glob("*.log"))) or "none yet"
        raise TerminalError(f"there is no log of {server!r}; there are: {known}")
    if follow:
        subprocess.run(["tail", f"-n{lines}", "-F", str(path)], check=False)
        return
    with path.open(errors="replace") as file:
        for line in collections.deque(file, lines):
            print(line, end="")


@app.command()
def doctor(profile: ProfileOption = Profile.FULL, output: Output = Format.TEXT) -> None:
    """Look for what keeps the servers from running here, and say how to mend it; exits 1 when something does.

    Example: `lakehouse stack doctor`
    """
    findings = checks.examine(get_settings(), profile.value)
    if output is Format.JSON:
        print_json({"checks": [asdict(finding) for finding in findings]})
    else:
        print_table(["check", "", "detail"], [(f.check, "ok" if f.ok else "FAILS", f.detail) for f in findings])
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
