"""The alert rules of `compose/prometheus/`, and the cases that `promtool` tests them with."""

from collections.abc import Iterator
from typing import Any

import yaml

from lakehouse.stack.prometheus import CONFIGURATION

RULE_FILES = sorted((CONFIGURATION / "rules").glob("*.yml"))
CASE_FILES = sorted((CONFIGURATION / "tests").glob("*.yml"))

Rule = dict[str, Any]


def rules() -> list[Rule]:
    """Every rule, recordings among them."""
    return [
        rule for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]
    ]


ALERTS = [rule for rule in rules() if "alert" in rule]


def name_of(alert: Rule) -> str:
    """Name a rule; some alerts have two, a critical and a milder one."""
    return f"{alert['alert']}, {alert['labels']['severity']}"


def cases(alert: str) -> Iterator[list[Rule]]:
    """What each case of an alert expects to fire, nothing for silence."""
    for path in CASE_FILES:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                if case["alertname"] == alert:
                    yield case.get("exp_alerts", [])
