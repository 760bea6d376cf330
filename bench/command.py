"""How a command of the bench begins and ends."""

import signal
import sys
from collections.abc import Callable

import typer

from lakehouse.cli.output import errors
from lakehouse.errors import LakehouseError


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
