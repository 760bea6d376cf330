"""PostgreSQL, the only importer of psycopg."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from lakehouse.errors import ServerUnavailableError
from lakehouse.settings import Settings

SUPERUSER = "postgres"

Connection = psycopg.Connection[tuple[object, ...]]


@contextmanager
def connect(
    settings: Settings, *, database: str | None = None, superuser: bool = False, autocommit: bool = False
) -> Iterator[Connection]:
    """Open a connection to `database` (default: the pipeline's); commits at the end unless an error leaves it.

    Raises:
        ServerUnavailableError: the server did not answer or ended the session.
    """
    user, password = settings.postgres.user, settings.postgres.password
    if superuser:
        user, password = SUPERUSER, settings.stack.postgres_superuser_password
    try:
        with psycopg.connect(
            host=settings.postgres.host,
            port=settings.postgres.port,
            user=user,
            password=password.get_secret_value(),
            dbname=database or settings.postgres.database,
            connect_timeout=5,
            autocommit=autocommit,
        ) as connection:
            yield connection
    except psycopg.OperationalError as error:
        where = f"{settings.postgres.host}:{settings.postgres.port}"
        raise ServerUnavailableError(
            f"PostgreSQL at {where} did not answer ({error}): see `lakehouse stack status`"
        ) from error
