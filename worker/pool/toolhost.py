"""The pool's side of its tool host: starting one, giving workers lines to it, noticing that it is gone.

Nothing waits for it: workers park, greet and talk without. A host that ends is started again after a pause, and every worker
then gets a new line, also in a call.
"""

import asyncio
import secrets
import socket
import subprocess
from collections.abc import Iterable
from typing import Any, Final

from shared import logs
from shared.agents import McpServer
from shared.channel import Channel, close_all
from shared.errors import StreamProtocolError
from shared.framing import FROM_HOST
from shared.messages import Problem, ToolLine
from shared.processes import Process
from shared.settings import Settings, environment
from shared.tool_messages import Attend, HostUp, Serve, ServerState
from shared.tool_metrics import ToolMetrics
from worker.pool import plan
from worker.pool.launch import launch
from worker.pool.roster import Roster, Worker
from worker.pool.troubles import Troubles
from worker.pool.watch import Watch

UP_LIMIT_S: Final = 30.0
"""From its start to its first word: half a second, and a cold disk may need many times that."""

LEAVE_LIMIT_S: Final = 8.0
"""More than it gives writes under way and then its MCP servers to end, together."""

STEADY_S: Final = 10.0
"""A host that ends sooner than this after its first word is taken for one that fails again and again."""

LINE_PAUSE_S: Final = 1.0
"""Until a worker that could get no line is given one."""

RESOURCE: Final = "tools"
"""Under this `/readyz` shows what is wrong with the host; with an MCP server, `mcp <name>`."""

_log = logs.get(__name__)


class ToolHost:
    """Keeps a tool host alive, if anything is configured that needs one."""

    def __init__(
        self, settings: Settings, servers: Iterable[McpServer], roster: Roster, metrics: ToolMetrics, troubles: Troubles
    ) -> None:
        self._keys = bool(settings.supabase_url or settings.whatsapp_from)
        self._servers = tuple(servers)
        self._roster = roster
        self._metrics = metrics
        self._troubles = troubles
        self._watch = Watch()
        self._backoff = plan.Backoff()
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._channel: Channel | None = None
        self._up_since: float | None = None
        self._down: dict[str, str] = {}  # why, by server
        self._limit: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        self._closing = False

    @property
    def pid(self) -> int | None:
        """Its process, while there is one."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start a host, if one is needed and there is none."""
        self._again = None
        if self._closing or self._process is not None or not (self._keys or self._servers):
            return
        try:
            self._process, ours, self._pidfd = launch("worker.tools.host", [], environment(Process.TOOL_HOST))
        except OSError as error:
            self._failed(f"it cannot be started: {error.strerror}")
            return
        self._gone.clear()
        self._channel = Channel(ours, FROM_HOST, self._told, self._silent)
        self._watch.add(self._pidfd, self._ended)
        self._limit = asyncio.get_running_loop().call_later(UP_LIMIT_S, self._kill)
        _log.info("tool host started", pid=self._process.pid)

    def serve(self, servers: Iterable[McpServer]) -> None:
        """Have these MCP servers from now on: the agents file has changed."""
        before, self._servers = self._servers, tuple(servers)
        gone = {server.name for server in before} - {server.name for server in self._servers}
        self._metrics.servers_gone(gone)
        self._down = {name: why for name, why in self._down.items() if name not in gone}
        self._show()
        if self._process is None:
            self.start()
        elif self._servers != before and self._up_since is not None:
            self._tell_servers()

    def attend(self, worker: Worker) -> None:
        """Give a worker a line, if there is a host; it may not be born yet."""
        if self._up_since is None or self._channel is None or worker.channel is None or not worker.channel.open:
            return
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            _log.error("no line to the tool host can be made, trying again", worker=worker.id, why=error.strerror)
            asyncio.get_running_loop().call_later(LINE_PAUSE_S, self.attend, worker)
            return
        with ours, theirs:
            if self._channel.send(Attend(worker=worker.id), ours.fileno()):
                worker.channel.send(ToolLine(), theirs.fileno())

    async def leave(self) -> None:
        """Let it go: it leaves at the end of its control socket, when the last worker is gone, or is killed."""
        self._closing = True
        for timer in (self._limit, self._again):
            if timer is not None:
                timer.cancel()
        if self._process is not None:
            if self._channel is not None:
                self._channel.close()
            try:
                async with asyncio.timeout(LEAVE_LIMIT_S):
                    await self._gone.wait()
            except TimeoutError:
                _log.warning("the tool host does not leave", pid=self._process.pid)
                self._kill()
                await self._gone.wait()
        self._watch.close()

    # --- the host speaks ----------------------------------------------------------------------------------------------

    def _told(self, message: Any, fds: list[int]) -> None:
        close_all(fds)
        match message:
            case HostUp():
                self._is_up()
            case ServerState():
                self._server(message)

    def _is_up(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._up_since = asyncio.get_running_loop().time()
        self._metrics.host_up(up=True)
        self._troubles.stand(RESOURCE, ())
        self._tell_servers()
        for worker in self._roster:
            self.attend(worker)
        _log.info("tool host is up", pid=self.pid, servers=len(self._servers))

    def _tell_servers(self) -> None:
        try:
            if self._channel is not None:
                self._channel.send(Serve(servers=self._servers))
        except StreamProtocolError as error:
            _log.error("the mcp servers of the agents file cannot be sent", error=str(error))
            self._troubles.stand(RESOURCE, (Problem(resource=RESOURCE, detail=f"AGENTS_FILE: [mcp]: {error}"),))

    def _server(self, state: ServerState) -> None:
        if state.server not in {server.name for server in self._servers}:
            return
        self._metrics.server_up(state.server, up=not state.why)
        if state.why:
            self._down[state.server] = state.why
        else:
            self._down.pop(state.server, None)
        self._show()

    def _show(self) -> None:
        problems = (Problem(resource=f"mcp {name}", detail=why) for name, why in sorted(self._down.items()))
        self._troubles.stand("mcp", problems)

    # --- its end --------------------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        self._watch.kill(self._pidfd)

    def _silent(self, why: str) -> None:
        if why:
            _log.error("tool host broke its protocol", error=why)
        self._kill()  # without its control socket it could serve nobody new

    def _ended(self) -> None:
        if self._process is not None:
            self._process.poll()
        steady = self._up_since is not None and asyncio.get_running_loop().time() - self._up_since > STEADY_S
        if self._channel is not None:
            self._channel.close()
        if self._limit is not None:
            self._limit.cancel()
        self._process = self._channel = self._up_since = None
        self._gone.set()
        self._metrics.host_up(up=False)
        for server in self._servers:
            self._metrics.server_up(server.name, up=False)
        self._down.clear()
        self._show()
        if not self._closing:
            self._backoff = plan.Backoff() if steady else self._backoff
            self._failed("it has ended")

    def _failed(self, why: str) -> None:
        loop = asyncio.get_running_loop()
        self._backoff = self._backoff.failed(loop.time(), secrets.randbelow(1000) / 1000)
        self._troubles.stand(RESOURCE, (Problem(resource=RESOURCE, detail=f"the tool host: {why}"),))
        self._again = loop.call_at(self._backoff.until, self.start)
        _log.error("tool host is gone, starting another", why=why, in_s=round(self._backoff.until - loop.time(), 2))
