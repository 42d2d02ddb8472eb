"""One HTTP/1.1 request as the carrier makes it: its own connection, bounded times, exact moments.

A general client costs more per call than everything else the carrier does; this one is a protocol around httptools.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import httptools


class ConnectFailed(Exception):
    """Nobody accepted the connection in time: nothing was sent, so the request may be repeated."""


class RequestBroken(Exception):
    """The connection was made but no complete answer came."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; times are `time.monotonic()` seconds, `sent_at` is before the connection was made."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes
    sent_at: float
    answered_at: float

    @property
    def content_type(self) -> str:
        """The media type without its parameters, in lower case."""
        return self.headers.get("content-type", "").split(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent: `path` includes the query string; `Host` must be among the headers."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""

    def encode(self) -> bytes:
        """The request as it goes over the wire."""
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers.items())]
        if self.body or self.method == "POST":
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + self.body


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a request may take, seconds; the total includes connecting."""

    connect_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is connected to: where it really listens and, for HTTPS, the name its certificate must be good for.

    `ca_file` is whose certificates are believed; empty: those this machine believes.
    """

    target: str
    name: str
    ca_file: str = ""

    def address(self) -> dict[str, Any]:
        """What `create_connection` is to be told."""
        parts = urlsplit(self.target)
        host = parts.hostname or "127.0.0.1"
        if parts.scheme != "https":
            return {"host": host, "port": parts.port or 80}
        return {"host": host, "port": parts.port or 443, "ssl": _trust(self.ca_file), "server_hostname": self.name}


@functools.cache
def _trust(ca_file: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file or None)


async def send(peer: Peer, request: Request, bounds: Bounds) -> Answer:
    """Send `request` to `peer` and return the answer; redirects are not followed.

    Raises `ConnectFailed` when no connection came about and `RequestBroken` when no whole answer did.
    """
    sent_at = time.monotonic()
    loop = asyncio.get_running_loop()
    exchange = _Exchange(request.encode(), loop.create_future())
    try:
        async with asyncio.timeout(bounds.connect_s):
            transport, _ = await loop.create_connection(lambda: exchange, **peer.address())
    except (OSError, TimeoutError) as error:
        raise ConnectFailed(f"{peer.target}: {str(error) or 'timed out'}") from error
    try:
        async with asyncio.timeout(bounds.total_s - (time.monotonic() - sent_at)):
            answered_at = await exchange.done
    except TimeoutError as error:
        raise RequestBroken(f"no whole answer within {bounds.total_s} s") from error
    finally:
        transport.abort()
    return Answer(exchange.status, exchange.headers, bytes(exchange.body), sent_at, answered_at)


@dataclass(slots=True, eq=False)
class _Exchange(asyncio.Protocol):
    """Write one request, parse one answer; `done` becomes the moment its last byte was read."""

    request: bytes
    done: asyncio.Future[float]
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    parser: httptools.HttpResponseParser | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.parser = httptools.HttpResponseParser(self)
        cast("asyncio.Transport", transport).write(self.request)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        assert self.parser is not None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        if self.parser is not None and self.status and "content-length" not in self.headers:
            with contextlib.suppress(httptools.HttpParserError):
                self.on_message_complete()  # a body that ends with the connection
        self._fail(f"connection lost before the answer was complete ({exc or 'closed'})")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self.parser is not None
        self.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if not self.done.done():
            self.done.set_result(time.monotonic())

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(RequestBroken(why))
