"""An API in this process, whose Airflow is away."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lakehouse.api.app import make
from lakehouse.settings import AirflowSettings, Settings
from tests.apis import Api, api_of

NOBODY = AirflowSettings.model_validate({"url": "http://127.0.0.1:1"})


@pytest.fixture(autouse=True)
def _warnings_are_heard(caplog: pytest.LogCaptureFixture) -> None:  # pyright: ignore[reportUnusedFunction]
    """Whatever the level of the root logger: Airflow, once a test of the DAGs has imported it, makes that `ERROR`."""
    caplog.set_level(logging.WARNING, "lakehouse.api")


@pytest.fixture
def api(tmp_path: Path) -> Api:
    return api_of(Settings(home=tmp_path, airflow=NOBODY), tmp_path, {"operator": ("transform",)})


@pytest.fixture
def client(api: Api) -> Iterator[TestClient]:
    with TestClient(make(api.settings)) as found:
        yield found
