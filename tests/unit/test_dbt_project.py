"""The rules every model of the dbt project keeps."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lakehouse.settings import PROJECT_ROOT

MODELS = PROJECT_ROOT / "dbt" / "models"
SQL_FILES = sorted(MODELS.rglob("*.sql"))
LAYER_PREFIXES = {"staging": ("stg_",), "intermediate": ("int_",), "marts": ("fct_", "dim_")}
KEY_TESTS = {"unique_combination", "unique"}


def described(kind: str) -> list[dict[str, Any]]:
    documents = [yaml.safe_load(path.read_text()) for path in sorted(MODELS.rglob("*.yml"))]
    return [entry for document in documents for entry in document.get(kind, [])]


MODEL_ENTRIES = {entry["name"]: entry for entry in described("models")}


def test_every_model_is_described_and_every_description_has_a_model() -> None:
    assert sorted(MODEL_ENTRIES) == sorted(path.stem for path in SQL_FILES)


@pytest.mark.parametrize("name", sorted(MODEL_ENTRIES))
def test_a_model_and_its_columns_say_what_they_hold(name: str) -> None:
    entry = MODEL_ENTRIES[name]
    assert "One row for each" in entry["description"], "a model's description states its grain"
    assert [column["name"] for column in entry["columns"] if not column.get("description", "").strip()] == []


@pytest.mark.parametrize("name", sorted(MODEL_ENTRIES))
def test_a_model_has_a_test_of_its_key(name: str) -> None:
    tests = MODEL_ENTRIES[name].get("data_tests", [])
    assert KEY_TESTS & {test if isinstance(test, str) else next(iter(test)) for test in tests}


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.stem)
def test_a_model_is_named_after_its_layer(path: Path) -> None:
    layer = path.relative_to(MODELS).parts[0]
    assert path.stem.startswith(LAYER_PREFIXES[layer])
    if layer == "staging":
        assert path.stem.startswith(f"stg_{path.parent.name}__")


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.stem)
def test_only_staging_reads_sources_and_no_layer_reads_a_later_one(path: Path) -> None:
    layer = path.relative_to(MODELS).parts[0]
    text = path.read_text()
    assert ("source(" in text) == (layer == "staging")
    later = {"staging": ("stg_", "int_", "fct_", "dim_"), "intermediate": ("fct_", "dim_"), "marts": ()}[layer]
    assert [prefix for prefix in later if f"ref('{prefix}" in text] == []


@pytest.mark.parametrize("name", [path.stem for path in SQL_FILES if "marts" in path.parts])
def test_a_mart_states_the_type_of_every_column(name: str) -> None:
    assert [column["name"] for column in MODEL_ENTRIES[name]["columns"] if "data_type" not in column] == []


@pytest.mark.parametrize("path", [path for path in SQL_FILES if "marts" in path.parts], ids=lambda path: path.stem)
def test_a_mart_depends_on_no_clock(path: Path) -> None:
    text = path.read_text().lower()
    assert [word for word in ("current_", "now()", "localtimestamp", "run_started_at") if word in text] == []


def test_every_mart_has_a_reader() -> None:
    read = {reference for exposure in described("exposures") for reference in exposure["depends_on"]}
    assert read == {f"ref('{path.stem}')" for path in SQL_FILES if "marts" in path.parts}


@pytest.mark.parametrize("folder", ["trino", "dbt", "spark"])
def test_no_top_level_folder_shadows_a_library(folder: str) -> None:
    assert not (PROJECT_ROOT / folder / "__init__.py").exists()


def test_no_dag_file_is_named_like_a_library() -> None:
    taken = {"trino", "dbt", "spark", "pyspark", "airflow", "minio", "kafka"}
    assert taken.isdisjoint(path.stem for path in (PROJECT_ROOT / "dags").glob("*.py"))
