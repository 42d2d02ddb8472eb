"""Callers that talk: one conversation with answers and interruptions, and what a caller heard of many. Times are seconds."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.bench.measure import FRAME_S, RATE_HZ, ask, leading_quiet_s, reply_s
from tests.bench.systems import MODELS
from tests.stack import LEXICON
from tests.standins.carrier_settings import CallFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.bench.systems import System
    from tests.standins.carrier_call import Call
    from tests.standins.carrier_playout import Span

ASKED: Final = "remember"
"""A statement, which every system answers with one completion and one sentence: no tool, no record."""

INTERRUPTION: Final = "interrupt"
INTO_REPLY_S: Final = 0.5
"""How long an answer (2.7 s) has been heard when the caller interrupts it."""

QUIET_S: Final = 0.7
ANSWER_S: Final = 15.0
CLEAR_S: Final = 5.0
FIRST_AUDIO_S: Final = 30.0
PAUSE_S: Final = 0.3


@dataclass(slots=True)
class Talk:
    """One conversation: None stands for an answer or a `clear` that never came."""

    replies: list[float | None] = field(default_factory=list)
    barge_ins: list[float | None] = field(default_factory=list)
    dialled_at: float = 0.0
    second_at: float = 0.0  # when the second plain question was asked
    plain_until: float = 0.0  # when the last uninterrupted answer was over


async def converse(system: System, questions: int, interruptions: int, after_s: float = 0.0) -> Talk:
    """Hear the greeting to its end, ask so many questions, then interrupt so many further answers."""
    talk = Talk()
    ulaw = recording(ASKED)
    async with system.carrier(answer_delay_s=PAUSE_S) as carrier:
        await asyncio.sleep(after_s)
        talk.dialled_at = time.monotonic()
        call = await carrier.dial()
        try:
            await call.until(lambda: bool(call.streams and call.streams[0].media), FIRST_AUDIO_S)
            await _quiet(call)
            for number in range(questions):
                if number == 1:
                    talk.second_at = time.monotonic()
                talk.replies.append(await _question(call, ulaw))
            talk.plain_until = time.monotonic()
            for _ in range(interruptions):
                talk.barge_ins.append(await _interrupted(call, ulaw, recording(INTERRUPTION)))
                await _quiet(call)
        except CallFailed:
            talk.replies += [None] * (questions - len(talk.replies))
            talk.barge_ins += [None] * (interruptions - len(talk.barge_ins))
        await call.hangup()
        await call.ended()
    return talk


async def _quiet(call: Call) -> None:
    await call.hears(lambda heard: not heard.playing and heard.quiet_s > QUIET_S, ANSWER_S)


async def _question(call: Call, ulaw: bytes) -> float | None:
    asked = await ask(call, ulaw)
    await call.hears(
        lambda heard: heard.utterances > asked.utterances_before and not heard.playing and heard.quiet_s > QUIET_S,
        ANSWER_S,
    )
    return reply_s(call, asked)


async def _interrupted(call: Call, ulaw: bytes, interruption: bytes) -> float | None:
    """Ask, and speak while the answer is heard; gives the time from the first audible sample to the `clear`."""
    asked = await ask(call, ulaw)
    await call.hears(lambda heard: heard.utterances > asked.utterances_before and heard.playing, ANSWER_S)
    await asyncio.sleep(INTO_REPLY_S)
    stream = call.streams[0]
    before = len(stream.clears)
    began = (await call.say(interruption)) - said_s(interruption) + leading_quiet_s(interruption)
    try:
        await call.until(lambda: len(stream.clears) > before, CLEAR_S)
    except CallFailed:
        return None
    return stream.clears[before] - began


def said_s(ulaw: bytes) -> float:
    """How long the carrier takes to say it: whole frames."""
    frame = int(FRAME_S * RATE_HZ)
    return -(-len(ulaw) // frame) * FRAME_S


def recording(name: str) -> bytes:
    """Give what a caller says: 8 kHz mono mu-law."""
    return (LEXICON / f"{name}.ulaw").read_bytes()


def later_connections(log: Sequence[Mapping[str, object]], system: str, talk: Talk) -> int:
    """Count the TCP connections on which uninterrupted later answers were asked for, and which were not there before.

    `log` is that of the model's stand-in; nobody else may have called the system meanwhile.
    """
    mine = [
        entry
        for entry in log
        if talk.dialled_at <= _at(entry) <= talk.plain_until
        and entry.get("model") in {MODELS[system], None}
        and entry.get("connection") is not None
    ]
    known = {entry["connection"] for entry in mine if _at(entry) < talk.second_at}
    later = {entry["connection"] for entry in mine if entry["kind"] == "completion" and _at(entry) >= talk.second_at}
    return len(later - known)


def cached_shares(log: Sequence[Mapping[str, Any]], system: str, talk: Talk) -> list[float]:
    """Give for each later answer of a system which part of its prompt the model's stand-in had read before (0-1)."""
    asked = [
        entry["usage"]
        for entry in log
        if entry["kind"] == "completion"
        and entry.get("model") == MODELS[system]
        and talk.second_at <= _at(entry) <= talk.plain_until
        and entry.get("usage")
    ]
    return [usage["prompt_tokens_details"]["cached_tokens"] / usage["prompt_tokens"] for usage in asked]


def answers(spans: Sequence[Span], asked: Iterable[float]) -> list[float | None]:
    """Give for each moment at which a caller fell silent how long the answer took; None where none came before the next.

    What was being said when the caller fell silent is no answer: an answer begins an utterance.
    """
    moments = list(asked)
    found: list[float | None] = []
    for number, at in enumerate(moments):
        until = moments[number + 1] if number + 1 < len(moments) else float("inf")
        before = max((span.utterance for span in spans if span.start_s < at), default=-1)
        begun = next((span.start_s for span in spans if at <= span.start_s < until and span.utterance > before), None)
        found.append(None if begun is None else begun - at)
    return found


def gaps(spans: Sequence[Span], least_s: float, begin: float, end: float) -> list[float]:
    """Give the silences of at least `least_s` inside of utterances that began between two moments."""
    return [
        after.start_s - before.end_s
        for before, after in itertools.pairwise(spans)
        if before.utterance == after.utterance
        and after.start_s - before.end_s >= least_s
        and begin <= before.end_s < end
    ]


def _at(entry: Mapping[str, object]) -> float:
    at = entry["at"]
    assert isinstance(at, float)
    return at
