"""Turn taking: when the caller has finished.

An eager agent begins its answer before: at a silence that is not yet a pause, when the ear has given its words and the turn
model is sure. Pipecat holds such an answer back until the turn ends, and drops it, tool calls and all, when it is withdrawn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipecat.frames.frames import (
    EagerEndOfTurnCancelFrame,
    Frame,
    SystemFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.turns.types import ProcessFrameResult, UserTurnSpeculation
from pipecat.turns.user_stop import NormalizedMatch, TurnAnalyzerUserTurnStopStrategy

from shared.turns import Turns
from worker.call.models import PhoneTurn
from worker.providers.interface import TranscriptEnd


@dataclass
class PatienceOver(SystemFrame):
    """The caller has been silent for so long that the turn is over, whatever its last words sounded like."""


@dataclass
class SpokeOn(SystemFrame):
    """The caller speaks on after a silence too short for a pause, in which the ear was asked for its words."""


SURE: Final = 0.8
"""How likely an end must be for an answer to be begun before it; whole sentences of the tests' recordings are above 0.85."""


class TurnEnd(TurnAnalyzerUserTurnStopStrategy):  # type: ignore[no-untyped-call]
    """Ends a turn when the turn model says so and the ear has given all its words.

    An ear that does not say that is given the time in which its words usually come. `silent` says whether no voice was heard
    since the ear was asked: its answer may be overtaken by the caller who goes on. `may_guess` says whether an answer may be
    begun before the turn has ended.
    """

    def __init__(self, model: PhoneTurn, silent: Callable[[], bool], may_guess: Callable[[], bool]) -> None:
        super().__init__(turn_analyzer=model)
        self._model = model
        self._silent = silent
        self._may_guess = may_guess
        self._eager = False
        self._said: list[str] = []
        self._guess = ""  # what the answer under way answers

    def use(self, turns: Turns) -> None:
        """Take turns in this way."""
        self._eager = turns.eager

    async def process_frame(self, frame: Frame) -> ProcessFrameResult:
        """Look at a frame."""
        match frame:
            case TranscriptEnd() if self._silent():
                self._transcript_finalized = True
                await self._maybe_trigger_user_turn_stopped()  # type: ignore[no-untyped-call]
                await self._answer_ahead()
            case TranscriptionFrame():
                self._said.append(frame.text)
            case VADUserStoppedSpeakingFrame():
                self._stop_secs_warned = True  # its advice is about a wait that the ear's own word has replaced
            case SpokeOn() | VADUserStartedSpeakingFrame():
                self._transcript_finalized = False
                await self._withdraw()
            case EagerEndOfTurnCancelFrame():
                self._guess = ""  # the model wants a tool: it is asked again when the turn has ended
            case PatienceOver():
                self._turn_complete = True
                await self._maybe_trigger_user_turn_stopped()  # type: ignore[no-untyped-call]
            case _:
                pass
        return await super().process_frame(frame)

    async def trigger_user_turn_stopped(self, *, enable_user_speaking_frames: bool | None = None) -> None:
        """End the turn; an answer that was begun ahead is kept when it answers what was said."""
        guess, self._guess = self._guess, ""
        said = " ".join(self._said)
        if guess and NormalizedMatch().matches(guess, said):
            await self.trigger_user_turn_finalized(confirms_speculation=True)
            return
        if guess:
            await self.trigger_user_turn_speculation_cancelled()  # type: ignore[no-untyped-call]
        await super().trigger_user_turn_stopped(enable_user_speaking_frames=enable_user_speaking_frames)

    async def _answer_ahead(self) -> None:
        said = " ".join(part.strip() for part in self._said)
        if not (self._eager and said and not self._guess and not self._vad_stopped and self._may_guess()):
            return
        sure = await self._model.ahead() >= SURE
        if sure and self._silent() and self._transcript_finalized and not self._vad_stopped:
            self._guess = said
            await self.trigger_user_turn_inference_triggered(speculation=UserTurnSpeculation(text=said))

    async def _withdraw(self) -> None:
        if self._guess:
            self._guess = ""
            await self.trigger_user_turn_speculation_cancelled()  # type: ignore[no-untyped-call]

    async def _reset(self) -> None:
        self._said.clear()
        await super()._reset()  # type: ignore[no-untyped-call]
        await self._withdraw()
