"""The object store, by plain S3 calls."""

from urllib.parse import urlsplit

from pyarrow import fs

from lakehouse.settings import S3Settings


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
