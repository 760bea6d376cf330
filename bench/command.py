"""How a command of the bench begins and ends, and the options that each of them has."""

import signal
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from lakehouse.cli.output import errors
from lakehouse.errors import LakehouseError

Quick = Annotated[
    bool,
    typer.Option(
        "--quick", help="Small sizes, to see that all works; the results go into the state, not into the project."
    ),
]
Document = Annotated[
    bool, typer.Option("--document", help="Measure nothing; write the document anew from the results there are.")
]


def run(main: Callable[..., None]) -> None:
    """Run the command, cleaned up after Ctrl-C and SIGTERM alike; an error of ours is told in one line."""
    # A shell turns SIGINT off for what it starts in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        typer.run(main)
    except LakehouseError as error:
        errors.print(f"error: {error}", markup=False)
        sys.exit(error.exit_code)
