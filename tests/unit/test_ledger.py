"""What a table knows about its topics, from properties to values and back."""

from datetime import UTC, date, datetime, timedelta

import pytest

from lakehouse import ledger
from lakehouse.plans import Account


def test_the_properties_of_a_source_say_again_what_was_put_into_them() -> None:
    accounts = {0: Account(5, absent_offsets=2), 10: Account(0, lost_offsets=7)}
    properties = ledger.entries("t#2", {10: 3, 0: 8}, "id", accounts, "run-1")
    assert properties["lakehouse.position.t#2"] == '{"0": 8, "10": 3}'
    assert ledger.position(properties, "t#2") == {0: 8, 10: 3}
    assert ledger.accounts(properties, "t#2") == accounts
    assert ledger.topic_id(properties, "t#2") == "id"
    assert properties["lakehouse.run.t#2"] == "run-1"
    assert (ledger.position(properties, "t"), ledger.accounts(properties, "t")) == ({}, {})
    assert ledger.topic_id(properties, "t") is None


def test_an_account_from_before_losses_were_counted_has_lost_nothing() -> None:
    properties = {"lakehouse.accounts.t": '{"0": {"first_offset": 3, "absent_offsets": 1}}'}
    assert ledger.accounts(properties, "t") == {0: Account(3, 1, 0)}


def test_the_sources_of_a_topic_come_in_the_order_of_their_generations() -> None:
    names = ["b", "a#10", "a", "a#9", "a#2"]
    properties = {f"lakehouse.position.{name}": "{}" for name in names} | {"lakehouse.rule-version": "1"}
    assert ledger.sources(properties) == ["a", "a#2", "a#9", "a#10", "b"]
    assert ledger.sources(properties, "a") == ["a", "a#2", "a#9", "a#10"]
    assert ledger.sources(properties, "c") == []


@pytest.mark.parametrize(
    ("source", "topic", "following"), [("t", "t", "t#2"), ("t#2", "t", "t#3"), ("t#9", "t", "t#10")]
)
def test_a_topic_made_anew_gets_the_next_number(source: str, topic: str, following: str) -> None:
    assert ledger.topic_of(source) == topic
    assert ledger.next_generation(source) == following


def test_only_the_commits_of_a_source_moved_it() -> None:
    move = {"lakehouse.topic": "t", "lakehouse.start-offsets": '{"0": 1}', "lakehouse.end-offsets": '{"0": 4}'}
    assert ledger.advances([{}, move, move | {"lakehouse.topic": "t#2"}], "t") == [({0: 1}, {0: 4})]


def test_a_part_counts_in_the_archive_once_it_has_left_the_live_table_for_good() -> None:
    properties = {"lakehouse.archive.through": "4", "lakehouse.archive.restored": "[2, 3]"}
    assert [part for part in range(1, 7) if ledger.has_left(properties, part)] == [1, 4]
    assert not ledger.has_left({}, 1)
    assert (ledger.through({}), ledger.last_part({}), ledger.restored({})) == (0, 0, frozenset())


def test_the_properties_of_an_archive_say_again_what_was_put_into_them() -> None:
    held = {date(2026, 2, 1): date(2026, 3, 8), date(2026, 1, 31): date(2026, 3, 9)}
    assert ledger.held({ledger.HELD: ledger.held_text(held)}) == held
    assert ledger.held_text(held) == '{"2026-01-31": "2026-03-09", "2026-02-01": "2026-03-08"}'
    assert ledger.restored({ledger.RESTORED: ledger.restored_text({10, 9})}) == {9, 10}
    assert ledger.restored_text({10, 9}) == "[9, 10]"


def test_dates_that_corrections_took_rows_from_are_told_of_for_a_while() -> None:
    first, second, at = date(2023, 11, 24), date(2023, 11, 25), datetime(2026, 11, 2, 5, tzinfo=UTC)
    told = ledger.withdrawn_text({}, [second, first], at)
    assert told == '{"2023-11-24": "2026-11-02T05:00:00+00:00", "2023-11-25": "2026-11-02T05:00:00+00:00"}'
    properties = {ledger.WITHDRAWN: told}
    assert ledger.withdrawn(properties, ledger.WITHDRAWN) == {first: at, second: at}
    assert ledger.withdrawn(properties, ledger.WITHDRAWN_INGESTED) == {}
    later = at + timedelta(days=29)
    both = {ledger.WITHDRAWN: ledger.withdrawn_text({first: at, second: at}, [second], later)}
    assert ledger.withdrawn(both, ledger.WITHDRAWN) == {first: at, second: later}
    much_later = ledger.withdrawn_text({first: at, second: later}, [], at + timedelta(days=31))
    assert ledger.withdrawn({ledger.WITHDRAWN: much_later}, ledger.WITHDRAWN) == {second: later}
