"""The rules every model of the dbt project keeps, those of `dbt_project_evaluator` among them.

The evaluator itself is a package of dbt's hub and needs a warehouse; here its rules are held on the project's files.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lakehouse.adapters.ads_archive import VIEW
from lakehouse.adapters.file_store import SCHEMA
from lakehouse.settings import PROJECT_ROOT
from lakehouse.tables import ALL

PROJECT = PROJECT_ROOT / "dbt"
MODELS = PROJECT / "models"
SQL_FILES = sorted(MODELS.rglob("*.sql"))
MARTS = [path for path in SQL_FILES if "marts" in path.parts]
LAYER_PREFIXES = {"staging": ("stg_",), "intermediate": ("int_",), "marts": ("fct_", "dim_")}
KEY_TESTS = {"unique_combination", "unique"}
SEMANTICS = {"grain", "key", "owner", "late_data"}
MOST_LEAVES = 3
MOST_JOINS = 7
CONFIGURATION = yaml.safe_load((PROJECT / "dbt_project.yml").read_text())


def described(kind: str) -> list[dict[str, Any]]:
    documents = [yaml.safe_load(path.read_text()) for path in sorted(MODELS.rglob("*.yml"))]
    return [entry for document in documents for entry in document.get(kind, [])]


MODEL_ENTRIES = {entry["name"]: entry for entry in described("models")}
FILES = {path.stem: path for path in SQL_FILES}


def code(path: Path) -> str:
    """The SQL of a file without its comments."""
    return re.sub(r"\{#.*?#\}|--[^\n]*", "", path.read_text(), flags=re.DOTALL)


def references(path: Path) -> set[str]:
    return set(re.findall(r"ref\('(\w+)'\)", code(path)))


def sources(path: Path) -> set[tuple[str, str]]:
    return set(re.findall(r"source\('(\w+)', '(\w+)'\)", code(path)))


def layer(name: str) -> str:
    return FILES[name].relative_to(MODELS).parts[0]


PARENTS = {path.stem: references(path) for path in SQL_FILES}
CHILDREN = {name: {child for child, parents in PARENTS.items() if name in parents} for name in FILES}


def is_incremental(path: Path) -> bool:
    return layer(path.stem) == "marts" or "materialized='incremental'" in code(path)


def arguments_of(entry: dict[str, Any], test: str) -> Iterator[dict[str, Any]]:
    for one in entry.get("data_tests", []):
        name, arguments = (one, {}) if isinstance(one, str) else next(iter(one.items()))
        if name == test:
            yield arguments.get("arguments", {})


def test_every_model_is_described_and_every_description_has_a_model() -> None:
    assert sorted(MODEL_ENTRIES) == sorted(FILES)


@pytest.mark.parametrize("name", sorted(MODEL_ENTRIES))
def test_a_model_and_its_columns_say_what_they_hold(name: str) -> None:
    entry = MODEL_ENTRIES[name]
    assert "One row for each" in entry["description"], "a model's description states its grain"
    assert [column["name"] for column in entry["columns"] if not column.get("description", "").strip()] == []


@pytest.mark.parametrize("name", sorted(MODEL_ENTRIES))
def test_a_model_has_a_test_of_its_key(name: str) -> None:
    tests = MODEL_ENTRIES[name].get("data_tests", [])
    assert KEY_TESTS & {test if isinstance(test, str) else next(iter(test)) for test in tests}


@pytest.mark.parametrize("name", sorted(name for name in FILES if not name.startswith("stg_")))
def test_no_column_is_null_unless_it_says_when(name: str) -> None:
    # Iceberg holds the columns of the sources, so staging needs no such test.
    (arguments,) = arguments_of(MODEL_ENTRIES[name], "never_null")
    descriptions = {column["name"]: column["description"] for column in MODEL_ENTRIES[name]["columns"]}
    for column in arguments.get("except_columns", []):
        assert "null" in descriptions[column].lower(), column


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.stem)
def test_a_model_is_named_after_its_folder(path: Path) -> None:
    name_layer, *folders = path.relative_to(MODELS).parts[:-1]
    assert path.stem.startswith(LAYER_PREFIXES[name_layer])
    prefix = {"staging": "stg", "intermediate": "int"}.get(name_layer)
    assert folders == ([] if prefix is None else [path.stem.removeprefix(f"{prefix}_").partition("__")[0]])


def test_a_description_lies_beside_its_model() -> None:
    for path in MODELS.rglob("*.yml"):
        for entry in (yaml.safe_load(path.read_text()) or {}).get("models", []):
            assert FILES[entry["name"]].parent == path.parent


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.stem)
def test_only_staging_reads_sources_and_no_layer_reads_a_later_one(path: Path) -> None:
    assert len(sources(path)) == (1 if layer(path.stem) == "staging" else 0)
    earlier = {
        "staging": {"staging"},
        "intermediate": {"staging", "intermediate"},
        "marts": {"staging", "intermediate", "marts"},
    }
    assert {layer(parent) for parent in PARENTS[path.stem]} <= earlier[layer(path.stem)]


def test_each_source_has_one_staging_model_and_no_more() -> None:
    read = sorted(one for path in SQL_FILES for one in sources(path))
    assert read == sorted((entry["name"], table["name"]) for entry in described("sources") for table in entry["tables"])
    views = {("ads", VIEW)}  # over the archive and PostgreSQL
    in_postgres = {(SCHEMA, "file_aggregates")}
    assert set(read) <= {(spec.namespace, spec.name) for spec in ALL} | views | in_postgres


def test_each_source_says_how_fresh_it_must_be_or_why_not() -> None:
    for entry in described("sources"):
        assert entry["description"]
        for table in entry["tables"]:
            config = table.get("config", {})
            assert {"loaded_at_field", "freshness"} <= config.keys() or "no freshness" in table["description"]


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.stem)
def test_a_model_reads_something_and_names_it_by_reference(path: Path) -> None:
    assert references(path) or sources(path), "a root model"
    ctes = set(re.findall(r"(\w+) as \(\s", code(path)))
    read = set(re.findall(r"(?<!distinct )\b(?:from|join) ([\w.\"]+)", code(path)))
    assert read <= ctes | {"unnest"}, "a table that is named by hand"


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_model_that_nobody_reads_is_a_mart(name: str) -> None:
    assert CHILDREN[name] or layer(name) == "marts"


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_model_does_not_join_what_its_parent_was_made_of(name: str) -> None:
    rejoined = {
        (grandparent, parent)
        for parent in PARENTS[name]
        for grandparent in PARENTS[parent]
        if grandparent in PARENTS[name] and CHILDREN[parent] == {name}
    }
    assert rejoined == set()


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_model_has_few_leaves_and_few_joins(name: str) -> None:
    assert len([child for child in CHILDREN[name] if not CHILDREN[child]]) <= MOST_LEAVES
    assert len(re.findall(r"\bjoin\b", code(FILES[name]))) < MOST_JOINS


@pytest.mark.parametrize("path", MARTS, ids=lambda path: path.stem)
def test_a_mart_states_the_type_of_every_column(path: Path) -> None:
    assert [column["name"] for column in MODEL_ENTRIES[path.stem]["columns"] if "data_type" not in column] == []


@pytest.mark.parametrize("path", MARTS, ids=lambda path: path.stem)
def test_a_mart_says_its_grain_key_owner_and_what_late_data_does_to_it(path: Path) -> None:
    entry = MODEL_ENTRIES[path.stem]
    meta = entry["config"]["meta"]
    assert meta.keys() == SEMANTICS
    assert meta["owner"] in {group["owner"]["name"] for group in described("groups")}
    (tested,) = arguments_of(entry, "unique_combination")
    assert sorted(tested["column_names"]) == sorted(meta["key"])
    (built,) = re.findall(r"unique_key=\[([^\]]*)\]", path.read_text())
    assert re.findall(r"'(\w+)'", built) == meta["key"]
    columns = {column["name"] for column in entry["columns"]}
    assert "restated_at" in columns or meta["late_data"].startswith("Nothing")
    assert path.stem in (PROJECT_ROOT / "docs" / "warehouse.md").read_text()


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.stem)
def test_a_model_depends_on_no_clock(path: Path) -> None:
    text = code(path).lower()
    assert [word for word in ("current_", "now()", "localtimestamp", "run_started_at") if word in text] == []


@pytest.mark.parametrize("path", [path for path in SQL_FILES if is_incremental(path)], ids=lambda path: path.stem)
def test_an_incremental_model_cuts_on_arrival_by_the_macros(path: Path) -> None:
    text = code(path)
    assert re.search(r"\b(touched_dates|first_touched_date|arrival_cut)\(", text)
    assert "rebuild_column" in text
    assert "last_ingested_at" in {column["name"] for column in MODEL_ENTRIES[path.stem]["columns"]}


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.stem)
def test_what_groups_or_orders_names_its_columns(path: Path) -> None:
    assert re.findall(r"(?:group|order) by \d", code(path)) == []


def test_a_column_that_may_name_a_person_is_marked_in_every_model() -> None:
    personal = {column.name for spec in ALL for column in spec.columns if column.pii} - {"raw", "kafka_key"}
    renamed = {"reason_message" if name == "message" else name for name in personal}
    for entry in MODEL_ENTRIES.values():
        marked = {c["name"] for c in entry["columns"] if c.get("config", {}).get("meta", {}).get("pii")}
        assert marked == renamed & {column["name"] for column in entry["columns"]}, entry["name"]


@pytest.mark.parametrize(
    "name", sorted(name for name in FILES if re.search(r"\b(group by|join|over) ", code(FILES[name])))
)
def test_a_model_that_computes_has_a_unit_test(name: str) -> None:
    tested = {entry["model"] for entry in described("unit_tests")}
    assert name in tested


def test_marts_are_built_beside_what_people_read_under_a_contract_and_public() -> None:
    models = CONFIGURATION["models"]["lakehouse"]
    assert models["marts"]["+schema"] == "build"
    assert models["marts"]["+access"] == "public"
    assert models["marts"]["+contract"] == {"enforced": True}
    assert models["+access"] == "protected"
    assert models["+group"] in {group["name"] for group in described("groups")}


def test_every_mart_has_a_reader_and_exposures_read_marts_only() -> None:
    read = {reference for exposure in described("exposures") for reference in exposure["depends_on"]}
    assert read == {f"ref('{path.stem}')" for path in MARTS}


@pytest.mark.parametrize("folder", ["trino", "dbt", "spark"])
def test_no_top_level_folder_shadows_a_library(folder: str) -> None:
    assert not (PROJECT_ROOT / folder / "__init__.py").exists()


def test_no_dag_file_is_named_like_a_library() -> None:
    taken = {"trino", "dbt", "spark", "pyspark", "airflow", "minio", "kafka"}
    assert taken.isdisjoint(path.stem for path in (PROJECT_ROOT / "dags").glob("*.py"))
