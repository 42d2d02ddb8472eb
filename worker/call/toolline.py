"""The worker's side of the tool host: what it offers, and running a tool there.

The host may die and be started again while a call goes on: the pool then sends another line. A request that was under way is
asked again under the same id where that does no harm (the host, or the database behind it, knows an id it has served);
otherwise the model is told that nobody knows. Nothing here ends a call or keeps a caller waiting longer than the tool may take.
"""

import asyncio
import itertools
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from shared import logs
from shared.agents import Agent, ToolStage
from shared.channel import Channel, close_all
from shared.errors import StreamProtocolError
from shared.framing import HOST_TO_WORKER
from shared.tool_messages import DropTool, HostHas, Offered, OfferedTool, RunTool, ToolRan
from worker.tools.registry import Need, Outcome, Tool, ToolCall
from worker.tools.running import OUT_OF_ORDER, TOO_LONG, TOO_LONG_WRITE

LINE_WAIT_S: Final = 3.0
"""How long a request waits for another host when its own is gone; one is up within 1 to 2 s (measured)."""

MARGIN_S: Final = 5.0
"""Added to a tool's own limit, which the host keeps: for the way there, and for one death of the host meanwhile."""

TOO_LARGE: Final[Mapping[str, Any]] = {"error": "This was not done: the arguments are too long. Say it in fewer words."}

log = logs.get(__name__)


class HostLine:
    """The line to the tool host. `offered` are the tools of MCP servers by name; `on_offered` is called when they change."""

    def __init__(self) -> None:
        self.offered: Mapping[str, Tool] = {}
        self.on_offered: Callable[[], None] = lambda: None
        self._by_server: dict[str, dict[str, Tool]] = {}
        self._has: frozenset[Need] = frozenset()
        self._channel: Channel | None = None
        self._served = False
        self._connected = asyncio.Event()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Outcome | None]] = {}

    def connect(self, sock: socket.socket) -> None:
        """Use this line from now on; what was asked on the former one is asked again on it."""
        if self._channel is not None:
            self._channel.close()
            self._broken("another line has come")
        self._channel = Channel(sock, HOST_TO_WORKER, self._received, self._lost)
        self._served = True
        self._connected.set()

    def close(self) -> None:
        """Use no line any more."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
            self._broken("closed")

    def available(self, tool: Tool) -> bool:
        """Say whether the host has what a tool of it needs; one that died meanwhile counts, since it is started again."""
        known = tool.name in self.offered if self._is_foreign(tool) else self._served
        return known and tool.needs <= self._has

    def server_of(self, name: str) -> str:
        """Name the MCP server a tool is of; empty for any other tool."""
        return next((server for server, tools in self._by_server.items() if name in tools), "")

    async def run(self, tool: Tool, call: ToolCall, arguments: Mapping[str, Any], *, again: bool = False) -> Outcome:
        """Run a tool in the host and give what the model is to be told. Raises nothing; cancelled, it gives up a read.

        `again`: the same may have been asked for before, by a worker that is gone.
        """
        if call.call is None:
            log.error("a tool of the host was asked for without a call", tool=tool.name)
            return Outcome(OUT_OF_ORDER)
        ask = RunTool(
            request=0,
            tool=tool.name,
            server=self.server_of(tool.name),
            call_id=call.id,
            arguments=dict(arguments),
            call=call.call,
            agent=msgspec.structs.replace(call.agent, prompt=""),
        )
        try:
            async with asyncio.timeout(tool.timeout_s + MARGIN_S):
                return await self._ask(tool, ask, asked=again)
        except TimeoutError:
            log.warning("the tool host did not answer", tool=tool.name)
            return Outcome(TOO_LONG_WRITE if tool.writes else TOO_LONG)
        except (
            StreamProtocolError,
            TypeError,
            ValueError,
            RecursionError,
        ) as error:  # what the model wrote is no message
            log.warning("tool call cannot be sent", tool=tool.name, why=type(error).__name__)
            return Outcome(TOO_LARGE)

    async def _ask(self, tool: Tool, ask: RunTool, *, asked: bool) -> Outcome:
        while await self._line():
            if asked and not _again(tool):
                break
            answer = await self._ask_once(tool, ask)
            if answer is not None:
                # that it does not work now says nothing of what the host before this one has done
                unsure = asked and tool.writes and answer.result == OUT_OF_ORDER
                return Outcome(TOO_LONG_WRITE) if unsure else answer
            asked = True
        log.warning("no tool host", tool=tool.name, asked=asked)
        return Outcome(TOO_LONG_WRITE if asked and tool.writes else OUT_OF_ORDER)

    async def _line(self) -> bool:
        """Wait for a line, if there ever was one."""
        if not self._served:
            return False
        try:
            async with asyncio.timeout(LINE_WAIT_S):
                await self._connected.wait()
        except TimeoutError:
            return False
        return True

    async def _ask_once(self, tool: Tool, ask: RunTool) -> Outcome | None:
        """Ask on the present line; None when it breaks before the answer."""
        number = next(self._numbers)
        channel = self._channel
        answer: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            if channel is None or not channel.send(msgspec.structs.replace(ask, request=number)):
                return None
            return await answer
        except asyncio.CancelledError:
            if channel is not None and not tool.writes:
                channel.send(DropTool(request=number))
            raise
        finally:
            self._waiting.pop(number, None)

    # --- the host speaks ----------------------------------------------------------------------------------------------

    def _received(self, message: Any, fds: list[int]) -> None:
        close_all(fds)
        match message:
            case ToolRan():
                answer = self._waiting.get(message.request)
                if answer is not None and not answer.done():
                    answer.set_result(Outcome(message.result, answer=message.answer))
            case HostHas():
                self._has = frozenset(message.services)
                self._by_server = {name: self._by_server[name] for name in message.servers if name in self._by_server}
                self._changed()
            case Offered():
                tools = {} if message.first else self._by_server.get(message.server, {})
                self._by_server[message.server] = tools | {
                    each.name: _tool(each, message.server) for each in message.tools
                }
                self._changed()

    def _changed(self) -> None:
        servers = sorted(self._by_server)  # whichever connected first: the model's provider caches them in their order
        self.offered = {name: tool for server in servers for name, tool in self._by_server[server].items()}
        self.on_offered()

    def _lost(self, why: str) -> None:
        log.warning("tool host lost", why=why)
        self._channel = None
        self._broken(why)

    def _broken(self, _why: str) -> None:
        self._connected.clear()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_result(None)

    @staticmethod
    def _is_foreign(tool: Tool) -> bool:
        return tool.run is _elsewhere


def _again(tool: Tool) -> bool:
    """Say whether asking for a run a second time does no harm when nobody knows what became of the first."""
    return tool.repeatable or tool.idempotent or not tool.writes


async def _elsewhere(_call: ToolCall) -> Outcome:
    """Stand for what only the host can run."""
    return Outcome(OUT_OF_ORDER)


def _tool(offered: OfferedTool, server: str) -> Tool:
    def of_agent(agent: Agent, _stage: ToolStage) -> bool:
        return server in agent.mcp

    return Tool(
        name=offered.name,
        description=offered.description,
        run=_elsewhere,
        parameters=offered.parameters,
        stage=offered.stage,
        place="host",
        writes=not offered.read_only,
        repeatable=offered.read_only,
        idempotent=offered.idempotent,
        timeout_s=offered.timeout_s,
        offered=of_agent,
        server=server,
    )
