"""How the rules of `bargein` reach the pipeline: Pipecat's strategy that says when the caller's turn begins."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Protocol

from pipecat.frames.frames import (
    Frame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.turns.types import ProcessFrameResult
from pipecat.turns.user_start import BaseUserTurnStartStrategy

from shared.turns import Turns
from worker.call.bargein import BargeIn, Verdict
from worker.call.turns import SpokeOn
from worker.providers.interface import TranscriptEnd


class Mouth(Protocol):
    """What the agent speaks with."""

    @property
    def left_s(self) -> float:
        """How long it will still be heard; 0 when it is silent, infinite while there is more to say."""

    @property
    def asks(self) -> bool:
        """Whether what it says only wants a sign of life from the caller."""

    def halt(self) -> bool:
        """Fall silent at once and lose nothing; whether that was possible."""

    def proceed(self) -> None:
        """Go on."""


class TurnBegin(BaseUserTurnStartStrategy):
    """Begins a turn when the caller speaks, and tells an interruption from a voice that is none.

    `on_backchannel` is told what the agent did not let itself be interrupted by; empty for a voice without words.
    """

    def __init__(self, mouth: Mouth, on_backchannel: Callable[[str], None] = lambda _text: None) -> None:
        super().__init__()
        self._mouth = mouth
        self._rules = BargeIn()
        self._on_backchannel = on_backchannel
        self._timer: asyncio.TimerHandle | None = None
        self._passing: asyncio.Task[None] | None = None

    def use(self, turns: Turns, language: str) -> None:
        """Take the ways of an agent, before its call."""
        self._rules.use(turns, language)

    async def cleanup(self) -> None:
        """End with the pipeline."""
        self._rules.ended()
        self._wind()
        await super().cleanup()  # type: ignore[no-untyped-call]

    async def handle_user_turn_started(self) -> None:
        """Note that a turn has begun."""
        self._rules.began()
        self._wind()

    async def handle_user_turn_stopped(self) -> None:
        """Note that it is over."""
        self._rules.ended()
        self._wind()

    async def process_frame(self, frame: Frame) -> ProcessFrameResult:
        """Look at a frame."""
        now, left_s = time.monotonic(), self._mouth.left_s
        match frame:
            case VADUserStartedSpeakingFrame():
                verdict = self._rules.voice_began(now, left_s, asked=self._mouth.asks)
            case VADUserStoppedSpeakingFrame():
                verdict = self._rules.voice_ended(now, left_s)
            case TranscriptionFrame() | InterimTranscriptionFrame():
                final = isinstance(frame, TranscriptionFrame)
                verdict = self._rules.words(frame.text, final=final, left_s=left_s)
            case SpokeOn():
                self._rules.voice_goes_on()
                return ProcessFrameResult.CONTINUE
            case TranscriptEnd():
                verdict = self._rules.no_more_words(left_s)
            case _:
                return ProcessFrameResult.CONTINUE
        await self._follow(verdict)
        return ProcessFrameResult.CONTINUE

    async def _follow(self, verdict: Verdict) -> None:
        if verdict is Verdict.HALT and not self._mouth.halt():
            verdict = Verdict.BEGIN  # nothing interrupts the agent: the pipeline deals with the turn as with any other
        match verdict:
            case Verdict.BEGIN:
                await self.trigger_user_turn_started()
            case Verdict.PROCEED | Verdict.IGNORE:
                await self.trigger_reset_aggregation()  # type: ignore[no-untyped-call]
                self._on_backchannel(self._rules.said)
                self._rules.ended()
                if verdict is Verdict.PROCEED:
                    self._mouth.proceed()
            case Verdict.HALT | Verdict.NOTHING:
                pass
        self._wind()

    def _wind(self) -> None:
        """Have time looked at when it matters next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        left_s = self._rules.deadline - time.monotonic()
        if left_s < math.inf:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, left_s), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._passing = self.create_task(self._pass())

    async def _pass(self) -> None:
        await self._follow(self._rules.passed(time.monotonic(), self._mouth.left_s))
