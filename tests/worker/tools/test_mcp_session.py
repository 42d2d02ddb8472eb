"""A session with an MCP server that says too much."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mcp_types import ToolListChangedNotification

from shared.agents import McpServer
from worker.tools import mcp_session
from worker.tools.mcp_session import McpSession


class Restless:
    """A client of a server that announces a change with every list it gives."""

    protocol_version = "2025-06-18"
    server_capabilities = SimpleNamespace(tools=True)

    def __init__(self, session: McpSession) -> None:
        self._session = session
        self.lists = 0
        self.third = asyncio.Event()

    async def list_tools(self, cursor: str | None) -> Any:
        """Give no tools, and the next announcement."""
        assert cursor is None
        await asyncio.sleep(0)  # as any answer from elsewhere
        self.lists += 1
        if self.lists == 3:
            self.third.set()
        await self._session._heard(ToolListChangedNotification())
        return SimpleNamespace(tools=[], next_cursor=None)


def served() -> tuple[McpSession, Restless, asyncio.Task[None]]:
    """Be connected to such a server."""
    session = McpSession(McpServer(name="shop", command="shop"), lambda _: None)
    client = Restless(session)
    session._news.set()
    return session, client, asyncio.create_task(session._attend(cast("Any", client)))


async def turns() -> None:
    for _ in range(200):
        await asyncio.sleep(0)


async def test_a_server_that_announces_a_change_with_each_list_is_not_asked_without_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mcp_session, "LIST_PAUSE_S", 3600.0, raising=False)
    session, client, serving = served()
    await turns()
    assert client.lists == 1
    session.stop()
    async with asyncio.timeout(10):
        await serving  # in the middle of the pause


async def test_what_was_announced_in_the_pause_is_looked_at_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_session, "LIST_PAUSE_S", 0.01, raising=False)
    session, client, serving = served()
    async with asyncio.timeout(10):
        await client.third.wait()
    session.stop()
    await serving
