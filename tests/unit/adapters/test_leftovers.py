"""What a run has left on this machine: the processes that carry its mark, and no other."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from lakehouse.adapters import leftovers

SLEEP = ["/bin/sh", "-c", "sleep 60 & wait"]


@pytest.fixture
def started() -> Iterator[dict[str, int]]:
    """The pid of a process for each run, with a child that has inherited the mark."""
    marks = {"one": "dag/run__1/task", "longer": "dag/run__10/task", "other": "dag2/run__1/task", "none": ""}
    with ExitStack() as stack:
        pids = dict[str, int]()
        for name, mark in marks.items():
            process = stack.enter_context(
                subprocess.Popen(SLEEP, env={leftovers.RUN: mark, "PATH": "/usr/bin:/bin"}, start_new_session=True)
            )
            stack.callback(subprocess.run, ["/bin/kill", "--", f"-{process.pid}"], check=True)
            pids[name] = process.pid
        yield pids


def found(dag_id: str, run_id: str, task_pids: dict[int, datetime]) -> list[str]:
    return [one.what for one in leftovers.processes(dag_id, run_id, task_pids)]


def test_a_runs_processes_are_found_by_its_mark_with_their_children(started: dict[str, int]) -> None:
    now = datetime.now(UTC)
    what = found("dag", "run__1", {})
    assert f"sh, pid {started['one']}" in what
    assert len(what) == 2
    assert found("dag", "run", {}) == []
    (sh, sleep) = leftovers.processes("dag2", "run__1", {})
    assert (sh.kind, sh.host) == ("process", leftovers.HOST)
    assert sh.since is not None
    assert sleep.since is not None
    assert now - timedelta(minutes=1) < sh.since <= sleep.since


def test_a_tasks_own_process_counts_unless_another_one_has_got_its_number(started: dict[str, int]) -> None:
    pid, now = started["none"], datetime.now(UTC)
    assert found("dag", "run__2", {pid: now + timedelta(seconds=1)}) == [f"sh, pid {pid}"]
    assert found("dag", "run__2", {pid: now - timedelta(hours=1)}) == []


def test_a_tasks_own_process_counts_though_its_environment_is_another_users(
    started: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(process: psutil.Process) -> dict[str, str]:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "environ", denied)
    pid, now = started["none"], datetime.now(UTC)
    assert found("dag", "run__2", {pid: now + timedelta(seconds=1)}) == [f"sh, pid {pid}"]


def test_a_spark_master_that_does_not_answer_leaves_it_open_what_is_gone() -> None:
    (one,) = leftovers.spark_applications("http://127.0.0.1:1", "dag", "run__1", 1)
    assert (one.kind, one.host) == ("unseen", "http://127.0.0.1:1")
    assert "ConnectError" in one.what
