"""All collectors of the exporter, each with how often it looks."""

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

from lakehouse.exporter import arrivals, holdings, ledgers
from lakehouse.exporter.clients import Clients
from lakehouse.exporter.looks import Collector, Watches
from lakehouse.exporter.servers import SERVERS, Dags, airflow, server
from lakehouse.settings import Settings


@contextmanager
def watching(settings: Settings) -> Generator[Watches]:
    """Look at everything of an environment, again and again, until the block ends."""
    with Clients(settings) as clients:
        watches = Watches(collectors(clients))
        watches.start()
        try:
            yield watches
        finally:
            watches.stop()


def collectors(clients: Clients) -> list[Collector]:
    """Make the collectors of an environment; nothing is asked yet."""
    times, s3 = clients.settings.exporter, clients.settings.s3
    often = {
        "streams": partial(arrivals.streams, clients),
        "announcements": partial(arrivals.announcements, clients),
        "server-airflow": partial(airflow, clients),
        **{f"server-{name}": partial(server, clients, name) for name in SERVERS},
    }
    now_and_then = {
        "positions": partial(arrivals.positions, clients),
        "marts": partial(arrivals.marts, clients),
        "rows": partial(arrivals.rows, clients),
        "files": partial(arrivals.files, clients),
        "ads": partial(arrivals.ads, clients),
        "tables": partial(holdings.tables, clients),
        "archive": partial(holdings.archive, clients),
        "disk": partial(holdings.disk, clients),
        "dags": Dags(clients),
    }
    seldom = {
        "ledger-events": partial(ledgers.events, clients),
        "ledger-files": partial(ledgers.files, clients),
        "ledger-ads": partial(ledgers.ads, clients),
        "small-files": partial(holdings.small_files, clients),
    }
    buckets = (s3.warehouse_bucket, s3.archive_bucket, s3.user_events_bucket, s3.ads_bucket, s3.file_drop_bucket)
    listings = {f"bucket-{name}": partial(holdings.bucket, clients, name) for name in buckets}
    return [
        *(Collector(name, look, times.refresh_seconds, times.timeout_seconds) for name, look in often.items()),
        *(Collector(name, look, times.tables_seconds, times.timeout_seconds) for name, look in now_and_then.items()),
        # What reads whole tables or buckets may take its time.
        *(Collector(name, look, times.audit_seconds, times.audit_timeout_seconds) for name, look in seldom.items()),
        *(Collector(name, look, times.listing_seconds, times.audit_timeout_seconds) for name, look in listings.items()),
    ]
