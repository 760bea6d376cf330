"""The one operator of these DAGs: it runs a `lakehouse` command and understands how it ended."""

import collections
import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import IO, Any, Final

import psutil
from airflow.sdk import BaseOperator, Connection, Context, Param, Variable
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSkipException,
    ParamValidationError,
)
from alerts import task_failed

from lakehouse.errors import TransientError

GRACE_SECONDS = 3.5
"""Between SIGTERM and SIGKILL; Airflow kills the task itself 5 s after its own SIGTERM, and then nobody is left to."""
POLL_SECONDS = 0.2

PREFIX: Final = "prefix"
"""The param that says in which environment a run works."""
PREFIXES: Final = "prefixes"
"""What an asset's event tells: the environments in which something is new."""

RUN: Final = "LAKEHOUSE_RUN"
"""The setting that tells a command, and all it starts, for which run and task; so the control API finds them."""

ERROR_MARK: Final = "error:"
"""What the line of standard error begins with that says why a command failed."""

TASK_DEFAULTS: dict[str, Any] = {
    "owner": "data-platform",
    "retries": 5,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=5),
    "max_active_tis_per_dag": 1,
    "on_failure_callback": task_failed,
}
"""`default_args` of every DAG: the waits of 10, 20, 40, 80 and 160 s outlast a server's restart.

`max_active_runs` of a DAG does not bind a backfill, so the tasks keep a second run waiting themselves.
"""


def prefix_param() -> Param:
    """Make the param `prefix`, which every DAG has that works in one environment."""
    return Param(
        None,
        type=["null", "string"],
        pattern=r"^([a-z][a-z0-9_]*_)?$",
        title="Environment",
        description="Prefix of the environment to work in, such as `dev_`.",
    )


def moment_param(title: str, description: str) -> Param:
    """Make a param that is a date, or a time with or without its offset."""
    return Param(
        None,
        type=["null", "string"],
        format="date-time",  # the UI shows a calendar; the pattern is what holds it
        pattern=r"^(\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?)?)?$",
        title=title,
        description=description,
    )


def spark_master_param() -> Param:
    """Make the param `spark_master` of a DAG whose command starts Spark."""
    return Param(
        None,
        type=["null", "string"],
        pattern=r"^(local(\[.+\])?|spark://.+|k8s://.+)?$",
        title="Spark master",
        description="Where Spark runs: `local[*,3]`, `spark://…` or `k8s://…`.",
    )


def dry_run_param() -> Param:
    """Make the param `dry_run` of a DAG that changes tables by a plan."""
    return Param(
        False, type="boolean", title="Dry run", description="Say what would be done and why, and change nothing."
    )


CONNECTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "lakehouse_kafka": {"LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS": "host"},
    "lakehouse_catalog": {
        "LAKEHOUSE_CATALOG__URI": "host",
        "LAKEHOUSE_CATALOG__CLIENT_ID": "login",
        "LAKEHOUSE_CATALOG__CLIENT_SECRET": "password",
    },
    "lakehouse_s3": {
        "LAKEHOUSE_S3__ENDPOINT": "host",
        "LAKEHOUSE_S3__ACCESS_KEY": "login",
        "LAKEHOUSE_S3__SECRET_KEY": "password",
    },
    "lakehouse_postgres": {
        "LAKEHOUSE_POSTGRES__HOST": "host",
        "LAKEHOUSE_POSTGRES__PORT": "port",
        "LAKEHOUSE_POSTGRES__USER": "login",
        "LAKEHOUSE_POSTGRES__PASSWORD": "password",
    },
    "lakehouse_ads_api": {"LAKEHOUSE_ADS__API_URL": "host", "LAKEHOUSE_ADS__API_TOKEN": "password"},
    "lakehouse_trino_admin": {"LAKEHOUSE_TRINO__ADMIN_PASSWORD": "password"},
    "lakehouse_trino_ingest": {"LAKEHOUSE_TRINO__INGEST_PASSWORD": "password"},
    "lakehouse_trino_transform": {"LAKEHOUSE_TRINO__TRANSFORM_PASSWORD": "password"},
}
"""Which setting of a command comes from which field of which Connection; one that does not exist changes nothing."""
CONNECTION_MEANINGS: Final[Mapping[str, str]] = {
    "lakehouse_kafka": "Kafka's brokers, `host:port[,host:port]`.",
    "lakehouse_catalog": "The REST catalog and its OAuth2 client.",
    "lakehouse_s3": "The object store and the pipeline's key.",
    "lakehouse_postgres": "PostgreSQL and the pipeline's user.",
    "lakehouse_ads_api": "The ad API, its address with `http://` or `https://`, and our token.",
    "lakehouse_trino_admin": "Trino's user for maintenance and archiving.",
    "lakehouse_trino_ingest": "Trino's user that reads and writes events and quarantine.",
    "lakehouse_trino_transform": "Trino's user as whom dbt builds.",
}
"""What each of them is for, as the operations page tells it."""


class LakehouseCommand(BaseOperator):
    """Run one `lakehouse` command; its result is the JSON object on its last line of output.

    Exit 0 is success.
    Exit 75, or an end by a signal, is retried as the task's `retries` say.
    Any other exit fails the task at once, because a retry would give the same answer.
    Stopping the run ends the command and everything it started.

    News stay in their environment: the assets of a run tell which prefix it worked with, and a run that they wake
    works with that one, unless somebody says otherwise; with several, in one after the other.

    Args:
        arguments: of `lakehouse`, for example `["ingest", "run"]`.
        options: where each param of the DAG goes: to an option such as `--until`, or to a setting such as
            `LAKEHOUSE_PREFIX`. A param that the run leaves empty takes the value of the Variable `<DAG>_<param>`; one
            that is empty there too is left out.
        intervals: templates by param, for what neither the run nor a Variable says.
        skip_unless: keys of counts in the result; when all of them are 0 the task is skipped, so that its assets
            stay untouched. Only the first attempt is skipped: a later one can't know whether the attempt before
            it had committed rows and died before it could say so.
        program: found on the `PATH`.
    """

    template_fields: Collection[str] = ("arguments", "intervals")
    ui_color = "#e4f0ea"

    def __init__(
        self,
        *,
        arguments: Sequence[str],
        options: Mapping[str, str] | None = None,
        intervals: Mapping[str, str] | None = None,
        skip_unless: Sequence[str] = (),
        program: str = "lakehouse",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.arguments = list(arguments)
        self.options = dict(options or {})
        self.intervals = dict(intervals or {})
        self.skip_unless = list(skip_unless)
        self.program = program
        self._command: subprocess.Popen[bytes] | None = None
        self._stopped_at: float | None = None

    def execute(self, context: Context) -> dict[str, Any] | None:
        """Run the command and return its result; those of several environments stand under their prefixes."""
        results = {prefix: self._work(context, prefix) for prefix in self._prefixes(context)}
        news: list[Any] = [prefix for prefix, result in results.items() if self._is_news(context, result)]
        if not news:
            raise AirflowSkipException("nothing new: " + ", ".join(f"{key} 0" for key in self.skip_unless))
        for asset in self.outlets:
            context["outlet_events"][asset].extra = {PREFIXES: news}  # pyright: ignore[reportTypedDictNotRequiredAccess]
        return results if len(results) > 1 else results.popitem()[1]

    def _prefixes(self, context: Context) -> list[str]:
        """The environments to work in; the empty prefix is the one that Airflow itself works in."""
        if PREFIX not in self.options:
            return [""]
        if (chosen := self._value(context, PREFIX)) is not None:
            return [chosen]
        events = context["triggering_asset_events"].values()  # pyright: ignore[reportTypedDictNotRequiredAccess]
        return sorted({prefix for one in events for event in one for prefix in event.extra.get(PREFIXES, ())}) or [""]

    def _work(self, context: Context, prefix: str) -> dict[str, Any] | None:
        """Run the command in an environment and return its result."""
        task = context["ti"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
        line, settings = [self.program, *self.arguments], dict(_connected())
        settings[RUN] = f"{task.dag_id}/{task.run_id}/{task.task_id}"
        for name, target in self.options.items():
            value = prefix if name == PREFIX else self._value(context, name)
            if target.startswith("-"):
                line += _option(target, value)
            elif value is not None and value != "":
                settings[target] = str(value)
        code, last_line, error = self._run(line, settings)
        ended = f"{' '.join(['lakehouse', *line[1:]])} ended with {code}"
        if self._stopped_at is not None or code == TransientError.exit_code or code < 0:
            raise AirflowException(f"{ended}: {error or 'it may work when retried'}")
        if code != 0:
            raise AirflowFailException(f"{ended}: {error or 'see the log above'}")
        result = _json_object(last_line)
        if self.skip_unless and result is None:
            raise AirflowFailException(f"the last line of output is no JSON object: {last_line[:200]!r}")
        return result

    def _is_news(self, context: Context, result: Mapping[str, Any] | None) -> bool:
        if not self.skip_unless or result is None or context["ti"].try_number > 1:  # pyright: ignore[reportTypedDictNotRequiredAccess]
            return True
        return any(result[key] for key in self.skip_unless)

    def on_kill(self) -> None:
        """Ask the command to end; `_run` insists when it does not."""
        # This runs inside a signal handler that has interrupted `_run`, so it must not wait.
        self._stopped_at = time.monotonic()
        if self._command is not None:
            _signal_group(self._command, signal.SIGTERM)

    def _value(self, context: Context, name: str) -> Any:
        told = value_of(self, context, name)
        return self.intervals.get(name) if told is None else told

    def _run(self, line: Sequence[str], settings: Mapping[str, str]) -> tuple[int, str, str]:
        """Run the command; returns its exit code, its last line of output, and what it said of its failure."""
        self.log.info("Running: %s", " ".join(line))
        if settings:
            self.log.info("With %s", ", ".join(sorted(settings)))  # the names only: some are secrets
        try:
            # A session of its own, so that one signal reaches Spark's JVM and its Python workers as well.
            command = subprocess.Popen(
                line,
                env=os.environ | settings,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise AirflowFailException(f"no program {self.program!r} on the PATH {os.environ.get('PATH')}") from error
        self._command = command
        last_line: collections.deque[str] = collections.deque(maxlen=1)
        last_error: collections.deque[str] = collections.deque(maxlen=1)
        readers = [
            threading.Thread(target=self._forward, args=(command.stdout, last_line), daemon=True),
            threading.Thread(target=self._forward, args=(command.stderr, last_error, ERROR_MARK), daemon=True),
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
            _kill_session(command)
            command.wait()
            for reader in readers:
                reader.join(GRACE_SECONDS)
        error = last_error[0].removeprefix(ERROR_MARK).strip() if last_error else ""
        return command.returncode, last_line[0] if last_line else "", error

    def _forward(self, stream: IO[bytes], kept: "collections.deque[str]", mark: str = "") -> None:
        with stream:
            for raw in stream:
                line = raw.decode(errors="backslashreplace").rstrip()
                self.log.info("%s", line)
                if line and line.startswith(mark):
                    kept.append(line)


def value_of(task: BaseOperator, context: Context, name: str) -> Any:
    """What the run says of a param, else what the Variable `<DAG>_<param>` says; None where neither does."""
    params = context["params"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
    if params[name] is not None:
        return params[name]
    variable = f"{task.dag_id}_{name}"
    text = Variable.get(variable, default=None)
    if text is None:
        return None
    param: Param = context["dag"].params.get_param(name)  # pyright: ignore[reportTypedDictNotRequiredAccess]
    try:
        return Param(_of_type(param, text), schema=param.schema).resolve()
    except (ParamValidationError, json.JSONDecodeError) as error:
        raise AirflowFailException(f"the Variable {variable} does not fit the param {name}: {error}") from error


def _connected() -> Iterator[tuple[str, str]]:
    """Yield the settings that Connections bring."""
    for connection_id, fields in CONNECTIONS.items():
        try:
            connection = Connection.get(connection_id)
        except AirflowNotFoundException:
            continue
        for setting, field in fields.items():
            if value := getattr(connection, field):
                yield setting, str(value)


def _option(option: str, value: Any) -> list[str]:
    """Write an option as the command line wants it: a switch, once with its value, or once for each of a list."""
    if value is None or value is False or value == "":
        return []
    if value is True:
        return [option]
    # In one word, so that a value that begins with a dash stays a value.
    return [f"{option}={one}" for one in (value if isinstance(value, list) else [value])]


def _of_type(param: Param, text: str) -> Any:
    """Read a Variable's text as the param's type: what may be a string is one, all else is JSON."""
    return text if "string" in param.schema["type"] else json.loads(text)


def _signal_group(command: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The group outlives its leader while a process that the command started is alive.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(command.pid, number)


def _kill_session(command: subprocess.Popen[bytes]) -> None:
    # Spark's Python daemon and its workers are in a group of their own; no process of ours leaves the session.
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == command.pid:
                os.kill(pid, signal.SIGKILL)


def _json_object(line: str) -> dict[str, Any] | None:
    with contextlib.suppress(json.JSONDecodeError):
        value = json.loads(line)
        return value if isinstance(value, dict) else None
    return None
