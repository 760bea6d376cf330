"""PostgreSQL, the only importer of psycopg."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import psycopg
from psycopg import sql

from lakehouse.errors import ServerUnavailableError, TerminalError
from lakehouse.settings import Settings

SUPERUSER = "postgres"
_OPTIONS = "-c tcp_keepalives_idle=30 -c tcp_user_timeout=60000"
"""So that the server notices a client whose machine is gone, and frees its locks."""

Connection = psycopg.Connection[tuple[object, ...]]


@contextmanager
def connect(
    settings: Settings, *, database: str | None = None, superuser: bool = False, autocommit: bool = False
) -> Generator[Connection]:
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
            options=_OPTIONS,
            autocommit=autocommit,
        ) as connection:
            yield connection
    except psycopg.OperationalError as error:
        where = f"{settings.postgres.host}:{settings.postgres.port}"
        raise ServerUnavailableError(
            f"PostgreSQL at {where} did not answer ({error}): see `lakehouse stack status`"
        ) from error


def drop_schema(settings: Settings, name: str) -> None:
    """Drop a schema of a prefixed environment with its data, if it is there.

    Args:
        settings: of the environment.
        name: of the schema, without the environment's prefix.

    Raises:
        ServerUnavailableError: the server did not answer or ended the session.
        TerminalError: the settings have no prefix, so that would be the real one.
    """
    if not settings.prefix:
        raise TerminalError("only an environment with a prefix can be dropped whole")
    with connect(settings) as connection:
        schema = sql.Identifier(f"{settings.prefix}{name}")
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(schema))


def create_role_and_databases(settings: Settings, databases: Iterable[str]) -> None:
    """Create the pipeline's role with its password, and the databases it owns; idempotent.

    Raises:
        ServerUnavailableError: the server did not answer or ended the session.
    """
    user = sql.Identifier(settings.postgres.user)
    password = sql.Literal(settings.postgres.password.get_secret_value())
    with connect(settings, database="postgres", superuser=True, autocommit=True) as connection:
        roles = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles")}
        verb = sql.SQL("ALTER" if settings.postgres.user in roles else "CREATE")
        connection.execute(sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, user, password))
        present = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
        for name in databases:
            if name not in present:
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), user))
