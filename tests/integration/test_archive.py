"""Archiving on real servers: every event counts once before, while and after it moves, and comes back when asked."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pyarrow import fs
from typer.testing import CliRunner

from lakehouse import archive, ingest, ledger, quarantine, transform
from lakehouse.adapters import kafka, s3, trino
from lakehouse.adapters.archive import Archive
from lakehouse.adapters.catalog import Lake
from lakehouse.audit import audit
from lakehouse.cli.main import app
from lakehouse.errors import FenceError, TerminalError, TransientError
from lakehouse.settings import Settings, get_settings
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_ARCHIVE
from tests.archives import (
    FIRST,
    SECOND,
    archived,
    assert_archive_is_whole,
    assert_every_event_counts_once,
    counted,
    live,
    states,
)
from tests.faults.harness import Shop, opened
from tests.integration.replaying import environment_of, open_replay_shop
from tests.shops import good, wait_until

pytestmark = pytest.mark.integration

NOW = datetime(2026, 11, 22, 1, 33, 40, tzinfo=UTC)
NOTHING = date(2000, 1, 1)
READERS_SECONDS = archive.READERS_SECONDS


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


def send_late(settings: Settings, *numbers: int) -> None:
    """Send and ingest events of the first date."""
    kafka.send(settings, settings.user_actions_topic, [good(number, day=FIRST.day) for number in numbers])
    ingest.run(settings)


def ask(settings: Settings, sql: str, user: Any = "admin") -> list[tuple[Any, ...]]:
    return trino.query(settings.trino_as(user), sql)


def name(settings: Settings, schema_and_table: str) -> str:
    return f"{settings.catalog.name}.{settings.prefix}{schema_and_table}"


def before_taking_out(monkeypatch: pytest.MonkeyPatch, *happens: Callable[[], object]) -> None:
    """Have something happen, once each, when a part is registered and its rows are about to leave the live table."""
    original = Archive.take_out
    waiting = list(happens)

    def take_out(lake: Archive, *arguments: Any, **options: Any) -> int:
        if waiting:
            waiting.pop()()
        return original(lake, *arguments, **options)

    monkeypatch.setattr(Archive, "take_out", take_out)


def lakehouse(settings: Settings, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run a command; returns its exit code and its answer."""
    monkeypatch.setenv("LAKEHOUSE_PREFIX", settings.prefix)
    get_settings.cache_clear()
    done = CliRunner().invoke(app, [*arguments, "--output", "json"])
    return done.exit_code, json.loads(done.stdout)


def test_a_date_moves_to_the_archive_as_its_very_files_and_comes_back(shop: Shop) -> None:
    settings = shop.settings
    held = {FIRST: 45, SECOND: 50}
    assert live(settings) == held
    properties = Lake(settings).load(USER_ACTIONS).properties

    (due,) = archive.run(settings, before=SECOND, dry_run=True).due
    assert (due.date, due.rows, live(settings)) == (FIRST, 45, held)

    (part,) = archive.run(settings, before=SECOND, now=NOW).archived
    assert (part.date, part.rows, part.archived_at) == (FIRST, 45, NOW)
    assert (live(settings), archived(settings)) == ({SECOND: 50}, {FIRST: 45})
    assert_every_event_counts_once(settings)
    assert_archive_is_whole(settings)

    bucket = f"s3://{settings.s3.archive_bucket}/{settings.prefix}"
    registered = Lake(settings).load(USER_ACTIONS_ARCHIVE).inspect.files()["file_path"].to_pylist()
    assert len(registered) == part.files
    assert all(path.startswith(f"{bucket}events/") and part.name in path for path in registered)
    store = s3.filesystem(settings.s3)
    place = s3.key_of(f"{bucket}manifests/events.user_actions/event_date={FIRST}/{part.name}.json")
    manifest = json.loads(store.open_input_stream(place).read())
    assert (manifest["rows"], sorted(file["path"] for file in manifest["files"])) == (45, sorted(registered))
    users = f"SELECT count(DISTINCT user_id) FROM {name(settings, 'events.user_actions_archive')}"
    assert ask(settings, users, "transform") == [(45,)]

    assert archive.run(settings, before=SECOND).archived == ()
    kept = Lake(settings).load(USER_ACTIONS).properties
    assert kept == properties | {ledger.THROUGH: "1"}

    back = archive.restore(settings, FIRST, now=NOW)
    assert (back.parts, back.rows, back.held_until) == ((part.name,), 45, NOW.date() + timedelta(days=7))
    assert (live(settings), archived(settings)) == (held, {})
    assert_every_event_counts_once(settings)
    assert store.get_file_info(place).type is fs.FileType.NotFound
    again = archive.restore(settings, FIRST)
    assert (again.parts, again.rows, live(settings)) == ((), 0, held)

    waiting = archive.run(settings, before=SECOND, now=NOW + timedelta(days=6))
    assert (waiting.archived, waiting.held) == ((), (FIRST,))
    (second,) = archive.run(settings, before=SECOND, now=NOW + timedelta(days=7)).archived
    assert (second.rows, archived(settings)) == (45, {FIRST: 45})
    assert_every_event_counts_once(settings)
    assert_archive_is_whole(settings)


def test_marts_of_an_archived_date_stay_and_a_late_event_is_added_to_them(shop: Shop) -> None:
    settings = shop.settings

    def daily() -> list[tuple[Any, ...]]:
        sql = (
            f"SELECT event_date, sum(event_count) FROM {name(settings, 'marts.fct_events_daily')} GROUP BY 1 ORDER BY 1"
        )
        return ask(settings, sql)

    transform.build(settings, "+fct_events_daily")
    assert daily() == [(FIRST, 45), (SECOND, 50)]
    archive.run(settings, before=SECOND)
    send_late(settings, 1000, 1001)
    assert live(settings) == {FIRST: 2, SECOND: 50}
    assert_every_event_counts_once(settings)
    transform.build(settings, "+fct_events_daily")
    assert daily() == [(FIRST, 47), (SECOND, 50)]
    assert_every_event_counts_once(settings)

    (late,) = archive.run(settings, before=SECOND).archived
    assert (late.rows, live(settings), archived(settings)) == (2, {SECOND: 50}, {FIRST: 47})
    assert_every_event_counts_once(settings)
    transform.build(settings, "+fct_events_daily", full_refresh=True)
    assert daily() == [(FIRST, 47), (SECOND, 50)]
    assert len(archive.restore(settings, FIRST).parts) == 2
    assert live(settings) == {FIRST: 47, SECOND: 50}
    assert_every_event_counts_once(settings)


def test_what_comes_while_a_date_is_archived_stays_until_it_is_archived_itself(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = shop.settings
    before_taking_out(monkeypatch, lambda: send_late(settings, 1000))
    archive.run(settings, before=SECOND)
    assert (live(settings), archived(settings)) == ({FIRST: 1, SECOND: 50}, {FIRST: 45})
    assert_every_event_counts_once(settings)
    archive.run(settings, before=SECOND)
    assert (live(settings), archived(settings)) == ({SECOND: 50}, {FIRST: 46})
    assert_every_event_counts_once(settings)


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        ("ALTER TABLE {} EXECUTE optimize", 45),
        ("DELETE FROM {} WHERE event_date = DATE '2023-10-22' AND user_id = 'user_2'", 44),
    ],
    ids=["compaction", "correction"],
)
def test_a_date_that_is_rewritten_while_it_is_archived_is_taken_anew(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, statement: str, rows: int
) -> None:
    settings = shop.settings
    send_late(settings, 1000)  # else nothing needs to be compacted
    table = name(settings, "events.user_actions")
    before_taking_out(monkeypatch, lambda: ask(settings, statement.format(table)))
    result = archive.run(settings, before=SECOND)
    assert [(part.rows, part.name.split("-")[1]) for part in result.archived] == [(rows + 1, "000002")]
    assert [name.split("-")[1] for name in result.withdrawn] == ["000001"]
    assert (live(settings), archived(settings)) == ({SECOND: 50}, {FIRST: rows + 1})
    assert_archive_is_whole(settings)
    if rows == 45:
        assert_every_event_counts_once(settings)


def test_a_date_that_is_always_rewritten_is_left_alone(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = shop.settings
    numbers = iter(range(1000, 2000))

    def rewrite() -> None:
        send_late(settings, next(numbers))
        ask(settings, f"ALTER TABLE {name(settings, 'events.user_actions')} EXECUTE optimize")

    before_taking_out(monkeypatch, rewrite, rewrite, rewrite)
    with pytest.raises(TransientError, match="was rewritten while it was archived, 3 times"):
        archive.run(settings, before=SECOND)
    assert archived(settings) == {}
    assert_every_event_counts_once(settings)


def test_a_query_counts_every_event_once_while_a_date_moves(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = shop.settings
    monkeypatch.setattr(archive, "READERS_SECONDS", READERS_SECONDS)
    is_over = threading.Event()

    def read() -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        while not is_over.is_set():
            rows = counted(settings)
            found.append((len(rows), sum(rows.values())))
        return found

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for _ in range(3):
                assert len(archive.run(settings, before=SECOND).archived) == 1
                assert archive.restore(settings, FIRST, hold_days=0).rows == 45
        finally:
            is_over.set()
        seen = [counts for reader in readers for counts in reader.result()]
    assert len(seen) > 20
    assert set(seen) == {(95, 95)}


def test_a_killed_archiving_counts_each_event_once_and_the_next_run_ends_it(shop: Shop) -> None:
    settings = shop.settings
    shop.start("archive", "run", "--before", "2023-10-24", failpoint="events-sending:kill:1").dies()
    assert states(settings) == [(FIRST, "moving", 45)]
    assert (live(settings), archived(settings)) == ({FIRST: 45, SECOND: 50}, {FIRST: 45})
    assert_every_event_counts_once(settings)
    settled = archive.run(settings, before=NOTHING)
    assert [(part.date, part.rows) for part in settled.archived] == [(FIRST, 45)]
    assert (live(settings), archived(settings)) == ({SECOND: 50}, {FIRST: 45})
    assert_every_event_counts_once(settings)
    assert_archive_is_whole(settings)


def test_a_killed_restore_counts_each_event_once_and_the_next_run_ends_it(shop: Shop) -> None:
    settings = shop.settings
    archive.run(settings, before=SECOND)
    shop.start("archive", "restore", "--date", str(FIRST), failpoint="archive-sending:kill:1").dies()
    assert states(settings) == [(FIRST, "restored", 45)]
    assert (live(settings), archived(settings)) == ({FIRST: 45, SECOND: 50}, {FIRST: 45})
    assert_every_event_counts_once(settings)
    archive.run(settings, before=NOTHING)
    assert (live(settings), archived(settings)) == ({FIRST: 45, SECOND: 50}, {})
    assert_every_event_counts_once(settings)


def test_of_two_archivings_at_once_each_date_is_archived_by_one(shop: Shop) -> None:
    settings = shop.settings
    first = shop.start("archive", "run", "--before", "2023-10-24", failpoint="part-described:hold:1")
    wait_until(first.is_held, "the first run has written a part")
    assert len(archive.run(settings, before=SECOND).archived) == 1
    first.release()
    first.ends(1)
    assert "another run was quicker" in first.said
    assert (live(settings), archived(settings)) == ({SECOND: 50}, {FIRST: 45})
    assert_every_event_counts_once(settings)
    assert_archive_is_whole(settings)


def test_a_run_whose_part_another_one_has_finished_goes_on(shop: Shop) -> None:
    settings = shop.settings
    first = shop.start("archive", "run", "--before", "2023-10-24", failpoint="events-sending:hold:1")
    wait_until(first.is_held, "the first run has registered a part")
    assert [part.date for part in archive.run(settings, before=NOTHING).archived] == [FIRST]
    first.release()
    first.ends(0)
    assert (live(settings), archived(settings)) == ({}, {FIRST: 45, SECOND: 50})
    assert_every_event_counts_once(settings)
    assert_archive_is_whole(settings)


def test_of_two_restores_at_once_one_brings_the_rows_back(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = shop.settings
    archive.run(settings, before=SECOND)
    original = Lake.append

    def append(lake: Lake, *arguments: Any, **options: Any) -> int:
        monkeypatch.setattr(Lake, "append", original)
        assert archive.restore(settings, FIRST).rows == 45
        return original(lake, *arguments, **options)

    monkeypatch.setattr(Lake, "append", append)
    with pytest.raises(FenceError, match="another run was quicker"):
        archive.restore(settings, FIRST)
    assert (live(settings), archived(settings)) == ({FIRST: 45, SECOND: 50}, {})
    assert_every_event_counts_once(settings)


def test_replayed_events_are_not_replayed_again_when_they_are_archived(environment: Settings) -> None:
    open_replay_shop(environment)
    assert quarantine.replay(environment).replayed_rows == 3
    assert sum(part.rows for part in archive.run(environment, before=date(2023, 10, 25)).archived) == 5
    assert live(environment) == {}
    assert sum(group.open_rows for group in quarantine.groups(environment)) == 3
    again = quarantine.replay(environment)
    assert (again.replayed_rows, again.replayed_before_rows) == (0, 3)
    report = audit(environment)
    assert report.gaps == ()
    assert [(row.published_rows, row.replayed_rows) for row in report.ledger] == [(5, 3)]


def test_verify_names_what_differs(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = shop.settings
    archive.run(settings, before=date(2023, 10, 24))
    first, second = archive.parts(settings)
    store = s3.filesystem(settings.s3)
    manifests = f"{settings.s3.archive_bucket}/{settings.prefix}manifests/events.user_actions"
    paths = Lake(settings).load(USER_ACTIONS_ARCHIVE).inspect.files()["file_path"].to_pylist()
    file = s3.key_of(next(path for path in paths if first.name in path))

    def content(place: str) -> bytes:
        return store.open_input_stream(place).read()

    def put(place: str, text: bytes) -> None:
        with store.open_output_stream(place) as stream:
            stream.write(text)

    def differences(*arguments: str) -> list[tuple[str, str]]:
        code, found = lakehouse(settings, monkeypatch, "archive", "verify", *arguments)
        assert code == int(not found["ok"])
        return [(difference["date"], difference["what"]) for difference in found["differences"]]

    assert differences() == []
    whole = content(file)
    put(file, whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    ((day, what),) = differences()
    assert day == str(FIRST)
    assert "with SHA-256" in what
    assert differences("--date", str(SECOND)) == []
    with pytest.raises(TerminalError, match="does not hold what its manifest says: nothing was restored"):
        archive.restore(settings, FIRST)
    assert live(settings) == {}
    store.delete_file(file)
    assert [day for day, _ in differences()] == [str(FIRST)]
    put(file, whole)
    assert differences() == []

    place = f"{manifests}/event_date={SECOND}/{second.name}.json"
    manifest = content(place)
    hashed = json.loads(manifest)["content_sha256"]
    put(place, manifest.replace(hashed.encode(), b"0" * 64))
    ((_, what),) = differences()
    assert f"50 rows with content hash {hashed} in the bucket, 50 rows with {'0' * 64} in the manifest" in what
    store.delete_file(place)
    assert [day for day, _ in differences()] == [str(SECOND)]
    put(place, manifest)
    assert differences() == []


def test_the_commands_answer_for_programs(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = shop.settings

    def run(*arguments: str) -> dict[str, Any]:
        code, answer = lakehouse(settings, monkeypatch, "archive", *arguments)
        assert code == 0
        return answer

    due = run("run", "--before", str(SECOND), "--dry-run")
    assert [(one["date"], one["rows"]) for one in due["due"]] == [(str(FIRST), 45)]
    assert run("list") == {"parts": []}
    (part,) = run("run", "--before", str(SECOND))["archived"]
    (listed,) = run("list", "--date", str(FIRST))["parts"]
    assert listed == part
    assert (part["state"], part["rows"], part["files"] >= 1, part["size_bytes"] > 0) == ("archived", 45, True, True)
    assert run("list", "--date", str(SECOND)) == {"parts": []}
    back = run("restore", "--date", str(FIRST), "--hold-days", "0")
    assert (back["restored_date"], back["parts"], back["rows"]) == (str(FIRST), [part["name"]], 45)
    assert run("restore", "--date", str(FIRST))["parts"] == []
