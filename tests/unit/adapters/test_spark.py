"""What a Spark session is configured with, by the settings alone."""

from pathlib import Path

import pytest

from lakehouse.adapters.spark import configuration
from lakehouse.errors import SettingsError
from lakehouse.settings import SparkSettings, load_settings


def settings(**values: object) -> SparkSettings:
    return SparkSettings.model_validate(values)


@pytest.mark.parametrize(
    "master", ["local", "local[*,3]", "local[2]", "spark://127.0.0.1:7077", "spark://localhost:7077"]
)
def test_a_master_on_this_machine_is_spoken_to_over_loopback(master: str) -> None:
    configured = configuration(settings(master=master), "ingest")
    assert configured["spark.master"] == master
    assert configured["spark.driver.host"] == configured["spark.driver.bindAddress"] == "127.0.0.1"


@pytest.mark.parametrize("master", ["spark://spark-master:7077", "spark://10.0.0.7:7077", "k8s://https://10.0.0.1:443"])
def test_a_master_elsewhere_finds_the_driver_where_spark_says(master: str) -> None:
    configured = configuration(settings(master=master), "ingest")
    assert "spark.driver.host" not in configured
    assert "spark.driver.bindAddress" not in configured


def test_jars_are_asked_for_at_one_path_on_both_sides() -> None:
    assert "spark.executor.extraClassPath" not in configuration(settings(), "ingest")
    configured = configuration(settings(jars_directory=Path("jars")), "ingest")
    assert configured["spark.driver.extraClassPath"] == configured["spark.executor.extraClassPath"] == "jars/*"


def test_the_options_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAKEHOUSE_HOME", str(tmp_path))
    monkeypatch.setenv("LAKEHOUSE_SPARK__MASTER", "k8s://https://10.0.0.1:443")
    monkeypatch.setenv(
        "LAKEHOUSE_SPARK__OPTIONS",
        '{"spark.kubernetes.container.image": "shop/spark:1", "spark.executor.memory": "3g", '
        '"spark.executor.instances": "4"}',
    )
    configured = configuration(load_settings().spark, "ingest")
    assert configured["spark.kubernetes.container.image"] == "shop/spark:1"
    assert configured["spark.executor.memory"] == "3g"
    assert configured["spark.executor.instances"] == "4"
    assert configured["spark.speculation"] == "false"


@pytest.mark.parametrize("options", ["spark.executor.memory=3g", '["spark.executor.memory"]', '{"a": {"b": "c"}}'])
def test_options_that_are_no_json_object_of_texts_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: str
) -> None:
    monkeypatch.setenv("LAKEHOUSE_HOME", str(tmp_path))
    monkeypatch.setenv("LAKEHOUSE_SPARK__OPTIONS", options)
    with pytest.raises(SettingsError):
        load_settings()
