"""The programs an install runs side by side, and how they end together."""

import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from lakehouse.errors import StackError

Progress = Callable[[str, int, int | None, str], None]
"""Called with (step, done, total or None, unit: `bytes` or `packages`); from several threads."""


class Children:
    """The programs that an install has running, so that all of them end with it."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(
        self, command: list[str | Path], environment: Mapping[str, str], on_line: Callable[[str], None], *locks: int
    ) -> int:
        """Run a program, hand each line it prints to `on_line`, and return its exit code.

        The program holds `locks` too, so that one which outlives a killed install keeps the next one out of its files.
        """
        with self._lock:
            self.refuse_if_stopped()
            child = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=locks,
            )
            self._running.add(child)
        assert child.stdout is not None
        with child.stdout as lines:
            for line in lines:
                on_line(line.rstrip())
        code = child.wait()
        with self._lock:
            self._running.discard(child)
        return code

    def refuse_if_stopped(self) -> None:
        """Raise when the install has been stopped meanwhile."""
        if self._stopped:
            raise StackError("the install was stopped")

    def stop(self) -> None:
        """End all programs, and let no further one start."""
        with self._lock:
            self._stopped = True
            for child in self._running:
                child.terminate()
