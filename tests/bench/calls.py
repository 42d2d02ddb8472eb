"""Calls placed to be measured: one after another, many at once, whole answers.

The carrier lives in the bench's own process and loop; nothing else runs there while calls are up.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.bench.measure import Measured, ask, last_words, measured, reply_s
from tests.stack import LEXICON, Stack
from tests.standins.carrier_settings import CallFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.standins.carrier import Carrier
    from tests.standins.carrier_call import Call

PAUSE_S: Final = (0.2, 0.5)
"""What Twilio takes between TwiML and upgrade, at least and usually. Source: facts of the carrier stand-in."""

LISTEN_S: Final = 1.2
"""How long a measured call stays: beyond the latest moment an agent may become ready in."""

GREETED_S: Final = 5.0
"""Long enough for the whole shipped greeting (4.8 s)."""

ASK_AT_S: Final = (0.5, 4.0)
"""Seconds after the first media. Thirty people who call in one moment do not all speak in the same one, and thirty turns
ending together would measure how two cores cope with that and not whether the record was there."""

ANSWER_DEADLINE_S: Final = 30.0
LOG_DEADLINE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Heard:
    """One call that asked something: its figures, the reply's delay, and the words of the reply."""

    measured: Measured
    reply_s: float | None
    text: str


async def one_by_one(stack: Stack, count: int, within_s: float, *, pause: bool) -> list[Measured]:
    """Place calls one after another, each with all workers ready again, and hang up after LISTEN_S."""
    calls: list[Call] = []
    for _ in _while_time(count, within_s):
        await stack.ready()
        async with _carrier(stack, pause=pause) as carrier:
            calls.append(await stay(carrier, LISTEN_S))
    return await gathered(stack, calls)


async def at_once(stack: Stack, count: int, *, pause: bool, listen_s: float = LISTEN_S) -> list[Measured]:
    """Place calls in the same moment and hang up all of them after `listen_s` of agent audio began."""
    await stack.ready()
    async with _carrier(stack, pause=pause) as carrier:
        calls = await asyncio.gather(*(stay(carrier, listen_s) for _ in range(count)))
    return await gathered(stack, list(calls))


async def replies(stack: Stack, count: int, within_s: float, recording: str) -> list[Heard]:
    """Let callers one after another listen to the greeting to its end, ask something, and hear the answer."""
    heard: list[Heard] = []
    for _ in _while_time(count, within_s):
        await stack.ready()
        async with _carrier(stack, pause=True) as carrier:
            heard += await _asking(stack, carrier, [""], recording, (GREETED_S, GREETED_S))
    return heard


async def replies_at_once(stack: Stack, callers: list[str], recording: str) -> list[Heard]:
    """Let callers (by number) call in the same moment; each speaks over its greeting, at another moment of ASK_AT_S."""
    await stack.ready()
    async with _carrier(stack, pause=False) as carrier:
        return await _asking(stack, carrier, callers, recording, ASK_AT_S)


async def gathered(stack: Stack, calls: list[Call]) -> list[Measured]:
    """Add what the workers of ended calls wrote; a worker that wrote nothing in time leaves its part empty."""
    wanted = {call.call_sid for call in calls}
    ends = time.monotonic() + LOG_DEADLINE_S
    while True:
        found = last_words(await asyncio.to_thread(stack.pool.lines))
        if wanted <= found.keys() or time.monotonic() > ends:
            return [measured(call, found.get(call.call_sid, {})) for call in calls]
        await asyncio.sleep(0.1)


def _while_time(count: int, within_s: float) -> Iterator[int]:
    ends = time.monotonic() + within_s
    for number in range(count):
        if number and time.monotonic() > ends:
            return
        yield number


def _carrier(stack: Stack, *, pause: bool) -> Carrier:
    return stack.carrier(answer_delay_s=random.uniform(*PAUSE_S) if pause else 0.0)


async def stay(carrier: Carrier, listen_s: float, until: asyncio.Event | None = None) -> Call:
    """Place a call, hear the agent for a while, hang up. A call that fails is left as it is: its moments are missing.

    With `until` it is up at least until that is set.
    """
    call = await carrier.dial()
    try:
        await call.until(lambda: bool(call.streams and call.streams[0].media))
        await asyncio.sleep(listen_s)
        if until is not None:
            await until.wait()
        await call.hangup()
        await call.ended()
    except CallFailed:
        await call.hangup()
    return call


async def _asking(
    stack: Stack, carrier: Carrier, callers: list[str], recording: str, between_s: tuple[float, float]
) -> list[Heard]:
    ulaw = (LEXICON / f"{recording}.ulaw").read_bytes()
    answered = await asyncio.gather(*(_ask(carrier, number, ulaw, random.uniform(*between_s)) for number in callers))
    figures = await gathered(stack, [call for call, _, _ in answered])
    return [Heard(one, delay, text) for one, (_, delay, text) in zip(figures, answered, strict=True)]


async def _ask(carrier: Carrier, number: str, ulaw: bytes, after_s: float) -> tuple[Call, float | None, str]:
    call = await (carrier.dial(from_=number) if number else carrier.dial())
    delay, text = None, ""
    try:
        await call.until(lambda: bool(call.streams and call.streams[0].media))
        await asyncio.sleep(after_s)
        asked = await ask(call, ulaw)
        heard = await call.hears(
            lambda heard: heard.utterances > asked.utterances_before and not heard.playing and heard.quiet_s > 1.0,
            ANSWER_DEADLINE_S,
        )
        delay, text = reply_s(call, asked), heard.text()
        await call.hangup()
        await call.ended()
    except CallFailed:
        await call.hangup()
    return call, delay, text
