"""How sockets to providers are made, and the one connection of a voice.

That is made while its worker is parked, kept by a line, and left for another when that is asked.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from pipecat.processors.frame_processor import FrameProcessor
from websockets.asyncio.client import ClientConnection, connect
from websockets.protocol import State

from worker.providers.line import Line, Owner
from worker.providers.retry import Trouble
from worker.providers.tls import websocket_options

FIRST_S: Final = 10.0
"""How long the first connection may take: nobody waits for a worker that is not ready."""

CLOSE_S: Final = 1.0
MOST_BYTES: Final = 16 * 1024 * 1024
MOST_WORDS_BYTES: Final = 1024 * 1024
"""Of a message without sound in it."""


async def connected(url: str, headers: dict[str, str], most_bytes: int = MOST_BYTES) -> ClientConnection:
    """Make a connection that takes messages of at most `most_bytes`; raises what went wrong."""
    return await connect(
        url,
        additional_headers=headers,
        max_size=most_bytes,
        compression=None,  # speech in base64 hardly shrinks: inflating costs CPU on each message
        close_timeout=CLOSE_S,
        **websocket_options(url),
    )


async def welcomed(
    url: str, headers: dict[str, str], welcome: tuple[str, str], failure: Callable[[Mapping[str, Any]], Exception]
) -> ClientConnection:
    """Make a connection whose first message says whether it is wanted: by this field with this value.

    Raises:
        Exception: what `failure` makes of any other message, or what went wrong before.
    """
    socket = await connected(url, headers, MOST_WORDS_BYTES)
    wanted = False
    try:
        said = json.loads(await socket.recv())
        wanted = said.get(welcome[0]) == welcome[1]
    finally:
        if not wanted:
            socket.transport.abort()
    if not wanted:
        raise failure(said)
    return socket


class Held:
    """A line with its socket, which stands before anyone listens, and the task that listens."""

    def __init__(self, trouble: Trouble, owner: Owner) -> None:
        self.line = Line(trouble, replace(owner, dial=self.dial))
        self.socket: ClientConnection | None = None
        self.task: asyncio.Task[None] | None = None
        self._dial = owner.dial

    async def dial(self) -> ClientConnection:
        """Make the socket."""
        self.socket = None
        self.socket = made = await self._dial()
        return made


class Connection:
    """The connection of a service, whose tasks it uses. A service that was not opened, or in vain, has none and gets none."""

    def __init__(self, service: FrameProcessor, trouble: Trouble, owner: Owner) -> None:
        self._service = service
        self._held = Held(trouble, owner)
        self._another = lambda: Held(trouble, owner)
        self._leaving: set[asyncio.Task[Any]] = set()
        self.over = False

    @property
    def line(self) -> Line:
        """The present line."""
        return self._held.line

    @property
    def kept(self) -> bool:
        """Whether a line keeps it: it was made once."""
        return self._held.task is not None

    @property
    def open(self) -> bool:
        """Whether the socket is open, though its line may not have begun."""
        return self._held.socket is not None and self._held.socket.state is State.OPEN

    async def make(self) -> None:
        """Connect for the first time, and keep it from then on; raises what went wrong."""
        held = self._held
        async with asyncio.timeout(FIRST_S):
            socket = await held.dial()
        held.task = self._service.create_task(held.line.run(socket), "listening")

    def try_again(self) -> None:
        """Connect after all, in the background, and keep it; nothing where there is a line that does."""
        if not self.kept and not self.over:
            self._held.task = self._service.create_task(self._held.line.run(None), "listening")

    def move(self) -> None:
        """Leave for another connection, made in the background; without one do nothing."""
        if not self.kept or self.over:
            return
        old, self._held = self._held, self._another()
        self._held.task = self._service.create_task(self._held.line.run(None), "listening")
        leaving: asyncio.Task[None] = self._service.create_task(self._leave(old), "leaving")
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Close it for good."""
        self.over = True
        await asyncio.gather(self._leave(self._held), *self._leaving)

    async def _leave(self, held: Held) -> None:
        held.line.relax()
        task, held.task = held.task, None
        if task is not None:
            await self._service.cancel_task(task)
        socket, held.socket = held.socket, None
        if socket is not None:
            await socket.close()
