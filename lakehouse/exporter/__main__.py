"""`python -m lakehouse.exporter`: the exporter without the rest of the command line, and without what that imports."""

import signal
import sys
from threading import Event

from lakehouse.errors import LakehouseError
from lakehouse.exporter.service import end_at_once, serve
from lakehouse.settings import get_settings


def main() -> None:
    """Serve until SIGTERM or Ctrl-C, then end, whatever is still under way."""
    stop = Event()

    def drain(_number: int, _frame: object) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, drain)
    exit_code = 0
    try:
        serve(get_settings(), stop)
    except LakehouseError as error:
        sys.stderr.write(f"error: {error}\n")
        exit_code = error.exit_code
    end_at_once(exit_code)


if __name__ == "__main__":
    main()
