"""kill -9 at every step of a load, of an archiving and of a merge of late rows.

After each kill the view shows every impression once, and the next run ends what was begun.
"""

from collections.abc import Iterator

import pytest

from bench.ads.measure import memory
from lakehouse.ads import archive, load
from lakehouse.settings import Settings
from tests.ads import HOUR, NOW, OLD, OLDER, RECENT, AdShop, Api, api_running, impression, newer, opened
from tests.integration.test_ads import OLD_ONES, RECENT_ONES, UNTIL

pytestmark = [pytest.mark.integration, pytest.mark.faults]

ARCHIVE_STEPS = (
    "ads-written",
    "mid-part",
    "ads-read-back",
    "ads-locked",
    "ads-registering",
    "ads-registered",
    "ads-removed",
)
COMMITS = range(1, 12)
"""More than an archiving of two dates commits; one that is not reached lets the run end well."""
CHANGED = newer(OLD_ONES[4], cost_micros=44)
LATE = impression(500, OLDER)
FEW, MANY = 200_000, 1_000_000
"""Rows of one date; what the second has more takes 100 MB as Arrow's columns, and several times that as text."""
MOST_MORE_BYTES = 64_000_000


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with api_running() as running:
        yield running


@pytest.fixture
def shop(environment: Settings, api: Api) -> Iterator[AdShop]:
    with opened(environment, api) as shop:
        shop.tells(*OLD_ONES, *RECENT_ONES)
        yield shop


@pytest.mark.parametrize("place", ["ads-part-stored", "ads-stored", "ads-merged"])
def test_a_killed_load_loses_and_doubles_nothing(shop: AdShop, place: str) -> None:
    shop.load(failpoint=f"{place}:kill:1").dies()
    assert shop.live() == {}
    load.run(shop.settings, HOUR, UNTIL, now=NOW)
    shop.assert_shows(*OLD_ONES, *RECENT_ONES)


@pytest.mark.parametrize("hit", range(1, 7))
def test_a_load_that_is_killed_at_any_commit_loses_and_doubles_nothing(shop: AdShop, hit: int) -> None:
    shop.load(failpoint=f"ads-committed:kill:{hit}").ends(-9, 0)
    load.run(shop.settings, HOUR, UNTIL, now=NOW)
    shop.assert_shows(*OLD_ONES, *RECENT_ONES)


@pytest.mark.parametrize("hit", [1, 2])
@pytest.mark.parametrize("place", ARCHIVE_STEPS)
def test_a_killed_archiving_loses_and_doubles_nothing(shop: AdShop, place: str, hit: int) -> None:
    load.run(shop.settings, HOUR, UNTIL, now=NOW)
    shop.archive(failpoint=f"{place}:kill:{hit}").dies()
    shop.assert_shows(*OLD_ONES, *RECENT_ONES)
    archive.run(shop.settings, now=NOW)
    assert shop.live() == {RECENT: 10}
    shop.assert_shows(*OLD_ONES, *RECENT_ONES)


@pytest.mark.parametrize("hit", COMMITS)
def test_an_archiving_that_is_killed_at_any_commit_loses_and_doubles_nothing(shop: AdShop, hit: int) -> None:
    load.run(shop.settings, HOUR, UNTIL, now=NOW)
    shop.archive(failpoint=f"ads-committed:kill:{hit}").ends(-9, 0)
    shop.assert_shows(*OLD_ONES, *RECENT_ONES)
    archive.run(shop.settings, now=NOW)
    assert shop.live() == {RECENT: 10}
    shop.assert_shows(*OLD_ONES, *RECENT_ONES)


@pytest.mark.parametrize("place", ["ads-written", "ads-read-back", "ads-registering", "ads-registered", "ads-removed"])
def test_a_killed_merge_loses_and_doubles_nothing(shop: AdShop, place: str) -> None:
    load.run(shop.settings, HOUR, UNTIL, now=NOW)
    archive.run(shop.settings, now=NOW)
    shop.tells(CHANGED, LATE)
    shop.load(failpoint=f"{place}:kill:1").dies()
    shop.audited()
    assert len(shop.shown()) in {60, 61}
    archive.run(shop.settings, now=NOW)
    assert shop.live() == {RECENT: 10}
    shop.assert_shows(*OLD_ONES[:4], CHANGED, *OLD_ONES[5:], LATE, *RECENT_ONES)


@pytest.mark.parametrize("then", ["loaded-late", "archived-further"])
def test_what_comes_between_a_kill_and_the_next_run_is_counted_once(shop: AdShop, then: str) -> None:
    load.run(shop.settings, HOUR, UNTIL, now=NOW)
    shop.archive(failpoint="ads-registered:kill:1").dies()
    if then == "loaded-late":
        shop.tells(CHANGED, LATE)
        load.run(shop.settings, HOUR, UNTIL, now=NOW)
    else:
        shop.archive(failpoint="ads-written:kill:1").dies()
    archive.run(shop.settings, now=NOW)
    assert shop.live() == {RECENT: 10}
    late = then == "loaded-late"
    shop.assert_shows(
        *OLD_ONES[:4], CHANGED if late else OLD_ONES[4], *OLD_ONES[5:], *([LATE] if late else []), *RECENT_ONES
    )


def test_an_archiving_that_is_killed_on_the_second_date_keeps_the_first(shop: AdShop) -> None:
    load.run(shop.settings, HOUR, UNTIL, now=NOW)
    shop.archive(failpoint="ads-registered:kill:2").dies()
    assert shop.live() == {OLD: 20, RECENT: 10}
    archive.run(shop.settings, now=NOW)
    shop.assert_shows(*OLD_ONES, *RECENT_ONES)


def test_neither_a_restore_nor_an_archiving_holds_more_when_there_is_more(stack: Settings) -> None:
    peaks = memory(stack, (FEW, MANY))["sizes"]
    for step in ("restore_bytes", "archive_bytes"):
        assert peaks[str(MANY)][step] - peaks[str(FEW)][step] < MOST_MORE_BYTES, peaks
