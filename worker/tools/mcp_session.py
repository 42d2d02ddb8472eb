"""One MCP server: connected, kept connected, and asked. Whatever it does costs its own tools only.

A session of the SDK lives in one task (`run`); `call` may be used from any other. A server is connected again after a pause
that doubles; a restart of the host begins anew.
"""

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio
from mcp import Client, MCPError
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT, Implementation, ToolListChangedNotification
from mcp_types import Tool as Listed
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from shared import logs
from shared.agents import McpServer
from worker.tools import mcp_results, mcp_transport
from worker.tools.registry import MOST_TOOLS, Outcome, ToolError
from worker.tools.services import ServiceTrouble

START_S: Final = 30.0
"""From the start of a connection to the list of tools: some commands fetch themselves first."""

ANSWER_S: Final = 10.0
"""For a list of tools, later: also how a server is found to hang."""

CHECK_S: Final = 60.0
"""How often the tools are asked for without a reason: a server on the network can be gone without a sign."""

LIST_PAUSE_S: Final = 1.0
"""Between two lists of tools at least: a server may announce a change with each list it gives."""

UP_WAIT_S: Final = 4.0
"""How long a call waits for a server that is being connected, as after a restart of the host."""

FIRST_PAUSE_S: Final = 0.25
MOST_PAUSE_S: Final = 30.0
"""Between two tries; a server in Python takes half a second of CPU to start.

`redis_door.Backoff` would do the same for 0.3 s and 20 MB of Redis client (measured), which most hosts do not need.
"""

LISTEN_PAUSE_S: Final = 5.0
AT_ONCE: Final = 32
"""Calls that one server has at a time; the others wait, within their own limits."""

PAGES: Final = 10
MAX_WHY: Final = 300

_log = logs.get(__name__)


class McpSession:
    """A server of the agents file. `changed` is called when its tools are others, or it came up or went down (`why`)."""

    def __init__(self, server: McpServer, changed: Callable[["McpSession"], None]) -> None:
        self.server = server
        self.tools: tuple[Listed, ...] = ()
        self.why = "not connected yet"
        self._changed = changed
        self._client: Client | None = None
        self._up = asyncio.Event()
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()
        self._lost = ""
        self._room = asyncio.Semaphore(AT_ONCE)

    @property
    def up(self) -> bool:
        """Whether it can be asked."""
        return self._client is not None

    async def run(self) -> None:
        """Keep it connected until it is told to stop."""
        failures = 0
        while not self._stopping.is_set():
            began = asyncio.get_running_loop().time()
            why = await self._connection()
            self._down(why)
            lasted = asyncio.get_running_loop().time() - began
            failures = 0 if lasted > MOST_PAUSE_S + START_S else failures + 1
            pause = min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause * random.uniform(0.75, 1.25)):  # noqa: S311 - jitter
                    await self._stopping.wait()

    def stop(self) -> None:
        """Close the connection and do not open another; `run` ends soon after."""
        self._stopping.set()
        self._news.set()

    async def call(self, tool: str, arguments: Mapping[str, Any], *, again: bool) -> Outcome:
        """Ask for a tool by the server's own name for it; `again`: doing it twice does no harm.

        Raises:
            ToolError: the server says that it did not work.
            ServiceTrouble: it cannot be reached, or gave no usable answer.
            TimeoutError: it took longer than the server's limit.
        """
        async with self._room:
            client = await self.reached()
            try:
                return await self._ask(client, tool, arguments)
            except ServiceTrouble:
                if not again or self._client is client:  # it is still connected: what it says is no answer
                    raise
            return await self._ask(await self.reached(), tool, arguments)

    async def reached(self) -> Client:
        """Wait a little until it is connected.

        Raises:
            ServiceTrouble: it is not.
        """
        try:
            async with asyncio.timeout(UP_WAIT_S):
                await self._up.wait()
        except TimeoutError:
            raise ServiceTrouble(f"{self.server.name}: {self.why}") from None
        if self._client is None:
            raise ServiceTrouble(f"{self.server.name}: {self.why}")
        return self._client

    async def _ask(self, client: Client, tool: str, arguments: Mapping[str, Any]) -> Outcome:
        try:
            result = await client.call_tool(tool, dict(arguments), read_timeout_seconds=self.server.timeout_s)
        except asyncio.CancelledError:
            self._news.set()  # it was too slow, or nobody waits any more: see whether it still answers at all
            raise
        except MCPError as error:
            if error.code == REQUEST_TIMEOUT:
                self._news.set()
                raise TimeoutError from None
            if error.code == CONNECTION_CLOSED:
                self._lose(client)
                raise ServiceTrouble(f"{self.server.name}: connection lost", maybe_done=True) from None
            raise ToolError(f"The tool did not work: {error.message}") from None
        except (ValidationError, RuntimeError, OSError, ExceptionGroup, anyio.ClosedResourceError) as error:
            self._news.set()
            raise ServiceTrouble(f"{self.server.name}: {reason(error)}", maybe_done=True) from None
        return mcp_results.outcome(result)

    # --- one connection -----------------------------------------------------------------------------------------------

    async def _connection(self) -> str:
        """Connect, serve until it ends, and say why it has ended."""
        self._lost = ""
        self._news.clear()
        scope = anyio.CancelScope(deadline=anyio.current_time() + START_S)
        watch = asyncio.create_task(self._stop_of(scope))
        try:
            with scope:
                client = Client(
                    mcp_transport.reach(self.server, self._gone),
                    cache=None,
                    message_handler=self._heard,
                    client_info=Implementation(name="offhook", version="1"),
                    read_timeout_seconds=ANSWER_S,
                )
                async with client:
                    self.tools = await self._list(client)
                    scope.deadline = math.inf
                    watch.cancel()
                    self._ready(client)
                    await self._attend(client)
        except Exception as error:  # noqa: BLE001 - whatever a server or its transport does, it costs this server only
            return self._lost or reason(error)
        finally:
            watch.cancel()
        if scope.cancelled_caught:
            return f"no answer within {START_S:.0f} s"
        return self._lost or "closed"

    async def _stop_of(self, scope: anyio.CancelScope) -> None:
        await self._stopping.wait()
        scope.cancel()

    async def _attend(self, client: Client) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen, client)
            pause_until = 0.0
            while True:
                await self._news_within(CHECK_S)
                while not self._ends and (pause_s := pause_until - anyio.current_time()) > 0:
                    await self._news_within(pause_s)
                if self._ends:
                    break
                pause_until = anyio.current_time() + LIST_PAUSE_S
                tools = await self._list(client)
                if tools != self.tools:
                    self.tools = tools
                    self._changed(self)
            self._client = None
            self._up.clear()
            tasks.cancel_scope.cancel()

    @property
    def _ends(self) -> bool:
        return bool(self._lost) or self._stopping.is_set()

    async def _news_within(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._news.wait()
        self._news.clear()

    async def _list(self, client: Client) -> tuple[Listed, ...]:
        if client.server_capabilities.tools is None:
            return ()
        tools: list[Listed] = []
        cursor = None
        with anyio.fail_after(ANSWER_S):
            for _ in range(PAGES):
                page = await client.list_tools(cursor=cursor)
                tools += page.tools
                cursor = page.next_cursor
                if cursor is None or len(tools) > MOST_TOOLS:
                    break
        return tuple(tools)

    async def _listen(self, client: Client) -> None:
        """Have a server of 2026 tell when its tools change; older ones do so unasked."""
        while client.protocol_version in MODERN_PROTOCOL_VERSIONS:
            try:
                async with client.listen(tools_list_changed=True) as events:
                    self._news.set()  # for what changed since they were listed
                    async for _ in events:
                        self._news.set()
            except MCPError as error:
                if error.code != CONNECTION_CLOSED:
                    return  # it knows no such thing: the check every minute has to do
            except (RuntimeError, TimeoutError):
                pass
            self._news.set()  # see whether it is still there
            await anyio.sleep(LISTEN_PAUSE_S)

    async def _heard(self, message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._news.set()

    def _ready(self, client: Client) -> None:
        self._client, self.why = client, ""
        self._up.set()
        _log.info("mcp server is up", server=self.server.name, tools=len(self.tools), protocol=client.protocol_version)
        self._changed(self)

    def _down(self, why: str) -> None:
        self._client, self.tools, self.why = None, (), why
        self._up.clear()
        if not self._stopping.is_set():
            _log.warning("mcp server is down", server=self.server.name, why=logs.mask(why))
        self._changed(self)

    def _lose(self, client: Client) -> None:
        """Note that a child is gone before its own task has noticed; over HTTP it may have been this request only."""
        if self.server.url:
            self._news.set()
        elif self._client is client:
            self._client = None
            self._up.clear()
            self._gone("connection lost")

    def _gone(self, why: str) -> None:
        self._lost = self._lost or why
        self._news.set()


def reason(error: BaseException) -> str:
    """Say in a line what went wrong: of a group, the first that is an answer to the question."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, mcp_transport.CannotStart):
        return str(error)
    words = error.message if isinstance(error, MCPError) else " ".join(str(error).split())
    return f"{type(error).__name__}: {words}"[:MAX_WHY]
