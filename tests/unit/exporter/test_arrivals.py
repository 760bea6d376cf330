from lakehouse.exporter.arrivals import published_messages, reached, replayed_rows
from lakehouse.ledger import CSV_REPLAYED, POSITION, REPLAYED, entries
from lakehouse.plans import Account

EVENTS = entries("clicks", {0: 100, 1: 50}, "id", {0: Account(10, 5, 3), 1: Account(0)}, "run")


def test_published_is_what_was_read_less_what_holds_no_message_is_lost_or_refused() -> None:
    # 100 - 10 - 5 - 3 = 82 of partition 0, and 50 of partition 1
    assert published_messages(EVENTS, {}, 12) == 82 + 50 - 12


def test_refused_messages_of_a_run_under_way_take_nothing_from_what_was_published_before() -> None:
    ahead = {POSITION + "clicks": '{"0": 110, "1": 50}'}
    assert published_messages(EVENTS, ahead, 12 + 10) == 82 + 50 - 12


def test_a_topic_that_was_made_anew_adds_to_what_the_old_one_brought() -> None:
    anew = entries("clicks#2", {0: 7}, "id2", {0: Account(0)}, "run")
    assert published_messages(EVENTS | anew, {}, 0) == 82 + 50 + 7


def test_nothing_is_published_before_the_first_run() -> None:
    assert published_messages({}, {}, 0) == 0
    assert published_messages({}, {POSITION + "clicks": '{"0": 3}'}, 3) == 0


def test_replayed_rows_are_those_of_topics_and_of_files() -> None:
    assert replayed_rows(EVENTS | {REPLAYED + "clicks": '{"0": 4, "1": 1}', CSV_REPLAYED: "2"}) == 7


def test_the_position_counts_in_the_topic_that_was_read_and_not_in_one_of_its_name_made_since() -> None:
    assert reached(EVENTS, "clicks", "id") == {0: 100, 1: 50}
    assert reached(EVENTS, "clicks", "another") == {}
    assert reached(EVENTS, "views", "id") == {}
    anew = EVENTS | entries("clicks#2", {0: 7}, "another", {0: Account(0)}, "run")
    assert reached(anew, "clicks", "another") == {0: 7}


def test_the_position_of_a_table_that_does_not_know_the_topics_id_counts() -> None:
    assert reached({POSITION + "clicks": '{"0": 3}'}, "clicks", "id") == {0: 3}
