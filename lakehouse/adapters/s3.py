"""The object store, by plain S3 calls."""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import urlsplit

from pyarrow import fs

from lakehouse.errors import ServerUnavailableError, TerminalError
from lakehouse.settings import S3Settings

_CHUNK_BYTES = 1 << 20


def filesystem(settings: S3Settings) -> fs.S3FileSystem:
    """Open the store as an Arrow file system; a file appears when it is closed, whole or not at all."""
    endpoint = urlsplit(settings.endpoint)
    return fs.S3FileSystem(
        access_key=settings.access_key,
        secret_key=settings.secret_key.get_secret_value(),
        endpoint_override=endpoint.netloc,
        scheme=endpoint.scheme,
        region=settings.region,
        connect_timeout=10,
        request_timeout=60,
    )


def key_of(location: str) -> str:
    """`bucket/key` of an `s3://bucket/key` location, which is how the file system names it."""
    return location.removeprefix("s3://")


def bytes_of(store: fs.FileSystem, location: str) -> tuple[int, str]:
    """The size of a file and the SHA-256 of its bytes, read piece by piece."""
    digest, size = hashlib.sha256(), 0
    with errors(), store.open_input_stream(key_of(location)) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


@contextmanager
def errors() -> Generator[None]:
    """Translate what the store's client raises.

    Raises:
        TerminalError: the store does not have the file.
        ServerUnavailableError: it failed otherwise.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise TerminalError(f"the object store does not have it: {error}") from error
    except OSError as error:
        raise ServerUnavailableError(f"the object store failed ({error}): see `lakehouse stack status`") from error
