"""What an object store's answer says of the settings, which the local one never says."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from pydantic import SecretStr

from lakehouse.adapters.objects import Objects, ObjectVersion
from lakehouse.errors import SettingsError
from lakehouse.settings import S3Settings


class OfAnotherRegion(BaseHTTPRequestHandler):
    """Refuses whatever is asked, as S3 does when a request is signed for another region."""

    def do_HEAD(self) -> None:
        self.send_response(400)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(400)
        self.end_headers()
        self.wfile.write(b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>no</Message></Error>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), OfAnotherRegion) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_wrong_region_is_told_and_no_object_is_missed(endpoint: str) -> None:
    store = Objects(S3Settings(endpoint=endpoint, secret_key=SecretStr("secret")))  # pyright: ignore[reportCallIssue]
    with pytest.raises(SettingsError, match="LAKEHOUSE_S3__REGION"):
        store.look(ObjectVersion("bucket", "key", None, None))
    with pytest.raises(SettingsError, match="LAKEHOUSE_S3__REGION"):
        store.newest("bucket", "key")
