"""The tables of announced files, on the real PostgreSQL: what each transaction writes, and what it refuses."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from lakehouse.adapters import file_store
from lakehouse.adapters.file_store import Aggregate, FileStore, Recorded, Verdict
from lakehouse.adapters.postgres import connect
from lakehouse.errors import TerminalError, TransientError
from lakehouse.file_contract import FileReason, Notification, Refusal
from lakehouse.file_ledger import ALONE_AFTER, GIVE_UP_AFTER, Coordinates, Day, Drained, LedgerRow, plan_work
from lakehouse.settings import Settings
from tests.files import aggregates, ask, ledger, notification

pytestmark = pytest.mark.integration

START = datetime(2023, 10, 24, 6, tzinfo=UTC)
DAY = Day("sales", date(2023, 10, 23))


@pytest.fixture
def store(environment: Settings) -> FileStore:
    file_store.apply(environment)
    return FileStore(environment)


def message(offset: int, verdict: Notification | Refusal, topic_id: str = "t1") -> Drained:
    return Drained(Coordinates(topic_id, 0, offset), START + timedelta(seconds=offset), b"raw \x00", verdict)


def announce(store: FileStore, *keys: str, first: int = 0) -> None:
    store.record("topic", [message(first + n, notification(key)) for n, key in enumerate(keys)])


def good(rows: list[LedgerRow], seconds: int = 0) -> list[LedgerRow]:
    return [replace(row, line_count=1, modified_at=START + timedelta(seconds=seconds)) for row in rows]


def aggregate(sku: str, lines: int, day: Day = DAY) -> Aggregate:
    one = Decimal("1.50")
    return Aggregate(day, sku, f"Name of {sku}", lines, 1, lines, one * lines, one, one, one, one)


def finish(store: FileStore, run_id: str, claimed: list[LedgerRow], *found: Aggregate, seconds: int = 0) -> None:
    counted = store.counted_beside(claimed)
    read = good(claimed, seconds)
    store.finish(run_id, claimed, read, counted, plan_work(counted, read, set()), found)


def test_the_tables_are_made_once_and_say_what_they_hold(environment: Settings) -> None:
    assert {applied.outcome for applied in file_store.apply(environment)} == {"created"}
    assert {applied.outcome for applied in file_store.apply(environment)} == {"unchanged"}
    undescribed = ask(
        environment,
        "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relkind = 'r'"
        f" AND c.relnamespace = '{environment.prefix}reporting'::regnamespace AND a.attnum > 0"
        " AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid) IS NULL)",
    )
    assert undescribed == []


def test_tables_of_an_older_version_get_the_columns_they_lack(environment: Settings, store: FileStore) -> None:
    store.lose("topic", [(Coordinates("t1", 0, 1), 3)])
    table = f'"{environment.prefix}reporting".file_losses'
    with connect(environment) as connection:
        connection.execute(f"ALTER TABLE {table} DROP accepted_at, DROP accepted_end_offset".encode())
    with pytest.raises(TerminalError, match=r"lacks a column.*tables apply"):
        store.gaps()
    (changed,) = [applied for applied in file_store.apply(environment) if applied.outcome == "changed"]
    assert changed.table == f"{environment.prefix}reporting.file_losses"
    assert changed.changes == ("added column accepted_at", "added column accepted_end_offset")
    assert {applied.outcome for applied in file_store.apply(environment)} == {"unchanged"}
    undescribed = ask(
        environment,
        f"SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped"
        " AND col_description(attrelid, attnum) IS NULL",
    )
    assert undescribed == []
    assert [gap.count for gap in store.gaps()] == [2]
    assert [loss.notifications for loss in store.accept_losses()] == [2]


def test_without_its_tables_the_message_says_who_makes_them(environment: Settings) -> None:
    with pytest.raises(TerminalError, match="tables apply"):
        FileStore(environment).counts()


def test_an_environment_without_a_prefix_is_not_dropped(stack: Settings) -> None:
    with pytest.raises(TerminalError, match="prefix"):
        file_store.drop(stack)


def test_a_message_is_written_once_however_often_it_is_read(environment: Settings, store: FileStore) -> None:
    messages = [
        message(0, notification("a")),
        message(1, Refusal("not_json", "no", None)),
        message(2, notification("a")),
    ]
    assert store.record("topic", messages) == Recorded(3, 1, 1, 1)
    assert store.record("topic", messages) == Recorded()
    assert store.record("topic", [*messages, message(3, notification("b"))]) == Recorded(1, 1, 0, 0)
    rows = "SELECT kafka_offset, outcome, reason, file_id, raw FROM {s}.file_notifications ORDER BY 1"
    assert ask(environment, rows) == [
        (0, "announced", None, 1, b"raw \x00"),
        (1, "refused", "not_json", None, b"raw \x00"),
        (2, "repeated", None, 1, b"raw \x00"),
        (3, "announced", None, 2, b"raw \x00"),
    ]


def test_a_topic_that_was_made_anew_begins_anew(store: FileStore) -> None:
    assert store.record("topic", [message(0, notification("a"))]).announced == 1
    assert store.record("topic", [message(0, notification("b"), "t2")]).announced == 1


def test_a_run_gets_each_pending_file_once_and_a_later_run_again(store: FileStore) -> None:
    announce(store, "a", "b", "c")
    claimed = [[row.notification.key for row in store.claim("r1", 2)] for _ in range(3)]
    assert claimed == [["a", "b"], ["c"], []]
    assert len(store.claim("r2", 9)) == 3


def test_a_file_that_ends_runs_comes_last_and_alone_and_is_given_up(environment: Settings, store: FileStore) -> None:
    announce(store, "a", "b", "c", "d")
    for run in range(ALONE_AFTER):  # two of the runs end without a verdict on two of the files
        claimed = store.claim(f"r{run}", 9)
        store.release([row for row in claimed if row.notification.key in "cd"])
    claimed = [[row.notification.key for row in store.claim("r8", 9)] for _ in range(4)]
    assert claimed == [["c", "d"], ["a"], ["b"], []]
    for run in range(GIVE_UP_AFTER):
        store.claim(f"s{run}", 1)
        store.claim(f"s{run}", 1)
    assert store.give_up() > 0
    assert store.give_up() == 0
    assert ("a", "failed", "gave_up") in ledger(environment)


def test_a_file_that_ends_every_run_lets_the_others_go_first_in_the_next(store: FileStore) -> None:
    announce(store, "poison", "b", "c")
    for run in range(ALONE_AFTER):
        store.claim(f"r{run}", 9)
    assert [row.notification.key for row in store.claim("r8", 9)] == ["poison"]
    claimed = [[row.notification.key for row in store.claim("r9", 9)] for _ in range(4)]
    assert claimed == [["b"], ["c"], ["poison"], []]


def test_what_postgresql_holds_in_no_text_is_written_as_an_escape(environment: Settings, store: FileStore) -> None:
    store.record("topic", [message(0, Refusal("duplicate_key", "\x00 twice", "a\x00")), message(1, notification("a"))])
    rows = "SELECT message, field FROM {s}.file_notifications WHERE kafka_offset = 0"
    assert ask(environment, rows) == [(r"\x00 twice", r"a\x00")]
    store.judge_again([message(0, Refusal("duplicate_key", "\x00 twice", "b\x00"))])
    assert ask(environment, rows) == [(r"\x00 twice", r"b\x00")]
    claimed = store.claim("r1", 9)
    said = "SELECT message FROM {s}.file_ledger"
    store.postpone("r1", [(row, "a\x00b") for row in claimed])
    assert ask(environment, said) == [(r"a\x00b",)]
    store.set_aside("r1", [Verdict(row, FileReason.WRONG_COLUMNS, "unknown a\x00") for row in claimed])
    assert ask(environment, said) == [(r"unknown a\x00",)]


def test_a_verdict_is_written_unless_the_file_was_announced_anew_meanwhile(
    environment: Settings, store: FileStore
) -> None:
    announce(store, "a", "b")
    claimed = store.claim("r1", 9)
    store.record("topic", [message(7, notification("b", sha256="1" * 64))])
    store.set_aside("r1", [Verdict(row, FileReason.MISSING_OBJECT, "gone") for row in claimed])
    assert ledger(environment) == [("a", "failed", "missing_object"), ("b", "pending", None)]


def test_days_are_replaced_and_only_what_changed_is_stamped_anew(environment: Settings, store: FileStore) -> None:
    announce(store, "a")
    finish(store, "r1", store.claim("r1", 9), aggregate("s1", 1), aggregate("s2", 2))
    stamps = "SELECT sku, line_count, amount_median, aggregated_at FROM {s}.file_aggregates ORDER BY sku"
    before = ask(environment, stamps)
    announce(store, "b", first=1)
    finish(store, "r2", store.claim("r2", 9), aggregate("s1", 1), aggregate("s3", 3))
    after = ask(environment, stamps)
    assert [row[:2] for row in after] == [("s1", 1), ("s2", 0), ("s3", 3)]
    assert after[0] == before[0]
    assert after[1][2] is None
    assert after[1][3] > before[1][3]
    assert [row[2] for row in aggregates(environment)] == ["s1", "s3"]
    assert ledger(environment) == [("a", "done", None), ("b", "done", None)]
    assert store.gaps()[0].kind == "aggregates"  # the test's aggregates are not those of the files


def test_a_newer_version_takes_the_place_of_the_older_one(environment: Settings, store: FileStore) -> None:
    announce(store, "a")
    finish(store, "r1", store.claim("r1", 9), aggregate("s1", 1))
    store.record("topic", [message(5, notification("a", "v2"))])
    finish(store, "r2", store.claim("r2", 9), aggregate("s1", 1), seconds=5)
    assert ledger(environment) == [("a", "replaced", None), ("a", "done", None)]
    assert store.gaps() == []


@pytest.mark.parametrize("before", ["replaced", "set aside"])
def test_an_older_version_of_the_same_second_that_is_announced_again_never_undoes_a_correction(
    environment: Settings, store: FileStore, before: str
) -> None:
    announce(store, "a")
    claimed = store.claim("r1", 9)
    if before == "replaced":
        finish(store, "r1", claimed, aggregate("s1", 1))
    else:
        store.set_aside("r1", [Verdict(claimed[0], FileReason.GAVE_UP, "5 runs")])
    store.record("topic", [message(5, notification("a", "v2"))])
    finish(store, "r2", store.claim("r2", 9), aggregate("s1", 1))
    announce(store, "a", first=7)
    if again := store.claim("r3", 9):
        finish(store, "r3", again)
    assert ledger(environment) == [("a", "replaced", None), ("a", "done", None)]


def test_two_versions_of_an_object_can_not_count_at_once(environment: Settings, store: FileStore) -> None:
    store.record("topic", [message(0, notification("a")), message(1, notification("a", "v2"))])
    with pytest.raises(Exception, match="file_ledger_counts"), connect(environment) as connection:
        connection.execute(f"UPDATE \"{environment.prefix}reporting\".file_ledger SET status = 'done'".encode())


@pytest.mark.parametrize("meanwhile", ["another counts", "announced anew", "claimed by another"])
def test_a_plan_that_is_no_longer_true_writes_nothing(environment: Settings, store: FileStore, meanwhile: str) -> None:
    announce(store, "a", "b")
    claimed = store.claim("r1", 1)
    counted = store.counted_beside(claimed)
    other = store.claim("r2", 9)
    if meanwhile == "another counts":
        finish(store, "r2", [row for row in other if row.notification.key == "b"], aggregate("s9", 1))
        claimed = store.claim("r3", 9)
        run_id = "r3"
    elif meanwhile == "announced anew":
        store.record("topic", [message(9, notification("a", sha256="1" * 64))])
        run_id = "r2"
    else:
        run_id = "r1"
    before = (ledger(environment), aggregates(environment))
    read = good(claimed)
    with pytest.raises(TransientError, match="nothing was written"):
        store.finish(run_id, claimed, read, counted, plan_work(counted, read, set()), [aggregate("s1", 1)])
    assert (ledger(environment), aggregates(environment)) == before


def test_a_file_that_waits_for_its_day_comes_with_the_next_one_of_it(environment: Settings, store: FileStore) -> None:
    announce(store, "a", "b")
    first = store.claim("r1", 9)
    store.set_aside("r1", [Verdict(first[0], FileReason.DAY_INCOMPLETE, "b is gone")])
    store.set_aside("r1", [Verdict(first[1], FileReason.BAD_VALUE, "line 1")])
    assert store.claim("r2", 9) == []
    announce(store, "c", first=5)
    assert [row.notification.key for row in store.claim("r2", 9)] == ["a", "c"]


def test_only_one_run_is_at_work_and_another_environment_does_not_mind(environment: Settings, store: FileStore) -> None:
    with store.working():
        with pytest.raises(TransientError, match="another `lakehouse files run`"), store.working():
            pass
        other = FileStore(environment.model_copy(update={"prefix": f"{environment.prefix}other_"}))
        with other.working():
            pass
    with store.working():
        pass


def test_the_server_notices_a_client_whose_machine_is_gone_and_frees_its_lock(environment: Settings) -> None:
    names = "('tcp_keepalives_idle', 'tcp_user_timeout')"
    shown = ask(environment, f"SELECT name, setting FROM pg_settings WHERE name IN {names} ORDER BY name")
    assert shown == [("tcp_keepalives_idle", "30"), ("tcp_user_timeout", "60000")]


def test_what_was_set_aside_is_tried_again_by_reason_by_number_or_all_of_it(
    environment: Settings, store: FileStore
) -> None:
    announce(store, "a", "b", "c")
    rows = store.claim("r1", 9)
    reasons = (FileReason.MISSING_OBJECT, FileReason.BAD_VALUE, FileReason.BAD_VALUE)
    store.set_aside("r1", [Verdict(row, reason, "x") for row, reason in zip(rows, reasons, strict=True)])
    assert store.retry(["missing_object"], []) == 1
    assert store.retry([], [rows[1].file_id]) == 1
    assert [status for _, status, _ in ledger(environment)] == ["pending", "pending", "failed"]
    assert store.retry([], []) == 1
    assert len(store.claim("r1", 9)) == 3


def test_refused_messages_are_judged_again(environment: Settings, store: FileStore) -> None:
    store.record("topic", [message(0, Refusal("unknown_dataset", "no", "dataset")), message(1, Refusal("blank", "no"))])
    held = store.refused()
    assert [(where.kafka_offset, raw) for where, _, raw in held] == [(0, b"raw \x00"), (1, b"raw \x00")]
    again = [message(0, notification("a")), message(1, Refusal("blank", "no"))]
    assert store.judge_again(again) == Recorded(2, 1, 0, 1)
    assert ledger(environment) == [("a", "pending", None)]
    assert [where.kafka_offset for where, _, _ in store.refused()] == [1]


def test_files_are_listed_the_newest_first_with_refused_messages_among_the_failed(store: FileStore) -> None:
    store.record("topic", [message(0, notification("a")), message(1, Refusal("blank", "no", "key"))])
    store.record("topic", [message(2, notification("b", dataset="returns", event_date=date(2023, 10, 22)))])
    assert [one.place for one in store.files(None, None, None, 9)] == [
        "s3://file-drop/b",
        "topic/0/1",
        "s3://file-drop/a",
    ]
    assert [(one.place, one.message) for one in store.files("failed", None, None, 9)] == [("topic/0/1", "key: no")]
    assert [one.place for one in store.files(None, "sales", DAY.event_date, 9)] == ["s3://file-drop/a"]
    assert len(store.files(None, None, None, 1)) == 1
    assert store.counts() == {"pending": 2, "done": 0, "failed": 0, "replaced": 0, "refused": 1}


def test_an_offset_that_no_row_has_is_named_unless_it_is_known_to_be_lost(store: FileStore) -> None:
    store.record("topic", [message(0, notification("a")), message(3, notification("b"))])
    assert store.unrecorded("t1", 0, 5, 0) == [1, 2, 4]
    store.lose("topic", [(Coordinates("t1", 0, 1), 3)])
    store.lose("topic", [(Coordinates("t1", 0, 1), 3)])
    assert store.unrecorded("t1", 0, 5, 0) == [4]
    (gap,) = store.gaps()
    assert (gap.kind, gap.count) == ("lost messages", 2)


def test_the_offsets_that_no_row_has_come_in_their_order(store: FileStore) -> None:
    # With so many rows PostgreSQL chooses a plan that gives them in another one by itself.
    store.record("topic", [message(n, notification("a")) for n in range(300) if n % 7 != 3])
    assert store.unrecorded("t1", 0, 100, 0) == list(range(3, 100, 7))


def test_a_loss_that_grows_is_remembered_as_large_as_it_was_ever_told(store: FileStore) -> None:
    for end in (3, 6, 4):
        store.lose("topic", [(Coordinates("t1", 0, 1), end)])
    (gap,) = store.gaps()
    assert gap.count == 5


def test_a_loss_that_was_accepted_is_remembered_and_no_gap_and_what_is_lost_later_is_one(store: FileStore) -> None:
    assert (store.accept_losses(), store.accepted_losses()) == ([], [])
    store.lose("topic", [(Coordinates("t1", 0, 1), 3), (Coordinates("t1", 1, 5), 6)])
    found = store.accept_losses(dry_run=True)
    assert [(loss.topic_partition, loss.start_offset, loss.end_offset, loss.notifications) for loss in found] == [
        (0, 1, 3, 2),
        (1, 5, 6, 1),
    ]
    assert (len(store.gaps()), store.accepted_losses()) == (2, [])
    assert store.accept_losses() == found
    accepted = store.accepted_losses()
    assert [(loss.start_offset, loss.end_offset, loss.notifications) for loss in accepted] == [(1, 3, 2), (5, 6, 1)]
    assert store.gaps() == []
    assert store.accept_losses() == []
    assert store.accepted_losses() == accepted
    store.lose("topic", [(Coordinates("t1", 0, 1), 3)])  # told again, and no larger
    assert store.gaps() == []
    assert store.unrecorded("t1", 1, 4, 0) == [3]
    store.lose("topic", [(Coordinates("t1", 0, 1), 7), (Coordinates("t1", 1, 8), 9)])
    assert [(gap.where, gap.count) for gap in store.gaps()] == [
        ("topic/0 from offset 3", 4),
        ("topic/1 from offset 8", 1),
    ]
    assert store.accepted_losses() == accepted
    assert [(loss.start_offset, loss.end_offset) for loss in store.accept_losses()] == [(3, 7), (8, 9)]
    assert store.gaps() == []
    assert sum(loss.notifications for loss in store.accepted_losses()) == 6 + 1 + 1


def test_of_each_topic_it_is_known_how_far_it_was_read_or_lost(store: FileStore) -> None:
    assert store.passed("t1") == {}
    store.record("topic", [message(0, notification("a")), message(3, notification("b"))])
    store.record("topic", [message(8, notification("c"), "t2")])
    assert store.passed("t1") == {0: 4}
    store.lose("topic", [(Coordinates("t1", 0, 4), 7), (Coordinates("t1", 1, 0), 2), (Coordinates("t2", 0, 0), 2)])
    assert store.passed("t1") == {0: 7, 1: 2}
    assert store.passed("t2") == {0: 9}
