"""What is compared: this project as a whole installation, and two rivals on the very same stand-ins."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from tests.bench import processes
from tests.bench.calls import gathered
from tests.bench.options import CONNECT_MS
from tests.stack import AUTH_TOKEN, LEXICON, PUBLIC, ROOT, Stack
from tests.standins.carrier import Carrier
from tests.standins.carrier_settings import CarrierSettings
from tests.standins.process import StandinFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.stack import Plan
    from tests.standins.carrier_call import Call
    from tests.standins.process import Standin

OURS, STOCK, OLD = "offhook", "stock Pipecat", "old flow"
__all__ = [
    "LEXICON",
    "MODELS",
    "NAMES",
    "OLD",
    "OURS",
    "STOCK",
    "Field",
    "Ours",
    "Rival",
    "System",
    "rivals",
    "running",
]

NAMES: Final = (OURS, STOCK, OLD)
MODELS: Final = {OURS: "gpt-4.1", STOCK: "gpt-4o-mini", OLD: "gpt-4o"}
"""Each asks for another model, so that the stand-in's log says whose completion it was."""

MODULES: Final = {STOCK: "stock", OLD: "old_flow"}
STOP_DEADLINE_S: Final = 10.0


class System(Protocol):
    """Something that answers calls."""

    @property
    def name(self) -> str:
        """What it is called in tables."""

    @property
    def pids(self) -> list[int]:
        """Its processes; their descendants belong to it as well."""

    def carrier(self, **changes: Any) -> Carrier:
        """Make a carrier that calls it."""

    async def rested(self) -> None:
        """Wait until it can take the next measurement: everything torn down, everything ready."""

    async def readiness(self, calls: Sequence[Call]) -> list[float | None]:
        """How long after `start` each call's ear and voice were connected (seconds; before it: negative)."""


@dataclass(frozen=True, slots=True)
class Ours:
    """This project: router, pool with its zygote, workers and tool host, prefetchers, and Redis."""

    stack: Stack
    name: str = OURS

    @property
    def pids(self) -> list[int]:
        """The roots of its processes."""
        return [part.pid for part in self.stack.parts.values() if part.running] + [self.stack.redis.pid]

    def carrier(self, **changes: Any) -> Carrier:
        """Make a carrier that signs, as ours demands."""
        return self.stack.carrier(**changes)

    async def rested(self) -> None:
        """Wait for the replacements of the workers that served."""
        await self.stack.ready()
        await asyncio.to_thread(processes.rest, self.pids)

    async def readiness(self, calls: Sequence[Call]) -> list[float | None]:
        """Read what the workers wrote when their calls ended."""
        return [one.worker.get("agent_ready_s") for one in await gathered(self.stack, list(calls))]


@dataclass(slots=True)
class Rival:
    """A process of `tests.bench.rivals`."""

    name: str
    process: subprocess.Popen[str]
    port: int
    _ready: dict[str, float] = field(default_factory=dict)
    _listening: threading.Thread | None = None

    @property
    def pids(self) -> list[int]:
        """Its one process."""
        return [self.process.pid]

    def carrier(self, **changes: Any) -> Carrier:
        """Make a carrier that calls it."""
        settings: dict[str, Any] = {
            "target": f"http://127.0.0.1:{self.port}",
            "public_base_url": PUBLIC,
            "auth_token": AUTH_TOKEN,
            "webhook_path": "/",
            "fast_verbs": True,
        }
        return Carrier(CarrierSettings(**(settings | changes)))

    async def rested(self) -> None:
        """Wait until former calls are torn down."""
        await asyncio.to_thread(processes.rest, self.pids)

    async def readiness(self, calls: Sequence[Call]) -> list[float | None]:
        """Compare what it said with the carrier's clock, which is the same."""
        found: list[float | None] = []
        for call in calls:
            at, begun = self._ready.get(call.call_sid), call.record().start_sent
            found.append(at - begun if at is not None and begun is not None else None)
        return found

    def listen(self) -> None:
        """Take note of what it says, in a thread that ends with it."""
        lines = self.process.stdout
        assert lines is not None

        def take_note() -> None:
            for line in lines:
                news = json.loads(line)
                if news.get("event") == "ready":
                    self._ready[news["call_sid"]] = float(news["at"])

        self._listening = threading.Thread(target=take_note, daemon=True)
        self._listening.start()

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:  # uvicorn waits for calls that are up
            self.process.kill()
        if self._listening is not None:
            self._listening.join()
        _end(self.process)


@dataclass(frozen=True, slots=True)
class Field:
    """Everything that runs while systems are compared."""

    stack: Stack
    systems: tuple[System, ...]
    standins: tuple[int, ...]  # pids of what answers for the vendors

    @property
    def ours(self) -> Ours:
        """The first of the systems."""
        first = self.systems[0]
        assert isinstance(first, Ours)
        return first


@asynccontextmanager
async def running(plan: Plan) -> AsyncIterator[Field]:
    """Start this project, the rivals beside it, and what they talk to."""
    async with Stack(plan) as stack, rivals(stack.cartesia, stack.openai, stack.supabase) as (others, tools):
        standins = (stack.cartesia.pid, stack.openai.pid, stack.supabase.pid, *tools)
        yield Field(stack, (Ours(stack), *others), standins)


@asynccontextmanager
async def rivals(
    cartesia: Standin, openai: Standin, supabase: Standin, names: Sequence[str] = (STOCK, OLD)
) -> AsyncIterator[tuple[list[Rival], tuple[int, ...]]]:
    """Start rivals on stand-ins; gives them, and the process ids of a server of tools that the old flow needs."""
    async with AsyncExitStack() as around:
        ports, pids = {"cartesia": cartesia.port, "openai": openai.port, "supabase": supabase.port}, []
        if OLD in names:
            tools, ports["tools"] = await asyncio.to_thread(_start, "tool_server", "--delay-ms", str(CONNECT_MS))
            around.callback(_end, tools)
            pids.append(tools.pid)
        flags = [word for name, port in ports.items() for word in (f"--{name}", str(port))]
        starting = [asyncio.to_thread(_start, MODULES[name], *flags, "--model", MODELS[name]) for name in names]
        started = await asyncio.gather(*starting)
        found = [Rival(name, process, port) for name, (process, port) in zip(names, started, strict=True)]
        for rival in found:
            around.callback(rival.stop)
            rival.listen()
        yield found, tuple(pids)


def _start(module: str, *arguments: str) -> tuple[subprocess.Popen[str], int]:
    """Start a module of `tests.bench.rivals` and give it with the port it listens on."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "VIRTUAL_ENV"}}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", f"tests.bench.rivals.{module}", *arguments],
        cwd=ROOT, env=kept, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        _end(process)
        raise StandinFailed(f"{module} did not start")
    return process, int(json.loads(line)["port"])


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    with process:  # closes its pipes
        process.wait()
