"""What maintenance tells Trino, and where it finds the policies of models."""

from typing import Any

import pytest
import yaml

from lakehouse.errors import TerminalError
from lakehouse.maintenance import Target, compaction, read_policies
from lakehouse.maintenance_plan import Compact
from lakehouse.settings import PROJECT_ROOT
from lakehouse.tables import Policy

COMPACT = Compact(
    table="events.user_actions", partition="p", condition="d = 1", paths=("a", "b'c"), files=2, size_bytes=2, reason=""
)


def model(**more: Any) -> dict[str, Any]:
    columns = {"day": {"meta": {}}, "user_id": {"config": {"meta": {"pii": True}}}, "n": {}}
    node = {
        "resource_type": "model",
        "schema": "dev_build",
        "alias": "days",
        "config": {"materialized": "incremental", "meta": {}},
        "columns": columns,
    }
    return {"nodes": {"model.lakehouse.days": node | more}}


def test_exactly_the_chosen_files_are_rewritten() -> None:
    assert compaction(COMPACT) == (
        """EXECUTE optimize(file_size_threshold => '1PB') WHERE d = 1 AND "$path" IN ('a', 'b''c')"""
    )


def test_a_whole_partition_and_a_whole_table_are_named_as_such() -> None:
    whole = Compact(table="t", partition="", condition="", paths=(), files=2, size_bytes=2, reason="")
    assert compaction(whole) == "EXECUTE optimize(file_size_threshold => '1PB')"


def test_a_model_without_a_policy_has_the_default_one_and_no_statistics_of_people() -> None:
    assert read_policies(model(), "dev_") == {
        "build.days": Target(name="build.days", policy=Policy(), analyzed=("day", "n"), probed="day", is_model=True)
    }


def test_a_policy_in_a_models_meta_is_read() -> None:
    meta = {"maintenance": {"snapshot_days": 2, "target_file_bytes": 1000}}
    (target,) = read_policies(model(config={"materialized": "table", "meta": meta}), "dev_").values()
    assert target.policy == Policy(snapshot_days=2, target_file_bytes=1000)
    assert target.tag == "published"


@pytest.mark.parametrize("policy", [{"orphan_hours": 24}, {"keep": 3}, {"min_snapshots": 0}])
def test_a_policy_that_makes_no_sense_is_refused_with_the_models_name(policy: dict[str, Any]) -> None:
    with pytest.raises(TerminalError, match=r"the model days has no policy in meta\.maintenance"):
        read_policies(model(config={"materialized": "table", "meta": {"maintenance": policy}}), "dev_")


def test_views_are_no_tables() -> None:
    assert read_policies(model(config={"materialized": "view"}), "") == {}
    assert read_policies(None, "") == {}


def test_the_policy_of_the_dbt_project_is_one() -> None:
    project = yaml.safe_load((PROJECT_ROOT / "dbt" / "dbt_project.yml").read_text())
    assert Policy(**project["models"]["lakehouse"]["+meta"]["maintenance"]).target_file_bytes == 64 << 20
