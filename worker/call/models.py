"""The local models of a worker, loaded in the zygote: the voice detector and the one that tells a pause from an end."""

import asyncio
import time
import warnings
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from loguru import logger as pipecat_log
from pipecat.audio.turn.base_turn_analyzer import EndOfTurnState
from pipecat.audio.turn.smart_turn.base_smart_turn import SmartTurnParams
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.audio.utils import exp_smoothing
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams, VADState
from pipecat.metrics.metrics import MetricsData, TurnMetricsData

from shared.turns import Turns
from worker.call.playout import RATE

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gone in 3.13, where audioop-lts provides it
    import audioop

SAMPLE_BYTES: Final = 2

FLOOR_RMS: Final = 33
"""Of 32768, -60 dBFS: no word begins so softly on a telephone. With -55 dBFS, soft speakers were noticed 0.15 s later."""

RUN_UP: Final = 4
"""How many windows (32 ms) before the first loud one the model is shown: it judges a sound by what was before it."""


class PhoneVAD(SileroVADAnalyzer):
    """The voice detector, which does not run its model on silence.

    Most of what a caller sends is silence, and the model was half of what listening costs (a silent call takes 2.1 instead of
    3.5 % of a core). In a pause within speech it runs as always.
    """

    def __init__(self, params: VADParams) -> None:
        super().__init__(sample_rate=RATE, params=params)
        self._left_out: deque[bytes] = deque(maxlen=RUN_UP)
        self._silent = False

    def voice_confidence(self, buffer: bytes) -> float:
        """Say how sure it is that this window has a voice in it (0-1)."""
        self._silent = self._vad_state is VADState.QUIET and audioop.rms(buffer, SAMPLE_BYTES) < FLOOR_RMS
        if self._silent:
            self._left_out.append(buffer)
            return 0.0
        while self._left_out:
            super().voice_confidence(self._left_out.popleft())
        return super().voice_confidence(buffer)

    def _get_smoothed_volume(self, audio: bytes) -> float:
        if not self._silent:
            return super()._get_smoothed_volume(audio)
        self._volume_tracker.update(audio, self.sample_rate)
        return exp_smoothing(0.0, self._prev_volume, self._smoothing_factor)


MOST_PIECES: Final = 500
"""Of 20 ms, 10 s: the turn model looks at the last 8 s."""


class PhoneTurn(LocalSmartTurnAnalyzerV3):
    """The turn model, which can judge a silence before it is long enough to be a pause.

    It takes 35 ms of CPU, on a busy machine a fifth of a second: as much of that as there is left of the silence.
    """

    def __init__(self) -> None:
        super().__init__(sample_rate=RATE, params=SmartTurnParams())
        self.judges = True
        """Whether the model is asked at all; else every pause is an end."""
        self._early: asyncio.Future[tuple[EndOfTurnState, MetricsData | None]] | None = None

    def append_audio(self, buffer: bytes, is_speech: bool) -> EndOfTurnState:  # noqa: FBT001 - the signature is Pipecat's
        """Take audio; of a voice that never pauses no more is kept than the model looks at."""
        state = super().append_audio(buffer, is_speech)
        if len(self._audio_buffer) > 2 * MOST_PIECES:
            del self._audio_buffer[:-MOST_PIECES]
        return state

    def look_ahead(self, left_s: float) -> None:
        """Begin to judge what was said so far as if `left_s` more of silence had been heard."""
        if not self.judges:
            return
        silence = np.zeros(round(left_s * RATE), dtype=np.int16)
        heard = [*self._audio_buffer, (time.monotonic(), silence)]
        loop = asyncio.get_running_loop()
        self._early = loop.run_in_executor(self._model_executor, self._process_speech_segment, heard)

    def forget(self) -> None:
        """Drop that judgement: the caller speaks on."""
        self._early = None

    async def ahead(self) -> float:
        """Give the early judgement: how likely it is an end (0-1); 0 when there is none."""
        if self._early is None:
            return 0.0
        _, metrics = await asyncio.shield(self._early)
        return metrics.probability if isinstance(metrics, TurnMetricsData) else 0.0

    async def analyze_end_of_turn(self) -> tuple[EndOfTurnState, MetricsData | None]:
        """Say whether the caller has finished."""
        early, self._early = self._early, None
        if not self.judges:
            self.clear()  # type: ignore[no-untyped-call]
            return EndOfTurnState.COMPLETE, None
        if early is None:
            return await super().analyze_end_of_turn()
        state, metrics = await early
        if state is EndOfTurnState.COMPLETE:
            self._clear(state)
        return state, metrics


@dataclass(frozen=True, slots=True)
class Models:
    """Every fork has its own copy of their state; the weights are shared."""

    vad: PhoneVAD
    turn: PhoneTurn

    def use(self, turns: Turns, *, judging: bool = True) -> None:
        """Take what an agent wants of them, before a call. With an ear that ends turns nobody asks the turn model."""
        self.vad.set_params(vad_params(turns))
        self.turn.judges = turns.smart and judging
        self.turn._params.stop_secs = turns.patience  # noqa: SLF001 - it has no setter,
        self.turn._stop_ms = turns.patience * 1000  # noqa: SLF001 - and keeps it in two places

    @property
    def quiet_s(self) -> float:
        """How long a speech under way has been silent."""
        windows: int = self.vad._vad_stopping_count  # noqa: SLF001 - nobody else counts
        return windows * self.vad.num_frames_required() / RATE

    def voice_after(self, pcm: bytes) -> VADState:
        """Look at the next piece of audio and say whether somebody speaks; at once, 0.1 ms for 32 ms of sound."""
        return self.vad._run_analyzer(pcm)  # noqa: SLF001 - the public way takes a thread, for 2.5 times the CPU


def load_models() -> Models:
    """Load the models and run each once, without starting a thread: for the zygote."""
    pipecat_log.remove()
    vad = PhoneVAD(vad_params(Turns()))
    turn = PhoneTurn()
    vad.set_sample_rate(RATE)
    turn.set_sample_rate(RATE)
    SileroVADAnalyzer.voice_confidence(vad, bytes(SAMPLE_BYTES * vad.num_frames_required()))
    vad._model.reset_states()  # type: ignore[no-untyped-call]  # noqa: SLF001 - the rehearsal must leave no trace in a caller's stream
    turn._predict_endpoint(np.zeros(RATE, dtype=np.float32))  # noqa: SLF001 - as above, without its thread
    return Models(vad, turn)


def vad_params(turns: Turns) -> VADParams:
    """Write an agent's turn taking for the voice detector."""
    return VADParams(
        confidence=turns.confidence, start_secs=turns.start, stop_secs=turns.stop, min_volume=turns.min_volume
    )
