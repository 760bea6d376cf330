"""A shop's history at the level of the tables: whole days of rows as Arrow columns, as ingest would have brought them.

`lakehouse.generator` makes messages one by one, which for a year of days would take longer than what is measured on it.
Here the same people walk through the same shop in arrays. A day is known by its number, counted from a fixed one, and
the same number always has the same events, whatever date it stands for and however long the history is.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakehouse.events import RULE_VERSION, Reason
from lakehouse.generator import CATALOGUE, USERS
from lakehouse.tables import HEADERS, MICROS, USER_ACTIONS, USER_ACTIONS_QUARANTINE

Ints = npt.NDArray[np.int64]

TOPIC: Final = "user-actions"
RUNS_PER_DAY: Final = 4
"""Ingest runs whose rows keep apart in time; each stamps its rows."""
DAYS_LATE: Final = (0.985, 0.010, 0.003, 0.002)
"""Share of the visits whose events arrive on their own day, one day later, and so on."""
REFUSED_RATIO: Final = 0.005
RENAMED_EVERY_DAYS: Final = 90

_SECOND: Final = 1_000_000
_DAY: Final = 86_400 * _SECOND
_MOST_STEPS: Final = 16
_SLOTS: Final = 8
"""Blocks of offsets a day of arrivals has: one for each age of its events, and the last for what was refused."""
_FIRST_DAY: Final = -10_000
_EPOCH: Final = date(1970, 1, 1)
_STEPS: Final = ("view", "click", "add_to_cart", "purchase")
_GO_ON: Final = np.array([0.50, 0.30, 0.55, 0.0])
_LOOK_AT_ANOTHER: Final = np.array([0.75, 0.75, 0.75, 0.0])
_PLATFORMS: Final = ("mobile", "web", "tablet")
_PLATFORM_SHARES: Final = (0.54, 0.36, 0.10)
_HOURS: Final = (12, 8, 5, 4, 4, 6, 12, 22, 34, 42, 46, 50, 56, 52, 48, 48, 52, 60, 72, 86, 92, 78, 48, 24)
_REASONS: Final = (Reason.NOT_JSON, Reason.MISSING_FIELD, Reason.INVALID_TIMESTAMP)


def _bounds(weights: Any) -> npt.NDArray[np.float64]:
    """Upper bound of each choice between 0 and 1."""
    sums = np.array(list(accumulate(weights)), np.float64)
    return sums / sums[-1]


_PRODUCT_BOUNDS: Final = _bounds(product.weight for product in CATALOGUE)
_HOUR_BOUNDS: Final = _bounds(_HOURS)
_PLATFORM_BOUNDS: Final = _bounds(_PLATFORM_SHARES)
_LATE_BOUNDS: Final = _bounds(DAYS_LATE)


@dataclass(frozen=True, slots=True)
class Shop:
    """A shop whose people, products and days are always the same.

    Attributes:
        anchor: the date of day 0; the days before it have negative numbers.
        events_per_day: events of each date, late ones included.
        users: how many people come; so few that a week has seen nearly all of them, and a year brings no more.
    """

    anchor: date
    events_per_day: int
    users: int = USERS
    seed: int = 5

    def date_of(self, day: int) -> date:
        """The date that a day's number stands for."""
        return self.anchor + timedelta(days=day)

    def history(self, day: int, last: int) -> pa.Table:
        """The events of a date that have arrived by the end of day `last`, in the order of their times."""
        days_late, events = self._events(day)
        return events.filter(pa.array(days_late <= last - day))

    def arrivals(self, day: int) -> pa.Table:
        """The events that arrive on a day: its own, and late ones of the days before."""
        return pa.concat_tables(
            events.filter(pa.array(days_late == age))
            for age in range(len(DAYS_LATE))
            for days_late, events in [self._events(day - age)]
        )

    def refused(self, day: int) -> pa.Table:
        """The messages that arrive on a day and break the contract."""
        rows = max(1, int(self.events_per_day * REFUSED_RATIO))
        order = np.arange(rows, dtype=np.int64)
        kafka_micros = self._midnight(day) + order * (_DAY // rows)
        ingested = _next_run(kafka_micros)
        reasons = pa.array([reason.value for reason in _REASONS]).take(pa.array(order % len(_REASONS)))
        columns = {
            "reason": reasons,
            "message": pa.repeat(pa.scalar("made for the bench"), rows),
            "field": pa.nulls(rows, pa.string()),
            "raw": pa.array([b'{"broken": %d' % number for number in range(rows)], pa.binary()),
            "kafka_topic": pa.repeat(pa.scalar(TOPIC), rows),
            "kafka_partition": pa.array((order % 4).astype(np.int32)),
            "kafka_offset": pa.array(self._offset(day, _SLOTS - 1) + order),
            "kafka_timestamp": pa.array(kafka_micros).cast(MICROS),
            "kafka_key": pa.nulls(rows, pa.binary()),
            "kafka_headers": pa.nulls(rows, HEADERS),
            "rule_version": pa.repeat(pa.scalar(RULE_VERSION, pa.int32()), rows),
            "ingested_at": pa.array(ingested).cast(MICROS),
            "ingested_date": _dates(ingested),
        }
        return _table(columns, USER_ACTIONS_QUARANTINE.arrow_schema)

    def _events(self, day: int) -> tuple[Ints, pa.Table]:
        """How many days late each event of a date is, and the events, both in the order of their times."""
        chance = np.random.default_rng([self.seed, day - _FIRST_DAY])
        visit, step, product = _walk(chance, self.events_per_day)
        visits = int(visit[-1]) + 1
        bounds = _bounds(1 / (rank + 20) for rank in range(self.users))
        user = 10_000 + np.searchsorted(bounds, chance.random(visits)) * 7919 % USERS
        platform = np.searchsorted(_PLATFORM_BOUNDS, chance.random(visits))
        late = np.searchsorted(_LATE_BOUNDS, chance.random(visits)).astype(np.int64)
        start = (np.searchsorted(_HOUR_BOUNDS, chance.random(visits)) + chance.random(visits)) * 3600 * _SECOND
        waited = np.cumsum(chance.exponential(40 * _SECOND, visit.size))
        first = np.searchsorted(visit, np.arange(visits))
        within = np.minimum(start[visit] + waited - waited[first][visit], _DAY - 1).astype(np.int64)
        order = np.argsort(within, kind="stable")
        visit, step, product = visit[order], step[order], product[order]
        event_micros = self._midnight(day) + within[order] // 1000 * 1000
        days_late = late[visit]
        delay = chance.integers(1, 2_000, order.size) * 1000
        kafka_micros = event_micros + delay + days_late * _DAY
        rank = np.arange(order.size, dtype=np.int64)
        slots = np.array([self._offset(day + age, age) for age in range(len(DAYS_LATE))], np.int64)
        columns = {
            "event_datetime": pa.array(event_micros).cast(MICROS),
            "event_date": _dates(event_micros),
            "event_name": pa.array(_STEPS).take(pa.array(step)),
            "user_id": _USER_IDS.take(pa.array(user[visit] - 10_000)),
            "platform": pa.array(_PLATFORMS).take(pa.array(platform[visit])),
            "product_name": _names(day).take(pa.array(product)),
            "sku": _SKUS.take(pa.array(product)),
            "unknown_fields": pa.array(['{"campaign": "autumn"}', None]).take(pa.array((rank % 50 > 0).astype(int))),
            "kafka_topic": pa.repeat(pa.scalar(TOPIC), order.size),
            "kafka_partition": pa.array((user[visit] % 4).astype(np.int32)),
            "kafka_offset": pa.array(slots[days_late] + rank),
            "kafka_timestamp": pa.array(kafka_micros).cast(MICROS),
            "ingested_at": pa.array(_next_run(kafka_micros)).cast(MICROS),
            "replayed_at": pa.nulls(order.size, MICROS),
        }
        return days_late, _table(columns, USER_ACTIONS.arrow_schema)

    def _midnight(self, day: int) -> int:
        return (self.date_of(day) - _EPOCH).days * _DAY

    def _offset(self, day: int, slot: int) -> int:
        """The first offset of a block of arrivals; no two events share one."""
        return ((day - _FIRST_DAY) * _SLOTS + slot) * self.events_per_day


def _table(columns: dict[str, pa.Array], schema: pa.Schema) -> pa.Table:
    """Rows of a table; a column that no message of Kafka fills is null."""
    rows = len(next(iter(columns.values())))
    filled = {field.name: pa.nulls(rows, field.type) for field in schema} | columns
    return pa.table([filled[name] for name in schema.names], schema=schema)


_USER_IDS: Final = pa.array([f"user_{10_000 + number}" for number in range(USERS)])
_SKUS: Final = pa.array([product.sku for product in CATALOGUE])


def _walk(chance: np.random.Generator, events: int) -> tuple[Ints, Ints, Ints]:
    """Let people walk through the shop until there are so many events: the visit, step and product of each.

    A visit's events stand together, in the order in which they happened.
    """
    visits = events // 2 + 8  # a visit has three and a half events on average
    inside = np.arange(visits, dtype=np.int64)
    step = np.zeros(visits, np.int64)
    product = np.searchsorted(_PRODUCT_BOUNDS, chance.random(visits))
    walked: list[tuple[Ints, Ints, Ints]] = []
    for _ in range(_MOST_STEPS):
        walked.append((inside, step, product))
        luck = chance.random(inside.size)
        goes_on = luck < _GO_ON[step]
        stays = goes_on | (luck < _LOOK_AT_ANOTHER[step])
        others = np.searchsorted(_PRODUCT_BOUNDS, chance.random(inside.size))
        step, product = np.where(goes_on, step + 1, 0)[stays], np.where(goes_on, product, others)[stays]
        inside = inside[stays]
    visit = np.concatenate([piece[0] for piece in walked])
    order = np.argsort(visit, kind="stable")[:events]
    if order.size < events:
        raise ValueError(f"{visits} visits gave {order.size} events, {events} were wanted")
    steps, products = (np.concatenate([piece[column] for piece in walked])[order] for column in (1, 2))
    return visit[order], steps, products.astype(np.int64)


def _names(day: int) -> pa.Array:
    """The products' names on a day: each is renamed now and then, on days of its own."""
    return pa.array(
        [
            f"{product.name}{' (new)' * ((day - _FIRST_DAY + 13 * number) // RENAMED_EVERY_DAYS % 2)}"
            for number, product in enumerate(CATALOGUE)
        ]
    )


def _next_run(kafka_micros: Ints) -> Ints:
    """The start of the ingest run that finds a message: the first one after it."""
    pause = _DAY // RUNS_PER_DAY
    return (kafka_micros // pause + 1) * pause


def _dates(micros: Ints) -> pa.Array:
    return pa.array((micros // _DAY).astype(np.int32)).cast(pa.date32())
