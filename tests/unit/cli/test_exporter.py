"""One look at everything from the command line, whatever is away or hangs."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from lakehouse.errors import TransientError

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Generator[Run]:
    """Run a command whose servers take connections and say nothing."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        places = {
            **dict.fromkeys(("S3__ENDPOINT", "CATALOG__URI", "AIRFLOW__URL"), f"http://127.0.0.1:{port}"),
            **dict.fromkeys(("TRINO__PORT", "POSTGRES__PORT"), str(port)),
            "KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{port}",
            "HOME": str(tmp_path),
        }

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-c", "from lakehouse.cli.main import main; main()", *arguments],
                env=os.environ | {f"LAKEHOUSE_{name}": value for name, value in places.items()},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        yield run


def test_who_looks_once_waits_no_longer_than_told_and_hears_what_is_missing(run: Run) -> None:
    begun = time.monotonic()
    done = run("exporter", "once", "--timeout", "1", "--output", "json")
    assert time.monotonic() - begun < 30
    assert done.returncode == TransientError.exit_code, done.stderr
    told = json.loads(done.stdout)
    assert told["failed"]["ledger-events"] == "still looking"
    assert "lakehouse_disk_free_bytes" in {fact["metric"] for fact in told["facts"]}


def test_one_picture_comes_in_the_time_told_and_says_that_it_is_not_whole(run: Run) -> None:
    done = run("top", "--once", "--timeout", "1")
    assert done.returncode == TransientError.exit_code, done.stderr
    assert "ledger-events: still looking" in done.stdout
    assert "home" in done.stdout
