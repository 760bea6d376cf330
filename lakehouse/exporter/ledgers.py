"""What the ledgers say: whether anything is lost or doubled. Nothing is locked or changed for that."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

from lakehouse import audit, audit_notifications
from lakehouse.ads.audit import compare_counts
from lakehouse.errors import NotMadeError
from lakehouse.exporter.clients import Clients
from lakehouse.exporter.looks import Fact
from lakehouse.exporter.metrics import LEDGER_AUDIT_AGE_SECONDS, LEDGER_GAPS


def events(clients: Clients) -> Iterator[Fact]:
    """The ledgers of messages and of dropped CSV files, and the aggregate that people read of both."""
    with suppress(NotMadeError):
        gaps = Counter(gap.ledger for gap in audit.audit(clients.settings).gaps)
        for ledger in audit.LEDGERS:
            yield from _audited(ledger, gaps[ledger])


def files(clients: Clients) -> Iterator[Fact]:
    """The ledger of announced files."""
    with suppress(NotMadeError):
        yield from _audited("files", len(audit_notifications.audit(clients.settings).gaps))


def ads(clients: Clients) -> Iterator[Fact]:
    """The ledger of ad data, as far as counts tell."""
    with suppress(NotMadeError):
        yield from _audited("ads", len(compare_counts(clients.settings, datetime.now(UTC))))


def _audited(ledger: str, gaps: int) -> Iterable[Fact]:
    return Fact(LEDGER_GAPS, gaps, (ledger,)), Fact(LEDGER_AUDIT_AGE_SECONDS, 0, (ledger,), is_age=True)
