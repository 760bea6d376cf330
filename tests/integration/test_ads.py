"""Ad data on the real servers: API → backup → PostgreSQL → archive, each impression once at every moment."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import pytest
from psycopg import sql
from pyarrow import compute as pc
from pyarrow import fs, parquet

from lakehouse.adapters import ads_store, s3, trino
from lakehouse.adapters.ads_api import AdApi
from lakehouse.adapters.ads_archive import AdsArchive
from lakehouse.adapters.ads_store import AdsStore, Session
from lakehouse.adapters.postgres import connect, drop_schema
from lakehouse.ads import archive, backup, load
from lakehouse.ads.audit import audit, compare_counts
from lakehouse.ads.backup import Backups
from lakehouse.ads.contract import decode_lines
from lakehouse.ads.sample import encode
from lakehouse.environment import apply
from lakehouse.errors import ServerUnavailableError, TerminalError, TransientError
from lakehouse.settings import Settings
from lakehouse.tables import IMPRESSIONS_ARCHIVE
from tests.ads import HOUR, NOW, OLD, OLDER, RECENT, AdShop, Api, api_running, impression, newer, opened, text
from tests.shops import wait_until

pytestmark = pytest.mark.integration

UNTIL = HOUR + timedelta(hours=1)
OLD_ONES = [impression(n, OLDER) for n in range(30)] + [impression(n, OLD) for n in range(20)]
RECENT_ONES = [impression(n, RECENT) for n in range(10)]


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with api_running() as running:
        yield running


@pytest.fixture
def shop(environment: Settings, api: Api) -> Iterator[AdShop]:
    with opened(environment, api) as shop:
        yield shop


@pytest.fixture
def filled(shop: AdShop) -> AdShop:
    """A shop with 60 impressions on three dates, two of which are old."""
    shop.tells(*OLD_ONES, *RECENT_ONES)
    load.run(shop.settings, HOUR, UNTIL, now=NOW)
    return shop


def files_of(settings: Settings, folder: str) -> list[str]:
    place = f"{settings.s3.ads_bucket}/{settings.prefix}{folder}"
    found = s3.filesystem(settings.s3).get_file_info(fs.FileSelector(place, recursive=True, allow_not_found=True))
    return sorted(info.path.removeprefix(f"{place}/") for info in found if info.type is fs.FileType.File)


def test_a_load_stores_what_the_api_returned_byte_for_byte_and_inserts_each_impression_once(shop: AdShop) -> None:
    shop.api.has(shop.settings.ads.account, scenario={"impressions_per_hour": 100, "bad_ratio": 0.05})
    with AdApi(shop.settings.ads) as api:
        returned = b"".join(api.pages(HOUR, UNTIL))
    result = load.run(shop.settings, HOUR, UNTIL, now=NOW)
    backups = Backups(shop.settings)
    (run,), unfinished = backups.runs()
    assert unfinished == []
    store = s3.filesystem(shop.settings.s3)
    stored = b""
    for part in backups.manifest(run).parts:
        with store.open_input_stream(s3.key_of(f"{backups.path(run)}/{part.name}")) as stream:
            stored += gzip.decompress(stream.read())
    assert stored == returned
    assert result.records == returned.count(b"\n") == 129  # 100 new, 20 changed, 2 late, 5 broken, 2 told twice
    assert result.rejected_records == 5
    assert result.records == 5 + result.inserted_rows + result.updated_rows + result.superseded_records
    assert sum(shop.live().values()) == result.inserted_rows
    assert shop.audited().live == result.inserted_rows


def test_an_api_that_is_busy_fails_lies_and_is_slow_gives_the_same_in_the_end(shop: AdShop) -> None:
    scenario = {"impressions_per_hour": 200}
    shop.api.has(shop.settings.ads.account, scenario=scenario)
    with AdApi(shop.settings.ads) as api:
        returned = b"".join(api.pages(HOUR, UNTIL))
    faults = {"busy_every": 3, "fail_every": 4, "slow_every": 5, "cut_every": 7, "page_every": 11}
    shop.api.has(shop.settings.ads.account, scenario=scenario, faults=faults)
    result = load.run(shop.settings, HOUR, UNTIL, now=NOW)
    assert result.records == returned.count(b"\n")
    shop.audited()


def test_an_api_that_never_answers_leaves_nothing_inserted(shop: AdShop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakehouse.adapters.ads_api._MOST_WAIT_SECONDS", 0.01)
    shop.api.has(shop.settings.ads.account, faults={"fail_every": 1})
    with pytest.raises(ServerUnavailableError, match="answered 503"):
        load.run(shop.settings, HOUR, UNTIL, now=NOW)
    assert files_of(shop.settings, "backup") == []
    assert shop.live() == {}


def test_loading_again_changes_nothing_and_a_newer_version_takes_the_place_of_the_older(filled: AdShop) -> None:
    before = filled.rows("SELECT * FROM {schema}.impressions ORDER BY 1, 2")
    again = load.run(filled.settings, HOUR, UNTIL, now=NOW)
    assert (again.inserted_rows, again.updated_rows, again.superseded_records) == (0, 0, 60)
    assert filled.rows("SELECT * FROM {schema}.impressions ORDER BY 1, 2") == before
    changed = newer(RECENT_ONES[3], cost_micros=77)
    filled.tells(RECENT_ONES[3], changed, RECENT_ONES[3])
    result = load.run(filled.settings, HOUR, UNTIL, now=NOW)
    assert (result.inserted_rows, result.updated_rows, result.superseded_records) == (0, 1, 2)
    filled.assert_shows(*OLD_ONES, *RECENT_ONES[:3], changed, *RECENT_ONES[4:])


def test_the_next_load_asks_from_where_the_loads_before_end_and_finds_nothing_to_ask_for(shop: AdShop) -> None:
    shop.tells(*RECENT_ONES)
    load.run(shop.settings, None, UNTIL, now=NOW)
    later = UNTIL + timedelta(hours=2)
    result = load.run(shop.settings, None, later, now=NOW)
    assert (result.interval.start, result.interval.end) == (UNTIL - timedelta(minutes=15), later)
    again = load.run(shop.settings, None, later, now=NOW)
    assert (again.runs, again.records) == ((), 0)


def test_an_interval_that_somebody_asked_for_does_not_move_where_the_next_load_begins(filled: AdShop) -> None:
    result = load.run(filled.settings, now=NOW)
    assert (result.interval.start, result.interval.end) == (NOW - timedelta(days=1), NOW)
    load.run(filled.settings, NOW, NOW + timedelta(hours=9), now=NOW + timedelta(hours=2))
    drop_schema(filled.settings, ads_store.NAMESPACE)
    apply(filled.settings)
    load.restore(filled.settings)  # the backups remember what was asked for
    result = load.run(filled.settings, now=NOW + timedelta(hours=3))
    assert result.interval.start == NOW - timedelta(minutes=15)


def test_a_backlog_comes_in_days_and_what_was_done_of_it_stays_done(shop: AdShop) -> None:
    shop.tells(*RECENT_ONES)
    load.run(shop.settings, None, HOUR, now=NOW)
    until, overlap = HOUR + timedelta(days=2), timedelta(minutes=15)
    shop.start("load", "--until", text(until), failpoint="ads-stored:kill:2").dies()
    assert shop.live() == {RECENT: 10}
    result = load.run(shop.settings, None, until, now=NOW)
    assert (len(result.recovered), len(result.runs)) == (1, 1)
    assert result.interval.start == until - 2 * overlap
    ends = [end for (end,) in shop.rows("SELECT interval_end FROM {schema}.loads ORDER BY 1")]
    assert ends == [HOUR, HOUR - overlap + timedelta(days=1), until - overlap, until]
    shop.assert_shows(*RECENT_ONES)


def test_a_load_that_is_killed_after_its_backup_is_whole_is_ended_by_the_next(shop: AdShop) -> None:
    shop.tells(*RECENT_ONES)
    shop.load(failpoint="ads-stored:kill:1").dies()
    assert len([name for name in files_of(shop.settings, "backup") if name.endswith("manifest.json")]) == 1
    assert shop.live() == {}
    shop.tells()  # the API has forgotten them
    result = load.run(shop.settings, HOUR, UNTIL, now=NOW)
    assert len(result.recovered) == 1
    shop.assert_shows(*RECENT_ONES)


def test_what_a_killed_load_left_of_a_backup_is_removed_a_day_later_and_nothing_else(shop: AdShop) -> None:
    shop.tells(*RECENT_ONES)
    shop.load(failpoint="ads-part-stored:kill:1").dies()
    backups = Backups(shop.settings)
    _, (killed,) = backups.runs()
    today = datetime.now(UTC)
    assert load.run(shop.settings, HOUR, UNTIL, now=today).removed == ()
    (whole,), unfinished = backups.runs()
    assert unfinished == [killed]
    result = load.run(shop.settings, HOUR, HOUR, now=today + timedelta(days=1, minutes=1))
    assert result.removed == (killed.run_id,)
    assert backups.runs() == ([whole], [])
    shop.assert_shows(*RECENT_ONES)
    manifest = backups.manifest(whole)
    s3.filesystem(shop.settings.s3).delete_file(s3.key_of(f"{backups.path(whole)}/manifest.json"))
    assert load.run(shop.settings, HOUR, HOUR, now=today + timedelta(days=1, minutes=1)).removed == ()
    backups.save(whole, manifest)  # what was inserted lacks only that
    shop.audited()


def test_the_table_is_rebuilt_from_the_backups_alone(filled: AdShop) -> None:
    filled.tells(newer(RECENT_ONES[0], cost_micros=5), {"impression_id": "broken"})
    load.run(filled.settings, HOUR, UNTIL, now=NOW)
    archive.run(filled.settings, now=NOW)
    before, shown = (
        filled.rows("SELECT impression_id, cost_micros FROM {schema}.impressions ORDER BY 1"),
        filled.shown(),
    )
    drop_schema(filled.settings, ads_store.NAMESPACE)
    apply(filled.settings)
    filled.api.has(filled.settings.ads.account, faults={"fail_every": 1})
    result = load.restore(filled.settings)
    assert (result.runs, result.records, result.inserted_rows) == (2, 62, 10)
    assert filled.rows("SELECT impression_id, cost_micros FROM {schema}.impressions ORDER BY 1") == before
    assert filled.shown() == shown
    assert filled.audited().refused == 1
    filled.sql("UPDATE {schema}.impressions SET cost_micros = 1 WHERE impression_id = 'i-0003'")
    again = load.restore(filled.settings)
    assert (again.inserted_rows, again.updated_rows) == (0, 1)
    assert filled.shown() == shown
    filled.audited()


def test_a_restore_leaves_the_record_that_came_first_of_those_with_the_same_time_of_change(
    shop: AdShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "PART_BYTES", 1)
    by_one = shop.settings.ads.model_copy(update={"page_records": 1})
    settings = shop.settings.model_copy(update={"ads": by_one})
    first = RECENT_ONES[0]
    shop.tells(first, first | {"cost_micros": 2})  # two parts of a backup
    assert load.run(settings, HOUR, UNTIL, now=NOW).superseded_records == 1
    shop.tells(first | {"cost_micros": 3})
    assert load.run(settings, HOUR, UNTIL, now=NOW).superseded_records == 1
    shop.assert_shows(first)
    assert load.restore(settings).records == 3
    shop.assert_shows(first)
    shop.sql("DELETE FROM {schema}.impressions")
    result = load.restore(settings)
    assert (result.inserted_rows, result.updated_rows) == (1, 2)
    shop.assert_shows(first)


def test_a_load_inserts_what_an_archiving_deletes_while_it_does(shop: AdShop) -> None:
    one, other = RECENT_ONES[:2]
    shop.tells(one, other)
    load.run(shop.settings, HOUR, UNTIL, now=NOW)
    waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO {schema}.imp%'"
    delete = "DELETE FROM {schema}.impressions WHERE impression_id = %s"
    with ThreadPoolExecutor(1) as pool, AdsStore(shop.settings).session() as archiving:
        archiving.run(delete, [other["impression_id"]])
        loading = pool.submit(load.run, shop.settings, HOUR, UNTIL, now=NOW)
        wait_until(lambda: bool(shop.rows(waits)), "the load waits for nobody")
        archiving.run(delete, [one["impression_id"]])  # the load has met it and left it alone
        archiving.commit()
        result = loading.result()
    assert (result.inserted_rows, result.updated_rows, result.superseded_records) == (2, 0, 0)
    shop.assert_shows(one, other)


def test_what_the_archive_has_of_a_record_is_looked_up_and_not_read_through(shop: AdShop) -> None:
    archived, _ = decode_lines([encode(impression(n, OLD)) for n in range(5_000)], 1)
    told = [impression(7, OLD), newer(impression(8, OLD)), impression(9_000, OLD), impression(7, OLDER)]
    records, _ = decode_lines([encode(record) for record in told], 1)
    read = "SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_xact_user_tables WHERE relname = 'known'"
    with AdsStore(shop.settings).session() as session:
        session.begin_load("a load")
        session.know_archived([archived.select(["shown_date", "impression_id", "updated_at"])])
        session.stage(records.append_column("arrived_at", records["updated_at"]))
        before = session.ask(read)
        assert session.drop_archived() == 1
        assert session.ask(read) == before
        session.rollback()


def test_old_impressions_move_to_the_archive_and_the_view_shows_the_same(filled: AdShop) -> None:
    shown = filled.shown()
    dry = archive.run(filled.settings, now=NOW, dry_run=True)
    assert [(due.date, due.rows, due.is_merge) for due in dry.due] == [(OLDER, 30, False), (OLD, 20, False)]
    assert filled.live() == {OLDER: 30, OLD: 20, RECENT: 10}
    result = archive.run(filled.settings, now=NOW)
    assert [(one.date, one.rows, one.removed_rows) for one in result.archived] == [(OLDER, 30, 30), (OLD, 20, 20)]
    assert result.boundary == OLD + timedelta(days=1)
    assert filled.live() == {RECENT: 10}
    assert filled.shown() == shown
    data = [name for name in files_of(filled.settings, "archive") if name.startswith("shown_date=")]
    assert [name.partition("/")[0] for name in data] == [f"shown_date={OLDER}", f"shown_date={OLD}"]
    report = filled.audited()
    assert (report.live, report.archived, report.late, report.open_batches) == (10, 50, 0, 0)
    assert archive.run(filled.settings, now=NOW).archived == ()


def test_what_comes_late_for_an_archived_date_is_merged_and_the_newest_version_shows(filled: AdShop) -> None:
    archive.run(filled.settings, now=NOW)
    changed = newer(OLD_ONES[4], cost_micros=44)
    late = impression(500, OLDER)
    between = impression(501, OLDER - timedelta(days=7))  # of a date that had none
    filled.tells(changed, late, between, *OLD_ONES[:4])
    before = datetime.now(UTC)
    result = load.run(filled.settings, HOUR, UNTIL, now=NOW)
    assert (result.inserted_rows, result.superseded_records, result.merged_rows) == (3, 4, 3)
    # The mart takes rows by their arrival, so those must not seem to have come when the run began.
    archived = f"{filled.settings.catalog.name}.{filled.settings.prefix}ads.impressions_archive"
    newest = f"SELECT max(arrived_at), min(arrived_at) FROM {archived} WHERE impression_id IN ('i-0500', 'i-0501')"
    ((latest, earliest),) = trino.query(filled.settings.trino_as("transform"), newest)
    assert before < earliest <= latest < datetime.now(UTC)
    assert filled.live() == {RECENT: 10}
    filled.assert_shows(*OLD_ONES[:4], changed, *OLD_ONES[5:], late, between, *RECENT_ONES)
    stale = OLD_ONES[4]
    filled.tells(stale)
    assert load.run(filled.settings, HOUR, UNTIL, now=NOW).superseded_records == 1
    filled.assert_shows(*OLD_ONES[:4], changed, *OLD_ONES[5:], late, between, *RECENT_ONES)


def test_the_view_shows_each_impression_once_while_loads_and_archivings_run(filled: AdShop) -> None:
    more = [impression(1000 + n, OLD) for n in range(20)]
    at_least, at_most = len(OLD_ONES) + len(RECENT_ONES), len(OLD_ONES) + len(RECENT_ONES) + len(more)
    view = f"{filled.settings.catalog.name}.{filled.settings.prefix}ads.impressions_all"
    sql = f"SELECT count(*), count(DISTINCT (shown_date, impression_id)) FROM {view}"
    ended, seen, problems = threading.Event(), list[tuple[int, int]](), list[BaseException]()

    def watch() -> None:
        try:
            while not ended.is_set():
                ((rows, distinct),) = trino.query(filled.settings.trino_as("transform"), sql)
                seen.append((rows, distinct))
        except BaseException as error:  # noqa: BLE001 - told by the test
            problems.append(error)

    watchers = [threading.Thread(target=watch) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        archive.run(filled.settings, now=NOW, before=OLD)
        for start in range(0, len(more), 10):
            filled.tells(*more[start : start + 10])
            load.run(filled.settings, HOUR, UNTIL, now=NOW)
        archive.run(filled.settings, now=NOW)
        filled.tells(*(newer(one) for one in OLD_ONES[:10]))
        load.run(filled.settings, HOUR, UNTIL, now=NOW)
    finally:
        ended.set()
        for watcher in watchers:
            watcher.join()
    assert problems == []
    assert len(seen) > 4
    assert [rows for rows, distinct in seen if rows != distinct] == []
    assert [rows for rows, _ in seen if not at_least <= rows <= at_most] == []
    filled.assert_shows(*(newer(one) for one in OLD_ONES[:10]), *OLD_ONES[10:], *RECENT_ONES, *more)


def test_rows_that_a_query_may_still_look_for_stay_until_the_next_run(
    filled: AdShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "READERS_SECONDS", 0.5)
    shown = filled.shown()
    monkeypatch.setattr(archive, "_RUNNING", "SELECT 'a query that does not end'")
    result = archive.run(filled.settings, now=NOW)
    assert [one.removed_rows for one in result.archived] == [None, None]
    assert filled.live() == {OLDER: 30, OLD: 20, RECENT: 10}
    assert filled.shown() == shown
    report = filled.audited()
    assert (report.live, report.archived, report.leaving, report.open_batches) == (10, 50, 50, 2)
    monkeypatch.undo()
    again = archive.run(filled.settings, now=NOW)
    assert [one.removed_rows for one in again.archived] == [30, 20]
    assert filled.live() == {RECENT: 10}
    assert filled.shown() == shown


def test_a_load_waits_for_no_query_and_leaves_the_dates_that_do_to_the_next_archiving(
    filled: AdShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "READERS_SECONDS", 0.5)
    monkeypatch.setattr(archive, "_RUNNING", "SELECT 'a query that does not end'")
    archive.run(filled.settings, now=NOW)

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("it must not be asked")

    late, other = impression(600, OLDER), impression(601, OLDER - timedelta(days=7))
    filled.tells(late, other)
    with monkeypatch.context() as loading:
        loading.setattr("lakehouse.ads.archive._Archiver._queries", refuse)
        result = load.run(filled.settings, HOUR, UNTIL, now=NOW)
    assert (result.inserted_rows, result.merged_rows) == (2, 1)
    assert filled.live() == {OLDER: 31, OLD: 20, RECENT: 10}
    with monkeypatch.context() as archiving:
        archiving.setattr(Session, "take_back", refuse)
        again = archive.run(filled.settings, now=NOW)
    assert [one.removed_rows for one in again.archived] == [None, None]
    monkeypatch.undo()
    archive.run(filled.settings, now=NOW)
    assert filled.live() == {RECENT: 10}
    filled.assert_shows(*OLD_ONES, late, other, *RECENT_ONES)


def test_a_row_that_comes_for_an_earlier_date_while_one_is_archived_goes_first(
    filled: AdShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, done = Session.hold_writers, list[str]()
    earlier = impression(700, OLDER - timedelta(days=7))

    def load_first(session: Session) -> None:
        if not done:
            done.append("loaded")
            filled.tells(earlier)
            load.run(filled.settings, HOUR, UNTIL, now=NOW)
        lock(session)

    monkeypatch.setattr(Session, "hold_writers", load_first)
    result = archive.run(filled.settings, now=NOW)
    assert len(result.abandoned) == 1
    assert [(one.date, one.is_merge, one.rows) for one in result.archived] == [
        (OLDER - timedelta(days=7), False, 1),
        (OLDER, False, 30),
        (OLD, False, 20),
    ]
    filled.assert_shows(*OLD_ONES, earlier, *RECENT_ONES)


def test_a_row_that_changes_while_its_date_is_archived_is_archived_as_it_became(
    filled: AdShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, changes = Session.hold_writers, list[str]()

    def change_first(session: Session) -> None:
        if not changes:
            changes.append("changed")
            # By hand, without a newer version: only a comparison of all columns finds it.
            filled.sql("UPDATE {schema}.impressions SET cost_micros = 9 WHERE impression_id = 'i-0007'")
            filled.sql("DELETE FROM {schema}.impressions WHERE impression_id = 'i-0008'")
        lock(session)

    monkeypatch.setattr(Session, "hold_writers", change_first)
    result = archive.run(filled.settings, now=NOW)
    assert len(result.abandoned) == 1
    assert [one.rows for one in result.archived] == [29, 19]
    costs = {cost for _, key, cost in filled.shown() if key == "i-0007"}
    assert costs == {9}
    (name,) = {path.rpartition("/")[2][:12] for path in files_of(filled.settings, "archive") if str(OLDER) in path}
    assert name == "batch=000002"


def test_a_row_that_comes_after_its_date_is_registered_is_merged_by_the_same_run(
    filled: AdShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, done = Session.remove_archived, list[str]()
    late, changed = impression(600, OLDER), newer(OLD_ONES[2], cost_micros=3)

    def insert_first(session: Session, day: object) -> int:
        if not done:
            done.append("inserted")
            filled.tells(late, changed)
            load.run(filled.settings, HOUR, UNTIL, now=NOW)
        return remove(session, day)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Session, "remove_archived", insert_first)
    result = archive.run(filled.settings, now=NOW)
    assert [(one.date, one.is_merge, one.removed_rows) for one in result.archived] == [
        (OLDER, False, 29),
        (OLD, False, 20),
        (OLDER, True, 2),
    ]
    filled.assert_shows(*OLD_ONES[:2], changed, *OLD_ONES[3:], late, *RECENT_ONES)


def test_an_archiving_that_could_not_keep_up_with_the_loads_does_not_say_that_all_is_done(
    filled: AdShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, late = Session.remove_archived, impression(600, OLDER)

    def insert_first(session: Session, day: object) -> int:
        if day == OLDER:
            filled.tells(late)
            load.run(filled.settings, HOUR, UNTIL, now=NOW)
        return remove(session, day)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(archive, "_PASSES", 1)
    with monkeypatch.context() as loading:
        loading.setattr(Session, "remove_archived", insert_first)
        with pytest.raises(TransientError, match=f"those of {OLDER} are still due"):
            archive.run(filled.settings, now=NOW)
    assert filled.live() == {OLDER: 1, RECENT: 10}
    (batch,) = archive.run(filled.settings, now=NOW).archived  # one pass is enough now
    assert (batch.date, batch.is_merge, batch.removed_rows) == (OLDER, True, 1)
    filled.assert_shows(*OLD_ONES, late, *RECENT_ONES)


def test_a_restore_and_an_archiving_keep_each_other_out_and_a_restore_merges_what_is_late(
    filled: AdShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.run(filled.settings, now=NOW)
    late = impression(600, OLDER)
    filled.tells(late)
    with AdsStore(filled.settings).session() as archiving:
        assert archiving.take_turn("archive")
        assert load.run(filled.settings, HOUR, UNTIL, now=NOW).merged_rows == 0
        with pytest.raises(TransientError, match="another archiving"):
            load.restore(filled.settings)
    filled.sql("DELETE FROM {schema}.impressions")
    merge, kept_out = Session.merge_staged, list[str]()

    def archive_first(session: Session, **options: bool) -> ads_store.Merged:
        with pytest.raises(TransientError, match="or a restore"):
            archive.run(filled.settings, now=NOW)
        kept_out.append("archiving")
        return merge(session, **options)

    monkeypatch.setattr(Session, "merge_staged", archive_first)
    result = load.restore(filled.settings)
    assert (result.inserted_rows, result.merged_rows) == (11, 1)
    assert len(kept_out) == 2
    filled.assert_shows(*OLD_ONES, late, *RECENT_ONES)


@pytest.mark.parametrize("ends", ["well", "with an error"])
def test_a_turn_is_free_as_soon_as_its_session_has_ended(shop: AdShop, ends: str) -> None:
    with connect(shop.settings, superuser=True) as another:
        with suppress(ZeroDivisionError), AdsStore(shop.settings).session() as session:
            assert session.take_turn("load")
            session.create_temporary("kept", "number integer")
            session.commit()
            ((schema,),) = session.ask("SELECT pg_my_temp_schema()::regnamespace::text")
            session.rollback()
            # The server can't drop that table, and so not end the session, before this transaction ends.
            another.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(sql.Identifier(schema, "kept")))
            if ends == "with an error":
                raise ZeroDivisionError
        with AdsStore(shop.settings).session() as following:
            assert following.take_turn("load")


def test_what_went_wrong_in_a_session_is_told_also_when_the_server_has_ended_it(shop: AdShop) -> None:
    def be_ended(then: Callable[[], object]) -> None:
        with AdsStore(shop.settings).session() as session:
            ((process,),) = session.ask("SELECT pg_backend_pid()")
            shop.sql("SELECT pg_terminate_backend(%s, 10000)", [process])
            then()

    with pytest.raises(ZeroDivisionError):
        be_ended(lambda: 1 / 0)
    with pytest.raises(ServerUnavailableError):
        be_ended(lambda: None)


def test_two_archivings_at_once_archive_each_row_once(filled: AdShop) -> None:
    first = filled.archive(failpoint="ads-written:hold:1")
    wait_until(first.is_held, "nothing was written")
    with pytest.raises(TransientError, match="another archiving"):
        archive.run(filled.settings, now=NOW)
    first.release()
    first.ends(0)
    assert archive.run(filled.settings, now=NOW).archived == ()
    filled.assert_shows(*OLD_ONES, *RECENT_ONES)


def test_an_archiving_that_is_killed_when_its_rows_are_registered_is_ended_by_the_next(filled: AdShop) -> None:
    shown = filled.shown()
    filled.archive(failpoint="ads-registered:kill:1").dies()
    assert filled.live()[OLDER] == 30
    assert filled.shown() == shown
    result = archive.run(filled.settings, now=NOW)
    assert [(one.date, one.removed_rows) for one in result.archived] == [(OLDER, 30), (OLD, 20)]
    assert filled.shown() == shown
    assert filled.audited().archived == 50


def test_an_archiving_that_another_one_overtook_commits_nothing(
    filled: AdShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, lake = filled.shown(), AdsArchive(filled.settings)
    register = AdsArchive.register

    def overtaken(own: AdsArchive, *arguments: object, **options: object) -> None:
        lake.take_over(lake.load_archive())
        register(own, *arguments, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(AdsArchive, "register", overtaken)
    with pytest.raises(TerminalError, match="another run was quicker"):
        archive.run(filled.settings, now=NOW)
    assert filled.live() == {OLDER: 30, OLD: 20, RECENT: 10}
    assert filled.shown() == shown
    assert [name for name in files_of(filled.settings, "archive") if name.startswith("shown_date=")] == []


def test_a_store_that_returns_other_rows_lets_nothing_leave(filled: AdShop, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = filled.shown()
    from lakehouse.ads.archive_files import ArchiveFiles  # noqa: PLC0415

    read = ArchiveFiles.read

    def without_the_last(own: ArchiveFiles, paths: object, columns: object = None, digest: object = None) -> object:
        pieces = list(read(own, paths, columns, None))  # pyright: ignore[reportArgumentType]
        pieces[-1] = pieces[-1].slice(1)
        for piece in pieces:
            if digest is not None:
                digest.add(piece)  # pyright: ignore[reportAttributeAccessIssue]
            yield piece

    monkeypatch.setattr(ArchiveFiles, "read", without_the_last)
    with pytest.raises(Exception, match="29 rows with another content were read back"):
        archive.run(filled.settings, now=NOW)
    monkeypatch.undo()
    assert filled.live() == {OLDER: 30, OLD: 20, RECENT: 10}
    assert filled.shown() == shown
    archive.run(filled.settings, now=NOW)
    assert filled.shown() == shown


def test_counts_alone_tell_what_is_lacking_while_a_load_and_an_archiving_have_their_turns(filled: AdShop) -> None:
    settings = filled.settings
    archive.run(settings, now=NOW)
    with AdsStore(settings).session() as session:
        assert session.take_turn("load")
        assert session.take_turn("archive")
        assert compare_counts(settings, NOW) == ()
        filled.sql(
            "INSERT INTO {schema}.rejected SELECT run_id, 1, 999, 'not_json', NULL, 'nobody sent it', '' "
            "FROM {schema}.loads"
        )
        filled.sql(f"UPDATE {{schema}}.archive_batches SET rows = rows + 1 WHERE shown_date = '{OLDER}'")
        lake, backups = AdsArchive(settings), Backups(settings)
        (path,) = [file.path for file in lake.held(lake.load_archive(), OLD)]
        lake.append(IMPRESSIONS_ARCHIVE, [path], expected={}, properties={}, run_id="twice", summary={})
        (run,), _ = backups.runs()
        assert {gap.what: gap.examples for gap in compare_counts(settings, NOW)} == {
            "loads with other refused records than are set aside": (run.run_id,),
            "dates whose archive has other rows than were archived": (OLDER.isoformat(),),
            "files that the archive has twice": (path,),
        }
        backups.remove(run)
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        assert "loads whose backup is gone" in {gap.what for gap in compare_counts(settings, tomorrow)}


def test_an_audit_names_what_is_wrong(filled: AdShop) -> None:
    archive.run(filled.settings, now=NOW)
    settings = filled.settings
    filled.sql("DELETE FROM {schema}.impressions WHERE impression_id = 'i-0001'")
    filled.sql(
        "UPDATE {schema}.impressions SET updated_at = updated_at - interval '1 s' WHERE impression_id = 'i-0002'"
    )
    filled.sql("UPDATE {schema}.impressions SET impression_id = 'nobody' WHERE impression_id = 'i-0003'")
    lake = AdsArchive(settings)
    (path,) = [file.path for file in lake.held(lake.load_archive(), OLD)]
    (other,) = [s3.key_of(file.path) for file in lake.held(lake.load_archive(), OLDER)]
    store = s3.filesystem(settings.s3)
    rows = parquet.read_table(other, filesystem=store)
    costs = pc.add(rows["cost_micros"], 1)
    parquet.write_table(
        rows.set_column(rows.column_names.index("cost_micros"), rows.schema.field("cost_micros"), costs),
        other,
        filesystem=store,
    )
    lake.append(IMPRESSIONS_ARCHIVE, [path], expected={}, properties={}, run_id="twice", summary={})
    found = {gap.what: (gap.count, gap.examples) for gap in audit(settings).gaps}
    assert found == {
        "impressions that are lost": (2, (f"{RECENT} i-0001", f"{RECENT} i-0003")),
        "impressions in an older version than a backup has": (1, (f"{RECENT} i-0002",)),
        "impressions that no backup has": (1, (f"{RECENT} nobody",)),
        "files of the archive that are not as their batch wrote them": (1, (f"s3://{other}",)),
        "impressions that are archived more than once": (20, tuple(f"{OLD} i-{n:04}" for n in range(20))),
    }
    backups = Backups(settings)
    (run,), _ = backups.runs()
    s3.filesystem(settings.s3).delete_file(s3.key_of(f"{backups.path(run)}/part-00001.jsonl.gz"))
    assert any("a backup that can't be read" in gap.what for gap in audit(settings).gaps)


@pytest.mark.parametrize("when", ["before", "while"])
def test_rows_that_somebody_deleted_from_the_archive_are_named_and_come_back_by_no_merge(
    filled: AdShop, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    settings = filled.settings
    archive.run(settings, now=NOW)
    shown, register, done = filled.shown(), AdsArchive.register, list[str]()

    def delete() -> None:
        done.append("deleted")
        archived = f"{settings.catalog.name}.{settings.prefix}ads.impressions_archive"
        where = f"shown_date = DATE '{OLDER}' AND impression_id = 'i-0004'"
        trino.query(settings.trino_as("admin"), f"DELETE FROM {archived} WHERE {where}")

    def delete_first(own: AdsArchive, *arguments: object, **options: object) -> None:
        if not done:
            delete()
        register(own, *arguments, **options)  # pyright: ignore[reportArgumentType]

    if when == "before":
        delete()
    monkeypatch.setattr(AdsArchive, "register", delete_first)
    late, other = impression(500, OLDER), impression(501, OLD)
    filled.tells(late, other)
    assert load.run(settings, HOUR, UNTIL, now=NOW).merged_rows == 1
    assert filled.live() == {OLDER: 1, RECENT: 10}
    with pytest.raises(TerminalError, match=f"somebody deleted rows of {OLDER} from"):
        archive.run(settings, now=NOW)
    assert done == ["deleted"]
    batches = filled.rows("SELECT count(*) FROM {schema}.archive_batches")
    assert load.run(settings, HOUR, UNTIL, now=NOW).merged_rows == 0
    assert filled.rows("SELECT count(*) FROM {schema}.archive_batches") == batches
    gone = {(day, key) for day, key, _ in shown - filled.shown()}
    assert gone == {(OLDER, "i-0004")}
    named = {"files of the archive that somebody deleted rows from": 1}
    assert {gap.what: gap.count for gap in audit(settings).gaps} == named
    assert {gap.what: gap.count for gap in compare_counts(settings, NOW)} == named


@pytest.mark.parametrize("undone", ["rollback", "rewritten"])
def test_what_somebody_deleted_from_the_archive_comes_back_from_the_backups_and_other_dates_do_not_wait(
    filled: AdShop, undone: str
) -> None:
    settings = filled.settings
    archive.run(settings, now=NOW, before=OLD)
    lake = AdsArchive(settings)
    snapshot = lake.load_archive().metadata.current_snapshot_id
    archived = f"{settings.catalog.name}.{settings.prefix}ads.impressions_archive"
    admin, of_date = settings.trino_as("admin"), f"shown_date = DATE '{OLDER}'"
    trino.query(admin, f"DELETE FROM {archived} WHERE {of_date} AND impression_id = 'i-0004'")
    late = impression(500, OLDER)
    filled.tells(late)
    load.run(settings, HOUR, UNTIL, now=NOW)
    with pytest.raises(TerminalError, match=f"somebody deleted rows of {OLDER} from"):
        archive.run(settings, now=NOW)
    assert filled.live() == {OLDER: 1, RECENT: 10}
    undo = f"rollback_to_snapshot({snapshot})" if undone == "rollback" else f"optimize WHERE {of_date}"
    trino.query(admin, f"ALTER TABLE {archived} EXECUTE {undo}")
    load.restore(settings)
    assert filled.live() == {RECENT: 10}
    filled.assert_shows(*OLD_ONES, late, *RECENT_ONES)
    assert compare_counts(settings, NOW) == ()


def test_a_broken_backup_is_not_inserted_and_keeps_no_load_and_no_restore_waiting(shop: AdShop) -> None:
    shop.tells(*RECENT_ONES)
    shop.load(failpoint="ads-stored:kill:1").dies()
    backups = Backups(shop.settings)
    (run,), _ = backups.runs()
    manifest = backups.manifest(run)
    backups.save(run, replace(manifest, parts=(replace(manifest.parts[0], records=9),)))
    with pytest.raises(TerminalError, match="10 records and its manifest says 9"):
        backups.lines(run, backups.manifest(run).parts[0])
    result = load.run(shop.settings, HOUR, UNTIL, now=NOW)
    assert (result.recovered, result.unreadable, result.inserted_rows) == ((), (run.run_id,), 10)
    assert [gap.examples for gap in audit(shop.settings).gaps] == [(run.run_id,)]
    nothing = replace(run, run_id="20231001T000000Z-00000000")
    with s3.filesystem(shop.settings.s3).open_output_stream(
        s3.key_of(f"{backups.path(nothing)}/manifest.json")
    ) as file:
        file.write(b"{")
    shop.sql("DELETE FROM {schema}.impressions")
    command = shop.start("restore", "--from-backup", "--output", "json")
    command.ends(1)
    told = json.loads(command.output)
    assert (told["unreadable"], told["runs"], told["inserted_rows"]) == ([nothing.run_id, run.run_id], 1, 10)
    backups.remove(nothing)
    backups.save(run, manifest)
    assert load.run(shop.settings, HOUR, HOUR, now=NOW).recovered == (run.run_id,)
    shop.assert_shows(*RECENT_ONES)
