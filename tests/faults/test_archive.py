"""kill -9 at every step of an archiving and of a restore, with and without maintenance after it.

After each kill every event counts once, and the next run ends what was begun. Two dates are archived; the run dies on
the first or on the second.
"""

from collections.abc import Callable, Iterator
from datetime import date

import pytest

from lakehouse import archive, ingest
from lakehouse.adapters import kafka
from lakehouse.settings import Settings
from tests.archives import (
    FIRST,
    SECOND,
    archived,
    assert_archive_is_whole,
    assert_every_event_counts_once,
    live,
)
from tests.faults.harness import Shop, opened
from tests.integration.replaying import environment_of
from tests.shops import good

pytestmark = [pytest.mark.integration, pytest.mark.faults]

STEPS = {
    "mid-file": "mid-part",
    "files-written": "part-written",
    "read-back": "part-read-back",
    "manifest-written": "part-described",
    "before-the-part-is-registered": "archive-sending",
    "when-the-part-is-registered": "archive-landed",
    "before-the-rows-leave": "events-sending",
    "when-the-rows-have-left": "events-landed",
}
RESTORE_STEPS = {
    "mid-file": "mid-part",
    "files-written": "part-written",
    "read-back": "part-read-back",
    "before-the-rows-are-back": "events-sending",
    "when-the-rows-are-back": "events-landed",
    "before-the-part-is-gone": "archive-sending",
    "when-the-part-is-gone": "archive-landed",
    "manifest-removed": "manifest-removed",
}
AFTER = date(2023, 10, 24)


def nothing(_: Shop) -> None:
    pass


def maintain(shop: Shop) -> None:
    shop.compact_and_expire()


def late(shop: Shop) -> None:
    """A late event of each date, and then a compaction, so that the files to take out are no more."""
    for day in (FIRST, SECOND):
        kafka.send(shop.settings, shop.settings.user_actions_topic, [good(1000, day=day.day)])
    ingest.run(shop.settings)
    shop.compact_and_expire()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "READERS_SECONDS", 0.0)


@pytest.fixture
def shop(environment: Settings) -> Iterator[Shop]:
    """Ingested: 45 events on one date and 50 on the next, and 5 refused messages."""
    with opened(environment, environment_of(environment)) as shop:
        shop.send(100)
        shop.finish()
        yield shop


@pytest.mark.parametrize(
    ("hit", "then"),
    [(1, nothing), (1, maintain), (1, late), (2, nothing)],
    ids=["plain", "compacted-and-expired", "late-and-compacted", "on-the-second-date"],
)
@pytest.mark.parametrize("place", STEPS.values(), ids=STEPS)
def test_a_killed_archiving_loses_and_doubles_nothing(
    shop: Shop, place: str, hit: int, then: Callable[[Shop], None]
) -> None:
    settings = shop.settings
    shop.start("archive", "run", "--before", str(AFTER), failpoint=f"{place}:kill:{hit}").dies()
    assert_every_event_counts_once(settings)
    then(shop)
    assert_every_event_counts_once(settings)
    archive.run(settings, before=AFTER)
    more = int(then is late)
    assert (live(settings), archived(settings)) == ({}, {FIRST: 45 + more, SECOND: 50 + more})
    assert_every_event_counts_once(settings)
    assert_archive_is_whole(settings)


@pytest.mark.parametrize("then", [nothing, maintain], ids=["plain", "compacted-and-expired"])
@pytest.mark.parametrize("place", RESTORE_STEPS.values(), ids=RESTORE_STEPS)
def test_a_killed_restore_loses_and_doubles_nothing(shop: Shop, place: str, then: Callable[[Shop], None]) -> None:
    settings = shop.settings
    archive.run(settings, before=AFTER)
    shop.start("archive", "restore", "--date", str(FIRST), failpoint=f"{place}:kill:1").dies()
    assert_every_event_counts_once(settings)
    then(shop)
    assert_every_event_counts_once(settings)
    archive.restore(settings, FIRST)
    assert (live(settings), archived(settings)) == ({FIRST: 45}, {SECOND: 50})
    assert_every_event_counts_once(settings)
    assert_archive_is_whole(settings)
