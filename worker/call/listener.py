"""The caller's audio, where it is needed and nowhere else: voice detector, turn model, speech recognition.

Audio does not travel through the pipeline: each 20 ms would cross every processor, with a queue and a task for each, and be
read by three of them. Only what is concluded from it does, as frames.
"""

import asyncio
import time
import warnings
from collections.abc import Callable
from typing import Final

from pipecat.audio.turn.base_turn_analyzer import EndOfTurnState
from pipecat.audio.vad.vad_analyzer import VADState
from pipecat.frames.frames import Frame, VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame

from shared.turns import Turns
from worker.call.models import Models
from worker.call.turns import PatienceOver, SpokeOn
from worker.providers.interface import Ear

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gone in 3.13, where audioop-lts provides it
    import audioop

SILENT_STREAM_S: Final = 1.0
"""A caller whose audio stays away for so long has ceased to speak: a carrier sends continuously."""

ASK_AFTER: Final = 0.4
"""Of the silence that makes a pause: the ear is asked for its words before, since its answer takes as long as the rest does. A
caller who goes on after all has only had a transcript in two pieces. The detector itself is a tenth of a second late."""

EAGER_S: Final = 0.128
"""The same for an agent that is eager, whatever makes a pause for it."""


class Listener:
    """Listens to one call. `use` before the first audio.

    `conclude` is given the frames for the pipeline; `on_voice` whether the caller begins or ceases to speak, and how much
    audio (bytes of mu-law) had been heard by then.
    """

    def __init__(
        self, models: Models, conclude: Callable[[Frame], None], on_voice: Callable[[bool, int], None]
    ) -> None:
        self._models = models
        self._conclude = conclude
        self._on_voice = on_voice
        self._ear: Ear | None = None
        self._turns = Turns()
        self._speaking = False
        self._asked = False  # for the words of a speech that may be over
        self._heard = 0
        self._heard_at = 0.0

    def use(self, ear: Ear, turns: Turns) -> None:
        """Listen with this ear from now on, and take turns in this way."""
        self._ear, self._turns = ear, turns
        self._models.use(turns, judging=not ear.ends_turns)

    @property
    def _ask_after_s(self) -> float:
        after_s = ASK_AFTER * self._turns.stop
        return min(EAGER_S, after_s) if self._turns.eager else after_s

    @property
    def silent(self) -> bool:
        """Whether no voice was heard since the ear was asked for its words."""
        return self._asked or not self._speaking

    def hear(self, ulaw: bytes) -> None:
        """Take a piece of the caller's audio (8 kHz mono mu-law, any length). Dropped while nobody has an ear for it."""
        if self._ear is None:
            return
        pcm = audioop.ulaw2lin(ulaw, 2)
        self._heard += len(ulaw)
        self._heard_at = time.monotonic()
        self._ear.hear(pcm)
        state = self._models.voice_after(pcm)
        if state is VADState.SPEAKING and not self._speaking:
            self._begin()
        elif state is VADState.SPEAKING and self._asked:
            self._go_on()
        elif state is VADState.QUIET and self._speaking:
            self._end()
        elif state is VADState.STOPPING and not self._asked and self._models.quiet_s >= self._ask_after_s:
            self._ask()
        if self._models.turn.append_audio(pcm, self._speaking) is EndOfTurnState.COMPLETE:
            self._conclude(PatienceOver())

    def _ask(self) -> None:
        self._asked = True
        self._models.turn.look_ahead(max(0.0, self._turns.stop - self._models.quiet_s))
        if self._ear is not None:
            self._ear.speech_ended()

    def _go_on(self) -> None:
        self._asked = False
        self._models.turn.forget()
        if self._ear is not None:
            self._ear.speech_began()
        self._conclude(SpokeOn())

    def _begin(self) -> None:
        self._speaking = True
        if self._ear is not None:
            self._ear.speech_began()
        self._on_voice(True, self._heard)
        self._conclude(VADUserStartedSpeakingFrame(start_secs=self._turns.start))
        asyncio.get_running_loop().call_later(SILENT_STREAM_S, self._look)

    def _end(self) -> None:
        if not self._asked:
            self._ask()
        self._speaking = self._asked = False
        self._on_voice(False, self._heard)
        self._conclude(VADUserStoppedSpeakingFrame(stop_secs=self._turns.stop))

    def _look(self) -> None:
        """End a speech whose stream has dried up."""
        if not self._speaking:
            return
        left_s = self._heard_at + SILENT_STREAM_S - time.monotonic()
        if left_s > 0:
            asyncio.get_running_loop().call_later(left_s, self._look)
        else:
            self._end()
