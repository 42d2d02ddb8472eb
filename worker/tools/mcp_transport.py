"""How an MCP server is reached: a child of the tool host over stdio, or streamable HTTP. The transports are the SDK's.

A child gets the environment of its table in the agents file beside PATH, HOME and the like, and none of ours; it ends with
the host (`tether`). What it writes to stderr is logged, a little of it.
"""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

import anyio
import httpx2
from mcp.client.stdio import StdioServerParameters, get_default_environment, stdio_client
from mcp.client.streamable_http import streamable_http_client

from shared import logs
from shared.agents import McpServer
from worker.tools import tether

CONNECT_S: Final = 5.0
"""For a TCP connection with its TLS."""

SILENCE_S: Final = 300.0
"""How long a stream of events may be silent before it is opened again; servers send a ping every 15 s or so."""

MOST_GARBAGE: Final = 100
"""Lines in a row that are no message before a server is given up: a few words at its start are common."""

MAX_ANSWER_BYTES: Final = 4_194_304
"""Of one JSON answer over HTTP; the SDK itself bounds events, at 1 MiB."""

MAX_LINE: Final = 300
LINES_A_MINUTE: Final = 30
CHUNK: Final = 4_096

_log = logs.get(__name__)


class CannotStart(Exception):
    """A server's command cannot be run; the message is for the operator."""


class TooLarge(httpx2.StreamError):
    """An answer is larger than anybody should read; to the SDK one that cannot be read, which costs that request only."""


@asynccontextmanager
async def reach(server: McpServer, lost: Callable[[str], None]) -> AsyncGenerator[Any]:
    """Open a server's streams for a `mcp.Client`; `lost` is called when a child has closed its side or speaks no MCP.

    Raises:
        CannotStart: there is no such command.
        OSError: it could not be started.
    """
    if server.url:
        timeout = httpx2.Timeout(CONNECT_S, read=SILENCE_S)
        async with (
            httpx2.AsyncClient(headers=server.headers, timeout=timeout, event_hooks={"response": [_bound]}) as http,
            streamable_http_client(server.url, http_client=http) as streams,
        ):
            yield streams
        return
    with Complaints(server.name) as complaints:
        async with stdio_client(_child(server), complaints.file) as (incoming, outgoing):
            complaints.begin()
            async with _watched(incoming, lost) as watched:
                yield watched, outgoing


async def _bound(response: httpx2.Response) -> None:
    """Have no endless answer read into memory; of a stream of events the SDK bounds each event."""
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        response.stream = _Counted(response.stream)


class _Counted(httpx2.AsyncByteStream):
    """The body of an answer, up to `MAX_ANSWER_BYTES`."""

    def __init__(self, body: Any) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        async for chunk in self._body:
            read += len(chunk)
            if read > MAX_ANSWER_BYTES:
                raise TooLarge(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
            yield chunk

    async def aclose(self) -> None:
        """Close it."""
        await self._body.aclose()


def _child(server: McpServer) -> StdioServerParameters:
    path = (get_default_environment() | server.env).get("PATH")
    if shutil.which(server.command, path=path) is None:
        raise CannotStart(f"there is no command {server.command}")
    tied = ["-I", "-S", str(Path(tether.__file__)), str(os.getpid()), server.command, *server.args]
    return StdioServerParameters(command=sys.executable, args=tied, env=server.env, encoding_error_handler="replace")


@asynccontextmanager
async def _watched(incoming: Any, lost: Callable[[str], None]) -> AsyncGenerator[Any]:
    """Pass on what comes from a child, and notice its end: the SDK tells only who is waiting for an answer."""
    into, out = anyio.create_memory_object_stream[Any](0)

    async def pass_on() -> None:
        garbage = 0
        async with into:
            async for message in incoming:
                garbage = garbage + 1 if isinstance(message, Exception) else 0
                if garbage > MOST_GARBAGE:
                    lost("it writes what is no message")
                    return
                if not garbage:
                    await into.send(message)
        lost("its process has ended or closed its output")

    async with anyio.create_task_group() as tasks, out:
        tasks.start_soon(pass_on)
        try:
            yield out
        finally:
            tasks.cancel_scope.cancel()


class Complaints:
    """What a child writes to stderr. `file` is for the child; `begin` once it has it."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._since, self._lines, self._rest = time.monotonic(), 0, b""

    def __enter__(self) -> Self:
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        self.file = os.fdopen(write, "w")
        asyncio.get_running_loop().add_reader(self._read, self._readable)
        return self

    def __exit__(self, *_error: object) -> None:
        self.file.close()
        self._close()

    def begin(self) -> None:
        """Close our own writing end: the child has its own by now."""
        self.file.close()

    def _readable(self) -> None:
        try:
            data = os.read(self._read, CHUNK)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-CHUNK:]
        for line in lines if data else [*lines, self._rest]:
            self._say(line.decode(errors="replace").strip())
        if not data:
            self._close()

    def _say(self, line: str) -> None:
        if time.monotonic() - self._since > 60.0:  # noqa: PLR2004 - a minute
            self._since, self._lines = time.monotonic(), 0
        self._lines += bool(line)
        if line and self._lines <= LINES_A_MINUTE:
            _log.info("mcp server says", server=self._server, line=line[:MAX_LINE])

    def _close(self) -> None:
        if self._read >= 0:
            asyncio.get_running_loop().remove_reader(self._read)
            os.close(self._read)
            self._read = -1
