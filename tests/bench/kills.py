"""Workers killed and stopped during calls, judged from the caller's side.

Every scenario is drawn from a seed. A call is hit at most three times, so that none counts as poisonous.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from tests.stack import LEXICON
from tests.standins.carrier_settings import CallFailed
from tests.whereabouts import Whereabouts

if TYPE_CHECKING:
    from tests.stack import Stack
    from tests.standins.carrier import Carrier
    from tests.standins.carrier_call import Call
    from tests.standins.modem import HeardWord

KILLS_A_CALL: Final = 3
ANSWER_S: Final = 30.0
QUIET_S: Final = 1.0
SECRET: Final = "purple"
"""What the recording `remember` tells the agent and `recall` asks it for."""


class Moment(StrEnum):
    """What the agent does when its process is hit."""

    GREETING = "greeting"
    LISTENING = "listening"
    HEARING = "hearing"  # the caller is in the middle of a sentence
    THINKING = "thinking"
    SPEAKING = "speaking"


LATER: Final = (Moment.LISTENING, Moment.HEARING, Moment.THINKING, Moment.SPEAKING, Moment.SPEAKING, Moment.SPEAKING)
"""Half of what is drawn is speaking, whose times are measured."""


@dataclass(slots=True)
class Hits:
    """What became of all hits; times are seconds from the hit, on the caller's side."""

    calls: int = 0
    hits: int = 0
    streams_kept: int = 0
    remembered: int = 0
    answered: int = 0
    owed: int = 0
    bridging_s: list[float] = field(default_factory=list)  # to the first bridging message read
    own_words_s: list[float] = field(default_factory=list)  # to the first word of the agent's played
    failures: list[str] = field(default_factory=list)


async def kill_many(stack: Stack, hits: int, at_once: int, seed: int) -> Hits:
    """Place calls, `at_once` of them at a time, until `hits` workers were killed in them."""
    result, where = Hits(), Whereabouts(stack.pool)
    plans = _plans(hits, random.Random(seed))
    async with stack.carrier(answer_delay_s=0.2, fast_verbs=False) as carrier:  # some wait in the hold line

        async def caller() -> None:
            while plans:
                await _call(carrier, where, plans.pop(), result)

        await asyncio.gather(*(caller() for _ in range(at_once)))
    return result


async def stall_many(stack: Stack, count: int) -> Hits:
    """Stop, one after another, workers that speak (SIGSTOP); the pool has to notice by itself."""
    result, where = Hits(), Whereabouts(stack.pool)
    async with stack.carrier(answer_delay_s=0.2) as carrier:
        for _ in range(count):
            await stack.ready()
            await _call(carrier, where, [(Moment.SPEAKING, 0.3)], result, signal.SIGSTOP)
    return result


def _plans(hits: int, chance: random.Random) -> list[list[tuple[Moment, float]]]:
    """Draw what happens in each call: moments, and how far into each the hit comes (0 to 1)."""
    plans: list[list[tuple[Moment, float]]] = []
    while hits > 0:
        count = min(hits, KILLS_A_CALL)
        moments = [chance.choice(LATER) for _ in range(count)]
        if chance.random() < 0.2:
            moments[0] = Moment.GREETING
        plans.append([(moment, chance.random()) for moment in moments])
        hits -= count
    return plans


async def _call(
    carrier: Carrier,
    where: Whereabouts,
    plan: list[tuple[Moment, float]],
    result: Hits,
    number: signal.Signals = signal.SIGKILL,
) -> None:
    call = await carrier.dial()
    result.calls += 1
    try:
        await call.until(lambda: bool(call.streams and call.streams[0].media))
        if plan[0][0] is not Moment.GREETING:
            await quiet(call)
        else:
            await _hit(call, where, plan.pop(0), result, number)
            await quiet(call)
        await answered(call, "remember", "said:")
        for step in plan:
            await _hit(call, where, step, result, number)
        answer = await answered(call, "recall", "colour")
        result.remembered += SECRET in answer
        await call.hangup()
        record = await call.ended()
        result.streams_kept += len(record.streams) == 1 and record.stream.closed_by != "server"
    except CallFailed as error:
        result.failures.append(f"{plan}: {error}"[:2000])
        await call.hangup()


async def _hit(
    call: Call, where: Whereabouts, step: tuple[Moment, float], result: Hits, number: signal.Signals
) -> None:
    """Bring the call to a moment, hit its worker, and wait until the conversation stands again."""
    moment, share = step
    heard = len(call.heard.words())
    match moment:
        case Moment.GREETING:
            await call.hears(lambda line: line.duration_s > 4.0 * share)
            await _strike(call, where, result, number)
            return
        case Moment.LISTENING:
            await _strike(call, where, result, number)
            await answered(call, "book", "appointment")
            return
        case Moment.HEARING:
            ulaw = recording("book")
            cut = int(len(ulaw) * (0.2 + 0.6 * share)) // 160 * 160
            await call.say(ulaw[:cut])
            await _strike(call, where, result, number)
            await call.say(ulaw[cut:])
        case Moment.THINKING:
            await call.say(recording("book"))
            await asyncio.sleep(0.9 + 0.2 * share)
            await _strike(call, where, result, number)
        case Moment.SPEAKING:
            await call.say(recording("book"))
            await call.hears(lambda line: len(line.words()) > heard, ANSWER_S)
            await asyncio.sleep(1.5 * share)
            await _struck_speaking(call, where, result, number)
    result.owed += 1
    line = await call.hears(
        lambda line: "Friday." in since(line.words(), heard) and not line.playing and line.quiet_s > QUIET_S, ANSWER_S
    )
    result.answered += "Friday." in since(line.words(), heard)


async def _struck_speaking(call: Call, where: Whereabouts, result: Hits, number: signal.Signals) -> None:
    stream = call.streams[0]
    clears, epoch = len(stream.clears), call.heard.epoch_s
    at = await _strike(call, where, result, number)

    def bridged() -> float | None:
        cleared = stream.clears[clears] if len(stream.clears) > clears else None
        return None if cleared is None else next((one.at for one in stream.media if one.at >= cleared), None)

    await call.until(lambda: bridged() is not None, ANSWER_S)
    result.bridging_s.append((bridged() or at) - at)

    def own() -> float | None:
        return next((word.start_s + epoch for word in call.heard.words() if word.start_s + epoch > at + 0.3), None)

    await call.hears(lambda _line: own() is not None, ANSWER_S)
    result.own_words_s.append((own() or at) - at)


async def _strike(call: Call, where: Whereabouts, result: Hits, number: signal.Signals) -> float:
    while True:
        pid = await asyncio.to_thread(where.serving, call.call_sid)
        if pid is None:
            raise CallFailed("nobody serves this call")
        try:
            at = time.monotonic()
            os.kill(pid, number)
        except ProcessLookupError:  # the log names the former one for a moment longer
            await asyncio.sleep(0.02)
        else:
            result.hits += 1
            return at


async def answered(call: Call, name: str, expected: str) -> str:
    """Say a recording and wait until the answer was heard to its end; gives its words."""
    heard = len(call.heard.words())
    await call.say(recording(name))
    line = await call.hears(
        lambda line: expected in since(line.words(), heard) and not line.playing and line.quiet_s > QUIET_S, ANSWER_S
    )
    return since(line.words(), heard)


async def quiet(call: Call) -> None:
    """Wait until the agent has said everything."""
    await call.hears(lambda line: not line.playing and line.quiet_s > QUIET_S, ANSWER_S)


def since(words: list[HeardWord], heard: int) -> str:
    """Give the words heard after the first `heard`."""
    return " ".join(word.text for word in words[heard:])


def recording(name: str) -> bytes:
    """Give what a caller says: 8 kHz mono mu-law."""
    return (LEXICON / f"{name}.ulaw").read_bytes()
