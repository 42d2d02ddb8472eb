"""`python -m worker.tools.mcp`: our own tools as an MCP server, for other clients than our calls.

    python -m worker.tools.mcp [--agent NAME]                                        # over stdio
    python -m worker.tools.mcp [--agent NAME] --http HOST:PORT [--allow-host NAME]   # streamable HTTP, at /mcp

Settings come from the environment, as for the pool: SUPABASE_URL and its key, WHATSAPP_FROM, AGENTS_FILE, TOOLS_DIR. With
MCP_TOKEN every request must bring it as a bearer token; an address that others can reach needs one.
"""

import argparse
import asyncio
import io
import logging
import os
import signal
import sys
from collections.abc import Iterable
from typing import Final

import anyio
from mcp.server.stdio import stdio_server

from shared import logs, rlimits, settings
from shared.agents import Agent
from shared.agents_file import load_agents
from shared.errors import OffhookError, SettingsError
from shared.processes import Process
from shared.settings import Settings
from worker.tools import mcp_http
from worker.tools.builtin import BUILT_IN
from worker.tools.custom_folder import load_custom
from worker.tools.host import services
from worker.tools.mcp_ours import OurTools, offered
from worker.tools.registry import Tool

LEAVE_S: Final = 10.0
"""How long writes that are under way may take when the last client is gone: as long as a tool may."""

_STDOUT: Final = 1
_STDERR: Final = 2

_log = logs.get(__name__)


def agent_called(configured: Settings, name: str) -> Agent:
    """Find an agent of the agents file.

    Raises:
        SettingsError: there is none of that name, or the file is wrong.
    """
    agents = {agent.name: agent for agent in load_agents(configured.agents_file, prompts=False).all}
    if name not in agents:
        raise SettingsError(f"--agent: there is no agent {name}, only {', '.join(agents)}")
    return agents[name]


async def _serve_stdio(ours: OurTools, wire: int) -> None:
    """Answer on stdin and the wire until the client is gone, or the process is asked to end."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = ours.server()

    async def serve() -> None:
        out = anyio.wrap_file(io.TextIOWrapper(os.fdopen(wire, "wb"), encoding="utf-8"))
        async with stdio_server(stdout=out) as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())

    serving = asyncio.ensure_future(serve())
    stopping = asyncio.ensure_future(stopped.wait())
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()


async def _run(
    configured: Settings, agent: Agent, custom: Iterable[Tool], options: argparse.Namespace, wire: int
) -> None:
    given, beside = services(configured)
    tasks = [asyncio.create_task(each) for each in beside]
    ours = OurTools(offered([*BUILT_IN.values(), *custom], agent, given), agent, given)
    if options.http is None:
        await _serve_stdio(ours, wire)
    else:
        token = configured.mcp_token.get_secret_value()
        await mcp_http.serve(ours.server(), mcp_http.listen(options.http), options.http, token)
    await ours.leave(LEAVE_S)
    for task in tasks:
        task.cancel()


def main(arguments: list[str] | None = None) -> int:
    """Serve until nobody is left to serve; give the exit status."""
    parser = argparse.ArgumentParser(prog="python -m worker.tools.mcp", description="Our own tools as an MCP server.")
    parser.add_argument("--agent", default="default", help="whose tools, opening hours and time zone (AGENTS_FILE)")
    parser.add_argument("--http", metavar="HOST:PORT", help="serve streamable HTTP there, at /mcp, and not stdio")
    parser.add_argument("--allow-host", metavar="NAME", action="append", default=[], help="a name clients reach it by")
    options = parser.parse_args(arguments)
    wire = os.dup(_STDOUT)
    if options.http is None:
        os.dup2(_STDERR, _STDOUT)  # whatever prints, logs included, must not get between messages
    rlimits.take()
    try:
        configured = settings.load(Process.MCP_SERVER)
        if options.http is not None:
            token = configured.mcp_token.get_secret_value()
            options.http = mcp_http.address(options.http, options.allow_host, token)
        agent = agent_called(configured, options.agent)
        logs.configure(configured.log_level, process="mcp")
        custom = load_custom(configured)
    except OffhookError as error:
        settings.refuse(error)
    for noisy in ("mcp", "client"):  # the SDK's own loggers; they write whole messages, with what callers said
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        asyncio.run(_run(configured, agent, custom.tools, options, wire))
    except OffhookError as error:
        settings.refuse(error)
    except Exception:  # noqa: BLE001 - the top of the process
        _log.exception("MCP server failed")
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # a thread may still hang in somebody's library, or read a stdin that nobody closes
