"""What each phase gains: installations that differ in one switch, called in turns. `python -m tests.bench.switches [ROUNDS]`.

All share Redis, stand-ins and prefetchers; each has a router and a pool of its own. A round is one call to each, in another order
every time, so that what else the machine does hits all of them; gains are taken within rounds.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import uvloop

from tests.bench.calls import LISTEN_S, LOG_DEADLINE_S, PAUSE_S, stay
from tests.bench.figures import UNITS, Figure, number
from tests.bench.measure import last_words, measured
from tests.bench.options import CONNECT_MS, LLM_FIRST_TOKEN_MS, STT_FINAL_MS, TTS_FIRST_BYTE_MS
from tests.stack import ROOT, Plan, Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.bench.measure import Measured
    from tests.stack import Part

LOOKUP_MS: Final = 500
SEED: Final = 20_261
ROUNDS: Final = 10
ALL_ON: Final = "all on"
SWITCHES: Final = ("EAGER_TOOL_LOADING", "DIRECT_GREETING_INJECTION", "PARALLEL_CONTEXT_PREFETCH")
SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    ALL_ON: (), **{f"{name}=false": (name,) for name in SWITCHES}, "all three false": SWITCHES,
}  # fmt: skip
"""What is off in each installation, by its name in tables."""


@dataclass(slots=True)
class Series:
    """The calls of one installation, one of each round; None where something did not happen."""

    first: list[float | None] = field(default_factory=list)  # upgrade accepted to first audio
    ready: list[float | None] = field(default_factory=list)  # `start` to an agent that hears, with what it waits for


@dataclass(frozen=True, slots=True)
class _Installation:
    """A router and its pool."""

    url: str
    router: Part
    pool: Part

    def ready(self, stack: Stack) -> bool:
        """Say whether all its workers are ready."""
        page = stack.fetch(f"{self.url}/readyz")
        return page.startswith("{") and int(json.loads(page).get("ready", 0)) >= stack.plan.pool_ready


async def measure(rounds: int, within_s: float, say: Callable[[str], None]) -> dict[str, Series]:
    """Place `rounds` calls to each installation (fewer when `within_s` is over); gives their figures in seconds, by name."""
    plan = Plan(
        pool_ready=2, prefetch_workers=4, connect_ms=CONNECT_MS, tts_first_byte_ms=TTS_FIRST_BYTE_MS,
        llm_first_token_ms=LLM_FIRST_TOKEN_MS, stt_final_ms=STT_FINAL_MS, lookup_ms=LOOKUP_MS,
        env={"TOOLS_DIR": str(ROOT / "deploy" / "tools.example")},
    )  # fmt: skip
    found = {name: Series() for name in SETTINGS}
    chance = random.Random(SEED)
    say(f"starting {len(SETTINGS)} installations that differ in the switches of the phases")
    async with Stack(plan) as stack:
        installations = await asyncio.to_thread(_start, stack)
        await stack.until(lambda: all(each.ready(stack) for each in installations.values()), "workers everywhere")
        say(f"{rounds} rounds of one call to each")
        ends = time.monotonic() + within_s
        for turn in range(rounds):
            if turn and time.monotonic() > ends:
                break
            pause_s = chance.uniform(*PAUSE_S)
            for name in chance.sample(list(SETTINGS), len(SETTINGS)):
                one = await _call(stack, installations[name], pause_s)
                found[name].first.append(one.upgrade_to_media)
                found[name].ready.append(one.worker.get("agent_ready_s"))
    return found


def table(found: Mapping[str, Series]) -> str:
    """Lay it out: median and extremes in milliseconds, and by how much more than with all on, the median of the rounds."""
    lines = ["| | first audio, ms | more than all on | agent ready, ms | more than all on |", "|---|---|---|---|---|"]
    for name, series in found.items():
        cells: list[str] = []
        for values, usual in ((series.first, found[ALL_ON].first), (series.ready, found[ALL_ON].ready)):
            more = [
                value - other
                for value, other in zip(values, usual, strict=True)
                if value is not None and other is not None
            ]
            cells += [_spread(values), "" if name == ALL_ON else _ms(statistics.median(more)) if more else "-"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figures(found: Mapping[str, Series]) -> list[Figure]:
    """Put the figures that a report has of each installation."""
    group = "what each phase gains: its switch off"
    return [
        Figure(
            group, f"{what}, {name}", tuple(value for value in values if value is not None), missing=values.count(None)
        )
        for name, series in found.items()
        for what, values in (("upgrade accepted → first audio", series.first), ("`start` → agent ready", series.ready))
    ]


def _spread(values: list[float | None]) -> str:
    there = [value for value in values if value is not None]
    if not there:
        return "-"
    missing = f", {len(values) - len(there)} missing" if len(there) < len(values) else ""
    return f"{_ms(statistics.median(there))} ({_ms(min(there))} to {_ms(max(there))}){missing}"


def _ms(value: float) -> str:
    return number(value * UNITS["ms"])


def _start(stack: Stack) -> dict[str, _Installation]:
    """Start a router and a pool for each set of switches beside the stack's own, which has all phases on."""
    made = {ALL_ON: _Installation(stack.router_url, stack.router, stack.pool)}
    for name, off in SETTINGS.items():
        if name == ALL_ON:
            continue
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        switches = dict.fromkeys(off, "false")
        router = stack.another("router", {"ROUTER_PORT": str(port)} | switches)
        pool = stack.another("pool", {"HANDOFF_DIR": router.env["HANDOFF_DIR"]} | switches)
        for part in (router, pool):
            part.start()
        made[name] = _Installation(f"http://127.0.0.1:{port}", router, pool)
    return made


async def _call(stack: Stack, on: _Installation, pause_s: float) -> Measured:
    await stack.until(lambda: on.ready(stack), "workers to be ready again")
    async with stack.carrier(target=on.url, answer_delay_s=pause_s) as carrier:
        call = await stay(carrier, LISTEN_S)
    ends = time.monotonic() + LOG_DEADLINE_S
    while True:
        said = last_words(await asyncio.to_thread(on.pool.lines)).get(call.call_sid, {})
        if said or time.monotonic() > ends:
            return measured(call, said)
        await asyncio.sleep(0.1)


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print(table(uvloop.run(measure(rounds, 60.0 * rounds, lambda words: print(words, file=sys.stderr, flush=True)))))


if __name__ == "__main__":
    main()
