"""Turn taking: when the caller has finished."""

from dataclasses import dataclass

from pipecat.frames.frames import Frame, SystemFrame
from pipecat.turns.types import ProcessFrameResult
from pipecat.turns.user_stop import TurnAnalyzerUserTurnStopStrategy

from worker.providers.interface import TranscriptEnd


@dataclass
class PatienceOver(SystemFrame):
    """The caller has been silent for so long that the turn is over, whatever its last words sounded like."""


class TurnEnd(TurnAnalyzerUserTurnStopStrategy):  # type: ignore[no-untyped-call]
    """Ends a turn when the turn model says so and the ear has given all its words.

    An ear that does not say that is given the time in which its words usually come.
    """

    async def process_frame(self, frame: Frame) -> ProcessFrameResult:
        """Look at a frame."""
        if isinstance(frame, TranscriptEnd):
            self._transcript_finalized = True
            await self._maybe_trigger_user_turn_stopped()  # type: ignore[no-untyped-call]
        elif isinstance(frame, PatienceOver):
            self._turn_complete = True
            await self._maybe_trigger_user_turn_stopped()  # type: ignore[no-untyped-call]
        return await super().process_frame(frame)
