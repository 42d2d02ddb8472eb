"""This project beside the stock bot and the old flow: the same stand-ins, the same carrier, in turns.

A round is one measurement of each system, one straight after another, so that what else the machine does hits all of them; ratios
are taken within rounds. Conversations are short of CPU, so those of a round go on at the same time, a second and a half apart.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.bench import load, memory, processes, talking
from tests.bench.calls import LISTEN_S, PAUSE_S, gathered, stay
from tests.bench.load import Step
from tests.bench.systems import NAMES, OURS, STOCK, Ours
from tests.bench.targets import GROWN

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.bench.load import Limit
    from tests.bench.measure import Measured
    from tests.bench.memory import Memory
    from tests.bench.options import Beside
    from tests.bench.systems import Field, System
    from tests.stack import Stack
    from tests.standins.carrier_call import Call

APART_S: Final = 1.5
STEP_S: Final = 25.0
"""What a step takes, with waiting for rest: one that would not fit into the time is not begun."""

Rounds = dict[str, list[list[float | None]]]
"""For each system, for each round, a value of each call; None where it did not happen."""


def _rounds() -> Rounds:
    return {name: [] for name in NAMES}


@dataclass(slots=True)
class Crowd:
    """Calls dialled in the same moment."""

    first: Rounds = field(default_factory=_rounds)  # upgrade accepted to first audio
    ready: Rounds = field(default_factory=_rounds)  # `start` to ear and voice connected
    ours: list[Measured] = field(default_factory=list)


@dataclass(slots=True)
class Comparison:
    """Everything that was compared."""

    crowds: dict[int, Crowd] = field(default_factory=dict)  # by how many call at once
    replies: Rounds = field(default_factory=_rounds)
    barge_ins: Rounds = field(default_factory=_rounds)
    later_connections: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in NAMES})
    cached: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NAMES})
    steps: dict[str, list[Step]] = field(default_factory=lambda: {name: [] for name in NAMES})
    idle_bytes: dict[str, int] = field(default_factory=dict)  # own memory before the first call
    call_bytes: dict[str, list[float]] = field(
        default_factory=lambda: {name: [] for name in NAMES}
    )  # for a call that is up
    parked: Memory | None = None
    notes: list[str] = field(default_factory=list)

    def valid(self, name: str) -> list[Step]:
        """The steps of a system that count."""
        return [one for one in self.steps[name] if not one.void]

    def limit(self, name: str) -> Limit:
        """Up to how many calls a system's answers take less than GROWN times as long as at its lightest step."""
        steps = self.valid(name)
        return load.held(steps, GROWN * steps[0].median if steps else 0.0)

    def limit_of_stock(self, name: str) -> Limit:
        """Up to how many calls a system answers as fast as the stock bot does at its limit; all it has, if that is not known."""
        stock = self.valid(STOCK)
        return load.held(self.valid(name), GROWN * stock[0].median if stock else float("inf"))


async def compare(field_: Field, extent: Beside, chance: random.Random, say: Callable[[str], None]) -> Comparison:
    """Measure everything within the extent."""
    found, steps_end = Comparison(), time.monotonic() + extent.steps_until_s
    stack = field_.stack
    found.parked = memory.look(stack.pool.pid, stack.router.pid)
    for system in field_.systems:
        await system.rested()
        found.idle_bytes[system.name] = processes.uss(processes.family(system.pids))
    for at_once, rounds in extent.crowds:
        crowd = found.crowds.setdefault(at_once, Crowd())
        say(f"{at_once} at once, {rounds} rounds, on each of {', '.join(NAMES)}")
        for number in range(rounds):
            pause_s = chance.uniform(*PAUSE_S)
            largest = at_once == max(size for size, _ in extent.crowds) and not number
            for system in field_.systems:
                await _crowd(system, at_once, pause_s, crowd, found if largest else None)
    for number in range(extent.talks):
        say(f"conversations, round {number + 1} of {extent.talks}")
        await _talks(field_, extent, found)
    await _ladder(field_, extent, found, say, steps_end)
    return found


async def _crowd(system: System, at_once: int, pause_s: float, crowd: Crowd, weigh: Comparison | None) -> None:
    await system.rested()
    before = processes.uss(processes.family(system.pids)) if weigh is not None else 0
    async with system.carrier(answer_delay_s=pause_s) as carrier:
        up = asyncio.Event() if weigh is not None else None
        calls = [asyncio.create_task(stay(carrier, LISTEN_S, up)) for _ in range(at_once)]
        if weigh is not None and up is not None:
            await asyncio.sleep(0)
            await _all_heard(carrier.calls, at_once)
            await asyncio.sleep(1.0)
            during = await asyncio.to_thread(processes.uss, processes.family(system.pids))
            weigh.call_bytes[system.name].append((during - before) / at_once)
            up.set()
        placed = await asyncio.gather(*calls)
    records = [call.record() for call in placed]
    crowd.first[system.name].append([
        one.first_media_received - one.upgrade_accepted
        if one.first_media_received is not None and one.upgrade_accepted is not None
        else None
        for one in records
    ])  # fmt: skip
    crowd.ready[system.name].append(await system.readiness(placed))
    if system.name == OURS:
        crowd.ours += await gathered(_stack(system), placed)


async def _all_heard(calls: dict[str, Call], at_once: int) -> None:
    ends = time.monotonic() + talking.FIRST_AUDIO_S
    while time.monotonic() < ends:
        if sum(bool(call.streams and call.streams[0].media) for call in calls.values()) >= at_once:
            return
        await asyncio.sleep(0.05)


async def _talks(field_: Field, extent: Beside, found: Comparison) -> None:
    for system in field_.systems:
        await system.rested()
    openai = field_.stack.openai
    await openai.control(reset=True)
    talks = await asyncio.gather(*(
        talking.converse(system, extent.questions, extent.interruptions, APART_S * number)
        for number, system in enumerate(field_.systems)
    ))  # fmt: skip
    log = (await openai.state())["log"]
    for system, talk in zip(field_.systems, talks, strict=True):
        found.replies[system.name].append(talk.replies)
        found.barge_ins[system.name].append(talk.barge_ins)
        if extent.questions > 1 and None not in talk.replies:
            found.later_connections[system.name].append(talking.later_connections(log, system.name, talk))
            found.cached[system.name] += talking.cached_shares(log, system.name, talk)


async def _ladder(field_: Field, extent: Beside, found: Comparison, say: Callable[[str], None], ends: float) -> None:
    """Take the steps, each with all systems; the stock bot is first, for ours goes on until it is as slow as that."""
    ours, stock_bot, old = field_.systems
    for calls in extent.ladder:
        for system in (stock_bot, ours, old)[: extent.stepped]:
            stock = found.valid(STOCK)
            enough_s = GROWN * stock[0].median if stock else 0.0
            if load.exhausted(found.valid(system.name), enough_s):
                continue
            if time.monotonic() + STEP_S > ends and found.steps[system.name]:
                found.notes.append(f"No time was left for {calls} talking calls on {system.name}.")
                continue
            say(f"{calls} talking calls on {system.name}")
            one = await load.step(field_, system, calls, extent.step_rounds)
            if one.void and time.monotonic() + STEP_S < ends:
                found.notes.append(_void(one) + " It was taken again.")
                one = await load.step(field_, system, calls, extent.step_rounds)
            found.steps[system.name].append(one)
            if one.void:
                found.notes.append(_void(one))


def _void(one: Step) -> str:
    return (
        f"{one.calls} talking calls on {one.system} do not count: the carrier sent {one.late_frames:.1%} of its frames late, "
        f"the model's stand-in was {one.late_token_s * 1000:.0f} ms late (p95), and others took {one.others:.0%} of the "
        f"system's core."
    )


def _stack(system: System) -> Stack:
    assert isinstance(system, Ours)
    return system.stack
