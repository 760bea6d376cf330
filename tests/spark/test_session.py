"""What a Spark session leaves behind in the process that opened it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lakehouse.adapters import spark
from lakehouse.settings import Settings

pytestmark = pytest.mark.integration


def test_a_session_leaves_ctrl_c_as_it_was(stack: Settings) -> None:
    before = signal.getsignal(signal.SIGINT)
    with spark.session(stack, "test of the session"):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_a_spark_that_dies_while_it_starts_is_a_passing_fault(tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\nkill -9 $$\n")
    java.chmod(0o755)
    program = (  # in a process of its own, because one process has one Spark
        "from lakehouse.adapters import spark\n"
        "from lakehouse.errors import SparkEndedError\n"
        "from lakehouse.settings import load_settings\n"
        "try:\n"
        "    with spark.session(load_settings(), 'test'): pass\n"
        "except SparkEndedError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"LAKEHOUSE_SPARK__JAVA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("Spark did not start with master local[*,3] (")
