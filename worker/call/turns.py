"""Turn taking: when the caller has finished.

An eager agent begins its answer before: at a silence that is not yet a pause, when the ear has given its words and the turn
model is sure. Pipecat holds such an answer back until the turn ends, and drops it, tool calls and all, when it is withdrawn.

Some ears know themselves when a turn is over, and when it may be: their word counts then in place of the model's and the pause.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipecat.frames.frames import (
    EagerEndOfTurnCancelFrame,
    EagerTranscriptionFrame,
    Frame,
    InterimTranscriptionFrame,
    SystemFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.turns.empty_user_turn import EmptyUserTurnConfig
from pipecat.turns.types import ProcessFrameResult, UserTurnSpeculation
from pipecat.turns.user_stop import NormalizedMatch, TurnAnalyzerUserTurnStopStrategy

from shared.turns import Turns
from worker.call.models import PhoneTurn
from worker.providers.interface import TranscriptEnd, TurnGoesOn, TurnOver


@dataclass
class PatienceOver(SystemFrame):
    """The caller has been silent for so long that the turn is over, whatever its last words sounded like."""


@dataclass
class SpokeOn(SystemFrame):
    """The caller speaks on after a silence too short for a pause, in which the ear was asked for its words."""


SURE: Final = 0.8
"""How likely an end must be for an answer to be begun before it; whole sentences of the tests' recordings are above 0.85."""


GIVEN_UP_S: Final = 2.0
"""How long past the patience with a caller a turn stays open that nobody has ended, for whatever reason."""


AFTER_NOISE: Final = EmptyUserTurnConfig(
    interrupted_prompt=(
        "There was a noise or a voice without words on the line; the caller has said nothing new. It cut you off: the "
        "conversation holds what they have heard of you. Answer what they said last, or go on where you were cut off. Do not "
        "mention the noise."
    ),
    max_consecutive_recoveries=3,
)
"""What the model is told when a turn without words has cancelled what it was about to say; a line that crackles on and on is
left to the question whether anybody is there."""


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
        self._in_turn = False
        self._ear_ends = False
        self._over = False  # such an ear says so; while the voice detector still hears the caller, it waits
        self._almost = ""  # the same for what it takes to be the whole turn, but is not sure of
        self._guess = ""  # what the answer under way answers
        self.said: Callable[[], str] = str
        """Gives the words of the turn under way, or to come: some are older than the turn."""

    def use(self, turns: Turns, *, ear_ends: bool = False) -> None:
        """Take turns in this way, with an ear that ends them or one that does not."""
        self._eager, self._ear_ends = turns.eager, ear_ends

    async def process_frame(self, frame: Frame) -> ProcessFrameResult:
        """Look at a frame."""
        if self._ear_ends:
            await self._follow_ear(frame)
        match frame:
            case TranscriptEnd() if self._silent() and not self._ear_ends:
                self._transcript_finalized = True
                await self._maybe_trigger_user_turn_stopped()  # type: ignore[no-untyped-call]
                await self._end_if_wordless()
                await self._answer_ahead()
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

    async def _follow_ear(self, frame: Frame) -> None:
        match frame:
            case TurnOver():
                self._over = self._silent()
                await self._end_if_over()
            case EagerTranscriptionFrame():
                self._almost = f"{self.said()} {frame.text}".strip()
                await self._answer_almost()
            case TurnGoesOn():
                self._almost = ""
                await self._withdraw()
            case InterimTranscriptionFrame() | SpokeOn() | VADUserStartedSpeakingFrame():
                self._over, self._almost = False, ""
            case _:
                pass

    async def handle_user_turn_started(self) -> None:
        """Begin a turn. What was concluded of a voice that is over holds: it was no turn only because its words came later."""
        complete, stopped, finalized = self._turn_complete, self._vad_stopped, self._transcript_finalized
        await super().handle_user_turn_started()  # type: ignore[no-untyped-call]
        self._in_turn, self._text = True, self.said()
        self._transcript_finalized = finalized and bool(self._text)
        if not self._vad_user_speaking:
            self._turn_complete, self._vad_stopped = complete, stopped

    async def handle_user_turn_stopped(self) -> None:
        """End a turn: what is heard until the next one begins is none, and not answered."""
        self._in_turn = False
        await super().handle_user_turn_stopped()  # type: ignore[no-untyped-call]

    async def trigger_user_turn_stopped(self, *, enable_user_speaking_frames: bool | None = None) -> None:
        """End the turn; an answer that was begun ahead is kept when it answers what was said."""
        guess, self._guess = self._guess, ""
        said = self.said()
        if guess and NormalizedMatch().matches(guess, said):
            await self.trigger_user_turn_finalized(confirms_speculation=True)
            return
        if guess:
            await self.trigger_user_turn_speculation_cancelled()  # type: ignore[no-untyped-call]
        await super().trigger_user_turn_stopped(enable_user_speaking_frames=enable_user_speaking_frames)

    async def _answer_ahead(self) -> None:
        said = self.said()
        if not (said and not self._vad_stopped and self._may_answer_ahead):
            return
        sure = await self._model.ahead() >= SURE
        if sure and self._silent() and self._transcript_finalized and not self._vad_stopped:
            await self._begin_answer(said)

    @property
    def _may_answer_ahead(self) -> bool:
        return self._eager and self._in_turn and not self._guess and self._may_guess()

    async def _begin_answer(self, said: str) -> None:
        self._guess = said
        await self.trigger_user_turn_inference_triggered(speculation=UserTurnSpeculation(text=said))

    async def _answer_almost(self) -> None:
        if self._almost and self._silent() and self._may_answer_ahead:
            said, self._almost = self._almost, ""
            await self._begin_answer(said)

    async def _end_if_wordless(self) -> None:
        """End a turn in which nothing was said: whom it interrupted has an answer to give."""
        silent = self._vad_stopped and not self._vad_user_speaking
        if self._in_turn and silent and self._transcript_finalized and not self._text:
            await self.trigger_user_turn_stopped()

    async def _handle_transcription(self, frame: TranscriptionFrame) -> None:
        """Take words; those that nobody has asked for are not followed by a word about their end."""
        await super()._handle_transcription(frame)
        waits = self._in_turn and self._vad_stopped and not self._vad_user_speaking and not self._ear_ends
        if waits and self._timeout_task is None:
            wait_s = max(0.0, self._stt_timeout - self._stop_secs)
            self._timeout_task = self.task_manager.create_task(
                self._timeout_handler(wait_s), f"{self}::_timeout_handler"
            )

    async def _end_if_over(self) -> None:
        if self._over and self._text and not self._vad_user_speaking:
            self._over = False
            await self.trigger_user_turn_stopped()

    async def _handle_vad_user_stopped_speaking(self, frame: VADUserStoppedSpeakingFrame) -> None:
        """Judge a pause, unless the ear does."""
        if not self._ear_ends:
            await super()._handle_vad_user_stopped_speaking(frame)
            await self._end_if_wordless()
            return
        self._vad_user_speaking, self._vad_stopped = False, True
        await self._end_if_over()
        await self._answer_almost()

    async def _withdraw(self) -> None:
        if self._guess:
            self._guess = ""
            await self.trigger_user_turn_speculation_cancelled()  # type: ignore[no-untyped-call]

    async def _reset(self) -> None:
        self._over, self._almost = False, ""
        await super()._reset()  # type: ignore[no-untyped-call]
        await self._withdraw()
