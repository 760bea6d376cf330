"""What a Spark task finds of announced files, where the object store itself is at fault."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pyarrow as pa
import pytest
from pydantic import SecretStr

from lakehouse.file_task import CheckTask
from lakehouse.settings import S3Settings
from tests.files import notification

ASKED: set[str] = set()


class Troubled(BaseHTTPRequestHandler):
    """Has no object `late`, hangs up on who asks for `away` or whether it is there, and else finds us foreign."""

    def do_HEAD(self) -> None:
        key = self.path.rpartition("/")[2].partition("?")[0]
        ASKED.add(key)
        if key in {"away", "is-anybody-there"}:
            return
        self.send_response(404 if key == "late" else 400)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>no</Message></Error>")

    def do_GET(self) -> None:
        self.do_HEAD()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Settings]:
    def go_on(_seconds: float) -> None:
        """Wait for nothing between tries."""

    monkeypatch.setattr("botocore.endpoint.time.sleep", go_on)
    ASKED.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Troubled) as server:
        Thread(target=server.serve_forever).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        yield S3Settings(endpoint=endpoint, secret_key=SecretStr("secret"))  # pyright: ignore[reportCallIssue]
        server.shutdown()


def findings(store: S3Settings, *keys: str) -> list[tuple[int, str]]:
    """What is found of these files, each in a task of its own but the first two."""
    tasks = ((0, 1), *((number,) for number in range(2, len(keys))))
    check = CheckTask(store, tuple(map(notification, keys)), tasks, frozenset())
    batches = check([pa.record_batch({"id": [number]}) for number in range(len(tasks))])
    return [(row["number"], row["finding"]) for batch in batches for row in batch.to_pylist()]


@pytest.mark.parametrize(("key", "finding"), [("away", "unavailable"), ("foreign", "misconfigured")])
def test_a_store_that_is_away_or_does_not_know_us_is_not_asked_for_each_file(
    store: S3Settings, key: str, finding: str
) -> None:
    assert findings(store, key, "late", "late") == [(number, finding) for number in range(3)]
    assert "late" not in ASKED
    assert findings(store, "late", "late") == [(0, "bad"), (1, "bad")]  # another job asks again
