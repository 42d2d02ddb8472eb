"""The tool host's side of one worker's line: its requests, some at a time, each answered once.

A worker that asks for more than it may is told so at once, so that nobody else waits for it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from shared import logs
from shared.channel import close_all
from shared.errors import StreamProtocolError
from shared.messages import Message
from shared.tool_messages import DropTool, RunTool, ToolRan
from shared.workers import WorkerId
from worker.tools.registry import Outcome
from worker.tools.running import OUT_OF_ORDER

AT_ONCE: Final = 4
"""Requests of one worker that run at a time: a model asks for two or three things together."""

MOST_WAITING: Final = 32
MOST_REFUSED: Final = 1_000
"""Requests beyond that before the line is closed: reading them alone would keep the host from others."""

BUSY: Final = {"error": "Too much was asked for at once; this was not done. Ask for one thing at a time."}

_log = logs.get(__name__)


class Attendant:
    """Serves one worker. `answer` runs a request within the room given to it; `send` and `close` are the line's."""

    def __init__(
        self,
        worker: WorkerId,
        answer: Callable[[RunTool, asyncio.Semaphore], Awaitable[Outcome]],
    ) -> None:
        self.worker = worker
        self.send: Callable[[Message], bool] = lambda _: False
        self.close: Callable[[], None] = lambda: None
        self._answer = answer
        self._room = asyncio.Semaphore(AT_ONCE)
        self._asked: dict[int, asyncio.Task[None]] = {}
        self._refused = 0

    def receive(self, message: Any, fds: list[int]) -> None:
        """Take a message of the worker."""
        close_all(fds)
        match message:
            case RunTool() if len(self._asked) >= MOST_WAITING or message.request in self._asked:
                self._refuse(message)
            case RunTool():
                task = asyncio.ensure_future(self._serve(message))
                self._asked[message.request] = task
                task.add_done_callback(lambda _: self._asked.pop(message.request, None))
            case DropTool():
                self._drop(message.request)

    def leave(self) -> None:
        """Wait for nothing any more: the worker is gone. What writes goes on."""
        for request in list(self._asked):
            self._drop(request)

    async def _serve(self, message: RunTool) -> None:
        outcome = await self._answer(message, self._room)
        try:
            self.send(ToolRan(request=message.request, result=dict(outcome.result), answer=outcome.answer))
        except (StreamProtocolError, TypeError, ValueError, RecursionError) as error:
            _log.error("answer of a tool cannot be sent", tool=message.tool, why=str(error))
            self.send(ToolRan(request=message.request, result=dict(OUT_OF_ORDER)))

    def _drop(self, request: int) -> None:
        task = self._asked.get(request)
        if task is not None:
            task.cancel()

    def _refuse(self, message: RunTool) -> None:
        self._refused += 1
        if self._refused == 1:
            _log.warning("a worker asks for too much at once", worker=self.worker)
        if self._refused > MOST_REFUSED:
            _log.error("a worker's line is closed: it does not stop asking", worker=self.worker)
            self.close()
        else:
            self.send(ToolRan(request=message.request, result=dict(BUSY)))
