"""Measures tools without calls: a real tool host with the line a worker has, real MCP servers, and bookings in a real PostgreSQL.

    python -m tests.bench.tools     # what `make bench` measures of tools, alone

An MCP server's figures depend on the server more than on the host: ours is the SDK's, in Python, on the same cores.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from shared.agents import McpServer
from tests.bench import targets
from tests.bench.figures import Figure
from tests.postgres import Postgres, PostgresDatabase
from tests.standins.process import ROOT, running
from tests.tool_host import CALL, HostProcess, Worker, running_host, standin
from worker.tools.builtin import BUILT_IN
from worker.tools.registry import Outcome, Tool, ToolCall

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PORT: Final = 18_765
CROWD: Final = 32
GROUP: Final = "tools"


@dataclass(slots=True)
class Trips:
    """What was measured; seconds, and bytes of the host's own memory."""

    start: list[float] = field(default_factory=list)
    connect: list[float] = field(default_factory=list)
    nothing: list[float] = field(default_factory=list)
    reading: list[float] = field(default_factory=list)
    booking: list[float] = field(default_factory=list)
    one_slot: list[bool] = field(default_factory=list)  # for each of the callers who wanted it: whether they have it
    stdio: list[float] = field(default_factory=list)
    http: list[float] = field(default_factory=list)
    crowd: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    with_mcp: list[float] = field(default_factory=list)
    becoming: list[float] = field(default_factory=list)


async def _nobody(_call: ToolCall) -> Outcome:
    return Outcome({})


NOTHING: Final = Tool("nothing", "", _nobody, place="host", repeatable=True)
"""A tool the host does not have: what a request costs without any tool behind it."""


async def measure(rounds: int) -> Trips:
    """Measure everything, each kind of request so many times."""
    trips = Trips()
    trips.becoming = await asyncio.to_thread(_becoming)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await _mcp(folder, trips, rounds)
        await _database(folder, trips, rounds)
    return trips


def figures(trips: Trips) -> list[Figure]:
    """Put it beside its targets."""
    won = float(sum(trips.one_slot))
    crowd = len(trips.one_slot)
    return [
        Figure(GROUP, "worker becomes the agent of a call, 33 tools", tuple(trips.becoming), targets.BECOMING),
        Figure(GROUP, "request and answer of the tool host, no tool behind it", tuple(trips.nothing)),
        Figure(GROUP, "get_customer_by_phone, worker to PostgreSQL and back", tuple(trips.reading)),
        Figure(GROUP, "book_appointment, worker to PostgreSQL and back", tuple(trips.booking)),
        Figure(
            GROUP,
            f"{crowd} callers at once want one slot: have it",
            (won,) if crowd else (),
            targets.ONE_SLOT,
            unit="",
        ),
        Figure(GROUP, "tool of an MCP server over stdio", tuple(trips.stdio)),
        Figure(GROUP, "tool of an MCP server over HTTP", tuple(trips.http)),
        Figure(GROUP, f"the same over stdio, {CROWD} workers at once", tuple(trips.crowd)),
        Figure(GROUP, "tool host: start → takes workers", tuple(trips.start)),
        Figure(GROUP, "tool host: MCP server named → its tools are offered", tuple(trips.connect)),
        Figure(GROUP, "USS of a tool host without MCP servers", tuple(trips.bare), unit="MB"),
        Figure(GROUP, "USS of a tool host with them", tuple(trips.with_mcp), unit="MB"),
    ]


def _becoming() -> list[float]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.becoming"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    took: list[float] = json.loads(done.stdout.splitlines()[-1])
    return took


async def _mcp(folder: Path, trips: Trips, rounds: int) -> None:
    began = time.perf_counter()
    async with running_host(folder) as host:
        trips.start.append(time.perf_counter() - began)
        trips.bare.append(_own(host))
        began = time.perf_counter()
        host.serve([standin("shop")])
        await host.state("shop", up=True)
        trips.connect.append(time.perf_counter() - began)
        trips.with_mcp.append(_own(host))
        worker = await host.worker("0-1")
        trips.nothing = await _trips(worker, NOTHING, _same(rounds))
        trips.stdio = await _trips(worker, await worker.offered("shop_add"), _same(rounds))
        await _over_http(host, worker, trips, rounds)
        workers = [await host.worker(f"{slot}-2") for slot in range(CROWD)]
        tools = [await each.offered("shop_add") for each in workers]
        each = max(1, rounds // CROWD)
        crowd = (_trips(one, tool, _same(each)) for one, tool in zip(workers, tools, strict=True))
        trips.crowd = [trip for some in await asyncio.gather(*crowd) for trip in some]


async def _over_http(host: HostProcess, worker: Worker, trips: Trips, rounds: int) -> None:
    command = [sys.executable, "-m", "tests.standins.mcp_server", "--port", str(PORT)]
    server = subprocess.Popen(  # noqa: ASYNC220 - nothing else is going on
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        host.serve([standin("shop"), McpServer(name="web", url=f"http://127.0.0.1:{PORT}/mcp")])
        await host.state("web", up=True)
        trips.http = await _trips(worker, await worker.offered("web_add"), _same(rounds))
        host.serve([standin("shop")])
    finally:
        server.kill()
        server.wait()


async def _database(folder: Path, trips: Trips, rounds: int) -> None:
    server = Postgres()
    await asyncio.to_thread(server.start)
    try:
        dsn = await asyncio.to_thread(server.fresh)
        database = PostgresDatabase(dsn)
        await database.call(
            "create_customer", {"p_key": "k", "p_phone": CALL.caller, "p_name": "Ana", "p_locale": "en"}
        )
        async with (
            running("supabase_api", postgres=dsn) as standin_,
            running_host(folder, env={"SUPABASE_URL": standin_.url, "SUPABASE_SECRET_KEY": "sb_secret_a"}) as host,
        ):
            worker = await host.worker("0-3")
            trips.reading = await _trips(worker, BUILT_IN["get_customer_by_phone"], _same(rounds, {}))
            trips.booking = await _trips(worker, BUILT_IN["book_appointment"], _slots(rounds))
            await _one_slot(host, database, trips)
    finally:
        await asyncio.to_thread(server.close)


async def _one_slot(host: HostProcess, database: PostgresDatabase, trips: Trips) -> None:
    """Have as many customers as workers want the same slot in the same moment."""
    workers = [await host.worker(f"{slot}-4") for slot in range(CROWD)]
    phones = [f"+1555000{number:04d}" for number in range(CROWD)]
    for phone in phones:
        await database.call("create_customer", {"p_key": phone, "p_phone": phone, "p_name": "", "p_locale": "en"})
    wanted = next(_slots(1, days=300))
    tool = BUILT_IN["book_appointment"]
    asked = (one.run(tool, {**wanted, "phone": phone}) for one, phone in zip(workers, phones, strict=True))
    trips.one_slot = ["error" not in outcome.result for outcome in await asyncio.gather(*asked)]


def _same(rounds: int, arguments: Mapping[str, object] | None = None) -> Iterator[Mapping[str, object]]:
    """Ask for the same so many times."""
    for _ in range(rounds):
        yield {"a": 1, "b": 2} if arguments is None else arguments


def _slots(rounds: int, days: int = 2) -> Iterator[Mapping[str, object]]:
    """Ask for one free slot after another, from so many days ahead on."""
    first = (datetime.now(UTC) + timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0)
    for number in range(rounds):
        yield {"starts_at": f"{first + timedelta(minutes=30 * number):%Y-%m-%dT%H:%M}"}


async def _trips(worker: Worker, tool: Tool, asked: Iterator[Mapping[str, object]]) -> list[float]:
    trips = []
    for arguments in asked:
        began = time.perf_counter()
        outcome = await worker.run(tool, arguments)
        trips.append(time.perf_counter() - began)
        if tool is not NOTHING and "error" in outcome.result:
            raise AssertionError(f"{tool.name}: {outcome.result}")
    return trips


def _own(host: HostProcess) -> float:
    return float(psutil.Process(host.process.pid).memory_full_info().uss)


if __name__ == "__main__":
    from tests.bench.report import text

    print(text(figures(asyncio.run(measure(300)))))
