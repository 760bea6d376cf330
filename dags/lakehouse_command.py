"""The one operator of these DAGs: it runs a `lakehouse` command and understands how it ended."""

import collections
import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import IO, Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from lakehouse.errors import TransientError

GRACE_SECONDS = 3.5
"""Between SIGTERM and SIGKILL; Airflow kills the task itself 5 s after its own SIGTERM, and then nobody is left to."""
POLL_SECONDS = 0.2

TASK_DEFAULTS: dict[str, Any] = {
    "owner": "data-platform",
    "retries": 5,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=5),
}
"""`default_args` of every DAG: the waits of 10, 20, 40, 80 and 160 s outlast a server's restart."""


class LakehouseCommand(BaseOperator):
    """Run one `lakehouse` command; its result is the JSON object on its last line of output.

    Exit 0 is success.
    Exit 75, or an end by a signal, is retried as the task's `retries` say.
    Any other exit fails the task at once, because a retry would give the same answer.
    Stopping the run ends the command and everything it started.

    Args:
        arguments: of `lakehouse`, for example `["ingest", "run"]`.
        skip_unless: keys of counts in the result; when all of them are 0 the task is skipped, so that its assets
            stay untouched. Only the first attempt is skipped: a later one can't know whether the attempt before
            it had committed rows and died before it could say so.
        program: found on the `PATH`.
    """

    template_fields: Collection[str] = ("arguments",)
    ui_color = "#e4f0ea"

    def __init__(
        self, *, arguments: Sequence[str], skip_unless: Sequence[str] = (), program: str = "lakehouse", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.arguments = list(arguments)
        self.skip_unless = list(skip_unless)
        self.program = program
        self._command: subprocess.Popen[bytes] | None = None
        self._stopped_at: float | None = None

    def execute(self, context: Context) -> dict[str, Any] | None:
        """Run the command and return its result."""
        code, last_line = self._run()
        if self._stopped_at is not None or code == TransientError.exit_code or code < 0:
            raise AirflowException(f"lakehouse {' '.join(self.arguments)} ended with {code}: it may work when retried")
        if code != 0:
            raise AirflowFailException(f"lakehouse {' '.join(self.arguments)} ended with {code}: see the log above")
        result = _json_object(last_line)
        if self.skip_unless and context["ti"].try_number == 1:  # pyright: ignore[reportTypedDictNotRequiredAccess]
            if result is None:
                raise AirflowFailException(f"the last line of output is no JSON object: {last_line[:200]!r}")
            if not any(result[key] for key in self.skip_unless):
                raise AirflowSkipException("nothing new: " + ", ".join(f"{key} 0" for key in self.skip_unless))
        return result

    def on_kill(self) -> None:
        """Ask the command to end; `_run` insists when it does not."""
        # This runs inside a signal handler that has interrupted `_run`, so it must not wait.
        self._stopped_at = time.monotonic()
        if self._command is not None:
            _signal_group(self._command, signal.SIGTERM)

    def _run(self) -> tuple[int, str]:
        line = [self.program, *self.arguments]
        self.log.info("Running: %s", " ".join(line))
        try:
            # A session of its own, so that one signal reaches Spark's JVM and its Python workers as well.
            command = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        except FileNotFoundError as error:
            raise AirflowFailException(f"no program {self.program!r} on the PATH {os.environ.get('PATH')}") from error
        self._command = command
        last_line: collections.deque[str] = collections.deque(maxlen=1)
        readers = [
            threading.Thread(target=self._forward, args=(command.stdout, last_line), daemon=True),
            threading.Thread(target=self._forward, args=(command.stderr, None), daemon=True),
        ]
        for reader in readers:
            reader.start()
        try:
            while command.poll() is None:
                if self._stopped_at is not None and time.monotonic() > self._stopped_at + GRACE_SECONDS:
                    _signal_group(command, signal.SIGKILL)
                time.sleep(POLL_SECONDS)
        finally:
            if command.poll() is None:  # the task's time is up
                _signal_group(command, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    command.wait(GRACE_SECONDS)
            _signal_group(command, signal.SIGKILL)
            command.wait()
            for reader in readers:
                reader.join(GRACE_SECONDS)
        return command.returncode, last_line[0] if last_line else ""

    def _forward(self, stream: IO[bytes], last_line: "collections.deque[str] | None") -> None:
        with stream:
            for raw in stream:
                line = raw.decode(errors="backslashreplace").rstrip()
                self.log.info("%s", line)
                if line and last_line is not None:
                    last_line.append(line)


def _signal_group(command: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The group outlives its leader while a process that the command started is alive.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(command.pid, number)


def _json_object(line: str) -> dict[str, Any] | None:
    with contextlib.suppress(json.JSONDecodeError):
        value = json.loads(line)
        return value if isinstance(value, dict) else None
    return None
