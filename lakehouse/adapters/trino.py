"""Queries on Trino, with its errors told apart by what a caller can do about them."""

import logging
from collections.abc import Sequence
from typing import Any

import requests
from trino import dbapi, exceptions

from lakehouse.errors import LakehouseError, ServerUnavailableError, TerminalError, TransientError
from lakehouse.settings import TrinoSettings

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
            return TerminalError(f"Trino at {address} refuses the user: {error}")
        case exceptions.OperationalError() | exceptions.HttpError() | requests.RequestException():
            what = f"Trino at {address} does not answer: {error}"
            return ServerUnavailableError(f"{what}; is it up (`lakehouse stack status`)?")
        case _:
            return TerminalError(f"Trino's client: {type(error).__name__}: {error}")


def query(
    settings: TrinoSettings, sql: str, parameters: Sequence[Any] = (), *, attempts: int = 3
) -> list[tuple[Any, ...]]:
    """Run one statement and return all its rows.

    Args:
        settings: where Trino is and who asks.
        sql: one statement; tables are named in full, `catalog.schema.table`.
        parameters: for the statement's `?`, in order.
        attempts: how often a request is sent before the server counts as unavailable.

    Raises:
        ServerUnavailableError: Trino does not answer.
        TransientError: the query failed for a reason that may pass.
        TerminalError: the query fails again until it or the data changes.
    """
    address = f"{settings.host}:{settings.port}"
    with requests.Session() as session:
        session.trust_env = False  # neither a proxy nor REQUESTS_CA_BUNDLE of the environment is meant for Trino
        connection: Any = dbapi.connect(  # pyright: ignore[reportUnknownMemberType]
            host=settings.host,
            port=settings.port,
            user=settings.user,
            source="lakehouse",
            http_scheme="http",
            http_session=session,
            max_attempts=attempts,
            timezone="UTC",
        )
        try:
            cursor = connection.cursor()
            cursor.execute(sql, list(parameters) or None)
            return [tuple(row) for row in cursor.fetchall()]
        except (exceptions.Error, exceptions.HttpError, requests.RequestException) as error:
            raise translate(error, address) from error
