"""The exporter as a program that stays up."""

import logging
import os
import sys
from threading import Event, Thread
from typing import NoReturn

from lakehouse.errors import TerminalError
from lakehouse.exporter.collectors import watching
from lakehouse.exporter.exposition import Exposition, listen
from lakehouse.settings import Settings


def serve(settings: Settings, stop: Event) -> None:
    """Look and answer until `stop` is set, and log on stderr what goes wrong; answers under way get a moment to end.

    Raises:
        TerminalError: the address can't be listened at.
    """
    _log_to_stderr()
    with watching(settings) as watches:
        try:
            server = listen(settings.exporter.url, Exposition(watches))
        except OSError as error:
            raise TerminalError(
                f"the exporter can't listen at {settings.exporter.url} ({error.strerror}): "
                "end what has the port, or set LAKEHOUSE_EXPORTER__URL"
            ) from error
        with server:
            Thread(target=server.serve_forever, name="answers").start()
            stop.wait()
            server.shutdown()


def end_at_once(exit_code: int) -> NoReturn:
    """End the program without the looks that go on, whose threads Python would wait for, even where a server hangs."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _log_to_stderr() -> None:
    to_stderr = logging.StreamHandler()
    to_stderr.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("lakehouse.exporter")  # our own alone: clients repeat what a collector's error says
    log.addHandler(to_stderr)
    log.setLevel(logging.INFO)
