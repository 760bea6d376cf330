"""What an environment is made of beside its topics: Iceberg tables, tables in PostgreSQL, a view over both."""

from contextlib import suppress

from lakehouse.adapters import ads_store, file_store, s3
from lakehouse.adapters.ads_archive import AdsArchive
from lakehouse.adapters.ads_store import AdsStore
from lakehouse.adapters.catalog import Applied
from lakehouse.adapters.postgres import drop_schema
from lakehouse.settings import Settings
from lakehouse.tables import ALL


def apply(settings: Settings) -> list[Applied]:
    """Create what is missing, and bring the rest up to date with its specs; idempotent.

    Raises:
        TerminalError: a change would lose or reinterpret data.
        TransientError: a server did not answer, or somebody else changed the same; apply again.
    """
    lake = AdsArchive(settings)
    applied = [lake.apply(spec) for spec in ALL]
    applied += [*file_store.apply(settings), *AdsStore(settings).apply()]
    applied.append(lake.apply_view())
    return applied


def drop(settings: Settings) -> None:
    """Drop an environment with a prefix, data included.

    Raises:
        TerminalError: the settings have no prefix, so that would be everything.
    """
    AdsArchive(settings).drop_environment()
    file_store.drop(settings)
    drop_schema(settings, ads_store.NAMESPACE)
    store = s3.filesystem(settings.s3)
    for folder in ("backup", "archive"):
        with suppress(FileNotFoundError):
            store.delete_dir(f"{settings.s3.ads_bucket}/{settings.prefix}{folder}")
