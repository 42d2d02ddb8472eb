"""What every voice is, whoever speaks: one of those in a pipeline, and the one of the call or not; in a call or not.

A provider's voice adds how text becomes sound. None of them ends an audio context because it is silent: that is its own to say.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from pipecat.frames.frames import Frame
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TextAggregationMode, TTSService

from shared.agents import Agent
from shared.logs import get
from shared.metrics import Setback
from shared.workers import Resource
from worker.providers.interface import nothing_used, passes, stand_by
from worker.providers.line import cause_of, in_words
from worker.providers.retry import Trouble

log = get(__name__)

OPEN_END_S: Final = 3600.0
"""An audio context ends when its last word came, and not when it is silent: Pipecat's limit of 3 s is put out of the way."""

PIECE_S: Final = 0.04
"""The transport plays sound in such pieces. What does not fill one waits for more, and is dropped after 3 s of silence: sound
that nothing follows for a while is filled up, which also keeps places in the sound true."""

SAMPLE_BYTES: Final = 2


class CallVoice(TTSService):
    """The voice. `on_lost` is called with what happened while the worker is parked, if this is the voice it parks with.

    `on_word` is told each word whose sound came whole, `on_void` sound of a context that must not be played, from and to in
    seconds since its beginning: a connection was lost in the middle of a word, and the word will come again.
    """

    def __init__(
        self,
        settings: TTSSettings,
        on_lost: Callable[[str], None],
        trouble: Trouble | None,
        *,
        mode: TextAggregationMode = TextAggregationMode.TOKEN,
    ) -> None:
        super().__init__(
            settings=settings,
            text_aggregation_mode=mode,
            append_trailing_space=True,  # to sentences, of which providers join what they are given
            push_text_frames=False,
            push_start_frame=True,
            stop_frame_timeout_s=OPEN_END_S,
            max_consecutive_zero_audio_contexts=0,  # three silent ones would make it unusable for good
        )
        self._on_lost = on_lost
        self.trouble = self._trouble = trouble or Trouble(Resource.TTS)
        self._default_voice = self._voice = str(settings.voice)
        self._language = "en"
        self._taken = asyncio.Event()
        self.active = True
        self.last_error = ""
        self.limited = False
        self.on_word: Callable[[str, str, float], None] = lambda _context, _word, _start_s: None
        self.on_used: Callable[..., None] = nothing_used
        self.on_void: Callable[[str, float, float], None] = lambda _context, _start_s, _end_s: None

    @property
    def serving(self) -> bool:
        """Whether the worker is in a call: a lost connection is then made again."""
        return self._taken.is_set()

    def serve(self) -> None:
        """Be in a call from now on."""
        self._taken.set()

    def become(self, agent: Agent) -> None:
        """Take the voice and language of an agent, at once. To be called before anything was spoken; free before `setup`."""
        self._voice = agent.voice or self._default_voice
        self._language = agent.language
        self._text_aggregator.set_language(agent.language)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Speak what comes, when this is the voice of the call."""
        if not self.active and passes(frame):
            await stand_by(self, frame, direction)
            return
        await super().process_frame(frame, direction)

    async def push_error(self, error_msg: str, exception: Exception | None = None, **kwargs: Any) -> None:
        """Keep the last error, for `/readyz`."""
        self.last_error = error_msg
        await super().push_error(error_msg, exception=exception, **kwargs)

    def _gone(self, why: str) -> None:
        """Say that it was lost while parked. Of another voice than the active one only its own agents need know."""
        if self.active:
            self._on_lost(why)
        else:
            log.warning("another voice is lost", voice=type(self).__name__, error=why)

    def _note(self, error: Exception) -> None:
        """Keep what went wrong, for `/readyz`; of a connection that cannot be made this is the only sign."""
        self.last_error = in_words(error)
        self.limited = cause_of(error) is Setback.LIMITED
