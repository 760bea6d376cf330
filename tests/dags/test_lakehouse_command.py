"""How a task ends, by how its command ends; the commands are small shell programs."""

import importlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tests.stacks import has_ended

SIX_ROWS = """echo '{"published_rows": 5, "quarantined_rows": 1}'"""
NO_ROWS = """echo '{"published_rows": 0, "quarantined_rows": 0}'"""
COUNTS = ["published_rows", "quarantined_rows"]


@pytest.fixture
def command(airflow: None, tmp_path: Path) -> Callable[..., Any]:
    """Make the operator for a program of the given shell script."""

    def make(script: str, **options: Any) -> Any:
        program = tmp_path / "lakehouse"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        module = importlib.import_module("lakehouse_command")
        return module.LakehouseCommand(
            task_id="task", arguments=["ingest", "run"], **({"program": str(program)} | options)
        )

    return make


def attempt(number: int) -> dict[str, Any]:
    task = SimpleNamespace(dag_id="made_up", run_id="manual__1", task_id="task", try_number=number)
    return {"ti": task, "triggering_asset_events": {}}


def test_the_last_line_of_output_is_the_result(command: Callable[..., Any]) -> None:
    operator = command(f"echo started; {SIX_ROWS}; echo 'a late word on stderr' >&2", skip_unless=COUNTS)
    assert operator.execute(attempt(1)) == {"published_rows": 5, "quarantined_rows": 1}


def test_a_command_without_json_has_no_result(command: Callable[..., Any]) -> None:
    assert command("echo done").execute(attempt(1)) is None


def test_the_command_gets_its_arguments(command: Callable[..., Any]) -> None:
    assert command("""printf '{"arguments": "%s"}\\n' "$*" """).execute(attempt(1)) == {"arguments": "ingest run"}


def test_a_run_that_finds_nothing_new_is_skipped(command: Callable[..., Any]) -> None:
    from airflow.sdk.exceptions import AirflowSkipException  # noqa: PLC0415

    with pytest.raises(AirflowSkipException, match="published_rows 0"):
        command(NO_ROWS, skip_unless=COUNTS).execute(attempt(1))


def test_a_second_attempt_is_never_skipped_because_the_first_may_have_committed(command: Callable[..., Any]) -> None:
    operator = command(NO_ROWS, skip_unless=COUNTS)
    assert operator.execute(attempt(2)) == {"published_rows": 0, "quarantined_rows": 0}


def test_exit_75_is_retried(command: Callable[..., Any]) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException  # noqa: PLC0415

    with pytest.raises(AirflowException, match="ended with 75") as raised:
        command("exit 75").execute(attempt(1))
    assert not isinstance(raised.value, AirflowFailException)


def test_an_end_by_a_signal_is_retried(command: Callable[..., Any]) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException  # noqa: PLC0415

    with pytest.raises(AirflowException, match="ended with -9") as raised:
        command("kill -9 $$").execute(attempt(1))
    assert not isinstance(raised.value, AirflowFailException)


@pytest.mark.parametrize("code", [1, 2, 3, 99])
def test_any_other_exit_fails_at_once(command: Callable[..., Any], code: int) -> None:
    from airflow.sdk.exceptions import AirflowFailException  # noqa: PLC0415

    with pytest.raises(AirflowFailException, match=f"ended with {code}"):
        command(f"exit {code}").execute(attempt(1))


def test_a_result_that_is_no_json_fails_at_once_where_counts_decide(command: Callable[..., Any]) -> None:
    from airflow.sdk.exceptions import AirflowFailException  # noqa: PLC0415

    with pytest.raises(AirflowFailException, match="no JSON object"):
        command("echo done", skip_unless=COUNTS).execute(attempt(1))


def test_an_error_says_what_the_command_said_of_it(command: Callable[..., Any]) -> None:
    from airflow.sdk.exceptions import AirflowFailException  # noqa: PLC0415

    script = "echo 'error: no table t: run `lakehouse tables apply`' >&2; echo 'a last line' >&2; exit 1"
    with pytest.raises(AirflowFailException, match=r"ended with 1: no table t: run `lakehouse tables apply`$"):
        command(script).execute(attempt(1))


def test_all_that_a_command_starts_tells_for_which_run_and_task(command: Callable[..., Any]) -> None:
    script = """sh -c 'printf "{\\"for\\": \\"%s\\"}\\n" "$LAKEHOUSE_RUN"'"""
    assert command(script).execute(attempt(1)) == {"for": "made_up/manual__1/task"}


OPTIONS = {"until": "--until", "again": "--again", "tables": "--table", "prefix": "LAKEHOUSE_PREFIX"}
TELL = """printf '{"told": "%s|%s"}\\n' "$*" "$LAKEHOUSE_PREFIX" """


def made_up(operator: Any, **given: Any) -> dict[str, Any]:
    """The context of a run that is given these params."""
    from airflow.sdk import DAG, Param  # noqa: PLC0415
    from airflow.sdk.definitions.param import ParamsDict  # noqa: PLC0415

    params = ParamsDict(
        {
            "until": Param(None, type=["null", "string"], pattern=r"^\d+$"),
            "again": Param(False, type="boolean"),
            "tables": Param(None, type=["null", "array"], items={"type": "string"}),
            "prefix": Param(None, type=["null", "string"]),
        }
    )
    with DAG("made_up", schedule=None, params=params) as dag:
        operator.dag = dag
    values = {name: given.get(name, params[name]) for name in params}
    return attempt(1) | {"dag": dag, "params": values}


def told(operator: Any, **given: Any) -> str:
    """What a command of these params is called with, and its prefix."""
    return operator.execute(made_up(operator, **given))["told"]


@pytest.mark.parametrize(
    ("given", "called_with"),
    [
        ({}, "ingest run|"),
        ({"until": "5", "again": True, "tables": ["a", "b"]}, "ingest run --until=5 --again --table=a --table=b|"),
        ({"until": "", "again": False, "tables": []}, "ingest run|"),
        ({"prefix": "dev_"}, "ingest run|dev_"),
    ],
)
def test_a_param_becomes_an_option_or_a_setting(
    command: Callable[..., Any], given: dict[str, Any], called_with: str
) -> None:
    assert told(command(TELL, options=OPTIONS), **given) == called_with


def test_a_param_that_a_run_leaves_empty_is_the_variables(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_MADE_UP_UNTIL", "7")
    monkeypatch.setenv("AIRFLOW_VAR_MADE_UP_TABLES", '["a", "b"]')
    options: dict[str, Any] = {"options": OPTIONS, "intervals": {"until": "9"}}
    assert told(command(TELL, **options)) == "ingest run --until=7 --table=a --table=b|"
    assert told(command(TELL, **options), until="8", tables=["c"]) == "ingest run --until=8 --table=c|"


def test_a_run_works_where_the_news_are_that_woke_it_unless_it_is_told_otherwise(command: Callable[..., Any]) -> None:
    def asset_events(*prefixes: list[str]) -> dict[str, Any]:
        return {"triggering_asset_events": {"a": [SimpleNamespace(extra={"prefixes": one}) for one in prefixes]}}

    def worked_in(events: dict[str, Any], **given: Any) -> Any:
        operator = command("""printf '{"in": "%s"}\n' "$LAKEHOUSE_PREFIX" """, options=OPTIONS)
        return operator.execute(made_up(operator, **given) | events)

    assert worked_in(asset_events(["dev_"])) == {"in": "dev_"}
    assert worked_in(asset_events(["dev_"]), prefix="test_") == {"in": "test_"}
    assert worked_in(asset_events([""], ["dev_"], [""])) == {"": {"in": ""}, "dev_": {"in": "dev_"}}


def test_the_interval_says_what_neither_run_nor_variable_does(command: Callable[..., Any]) -> None:
    assert told(command(TELL, options=OPTIONS, intervals={"until": "9"})) == "ingest run --until=9|"
    assert told(command(TELL, options=OPTIONS, intervals={"until": ""})) == "ingest run|"


@pytest.mark.parametrize(("name", "text"), [("UNTIL", "tomorrow"), ("TABLES", "[1]"), ("TABLES", "a, b")])
def test_a_variable_that_does_not_fit_fails_at_once_and_is_named(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    from airflow.sdk.exceptions import AirflowFailException  # noqa: PLC0415

    monkeypatch.setenv(f"AIRFLOW_VAR_MADE_UP_{name}", text)
    with pytest.raises(AirflowFailException, match=f"made_up_{name.lower()} does not fit"):
        told(command(TELL, options=OPTIONS))


def test_a_connection_brings_settings(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    connection = '{"conn_type": "aws", "host": "http://s3.test", "login": "me", "password": "hidden-one"}'
    monkeypatch.setenv("AIRFLOW_CONN_LAKEHOUSE_S3", connection)
    script = """printf '{"told": "%s %s %s"}\\n' "$LAKEHOUSE_S3__ENDPOINT" "$LAKEHOUSE_S3__ACCESS_KEY" \\
        "$(printf %s "$LAKEHOUSE_S3__SECRET_KEY" | tr a-z b-za)" """
    assert command(script).execute(attempt(1)) == {"told": "http://s3.test me ijeefo-pof"}


def test_a_program_that_is_missing_fails_at_once(command: Callable[..., Any]) -> None:
    from airflow.sdk.exceptions import AirflowFailException  # noqa: PLC0415

    with pytest.raises(AirflowFailException, match="no program"):
        command("", program="no-such-lakehouse").execute(attempt(1))


@pytest.mark.parametrize("trap", ["", "trap '' TERM;"], ids=["polite", "deaf"])
def test_stopping_a_task_ends_its_command_and_what_that_started(
    command: Callable[..., Any], tmp_path: Path, trap: str
) -> None:
    from airflow.sdk.exceptions import AirflowException  # noqa: PLC0415

    stopped_at: list[float] = []
    processes: list[psutil.Process] = []
    operator = command(f"{trap} sleep 60 & echo $$ $! > {tmp_path}/draft; mv {tmp_path}/draft {tmp_path}/pids; wait")

    def stop() -> None:
        while not (tmp_path / "pids").exists():
            time.sleep(0.05)
        processes.extend(psutil.Process(int(pid)) for pid in (tmp_path / "pids").read_text().split())
        stopped_at.append(time.monotonic())
        operator.on_kill()

    threading.Thread(target=stop).start()
    with pytest.raises(AirflowException):
        operator.execute(attempt(1))
    assert time.monotonic() - stopped_at[0] < 5  # then Airflow kills the task, and nobody could end the command
    deadline = time.monotonic() + 2
    while not all(map(has_ended, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [has_ended(process) for process in processes] == [True, True]
