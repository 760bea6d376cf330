"""What every DAG of the project must be like."""

import asyncio
import copy
import importlib
import importlib.machinery
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer
from jsonschema import Draft202012Validator, FormatChecker
from typer.core import TyperGroup

from lakehouse.api.conf import SPARK_MASTER
from lakehouse.cli.main import app
from lakehouse.settings import PROJECT_ROOT, Settings
from lakehouse.stack.airflow import DOORBELL_CONNECTION, POOLS

DAGS = PROJECT_ROOT / "dags"
HELPERS = {"alerts", "doorbell", "lakehouse_command"}
ADDRESSES = ("spark://elsewhere:7077", "k8s://https://elsewhere:443", "https://elsewhere/x", "s3://elsewhere/x")
OPERATIONS = PROJECT_ROOT / "docs" / "operations.md"
DAG_IDS = sorted({path.stem for path in DAGS.glob("*.py")} - HELPERS)
WAITS_BESIDE_ITSELF = "event_transformation"
"""The one DAG whose runs wait side by side: a file may come hours late, and no other run must stand behind it."""
SENSOR = "wait_for_files"
"""Its one task that may wait more than once: for Airflow a deferred one is active, and would keep all others back."""


@pytest.fixture(params=DAG_IDS)
def dag(request: pytest.FixtureRequest, dagbag: Any) -> Any:
    return dagbag.dags[request.param]


def test_dag_files_import_without_errors_or_warnings(dagbag: Any) -> None:
    assert dagbag.import_errors == {}
    assert dagbag.captured_warnings == {}


def test_a_dag_is_named_after_its_file(dagbag: Any) -> None:
    assert sorted(dagbag.dags) == DAG_IDS
    assert {dag_id: Path(dag.fileloc).stem for dag_id, dag in dagbag.dags.items()} == {i: i for i in DAG_IDS}


def test_a_dag_shows_its_runbook(dag: Any) -> None:
    headings = ("Upstream", "Downstream", "Why this schedule", "Interval", "Safe to re-run?", "Triage")
    for part in headings:
        assert f"**{part}**" in dag.doc_md
    assert dag.description


def test_a_dag_and_each_trouble_of_its_triage_has_a_heading_in_the_operations_page(dag: Any) -> None:
    headings = re.findall(r"^#+ (.*)$", OPERATIONS.read_text(), re.MULTILINE)
    assert dag.dag_id in headings  # alerts link to it
    triage = dag.doc_md.partition("**Triage**")[2]
    troubles = [row.split(" | ")[0] for row in re.findall(r"^\| (.* \| .*) \|$", triage, re.MULTILINE)][2:]
    assert troubles
    told = {heading.partition(": ")[2] for heading in headings if heading.startswith((f"{dag.dag_id}: ", "Any DAG: "))}
    assert set(troubles) - told == set()


def test_a_dag_has_tags_and_never_catches_up_or_runs_beside_itself(dag: Any) -> None:
    assert dag.tags
    assert dag.catchup is False
    assert dag.max_active_runs == (16 if dag.dag_id == WAITS_BESIDE_ITSELF else 1)


def test_a_dag_can_be_backfilled(dag: Any) -> None:
    assert type(dag.timetable).__name__ in {"CronTriggerTimetable", "AssetOrTimeSchedule"}  # those have times to fill
    assert all(task.depends_on_past is False for task in dag.tasks)


def test_a_task_has_an_owner_retries_and_a_time_limit(dag: Any) -> None:
    assert dag.tasks
    for task in dag.tasks:
        assert task.owner == "data-platform"
        assert task.retries == 5
        assert (task.retry_delay, task.max_retry_delay) == (timedelta(seconds=10), timedelta(minutes=5))
        assert task.retry_exponential_backoff == 2
        assert task.execution_timeout is not None


def test_a_task_never_runs_twice_at_once_also_in_a_backfill(dag: Any) -> None:
    for task in dag.tasks:
        only_waits = (dag.dag_id, task.task_id) == (WAITS_BESIDE_ITSELF, SENSOR)
        assert task.max_active_tis_per_dag == (None if only_waits else 1)
        assert task.pool in {"default_pool", *POOLS}


def test_a_failed_task_and_a_late_run_are_told_to_people(dag: Any) -> None:
    alerts = importlib.import_module("alerts")
    assert [task.on_failure_callback for task in dag.tasks] == [[alerts.task_failed]] * len(dag.tasks)
    (deadline,) = dag.deadline
    assert timedelta(0) < deadline.interval <= timedelta(hours=6)
    assert deadline.callback.path == "alerts.deadline_missed"


def test_a_task_is_one_command_that_knows_its_options_or_waits_without_a_worker(dag: Any) -> None:
    for task in dag.tasks:
        if type(task).__name__ == "DroppedFile":
            assert task.deferrable
            continue
        command = typer.main.get_command(app)
        words = [word for word in task.arguments if not word.startswith("-")][:-1]  # the last one is `json`
        for word in words:
            assert isinstance(command, TyperGroup)
            command = command.commands[word]
        known = {option for parameter in command.params for option in parameter.opts}
        options = {target for target in task.options.values() if target.startswith("-")}
        assert options <= known
        assert all(is_setting(target) for target in set(task.options.values()) - options)


def is_setting(variable: str) -> bool:
    """Whether a variable of the environment is one of ours."""
    model: Any = Settings
    for name in variable.removeprefix("LAKEHOUSE_").lower().split("__"):
        if name not in model.model_fields:
            return False
        model = model.model_fields[name].annotation
    return True


def test_every_param_reaches_the_command_and_has_a_default_and_a_description(dag: Any) -> None:
    assert sorted(dag.params) == sorted({name for task in dag.tasks for name in task.options})
    for name in dag.params:
        param = dag.params.get_param(name)
        assert param.value in (None, False)
        assert param.description
        assert param.schema["type"]
    assert dag.params.validate() is not None


@pytest.mark.parametrize(
    ("dag_id", "wrong"),
    [
        ("ingest_user_actions", {"until": "yesterday"}),
        ("transform", {"since": "2026-01-30 noon"}),
        ("ingest_user_actions", {"spark_master": "yarn"}),
        ("ingest_user_actions", {"prefix": "no-prefix"}),
        ("transform", {"select": "--exclude x"}),
        ("transform", {"full_refresh": "yes"}),
        ("maintain_tables", {"tables": "events.user_actions"}),
        ("maintain_tables", {"tables": ["no table"]}),
        ("archive_events", {"before": "2026-02-30"}),
        ("api-load", {"from": "yesterday"}),
        ("api-load", {"account": "no account"}),
        ("archive_ads", {"days": -1}),
        ("event_transformation", {"date": "yesterday"}),
        ("event_transformation", {"days_back": -1}),
    ],
)
def test_a_param_that_does_not_fit_is_refused(dagbag: Any, dag_id: str, wrong: dict[str, Any]) -> None:
    params = copy.deepcopy(dagbag.dags[dag_id].params)
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=name):
        params[name] = value


def test_no_param_but_the_spark_master_takes_an_address(dagbag: Any) -> None:
    """The control API looks at that one by its name, and refuses masters that its settings do not have."""
    schemas = [(name, dag.params.get_param(name).schema) for dag in dagbag.dags.values() for name in dag.params]
    schemas += [(name, schema["items"]) for name, schema in schemas if "items" in schema]
    taking = {
        name
        for name, schema in schemas
        if any(Draft202012Validator(schema, format_checker=FormatChecker()).is_valid(one) for one in ADDRESSES)
    }
    assert taking == {SPARK_MASTER, "select"}  # dbt looks for a model of that name, and nowhere else


def test_the_operations_page_has_each_param_variable_and_connection_and_no_other(dagbag: Any) -> None:
    page = OPERATIONS.read_text()
    section = page.partition("## Parameters, Variables and Connections")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in row.split(" | ")] for row in re.findall(r"^\| (.*) \|$", section, re.MULTILINE)]
    assert rows[2:] == documented(dagbag)


def documented(dagbag: Any) -> list[list[str]]:
    """The rows of that table: what it is, its name, the DAGs that read it, where it goes, what it means."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for dag_id in DAG_IDS:
        dag = dagbag.dags[dag_id]
        options = {name: target for task in dag.tasks for name, target in task.options.items()}
        for name, target in options.items():
            param = dag.params.get_param(name)
            kind = f"param, Variable `<DAG>_{name}`" if param.value is None else "param"
            rows.setdefault((kind, f"`{name}`", f"`{target}`", param.description), []).append(f"`{dag_id}`")
    table = [[kind, name, ", ".join(dags), target, meaning] for (kind, name, target, meaning), dags in rows.items()]
    alerts, commands = importlib.import_module("alerts"), importlib.import_module("lakehouse_command")
    table.append(["Variable", f"`{alerts.RUNBOOKS}`", "all", "links of alerts", alerts.RUNBOOKS_MEANING])
    for connection_id, fields in commands.CONNECTIONS.items():
        targets = ", ".join(f"{field}: `{setting}`" for setting, field in fields.items())
        table.append(["Connection", f"`{connection_id}`", "all", targets, commands.CONNECTION_MEANINGS[connection_id]])
    for connection_id, (_, meaning) in alerts.CHANNELS.items():
        table.append(["Connection", f"`{connection_id}`", "all", "alerts", meaning])
    return table


def test_reading_the_dags_opens_no_connection_and_starts_no_program(
    dagbag: Any, read_dags: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a DAG file reaches out while it is read")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert read_dags().import_errors == {}


@pytest.mark.parametrize("name", DAG_IDS)
def test_a_dag_file_is_read_in_less_than_a_second(dagbag: Any, name: str) -> None:
    started = time.process_time()  # of work: a busy machine must not fail it
    dagbag.process_file(str(DAGS / f"{name}.py"), only_if_updated=False)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("name", sorted(path.stem for path in DAGS.glob("*.py")))
def test_no_file_beside_the_dags_shadows_a_library(name: str) -> None:
    elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != DAGS]
    assert importlib.machinery.PathFinder.find_spec(name, elsewhere) is None
    assert name not in sys.stdlib_module_names


def test_the_assets_tie_ingest_to_transform_and_maintenance_to_archiving(dagbag: Any) -> None:
    (ingest,), (dbt_build,), (maintain,), (archive,) = (
        dagbag.dags[name].tasks for name in ("ingest_user_actions", "transform", "maintain_tables", "archive_events")
    )
    assert [asset.name for asset in ingest.outlets] == ["events.user_actions"]
    wakes = {asset.name for asset in dagbag.dags["transform"].timetable.asset_condition.objects}
    assert wakes == {"events.user_actions", "reporting.file_aggregates"}
    assert [asset.name for asset in dbt_build.outlets] == ["marts.fct_events_daily"]
    assert [asset.name for asset in maintain.outlets] == ["ops.maintenance_runs"]
    assert dagbag.dags["archive_events"].timetable.asset_condition.name == "ops.maintenance_runs"
    assert [asset.name for asset in archive.outlets] == ["events.user_actions_archive"]


def test_the_doorbell_of_announced_files_rings_for_the_topic_of_the_settings_and_says_nothing_of_a_message(
    dagbag: Any,
) -> None:
    asset = dagbag.dags["file_notifications"].timetable.asset_condition
    assert asset.name == "file-notifications"
    assert [task.outlets[0].name for task in dagbag.dags["file_notifications"].tasks] == ["reporting.file_aggregates"]
    doorbell = importlib.import_module("doorbell")
    trigger = doorbell.Doorbell(topics=["t"], kafka_config_id=DOORBELL_CONNECTION)
    path, arguments = trigger.serialize()
    assert path == "doorbell.Doorbell"  # which the triggerer finds on its path
    assert doorbell.Doorbell(**arguments).serialize() == (path, arguments)

    async def messages() -> AsyncIterator[bytes | None]:
        for value in (b"{}", b"\xff", None):
            yield value

    async def rings() -> list[Any]:
        return [event.payload async for event in trigger.filter_shared_stream(messages())]

    assert asyncio.run(rings()) == ["a file was announced"] * 3
    assert f'"{DOORBELL_CONNECTION}"' in (DAGS / "file_notifications.py").read_text()


def test_a_table_has_one_dbt_writer_and_one_maintainer(dagbag: Any) -> None:
    pools = {name: dagbag.dags[name].tasks[0].pool for name in DAG_IDS}
    assert pools["transform"] == "transform"
    assert pools["maintain_tables"] == pools["archive_events"] == "maintenance"
