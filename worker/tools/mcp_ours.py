"""Our own tools as an MCP server offers them: those that make sense without a call, run as in a call.

A write is done once for each key: the client may give one in the request's `_meta` (`offhook/key`) and ask again with it;
otherwise every request has a key of its own. When a client is gone, what only reads is given up, and what writes goes on.
"""

import importlib.metadata
import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final

from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    ToolAnnotations,
)
from mcp_types import Tool as Offered

from shared.agents import STAGES, Agent
from worker.tools import running
from worker.tools.registry import Need, Outcome, Tool, ToolCall, visible
from worker.tools.runs import Runs
from worker.tools.services import Services

NAME: Final = "offhook"

KEY: Final = "offhook/key"
"""In `_meta` of a request: what makes a write the same write. Source: MCP specification, "_meta", key name format."""

MOST_KEY: Final = 200

OF_A_CALL: Final = frozenset({"end_call", "transfer_call", "more_tools"})
"""What is done to a call, and an MCP client has none."""

ADDING: Final = frozenset({"create_customer", "book_appointment", "send_whatsapp_message"})
"""The writing tools of ours that change nothing that was there before."""

CLOSED_WORLD: Final = frozenset({"database"})
"""What tools of ours need that touches nobody outside."""


def offered(tools: Iterable[Tool], agent: Agent, services: Services) -> dict[str, Tool]:
    """Choose the tools for a client: an agent's, at its last stage, without those of a call and those that lack a service."""
    there: set[Need] = set()
    if services.database is not None:
        there.add("database")
    if services.messenger is not None:
        there.add("messenger")
    able = [tool for tool in tools if tool.needs <= there and tool.name not in OF_A_CALL]
    return {tool.name: tool for tool in visible(able, agent, STAGES[-1])}


class OurTools:
    """Answers what MCP clients ask, for one agent. `leave` at the end."""

    def __init__(self, tools: Mapping[str, Tool], agent: Agent, services: Services) -> None:
        self._tools = tools
        self._agent = agent
        self._services = services
        self._runs = Runs()

    def server(self) -> Server[Any]:
        """Make the SDK's server, for any number of clients."""
        return Server(
            NAME,
            version=_version(),
            instructions=f"Tools of a telephone agent. Times are local to {self._agent.timezone}, where the business is.",
            on_list_tools=self._list,
            on_call_tool=self._call,
        )

    async def leave(self, within_s: float) -> None:
        """Let writes that are under way come to their end, for so long at most."""
        await self._runs.finish(within_s)

    async def _list(self, _context: ServerRequestContext, _asked: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[shown(tool) for tool in self._tools.values()])

    async def _call(self, context: ServerRequestContext, asked: CallToolRequestParams) -> CallToolResult:
        tool = self._tools.get(asked.name)
        if tool is None:
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {asked.name[:MOST_KEY]}")
        return result_of(await self._outcome(tool, _key(context.meta), asked.arguments or {}))

    async def _outcome(self, tool: Tool, key: str, arguments: Mapping[str, Any]) -> Outcome:
        # the tool is part of it: one key for two tools must not give the one what the other has done
        call = ToolCall(f"{tool.name}:{key}", arguments, self._agent, services=self._services)

        async def start() -> Outcome:
            return await running.run(tool, call, arguments)

        return await self._runs.ask(("mcp", call.id), start, reads=not tool.writes)


def shown(tool: Tool) -> Offered:
    """Describe a tool as MCP does."""
    hints = ToolAnnotations(
        read_only_hint=not tool.writes,
        destructive_hint=tool.writes and tool.name not in ADDING,
        idempotent_hint=tool.repeatable,
        open_world_hint=False if tool.needs and tool.needs <= CLOSED_WORLD else None,
    )
    return Offered(name=tool.name, description=tool.description, input_schema=tool.schema(), annotations=hints)


def result_of(outcome: Outcome) -> CallToolResult:
    """Say what came of a run: an object, or the sentence why there is none."""
    error = outcome.result.get("error")
    if error is not None:
        return CallToolResult(content=[TextContent(text=str(error))], is_error=True)
    text = json.dumps(outcome.result, ensure_ascii=False)
    return CallToolResult(content=[TextContent(text=text)], structured_content=dict(outcome.result))


def _key(meta: Mapping[str, Any] | None) -> str:
    """Read the key of a request, or make one up.

    Raises:
        MCPError: it is none.
    """
    key = (meta or {}).get(KEY)
    if key is None:
        return uuid.uuid4().hex
    if not isinstance(key, str) or not 0 < len(key) <= MOST_KEY or not key.isprintable():
        raise MCPError(INVALID_PARAMS, f"_meta: {KEY} must be a text of 1 to {MOST_KEY} characters")
    return key


def _version() -> str:
    try:
        return importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return ""
