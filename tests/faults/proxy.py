"""A proxy between our commands and a server that speaks HTTP; it fails as it is told, and passes bytes on unchanged.

Unchanged, because S3's signature covers the headers, the host among them.
"""

import asyncio
import re
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

Fault = Literal["answer", "slow", "cut", "swallow", "replace", "pass"]
_HEAD_BYTES = 1024 * 1024
_PIECES = 8


class _Message(NamedTuple):
    """One request or answer, byte by byte."""

    start_line: str
    headers: Mapping[str, str]
    head: bytes
    body: bytes


@dataclass
class Rule:
    """What to do with requests of a method to a path.

    Attributes:
        fault: `answer` with `status` and do not pass it on; be `slow`, both ways, in steps of `seconds`;
            `cut` the connection after half of the request; pass it on, then `swallow` the answer and close, or
            `replace` it by `status`; or just `pass`.
        times: how many requests; then the rule is spent.
        first: called before the request is passed on.
        then: called when the server has answered.
        hits: how many requests it met so far.
    """

    fault: Fault
    method: str
    path: str
    times: int
    status: int = 503
    seconds: float = 0.0
    first: Callable[[], object] = lambda: None
    then: Callable[[], object] = lambda: None
    hits: int = 0


@dataclass
class FaultProxy:
    """A running proxy.

    Attributes:
        url: where it listens.
        requests: how many it was asked.
    """

    upstream: str
    url: str = ""
    requests: int = 0
    _rules: list[Rule] = field(default_factory=list[Rule])
    _open: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    _broken_hooks: list[Exception] = field(default_factory=list[Exception])

    def on(self, fault: Fault, method: str, path: str, times: int = 1_000_000, **options: object) -> Rule:
        """Add a rule for paths in which the pattern is found; the oldest that fits and is not spent counts."""
        self._rules.append(Rule(fault, method, path, times, **options))
        return self._rules[-1]

    def _rule_for(self, method: str, path: str) -> Rule:
        for rule in self._rules:
            if rule.hits < rule.times and rule.method == method and re.search(rule.path, path):
                rule.hits += 1
                return rule
        return Rule("pass", method, path, 1)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._exchange(reader, writer):
                pass
        writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take one request; says whether the connection is still good."""
        request = await _read(reader, writer)
        method, path, _ = request.start_line.split(" ", 2)
        self.requests += 1
        rule = self._rule_for(method, path)
        await self._call(rule.first)
        if rule.fault == "answer":
            await _refuse(writer, rule.status)
            return False
        address = urlsplit(self.upstream)
        server_reader, server_writer = await asyncio.open_connection(address.hostname, address.port, limit=_HEAD_BYTES)
        try:
            if rule.fault == "cut":
                server_writer.write(request.head + request.body[: len(request.body) // 2])
                await server_writer.drain()
                return False
            await _write(server_writer, request.head + request.body, rule.seconds)
            answer = await _read(server_reader, None, to=method)
        finally:
            server_writer.transport.abort()
        await self._call(rule.then)
        if rule.fault == "swallow":
            return False
        if rule.fault == "replace":
            await _refuse(writer, rule.status)
            return False
        await _write(writer, answer.head + answer.body, rule.seconds)
        return "close" not in answer.headers.get("connection", "").lower()

    async def _call(self, hook: Callable[[], object]) -> None:
        try:
            await asyncio.to_thread(hook)
        except Exception as error:
            self._broken_hooks.append(error)
            raise ConnectionAbortedError from error


@contextmanager
def in_front_of(upstream: str) -> Generator[FaultProxy]:
    """Run a proxy on a free port in front of `http://host:port`."""
    proxy = FaultProxy(upstream)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(proxy._serve, "127.0.0.1", 0, limit=_HEAD_BYTES)

    async def stop(server: asyncio.Server) -> None:
        server.close()
        for task in list(proxy._open):
            task.cancel()
        await asyncio.gather(*proxy._open, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    proxy.url = "http://{}:{}".format(*server.sockets[0].getsockname())
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert not proxy._broken_hooks


async def _refuse(writer: asyncio.StreamWriter, status: int) -> None:
    writer.write(b"HTTP/1.1 %d Fault\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
    await writer.drain()


async def _write(writer: asyncio.StreamWriter, content: bytes, seconds: float) -> None:
    """Write it at once, or in pieces with a wait after each."""
    size = len(content) // _PIECES + 1 if seconds else len(content) + 1
    for start in range(0, len(content), size):
        writer.write(content[start : start + size])
        await writer.drain()
        await asyncio.sleep(seconds)


async def _read(reader: asyncio.StreamReader, client: asyncio.StreamWriter | None, to: str = "") -> _Message:
    """Read a whole request, for which `client` waits perhaps to be told to go on, or the whole answer to a method."""
    head = await reader.readuntil(b"\r\n\r\n")
    start_line, *lines = head.decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if start_line.startswith("HTTP/1.1 100"):
        return await _read(reader, client, to)
    if client and "100-continue" in headers.get("expect", ""):
        client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if to == "HEAD" or start_line.startswith(("HTTP/1.1 204", "HTTP/1.1 304")):
        body = b""
    elif "chunked" in headers.get("transfer-encoding", ""):
        body = await _read_chunks(reader)
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = await reader.read() if to else b""
    return _Message(start_line, headers, head, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body += line + await reader.readexactly(size + 2)
        if not size:
            return body
