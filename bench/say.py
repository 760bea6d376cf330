"""How the bench tells how far it is."""

import time
from typing import Final

from lakehouse.cli.output import errors

_STARTED: Final = time.monotonic()


def say(text: str) -> None:
    """Tell a person, with the time since the start."""
    minutes, seconds = divmod(int(time.monotonic() - _STARTED), 60)
    errors.print(f"{minutes:3d}:{seconds:02d}  {text}", markup=False)
