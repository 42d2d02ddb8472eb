"""Step load: more and more calls that all talk, on one core, until answers come late and audio has gaps.

Each call asks once in PERIOD_S, at moments spread evenly over it, whether or not it was answered: a system that falls behind is
not spared. The system under test has one core to itself; carrier and stand-ins have the other. A step in which those two were
late themselves is void.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

from tests.bench import processes
from tests.bench.figures import percentile
from tests.bench.measure import trailing_quiet_s
from tests.bench.options import LLM_FIRST_TOKEN_MS
from tests.bench.talking import ASKED, answers, gaps, recording
from tests.bench.targets import GAP_S, GROWN
from tests.standins.carrier_settings import CallFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.processes import Cores
    from tests.bench.systems import Field, System
    from tests.standins.carrier import Carrier
    from tests.standins.carrier_call import Call

PERIOD_S: Final = 6.0
"""1.5 s of question, about 1 s until the answer, 2.7 s of answer, the rest silence."""

TAIL_S: Final = 4.0
"""After the last question has been begun: its end, and the first half of its answer."""

FIRST_AUDIO_S: Final = 20.0
LATE_FRAMES: Final = 0.01
"""The share of the carrier's frames that may be 20 ms late in a step that counts."""

OTHERS_SHARE: Final = 0.1
"""How much of the system's core others may have taken in a step that counts."""

LATE_TOKEN_S: Final = 0.02
"""How late the model's stand-in may be with its first token, at the 95th percentile."""


@dataclass(frozen=True, slots=True)
class Step:
    """What so many calls at a time did to a system."""

    system: str
    calls: int
    replies: tuple[float, ...]  # of the questions that were answered in time
    missing: int  # questions that were not
    gaps: tuple[float, ...]  # outgoing silences over GAP_S inside of what agents said
    cpu: float  # seconds of CPU a second and call
    late_frames: float  # share of the carrier's frames
    late_token_s: float
    others: float  # share of the system's core that others took

    @property
    def void(self) -> bool:
        """Whether carrier or stand-ins were late themselves, or somebody else was on the system's core."""
        return self.late_frames > LATE_FRAMES or self.late_token_s > LATE_TOKEN_S or self.others > OTHERS_SHARE

    @property
    def median(self) -> float:
        """The median reply; infinite when half of the questions were not answered."""
        return statistics.median([*self.replies, *[float("inf")] * self.missing] or [float("inf")])


@dataclass(frozen=True, slots=True)
class Limit:
    """Up to how many calls something held: a number between two steps, or at least the last step that was taken."""

    calls: float
    broke: bool


async def step(field: Field, system: System, calls: int, rounds: int) -> Step:
    """Have so many calls up, each asking `rounds` questions, and measure from the moment all are."""
    await system.rested()
    await field.stack.openai.control(reset=True)
    cores = processes.parted()
    if cores is not None:
        _part(field, system, cores)
    begun = time.monotonic()
    window = (begun + PERIOD_S, begun + (1 + rounds) * PERIOD_S)
    try:
        async with system.carrier(answer_delay_s=0.3) as carrier:
            talking = [
                _talk(carrier, begun + PERIOD_S * number / calls, rounds, window[1] + TAIL_S) for number in range(calls)
            ]
            heard, (cpu, others) = await asyncio.gather(asyncio.gather(*talking), _cpu(system, cores, *window))
    finally:
        if cores is not None:
            _part(field, system, None)
    spans = [(call.clock.spans, asked) for call, asked in heard]
    replies = [reply for one, asked in spans for reply in answers(one, asked)]
    missing = sum(reply is None for reply in replies) + sum(rounds - len(asked) for _, asked in spans)
    streams = [stream for call, _ in heard for stream in call.streams]
    log = (await field.stack.openai.state())["log"]
    return Step(
        system=system.name,
        calls=calls,
        replies=tuple(reply for reply in replies if reply is not None),
        missing=missing,
        gaps=tuple(gap for one, _ in spans for gap in gaps(one, GAP_S, window[0], window[1] + TAIL_S)),
        cpu=cpu / calls,
        late_frames=sum(one.frames_late for one in streams) / max(1, sum(one.frames_sent for one in streams)),
        late_token_s=_late_token_s(log),
        others=others,
    )


async def _talk(carrier: Carrier, begin: float, rounds: int, end: float) -> tuple[Call, list[float]]:
    """Call at a moment and ask every PERIOD_S from then on; gives when each question's last sample was said."""
    ulaw = recording(ASKED)
    asked: list[float] = []
    await asyncio.sleep(begin - time.monotonic())
    call = await carrier.dial()
    try:
        await call.until(lambda: bool(call.streams and call.streams[0].media), FIRST_AUDIO_S)
        for number in range(1, rounds + 1):
            await asyncio.sleep(begin + number * PERIOD_S - time.monotonic())
            asked.append(await call.say(ulaw) - trailing_quiet_s(ulaw))
        await asyncio.sleep(end - time.monotonic())
    except CallFailed:
        pass
    await call.hangup()
    return call, asked


async def _cpu(system: System, cores: Cores | None, begin: float, end: float) -> tuple[float, float]:
    """CPU seconds a second between two moments: of the whole system, and of all others on its core."""
    await asyncio.sleep(begin - time.monotonic())
    before, began, busy = processes.cpu_s(processes.family(system.pids)), time.monotonic(), _busy_s(cores)
    await asyncio.sleep(end - time.monotonic())
    spent = processes.spent_s(before, processes.cpu_s(processes.family(system.pids)))
    took = time.monotonic() - began
    return spent / took, (max(0.0, _busy_s(cores) - busy - spent) / took if cores is not None else 0.0)


def _busy_s(cores: Cores | None) -> float:
    return processes.busy_s(cores.system) if cores is not None else 0.0


def _part(field: Field, system: System, cores: Cores | None) -> None:
    """Give the system a core of its own, or everybody all of them again."""
    everywhere = processes.everywhere()
    processes.pin(processes.family(system.pids), everywhere if cores is None else cores.system)
    others = [*processes.family(field.standins), psutil.Process()]
    processes.pin(others, everywhere if cores is None else cores.others)


def _late_token_s(log: Sequence[Mapping[str, float]]) -> float:
    late = [one["first_token_at"] - one["at"] - LLM_FIRST_TOKEN_MS / 1000 for one in log if "first_token_at" in one]
    return percentile(late, 0.95) if late else 0.0


def held(steps: Sequence[Step], limit_s: float) -> Limit:
    """Say up to how many calls the median reply stays below a limit, by a straight line between two steps."""
    before: Step | None = None
    for one in steps:
        if one.median > limit_s:
            if before is None or one.median == float("inf"):
                return Limit(float(before.calls if before else 0), broke=True)
            share = (limit_s - before.median) / (one.median - before.median)
            return Limit(before.calls + share * (one.calls - before.calls), broke=True)
        before = one
    return Limit(float(before.calls if before else 0), broke=False)


def whole(steps: Sequence[Step]) -> Limit:
    """Say up to how many calls no audio had a gap, by steps."""
    calls = 0
    for one in steps:
        if one.gaps:
            return Limit(float(calls), broke=True)
        calls = one.calls
    return Limit(float(calls), broke=False)


def grown(steps: Sequence[Step]) -> bool:
    """Whether the last step's answers take GROWN times as long as the first's."""
    return bool(steps) and steps[-1].median > GROWN * steps[0].median


def exhausted(steps: Sequence[Step], enough_s: float) -> bool:
    """Whether nothing more is to be learnt: answers have grown, also beyond `enough_s`, and audio has gaps; or it drowns."""
    if not steps:
        return False
    last = steps[-1]
    return last.median == float("inf") or (grown(steps) and last.median > enough_s and any(one.gaps for one in steps))
