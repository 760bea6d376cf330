"""The DAG control API: `lakehouse api serve|token` and `lakehouse api keys add|list|remove`."""

import fcntl
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

import typer

from lakehouse import callers
from lakehouse.callers import Callers, Role
from lakehouse.cli.output import Format, Output, answers, print_json, print_table
from lakehouse.settings import get_settings
from lakehouse.stack import private

app = typer.Typer(help="The DAG control API: who may call it, and to serve it.", no_args_is_help=True)
keys_app = typer.Typer(help="The keys of its callers.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the caller: a person or a program.")]


@app.command("serve")
def serve() -> None:
    """Serve the API at LAKEHOUSE_API__URL until SIGTERM, which lets it drain; `lakehouse stack up` does it as well.

    Example: `lakehouse api serve`
    """
    # In this process's place, so that signals reach it; no other command waits until Airflow's client is imported.
    os.execv(sys.executable, [sys.executable, "-m", "lakehouse.api"])


@app.command("token")
def token(
    name: Name,
    minutes: Annotated[
        int, typer.Option(min=1, max=callers.MOST_TOKEN_MINUTES, help="How long it is good for, in minutes.")
    ] = 60,
    output: Output = Format.TEXT,
) -> None:
    """Print a token that stands for a caller's key for a while; removing the caller ends it as well.

    Example: `lakehouse api token nightly --minutes 15`
    """
    settings = get_settings()
    caller = callers.read(settings.api_callers_file).named(name)
    signed = callers.token(caller, settings.api.jwt_secret.get_secret_value(), minutes, datetime.now(UTC))
    if output is Format.JSON:
        print_json({"token": signed, "minutes": minutes})
    else:
        answers.print(signed, markup=False)


@keys_app.command("add")
def add(
    name: Name,
    role: Annotated[
        Role, typer.Option(help="`viewer` reads, `operator` runs and stops as well, `admin` deletes as well.")
    ] = Role.VIEWER,
    dags: Annotated[
        list[str] | None,
        typer.Option("--dag", metavar="DAG", help="A DAG that it may see; may be repeated; by default every one."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="After how many days it expires.")] = 90,
    output: Output = Format.TEXT,
) -> None:
    """Add a caller and print its key, which is shown this once; a running server knows it at once.

    Examples:

    `lakehouse api keys add nightly --role operator --dag ingest_user_actions --dag transform`

    `lakehouse api keys add grafana --days 365 --output json`
    """
    caller, key = callers.new(name, role, tuple(dags or (callers.ALL_DAGS,)), days, datetime.now(UTC))
    _change(lambda known: known.joined_by(caller))
    if output is Format.JSON:
        print_json({"name": name, "key": key, "expires_at": caller.expires_at.isoformat()})
    else:
        answers.print(key, markup=False)


@keys_app.command("list")
def list_(output: Output = Format.TEXT) -> None:
    """Show the callers, without their keys, which nobody has but they.

    Example: `lakehouse api keys list`
    """
    found = callers.read(get_settings().api_callers_file).callers
    if output is Format.JSON:
        print_json({"callers": [caller.model_dump(mode="json", exclude={"key_sha256"}) for caller in found]})
    else:
        print_table(
            ["name", "role", "DAGs", "expires"],
            [(one.name, one.role, ", ".join(one.dags), f"{one.expires_at:%Y-%m-%d %H:%M}") for one in found],
        )


@keys_app.command("remove")
def remove(name: Name) -> None:
    """Remove a caller: its key and its tokens are refused at once.

    Example: `lakehouse api keys remove nightly`
    """
    _change(lambda known: known.without(name))
    answers.print(f"{name} is removed", markup=False)


def _change(change: Callable[[Callers], Callers]) -> None:
    """Change the file of the callers, one command after the other."""
    path = get_settings().api_callers_file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        private.write(path, change(callers.read(path)).model_dump_json(indent=2).encode() + b"\n")
