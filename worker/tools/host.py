"""`python -m worker.tools.host --control-fd N`: the tool host of a pool, its only process with the key to the database.

It runs the tools that need the database, the messenger or an MCP server, for all workers of the pool, and is told of them by
the pool. A worker's line is served until the worker is gone, also when the pool is: orphaned calls keep their tools. The host
leaves when neither a pool nor a worker is left. Signals do not end it: the pool does, by its control socket.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, Literal

from shared import logs, rlimits, settings
from shared.channel import Channel, close_all
from shared.errors import SettingsError
from shared.framing import TO_HOST, WORKER_TO_HOST
from shared.messages import Message
from shared.processes import Process
from shared.settings import Settings
from shared.tool_messages import Attend, HostHas, HostUp, RunTool, Serve, ServerState
from shared.workers import WorkerId
from worker.tools import running
from worker.tools.attendant import Attendant
from worker.tools.builtin import BUILT_IN
from worker.tools.mcp_servers import McpServers
from worker.tools.registry import Outcome, Tool, ToolCall, digest
from worker.tools.runs import Runs
from worker.tools.services import Database, Messenger, Services

FINISH_S: Final = 4.0
"""How long writes under way may take when nobody is left: the pool waits for 8 s at most, and the MCP servers come after."""

LEAVE_S: Final = 3.0
"""How long MCP servers get to end; whatever is left of them dies with this process."""

OOM_SCORE: Final = "600"
"""A machine out of memory takes this process, which is started again, before a worker (500), which holds a caller."""

EXIT_NOT_LOADED: Final = 3

_log = logs.get(__name__)


class Host:
    """Serves workers. `run` ends when nobody is left."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._runs = Runs()
        self._lines: set[Attendant] = set()
        self._tools = {name: tool for name, tool in BUILT_IN.items() if tool.place == "host"}
        self._servers = McpServers(BUILT_IN, self._tell_workers, self._tell_pool)
        self._done = asyncio.Event()
        self._control: Channel | None = None

    async def run(self, control: socket.socket) -> None:
        """Serve until the pool and every worker are gone."""
        self._control = Channel(control, TO_HOST, self._told, self._pool_lost)
        self._control.send(HostUp())
        await self._done.wait()
        await self._runs.finish(FINISH_S)
        await self._servers.leave(LEAVE_S)

    # --- the pool -----------------------------------------------------------------------------------------------------

    def _told(self, message: Any, fds: list[int]) -> None:
        match message:
            case Attend() if len(fds) == 1:
                self._attend(message.worker, socket.socket(fileno=fds[0]))
                return
            case Serve():
                self._servers.serve(message.servers)
                self._tell_workers(self._has())
        close_all(fds)

    def _tell_pool(self, state: ServerState) -> None:
        if self._control is not None and self._control.open:
            self._control.send(state)

    def _pool_lost(self, why: str) -> None:
        _log.info("pool lost", why=why, workers=len(self._lines))
        self._leave_if_alone()

    def _leave_if_alone(self) -> None:
        if not self._lines and (self._control is None or not self._control.open):
            self._done.set()

    # --- workers ------------------------------------------------------------------------------------------------------

    def _attend(self, worker: WorkerId, sock: socket.socket) -> None:
        attendant = Attendant(worker, self._answer)
        channel = Channel(sock, WORKER_TO_HOST, attendant.receive, lambda why: self._worker_lost(attendant, why))

        def hang_up() -> None:
            channel.close()
            self._worker_lost(attendant, "")

        attendant.send, attendant.close = channel.send, hang_up
        self._lines.add(attendant)
        attendant.send(self._has())
        for offer in self._servers.offers():
            attendant.send(offer)

    def _worker_lost(self, attendant: Attendant, why: str) -> None:
        if why:
            _log.warning("a worker broke its line", worker=attendant.worker, why=why)
        attendant.leave()
        self._lines.discard(attendant)
        self._leave_if_alone()

    def _has(self) -> HostHas:
        services: list[Literal["database", "messenger"]] = []
        if self._services.database is not None:
            services.append("database")
        if self._services.messenger is not None:
            services.append("messenger")
        return HostHas(services=tuple(services), servers=self._servers.names)

    def _tell_workers(self, message: Message) -> None:
        for attendant in list(self._lines):
            attendant.send(message)

    async def _answer(self, asked: RunTool, room: asyncio.Semaphore) -> Outcome:
        tool = self._find(asked)
        if tool is None:
            return Outcome(running.OUT_OF_ORDER)
        call = ToolCall(asked.call_id, asked.arguments, asked.agent, asked.call, services=self._services)

        async def start() -> Outcome:
            async with room:
                return await running.run(tool, call, asked.arguments)

        request = (asked.call.call_sid, f"{asked.call_id}:{tool.name}:{digest(asked.arguments)}")
        return await self._runs.ask(request, start, reads=not tool.writes)

    def _find(self, asked: RunTool) -> Tool | None:
        if not asked.server:
            return self._tools.get(asked.tool)
        return self._servers.find(asked.server, asked.tool) if asked.server in asked.agent.mcp else None


def services(configured: Settings) -> tuple[Services, list[Coroutine[Any, Any, None]]]:
    """Make what is configured, and give what has to run beside it; whatever cannot be made is missing, and its tools say so.

    Each is imported only where it is configured: the one takes the HTTP client, the other Redis and RQ.
    """
    beside: list[Coroutine[Any, Any, None]] = []
    database: Database | None = None
    messenger: Messenger | None = None
    if configured.supabase_url:
        try:
            from worker.tools.database import SupabaseDatabase

            database = supabase = SupabaseDatabase(configured)
            beside.append(supabase.keep_warm())
        except Exception:  # noqa: BLE001 - the other tools go on without it
            _log.exception("no database for tools")
    if configured.whatsapp_from:
        try:
            from worker.tools.messenger import QueuedMessenger

            messenger = QueuedMessenger(configured.redis_url)
        except Exception:  # noqa: BLE001 - the other tools go on without it
            _log.exception("no messenger for tools")
    return Services(database, messenger), beside


async def _serve(configured: Settings, control: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: None)  # ignoring them would be inherited by the MCP servers
    given, beside = services(configured)
    tasks = [asyncio.create_task(each) for each in beside]
    await Host(given).run(control)
    for task in tasks:
        task.cancel()


def main(arguments: list[str] | None = None) -> int:
    """Serve the pool at the other end of the control socket; give the exit status."""
    parser = argparse.ArgumentParser(prog="python -m worker.tools.host", description="Runs tools for a pool's workers.")
    parser.add_argument("--control-fd", type=int, required=True, help="the host's end of the pool's socket pair")
    options = parser.parse_args(arguments)
    control = socket.socket(fileno=options.control_fd)
    control.set_inheritable(False)
    rlimits.take()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    try:
        configured = settings.load(Process.TOOL_HOST)
    except SettingsError as error:
        settings.refuse(error)
    logs.configure(configured.log_level, process="toolhost")
    for noisy in ("mcp", "client"):  # the SDK's own loggers; they write whole messages, with what callers said
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        asyncio.run(_serve(configured, control))
    except Exception:  # noqa: BLE001 - the top of the process
        _log.exception("tool host failed")
        return EXIT_NOT_LOADED
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(status)  # a thread may still hang in somebody's library, and nobody is left to wait for
