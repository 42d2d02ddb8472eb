"""A tool host as a real process, with the pool's end of its control socket and as many workers as a test wants.

async with running_host([server]) as host:
    worker = await host.worker("0-1")
    outcome = await worker.ask("shop_add", {"a": 1, "b": 2})
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from shared.agents import Agent, McpServer
from shared.calls import CallSid, IncomingCall, TraceId
from shared.channel import Channel, close_all
from shared.framing import FROM_HOST
from shared.tool_messages import Attend, HostUp, Serve, ServerState
from shared.workers import WorkerId
from worker.call.toolline import HostLine
from worker.tools.registry import Outcome, Tool, ToolCall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 30.0
CALL = IncomingCall(call_sid=CallSid("CA1"), caller="+15550001111", called="+15552223333", trace_id=TraceId("0" * 32))
SECRETS = {"SUPABASE_SECRET_KEY": "sb_secret_stand_in", "OPENAI_API_KEY": "sk-stand-in", "TWILIO_AUTH_TOKEN": "token"}


def standin(name: str, *flags: str, timeout_s: float = 10.0, env: Mapping[str, str] | None = None) -> McpServer:
    """Describe our stand-in as a server over stdio."""
    return McpServer(
        name=name,
        command=sys.executable,
        args=("-m", "tests.standins.mcp_server", *flags),
        env={"PYTHONPATH": str(ROOT), **(env or {})},
        timeout_s=timeout_s,
    )


async def until(condition: Callable[[], T], what: str) -> T:
    """Wait until a condition about other processes holds; there is no event to wait for across them."""
    ends = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < ends, f"not within {DEADLINE_S:.0f} s: {what}"
        await asyncio.sleep(0.01)
    return value


@dataclass(slots=True)
class Worker:
    """A worker's end of its line, as a worker has it."""

    line: HostLine
    agent: Agent
    offers: int = 0

    async def offered(self, name: str) -> Tool:
        """Wait until a tool is offered."""
        await until(lambda: name in self.line.offered, f"{name} is offered, not only {sorted(self.line.offered)}")
        return self.line.offered[name]

    async def ask(self, name: str, arguments: Mapping[str, Any], call_id: str = "", call: IncomingCall = CALL) -> Any:
        """Ask for a tool and give the result."""
        outcome = await self.run(await self.offered(name), arguments, call_id, call)
        return outcome.result

    async def run(
        self, tool: Tool, arguments: Mapping[str, Any], call_id: str = "", call: IncomingCall = CALL
    ) -> Outcome:
        """Ask for a tool, offered or not."""
        request = ToolCall(call_id or os.urandom(8).hex(), dict(arguments), self.agent, call)
        return await self.line.run(tool, request, arguments)


@dataclass(slots=True)
class HostProcess:
    """A running host and what it said."""

    process: subprocess.Popen[bytes]
    log: Path
    control: Channel
    up: asyncio.Event = field(default_factory=asyncio.Event)
    states: dict[str, ServerState] = field(default_factory=dict)
    lines: list[HostLine] = field(default_factory=list)

    def serve(self, servers: Iterable[McpServer]) -> None:
        """Say which servers there are."""
        self.control.send(Serve(servers=tuple(servers)))

    async def worker(self, name: str, agent: Agent | None = None) -> Worker:
        """Make a worker and wait until the host serves it; by default its agent may use every server of the tests."""
        line = HostLine()
        made = Worker(line, agent or Agent(mcp=("shop", "web", "dead", "old")))
        heard = asyncio.Event()
        line.on_offered = heard.set
        self.attend(name, line)
        async with asyncio.timeout(DEADLINE_S):
            await heard.wait()
        return made

    def attend(self, name: str, line: HostLine) -> None:
        """Give a worker a line to this host."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.control.send(Attend(worker=WorkerId(name)), theirs.fileno())
        line.connect(ours)
        self.lines.append(line)

    def leave(self) -> None:
        """Have every worker gone."""
        for line in self.lines:
            line.close()

    async def state(self, server: str, *, up: bool) -> ServerState:
        """Wait until the host says that a server is up, or why it is not."""

        def said() -> ServerState | None:
            state = self.states.get(server)
            return state if state is not None and (not state.why) is up else None

        state = await until(said, f"{server} is {'up' if up else 'down'}, not {self.states}")
        assert state is not None
        return state

    async def end(self) -> int:
        """Wait for its end."""
        return await asyncio.to_thread(self.process.wait, DEADLINE_S)


@contextlib.asynccontextmanager
async def running_host(
    folder: Path, servers: Iterable[McpServer] = (), env: Mapping[str, str] | None = None
) -> AsyncIterator[HostProcess]:
    """Start a host in a folder, wait until it is up, and end it."""
    host = start(folder, env)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await host.up.wait()
        host.serve(servers)
        yield host
    finally:
        host.control.close()
        host.leave()
        try:
            await asyncio.to_thread(host.process.wait, DEADLINE_S)
        except subprocess.TimeoutExpired:
            host.process.kill()
            host.process.wait()
            raise


def start(folder: Path, env: Mapping[str, str] | None = None) -> HostProcess:
    """Start a host; it runs in the folder, where there is no `.env`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    log = folder / "toolhost.log"
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "VIRTUAL_ENV"}}
    with theirs, log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.tools.host", "--control-fd", str(theirs.fileno())],
            env={**kept, "PYTHONPATH": str(ROOT), **SECRETS, **(env or {})},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )

    def told(message: Any, fds: list[int]) -> None:
        close_all(fds)
        match message:
            case HostUp():
                host.up.set()
            case ServerState():
                host.states[message.server] = message

    host = HostProcess(process, log, Channel(ours, FROM_HOST, told, lambda _why: None))
    return host


def alive(pid: int) -> bool:
    """Say whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process a test started."""
    os.kill(pid, number)
