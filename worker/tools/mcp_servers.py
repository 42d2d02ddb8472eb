"""All MCP servers of a tool host: which there are, what they offer, and who runs a tool of theirs.

The SDK is imported in a thread, and only when there is a server: half a second of CPU and 25 MB (measured), for which nobody
whose tools are elsewhere waits.
"""

import asyncio
import contextlib
import functools
import re
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from shared import logs
from shared.agents import McpServer
from shared.tool_messages import Offered, OfferedTool, ServerState
from worker.tools import mcp_names
from worker.tools.registry import Outcome, Tool, ToolCall, ToolError
from worker.tools.services import ServiceTrouble

if TYPE_CHECKING:
    from worker.tools.mcp_session import McpSession

LOAD_WAIT_S: Final = 3.0
"""How long a call waits for the SDK, just after a restart of the host."""

NO_SUCH_TOOL: Final = "There is no such tool any more."

_CALLED_SECRET: Final = re.compile("KEY|TOKEN|SECRET|PASS|AUTH|CREDENTIAL|URL|DSN", re.IGNORECASE)

_log = logs.get(__name__)


class McpServers:
    """Keeps a session with each server. `offer` gets what workers are to know, `tell` what the pool is to know.

    `taken` are names of tools that are our own.
    """

    def __init__(
        self, taken: Collection[str], offer: Callable[[Offered], None], tell: Callable[[ServerState], None]
    ) -> None:
        self._taken = taken
        self._offer = offer
        self._tell = tell
        self._servers: dict[str, McpServer] = {}
        self._sessions: dict[str, McpSession] = {}
        self._offers: dict[str, list[Offered]] = {}
        self._own_names: dict[str, dict[str, str]] = {}
        self._known: dict[tuple[str, str], OfferedTool] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._begun = asyncio.Event()

    @property
    def names(self) -> tuple[str, ...]:
        """Every server there is, connected or not."""
        return tuple(self._servers)

    def offers(self) -> list[Offered]:
        """Give what the connected servers offer, and nothing of those that are known to be down."""
        return [offer for offers in self._offers.values() for offer in offers]

    def serve(self, servers: Iterable[McpServer]) -> None:
        """Have these servers from now on; one that is as it was stays connected."""
        wanted = {server.name: server for server in servers}
        for server in wanted.values():
            logs.hide(*_secrets(server))
        gone = [name for name, server in self._servers.items() if wanted.get(name) != server]
        self._servers = wanted
        for name in gone:
            if (session := self._sessions.pop(name, None)) is not None:
                session.stop()
            self._show(name, None)
            self._offers.pop(name, None)
        self._go(self._begin())

    async def leave(self, limit_s: float) -> None:
        """Close every connection, and wait a while for that."""
        self._servers = {}
        for session in self._sessions.values():
            session.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=limit_s)

    def find(self, server: str, tool: str) -> Tool | None:
        """Find a tool by the name it is offered under; also one of a server that is not connected at this moment."""
        configured = self._servers.get(server)
        if configured is None:
            return None
        known = self._known.get((server, tool))
        return Tool(
            name=tool,
            description="",
            run=functools.partial(self._run, server, tool),
            place="host",
            writes=known is None or not known.read_only,
            repeatable=known is not None and (known.read_only or known.idempotent),
            timeout_s=configured.timeout_s,
        )

    async def _run(self, server: str, tool: str, call: ToolCall) -> Outcome:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOAD_WAIT_S):
                await self._begun.wait()
        session = self._sessions.get(server)
        if session is None:
            raise ServiceTrouble(f"{server}: not connected yet")
        await session.reached()
        own = self._own_names.get(server, {}).get(tool)
        if own is None:
            raise ToolError(NO_SUCH_TOOL)
        known = self._known[server, tool]
        return await session.call(own, call.arguments, again=known.read_only or known.idempotent)

    async def _begin(self) -> None:
        if self._servers.keys() <= self._sessions.keys():
            self._begun.set()
            return
        make = await asyncio.to_thread(_load)
        for name, server in self._servers.items():
            if name not in self._sessions:
                session = self._sessions[name] = make(server, self._changed)
                self._go(session.run())
        self._begun.set()

    def _changed(self, session: "McpSession") -> None:
        name = session.server.name
        if self._sessions.get(name) is not session or name not in self._servers:
            return  # it was replaced, or everything ends
        self._show(name, session if session.up else None)
        count = len(self._own_names.get(name, {}))
        self._tell(ServerState(server=name, tools=count, why=logs.mask(session.why)))

    def _show(self, name: str, session: "McpSession | None") -> None:
        """Offer what a server has now; nothing where it is down. What its tools were is kept, for calls under way."""
        offers = mcp_names.packed(name, ())
        self._own_names.pop(name, None)
        if session is not None:
            own, offered, remarks = mcp_names.listed(session.server, session.tools, self._servers, self._taken)
            self._own_names[name] = own
            self._known = {key: each for key, each in self._known.items() if key[0] != name}
            self._known |= {(name, each.name): each for each in offered}
            offers = mcp_names.packed(name, offered)
            for remark in remarks:
                _log.warning("mcp tool", server=name, remark=remark)
        if offers != self._offers.get(name):
            self._offers[name] = offers
            for offer in offers:
                self._offer(offer)

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a session with an mcp server failed", exc_info=error)


def _secrets(server: McpServer) -> Iterator[str]:
    """Give what of a server's table may be a secret: every header, and what is called one in its environment."""
    yield from server.headers.values()
    yield from (value for name, value in server.env.items() if _CALLED_SECRET.search(name))


def _load() -> "type[McpSession]":
    from worker.tools.mcp_session import McpSession

    return McpSession
