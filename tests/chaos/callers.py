"""A caller who tells the agent something, is hit by faults, and asks for it again: the judge of everything here.

Judged is only what the caller notices: whether the connection held, whether each question was answered in full, how long
it was silent while an answer was owed, and whether the agent still knows what it was told.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from tests.chaos_child import RESULT
from tests.standins.carrier_settings import CallFailed, CallFaults
from tests.standins.modem import RATE_HZ, decode
from tests.system.talk import recording
from worker.call.memory import UNKNOWN_OUTCOME

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.chaos.stage import Stage
    from tests.standins.carrier import Carrier
    from tests.standins.carrier_call import Call
    from tests.standins.carrier_playout import Playout

    Act = Callable[[Stage, Call, "Moment"], Awaitable["Undo"]]
    """Does harm; gives what must be done after the turn."""

    Undo = Callable[[], Awaitable[list[str]]]
    """Ends the harm; gives what the act itself found wrong."""

ANSWER_S = 45.0
"""Ends a test that would never end."""

QUIET_S = 1.0
UPGRADE_DELAY_S = 1.5
"""Between webhook and stream, for what happens there; Twilio takes about 0.5 s."""

SECRET = "purple"
UNKNOWN = f"It is {', '.join(str(value) for value in UNKNOWN_OUTCOME.values())}."
REPLY = "You said: I would like to book an appointment for Friday."


class Moment(StrEnum):
    """When a fault comes, as a caller would say it."""

    PARKED = "parked"  # is when another worker, which waits for its call, is hit
    RESERVED = "reserved"  # is when the webhook was answered and the stream is still to come
    BOUND = "bound"  # is when the stream is open and its worker has not read `start`
    STARTING = "starting"  # is when `start` was just sent
    GREETING = "greeting"  # is when the greeting is being heard
    LISTENING = "listening"  # is when nobody speaks
    HEARING = "hearing"  # is when the caller is in the middle of a sentence
    THINKING = "thinking"  # is when the caller has just ended it
    SPEAKING = "speaking"  # is when the agent's answer is being heard
    TOOL = "tool"  # is when a tool runs that must not run twice


BEFORE_THE_TALK = frozenset({Moment.RESERVED, Moment.BOUND, Moment.STARTING, Moment.GREETING})


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to a call, or to the installation while the call is at a moment.

    `share` is how far into the moment, from 0 to 1.
    """

    name: str
    moment: Moment
    act: Act = field(repr=False)
    share: float = 0.5

    def __str__(self) -> str:
        return f"{self.name} while {self.moment}"


@dataclass(slots=True)
class Verdict:
    """What became of one call."""

    faults: tuple[Fault, ...]
    call_sid: str = ""
    wrong: list[str] = field(default_factory=list)
    silence_s: float = 0.0  # the longest while an answer was owed
    repeated: int = 0  # answers heard more than once

    def __str__(self) -> str:
        faults = ", ".join(str(fault) for fault in self.faults)
        return f"{self.call_sid} ({faults}): {'; '.join(self.wrong) or 'well'}; silent for {self.silence_s:.1f} s"


async def live_through(
    stage: Stage,
    carrier: Carrier,
    faults: tuple[Fault, ...],
    before_the_end: Callable[[], Awaitable[None]] | None = None,
) -> Verdict:
    """Place a call, let the faults happen to it in their order, and judge; `before_the_end` comes before the last question."""
    verdict = Verdict(faults)
    caller = _Caller(stage, carrier, verdict)
    try:
        await caller.live(faults, before_the_end)
    except (CallFailed, AssertionError) as error:
        verdict.wrong.append(str(error)[:2000])
    return verdict


@dataclass(frozen=True, slots=True)
class _Asked:
    """Where an answer begins: seconds on the line as the caller hears it, and words heard before."""

    at_s: float
    words: int


class _Caller:
    def __init__(self, stage: Stage, carrier: Carrier, verdict: Verdict) -> None:
        self._stage = stage
        self._carrier = carrier
        self._verdict = verdict
        self._spoken_until_s = 0.0
        self._undone: list[Undo] = []
        self._call: Call

    async def live(
        self, faults: tuple[Fault, ...], before_the_end: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        early = [fault for fault in faults if fault.moment in BEFORE_THE_TALK]
        late_upgrade = any(fault.moment in {Moment.RESERVED, Moment.BOUND} for fault in early)
        await self._stage.stack.ready(1)
        self._call = call = await self._carrier.dial(
            faults=CallFaults(upgrade_delay_s=UPGRADE_DELAY_S if late_upgrade else 0.0)
        )
        self._verdict.call_sid = call.call_sid
        try:
            for fault in early:
                await self._early(fault)
            await call.streaming(timeout_s=ANSWER_S)
            await call.hears(lambda line: line.duration_s > 0.3, ANSWER_S)
            await self._undo()
            await self._ask("remember", "You said: My favourite colour is purple.")
            for fault in faults:
                if fault not in early:
                    await self._turn(fault)
                    await self._undo()
            if before_the_end is not None:
                await before_the_end()
            await self._ask("recall", f"You told me: My favourite colour is {SECRET}.")
        finally:
            await self._undo()
            await call.hangup()
            record = await call.ended()
            if len(record.streams) != 1 or record.stream.closed_by == "server":
                self._verdict.wrong.append(f"its stream closed ({len(record.streams)} of them)")

    async def _early(self, fault: Fault) -> None:
        call = self._call
        match fault.moment:
            case Moment.BOUND:
                pid = await self._stage.promised(call)
                await self._stage.hit(pid, signal.SIGSTOP)
                await call.streaming()
            case Moment.STARTING:
                await call.streaming()
            case Moment.GREETING:
                await call.hears(lambda line: line.duration_s > 3.0 * fault.share)
            case _:
                pass
        await self._act(fault)

    async def _turn(self, fault: Fault) -> None:
        """Bring the call to a moment, do harm, and wait for what is owed."""
        call, book, asked = self._call, recording("book"), self._asks()
        match fault.moment:
            case Moment.TOOL:
                await self._tool(fault)
                return
            case Moment.HEARING:
                cut = int(len(book) * (0.2 + 0.6 * fault.share)) // 160 * 160
                await self._say(book[:cut])
                await self._act(fault)
                await self._say(book[cut:])
            case Moment.THINKING:
                await self._say(book)
                await self._act(fault)
            case Moment.SPEAKING:
                await self._say(book)
                await call.hears(lambda line: len(line.words()) > asked.words, ANSWER_S)
                await self._act(fault)
            case _:
                await self._act(fault)
                await self._say(book)
        await self._answered(asked, REPLY)

    async def _tool(self, fault: Fault) -> None:
        """Have the tool run, do harm while it does, and see that nobody runs it again."""
        stage, asked = self._stage, self._asks()
        async with stage.counting:
            runs = stage.runs()
            await self._say(recording("what-time"))
            await stage.stack.until(lambda: stage.runs() > runs, "the tool runs")
            await self._act(fault)
            await self._answered(asked, f"It is {RESULT}.", UNKNOWN)
            if stage.runs() != runs + 1:
                self._verdict.wrong.append(f"the tool ran {stage.runs() - runs} times")

    async def _act(self, fault: Fault) -> None:
        self._undone.append(await fault.act(self._stage, self._call, fault.moment))

    async def _undo(self) -> None:
        undone, self._undone = self._undone, []
        for undo in undone:
            self._verdict.wrong += await undo()

    async def _ask(self, name: str, expected: str) -> None:
        asked = self._asks()
        await self._say(recording(name))
        await self._answered(asked, expected)

    def _asks(self) -> _Asked:
        """Note where on the line an answer can begin."""
        line = self._call.heard
        return _Asked(line.now_s - line.epoch_s, len(line.words()))

    async def _say(self, ulaw: bytes) -> None:
        await self._call.say(ulaw)
        line = self._call.heard
        self._spoken_until_s = line.now_s - line.epoch_s

    async def _answered(self, asked: _Asked, *expected: str) -> None:
        """Wait until one of the expected answers was heard to its end, and note how it was given."""
        call, ends = self._call, [each.split()[-1] for each in expected]

        def over(line: Playout) -> bool:
            words = [word.text for word in line.words() if word.end_s > asked.at_s]
            return any(end in words for end in ends) and not line.playing and line.quiet_s > QUIET_S

        try:
            line = await call.hears(over, ANSWER_S)
        except CallFailed as error:
            raise CallFailed(
                f"expected {expected[0]!r}, heard {_said(call.heard, asked.at_s)[0]!r}: {error}"
            ) from error
        said = _said(line, asked.at_s)
        times = max(sum(text.count(each) for each in expected) for text in said)
        if not times:
            self._verdict.wrong.append(f"expected {expected[0]!r}, heard {said[0]!r}")
        self._verdict.repeated += times > 1
        self._verdict.silence_s = max(self._verdict.silence_s, self._longest_silence(line, asked.at_s))

    def _longest_silence(self, line: Playout, since_s: float) -> float:
        """Give the longest time without a sound since a moment at which an answer was owed."""
        ends, longest = self._spoken_until_s, 0.0
        for span in line.spans:
            start_s, end_s = span.start_s - line.epoch_s, span.end_s - line.epoch_s
            if end_s > max(ends, since_s):
                longest = max(longest, start_s - ends)
                ends = end_s
        return longest


def _said(line: Playout, since_s: float) -> list[str]:
    """Give the words heard since a moment, with its silences and without.

    A word that an underrun tore apart was heard, if late; but where an answer broke off, two words stand side by side.
    """
    whole = line.audio()[max(0, int(since_s * RATE_HZ)) :]
    joined = b"".join(span.audio for span in line.spans if span.end_s - line.epoch_s > since_s)
    return [" ".join(word.text for word in decode(audio)) for audio in (whole, joined)]
