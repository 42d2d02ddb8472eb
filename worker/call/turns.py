"""Turn taking: when the caller has finished."""

from collections.abc import Callable
from dataclasses import dataclass

from pipecat.audio.turn.base_turn_analyzer import BaseTurnAnalyzer
from pipecat.frames.frames import Frame, SystemFrame
from pipecat.turns.types import ProcessFrameResult
from pipecat.turns.user_stop import TurnAnalyzerUserTurnStopStrategy

from worker.providers.interface import TranscriptEnd


@dataclass
class PatienceOver(SystemFrame):
    """The caller has been silent for so long that the turn is over, whatever its last words sounded like."""


@dataclass
class SpokeOn(SystemFrame):
    """The caller speaks on after a silence too short for a pause, in which the ear was asked for its words."""


class TurnEnd(TurnAnalyzerUserTurnStopStrategy):  # type: ignore[no-untyped-call]
    """Ends a turn when the turn model says so and the ear has given all its words.

    An ear that does not say that is given the time in which its words usually come. `silent` says whether no voice was heard
    since the ear was asked: its answer may be overtaken by the caller who goes on.
    """

    def __init__(self, turn_analyzer: BaseTurnAnalyzer, silent: Callable[[], bool]) -> None:
        super().__init__(turn_analyzer=turn_analyzer)
        self._silent = silent

    async def process_frame(self, frame: Frame) -> ProcessFrameResult:
        """Look at a frame."""
        if isinstance(frame, TranscriptEnd) and self._silent():
            self._transcript_finalized = True
            await self._maybe_trigger_user_turn_stopped()  # type: ignore[no-untyped-call]
        elif isinstance(frame, SpokeOn):
            self._transcript_finalized = False
        elif isinstance(frame, PatienceOver):
            self._turn_complete = True
            await self._maybe_trigger_user_turn_stopped()  # type: ignore[no-untyped-call]
        return await super().process_frame(frame)
