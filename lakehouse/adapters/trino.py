"""Queries on Trino, with its errors told apart by what a caller can do about them."""

import logging
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import requests
from trino import dbapi, exceptions
from trino.auth import BasicAuthentication

from lakehouse.errors import (
    LakehouseError,
    ServerUnavailableError,
    SettingsError,
    TerminalError,
    TransientError,
    shorten,
)
from lakehouse.settings import TrinoLogin

_PASSING_ERRORS = frozenset(
    {
        "ABANDONED_TASK",
        "CLUSTER_OUT_OF_MEMORY",
        "EXCEEDED_TIME_LIMIT",
        "NO_NODES_AVAILABLE",
        "PAGE_TRANSPORT_ERROR",
        "PAGE_TRANSPORT_TIMEOUT",
        "QUERY_QUEUE_FULL",
        "REMOTE_HOST_GONE",
        "REMOTE_TASK_ERROR",
        "REMOTE_TASK_MISMATCH",
        "SERVER_SHUTTING_DOWN",
        "SERVER_STARTING_UP",
        "TOO_MANY_REQUESTS_FAILED",
        "WORKER_RESTARTED",
    }
)

_REFUSED_LOGIN = re.compile(r"error 40[13]\b")
"""How the client tells that the server does not know the user, or refuses what it asks for."""

# The client tells at level INFO, on every import, that it will not store OAuth2 tokens; nothing here uses them.
logging.getLogger("trino").setLevel(logging.WARNING)


def is_passing(error_type: str | None, error_name: str | None) -> bool:
    """Say whether Trino's error may be gone when the same query runs again.

    Errors of type `EXTERNAL` come from what Trino stands on: the catalog, the object store, PostgreSQL, or another
    writer that committed first.

    Source: Trino's `StandardErrorCode`.
    """
    return error_type == "EXTERNAL" or error_name in _PASSING_ERRORS


def translate(error: Exception, address: str) -> LakehouseError:
    """Turn an error of the client into the one that says what a caller can do about it."""
    match error:
        case exceptions.TrinoQueryError():
            what = f"Trino at {address}: {error.error_name}: {error.message} (query {error.query_id})"
            return TransientError(what) if is_passing(error.error_type, error.error_name) else TerminalError(what)
        case exceptions.TrinoAuthError():
            return SettingsError(f"Trino at {address} refuses the login: {error}")
        case exceptions.HttpError() if _REFUSED_LOGIN.match(str(error)):
            return SettingsError(f"Trino at {address} refuses the login ({error}): see the passwords in trino.*")
        case _ if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return SettingsError(f"Trino at {address} has a certificate not to be trusted, see trino.ca_file: {error}")
        case exceptions.OperationalError() | exceptions.HttpError() | requests.RequestException():
            what = f"Trino at {address} does not answer: {shorten(str(error))}"
            return ServerUnavailableError(f"{what}; is it up (`lakehouse stack status`)?")
        case _:
            return TerminalError(f"Trino's client: {type(error).__name__}: {error}")


@contextmanager
def connection(
    login: TrinoLogin, *, attempts: int = 3, session_properties: Mapping[str, str] | None = None
) -> Generator[Any]:
    """Open a DB-API connection that asks as one of Trino's users; what it raises is the client's own.

    Args:
        login: where Trino is and who asks.
        attempts: how often a request is sent before the server counts as unavailable.
        session_properties: by name, those of a catalog as `catalog.name`.
    """
    with requests.Session() as session:
        session.trust_env = False  # neither a proxy nor REQUESTS_CA_BUNDLE of the environment is meant for Trino
        session.verify = str(login.ca_file) if login.ca_file else True
        auth = BasicAuthentication(login.user, login.password.get_secret_value()) if login.password else None
        opened: Any = dbapi.connect(  # pyright: ignore[reportUnknownMemberType]
            host=login.host,
            port=login.port,
            user=login.user,
            auth=auth,
            source="lakehouse",
            http_scheme="https" if login.tls else "http",
            http_session=session,
            max_attempts=attempts,
            session_properties=dict(session_properties or {}),
            timezone="UTC",
        )
        yield opened


def literal(text: str) -> str:
    """A text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def query(login: TrinoLogin, sql: str, parameters: Sequence[Any] = (), *, attempts: int = 3) -> list[tuple[Any, ...]]:
    """Run one statement and return all its rows.

    Args:
        login: where Trino is and who asks.
        sql: one statement; tables are named in full, `catalog.schema.table`.
        parameters: for the statement's `?`, in order.
        attempts: how often a request is sent before the server counts as unavailable.

    Raises:
        ServerUnavailableError: Trino does not answer.
        TransientError: the query failed for a reason that may pass.
        TerminalError: the query fails again until it, the data or the user's rights change.
    """
    try:
        with connection(login, attempts=attempts) as opened:
            cursor = opened.cursor()
            cursor.execute(sql, list(parameters) or None)
            return [tuple(row) for row in cursor.fetchall()]
    except (exceptions.Error, exceptions.HttpError, requests.RequestException) as error:
        raise translate(error, f"{login.host}:{login.port}") from error
