"""Measures the tool host alone: `python -m tests.bench.tools`. Real processes, the line a worker has, no calls.

The figures depend on the MCP server more than on the host: ours is the SDK's, in Python, on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from shared.agents import McpServer
from tests.standins.process import ROOT
from tests.tool_host import HostProcess, Worker, running_host, standin
from worker.tools.registry import Outcome, Tool, ToolCall

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT: Final = 18_765
CROWD: Final = 32


async def _nobody(_call: ToolCall) -> Outcome:
    return Outcome({})


NOTHING: Final = Tool("nothing", "", _nobody, place="host", repeatable=True)
"""A tool the host does not have: what a request costs without any tool behind it."""


async def main(rounds: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        async with running_host(folder) as host:
            print(f"start of the host, nothing configured   {_ms(time.perf_counter() - began)}")
            print(f"its own memory (USS)                    {_mb(host)}")
            began = time.perf_counter()
            host.serve([standin("shop")])
            await host.state("shop", up=True)
            print(f"a server over stdio, with the SDK       {_ms(time.perf_counter() - began)}")
            print(f"its own memory (USS)                    {_mb(host)}")
            worker = await host.worker("0-1")
            await _over_http(host, worker, rounds)
            _show("request and answer, no tool behind it", await _trips(worker, NOTHING, rounds))
            _show("a tool of a server over stdio", await _trips(worker, await worker.offered("shop_add"), rounds))
            await _crowd(host, rounds)


async def _over_http(host: HostProcess, worker: Worker, rounds: int) -> None:
    command = [sys.executable, "-m", "tests.standins.mcp_server", "--port", str(PORT)]
    server = subprocess.Popen(  # noqa: ASYNC220 - nothing else is going on
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await asyncio.sleep(3.0)  # it is up then, and the host connects at once
        began = time.perf_counter()
        host.serve([standin("shop"), McpServer(name="web", url=f"http://127.0.0.1:{PORT}/mcp")])
        await host.state("web", up=True)
        print(f"a server over HTTP                      {_ms(time.perf_counter() - began)}")
        _show("a tool of a server over HTTP", await _trips(worker, await worker.offered("web_add"), rounds))
        host.serve([standin("shop")])
    finally:
        server.kill()
        server.wait()


async def _crowd(host: HostProcess, rounds: int) -> None:
    workers = [await host.worker(f"{slot}-2") for slot in range(CROWD)]
    tools = [await worker.offered("shop_add") for worker in workers]
    each = max(1, rounds // CROWD)
    trips = await asyncio.gather(*(_trips(worker, tool, each) for worker, tool in zip(workers, tools, strict=True)))
    _show(f"the same, {CROWD} workers at once", [trip for some in trips for trip in some])


async def _trips(worker: Worker, tool: Tool, rounds: int) -> list[float]:
    trips = []
    for _ in range(rounds):
        began = time.perf_counter()
        await worker.run(tool, {"a": 1, "b": 2})
        trips.append(time.perf_counter() - began)
    return trips


def _show(what: str, trips: Sequence[float]) -> None:
    cuts = statistics.quantiles(trips, n=100)
    print(f"{what:<39} p50 {_ms(cuts[49])}, p99 {_ms(cuts[98])} ({len(trips)})")


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def _mb(host: HostProcess) -> str:
    return f"{psutil.Process(host.process.pid).memory_full_info().uss / 1_048_576:.0f} MB"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tools", description="Measures the tool host.")
    parser.add_argument("--rounds", type=int, default=500)
    asyncio.run(main(parser.parse_args().rounds))
