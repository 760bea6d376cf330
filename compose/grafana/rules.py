"""What the dashboards take from Prometheus's rules: where an alert begins, how bad it is, and its runbook.

So the colours of a panel can't differ from what wakes somebody.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from lakehouse.stack.prometheus import CONFIGURATION

RULES: Final = CONFIGURATION / "rules"
_METRIC: Final = re.compile(r"\blakehouse[_:][a-z0-9_:]+")
_CLAUSE: Final = re.compile(r"\b(?:and|or|unless)\b")
_BOUND: Final = re.compile(r"([<>])=?\s*([\d.]+(?:\s*\*\s*[\d.]+)*)\s*\)*\s*$")


@dataclass(frozen=True, slots=True)
class Bound:
    """Where an alert begins.

    Attributes:
        metrics: what its expression compares.
        value: with which number.
        below: it is bad below the number, not above.
        severity: how bad.
    """

    metrics: frozenset[str]
    value: float
    below: bool
    severity: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert rule; several may have one name.

    Attributes:
        runbook: the page and heading in this repository.
        bounds: the numbers that its expression compares with, in order; none when it looks at a state.
    """

    runbook: str
    bounds: tuple[Bound, ...]


def metrics_in(expr: str) -> frozenset[str]:
    """Our metrics that an expression asks for, those that rules record among them."""
    return frozenset(_METRIC.findall(expr))


def recorded() -> frozenset[str]:
    """The metrics that rules record."""
    return frozenset(rule["record"] for rule in _rules(RULES) if "record" in rule)


def names() -> frozenset[str]:
    """The names of all alerts."""
    return frozenset(rule["alert"] for rule in _rules(RULES) if "alert" in rule)


def alerts(name: str) -> Sequence[Alert]:
    """The alert rules of this name.

    Raises:
        LookupError: there is none.
    """
    found = [
        Alert(rule["annotations"]["runbook_url"], tuple(bounds_in(rule["expr"], rule["labels"]["severity"])))
        for rule in _rules(RULES)
        if rule.get("alert") == name
    ]
    if not found:
        raise LookupError(f"no rule in {RULES} is called {name}: name one that a panel can show")
    return found


def bounds(name: str, metric: str) -> list[Bound]:
    """Where the alerts of this name begin for a metric: of each rule the first number that it is compared with."""
    found = [[bound for bound in alert.bounds if metric in bound.metrics] for alert in alerts(name)]
    return [first for first, *_ in filter(None, found)]


def bounds_in(expr: str, severity: str) -> Iterator[Bound]:
    """The numbers that the clauses of an expression are compared with, in order."""
    for clause in _CLAUSE.split(expr):
        if found := _BOUND.search(clause):
            value = math.prod(Decimal(factor.strip()) for factor in found[2].split("*"))  # 14.4 * 0.01 is 0.144
            yield Bound(metrics_in(clause), float(value), found[1] == "<", severity)


@cache
def _rules(directory: Path) -> Sequence[dict[str, Any]]:
    groups = [group for path in sorted(directory.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]
