"""Build the models: run dbt on Trino, publish the marts when nothing failed, and say what came of it.

dbt runs as a process of its own with an environment made from the settings alone,
so nothing of the caller's (a proxy, another certificate bundle, another profile) reaches it.
"""

import fcntl
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import certifi
import orjson

from lakehouse import publish
from lakehouse.adapters import trino
from lakehouse.errors import LakehouseError, TerminalError, TransientError, shorten
from lakehouse.settings import PROJECT_ROOT, Settings

PROJECT = PROJECT_ROOT / "dbt"
_NAMED = 5
_TEST_TYPES = frozenset({"test", "unit_test"})
_TRINO_ERROR = re.compile(r"type=(\w+), name=(\w+)")
_UNREACHABLE = re.compile(
    r"Failed to establish a new connection|Connection refused|Connection reset|Connection aborted|timed out"
    r"|Remote end closed connection|error 50[234]:|server is starting up|authenticators were not loaded",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A model or test that failed.

    Attributes:
        name: as in the dbt project.
        resource_type: `model`, `test`, `unit_test`, …
        message: the first lines of dbt's answer.
    """

    name: str
    resource_type: str
    message: str

    @property
    def is_passing(self) -> bool:
        """Whether the same build may succeed when it runs again."""
        return is_passing_fault(self.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that is a table.

    Attributes:
        name: of the table.
        made_of: `unique_id` of the tables it is made of, at first hand or through others.
        mart: what people read of it; None for a table between the sources and the marts.
    """

    name: str
    made_of: frozenset[str]
    mart: publish.Mart | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What one dbt run did, and what was published after it.

    Attributes:
        models: models built, skipped or failed.
        tests: data and unit tests run, skipped or failed.
        passed: models and tests that succeeded.
        skipped: models and tests left out because what they stand on failed.
        failed: the others.
        seconds: wall time of dbt.
        built: `unique_id` in the dbt project of each model that was built.
        published: marts that readers see anew.
        gone: marts that readers still see and the project has no more; withdrawn when that was asked for.
    """

    models: int
    tests: int
    passed: int
    skipped: int
    failed: tuple[Failure, ...]
    seconds: float
    built: tuple[str, ...] = ()
    published: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LastBuild:
    """How the last build on this machine ended.

    Attributes:
        ended_at: when dbt had run.
        failed: the models and tests that failed; what was built then is not published.
    """

    ended_at: datetime
    failed: tuple[Failure, ...]


def build(
    settings: Settings,
    select: str | None = None,
    full_refresh: bool = False,
    *,
    since: datetime | None = None,
    unit_tests: bool = False,
    withdraw_gone: bool = False,
    report: Callable[[str], None] | None = None,
) -> BuildResult:
    """Build models and run their tests, each model's before anything that reads it; then publish the marts among them.

    Nothing is published unless all that was chosen was built and passed, and what it is made of has passed too.
    Building again is safe at any time: a model rebuilds whole days in one commit, equal rows are not written, and a
    publication that was cut off is finished.

    Args:
        settings: where Trino is.
        select: dbt's node selection (`staging`, `fct_events_daily+`, …); everything when None.
        full_refresh: rebuild incremental models from all events.
        since: take in again all that arrived since this time, and rebuild the dates it touches.
        unit_tests: run dbt's unit tests too; they test the project, not the data.
        withdraw_gone: take back the marts that the project has no more, with their data.
        report: called with each line dbt prints.

    Raises:
        TransientError: Trino or what it stands on could not be reached, or another build is running; nothing is half
            built, so run it again.
        TerminalError: a model or a test failed, now or earlier in what was not chosen; the message names each, and
            says what readers keep.
    """
    arguments = ["build"]
    # A test that compares a chosen model with one that may never have been built is left to a build of both.
    arguments += ["--select", *select.split(), "--indirect-selection", "buildable"] if select else []
    arguments += ["--full-refresh"] if full_refresh else []
    arguments += [] if unit_tests else ["--exclude-resource-type", "unit_test"]
    target = target_directory(settings)
    with only_one(target) as lock:
        try:
            result = _run(settings, arguments, lock, report, since)
            models = _project_models(settings)
            built = {unique_id: models[unique_id] for unique_id in result.built if unique_id in models}
            _refuse_unproven(settings, built, models)
        except LakehouseError as error:
            raise type(error)(f"{error}; {publish.kept(settings)}") from error
        publish.mark_passed(settings, [model.name for model in built.values() if model.mart is None])
        built_marts = [model.mart for model in built.values() if model.mart]
        published = publish.publish(settings, built_marts, datetime.now(UTC))
        # A project without any mart is no project that dropped them all.
        marts = {model.name for model in models.values() if model.mart}
        gone = publish.gone(settings, marts) if marts else ()
        if withdraw_gone:
            publish.withdraw(settings, gone)
    return replace(result, published=published, gone=gone)


def last_build(settings: Settings) -> LastBuild | None:
    """Say how the last build ended; None when this machine has run none, or something else of dbt's since."""
    try:
        results = orjson.loads(_run_results(settings).read_bytes())
    except FileNotFoundError:
        return None
    if results["args"].get("which") != "build":
        return None
    ended_at = datetime.fromisoformat(results["metadata"]["generated_at"])
    return LastBuild(ended_at=ended_at, failed=read_result(results).failed)


def generate_docs(settings: Settings) -> Path:
    """Write the documentation of all models with their lineage as one page, and return its path.

    Raises:
        TransientError: Trino could not be reached.
        TerminalError: dbt could not read the project.
    """
    target = target_directory(settings)
    with only_one(target) as lock:
        _run(settings, ["docs", "generate", "--static"], lock)
    return target / "static_index.html"


def target_directory(settings: Settings) -> Path:
    """Where dbt writes what it compiled and its results."""
    return settings.home / "dbt" / (settings.prefix.rstrip("_") or "main")


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables that dbt, its profile and its models read."""
    target = target_directory(settings)
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": str(target),
        "DBT_PROJECT_DIR": str(PROJECT),
        "DBT_PROFILES_DIR": str(PROJECT),
        "DBT_TARGET_PATH": str(target),
        "DBT_LOG_PATH": str(target / "logs"),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "DBT_USE_COLORS": "false",
        "DBT_VERSION_CHECK": "false",
        "DBT_WARN_ERROR": "true",
        "LAKEHOUSE_PREFIX": settings.prefix,
        "LAKEHOUSE_CATALOG__NAME": settings.catalog.name,
        **_login(settings),
    }


def _login(settings: Settings) -> dict[str, str]:
    """What `dbt/profiles.yml` logs in to Trino with; dbt keeps a variable of the last name's kind out of its logs."""
    login = settings.trino_as("transform")
    return {
        "LAKEHOUSE_TRINO__HOST": login.host,
        "LAKEHOUSE_TRINO__PORT": str(login.port),
        "TRINO_USER": login.user,
        "TRINO_METHOD": "ldap" if login.password else "none",
        "TRINO_SCHEME": "https" if login.tls else "http",
        "TRINO_CA_FILE": str(login.ca_file or certifi.where()),
        "DBT_ENV_SECRET_TRINO_PASSWORD": login.password.get_secret_value() if login.password else "",
    }


def _arrived(since: datetime | None) -> dict[str, str]:
    """What `dbt/macros/arrival.sql` reads: a time as Trino writes it."""
    return {"LAKEHOUSE_ARRIVED_SINCE": f"{since.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f} UTC"} if since else {}


def read_result(run_results: Mapping[str, Any]) -> BuildResult:
    """Read dbt's `run_results.json`.

    Source: dbt's artifact schema `run-results/v6`.
    """
    counted: dict[str, int] = {"model": 0, "test": 0}
    statuses: dict[str, int] = {}
    failed: list[Failure] = []
    built: list[str] = []
    for node in run_results["results"]:
        resource_type, _, name, *_ = node["unique_id"].split(".")
        kind = "test" if resource_type in _TEST_TYPES else resource_type
        if kind not in counted:
            continue
        counted[kind] += 1
        status: str = node["status"]
        status = {"success": "pass", "warn": "pass"}.get(status, status)
        statuses[status] = statuses.get(status, 0) + 1
        if kind == "model" and status == "pass":
            built.append(node["unique_id"])
        if status not in {"pass", "skipped"}:
            told: str = node.get("message") or status
            message = shorten(told)
            failed.append(Failure(name=name, resource_type=resource_type, message=message))
    return BuildResult(
        models=counted["model"],
        tests=counted["test"],
        passed=statuses.get("pass", 0),
        skipped=statuses.get("skipped", 0),
        failed=tuple(failed),
        seconds=round(run_results["elapsed_time"], 1),
        built=tuple(built),
    )


def read_models(manifest: Mapping[str, Any], schema: str) -> dict[str, Model]:
    """Read the models of dbt's `manifest.json` that are tables, by `unique_id`; those in `schema` are the marts.

    Source: dbt's artifact schema `manifest/v12`.
    """
    nodes: Mapping[str, Any] = {
        unique_id: node for unique_id, node in manifest["nodes"].items() if node["resource_type"] == "model"
    }
    tables = {unique_id for unique_id, node in nodes.items() if node["config"]["materialized"] != "view"}

    def made_of(unique_id: str) -> frozenset[str]:
        parents = [parent for parent in nodes[unique_id]["depends_on"]["nodes"] if parent in nodes]
        return frozenset(parents).intersection(tables).union(*map(made_of, parents))

    return {
        unique_id: Model(
            name=nodes[unique_id]["alias"],
            made_of=made_of(unique_id),
            mart=_mart(nodes[unique_id]) if nodes[unique_id]["schema"] == schema else None,
        )
        for unique_id in sorted(tables)
    }


def _mart(node: Mapping[str, Any]) -> publish.Mart:
    return publish.Mart(
        name=node["alias"],
        description=_one_line(node["description"]),
        columns={name: _one_line(column["description"]) for name, column in node["columns"].items()},
    )


def is_passing_fault(message: str) -> bool:
    """Say whether dbt's message tells of a fault that may be gone when the same build runs again."""
    if named := _TRINO_ERROR.search(message):
        return trino.is_passing(*named.groups())
    return _UNREACHABLE.search(message) is not None


def describe(failed: Sequence[Failure]) -> str:
    """Name each failure in one message."""
    if not failed:
        return "nothing failed"
    named = [f"{failure.resource_type} {failure.name}: {failure.message}" for failure in failed[:_NAMED]]
    more = [f"and {len(failed) - _NAMED} more"] if len(failed) > _NAMED else []
    return f"dbt: {len(failed)} failed; " + "; ".join(named + more)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _project_models(settings: Settings) -> dict[str, Model]:
    manifest = orjson.loads((target_directory(settings) / "manifest.json").read_bytes())
    return read_models(manifest, f"{settings.prefix}build")


def _refuse_unproven(settings: Settings, built: Mapping[str, Model], models: Mapping[str, Model]) -> None:
    """See that what the built models read, and this build left as it was, passed its tests in an earlier one."""
    read = frozenset[str]().union(*(model.made_of for model in built.values())) - built.keys()
    if unproven := publish.unproven(settings, [models[unique_id].name for unique_id in read]):
        raise TerminalError(
            f"what was built passed its tests, but {', '.join(unproven)}, which it is made of, did not pass theirs: "
            "run `lakehouse transform run`, or select those too"
        )


def _run_results(settings: Settings) -> Path:
    return target_directory(settings) / "run_results.json"


def _run(
    settings: Settings,
    arguments: Sequence[str],
    lock: int,
    report: Callable[[str], None] | None = None,
    since: datetime | None = None,
) -> BuildResult:
    target = target_directory(settings)
    results = _run_results(settings)
    results.unlink(missing_ok=True)
    output: deque[str] = deque(maxlen=50)
    with subprocess.Popen(
        [str(Path(sys.executable).with_name("dbt")), *arguments],
        cwd=PROJECT,
        env=environment(settings) | _arrived(since),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=[lock],  # so that a dbt whose parent was killed keeps the next build out until it ends
    ) as process:
        for line in process.stdout or ():
            output.append(line.rstrip())
            if report is not None and not line.startswith("INFO:trino."):
                report(line.rstrip())
    if results.exists():
        result = read_result(orjson.loads(results.read_bytes()))
        if result.failed:
            error = TransientError if all(failure.is_passing for failure in result.failed) else TerminalError
            raise error(describe(result.failed))
        if process.returncode == 0:
            return result
    told = "\n".join(output)
    error = TransientError if is_passing_fault(told) else TerminalError
    cause = shorten(told.rpartition("[ERROR]:")[2])
    raise error(f"dbt {arguments[0]} failed (exit {process.returncode}, log in {target / 'logs'}): {cause}")


@contextmanager
def only_one(target: Path) -> Generator[int]:
    """Hold the lock of a target directory, given as a file descriptor: two builds would drop each other's tables."""
    target.mkdir(parents=True, exist_ok=True)
    with (target / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TransientError(f"another dbt build is running (it holds {lock.name}): wait for it") from None
        yield lock.fileno()
