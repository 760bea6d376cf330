"""kill -9 at every step of an ingest: the driver, or a Python worker of Spark's, with and without maintenance after.

A run of 300 messages makes three commits to each table; it dies in the second, so that the first can be compacted and
its snapshot expired before the restart.
"""

import json
from collections.abc import Callable

import pytest

from tests.faults.harness import Command, Shop
from tests.shops import wait_until

pytestmark = pytest.mark.integration

DRIVER = {
    "after-fetch": "decoded:kill-driver:3",
    "mid-file": "mid-file:kill-driver:8",
    "after-upload": "uploaded:kill-driver:3",
    "before-the-quarantine-commit-is-sent": "quarantine-sending:kill:2",
    "when-the-catalog-has-the-quarantine-commit": "quarantine-landed:kill:2",
    "between-the-commits": "quarantine-appended:kill:2",
    "before-the-events-commit-is-sent": "events-sending:kill:2",
    "when-the-catalog-has-the-events-commit": "events-landed:kill:2",
    "after-the-commits": "events-appended:kill:2",
}
"""Where the driver dies. A commit has two tasks, and each writes three files."""

WORKER = {"after-fetch": "decoded:kill:3", "mid-file": "mid-file:kill:8", "after-upload": "uploaded:kill:3"}

REPRESENTATIVE = {
    ("mid-file", True),
    ("between-the-commits", True),
    ("when-the-catalog-has-the-events-commit", False),
}


def _rows(failpoints: dict[str, str]) -> list[object]:
    return [
        pytest.param(
            failpoint,
            maintained,
            id=f"{name}-{'compacted-and-expired' if maintained else 'plain'}",
            marks=() if failpoints is DRIVER and (name, maintained) in REPRESENTATIVE else pytest.mark.faults,
        )
        for name, failpoint in failpoints.items()
        for maintained in (False, True)
    ]


@pytest.mark.parametrize(("failpoint", "maintained"), _rows(DRIVER))
def test_a_killed_driver_loses_and_doubles_nothing(shop: Shop, failpoint: str, maintained: bool) -> None:
    shop.send(300)
    shop.ingest(failpoint=failpoint).dies()
    assert 100 <= shop.committed_rows() <= 200
    if maintained:
        shop.compact_and_expire()
    shop.finish()
    shop.assert_settled()


@pytest.mark.parametrize(
    "failpoint",
    [
        pytest.param(failpoint, id=name, marks=() if name == "after-upload" else pytest.mark.faults)
        for name, failpoint in WORKER.items()
    ],
)
def test_a_killed_worker_is_replaced_within_the_run(shop: Shop, failpoint: str) -> None:
    shop.send(300)
    run = shop.ingest(failpoint=failpoint)
    run.ends(0)
    assert run.fired == 1
    assert json.loads(run.output)["published_rows"] == shop.good
    shop.assert_settled()


@pytest.mark.faults
@pytest.mark.parametrize("failpoint", WORKER.values(), ids=WORKER)
def test_workers_that_always_die_end_the_run_and_the_next_goes_on_after_maintenance(shop: Shop, failpoint: str) -> None:
    shop.send(300)
    run = shop.ingest(failpoint=f"{failpoint}-999")
    run.ends(75)
    assert run.fired >= 3
    assert shop.committed_rows() == 100
    shop.compact_and_expire()
    shop.finish()
    shop.assert_settled()


@pytest.mark.faults
@pytest.mark.parametrize("mode", [Shop.ingest, Shop.follow], ids=["run", "follow"])
def test_a_killed_jvm_ends_the_command_as_a_passing_fault(shop: Shop, mode: Callable[..., Command]) -> None:
    shop.send(300)
    command = mode(shop, failpoint="decoded:hold:1")
    wait_until(command.is_held, "a task has decoded its messages")
    (jvm,) = [process for process in command.processes() if process.name() == "java"]
    jvm.kill()
    command.ends(75)
    assert shop.committed_rows() == 0
    shop.finish()
    shop.assert_settled()
