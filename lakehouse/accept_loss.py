"""Go on where Kafka no longer has what the table has not read; a person decides that, and the ledger remembers it."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lakehouse import ledger
from lakehouse.adapters import kafka
from lakehouse.adapters.catalog import Lake
from lakehouse.plans import Account, OffsetRange, lost_ranges, strayed
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_QUARANTINE


@dataclass(frozen=True, slots=True)
class Loss:
    """Something of a topic that can't be read any more.

    Attributes:
        source: the topic as the table knows it.
        topic_partition: None when the topic was made anew, which ends the source as a whole.
        start_offset: the first lost offset.
        end_offset: the one after the last; None where nobody can know how far the old topic went.
        rows: lost offsets, without those that quarantine already holds.
        consequence: how ingest goes on.
    """

    source: str
    topic_partition: int | None
    start_offset: int | None
    end_offset: int | None
    rows: int | None
    consequence: str


def accept_loss(settings: Settings, *, dry_run: bool = False) -> list[Loss]:
    """Accept what is lost of every topic, in one fenced commit a topic; a second call finds nothing.

    A range that retention dropped counts as `lost` in the ledger from then on.
    A topic that was made anew is read from its start, under a source name of its own, because its offsets begin again.

    Raises:
        FenceError: an ingest moved the position meanwhile; run again.
        TransientError: a server did not answer.
    """
    lake = Lake(settings)
    return [loss for topic in settings.user_actions_topics for loss in _accept(settings, lake, topic, dry_run=dry_run)]


def _accept(settings: Settings, lake: Lake, topic: str, *, dry_run: bool) -> list[Loss]:
    properties = lake.load(USER_ACTIONS).properties
    known = ledger.sources(properties, topic)
    if not known:
        return []
    source, run_id = known[-1], uuid.uuid4().hex
    kafka_id, available = kafka.topic_id(settings, topic), kafka.offsets(settings, topic)
    position = ledger.position(properties, source)
    anew = ledger.topic_id(properties, source) not in (None, kafka_id) or strayed(source, position, available)
    if anew:
        following = ledger.next_generation(source)
        found = [_anew(source, following)]
        summary, changed = ledger.move(following, {}, {}), ledger.entries(following, {}, kafka_id, {}, run_id)
    else:
        ranges = lost_ranges(position, available)
        found, accounts = _dropped(lake, source, ranges, ledger.accounts(properties, source))
        end = position | {piece.topic_partition: piece.end_offset for piece in ranges}
        summary, changed = ledger.move(source, position, end), ledger.entries(source, end, kafka_id, accounts, run_id)
    if found and not dry_run:
        lake.append(
            USER_ACTIONS,
            [],
            expected=ledger.found(properties, ledger.RULES, ledger.POSITION + source, *changed),
            properties=changed,
            run_id=run_id,
            summary=summary | {"lakehouse.accepted-loss": "; ".join(loss.consequence for loss in found)},
        )
    return found


def _anew(source: str, following: str) -> Loss:
    consequence = f"{source} has ended; the topic goes on from its start as {following}"
    return Loss(source, None, None, None, None, consequence)


def _dropped(
    lake: Lake, source: str, ranges: Sequence[OffsetRange], accounts: dict[int, Account]
) -> tuple[list[Loss], dict[int, Account]]:
    """What retention dropped, and the accounts that say so."""
    since = {piece.topic_partition: piece.start_offset for piece in ranges}
    held = lake.quarantined_offsets(USER_ACTIONS_QUARANTINE, source, since) if ranges else {}
    losses: list[Loss] = []
    for piece in ranges:
        partition = piece.topic_partition
        rows = piece.rows - sum(offset < piece.end_offset for offset in held.get(partition, ()))
        consequence = f"{source}/{partition} goes on at offset {piece.end_offset}, {rows} offsets count as lost"
        losses.append(Loss(source, partition, piece.start_offset, piece.end_offset, rows, consequence))
        account = accounts.get(partition, Account(0))
        accounts[partition] = replace(account, lost_offsets=account.lost_offsets + rows)
    return losses, accounts
