"""Announced files on real servers: what counts, what is set aside, and that nothing is lost or doubled by anything."""

import json
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from lakehouse import announce, audit_notifications, file_notifications, ingest, transform
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.objects import Objects
from lakehouse.announce import Misbehaviour
from lakehouse.cli.main import app
from lakehouse.errors import DataLossError, ServerUnavailableError, TransientError
from lakehouse.file_ledger import GIVE_UP_AFTER
from lakehouse.settings import PROJECT_ROOT, Settings, get_settings
from tests.faults.harness import Shop
from tests.faults.proxy import in_front_of
from tests.files import (
    Line,
    aggregates,
    announcement,
    ask,
    content,
    counted,
    ledger,
    next_second,
    open_counter,
    send,
    store,
)
from tests.integration.replaying import environment_of
from tests.shops import open_shop, wait_until

pytestmark = pytest.mark.integration

SAMPLES = PROJECT_ROOT / "data" / "files"
MORNING = [Line("u1", "s1", 1, "10.00"), Line("u2", "s1", 2, "30.00"), Line("u1", "s2", 1, "5.55")]
EVENING = [Line("u1", "s1", 1, "20.00"), Line("u3", "s1", 3, "0.99"), Line("u3", "s3", 1, "7.00")]


@pytest.fixture
def counter(environment: Settings) -> Settings:
    """An environment with its tables and an empty topic."""
    return open_counter(environment)


@pytest.fixture
def shop(counter: Settings) -> Iterator[Shop]:
    """The same, to start commands in."""
    shop = Shop(counter, environment_of(counter))
    try:
        yield shop
    finally:
        shop.end()


def upload(settings: Settings, name: str, lines: list[Line], **changes: Any) -> dict[str, Any]:
    """Upload a file of lines; returns what a notification of it says."""
    return announcement(store(settings, f"sales/{name}", content(lines)), **changes)


def said(settings: Settings, monkeypatch: pytest.MonkeyPatch, *words: str, code: int = 0) -> Any:
    monkeypatch.setenv("LAKEHOUSE_PREFIX", settings.prefix)
    get_settings.cache_clear()
    answer = CliRunner().invoke(app, [*words, "--output", "json"], catch_exceptions=False)
    assert answer.exit_code == code, answer.output
    return json.loads(answer.stdout)


def assert_settled(settings: Settings, lines: list[Line]) -> None:
    """Prove that the aggregates are those of these lines, and that the audit says so too."""
    assert aggregates(settings) == counted(lines)
    found = audit_notifications.audit(settings)
    assert (found.gaps, found.waiting, found.counts["pending"]) == ((), 0, 0)


def test_files_of_every_format_are_aggregated_to_the_last_digit(
    counter: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sales = [SAMPLES / "sales-2023-10-23-web.csv", SAMPLES / "sales-2023-10-23-stores.jsonl"]
    said(counter, monkeypatch, "announce", *map(str, sales), "--dataset", "sales")
    said(counter, monkeypatch, "announce", str(SAMPLES / "returns-2023-10-23.parquet"), "--dataset", "returns")
    result = said(counter, monkeypatch, "files", "run")
    assert (result["announced"], result["done"], result["lines"], result["failed"]) == (3, 3, 680, {})
    # Counted with awk and sort, as data/README.md says.
    totals = "SELECT dataset, sum(line_count), sum(quantity_sum), sum(amount_sum) FROM {s}.file_aggregates GROUP BY 1"
    assert sorted(ask(counter, totals)) == [
        ("returns", 30, 61, Decimal("11847.31")),
        ("sales", 650, 999, Decimal("153970.90")),
    ]
    (mouse,) = [row for row in aggregates(counter) if row[0] == "sales" and row[2] == "SKU-1001"]
    assert mouse[3:10] == ("Wireless Mouse", 36, 36, 65, Decimal("373.76"), Decimal("4.49"), Decimal("59.90"))
    assert mouse[11] == Decimal("5.99")
    assert said(counter, monkeypatch, "files", "audit")["ok"]


def test_a_day_of_several_files_is_exact_and_what_is_said_or_run_twice_changes_nothing(counter: Settings) -> None:
    morning, evening = upload(counter, "morning.csv", MORNING), upload(counter, "evening.csv", EVENING)
    send(counter, morning, evening, morning)
    result = file_notifications.run(counter)
    assert (result.done, result.lines, result.days, result.repeated) == (2, 6, 1, 1)
    # By hand: four lines of s1 with 0.99, 10, 20 and 30; three users.
    s1 = ("sales", "2023-10-23", "s1", "Name of s1", 4, 3, 7)
    money = ("60.99", "0.99", "30.00", "15.247500", "15.000000")
    assert aggregates(counter)[0] == (*s1, *map(Decimal, money))
    before = ask(counter, "SELECT * FROM {s}.file_aggregates ORDER BY sku")
    send(counter, morning)
    again = file_notifications.run(counter)
    assert (again.notifications, again.repeated, again.done, again.days) == (1, 1, 0, 0)
    assert file_notifications.run(counter).notifications == 0
    assert ask(counter, "SELECT * FROM {s}.file_aggregates ORDER BY sku") == before
    assert_settled(counter, MORNING + EVENING)


def test_each_kind_of_bad_file_is_set_aside_with_its_reason_and_the_others_go_on(
    counter: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(name: str, lines: list[Line] = EVENING, **changes: Any) -> dict[str, Any]:
        return upload(counter, name, lines, **changes)

    raw = {
        name: store(counter, f"sales/{name}", data)
        for name, data in {
            "no.parquet": b"no parquet",
            "columns.csv": b"a,b\n1,2\n",
            "torn.jsonl": b'{"sold_at": "2023-10-23T',
        }.items()
    }
    send(
        counter,
        upload(counter, "morning.csv", MORNING),
        bad("missing.csv", key=f"{counter.prefix}sales/nowhere.csv"),
        bad("version.csv", version_id="b8dc8b5e-0000-4000-8000-000000000000"),
        bad("etag.csv", version_id=None, etag="0" * 32),
        bad("size.csv", size_bytes=1),
        bad("checksum.csv", sha256="0" * 64),
        bad("value.csv", [Line("u1", "s1", 0, "1.00")]),
        bad("date.csv", event_date="2023-10-22"),
        *(announcement(stored) for stored in raw.values()),
        bad("bucket.csv", bucket="warehouse"),
        bad("dataset.csv", dataset="orders"),
        b"not json",
        None,
    )
    result = file_notifications.run(counter)
    assert (result.notifications, result.refused, result.done) == (15, 4, 1)
    reasons = {name: reason for name, status, reason in ledger(counter) if status == "failed"}
    assert reasons == {
        "nowhere.csv": "missing_object",
        "version.csv": "missing_object",
        "etag.csv": "another_version",
        "size.csv": "size_mismatch",
        "checksum.csv": "checksum_mismatch",
        "value.csv": "bad_value",
        "date.csv": "bad_value",
        "no.parquet": "unreadable",
        "columns.csv": "wrong_columns",
        "torn.jsonl": "unreadable",
    }
    assert result.failed == {reason: list(reasons.values()).count(reason) for reason in sorted(set(reasons.values()))}
    assert_settled(counter, MORNING)
    listed = said(counter, monkeypatch, "files", "list", "--status", "failed")
    assert sorted(one["reason"] for one in listed["files"] if one["file_id"] is None) == [
        *("foreign_bucket", "not_json", "tombstone", "unknown_dataset"),
    ]
    assert listed["counts"]["failed"] == 10
    # One is mended where it is, one is announced rightly, and all are tried again.
    store(counter, "sales/nowhere.csv", content(EVENING))
    send(counter, bad("checksum.csv"))
    assert said(counter, monkeypatch, "files", "retry", "--reason", "missing_object")["files"] == 2
    result = file_notifications.run(counter)
    assert (result.done, result.failed) == (1, {"missing_object": 2})  # its version is another one than was announced
    assert said(counter, monkeypatch, "files", "retry") == {"files": 10, "notifications": 0, "refused": 4}
    assert file_notifications.run(counter).done == 0
    assert_settled(counter, MORNING + EVENING)


def test_a_nul_in_a_name_sets_aside_what_holds_it_and_nothing_else(
    counter: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(
        counter,
        b'{"\\u0000":1,"\\u0000":2}',
        b'{"a\\u0000":1e400}',
        b'{"a\\u0000":"\\ud800"}',
        announcement(store(counter, "sales/column.csv", b"a\x00b,c\n1,2\n")),
        announcement(store(counter, "sales/field.jsonl", b'{"a\\u0000":1}\n')),
        upload(counter, "morning.csv", MORNING),
    )
    result = file_notifications.run(counter)
    assert (result.refused, result.done, result.failed) == (3, 1, {"wrong_columns": 2})
    assert_settled(counter, MORNING)
    listed = said(counter, monkeypatch, "files", "list", "--status", "failed")["files"]
    assert sum(r"\x00" in one["message"] for one in listed) == 5
    assert not any("\x00" in one["message"] for one in listed)


@pytest.mark.faults
def test_an_object_that_comes_after_its_notification_counts_when_it_is_tried_again(
    counter: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    morning = upload(counter, "morning.csv", MORNING, version_id=None)
    Objects(counter.s3).delete_all(counter.s3.file_drop_bucket, morning["key"])
    send(counter, morning)
    assert file_notifications.run(counter).failed == {"missing_object": 1}
    upload(counter, "morning.csv", MORNING)
    assert said(counter, monkeypatch, "files", "retry")["files"] == 1
    assert file_notifications.run(counter).done == 1
    assert_settled(counter, MORNING)


def test_the_newest_version_counts_whatever_the_order_of_the_announcements(counter: Settings) -> None:
    first = upload(counter, "day.csv", MORNING)
    next_second()
    second = upload(counter, "day.csv", EVENING)
    send(counter, second)
    file_notifications.run(counter)
    assert_settled(counter, EVENING)
    send(counter, first)
    result = file_notifications.run(counter)
    assert (result.done, result.replaced, result.days) == (0, 1, 0)
    assert_settled(counter, EVENING)
    next_second()
    broken = announcement(store(counter, "sales/day.csv", b"broken"))
    send(counter, broken)
    assert file_notifications.run(counter).failed == {"wrong_columns": 1}
    assert_settled(counter, EVENING)  # a correction that can't be read takes nothing away
    send(counter, second)
    assert file_notifications.run(counter).repeated == 1
    assert [status for _, status, _ in ledger(counter)] == ["done", "replaced", "failed"]


def test_a_correction_moves_a_file_to_another_day_and_the_old_one_says_that_it_has_nothing(counter: Settings) -> None:
    send(counter, upload(counter, "day.csv", MORNING))
    file_notifications.run(counter)
    next_second()
    moved = store(counter, "sales/day.csv", content(MORNING, "2023-10-22"))
    send(counter, announcement(moved, event_date="2023-10-22"))
    result = file_notifications.run(counter)
    assert (result.done, result.replaced, result.days) == (1, 1, 2)
    assert aggregates(counter) == counted(MORNING, "2023-10-22")
    left = ask(counter, "SELECT sku, line_count, amount_sum FROM {s}.file_aggregates WHERE event_date = '2023-10-23'")
    assert sorted(left) == [("s1", 0, Decimal("0.00")), ("s2", 0, Decimal("0.00"))]
    assert audit_notifications.audit(counter).ok


def test_files_in_any_order_and_any_number_of_runs_give_the_same_days(
    counter: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(7)  # noqa: S311 - the same in each run
    files = {
        f"{n}.csv": [
            Line(
                f"u{draw.randrange(9)}",
                f"s{draw.randrange(3)}",
                draw.randrange(1, 9),
                f"{draw.randrange(9999) / 100:.2f}",
            )
            for _ in range(draw.randrange(40))
        ]
        for n in range(7)
    }
    said = [upload(counter, name, lines) for name, lines in files.items()]
    draw.shuffle(said)
    one_at_a_time = counter.model_copy(update={"files": counter.files.model_copy(update={"files_per_job": 2})})
    for some in (said[:3], said[2:6], said):
        send(counter, *some)
        file_notifications.run(one_at_a_time)
    assert_settled(counter, [line for lines in files.values() for line in lines])


@pytest.mark.faults
def test_a_day_with_a_file_that_is_gone_is_left_as_it_is_until_the_file_is_back_or_replaced(counter: Settings) -> None:
    morning = upload(counter, "morning.csv", MORNING)
    send(counter, morning)
    file_notifications.run(counter)
    Objects(counter.s3).delete_all(counter.s3.file_drop_bucket, morning["key"])
    tomorrow = store(counter, "sales/tomorrow.csv", content(EVENING, "2023-10-24"))
    send(counter, upload(counter, "evening.csv", EVENING), announcement(tomorrow, event_date="2023-10-24"))
    result = file_notifications.run(counter)
    assert (result.done, result.failed) == (1, {"day_incomplete": 1})
    assert aggregates(counter) == counted(MORNING) + counted(EVENING, "2023-10-24")
    again = upload(counter, "morning.csv", MORNING)  # another version of the same
    send(counter, again)
    result = file_notifications.run(counter)  # takes the file that waits for its day along
    assert (result.done, result.replaced) == (2, 1)
    assert aggregates(counter) == counted(MORNING + EVENING) + counted(EVENING, "2023-10-24")


@pytest.mark.faults
def test_without_versions_in_the_bucket_a_file_goes_by_its_etag(counter: Settings) -> None:
    first = upload(counter, "day.csv", MORNING, version_id=None)
    send(counter, first)
    file_notifications.run(counter)
    next_second()
    second = upload(counter, "day.csv", EVENING, version_id=None)
    send(counter, second)
    file_notifications.run(counter)
    assert_settled(counter, EVENING)
    next_second()
    send(counter, upload(counter, "day.csv", MORNING, version_id=None))  # the first bytes, and their ETag, are back
    file_notifications.run(counter)
    assert_settled(counter, MORNING)


def test_a_run_that_is_killed_before_it_stores_a_day_is_done_again_by_the_next(shop: Shop) -> None:
    settings = shop.settings
    send(settings, upload(settings, "morning.csv", MORNING), b"not json")
    shop.start("files", "run", failpoint="files-finishing:kill:1").dies()
    assert aggregates(settings) == []
    assert [status for _, status, _ in ledger(settings)] == ["pending"]
    send(settings, upload(settings, "evening.csv", EVENING))
    result = file_notifications.run(settings)
    assert (result.notifications, result.done) == (1, 2)
    assert_settled(settings, MORNING + EVENING)


@pytest.mark.faults
def test_a_second_run_waits_its_turn(shop: Shop) -> None:
    settings = shop.settings
    send(settings, upload(settings, "morning.csv", MORNING))
    first = shop.start("files", "run", failpoint="files-finishing:hold:1")
    wait_until(first.is_held, "it never got there")
    with pytest.raises(TransientError, match="another `lakehouse files run` is at work"):
        file_notifications.run(settings)
    first.release()
    first.ends(0)
    assert_settled(settings, MORNING)


def test_notifications_that_kafka_dropped_are_told_once_and_remembered(counter: Settings) -> None:
    topic = counter.file_notifications_topic
    send(counter, upload(counter, "morning.csv", MORNING))
    file_notifications.run(counter)
    send(counter, upload(counter, "evening.csv", EVENING))
    kafka.delete_records(counter, topic)
    late = upload(counter, "late.csv", EVENING)
    send(counter, late)
    with pytest.raises(DataLossError, match="dropped 1 notifications"):
        file_notifications.run(counter)
    assert_settled_but(counter, MORNING + EVENING, "lost messages")
    assert file_notifications.run(counter).lost_notifications == 0
    assert_settled_but(counter, MORNING + EVENING, "lost messages")


def test_a_loss_is_a_gap_until_a_person_accepts_it_and_the_next_loss_is_one_again(
    counter: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = counter.file_notifications_topic
    morning = upload(counter, "morning.csv", MORNING)
    send(counter, morning)
    file_notifications.run(counter)
    send(counter, morning)
    kafka.delete_records(counter, topic)
    assert said(counter, monkeypatch, "files", "accept-loss") == {"losses": [], "accepted": True}
    with pytest.raises(DataLossError, match="accept-loss"):
        file_notifications.run(counter)
    assert_settled_but(counter, MORNING, "lost messages")

    shown = said(counter, monkeypatch, "files", "accept-loss", "--dry-run")
    (loss,) = shown["losses"]
    assert (shown["accepted"], loss["topic"], loss["start_offset"], loss["end_offset"]) == (False, topic, 1, 2)
    assert said(counter, monkeypatch, "files", "audit", code=1)["accepted_losses"] == []
    assert said(counter, monkeypatch, "files", "accept-loss") == {"losses": [loss], "accepted": True}
    assert said(counter, monkeypatch, "files", "accept-loss")["losses"] == []
    audited = said(counter, monkeypatch, "files", "audit")
    (accepted,) = audited["accepted_losses"]
    assert (audited["gaps"], accepted | loss) == ([], accepted)

    file_notifications.run(counter)
    assert_settled(counter, MORNING)
    send(counter, morning)
    kafka.delete_records(counter, topic)
    assert_settled_but(counter, MORNING, "lost messages")  # before a run notices
    with pytest.raises(DataLossError, match="dropped 1 notifications"):
        file_notifications.run(counter)
    assert_settled_but(counter, MORNING, "lost messages")
    assert len(said(counter, monkeypatch, "files", "audit", code=1)["accepted_losses"]) == 1


def test_notifications_that_kafka_dropped_are_told_when_it_forgot_the_group_too(counter: Settings) -> None:
    topic = counter.file_notifications_topic
    send(counter, upload(counter, "morning.csv", MORNING))
    file_notifications.run(counter)
    send(counter, upload(counter, "evening.csv", EVENING))
    forget_group(counter)  # as Kafka does with one that commits nothing for some days
    kafka.delete_records(counter, topic)
    assert_settled_but(counter, MORNING, "lost messages")  # before a run notices
    with pytest.raises(DataLossError, match="dropped 1 notifications"):
        file_notifications.run(counter)
    assert_settled_but(counter, MORNING, "lost messages")
    forget_group(counter)
    send(counter, upload(counter, "late.csv", EVENING))
    result = file_notifications.run(counter)
    assert (result.lost_notifications, result.notifications) == (0, 1)
    assert_settled_but(counter, MORNING + EVENING, "lost messages")


def forget_group(settings: Settings) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for deleted in admin.delete_consumer_groups([audit_notifications.group(settings)]).values():
        deleted.result(30)


@pytest.mark.faults
def test_a_run_that_finds_nothing_commits_all_the_same_so_that_kafka_forgets_no_group(shop: Shop) -> None:
    file_notifications.run(shop.settings)
    shop.start("files", "run", failpoint="offsets-committed:kill:1").dies()


@pytest.mark.faults
def test_offsets_of_an_older_topic_are_forgotten_before_anything_is_read(shop: Shop) -> None:
    settings = shop.settings
    topic, group = settings.file_notifications_topic, audit_notifications.group(settings)
    morning = upload(settings, "morning.csv", MORNING)
    send(settings, morning, morning)
    (partition,) = [partition for partition, (_, end) in kafka.offsets(settings, topic).items() if end]
    kafka.commit(settings, topic, group, {partition: 1})
    shop.start("files", "run", failpoint="files-recorded:kill:1").dies()
    assert kafka.committed(settings, topic, group) == {0: 0, 1: 0}
    file_notifications.run(settings)
    assert_settled(settings, MORNING)


def assert_settled_but(settings: Settings, lines: list[Line], kind: str) -> None:
    assert aggregates(settings) == counted(lines)
    assert [gap.kind for gap in audit_notifications.audit(settings).gaps] == [kind]


@pytest.mark.faults
def test_a_topic_that_was_made_anew_is_read_from_its_start(counter: Settings) -> None:
    topic = counter.file_notifications_topic
    send(counter, upload(counter, "morning.csv", MORNING))
    file_notifications.run(counter)
    older = kafka.topic_id(counter, topic)
    kafka.delete_topic(counter, topic)
    wait_until(lambda: kafka.create_topic(counter, topic, 2), "the topic is not gone", 30)
    wait_until(lambda: kafka.topic_id(counter, topic) != older, "Kafka tells of the older topic", 30)
    send(counter, upload(counter, "evening.csv", EVENING))
    assert file_notifications.run(counter).done == 1
    assert_settled(counter, MORNING + EVENING)


@pytest.mark.faults
def test_while_the_object_store_is_away_no_file_is_blamed(counter: Settings) -> None:
    send(counter, upload(counter, "morning.csv", MORNING))
    away = counter.model_copy(update={"s3": counter.s3.model_copy(update={"endpoint": "http://127.0.0.1:9"})})
    for _ in range(2):
        with pytest.raises(ServerUnavailableError, match="did not answer"):
            file_notifications.run(away)
    assert ask(counter, "SELECT status, attempts FROM {s}.file_ledger") == [("pending", 0)]
    assert file_notifications.run(counter).done == 1
    assert_settled(counter, MORNING)


def test_an_object_that_the_store_does_not_serve_holds_up_no_other_and_is_given_up(counter: Settings) -> None:
    said = "SELECT status, attempts, message LIKE '%503' FROM {s}.file_ledger ORDER BY key"
    tired = f"UPDATE {{s}}.file_ledger SET attempts = {GIVE_UP_AFTER} WHERE status = 'pending' RETURNING 1"
    tomorrow = store(counter, "sales/tomorrow.csv", content(EVENING, "2023-10-24"))
    send(counter, upload(counter, "unserved.csv", EVENING), announcement(tomorrow, event_date="2023-10-24"))
    with in_front_of(counter.s3.endpoint) as proxy:
        through = counter.model_copy(update={"s3": counter.s3.model_copy(update={"endpoint": proxy.url})})
        proxy.on("answer", "HEAD", r"unserved\.csv")
        with pytest.raises(TransientError, match=r"1 files wait.*unserved\.csv"):
            file_notifications.run(through)
        assert ask(counter, said) == [("done", 0, None), ("pending", 1, True)]  # tomorrow's and the one not served
        # A file that counts already keeps those of its day waiting, and no others.
        proxy.on("answer", "HEAD", r"tomorrow\.csv")
        late = store(counter, "sales/late.csv", content(MORNING, "2023-10-24"))
        send(counter, upload(counter, "morning.csv", MORNING), announcement(late, event_date="2023-10-24"))
        ask(counter, f"WITH x AS ({tired}) SELECT count(*) FROM x")
        with pytest.raises(TransientError, match=r"1 files wait.*tomorrow\.csv"):
            file_notifications.run(through)
    assert sorted(ledger(counter)) == [
        ("late.csv", "pending", None),
        ("morning.csv", "done", None),
        ("tomorrow.csv", "done", None),
        ("unserved.csv", "failed", "gave_up"),
    ]
    assert aggregates(counter) == counted(MORNING) + counted(EVENING, "2023-10-24")


def test_a_message_that_the_group_passed_and_no_row_has_is_a_gap(counter: Settings) -> None:
    morning = upload(counter, "morning.csv", MORNING)
    send(counter, morning, morning)
    file_notifications.run(counter)
    deleted = "DELETE FROM {s}.file_notifications WHERE outcome = 'announced' RETURNING 1"
    ask(counter, f"WITH x AS ({deleted}) SELECT count(*) FROM x")
    (gap,) = audit_notifications.audit(counter).gaps
    assert (gap.kind, gap.count) == ("unrecorded messages", 1)
    send(counter, morning)
    file_notifications.run(counter)
    # Now two rows of one partition are gone, with one between them.
    deleted = "DELETE FROM {s}.file_notifications WHERE kafka_offset <> 1 RETURNING 1"
    ask(counter, f"WITH x AS ({deleted}) SELECT count(*) FROM x")
    (gap,) = audit_notifications.audit(counter).gaps
    assert (gap.kind, gap.count) == ("unrecorded messages", 2)
    ask(counter, "WITH x AS (UPDATE {s}.file_aggregates SET line_count = 9 RETURNING 1) SELECT count(*) FROM x")
    assert [gap.kind for gap in audit_notifications.audit(counter).gaps] == ["aggregates", "unrecorded messages"]


def test_a_producer_that_misbehaves_in_every_way_harms_nobody(counter: Settings, tmp_path: Path) -> None:
    for misbehaviour in Misbehaviour:
        file = tmp_path / f"{misbehaviour}-2023-10-23.parquet"
        if misbehaviour is not Misbehaviour.MISSING:
            file.write_bytes((SAMPLES / "returns-2023-10-23.parquet").read_bytes())
        announce.announce(counter, [file], "returns", misbehaviour=misbehaviour)
    done = file_notifications.run(counter)
    assert (done.announced, done.repeated, done.done, done.lines) == (4, 1, 1, 30)
    assert done.failed == {"missing_object": 1, "checksum_mismatch": 1, "unreadable": 1}


def test_announcing_again_uploads_nothing_and_says_the_same(counter: Settings, tmp_path: Path) -> None:
    file = tmp_path / "sales-2023-10-23.csv"
    file.write_bytes(content(MORNING))
    (first,) = announce.announce(counter, [file], "sales")
    (second,) = announce.announce(counter, [file], "sales")
    assert (first.uploaded, second.uploaded) == (True, False)
    assert first.version == second.version
    file.write_bytes(content(EVENING))
    assert announce.announce(counter, [file], "sales")[0].uploaded


def test_the_aggregates_are_read_through_trino_and_stand_beside_the_events(environment: Settings) -> None:
    settings = open_counter(open_shop(environment, 1))
    send_purchases(settings)
    ingest.run(settings)
    send(settings, upload(settings, "morning.csv", MORNING))
    file_notifications.run(settings)
    login, prefix = settings.trino_as("transform"), settings.prefix
    read = f"SELECT sku, line_count, amount_sum, amount_median FROM app.{prefix}reporting.file_aggregates ORDER BY sku"
    assert trino.query(login, read) == [
        ("s1", 2, Decimal("40.00"), Decimal("20.000000")),
        ("s2", 1, Decimal("5.55"), Decimal("5.550000")),
    ]
    built = "+fct_product_funnel_daily stg_reporting__file_aggregates fct_sales_daily"
    transform.build(settings, built)
    analyst = settings.trino_as("analyst")
    columns = "sku, purchase_event_count, sold_line_count, net_amount"
    mart = f"SELECT {columns} FROM lake.{prefix}marts.fct_sales_daily ORDER BY sku"
    assert trino.query(analyst, mart) == [("s1", 1, 2, Decimal("40.00")), ("s2", 0, 1, Decimal("5.55"))]
    # A correction of the day reaches the mart by what changed, a product that is gone from it too.
    next_second()
    send(settings, upload(settings, "morning.csv", EVENING[:1]))
    file_notifications.run(settings)
    transform.build(settings, built)
    assert trino.query(analyst, mart) == [("s1", 1, 1, Decimal("20.00")), ("s2", 0, 0, Decimal("0.00"))]


def send_purchases(settings: Settings) -> None:
    purchase = {
        "timestamp": "2023-10-23T12:34:56Z",
        "event_name": "purchase",
        "user_identifiers": {"platform": "web", "id": "u1"},
        "product_information": {"name": "Name of s1", "SKU": "s1"},
    }
    message = kafka.Message(b"u1", json.dumps(purchase).encode())
    kafka.send(settings, settings.user_actions_topic, [message])
