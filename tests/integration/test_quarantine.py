"""Quarantine on real servers: what is in it, and that a replay moves each message once, however often it is killed."""

import base64
import json
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from lakehouse import quarantine, transform
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.catalog import Lake
from lakehouse.adapters.kafka import Message
from lakehouse.audit import audit
from lakehouse.cli.main import app
from lakehouse.errors import TerminalError
from lakehouse.ledger import REPLAYS, RULES
from lakehouse.quarantine import ReplayResult, Selection
from lakehouse.settings import Settings, get_settings
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_QUARANTINE, TableSpec
from tests.faults.harness import Shop
from tests.integration.replaying import BAD, LARGE, environment_of, open_replay_shop
from tests.shops import event, wait_until

pytestmark = pytest.mark.integration

MARTS = "+fct_events_daily +fct_data_quality_daily"
STILL_REFUSED = {"not_json": 1, "not_utf8": 1, "tombstone": 1}
BEFORE_THE_COMMIT = {
    "mid-file": "mid-file:kill:1",
    "after-upload": "uploaded:kill:1",
    "sending": "events-sending:kill:1",
}


@pytest.fixture(scope="module")
def shelf(module_environment: Settings) -> Settings:
    """Six refused messages, three of which can be replayed; no test replays them."""
    open_replay_shop(module_environment)
    return module_environment


@pytest.fixture
def shop(environment: Settings) -> Iterator[Shop]:
    """The same, for one test alone."""
    open_replay_shop(environment)
    shop = Shop(environment, environment_of(environment))
    try:
        yield shop
    finally:
        shop.end()


def held(settings: Settings, spec: TableSpec, *columns: str) -> list[tuple[Any, ...]]:
    rows = Lake(settings).load(spec).scan(selected_fields=columns).to_arrow()
    return sorted(zip(*(rows[column].to_pylist() for column in columns), strict=True))


def published(settings: Settings) -> list[tuple[int, str]]:
    return held(settings, USER_ACTIONS, "kafka_offset", "user_id")


def snapshots(settings: Settings) -> list[int]:
    return [snapshot.snapshot_id for snapshot in Lake(settings).load(USER_ACTIONS).snapshots()]


def counts(result: ReplayResult) -> tuple[int, int, int, int]:
    return result.replayed_rows, result.refused_rows, result.replayed_before_rows, result.commits


def assert_sound(settings: Settings, *, replayed: int) -> None:
    report = audit(settings)
    assert report.gaps == ()
    (row,) = report.ledger
    assert row.replayed_rows == replayed
    assert row.position - row.first_offset == row.published_rows + row.quarantined_rows - row.replayed_rows


def said(settings: Settings, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setenv("LAKEHOUSE_PREFIX", settings.prefix)
    get_settings.cache_clear()
    answer = CliRunner().invoke(app, ["quarantine", *words], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def command(settings: Settings, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    return json.loads(said(settings, monkeypatch, *words, "--output", "json"))


def test_list_counts_by_reason_what_is_open(shelf: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = command(shelf, monkeypatch, "list")["groups"]
    assert {(g["reason"], g["field"], g["rows"], g["open_rows"], g["replayed_rows"]) for g in groups} == {
        ("too_large", None, 2, 2, 0),
        ("too_deep", None, 1, 1, 0),
        ("not_json", None, 1, 1, 0),
        ("not_utf8", None, 1, 1, 0),
        ("tombstone", None, 1, 1, 0),
    }
    assert groups[0]["sample_message"] == "599 bytes, at most 400 are read"
    ((stamp,),) = set(held(shelf, USER_ACTIONS_QUARANTINE, "ingested_at"))
    assert {(g["first_seen"], g["last_seen"]) for g in groups} == {(stamp.isoformat().replace("+00:00", "Z"),) * 2}


def test_show_gives_messages_byte_for_byte(shelf: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = command(shelf, monkeypatch, "show", "--full")["messages"]
    assert [message["offset"] for message in messages] == [7, 6, 5, 3, 2, 1]  # the newest first
    by_offset = {message["offset"]: message for message in messages}
    assert by_offset[7]["raw"] is None
    assert by_offset[2]["raw"] == {"encoding": "utf-8", "value": BAD[0].decode()}
    assert by_offset[6]["raw"] == {"encoding": "base64", "value": base64.b64encode(BAD[1]).decode()}
    assert by_offset[6]["headers"] == [
        {"key": "trace", "value": {"encoding": "base64", "value": "AP8="}},
        {"key": "trace", "value": {"encoding": "utf-8", "value": "abc"}},
        {"key": "none", "value": None},
    ]
    assert by_offset[1] | {"kafka_timestamp": None, "first_seen": None} == {
        "topic": shelf.user_actions_topic,
        "topic_partition": 0,
        "offset": 1,
        "kafka_timestamp": None,
        "file": None,
        "file_version": None,
        "file_line": None,
        "file_modified_at": None,
        "reason": "too_large",
        "field": None,
        "message": "599 bytes, at most 400 are read",
        "rule_version": 0,
        "first_seen": None,
        "replayed_at": None,
        "raw": {"encoding": "utf-8", "value": LARGE[0].decode()},
        "raw_size_bytes": 599,
        "raw_is_cut": False,
        "key": {"encoding": "utf-8", "value": "1"},
        "headers": [],
    }
    assert quarantine.rows(shelf, limit=1, raw_bytes=3, selection=Selection(offset=2))[0].raw == b"bad"


@pytest.mark.parametrize(
    ("words", "offsets"),
    [
        (["--reason", "too_large", "--reason", "not_json"], [1, 2, 5]),
        (["--offset", "3"], [3]),
        (["--partition", "1"], []),
        (["--topic", "another"], []),
        (["--limit", "2"], [6, 7]),
        (["--since", "2026-01-01", "--until", "2026-01-02T00:00:00+02:00"], []),
    ],
)
def test_show_can_be_narrowed(
    shelf: Settings, monkeypatch: pytest.MonkeyPatch, words: list[str], offsets: list[int]
) -> None:
    assert sorted(m["offset"] for m in command(shelf, monkeypatch, "show", *words)["messages"]) == offsets


def test_what_people_read_names_each_message(shelf: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = said(shelf, monkeypatch, "show", "--reason", "not_utf8")
    assert f"{shelf.user_actions_topic}/0 offset 6 not_utf8, open" in shown
    assert "header trace: base64 AP8=\n  header trace: abc\n  header none: none\n" in shown
    assert "message: base64 /2JhZCAx" in shown
    assert "599 bytes, at most 400 are read" in said(shelf, monkeypatch, "list")


def test_a_dry_run_judges_and_changes_nothing(shelf: Settings) -> None:
    lake = Lake(shelf)
    before = lake.load(USER_ACTIONS)
    result = quarantine.replay(shelf, dry_run=True)
    assert counts(result) == (3, 3, 0, 0)
    assert result.refused_by_reason == STILL_REFUSED
    after = lake.load(USER_ACTIONS)
    assert after.metadata_location == before.metadata_location
    assert after.properties[RULES] == "0"


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(reasons=("too_large",)), (2, 0)),
        (Selection(reasons=("too_deep", "not_json")), (1, 1)),
        (Selection(topics=("another",)), (0, 0)),
        (Selection(since=datetime.now(UTC) - timedelta(days=1)), (3, 3)),
        (Selection(since=datetime.now(UTC) + timedelta(days=1)), (0, 0)),
        (Selection(until=datetime.now(UTC) - timedelta(days=1)), (0, 0)),
        (Selection(until=datetime.now(UTC) + timedelta(days=1)), (3, 3)),
    ],
    ids=lambda value: None if isinstance(value, tuple) else repr(value).partition("(")[2][:20],
)
def test_a_replay_takes_only_what_is_chosen(shelf: Settings, selection: Selection, expected: tuple[int, int]) -> None:
    result = quarantine.replay(shelf, selection, dry_run=True)
    assert (result.replayed_rows, result.refused_rows) == expected


@pytest.mark.parametrize("failpoint", BEFORE_THE_COMMIT.values(), ids=BEFORE_THE_COMMIT)
def test_a_replay_killed_before_its_commit_leaves_nothing(shelf: Settings, failpoint: str) -> None:
    before = Lake(shelf).load(USER_ACTIONS).metadata_location
    Shop(shelf, environment_of(shelf)).start("quarantine", "replay", failpoint=failpoint).dies()
    assert Lake(shelf).load(USER_ACTIONS).metadata_location == before
    assert_sound(shelf, replayed=0)


def test_a_replay_stopped_by_ctrl_c_leaves_nothing_half_done(shelf: Settings) -> None:
    before = Lake(shelf).load(USER_ACTIONS).metadata_location
    run = Shop(shelf, environment_of(shelf)).start("quarantine", "replay", failpoint="mid-file:hold:1")
    wait_until(run.is_held, "the replay is within a file")
    run.process.send_signal(signal.SIGINT)
    run.ends(130)
    assert Lake(shelf).load(USER_ACTIONS).metadata_location == before


def test_a_replay_that_finds_nothing_to_accept_commits_nothing(shelf: Settings) -> None:
    before = snapshots(shelf)
    assert counts(quarantine.replay(shelf, Selection(reasons=("not_json", "tombstone")))) == (0, 2, 0, 0)
    assert snapshots(shelf) == before


@contextmanager
def property_set(settings: Settings, key: str, value: str) -> Generator[None]:
    kept = Lake(settings).load(USER_ACTIONS).properties[key]
    with Lake(settings).load(USER_ACTIONS).transaction() as transaction:
        transaction.set_properties({key: value})
    yield
    with Lake(settings).load(USER_ACTIONS).transaction() as transaction:
        transaction.set_properties({key: kept})


@pytest.mark.parametrize("dry_run", [True, False])
def test_older_rules_than_the_table_has_seen_replay_nothing(shelf: Settings, dry_run: bool) -> None:
    with property_set(shelf, RULES, "99"), pytest.raises(TerminalError, match=r"version 99.*upgrade"):
        quarantine.replay(shelf, dry_run=dry_run)


def test_a_quarantine_that_holds_an_offset_twice_is_not_replayed(shelf: Settings) -> None:
    table = Lake(shelf).load(USER_ACTIONS_QUARANTINE)
    kept, before = table.metadata.current_snapshot_id, snapshots(shelf)
    path = table.inspect.files()["file_path"][0].as_py()
    table.add_files([path], check_duplicate_files=False)
    try:
        with pytest.raises(TerminalError, match=r"offsets of .*/0 more than once, such as \d: nothing was replayed"):
            quarantine.replay(shelf)
    finally:
        name = f"lake.{shelf.prefix}quarantine.user_actions"
        trino.query(shelf.trino_as("admin"), f"ALTER TABLE {name} EXECUTE rollback_to_snapshot({kept})")
    assert snapshots(shelf) == before


def test_of_two_replays_at_once_one_publishes_and_the_other_stops(shop: Shop) -> None:
    settings = shop.settings
    slow = shop.start("quarantine", "replay", failpoint="uploaded:hold:1")
    wait_until(slow.is_held, "the replay has written its files")
    assert counts(quarantine.replay(settings, Selection(reasons=("too_deep",)))) == (1, 0, 0, 1)
    slow.release()
    slow.ends(1)
    assert "another run was quicker" in slow.said
    assert published(settings) == [(0, "plain_0"), (3, "deep"), (4, "plain_1")]
    assert_sound(settings, replayed=1)

    assert counts(quarantine.replay(settings)) == (2, 3, 1, 1)
    assert published(settings) == [(0, "plain_0"), (1, "large_0"), (3, "deep"), (4, "plain_1"), (5, "large_1")]
    assert_sound(settings, replayed=3)
    rows = {offset: (at, ingested) for offset, at, ingested in _stamps(settings)}
    assert [offset for offset, (at, _) in rows.items() if at] == [1, 3, 5]
    assert all(at == ingested for at, ingested in rows.values() if at)
    assert Lake(settings).load(USER_ACTIONS).properties[REPLAYS] == "2"
    assert Lake(settings).load(USER_ACTIONS).properties[RULES] == "1"

    assert counts(quarantine.replay(settings)) == (0, 3, 3, 0)
    assert {(g.reason, g.open_rows, g.replayed_rows) for g in quarantine.groups(settings)} == {
        ("too_large", 0, 2),
        ("too_deep", 0, 1),
        ("not_json", 1, 0),
        ("not_utf8", 1, 0),
        ("tombstone", 1, 0),
    }


def _stamps(settings: Settings) -> list[tuple[int, datetime | None, datetime]]:
    return held(settings, USER_ACTIONS, "kafka_offset", "replayed_at", "ingested_at")


def test_a_replay_killed_once_the_catalog_has_its_commit_is_not_repeated(shop: Shop) -> None:
    shop.start("quarantine", "replay", failpoint="events-landed:kill:1").dies()
    assert_sound(shop.settings, replayed=3)
    assert counts(quarantine.replay(shop.settings)) == (0, 3, 3, 0)
    assert_sound(shop.settings, replayed=3)


def test_a_replay_beside_a_running_ingest_disturbs_neither_and_the_mart_counts_all(shop: Shop) -> None:
    settings = shop.settings
    topic = settings.user_actions_topic
    kafka.send(settings, topic, [Message(b"8", event("plain_2")), Message(b"9", b"bad 2")])
    running = shop.ingest(failpoint="events-sending:hold:2")  # the first commit to the events says that the rules moved
    wait_until(running.is_held, "the ingest has committed to quarantine and not to the events")

    result = quarantine.replay(settings)
    assert counts(result) == (3, 3, 0, 1)
    assert result.waiting_rows == 1
    assert_sound(settings, replayed=3)
    transform.build(settings, MARTS)
    assert (audit(settings).aggregated_rows, audit(settings).unaggregated_rows) == (5, 0)
    running.release()
    running.ends(0)

    # The events of this ingest are older than the replay that the aggregate has seen, and still wait for a build.
    report = audit(settings)
    assert report.gaps == ()
    assert (report.aggregated_rows, report.unaggregated_rows) == (5, 1)
    assert result.refused_by_reason == STILL_REFUSED
    assert counts(quarantine.replay(settings)) == (0, 4, 3, 0)
    transform.build(settings, MARTS)
    mart = f"lake.{settings.prefix}marts"
    assert trino.query(
        settings.trino_as("admin"),
        f"SELECT CAST(event_date AS varchar), event_count FROM {mart}.fct_events_daily ORDER BY 1",
    ) == [("2023-10-22", 1), ("2023-10-23", 4), ("2023-10-24", 1)]
    assert trino.query(
        settings.trino_as("admin"),
        f"SELECT outcome, reason, CAST(sum(message_count) AS bigint) FROM {mart}.fct_data_quality_daily "
        "GROUP BY outcome, reason ORDER BY outcome, reason",
    ) == [
        ("published", "none", 3),
        ("quarantined", "not_json", 2),
        ("quarantined", "not_utf8", 1),
        ("quarantined", "tombstone", 1),
        ("quarantined", "too_deep", 1),
        ("quarantined", "too_large", 2),
        ("replayed", "too_deep", 1),
        ("replayed", "too_large", 2),
    ]
    assert_sound(settings, replayed=3)
