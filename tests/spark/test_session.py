"""What a Spark session leaves behind in the process that opened it."""

import signal

import pytest

from lakehouse.adapters import spark
from lakehouse.settings import Settings

pytestmark = pytest.mark.integration


def test_a_session_leaves_ctrl_c_as_it_was(stack: Settings) -> None:
    before = signal.getsignal(signal.SIGINT)
    with spark.session(stack, "test of the session"):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
