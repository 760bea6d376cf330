"""Servers that refuse, dawdle, hang up or keep their answer to themselves, between an ingest and the real ones."""

import itertools
import json
from collections.abc import Iterator

import pytest

from lakehouse.adapters.catalog import Lake
from lakehouse.tables import USER_ACTIONS
from tests.faults.harness import Shop
from tests.faults.proxy import Fault, FaultProxy, in_front_of

pytestmark = pytest.mark.integration

EVENTS_COMMIT = r"/namespaces/\w*events/tables/user_actions$"
ANY_COMMIT = r"/tables/user_actions$"
DATA_FILE = r"/user_actions-\w+/data/"  # a table's location ends with an id of its own
METADATA_FILE = r"/user_actions-\w+/metadata/"
EACH_TRY = 1_000_000


@pytest.fixture
def catalog(shop: Shop) -> Iterator[FaultProxy]:
    with in_front_of(shop.settings.catalog.uri) as proxy:
        yield proxy
        assert proxy.requests


@pytest.fixture
def store(shop: Shop) -> Iterator[FaultProxy]:
    with in_front_of(shop.settings.s3.endpoint) as proxy:
        yield proxy
        assert proxy.requests


def ingest_by(catalog: FaultProxy, shop: Shop) -> int:
    run = shop.ingest(LAKEHOUSE_CATALOG__URI=catalog.url)
    return run.ends(0, 1, 3, 75)


def snapshots_of_ingests(shop: Shop) -> int:
    found = Lake(shop.settings).load(USER_ACTIONS).snapshots()
    return sum("lakehouse.start-offsets" in s.summary.additional_properties for s in found if s.summary)


@pytest.mark.parametrize("fault", ["swallow", pytest.param("replace", marks=pytest.mark.faults)])
def test_a_commit_whose_answer_is_lost_is_found_and_not_sent_again(
    shop: Shop, catalog: FaultProxy, fault: Fault
) -> None:
    shop.send(300)
    swallowed = catalog.on(fault, "POST", ANY_COMMIT, status=504)
    assert ingest_by(catalog, shop) == 0
    assert swallowed.hits == 6
    assert snapshots_of_ingests(shop) == 3
    shop.assert_settled()


@pytest.mark.faults
def test_a_commit_whose_answer_is_lost_and_whose_snapshot_expires_is_not_sent_again(
    shop: Shop, catalog: FaultProxy
) -> None:
    shop.send(300)
    swallowed = catalog.on("swallow", "POST", EVENTS_COMMIT, times=2, then=shop.compact_and_expire)
    assert ingest_by(catalog, shop) == 0  # the table's properties hold the run's id
    assert swallowed.hits
    shop.finish()
    shop.assert_settled()


@pytest.mark.faults
def test_a_catalog_that_never_answers_a_commit_leaves_its_outcome_open_and_the_next_run_finds_out(
    shop: Shop, catalog: FaultProxy
) -> None:
    shop.send(300)

    def answer_nothing_more() -> None:
        catalog.on("answer", "GET", ANY_COMMIT)

    catalog.on("swallow", "POST", EVENTS_COMMIT, then=answer_nothing_more)
    assert ingest_by(catalog, shop) == 3
    shop.finish()
    shop.assert_settled()


@pytest.mark.faults
@pytest.mark.parametrize("status", [409, 500, 503])
def test_a_catalog_that_refuses_each_commit_a_few_times_gets_it_once(
    shop: Shop, catalog: FaultProxy, status: int
) -> None:
    shop.send(200)
    refused = catalog.on("answer", "POST", EVENTS_COMMIT, times=4, status=status)
    assert ingest_by(catalog, shop) == 0
    assert refused.hits == 4
    assert snapshots_of_ingests(shop) == 2
    shop.assert_settled()


@pytest.mark.faults
def test_a_storm_of_conflicts_that_does_not_end_is_a_passing_fault(shop: Shop, catalog: FaultProxy) -> None:
    shop.send(200)
    catalog.on("answer", "POST", EVENTS_COMMIT, status=409)
    assert ingest_by(catalog, shop) == 75
    assert snapshots_of_ingests(shop) == 0
    shop.compact_and_expire()
    shop.finish()
    shop.assert_settled()


def test_commits_beside_compaction_conflict_for_real_and_land_once(shop: Shop, catalog: FaultProxy) -> None:
    shop.send(200)
    turns = itertools.cycle([True, False])

    def commit_before_every_other() -> None:
        if next(turns):
            shop.compact_and_expire()
            shop.commit_nothing()

    commits = catalog.on("pass", "POST", ANY_COMMIT, first=commit_before_every_other)
    assert ingest_by(catalog, shop) == 0
    assert commits.hits == 8  # each of the four is refused once
    shop.assert_settled()


@pytest.mark.faults
@pytest.mark.parametrize("times", [2, EACH_TRY], ids=["twice", "always"])
@pytest.mark.parametrize(
    ("fault", "method"), [("answer", "PUT"), ("answer", "POST"), ("cut", "PUT")], ids=["503-put", "503-post", "cut-put"]
)
def test_a_store_that_fails_loses_and_doubles_nothing(
    shop: Shop, store: FaultProxy, fault: Fault, method: str, times: int
) -> None:
    shop.send(300)
    failed = store.on(fault, method, DATA_FILE, times=times)
    run = shop.ingest(LAKEHOUSE_S3__ENDPOINT=store.url)
    if times == EACH_TRY:
        run.ends(75)
        assert shop.committed_rows() == 0
    else:
        run.ends(0)
        assert json.loads(run.output)["published_rows"] == shop.good
    assert failed.hits >= min(times, 3)
    shop.finish()
    shop.assert_settled()


@pytest.mark.faults
def test_a_slow_store_is_only_slow(shop: Shop, store: FaultProxy) -> None:
    shop.send(100)
    slow = store.on("slow", "PUT", DATA_FILE, seconds=0.2)
    shop.ingest(LAKEHOUSE_S3__ENDPOINT=store.url).ends(0)
    assert slow.hits >= 3
    shop.assert_settled()


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["answer", "cut"])
@pytest.mark.parametrize("times", [2, EACH_TRY], ids=["twice", "always"])
def test_a_store_that_fails_as_the_driver_writes_metadata_loses_and_doubles_nothing(
    shop: Shop, store: FaultProxy, fault: Fault, times: int
) -> None:
    shop.send(200)
    failed = store.on(fault, "PUT", METADATA_FILE, times=times)
    shop.ingest(LAKEHOUSE_S3__ENDPOINT=store.url).ends(75 if times == EACH_TRY else 0)
    assert failed.hits >= min(times, 3)
    shop.finish()
    shop.assert_settled()
