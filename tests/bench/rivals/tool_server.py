"""The MCP stand-in as a vendor would host it: over HTTP, with a delay before each answer.

    python -m tests.bench.rivals.tool_server --delay-ms 150

Prints `{"port": ...}` when it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from typing import TYPE_CHECKING

import uvicorn

from tests.bench.rivals.serving import run
from tests.standins.mcp_server import Diary, build

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class Distant:
    """An application that is so many seconds away."""

    def __init__(self, app: ASGIApp, delay_s: float) -> None:
        self._app = app
        self._delay_s = delay_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait before a POST; the long-lived GET of a session delays nobody."""
        if scope["type"] == "http" and scope["method"] == "POST":
            await asyncio.sleep(self._delay_s)
        await self._app(scope, receive, send)


def main() -> None:
    """Serve until whoever started this process has gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay-ms", type=float, default=0.0)
    chosen = parser.parse_args()
    app = Distant(build(Diary(None)).streamable_http_app(), chosen.delay_ms / 1000)
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    asyncio.run(run(uvicorn.Server(uvicorn.Config(app, log_level="warning")), listening))


if __name__ == "__main__":
    main()
