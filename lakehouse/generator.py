"""Make user actions that look like a shop's day: the same seed and day always give the same bytes.

Users come Zipf-like (few are very active), visit on one platform, look at products, and some put one in the cart and
buy it. The day has a rhythm with a quiet night and a busy evening.
On demand some events are late, and some messages break the contract, each reason in turn.
"""

import json
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from typing import Final, NamedTuple

from lakehouse.events import MAX_DEPTH, MAX_MESSAGE_BYTES, Reason

USERS: Final = 20_000
MAX_DAYS_LATE: Final = 3
SESSION_SECONDS: Final = 240
TOO_LARGE_EVERY: Final = 64
"""An oversized message weighs as much as 4,000 events, so it comes in the first round of bad ones and each 64th."""


class Generated(NamedTuple):
    """One message: `sent_at` is when a producer of that day would have sent it."""

    key: bytes | None
    value: bytes | None
    sent_at: datetime


@dataclass(frozen=True, slots=True)
class Product:
    """One article of the catalogue."""

    name: str
    sku: str
    weight: int


def _shelf(first_sku: int, *articles: tuple[str, int]) -> list[Product]:
    return [Product(name, f"SKU-{first_sku + number}", weight) for number, (name, weight) in enumerate(articles)]


CATALOGUE: Final = (
    *_shelf(
        1001,
        ("Wireless Mouse", 90),
        ("Ergonomic Mouse", 35),
        ("Gaming Mouse", 40),
        ("Trackball", 8),
        ("Mouse Pad XL", 30),
        ("USB-C Hub 7-in-1", 55),
        ("HDMI Cable 2 m", 60),
        ("USB-C Cable 1 m", 80),
        ("Laptop Stand", 45),
        ("Webcam 1080p", 50),
        ("Desk Lamp LED", 25),
        ("Monitor Arm", 20),
    ),
    *_shelf(
        2001,
        ("Over-Ear Headphones", 40),
        ("Bluetooth Headphones", 85),
        ("Noise Cancelling Earbuds", 75),
        ("Sports Earbuds", 35),
        ("Portable Speaker", 50),
        ("Soundbar", 20),
        ("Studio Microphone", 15),
        ("Turntable", 6),
        ("Bookshelf Speakers", 10),
        ("Headphone Stand", 12),
    ),
    *_shelf(
        3001,
        ("Compact Keyboard", 40),
        ("Wireless Keyboard", 55),
        ("Mechanical Keyboard", 70),
        ("Numeric Keypad", 9),
        ("Keycap Set “Retro”", 11),
        ("27″ Monitor", 45),
        ("34″ Ultrawide Monitor", 22),
        ("Graphics Tablet", 14),
        ("Laser Printer", 12),
        ("Label Printer", 7),
    ),
    *_shelf(
        4001,
        ("Espresso Machine", 18),
        ("Café Crème Beans 1 kg", 48),
        ("Milk Frother", 22),
        ("Electric Kettle", 38),
        ("Toaster", 26),
        ("Hand Blender", 24),
        ("Air Fryer", 44),
        ("Kitchen Scale", 30),
        ("Insulated Bottle 750 ml", 52),
        ("Lunch Box Set", 28),
        ("Chef's Knife 20 cm", 19),
        ("Cast Iron Pan", 16),
    ),
    *_shelf(
        5001,
        ("Yoga Mat", 42),
        ("Adjustable Dumbbells", 15),
        ("Resistance Bands", 33),
        ("Running Belt", 21),
        ("Bike Helmet", 18),
        ("Bike Light Set", 27),
        ("Trekking Backpack 40 l", 13),
        ("Sleeping Bag", 10),
        ("Camping Lantern", 14),
        ("Fitness Tracker", 58),
    ),
)

_PLATFORMS: Final = (("mobile", 54), ("web", 36), ("tablet", 10))

# Share of the day's actions in each UTC hour.
_RHYTHM: Final = (12, 8, 5, 4, 4, 6, 12, 22, 34, 42, 46, 50, 56, 52, 48, 48, 52, 60, 72, 86, 92, 78, 48, 24)


class _Wheel:
    """Draw indexes in proportion to weights, by `random()` alone: its sequence is promised never to change."""

    def __init__(self, weights: list[float]) -> None:
        self._bounds = list(accumulate(weights))

    def turn(self, chance: random.Random) -> int:
        return bisect_right(self._bounds, chance.random() * self._bounds[-1])

    def position(self, share: float) -> float:
        """Where `share` of all weight is reached, in steps."""
        at = share * self._bounds[-1]
        step = min(bisect_right(self._bounds, at), len(self._bounds) - 1)
        before = self._bounds[step - 1] if step else 0
        return step + (at - before) / (self._bounds[step] - before)


@dataclass(slots=True)
class _Session:
    user_id: str
    platform: str
    product: Product
    step: str


class _Shop:
    """The people in the shop and what each does next."""

    def __init__(self, chance: random.Random, actions_per_second: float) -> None:
        self._chance = chance
        self._open_sessions: list[_Session] = []
        self._wanted_sessions = max(3, int(actions_per_second * SESSION_SECONDS))
        self._users = _Wheel([1 / (rank + 20) for rank in range(USERS)])
        self._products = _Wheel([product.weight for product in CATALOGUE])
        self._platforms = _Wheel([weight for _, weight in _PLATFORMS])

    def act(self) -> _Session:
        """One action: somebody comes in, or somebody inside goes a step further."""
        chance = self._chance
        if len(self._open_sessions) < self._wanted_sessions:
            session = self._enter()
            self._open_sessions.append(session)
            return session
        place = int(chance.random() * len(self._open_sessions))
        session = self._open_sessions[place]
        session.step = self._next_step(session)
        if session.step == "leave":
            self._open_sessions[place] = session = self._enter()
        return session

    def _enter(self) -> _Session:
        # A multiplier spreads the busy users over the ids.
        user = 10_000 + self._users.turn(self._chance) * 7919 % USERS
        platform = _PLATFORMS[self._platforms.turn(self._chance)][0]
        return _Session(f"user_{user}", platform, self._product(), "view")

    def _product(self) -> Product:
        return CATALOGUE[self._products.turn(self._chance)]

    def _next_step(self, session: _Session) -> str:
        luck = self._chance.random()
        match session.step:
            case "view" if luck < 0.50:
                return "click"
            case "click" if luck < 0.30:
                return "add_to_cart"
            case "add_to_cart" if luck < 0.55:
                return "purchase"
            case "purchase":
                return "leave"
            case _ if luck < 0.75:
                session.product = self._product()
                return "view"
            case _:
                return "leave"


def generate(
    *, seed: int, day: date, count: int, bad_ratio: float = 0.0, late_ratio: float = 0.0
) -> Iterator[Generated]:
    """Generate one day's messages in the order a topic would receive them.

    Args:
        seed: other seeds give other days.
        day: UTC day of the actions.
        count: messages in all, bad and late ones included.
        bad_ratio: share of messages that break the contract; with 22 bad ones every reason has occurred.
        late_ratio: share of actions that happened one to three days earlier and arrive only now.
    """
    chance = random.Random(f"{seed}/{day.isoformat()}")  # noqa: S311 - repeatable on purpose, guards nothing
    shop = _Shop(chance, count / 86_400)
    rhythm = _Wheel([float(share) for share in _RHYTHM])
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    bad = 0
    for number in range(count):
        hours = rhythm.position((number + chance.random()) / count)
        second = min(int(hours * 3600), 86_399)
        acted_at = midnight + timedelta(seconds=second)
        sent_at = acted_at + timedelta(milliseconds=50 + int(-700 * math.log(1 - chance.random())))
        session = shop.act()
        if chance.random() < late_ratio:
            acted_at -= timedelta(days=1 + int(chance.random() * MAX_DAYS_LATE))
        key = session.user_id.encode()
        if chance.random() < bad_ratio:
            yield Generated(key, broken_message(bad, _text(session, acted_at), sent_at), sent_at)
            bad += 1
        else:
            yield Generated(key, _text(session, acted_at).encode(), sent_at)


_NAME_TEXTS: Final = {product.name: json.dumps(product.name, ensure_ascii=False) for product in CATALOGUE}


def _text(session: _Session, acted_at: datetime) -> str:
    return (
        f'{{"timestamp": "{acted_at:%Y-%m-%dT%H:%M:%SZ}", "event_name": "{session.step}", '
        f'"user_identifiers": {{"platform": "{session.platform}", "id": "{session.user_id}"}}, '
        f'"product_information": {{"name": {_NAME_TEXTS[session.product.name]}, "SKU": "{session.product.sku}"}}}}'
    )


def broken_message(number: int, good: str, sent_at: datetime) -> bytes | None:
    """Break a good message in the way whose turn it is.

    Args:
        number: how many were broken before; the ways take turns.
        good: text of a message that keeps the contract.
        sent_at: about the timestamp Kafka gives it.
    """
    turn, place = divmod(number, len(_BREAKS))
    reason, break_message = _BREAKS[place]
    if reason is Reason.TOO_LARGE and turn % TOO_LARGE_EVERY:
        return good[:-1].encode()
    return break_message(good, sent_at)


def _before_end(good: str, more: str) -> bytes:
    return f"{good[:-1]}, {more}}}".encode("utf-8", "surrogatepass")


def _with_timestamp(good: str, timestamp: str) -> bytes:
    start = good.index('"timestamp": "') + len('"timestamp": "')
    return (good[:start] + timestamp + good[good.index('"', start) :]).encode()


def _with_string(good: str, name: str, text: str) -> bytes:
    start = good.index(f'"{name}": "') + len(f'"{name}": ')
    return (good[:start] + text + good[good.index('"', start + 1) + 1 :]).encode()


_Break = Callable[[str, datetime], bytes | None]

_BREAKS: Final[tuple[tuple[Reason, _Break], ...]] = (
    (Reason.MISSING_FIELD, lambda good, _: good.replace('"event_name": ', '"event": ').encode()),
    (Reason.TOMBSTONE, lambda _, __: None),
    (Reason.NOT_JSON, lambda good, _: good[: len(good) // 2].encode()),
    (Reason.NULL_FIELD, lambda good, _: _with_string(good, "id", "null")),
    (Reason.WRONG_TYPE, lambda good, _: _with_string(good, "SKU", "1001")),
    (Reason.INVALID_TIMESTAMP, lambda good, _: _with_timestamp(good, "2023-02-30T12:00:00Z")),
    (Reason.BLANK, lambda _, __: b" \n"),
    (Reason.NOT_UTF8, lambda good, _: good.encode().replace(b'"SKU-', b'"\xff\xfe-')),
    (Reason.DUPLICATE_KEY, lambda good, _: _before_end(good, '"event_name": "view"')),
    (Reason.TRAILING_DATA, lambda good, _: (good + good).encode()),
    (Reason.MISSPELLED_FIELD, lambda good, _: good.replace('"SKU"', '"sku"').encode()),
    (Reason.EMPTY_FIELD, lambda good, _: _with_string(good, "platform", '""')),
    (Reason.TIMESTAMP_WITHOUT_OFFSET, lambda good, _: good.replace('Z"', '"', 1).encode()),
    (
        Reason.IMPLAUSIBLE_TIMESTAMP,
        lambda good, sent_at: _with_timestamp(good, f"{sent_at.year + 50}-01-01T00:00:00Z"),
    ),
    (Reason.NOT_AN_OBJECT, lambda good, _: f"[{good}]".encode()),
    (Reason.INVALID_NUMBER, lambda good, _: _before_end(good, '"price": NaN')),
    (Reason.LONE_SURROGATE, lambda good, _: _before_end(good, '"note": "\\ud83d"')),
    (Reason.CONTROL_CHARACTER, lambda good, _: _with_string(good, "id", '"user_\\u0000"')),
    (Reason.TOO_LONG, lambda good, _: _with_string(good, "id", '"' + "u" * 300 + '"')),
    (Reason.BYTE_ORDER_MARK, lambda good, _: b"\xef\xbb\xbf" + good.encode()),
    (Reason.TOO_DEEP, lambda good, _: _before_end(good, '"nested": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH)),
    (Reason.TOO_LARGE, lambda good, _: good.encode() + b" " * MAX_MESSAGE_BYTES),
)
