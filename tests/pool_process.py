"""A pool as a real process with the fake child, and a router to talk to it: for tests of the pool from outside.

async with running_pool(tmp_path, ready=2) as pool:
    router = await pool.router()
    ...
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import ClientConnection, connect

from shared.calls import CallSid, IncomingCall, TraceId
from shared.channel import Channel
from shared.framing import FROM_POOL
from shared.messages import (
    AskEnd,
    Ended,
    EndKnown,
    HandOff,
    Hello,
    Message,
    NoWorker,
    Readiness,
    Reserve,
    Reserved,
    Welcome,
)
from tests.fake_child import Script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from shared.ticket import Ticket

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parent.parent
DEADLINE_S = 30.0
"""Generous: it only ends tests that would never end."""

_requests = itertools.count(1)
_sids = itertools.count(1)


def new_sid() -> CallSid:
    """Make a call SID nobody has used."""
    return CallSid(f"CA{next(_sids):032x}")


async def eventually(look: Callable[[], T | None]) -> T:
    """Wait until something is true, looking often; only for what cannot be waited for."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = look()
            if found:
                return found
            await asyncio.sleep(0.01)


async def eventually_asked(ask: Callable[[], Awaitable[T | None]]) -> T:
    """Ask until the answer is something; each question is a round trip to another process."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = await ask()
            if found:
                return found
            await asyncio.sleep(0.01)


class Router:
    """A router's end of a control connection."""

    def __init__(self, path: Path) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(str(path))
        self.welcome: Welcome | None = None
        self.readiness: list[Readiness] = []
        self.ends: list[Ended] = []
        self.lost = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._news = asyncio.Event()
        self.channel = Channel(sock, FROM_POOL, self._receive, lambda _why: self.lost.set())

    def _receive(self, message: Any, _fds: list[int]) -> None:
        match message:
            case Welcome():
                self.welcome = message
            case Readiness():
                self.readiness.append(message)
            case Ended():
                self.ends.append(message)
            case _:
                self._answers.pop(message.request).set_result(message)
        self._news.set()

    async def until(self, true: Callable[[], Any]) -> None:
        """Wait for a message that makes something true."""
        async with asyncio.timeout(DEADLINE_S):
            while not true():
                self._news.clear()
                await self._news.wait()

    async def ready(self, count: int) -> None:
        """Wait until the pool says it has this many workers ready."""
        await self.until(lambda: self.readiness and self.readiness[-1].ready == count)

    async def ask(self, make: Callable[[int], Message]) -> Any:
        """Ask and wait for the answer."""
        request = next(_requests)
        answer = self._answers[request] = asyncio.get_running_loop().create_future()
        self.channel.send(make(request))
        async with asyncio.timeout(DEADLINE_S):
            return await answer

    async def reserve(
        self, sid: CallSid, *, ttl_s: float = 30.0, attempt: int = 0, behind: int = 0
    ) -> Reserved | NoWorker:
        """Ask for a worker."""
        call = IncomingCall(
            call_sid=sid, caller="+15550001111", called="+15550002222", trace_id=TraceId("0" * 32), attempt=attempt
        )
        answer = await self.ask(lambda request: Reserve(request=request, call=call, ttl_s=ttl_s, behind=behind))
        assert isinstance(answer, Reserved | NoWorker)
        return answer

    async def reserved(self, sid: CallSid, *, ttl_s: float = 30.0) -> Reserved:
        """Ask for a worker and get one."""
        answer = await self.reserve(sid, ttl_s=ttl_s)
        assert isinstance(answer, Reserved)
        return answer

    async def end_of(self, sid: CallSid, attempt: int = 0) -> EndKnown:
        """Ask how a call ended."""
        answer = await self.ask(lambda request: AskEnd(request=request, call_sid=sid, attempt=attempt))
        assert isinstance(answer, EndKnown)
        return answer

    @contextlib.asynccontextmanager
    async def upgrade(
        self, ticket: Ticket, *, head: bytes | None = None, call: IncomingCall | None = None
    ) -> AsyncIterator[ClientConnection]:
        """Be the carrier: connect, and hand the accepted socket over as a router does."""
        async with _listener(self, ticket, head, call) as port, connect(f"ws://127.0.0.1:{port}/media/x") as stream:
            yield stream

    async def refused(self, ticket: Ticket, *, head: bytes | None = None) -> int:
        """Upgrade, and give the HTTP status it was refused with."""
        async with _listener(self, ticket, head) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /media/x HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(DEADLINE_S):
                answer = await reader.read()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return int(answer.split(b" ")[1])


@contextlib.asynccontextmanager
async def _listener(
    router: Router, ticket: Ticket, head: bytes | None, call: IncomingCall | None = None
) -> AsyncIterator[int]:
    """Accept one connection, read its head, hand it over."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        async def accept() -> None:
            sock, _ = await loop.sock_accept(listener)
            with sock:
                sock.setblocking(False)
                got = b""
                while b"\r\n\r\n" not in got:
                    got += await loop.sock_recv(sock, 65_536)
                hand_off = HandOff(ticket=ticket, head=head or got, accepted_at=time.monotonic(), call=call)
                router.channel.send(hand_off, sock.fileno())

        accepting = asyncio.create_task(accept())
        yield listener.getsockname()[1]
        await accepting


@dataclass
class PoolProcess:
    """A running pool."""

    process: asyncio.subprocess.Process
    folder: Path
    socket: Path
    port: int
    script: Path
    log: Path
    routers: list[Router] = field(default_factory=list)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What pool, zygote and workers have logged."""
        lines = []
        for line in self.log.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return lines

    @property
    def pid(self) -> int:
        """The pool's own process."""
        return self.process.pid

    @property
    def zygote(self) -> int:
        """The latest zygote's process."""
        return [int(line["pid"]) for line in self.lines if line["event"] == "zygote started"][-1]

    async def router(self) -> Router:
        """Connect a router and be welcomed."""
        router = Router(self.socket)
        self.routers.append(router)
        router.channel.send(Hello())
        await router.until(lambda: router.welcome)
        return router

    def tell(self, script: Script) -> None:
        """Say what the next workers do."""
        fresh = self.script.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(script))
        fresh.replace(self.script)

    async def get(self, path: str) -> tuple[int, str]:
        """Fetch from the pool's port."""

        def fetch() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=DEADLINE_S) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()

        return await asyncio.to_thread(fetch)

    async def metric(self, name: str, **labels: str) -> float:
        """Read one sample."""
        _, text = await self.get("/metrics")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        raise KeyError(name)

    def workers(self) -> dict[str, int]:
        """Give the processes of workers that have parked and live, by worker id."""
        parked = {line["worker"]: int(line["pid"]) for line in self.lines if line["event"] == "parked"}
        return {worker: pid for worker, pid in parked.items() if lives(pid)}

    async def said(self, event: str) -> dict[str, Any]:
        """Wait for a line of the log."""
        return await eventually(lambda: next((line for line in self.lines if line["event"] == event), None))

    async def resumed(self, sid: CallSid, times: int = 1) -> dict[str, Any]:
        """Wait until other workers have taken over a call this often, and give the last line of the log about it."""

        def look() -> dict[str, Any] | None:
            lines = [each for each in self.lines if each["event"] == "call resumed" and each["call_sid"] == sid]
            return lines[times - 1] if len(lines) >= times else None

        return await eventually(look)

    async def stop(self) -> int:
        """Send SIGTERM and wait for the end."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()


def lives(pid: int) -> bool:
    """Say whether a process lives; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descriptors(pid: int) -> int:
    """Count the open descriptors of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """Give the environment of a pool whose files are in `folder`, without what the caller's environment sets."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": str(REPOSITORY),
        "OPENAI_API_KEY": "made-up",
        "CARTESIA_API_KEY": "made-up",
        "CARTESIA_VOICE_ID": "made-up",
        "REDIS_URL": f"unix://{folder}/nobody.sock",
        "HANDOFF_DIR": str(folder / "handoff"),
        "POOL_METRICS_HOST": "127.0.0.1",
        "POOL_METRICS_PORT": "0",
        "DRAIN_TIMEOUT": "0",
        "FAKE_CHILD_SCRIPT": str(folder / "script.json"),
        **settings,
    }


COMMAND = (sys.executable, "-W", "error", "-m", "worker", "--child", "tests.fake_child")


@contextlib.asynccontextmanager
async def running_pool(
    folder: Path, *, ready: int = 2, said: Script | None = None, settings: Mapping[str, str] | None = None
) -> AsyncIterator[PoolProcess]:
    """Start a pool in `folder`, wait until it listens, and stop it at the end; nothing is left running."""
    script = folder / "script.json"
    script.write_bytes(msgspec.json.encode(said or Script()))
    log = folder / "log.jsonl"
    # Not a pipe: workers may outlive their pool, and with it the wait for the pipe's end would not be over.
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            env=environment(folder, POOL_READY=str(ready), POOL_ID="p1", **(settings or {})),
            cwd=folder,
            stdout=out,
        )
    pool = PoolProcess(process, folder, folder / "handoff" / "p1.sock", 0, script, log)
    try:
        up = await pool.said("pool is up")
        pool.port = up["metrics_port"]
        yield pool
    finally:
        for router in pool.routers:
            router.channel.close()
        await _end(pool)


async def _end(pool: PoolProcess) -> None:
    """Stop the pool, and kill what would be left of it."""
    workers = pool.workers().values()
    crashed = pool.process.returncode
    try:
        assert await pool.stop() == (0 if crashed is None else crashed)
    except TimeoutError:
        pool.process.kill()
        await pool.process.wait()
        raise
    finally:
        for pid in workers:
            if lives(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
