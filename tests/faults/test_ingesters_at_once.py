"""Two ingesters alive at the same time, and names that were used before."""

import pytest

from lakehouse.adapters.catalog import Lake
from lakehouse.tables import INGESTED
from tests.faults.harness import Shop
from tests.shops import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.faults]


@pytest.mark.parametrize("place", ["planned", "decoded", "quarantine-sending", "quarantine-appended", "events-sending"])
def test_an_ingester_that_fell_asleep_and_wakes_after_another_took_over_writes_nothing(shop: Shop, place: str) -> None:
    shop.send(100)
    sleeper = shop.ingest(failpoint=f"{place}:hold:1")
    wait_until(sleeper.is_held, "the first ingester gets there")
    shop.send(50)
    shop.ingest().ends(0)
    shop.assert_settled()
    sleeper.release()
    sleeper.ends(1)
    assert "nothing was written twice" in sleeper.said
    shop.assert_settled()


def test_an_ingester_that_wakes_after_another_took_over_and_its_snapshots_expired_writes_nothing(shop: Shop) -> None:
    shop.send(100)
    sleeper = shop.ingest(failpoint="events-sending:hold:1")
    wait_until(sleeper.is_held, "the first ingester gets there")
    shop.ingest().ends(0)
    shop.compact_and_expire()
    sleeper.release()
    sleeper.ends(1)
    shop.assert_settled()


def test_two_runs_at_once_write_every_row_once(shop: Shop) -> None:
    shop.send(300)
    runs = [shop.ingest() for _ in range(2)]
    codes = sorted(run.ends(0, 1) for run in runs)
    assert codes[0] == 0
    assert all("nothing was written twice" in run.said for run in runs if run.process.returncode)
    shop.assert_settled()


def test_a_run_beside_a_follower_writes_every_row_once_and_the_follower_goes_on(shop: Shop) -> None:
    shop.send(100)
    follower = shop.follow()
    wait_until(lambda: shop.committed_rows() == 100, "the follower commits")
    for _ in range(3):
        shop.send(100)
        shop.ingest().ends(0, 1)
    shop.send(100)
    wait_until(lambda: shop.committed_rows() == 500, "the follower catches up")
    follower.process.terminate()
    follower.ends(0)
    shop.assert_settled()


def test_workers_that_draw_the_names_of_older_files_overwrite_none(shop: Shop) -> None:
    shop.send(100)
    shop.ingest(FAILPOINT_SAME_NAMES="1").ends(0)
    before = _files(shop)
    shop.send(100)
    shop.ingest(FAILPOINT_SAME_NAMES="1").ends(0)
    new = _files(shop) - before
    drawn = [{name.rpartition("-")[2] for name in names} for names in (before, new)]
    assert drawn[0] & drawn[1]  # else the test does not test
    shop.assert_settled()


def _files(shop: Shop) -> set[str]:
    lake = Lake(shop.settings)
    return {f["file_path"] for spec in INGESTED for f in lake.load(spec).inspect.data_files().to_pylist()}
