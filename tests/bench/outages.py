"""Parts taken away while calls are up, and more calls than workers: what callers notice."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.bench.kills import answered, quiet, recording
from tests.standins.carrier_settings import CallFailed

if TYPE_CHECKING:
    from tests.stack import Stack
    from tests.standins.carrier import Carrier
    from tests.standins.carrier_call import Call

FRAME_S: Final = 0.02
ANSWER_S: Final = 30.0
LONG_S: Final = 120.0
BURST_STAYS_S: Final = 3.0


@dataclass(slots=True)
class Restart:
    """What calls in progress noticed of a part that was killed and started again."""

    calls: int = 0
    kept: int = 0  # went on, and answered afterwards
    gaps_s: list[float] = field(default_factory=list)  # of the agent's speech, one sum a call
    frames_lost: float = 0.0  # of the caller's audio, by the sequence numbers the workers saw
    webhooks_s: list[float] = field(default_factory=list)  # placed meanwhile, by those that were answered
    webhooks_failed: int = 0
    back_s: float = 0.0  # killed until the next call was answered


@dataclass(slots=True)
class Burst:
    """Many more calls than workers."""

    calls: int = 0
    served: int = 0
    held: int = 0  # heard the hold line before they were served
    turned_away: int = 0  # overflow or apology
    dropped: int = 0
    first_s: list[float] = field(default_factory=list)  # first audio of those served at once
    live_gaps_s: list[float] = field(default_factory=list)  # of calls that were up, while the pool refilled


async def router_restart(stack: Stack, calls: int) -> Restart:
    """Kill the router while agents speak, and start it again."""
    result = Restart()
    odd = stack.metric("offhook_stream_oddities_total", oddity="sequence_gap")
    async with stack.carrier(answer_delay_s=0.2) as carrier:
        live = await _speaking(carrier, calls)
        began = time.monotonic()
        await asyncio.to_thread(stack.router.stop, signal.SIGKILL)
        stack.router.start()
        await stack.ready(1)
        await _stay(carrier, 0.3)
        result.back_s = time.monotonic() - began
        await _judge(live, result)
    result.frames_lost = stack.metric("offhook_stream_oddities_total", oddity="sequence_gap") - odd
    return result


async def redis_restart(stack: Stack, calls: int, webhooks: int) -> Restart:
    """Stop Redis while agents speak and others call, and start it again, empty."""
    result = Restart()
    odd = stack.metric("offhook_stream_oddities_total", oddity="sequence_gap")
    async with stack.carrier(answer_delay_s=0.2) as carrier:
        live = await _speaking(carrier, calls)
        for number in range(webhooks):
            if number == webhooks // 3:
                await asyncio.to_thread(stack.redis.stop)
            if number == 2 * webhooks // 3:
                await asyncio.to_thread(stack.redis.start)
            await stack.ready(1)
            await _webhook(carrier, result)
        await _judge(live, result)
    result.frames_lost = stack.metric("offhook_stream_oddities_total", oddity="sequence_gap") - odd
    return result


async def burst(stack: Stack, count: int, live: int) -> Burst:
    """Let `count` call in the same moment while `live` others hear their agents speak."""
    result = Burst(calls=count)
    await stack.ready()
    async with stack.carrier(answer_delay_s=0.2, fast_verbs=False) as carrier:
        talking = await _speaking(carrier, live)
        await stack.ready()
        calls = await asyncio.gather(*(carrier.dial() for _ in range(count)))
        await asyncio.gather(*(_in_burst(call, result) for call in calls))
        for call in talking:
            result.live_gaps_s.append(sum(gap.duration_s for gap in call.heard.gaps(FRAME_S)))
            await call.hangup()
            await call.ended()
    return result


async def _in_burst(call: Call, result: Burst) -> None:
    try:
        await call.until(lambda: bool(call.streams and call.streams[0].media) or "Dial" in call.verbs, LONG_S)
        if not call.streams:
            result.turned_away += 1
        else:
            first = call.streams[0]
            result.served += 1
            held = len(call.exchanges) > 1
            result.held += held
            if not held and first.upgrade_accepted is not None and first.first_media_received is not None:
                result.first_s.append(first.first_media_received - first.upgrade_accepted)
            await asyncio.sleep(BURST_STAYS_S)
        await call.hangup()
        await call.ended()
    except CallFailed:
        record = call.record()
        if record.spoken and record.verbs[-1:] == ("Hangup",):
            result.turned_away += 1
        else:
            result.dropped += 1
        await call.hangup()


async def _speaking(carrier: Carrier, count: int) -> list[Call]:
    """Place calls and ask each for a long answer; they are given while it is spoken."""
    calls = [await carrier.dial() for _ in range(count)]
    await asyncio.gather(*(_ask(call) for call in calls))
    return calls


async def _ask(call: Call) -> None:
    await call.until(lambda: bool(call.streams and call.streams[0].media))
    await quiet(call)
    await call.say(recording("book"))
    await call.hears(lambda line: bool(line.words()), ANSWER_S)


async def _judge(calls: list[Call], result: Restart) -> None:
    for call in calls:
        result.calls += 1
        try:
            await answered(call, "yes", "said:")
            result.gaps_s.append(sum(gap.duration_s for gap in call.heard.gaps(FRAME_S)))
            await call.hangup()
            record = await call.ended()
            result.kept += len(record.streams) == 1
        except CallFailed:
            await call.hangup()


async def _webhook(carrier: Carrier, result: Restart) -> None:
    call = await _stay(carrier, 0.3)
    record = call.record()
    if record.webhook_sent is None or record.webhook_answered is None or not record.streams:
        result.webhooks_failed += 1
    else:
        result.webhooks_s.append(record.webhook_answered - record.webhook_sent)


async def _stay(carrier: Carrier, seconds: float) -> Call:
    call = await carrier.dial()
    try:
        await call.until(lambda: bool(call.streams and call.streams[0].media), ANSWER_S)
        await asyncio.sleep(seconds)
        await call.hangup()
        await call.ended()
    except CallFailed:
        await call.hangup()
    return call
