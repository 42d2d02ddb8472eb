"""An MCP server made with the official SDK, for tests of the tool host; over stdio, or streamable HTTP with `--port`.

    python -m tests.standins.mcp_server [--port N] [--hang | --garbage | --legacy] [--diary FILE]

Each run of a tool that changes something is a line of the diary, and so is each start (`start <pid>`). `--hang` reads and
never answers, `--garbage` writes lines that are no message, `--legacy` knows nothing newer than the protocol of 2025.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Any

from mcp.server.lowlevel import NotificationOptions
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp_types import ToolAnnotations
from pydantic import Field

READS = ToolAnnotations(read_only_hint=True)
LONG = 10_000
TOO_LARGE = "x" * 70_000
PIXEL = b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"


class Diary:
    """What was done, one line each, written at once."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lines = 0

    def write(self, line: str) -> int:
        """Add a line; gives how many there are by this process."""
        self._lines += 1
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(line + "\n")
        return self._lines


def build(diary: Diary) -> MCPServer[Any]:  # noqa: C901 - a list of tools
    """Make the server with all its tools."""
    server: MCPServer[Any] = MCPServer("stand-in")

    @server.tool(annotations=READS)
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool(annotations=READS)
    def opening_hours(day: str) -> str:
        """Say when the shop is open."""
        return f"On {day} we are open from nine to five."

    @server.tool()
    def note(text: str) -> str:
        """Write something down."""
        return f"noted as number {diary.write(text)}"

    @server.tool()
    async def slow_note(text: str, seconds: float) -> str:
        """Write something down, slowly."""
        diary.write(f"begin {text}")
        await asyncio.sleep(seconds)
        return f"noted as number {diary.write(text)}"

    @server.tool(annotations=READS)
    async def slow_look(seconds: float) -> str:
        """Look for something, slowly."""
        diary.write("look")
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            diary.write("given up")
            raise
        return "found"

    @server.tool(annotations=READS)
    def environment() -> dict[str, list[str]]:
        """List the names of the environment."""
        return {"names": sorted(os.environ)}

    @server.tool(annotations=READS)
    def process() -> dict[str, int]:
        """Give the process id."""
        return {"pid": os.getpid()}

    @server.tool(annotations=READS)
    def header(name: str, context: Context[Any, Any]) -> str:
        """Give a header of the request, over HTTP."""
        return str((context.headers or {}).get(name, ""))

    @server.tool(annotations=READS)
    def picture() -> Image:
        """Give a picture."""
        return Image(data=PIXEL, format="gif")

    @server.tool(annotations=READS, structured_output=False)
    def long() -> str:
        """Give ten thousand characters."""
        return "word " * (LONG // 5)

    @server.tool(annotations=READS, structured_output=False)
    def huge() -> str:
        """Give more than anybody should read."""
        return "word " * 2_000_000

    @server.tool(annotations=READS)
    def broken() -> str:
        """Fail."""
        raise ValueError("the shelf is empty")

    @server.tool()
    def leave() -> str:
        """End the process in the middle of the call."""
        diary.write("leave")
        os._exit(3)

    @server.tool(annotations=READS)
    def too_large(text: Annotated[str, Field(description=TOO_LARGE)]) -> str:
        """Have a schema that fits no message."""
        return text

    @server.tool()
    async def learn(name: str, context: Context[Any, Any]) -> str:
        """Learn another tool."""

        def learned() -> str:
            return name

        server.add_tool(learned, name=name, description="Something new.", annotations=READS)
        await context.notify_tools_changed()
        await context.session.send_tool_list_changed()
        return "learned"

    return server


async def as_in_2025(server: MCPServer[Any]) -> None:
    """Serve over stdio as servers did that know nothing of `server/discover`."""
    lowlevel = server._lowlevel_server
    async with stdio_server() as (incoming, outgoing), lowlevel.lifespan(lowlevel) as state:
        options = lowlevel.create_initialization_options(NotificationOptions(tools_changed=True))
        await serve_loop(lowlevel, incoming, outgoing, lifespan_state=state, init_options=options)


def only_garbage() -> None:
    """Write lines that are no message until nobody reads."""
    while True:
        sys.stdout.write("this is not JSON\n")


def only_read() -> None:
    """Take everything and never answer."""
    for _ in sys.stdin:
        pass


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--diary", type=Path)
    for mode in ("--hang", "--garbage", "--legacy"):
        parser.add_argument(mode, action="store_true")
    options = parser.parse_args()
    diary = Diary(options.diary)
    diary.write(f"start {os.getpid()}")
    if options.hang:
        only_read()
    elif options.garbage:
        only_garbage()
    elif options.port:
        asyncio.run(build(diary).run_streamable_http_async(port=options.port))
    else:
        server = build(diary)
        asyncio.run(as_in_2025(server) if options.legacy else server.run_stdio_async())


if __name__ == "__main__":
    main()
