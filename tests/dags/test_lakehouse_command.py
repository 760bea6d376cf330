"""How a task ends, by how its command ends; the commands are small shell programs."""

import importlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

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
    return {"ti": SimpleNamespace(try_number=number)}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


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
    operator = command(f"{trap} sleep 60 & echo $$ $! > {tmp_path}/draft; mv {tmp_path}/draft {tmp_path}/pids; wait")

    def stop() -> None:
        while not (tmp_path / "pids").exists():
            time.sleep(0.05)
        stopped_at.append(time.monotonic())
        operator.on_kill()

    threading.Thread(target=stop).start()
    with pytest.raises(AirflowException):
        operator.execute(attempt(1))
    assert time.monotonic() - stopped_at[0] < 5  # then Airflow kills the task, and nobody could end the command
    deadline = time.monotonic() + 2
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)  # until init has reaped the orphan
    assert not any(is_alive(pid) for pid in pids)
