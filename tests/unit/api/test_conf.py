"""What a run may be given: what its DAG's params allow, and no address that a caller chose."""

from typing import Any

import pytest

from lakehouse.api import conf

PARAMS: dict[str, dict[str, Any]] = {
    "until": {"schema": {"type": ["null", "string"], "pattern": r"^\d{4}-\d\d-\d\d$"}, "value": None},
    "days": {"schema": {"type": ["null", "integer"], "minimum": 0}, "value": None},
    "tables": {"schema": {"type": "array", "items": {"type": "string"}}, "value": []},
    "spark_master": {"schema": {"type": ["null", "string"]}, "value": None},
    "day": {"schema": {"type": "string", "format": "date"}, "value": "2026-01-31"},
    "free": {"value": 1},
}


def places(given: dict[str, Any], *masters: str) -> list[str]:
    return [fault.place for fault in conf.faults(given, PARAMS, set(masters))]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"until": "2026-01-31", "days": 0, "tables": ["a"], "free": {"any": [1]}},
        {"until": None, "spark_master": None, "day": "2026-02-28"},
        {"spark_master": ""},
        {"spark_master": "local"},
        {"spark_master": "local[*,3]"},
        {"spark_master": "local[2]"},
    ],
)
def test_what_the_params_allow_is_accepted(given: dict[str, Any]) -> None:
    assert places(given) == []


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"until": "yesterday"}, "body.conf.until"),
        ({"days": -1}, "body.conf.days"),
        ({"days": "1"}, "body.conf.days"),
        ({"tables": ["a", 1]}, "body.conf.tables.1"),
        ({"untill": "2026-01-31"}, "body.conf.untill"),
        ({"day": "2026-02-30"}, "body.conf.day"),
        ({"free": float("nan")}, "body.conf"),
        ({"free": "\ud800"}, "body.conf"),
        ({"\ud800": 1}, "body.conf"),
    ],
)
def test_each_place_that_does_not_fit_is_named(given: dict[str, Any], place: str) -> None:
    assert places(given) == [place]


@pytest.mark.parametrize(
    "master",
    [
        "spark://attacker:7077",
        "k8s://https://attacker",
        "local[1],spark://attacker",
        "local\nspark://x",
        "local[999]",
        "spark://ours:7077/x",
    ],
)
def test_spark_goes_only_where_our_settings_let_it(master: str) -> None:
    assert places({"spark_master": master}, "spark://ours:7077") == ["body.conf.spark_master"]
    assert places({"spark_master": "spark://ours:7077"}, "spark://ours:7077") == []


@pytest.mark.parametrize("master", [["spark://ours:7077"], {"a": 1}, 7])
def test_a_spark_master_that_is_no_text_is_named(master: Any) -> None:
    assert set(places({"spark_master": master}, "spark://ours:7077")) == {"body.conf.spark_master"}


def test_a_param_that_does_not_exist_is_told_which_do() -> None:
    (fault,) = conf.faults({"x": 1}, PARAMS, ())
    assert fault.message == "the DAG has no such param; it has until, days, tables, spark_master, day, free"
