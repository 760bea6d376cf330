"""What Kafka no longer has is accepted by a person, counted in the ledger, and ingest goes on."""

import time

import pytest

from lakehouse import ingest, ledger
from lakehouse.accept_loss import Loss, accept_loss
from lakehouse.adapters import kafka
from lakehouse.adapters.catalog import Lake
from lakehouse.audit import Gap, audit
from lakehouse.errors import DataLossError, TerminalError
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS
from tests.shops import bad, good, open_shop

pytestmark = pytest.mark.integration


@pytest.fixture
def shop(environment: Settings) -> Settings:
    """An environment with its tables and a topic of one partition."""
    return open_shop(environment, 1)


def users(settings: Settings) -> list[str]:
    return sorted(
        Lake(settings).load(USER_ACTIONS).scan(selected_fields=("user_id",)).to_arrow()["user_id"].to_pylist()
    )


def test_offsets_that_retention_dropped_count_as_lost_and_ingest_goes_on_behind_them(shop: Settings) -> None:
    topic = shop.user_actions_topic
    kafka.send(shop, topic, [good(0), bad(0)])
    ingest.run(shop)
    kafka.send(shop, topic, [good(1), bad(0), good(2)])
    kafka.delete_records(shop, topic)
    kafka.send(shop, topic, [good(3)])
    with pytest.raises(DataLossError, match=rf"offsets 2 to 4 of {topic}/0 are gone.*accept-loss --dry-run"):
        ingest.run(shop)
    detail = "offsets 2 to 4 are gone from Kafka before they were read; restore them, or see"
    gone = Gap("kafka", f"{topic}/0", 3, f"{detail} `lakehouse ingest accept-loss --dry-run`")
    report = audit(shop)
    assert report.gaps == (gone,)
    assert [(row.position, row.end_offset, row.lag_rows) for row in report.ledger] == [(2, 6, 1)]
    other = shop.kafka.model_copy(update={"user_actions_topic": "another"})
    assert audit(shop.model_copy(update={"kafka": other})).ok  # of a topic that no ingest reads, nobody misses any

    loss = Loss(topic, 0, 2, 5, 3, f"{topic}/0 goes on at offset 5, 3 offsets count as lost")
    assert accept_loss(shop, dry_run=True) == [loss]
    with pytest.raises(DataLossError):
        ingest.run(shop)
    assert accept_loss(shop) == [loss]
    assert accept_loss(shop) == []

    assert ingest.run(shop).published_rows == 1
    assert users(shop) == ["user_0", "user_3"]
    report = audit(shop)
    assert report.gaps == ()
    (row,) = report.ledger
    assert (row.position, row.published_rows, row.quarantined_rows, row.lost_offsets) == (6, 2, 1, 3)


def test_what_an_ingest_reads_while_the_audit_looks_is_not_missed_when_kafka_drops_it(
    shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, offsets = shop.user_actions_topic, kafka.offsets
    kafka.send(shop, topic, [good(0)])
    ingest.run(shop)

    def after_another_ingest(settings: Settings, name: str) -> dict[int, tuple[int, int]]:
        monkeypatch.setattr(kafka, "offsets", offsets)
        kafka.send(shop, topic, [good(1)])
        ingest.run(shop)
        kafka.delete_records(shop, topic)
        return offsets(settings, name)

    monkeypatch.setattr(kafka, "offsets", after_another_ingest)
    report = audit(shop)
    assert report.gaps == ()
    assert [(row.position, row.end_offset, row.lag_rows) for row in report.ledger] == [(1, 2, 0)]


def test_a_topic_made_anew_goes_on_as_a_source_of_its_own(shop: Settings) -> None:
    topic = shop.user_actions_topic
    assert accept_loss(shop) == []
    kafka.send(shop, topic, [good(0), bad(0)])
    ingest.run(shop)
    for number, source in ((1, f"{topic}#2"), (2, f"{topic}#3")):
        _make_anew(shop)
        kafka.send(shop, topic, [good(number), good(10 + number), bad(0)])
        with pytest.raises(DataLossError, match=f"topic {topic} was made anew"):
            ingest.run(shop)
        (loss,) = accept_loss(shop)
        assert (loss.rows, loss.consequence.endswith(f"goes on from its start as {source}")) == (None, True)
        assert accept_loss(shop) == []
        assert ingest.run(shop).position == {source: {0: 3}}
        assert ingest.run(shop).commits == 0
        assert audit(shop).gaps == ()
    assert users(shop) == ["user_0", "user_1", "user_11", "user_12", "user_2"]
    rows = Lake(shop).load(USER_ACTIONS).scan(selected_fields=("kafka_topic", "kafka_offset")).to_arrow().to_pylist()
    assert sorted((row["kafka_topic"], row["kafka_offset"]) for row in rows) == [
        (topic, 0),
        (f"{topic}#2", 0),
        (f"{topic}#2", 1),
        (f"{topic}#3", 0),
        (f"{topic}#3", 1),
    ]
    assert [row.topic for row in audit(shop).ledger] == [topic, f"{topic}#2", f"{topic}#3"]


def test_a_position_past_the_end_of_the_same_topic_ends_the_source_too(shop: Settings) -> None:
    topic = shop.user_actions_topic
    kafka.send(shop, topic, [good(0)])
    ingest.run(shop)
    table = Lake(shop).load(USER_ACTIONS)
    key = ledger.POSITION + topic
    with table.transaction() as transaction:
        transaction.set_properties({key: ledger.offsets_text({0: 9})})
    with pytest.raises(DataLossError, match=rf"{topic}/0 up to offset 9 and Kafka ends at 1.*accept-loss"):
        ingest.run(shop)
    (loss,) = accept_loss(shop)
    assert loss.topic_partition is None
    assert ingest.run(shop).position == {f"{topic}#2": {0: 1}}


def _make_anew(settings: Settings) -> None:
    topic = settings.user_actions_topic
    kafka.delete_topic(settings, topic)
    deadline = time.monotonic() + 60
    while True:
        try:
            kafka.offsets(settings, topic)
        except TerminalError:
            break
        assert time.monotonic() < deadline
        time.sleep(0.2)
    kafka.create_topic(settings, topic, 1)
