"""What is measured, in which order. Each kind of run starts installations of its own, with few ready workers or with many."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.bench import calls, kills, memory, outages, switches, tools, turns
from tests.bench.compare import compare
from tests.bench.histogram import edges
from tests.bench.options import CONNECT_MS, LLM_FIRST_TOKEN_MS, STT_FINAL_MS, TTS_FIRST_BYTE_MS
from tests.bench.systems import MODELS, OURS, running
from tests.stack import Plan, Stack

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.calls import Heard
    from tests.bench.compare import Comparison
    from tests.bench.measure import Measured
    from tests.bench.memory import Memory
    from tests.bench.options import Beside, Extent

LOOKUP_MS: Final = 500
SEED: Final = 20_261
SLOW_ROUND_S: Final = 45.0
"""What a round of calls at once may need with refilling; one that would not fit into the budget is left out."""


@dataclass(slots=True)
class Results:
    """Everything that was measured; each list holds one entry a call."""

    singles_paused: list[Measured] = field(default_factory=list)
    singles_at_once: list[Measured] = field(default_factory=list)
    replies: list[Heard] = field(default_factory=list)
    bursts_paused: list[Measured] = field(default_factory=list)
    bursts_at_once: list[Measured] = field(default_factory=list)
    knowing: list[tuple[Heard, bool]] = field(default_factory=list)  # and whether its first answer knew the caller
    asked_knowing: int = 0  # calls whose first completion was asked for with the caller's record in the instruction
    build_s: list[float] = field(default_factory=list)  # fork to READY, in the worker, while the pool filled up
    build_edges: list[float] = field(default_factory=list)  # the same seen by the pool, as bucket edges
    refill_edges: list[float] = field(default_factory=list)  # the same for replacements, with calls up
    router_webhook_edges: list[float] = field(default_factory=list)  # with calls at once
    few: Memory | None = None
    many: Memory | None = None
    killed: kills.Hits = field(default_factory=kills.Hits)
    stalled: kills.Hits = field(default_factory=kills.Hits)
    router: outages.Restart = field(default_factory=outages.Restart)
    redis: outages.Restart = field(default_factory=outages.Restart)
    burst: outages.Burst = field(default_factory=outages.Burst)
    tools: tools.Trips = field(default_factory=tools.Trips)
    turns: dict[str, turns.Scores] = field(default_factory=dict)  # by what configuration
    switches: dict[str, switches.Series] = field(default_factory=dict)  # by what is off
    comparison: Comparison | None = None
    left_out: list[str] = field(default_factory=list)


async def beside(extent: Extent, comparison: Beside, say: Callable[[str], None]) -> Results:
    """Compare with the stock bot and the old flow, and measure the main figures of this project beside that."""
    results = Results()
    say(f"starting this project with {extent.ready} ready workers, the stock bot and the old flow")
    async with running(_plan(extent.ready, 4, lookup_ms=LOOKUP_MS)) as field_:
        stack = field_.stack
        results.build_s, results.build_edges = _built(stack)
        results.comparison = found = await compare(field_, comparison, random.Random(SEED), say)
        results.many = found.parked
        results.singles_paused = found.crowds[1].ours
        results.bursts_paused = found.crowds[max(found.crowds)].ours if len(found.crowds) > 1 else []
        say(f"{extent.singles} calls one after another, without the carrier's pause")
        results.singles_at_once = await calls.one_by_one(stack, extent.singles, extent.series_s, pause=False)
        if extent.rounds:
            say(f"{extent.at_once} calls at once, without the carrier's pause")
            results.bursts_at_once = await calls.at_once(stack, extent.at_once, pause=False)
            await _knowing(stack, extent, results, say)
    if extent.tool_rounds:
        say(f"tools, {extent.tool_rounds} requests of each kind")
        results.tools = await tools.measure(extent.tool_rounds)
    await _scripts(extent, results, say)
    return results


async def _scripts(extent: Extent, results: Results, say: Callable[[str], None]) -> None:
    if extent.scripts_every:
        say("recorded scripts of turn taking, as any voice interrupts and as it is")
        results.turns = await turns.measure(every=extent.scripts_every)


async def own(extent: Extent, say: Callable[[str], None]) -> Results:
    """Measure this project alone, in long series."""
    results, ends = Results(), time.monotonic() + extent.budget_s
    say(f"starting with {extent.few_ready} ready workers")
    async with Stack(_plan(extent.few_ready, 4)) as stack:
        results.few = memory.look(stack.pool.pid, stack.router.pid)
        say(f"{extent.singles} calls one after another, the carrier pausing as Twilio does")
        results.singles_paused = await calls.one_by_one(stack, extent.singles, extent.series_s, pause=True)
        say(f"{extent.singles} calls one after another, without that pause")
        results.singles_at_once = await calls.one_by_one(stack, extent.singles, extent.series_s, pause=False)
        say(f"{extent.replies} whole greetings with one answer each")
        results.replies = await calls.replies(stack, extent.replies, extent.series_s, "what-time")
    say(f"starting with {extent.ready} ready workers")
    async with Stack(_plan(extent.ready, extent.at_once)) as stack:
        await _crowd(stack, extent, results, say, ends)
    say(f"tools, {extent.tool_rounds} requests of each kind")
    results.tools = await tools.measure(extent.tool_rounds)
    await _scripts(extent, results, say)
    results.switches = await switches.measure(extent.switch_rounds, extent.series_s, say)
    return results


async def faults(extent: Extent, say: Callable[[str], None]) -> Results:
    """Take workers and parts away while calls are up, and let many more call than there are workers."""
    results = Results()
    say(f"starting with {extent.few_ready} ready workers")
    async with Stack(_plan(extent.few_ready, 4)) as stack:
        await _faults(stack, extent, results, say)
    say(f"starting with {extent.ready} ready workers")
    async with Stack(_plan(extent.ready, extent.at_once)) as stack:
        say(f"{extent.burst} calls in one moment on {extent.ready} ready workers")
        results.burst = await outages.burst(stack, extent.burst, extent.restart_calls)
    return results


async def _faults(stack: Stack, extent: Extent, results: Results, say: Callable[[str], None]) -> None:
    say(f"{extent.kills} workers killed in calls, {extent.kills_at_once} calls at a time (seed {SEED})")
    results.killed = await kills.kill_many(stack, extent.kills, extent.kills_at_once, SEED)
    say(f"{extent.stalls} workers stopped while they speak")
    results.stalled = await kills.stall_many(stack, extent.stalls)
    say(f"the router killed and started again with {extent.restart_calls} calls up")
    results.router = await outages.router_restart(stack, extent.restart_calls)
    say(
        f"Redis stopped and started again with {extent.restart_calls} calls up, {extent.restart_webhooks} others calling"
    )
    results.redis = await outages.redis_restart(stack, extent.restart_calls, extent.restart_webhooks)


async def _crowd(stack: Stack, extent: Extent, results: Results, say: Callable[[str], None], ends: float) -> None:
    results.many = memory.look(stack.pool.pid, stack.router.pid)
    results.build_s, results.build_edges = _built(stack)
    await _knowing(stack, extent, results, say)
    for number in range(extent.rounds):
        if number and time.monotonic() + SLOW_ROUND_S > ends:
            results.left_out.append(f"rounds {number + 1} to {extent.rounds} of calls at once: no time left")
            break
        say(
            f"{extent.at_once} calls at once, round {number + 1} of {extent.rounds}: with the carrier's pause, and without"
        )
        results.bursts_paused += await calls.at_once(stack, extent.at_once, pause=True, listen_s=calls.GREETED_S)
        results.bursts_at_once += await calls.at_once(stack, extent.at_once, pause=False)
    seen = edges(stack.fetch(f"{stack.pool_url}/metrics"), "offhook_pipeline_creation_seconds")
    results.refill_edges = _without(seen, results.build_edges)
    page = stack.fetch(f"{stack.router_url}/metrics")
    results.router_webhook_edges = edges(page, "offhook_webhook_seconds", result="reserved")


async def _knowing(stack: Stack, extent: Extent, results: Results, say: Callable[[str], None]) -> None:
    say(
        f"{extent.at_once} calls at once, each asking over its greeting what only its record answers ({LOOKUP_MS} ms lookup)"
    )
    codes = {f"+55119{10000000 + number}": f"code{number:03d}x" for number in range(extent.at_once)}
    customers = [{"phone": phone, "name": "Ana", "facts": {"reference_code": code}} for phone, code in codes.items()]
    await stack.supabase.control(customers=customers, latency_ms=LOOKUP_MS)
    await stack.openai.control(reset=True)
    heard = await calls.replies_at_once(stack, list(codes), "my-code")
    log = (await stack.openai.state())["log"]
    asked = [one["messages"][0]["content"] for one in log if one["kind"] == "completion"]
    # a call's later completions have the record as well, so any without a code was somebody's first
    results.asked_knowing = sum(any(code in system for system in asked) for code in codes.values()) - sum(
        all(code not in system for code in codes.values()) for system in asked
    )
    results.knowing = [(one, code in one.text) for one, code in zip(heard, codes.values(), strict=True)]
    await stack.supabase.control(customers=[], latency_ms=0)


def _built(stack: Stack) -> tuple[list[float], list[float]]:
    """How long workers took to be ready, in their words and in the pool's."""
    said = [float(line["build_s"]) for line in stack.pool.lines() if line.get("event") == "parked"]
    return said, edges(stack.fetch(f"{stack.pool_url}/metrics"), "offhook_pipeline_creation_seconds")


def _plan(ready: int, prefetchers: int, lookup_ms: int = 0) -> Plan:
    return Plan(
        lookup_ms=lookup_ms,
        env={"OPENAI_MODEL": MODELS[OURS]},
        pool_ready=ready,
        prefetch_workers=prefetchers,
        connect_ms=CONNECT_MS,
        tts_first_byte_ms=TTS_FIRST_BYTE_MS,
        llm_first_token_ms=LLM_FIRST_TOKEN_MS,
        stt_final_ms=STT_FINAL_MS,
    )


def _without(values: list[float], earlier: list[float]) -> list[float]:
    """Take the earlier observations out of a histogram's."""
    left = sorted(values)
    for value in earlier:
        left.remove(value)
    return left
