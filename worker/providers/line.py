"""The WebSocket to a provider during a call: listened to, given up when it falls silent, made again when it is lost.

The one place where sockets are retried; Pipecat's own reconnecting (three attempts, then unusable for good) is not used. What
was asked and not answered is its owner's to ask again, in `again`, which runs before anything new is sent.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from pipecat.utils.errors import extract_http_status_code
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from shared.metrics import Setback
from worker.providers.retry import Trouble

CONNECT_S: Final = 3.0
"""How long a handshake in a call may take: TCP, TLS and upgrade take 0.3 s where they take long."""

LIMIT_STATUS: Final = 429
REFUSALS: Final = frozenset({400, 401, 402, 403, 404, 413, 422})
"""The answer would be the same again: wrong key, no such model or voice, nothing left to pay with."""


class Failed(Exception):
    """A provider said that it could not: `cause` is None when it never will."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def cause_of(error: BaseException) -> Setback | None:
    """Say what kind of failure this is; None for one that no other try will change."""
    status = error.status if isinstance(error, Failed) else extract_http_status_code(error)
    if status == LIMIT_STATUS:
        return Setback.LIMITED
    if status in REFUSALS:
        return None
    if status is not None or isinstance(error, Failed):
        return Setback.FAILED
    return Setback.SILENT if isinstance(error, TimeoutError) else Setback.LOST


def in_words(error: BaseException) -> str:
    """Write a failed connection for an operator."""
    if extract_http_status_code(error) == LIMIT_STATUS:
        return "429: connection limit of the plan reached"
    return str(error) or type(error).__name__


@dataclass(frozen=True, slots=True)
class Owner:
    """What a line asks of the service it belongs to.

    Attributes:
        dial: make a connection; raises what went wrong.
        hear: take a message; `Failed` ends the connection.
        lost: the connection is gone, and why: settle what came of it; say whether it is to be made again.
        again: the connection is made: ask again what was not answered. Runs before `Line.up` is true.
    """

    dial: Callable[[], Awaitable[ClientConnection]]
    hear: Callable[[str | bytes], Awaitable[None]]
    lost: Callable[[str], Awaitable[bool]]
    again: Callable[[], Awaitable[None]]


class Line:
    """One provider's connection. `up` says whether something sent now goes out; `tried` is set after the first attempt."""

    def __init__(self, trouble: Trouble, owner: Owner) -> None:
        self._trouble = trouble
        self._owner = owner
        self._socket: ClientConnection | None = None
        self._ready = False
        self._asked_at = 0.0
        self._hushed = False
        self._watchdog: asyncio.TimerHandle | None = None
        self.tried = asyncio.Event()

    @property
    def up(self) -> bool:
        """Whether the connection is there and everything from before it was asked again."""
        return self._ready and self._socket is not None and self._socket.state is State.OPEN

    async def run(self, socket: ClientConnection | None) -> None:
        """Keep the connection, beginning with this one or with none; ends when it is not to be made again."""
        self._socket = socket
        if socket is None:
            await self._dial(None)
        else:
            await self._open()
        while self._socket is not None:
            error = await self._listen(self._socket)
            self._ready = False
            self.relax()
            if not await self._owner.lost(in_words(error) if error else "the provider closed the connection"):
                return
            await self._dial(error or ConnectionError("closed"))

    async def send(self, message: str | bytes) -> bool:
        """Send; False when the connection turned out to be lost, which `run` notices as well."""
        if self._socket is None:
            return False
        try:
            await self._socket.send(message)
        except (ConnectionClosed, OSError):
            return False
        return True

    def expect(self, after_s: float = 0.0) -> None:
        """Note that an answer is owed, `after_s` from now: silence longer than the trouble's patience is a loss then."""
        self.relax()
        self._asked_at = time.monotonic() + after_s
        self._watchdog = asyncio.get_running_loop().call_later(after_s + self._trouble.patience_s, self._hush)

    def relax(self) -> None:
        """Note that nothing is owed."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _hush(self) -> None:
        self._watchdog = None
        if self._socket is not None:
            self._hushed = True
            self._socket.transport.abort()

    async def _listen(self, socket: ClientConnection) -> Exception | None:
        """Hear messages until the connection ends; give why, None when the provider closed it in good order."""
        try:
            async for message in socket:
                await self._owner.hear(message)
        except (ConnectionClosed, OSError) as error:
            return TimeoutError("no answer") if self._hushed else error
        except Failed as error:
            socket.transport.abort()
            return error
        except Exception as error:  # noqa: BLE001 - what cannot be read; the connection is made anew, and it is logged with the trouble
            socket.transport.abort()
            return Failed(f"unreadable: {error!r}")
        return TimeoutError("no answer") if self._hushed else None

    async def _dial(self, error: Exception | None) -> None:
        """Connect, again and again after failures, and let the owner ask again what was not answered."""
        self._socket = None
        while self._socket is None:
            if error is not None and not await self._pause(error):
                return
            try:
                async with asyncio.timeout(CONNECT_S):
                    self._socket = await self._owner.dial()
            except Exception as failure:  # noqa: BLE001 - whatever it was, the trouble names it
                error = failure
            self.tried.set()
        await self._open()

    async def _open(self) -> None:
        await self._owner.again()
        self._ready = True

    async def _pause(self, error: Exception) -> bool:
        """Wait before the next try; False when there will be none."""
        now, cause = time.monotonic(), cause_of(error)
        if cause is None:
            self._trouble.refuse(in_words(error), now)
            return False
        since = self._asked_at if self._hushed else None
        self._hushed = False
        await asyncio.sleep(self._trouble.setback(cause, now, random.random(), since))  # noqa: S311 - spreads load
        return True
