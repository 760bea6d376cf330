"""Which of Trino's errors are worth a retry."""

import pytest
import requests
from trino import exceptions

from lakehouse.adapters.trino import query, translate
from lakehouse.errors import LakehouseError, ServerUnavailableError, SettingsError, TerminalError, TransientError
from lakehouse.settings import Settings, TrinoSettings


def failed(error_type: str, error_name: str) -> exceptions.TrinoQueryError:
    return exceptions.TrinoQueryError(
        {"errorType": error_type, "errorName": error_name, "message": "what happened"}, query_id="q1"
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (failed("USER_ERROR", "TABLE_NOT_FOUND"), TerminalError),
        (failed("INSUFFICIENT_RESOURCES", "EXCEEDED_LOCAL_MEMORY_LIMIT"), TerminalError),
        (failed("INTERNAL_ERROR", "GENERIC_INTERNAL_ERROR"), TerminalError),
        (failed("INTERNAL_ERROR", "SERVER_STARTING_UP"), TransientError),
        (failed("EXTERNAL", "ICEBERG_CATALOG_ERROR"), TransientError),
        (failed("EXTERNAL", "ICEBERG_COMMIT_ERROR"), TransientError),
        (exceptions.TrinoConnectionError("failed to execute"), ServerUnavailableError),
        (exceptions.OperationalError("error 503"), ServerUnavailableError),
        (exceptions.Http502Error("bad gateway"), ServerUnavailableError),
        (requests.ConnectionError("refused"), ServerUnavailableError),
        (exceptions.TrinoAuthError("no"), SettingsError),
        (exceptions.HttpError("error 401: b'Unauthorized'"), SettingsError),
        (exceptions.HttpError("error 403: b'no password over HTTP'"), SettingsError),
        (exceptions.HttpError("error 500: b'oh'"), ServerUnavailableError),
        (requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"), SettingsError),
        (exceptions.NotSupportedError("no"), TerminalError),
    ],
)
def test_each_error_of_the_client_becomes_one_of_ours(error: Exception, kind: type[LakehouseError]) -> None:
    assert type(translate(error, "127.0.0.1:1")) is kind


def test_a_failed_query_is_told_with_its_name_and_id() -> None:
    told = str(translate(failed("USER_ERROR", "TABLE_NOT_FOUND"), "127.0.0.1:1"))
    assert told == "Trino at 127.0.0.1:1: TABLE_NOT_FOUND: what happened (query q1)"


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(ServerUnavailableError, match="does not answer"):
        query(Settings(trino=TrinoSettings(port=1)).trino_as("analyst"), "SELECT 1", attempts=1)
