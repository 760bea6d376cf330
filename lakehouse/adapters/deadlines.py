"""Requests of urllib3 that end in time.

Its time-out is of each read, so an answer that drips in never runs out of it; neither urllib3 nor httpx has another.
Here it is of the answer as a whole, its head included.
"""

import http.client
import io
import socket
import time
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection


class _UntilDeadline(io.RawIOBase):
    """What a socket receives within the time-out that it has now."""

    def __init__(self, received: io.RawIOBase, of: socket.socket) -> None:
        self._received = received
        self._socket = of
        self._deadline = time.monotonic() + (of.gettimeout() or 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining_seconds = self._deadline - time.monotonic()
        if remaining_seconds <= 0:
            raise TimeoutError("the answer takes too long")
        self._socket.settimeout(remaining_seconds)
        return self._received.readinto(buffer)

    def close(self) -> None:
        self._received.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_UntilDeadline(self.fp.detach(), sock))


class _Connection(HTTPConnection):
    response_class = _Answer


class _SecureConnection(HTTPSConnection):
    response_class = _Answer


class _Connections(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection  # pyright: ignore[reportAssignmentType]  # as of their own


class _SecureConnections(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection  # pyright: ignore[reportAssignmentType]


def hold(manager: urllib3.PoolManager) -> None:
    """Let each answer to a request of the manager be whole when the request's time-out is over; it has to have one.

    Opening a connection may take as long again for each address that the server's name has, and for TLS.
    """
    pools: dict[str, type[urllib3.HTTPConnectionPool]] = {"http": _Connections, "https": _SecureConnections}
    manager.pool_classes_by_scheme = pools  # pyright: ignore[reportAttributeAccessIssue]  # its guess is too narrow
