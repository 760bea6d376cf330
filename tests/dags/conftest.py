"""Airflow in this process, on a SQLite database of its own; no scheduler, no server."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

DAGS = Path(__file__).resolve().parents[2] / "dags"


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Airflow with a home and an empty, migrated database; must come before its first import."""
    home = tmp_path_factory.mktemp("airflow")
    variables = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "AIRFLOW__OPENLINEAGE__DISABLED": "True",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.syspath_prepend(str(DAGS))
        assert "airflow" not in sys.modules
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Airflow's own modules use what others have deprecated
            from airflow.utils.db import initdb  # noqa: PLC0415

            initdb()
        yield


@pytest.fixture(scope="session")
def read_dags(airflow: None) -> Callable[[], Any]:
    """Read the DAGs as Airflow's DAG processor does."""

    def read() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from airflow.dag_processing.dagbag import BundleDagBag  # noqa: PLC0415

            return BundleDagBag(dag_folder=DAGS, bundle_path=DAGS, bundle_name="dags")

    return read


@pytest.fixture(scope="session")
def dagbag(read_dags: Callable[[], Any]) -> Any:
    """The DAGs, read once."""
    return read_dags()
