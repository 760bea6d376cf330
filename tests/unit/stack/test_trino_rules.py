"""The rules of access against the tables there are: a new namespace or a renamed one must not fall out of them."""

import json
import re
from typing import Any

import pytest

from lakehouse.stack.trino import CONFIGURATION
from lakehouse.tables import ALL

RULES: dict[str, list[dict[str, Any]]] = json.loads((CONFIGURATION / "rules.json").read_text())
OF_DBT = ("staging", "intermediate", "build", "marts")


def owners(schema: str) -> set[str]:
    rules = [rule for rule in RULES["schemas"] if rule.get("owner") and rule["user"] != "admin"]
    return {rule["user"] for rule in rules if re.fullmatch(rule["schema"], schema)}


@pytest.mark.parametrize("prefix", ["", "dev_", "test_1a2b_"])
def test_each_namespace_has_one_owner_beside_the_admin_whatever_its_prefix(prefix: str) -> None:
    ours = {spec.namespace for spec in ALL} | {"files", "ads"}
    assert {name: owners(prefix + name) for name in ours} == {name: {"ingest"} for name in ours}
    assert {name: owners(prefix + name) for name in OF_DBT} == {name: {"transform"} for name in OF_DBT}


@pytest.mark.parametrize("schema", ["elsewhere", "martsx", "xmarts", "marts_old", "_marts", "information_schema"])
def test_a_schema_of_another_name_has_no_owner_but_the_admin(schema: str) -> None:
    assert owners(schema) == set()


def test_an_analyst_writes_nothing_and_reads_no_user_id_unmasked() -> None:
    named = [rule for rule in RULES["tables"] if re.fullmatch(rule.get("user", ".*"), "analyst")]
    assert {privilege for rule in named for privilege in rule["privileges"]} == {"SELECT"}
    (marts,) = [rule for rule in named if rule.get("catalog") == "lake"]
    assert [rule["table"] for rule in named if rule.get("catalog") == "app"] == ["file_aggregates"]
    assert [column["name"] for column in marts["columns"]] == ["user_id"]
    assert named[0] == {"table": r".*\$.*", "privileges": []}
