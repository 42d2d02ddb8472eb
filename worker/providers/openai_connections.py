"""Connections to the model's provider that are open before an answer needs them, for as long as a call lives.

An answer that the caller speaks over closes its connection: HTTP/1.1 has no other way to stop one. So there are spares, which
lie outside the client's pool: where the pool would open a connection for a request it gets a spare instead, and another one is
opened behind it. Nothing that is done ahead takes a connection away from a request.

At any moment at least `WANTED` connections live, one of them a spare. A spare is used for a small request before the server, or
a NAT on the way, forgets it. Nothing is done ahead while the provider is in trouble or has refused, and after a failure only
after a pause.

Source: httpcore2 2.16 and httpx2 2.16 source. A pool asks its public `create_connection` for every connection; what it has
stands in its public `connections`, and a connection says itself whether it can be used (`is_idle`, `has_expired`, which looks
at the socket). Only the way from a client to its pool is not public. OpenAI's SDK 3.54 has 5 s for idle connections by default.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpcore2
import httpx2
from openai import DefaultAsyncHttpxClient

from worker.providers.tls import CONTEXT

WANTED: Final = 2

EXPIRY_S: Final = 55.0
"""How long an idle connection counts as usable: NATs and load balancers forget them from 60 s on, and say nothing."""

REFRESH_S: Final = 45.0
LEAST_REFRESH_S: Final = 1.0
"""How often a spare is used at most, where a server closes idle connections early (uvicorn after 5 s)."""

OURS: Final = 0.9
"""From which part of `EXPIRY_S` on it was our own clock that has ended a spare, and not its server."""

EARLY: Final = 0.5
"""When a spare is used, as a part of the time after which the server was seen to close one."""

JITTER: Final = 0.2
"""By how much of it that is earlier, at random: calls that began together must not come back in step."""

TIMEOUT_S: Final = 3.0
FIRST_PAUSE_S: Final = 1.0
MOST_PAUSE_S: Final = 60.0
UNWELCOME_PAUSE_S: Final = 30.0
"""After a refusal (401, 403, 429, 5xx) to what nobody waits for. An answer that works ends it: some keys may do nothing else."""

MOST_CLOSINGS: Final = 3
"""So many spares in a row that a server closes before they were used are replaced at once, further ones after a pause."""

_UNWELCOME: Final = frozenset({401, 403, 429})
_SERVER_ERRORS: Final = 500


@dataclass(frozen=True, slots=True)
class _Use:
    """When a spare was used last, and when it is to be used again; seconds of CLOCK_MONOTONIC."""

    at: float
    due: float


class WarmClient(DefaultAsyncHttpxClient):
    """The vendor's HTTP client, with the certificates the zygote has read; it closes its spares with itself."""

    spares: "Spares | None" = None

    def __init__(self) -> None:
        limits = httpx2.Limits(max_keepalive_connections=100, max_connections=1000, keepalive_expiry=EXPIRY_S)
        super().__init__(limits=limits, verify=CONTEXT)

    async def aclose(self) -> None:
        """Close every connection."""
        if self.spares is not None:
            await self.spares.stop()
        await super().aclose()


class Spares:
    """Keeps spares for a client. `allowed` says whether anything may be asked now that nobody waits for.

    Attributes:
        opened: connections that were opened, in all.
        awaited: those among them for which a request had to wait.
    """

    def __init__(
        self, client: WarmClient, url: str, headers: Mapping[str, str], allowed: Callable[[], bool] = lambda: True
    ) -> None:
        self.opened = 0
        self.awaited = 0
        self._url = url
        self._headers: dict[bytes | str, bytes | str] = dict(headers.items())
        self._allowed = allowed
        transport: Any = client._transport_for_url(httpx2.URL(url))  # noqa: SLF001 - the only way to it, behind a proxy too
        self._pool: httpcore2.AsyncConnectionPool = transport._pool  # noqa: SLF001 - as above
        self._make: Callable[[httpcore2.Origin], httpcore2.AsyncConnectionInterface] = self._pool.create_connection
        self._origin = httpcore2.URL(url).origin
        self._spares: dict[httpcore2.AsyncConnectionInterface, _Use] = {}
        self._every_s = REFRESH_S
        self._failures = 0
        self._closings = 0
        self._not_before = 0.0
        self._news = asyncio.Event()
        self._tending: asyncio.Task[None] | None = None
        self._pool.create_connection = self._given  # it is asked for every connection
        client.spares = self

    def warm(self) -> bool:
        """Say whether a connection is open and idle now, by looking at it. Also notices spares that a server has closed."""
        if any(not _alive(spare) for spare in self._spares):
            self._news.set()
        return any(map(_usable, self._all()))

    async def open(self) -> None:
        """Open a first connection, unless there is one; the others follow by themselves until `stop`."""
        if not self.warm():
            await self._open()
        if self._tending is None:
            self._tending = asyncio.create_task(self._tend())

    def look(self) -> None:
        """Have it looked at what there is: a request was made, or is over."""
        self._news.set()

    def works(self) -> None:
        """Note that the provider answers: what it said to a request that nobody waited for counts no more."""
        self._failures = 0
        self._not_before = 0.0

    async def stop(self) -> None:
        """Open nothing more, and close the spares."""
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.wait({self._tending})
            self._tending = None
        await self._close(list(self._spares))

    # --- for the pool -------------------------------------------------------------------------------------------------

    def _given(self, origin: httpcore2.Origin) -> httpcore2.AsyncConnectionInterface:
        """Give the pool a connection: the spare that was used last, or a new one."""
        self._news.set()
        for spare in sorted(self._spares, key=lambda each: self._spares[each].at, reverse=True):
            if _usable(spare) and spare.can_handle_request(origin):
                del self._spares[spare]
                return spare
        self.opened += 1
        self.awaited += 1
        return self._make(origin)

    # --- ahead --------------------------------------------------------------------------------------------------------

    async def _tend(self) -> None:
        while True:
            self._news.clear()
            await self._bury()
            if self._allowed() and time.monotonic() >= self._not_before:
                await self._fill()
                await self._refresh()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rest_s()):
                    await self._news.wait()

    def _rest_s(self) -> float | None:
        """Say in how many seconds there is something to do again; None when only news can bring that."""
        if not self._allowed():
            return None
        now = time.monotonic()
        if self._missing():
            return max(0.0, self._not_before - now)
        due = min((use.due for use in self._spares.values()), default=now + REFRESH_S)
        return max(0.0, self._not_before - now, due - now)

    def _missing(self) -> int:
        spares = sum(map(_alive, self._spares))
        return max(1 - spares, WANTED - sum(map(_alive, self._all())), 0)

    async def _fill(self) -> None:
        while self._missing() and time.monotonic() >= self._not_before:
            await self._open()

    async def _refresh(self) -> None:
        """Use what has been idle for long, one after the other: the others are there for whoever speaks meanwhile."""
        for spare in [spare for spare, use in self._spares.items() if use.due <= time.monotonic()]:
            if spare in self._spares and _usable(spare) and await self._ask(spare):
                self._closings = 0

    async def _bury(self) -> None:
        """Close what is of no use any more, and learn how long a server leaves connections open."""
        now = time.monotonic()
        dead = [spare for spare in self._spares if not _alive(spare)]
        closed_after_s = [idle_s for spare in dead if (idle_s := now - self._spares[spare].at) < OURS * EXPIRY_S]
        if closed_after_s:
            self._every_s = max(LEAST_REFRESH_S, min(self._every_s, EARLY * min(closed_after_s)))
            self._closings += len(closed_after_s)
        if self._closings > MOST_CLOSINGS and closed_after_s:
            self._pause(FIRST_PAUSE_S * 2.0 ** min(self._closings - MOST_CLOSINGS, 10))
        await self._close(dead)

    async def _open(self) -> None:
        connection = self._make(self._origin)
        self.opened += 1
        await self._ask(connection)

    async def _ask(self, connection: httpcore2.AsyncConnectionInterface) -> bool:
        """Use a connection; say whether it is a spare then. Any answer, even a refusal, means that it is open."""
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_S)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await connection.request(
                    "GET", self._url, headers=self._headers, extensions={"timeout": timeouts}
                )
        except (TimeoutError, *_BROKEN):
            answer = None
        except asyncio.CancelledError:
            await self._close([connection])
            raise
        if answer is None or not _usable(connection):
            self._failed()
            await self._close([connection])
            return False
        now = time.monotonic()
        due = now + self._every_s * (1 - JITTER * random.random())  # noqa: S311 - spreads load
        self._spares[connection] = _Use(now, due)
        if answer.status in _UNWELCOME or answer.status >= _SERVER_ERRORS:
            self._pause(UNWELCOME_PAUSE_S)
        else:
            self._failures = 0
        return True

    def _failed(self) -> None:
        self._failures += 1
        self._pause(FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 10))

    def _pause(self, seconds: float) -> None:
        pause = min(MOST_PAUSE_S, seconds) * (1 + JITTER * random.random())  # noqa: S311 - as above
        self._not_before = max(self._not_before, time.monotonic() + pause)

    async def _close(self, connections: list[httpcore2.AsyncConnectionInterface]) -> None:
        for connection in connections:
            self._spares.pop(connection, None)
            with contextlib.suppress(*_BROKEN):
                await connection.aclose()

    def _all(self) -> Iterator[httpcore2.AsyncConnectionInterface]:
        yield from self._spares
        yield from self._pool.connections


_BROKEN: Final = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpcore2.TimeoutException,
    httpcore2.ConnectionNotAvailable,
)


def _usable(connection: httpcore2.AsyncConnectionInterface) -> bool:
    """Say whether a request could be sent on it now."""
    return connection.is_idle() and not connection.is_closed() and not connection.has_expired()


def _alive(connection: httpcore2.AsyncConnectionInterface) -> bool:
    """Say whether it is open, or being opened; it may be in use."""
    return not connection.is_closed() and not (connection.is_idle() and connection.has_expired())
