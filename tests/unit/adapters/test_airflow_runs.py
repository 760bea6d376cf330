"""What stands at Airflow's address and is slow or no Airflow, which the real one is not at the wish of a test."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Final

import pytest

from lakehouse.adapters.airflow import Airflow
from lakehouse.adapters.airflow_runs import AirflowAnswerError, AirflowRuns, Connection
from lakehouse.errors import ServerUnavailableError
from lakehouse.settings import AirflowSettings

LOGIN: Final = "/auth/token"
DAGS: Final = "/api/v2/dags"
HEALTH: Final = "/api/v2/monitor/health"
JSON: Final = "Content-Type: application/json"
DRIP_SECONDS: Final = 0.05
LIMIT_SECONDS: Final = 0.4


def answer(body: bytes, status: int = 200, *heads: str) -> bytes:
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", "Connection: close", *(heads or [JSON])]
    return "\r\n".join([*lines, "", ""]).encode() + body


TOKEN: Final = answer(b'{"access_token": "x"}', 201)
NO_DAGS: Final = answer(b'{"dags": [], "total_entries": 0}')
DEEP: Final = b"[" * 100_000 + b"]" * 100_000
ODD: Final = {
    "null": answer(b"null"),
    "nothing": answer(b"", 204),
    "accepted": answer(b"{}", 202),
    "an unknown charset": answer(b"{}", 200, f"{JSON}; charset=x-nowhere"),
    "too deep": answer(b'{"dags": ' + DEEP + b', "total_entries": 1}'),
    "not as packed as it says": answer(b"{}", 200, JSON, "Content-Encoding: gzip"),
}
ODD_LOGINS: Final = {
    "null": answer(b"null", 201),
    "no token": answer(b"{}", 201),
    "a page": answer(b"<html>", 200, "Content-Type: text/html"),
    "too deep": answer(b'{"access_token": ' + DEEP + b"}", 201),
    "not as packed as it says": answer(b"{}", 201, JSON, "Content-Encoding: gzip"),
}


@contextmanager
def airflow(answers: dict[str, bytes], dripping: str = "", drops_at_once: int = 0) -> Generator[str]:
    """Something at whose address each of these paths is answered so.

    Args:
        answers: the bytes by the path.
        dripping: the path whose answer comes byte by byte.
        drops_at_once: how many bytes of that come before.
    """

    class Answers(BaseHTTPRequestHandler):
        def say(self) -> None:
            self.close_connection = True
            path = self.path.partition("?")[0]
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            whole = answers[path]
            at_once = drops_at_once if path == dripping else len(whole)
            self.wfile.write(whole[:at_once])
            try:
                for byte in whole[at_once:]:
                    time.sleep(DRIP_SECONDS)
                    self.wfile.write(bytes([byte]))
            except OSError:  # nobody waits for the rest
                pass

        do_GET = do_POST = say  # noqa: N815 - as http.server calls them

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the standard library
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, args=[0.01]).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def asked(url: str, ask: Callable[[AirflowRuns], object], limit_seconds: float = 10) -> object:
    connection = Connection(AirflowSettings.model_validate({"url": url}))
    try:
        return ask(AirflowRuns(connection, limit_seconds))
    finally:
        connection.close()


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize(("path", "ask"), [(DAGS, AirflowRuns.dags), (HEALTH, AirflowRuns.unhealthy_parts)])
def test_an_odd_answer_is_not_taken_for_airflows(path: str, ask: Callable[[AirflowRuns], object], odd: bytes) -> None:
    with airflow({LOGIN: TOKEN, path: odd}) as url, pytest.raises(AirflowAnswerError, match="not Airflow's"):
        asked(url, ask)


@pytest.mark.parametrize("odd", ODD_LOGINS.values(), ids=ODD_LOGINS)
def test_an_odd_login_is_not_taken_for_airflows(odd: bytes) -> None:
    with airflow({LOGIN: odd}) as url, pytest.raises(AirflowAnswerError, match=f"POST {LOGIN} is not Airflow's"):
        asked(url, AirflowRuns.dags)


@pytest.mark.parametrize("at_once", [0, NO_DAGS.index(b"{")], ids=["its head", "its body"])
@pytest.mark.parametrize("dripping", [DAGS, LOGIN])
def test_an_answer_that_drips_in_is_given_up_when_the_time_is_over(dripping: str, at_once: int) -> None:
    with airflow({LOGIN: TOKEN, DAGS: NO_DAGS}, dripping, at_once) as url:
        begun = time.monotonic()
        with pytest.raises(ServerUnavailableError):
            asked(url, AirflowRuns.dags, LIMIT_SECONDS)
        assert LIMIT_SECONDS <= time.monotonic() - begun < LIMIT_SECONDS + 0.8


def test_an_answer_that_drips_in_is_read_whole_while_there_is_time() -> None:
    with airflow({LOGIN: TOKEN, DAGS: NO_DAGS}, DAGS, len(NO_DAGS) - 4) as url:
        assert asked(url, AirflowRuns.dags) == ()


def test_a_command_that_can_not_unpack_an_answer_says_that_airflow_is_away() -> None:
    with (
        airflow({LOGIN: ODD_LOGINS["not as packed as it says"]}) as url,
        Airflow(AirflowSettings.model_validate({"url": url})) as client,
        pytest.raises(ServerUnavailableError, match="DecodingError"),
    ):
        client.dag_ids()
