"""Fixtures for tests on the real servers: a running stack is reused, else one is started and stopped at the end."""

import secrets
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import hypothesis
import pytest

from lakehouse.adapters import kafka
from lakehouse.adapters.airflow import Airflow
from lakehouse.environment import drop
from lakehouse.settings import Settings, get_settings
from lakehouse.stack import artifacts, local
from lakehouse.stack.server import Profile

# The same examples in each run, as long as they may take: what passes says the same on a busy machine.
hypothesis.settings.register_profile("lakehouse", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("lakehouse")


def pytest_configure() -> None:
    """Hear Ctrl-C also where a shell started the tests in the background, which turns it off for them and all below."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave what needs Airflow to the end, so that the runs it starts by itself take no time of the other tests."""
    items.sort(key=lambda item: "full_stack" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def _ran_before() -> Iterator[bool]:
    """Stop at the end of the session what the session started, unless the stack ran before it."""
    ran = any(row.pid for row in local.status())
    yield ran
    if not ran:
        local.down()


def _up(profile: Profile) -> Settings:
    return artifacts.with_local_spark(local.up(profile))


@pytest.fixture(scope="session")
def stack(_ran_before: bool) -> Settings:
    """Settings of a running stack with at least the core servers."""
    return _up("core")


@pytest.fixture(scope="session")
def full_stack(stack: Settings) -> Settings:
    """Settings of a running stack with Airflow."""
    return _up("full")


@pytest.fixture(scope="module")
def airflow(full_stack: Settings) -> Iterator[Airflow]:
    """A client of the running Airflow."""
    with Airflow(full_stack.airflow) as client:
        yield client


@contextmanager
def _environment(stack: Settings) -> Generator[Settings]:
    settings = stack.model_copy(update={"prefix": f"test_{secrets.token_hex(4)}_"})
    yield settings
    drop(settings)
    for topic in (settings.user_actions_topic, settings.file_notifications_topic):
        kafka.delete_topic(settings, topic)


@pytest.fixture
def environment(stack: Settings) -> Iterator[Settings]:
    """An environment of the test's own on the running servers: its topics and namespaces carry a fresh prefix."""
    with _environment(stack) as settings:
        yield settings


@pytest.fixture(scope="module")
def module_environment(stack: Settings) -> Iterator[Settings]:
    """An environment that the tests of one module share, because filling it is dear."""
    with _environment(stack) as settings:
        yield settings


@pytest.fixture(autouse=True)
def _fresh_settings() -> Iterator[None]:
    """Let no test see settings that another one read under its own variables."""
    yield
    get_settings.cache_clear()
