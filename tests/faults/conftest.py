"""A shop of its own for each test of faults."""

import os
from collections.abc import Iterator

import pytest

from lakehouse.settings import Settings
from tests.faults.harness import Shop, opened


@pytest.fixture
def shop(environment: Settings) -> Iterator[Shop]:
    """An environment with its tables and an empty topic."""
    with opened(environment, os.environ) as shop:
        yield shop
