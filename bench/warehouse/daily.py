"""Measure what one day's build costs beside a short history and beside a long one."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from bench.history import Shop
from bench.say import say
from bench.warehouse.ground import Warehouse
from lakehouse.generator import USERS
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS

EVENTS_PER_USER: Final = 10
WARM_UP_ROUNDS: Final = 1
"""Left out: the first build of a day meets Java code that nobody has run before."""


def anchor_of(today: date, rounds: int) -> date:
    """The date of day 0, so that the last day brought is yesterday.

    Near today, because tests of the models look at what arrived in the last days by the clock.
    """
    return today - timedelta(days=rounds + WARM_UP_ROUNDS + 1)


def users_of(events_per_day: int) -> int:
    """How many people such a shop has: each acts some ten times a day on average, the rarest every other day."""
    return min(USERS, max(10, events_per_day // EVENTS_PER_USER))


def measure(
    stack: Settings,
    days: Sequence[int],
    events_per_day: int,
    rounds: int,
    then: Callable[[Warehouse], None],
) -> dict[str, Any]:
    """Build histories of so many days, then bring one day to each and build it, in turn, round after round.

    Args:
        stack: the running servers.
        days: length of the histories, the short one first.
        events_per_day: events of each date.
        rounds: how many days are brought and measured, beside those that warm up.
        then: called with the long history before all is removed.
    """
    shop = Shop(anchor_of(datetime.now(UTC).date(), rounds), events_per_day, users_of(events_per_day))
    histories: dict[int, dict[str, Any]] = {}
    with ExitStack() as at_the_end:
        warehouses: dict[int, Warehouse] = {}
        for length in days:
            warehouses[length] = warehouse = Warehouse(stack, f"{length}d")
            at_the_end.callback(warehouse.close)
            say(f"{length} days: making {length * events_per_day:,} events")
            warehouse.load_history(shop, 1 - length, 0)
            full = warehouse.build()
            say(f"{length} days: the first build took {full.seconds:.0f} s and read {full.input_bytes:,} bytes")
            histories[length] = {
                "full": asdict(full),
                "events": asdict(warehouse.size_of(USER_ACTIONS)),
                "builds": [],
            }
        for day in range(1, rounds + WARM_UP_ROUNDS + 1):
            for length in days if day % 2 else reversed(days):
                warehouses[length].load_day(shop, day)
                build = warehouses[length].build()
                warms_up = day <= WARM_UP_ROUNDS
                say(
                    f"{length} days, day {day}{' (warming up)' * warms_up}: {build.seconds:.1f} s, "
                    f"{build.input_bytes:,} bytes in {build.queries} queries"
                )
                if not warms_up:
                    histories[length]["builds"].append(asdict(build))
        then(warehouses[days[-1]])
    return {
        "events_per_day": events_per_day,
        "users": shop.users,
        "rounds": rounds,
        "days": list(days),
        "histories": {str(length): history for length, history in histories.items()},
    }


def ratio(section: Mapping[str, Any], figure: str) -> float:
    """The median over rounds of a figure beside the long history ÷ the same beside the short one."""
    short, long = (section["histories"][str(length)]["builds"] for length in section["days"])
    return statistics.median(b[figure] / a[figure] for a, b in zip(short, long, strict=True))


def medians(builds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each of dbt's nodes the median of its figures over builds; a node that a build lacks counts as nothing."""
    names = sorted({name for build in builds for name in build["nodes"]})
    figures = ("seconds", "input_bytes", "cpu_seconds", "queries")
    return {
        name: {
            figure: statistics.median(build["nodes"].get(name, {}).get(figure, 0) for build in builds)
            for figure in figures
        }
        for name in names
    }
