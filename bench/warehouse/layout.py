"""Measure what the order of rows saves when one user's history is read, and what `ANALYZE` changes."""

import re
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from bench.history import Shop
from bench.say import say
from bench.warehouse.ground import Warehouse
from bench.warehouse.store import sent_bytes
from lakehouse.adapters import trino
from lakehouse.generator import USERS
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS, TableSpec

UNSORTED: Final = replace(USER_ACTIONS, name="user_actions_unsorted", sort_by=())
UNSORTED_IN_SMALL_GROUPS: Final = replace(USER_ACTIONS, name="user_actions_unsorted_in_small_groups", sort_by=())
COMPACTED_WITH: Final[tuple[tuple[TableSpec, dict[str, str]], ...]] = (
    (USER_ACTIONS, {}),
    (UNSORTED, {"parquet_writer_block_size": "128MB"}),
    (UNSORTED_IN_SMALL_GROUPS, {}),
)
"""The tables, and the catalog's session properties for compaction that differ from `trino/etc/catalog`: Trino's own."""
PIECES_PER_DAY: Final = 4
"""Files a date has before compaction."""
RANKS: Final = (0, 100, 1_000, 5_000, 15_000)
"""Users by how busy they are, the busiest being 0."""
USER_IDS: Final = tuple(f"user_{10_000 + rank * 7919 % USERS}" for rank in RANKS)
_ESTIMATES: Final = re.compile(r"^.*(Estimates|Trino version|Queued):.*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer took.

    Attributes:
        rows: of the answer.
        input_bytes: read from the object store for it, as Trino counts them.
        cpu_seconds: of Trino's tasks.
        seconds: until it was there.
    """

    rows: int
    input_bytes: int
    cpu_seconds: float
    seconds: float


def user_history(stack: Settings, days: int, events_per_day: int) -> dict[str, Any]:
    """Fill a sorted table and unsorted ones with the same rows, compact all, and read the histories of some users."""
    shop = Shop(datetime.now(UTC).date() - timedelta(days=1), events_per_day)
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as at_the_end:
        warehouse = Warehouse(stack, "layout")
        at_the_end.callback(warehouse.close)
        for spec, session in COMPACTED_WITH:
            warehouse.lake.apply(spec)
            say(f"{spec.name}: writing {days * events_per_day:,} events")
            for day in range(1 - days, 1):
                rows = shop.history(day, day + 99)
                step = -(-rows.num_rows // PIECES_PER_DAY)
                warehouse.add(spec, (rows.slice(start, step) for start in range(0, rows.num_rows, step)))
            written = warehouse.size_of(spec)
            name = warehouse.name_of(spec)
            started = time.monotonic()
            for day in range(1 - days, 1):  # one at a time, as one does with days that are over
                of_day = f"ALTER TABLE {name} EXECUTE optimize WHERE event_date = DATE '{shop.date_of(day)}'"
                _ask(stack, of_day, {f"{stack.catalog.name}.{key}": value for key, value in session.items()})
            seconds = time.monotonic() - started
            compacted = warehouse.size_of(spec)
            per_event = compacted.file_bytes / compacted.rows
            say(f"{spec.name}: {per_event:.2f} bytes an event, compacted in {seconds:.0f} s")
            before = sent_bytes(stack)
            users = [_ask(stack, f"SELECT * FROM {name} WHERE user_id = '{user_id}'") for user_id in USER_IDS]
            sent = sent_bytes(stack) - before
            say(f"{spec.name}: {[user.input_bytes for user in users]} bytes read, {sent:,} bytes sent")
            found[spec.name] = {
                "sort_by": list(spec.sort_by),
                "written": asdict(written),
                "compacted": asdict(compacted),
                "compaction_seconds": round(seconds, 1),
                "users": [asdict(user) for user in users],
                "sent_bytes": sent,
            }
    return {"days": days, "events_per_day": events_per_day, "ranks": list(RANKS), "tables": found}


def ratio(section: dict[str, Any], beside: str = UNSORTED.name) -> float:
    """Bytes that the users' histories read in the sorted table ÷ in another one, as Trino counts them."""
    ours, other = (
        sum(user["input_bytes"] for user in section["tables"][name]["users"]) for name in (USER_ACTIONS.name, beside)
    )
    return ours / other


def analyze(warehouse: Warehouse, queries: dict[str, str], runs: int = 3) -> dict[str, Any]:
    """Ask typical questions before and after `ANALYZE` of the events: their plans and times.

    Args:
        warehouse: with its models built.
        queries: by name; `{lake}` stands for the catalog and the prefix.
        runs: how often each is asked; the figure is the median.
    """
    stack, lake = warehouse.settings, f"{warehouse.settings.catalog.name}.{warehouse.settings.prefix}"
    before = {name: _plan_and_seconds(stack, sql.format(lake=lake), runs) for name, sql in queries.items()}
    started = time.monotonic()
    trino.query(stack.trino_as("admin"), f"ANALYZE {warehouse.name_of(USER_ACTIONS)}")
    seconds = time.monotonic() - started
    after = {name: _plan_and_seconds(stack, sql.format(lake=lake), runs) for name, sql in queries.items()}
    compared = {
        name: {
            "plan_changed": before[name][0] != after[name][0],
            "seconds_before": round(before[name][1], 3),
            "seconds_after": round(after[name][1], 3),
        }
        for name in queries
    }
    say(f"ANALYZE took {seconds:.1f} s: {compared}")
    return {"analyze_seconds": round(seconds, 1), "queries": compared}


def _plan_and_seconds(stack: Settings, sql: str, runs: int) -> tuple[str, float]:
    ((plan,),) = trino.query(stack.trino_as("admin"), f"EXPLAIN {sql}")
    return _ESTIMATES.sub("", plan), statistics.median(_ask(stack, sql).seconds for _ in range(runs))


def _ask(stack: Settings, sql: str, session: dict[str, str] | None = None) -> Answer:
    started = time.monotonic()
    with trino.connection(stack.trino_as("admin"), session_properties=session) as connection:
        cursor = connection.cursor()
        cursor.execute(sql)
        rows: Sequence[Any] = cursor.fetchall()
        stats = cursor.stats
    return Answer(
        len(rows), int(stats["physicalInputBytes"]), stats["cpuTimeMillis"] / 1000, time.monotonic() - started
    )
