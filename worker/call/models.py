"""The local models of a worker, loaded in the zygote: the voice detector and the one that tells a pause from an end."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from loguru import logger as pipecat_log
from pipecat.audio.turn.smart_turn.base_smart_turn import SmartTurnParams
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams, VADState

from shared.turns import Turns
from worker.call.playout import RATE

SAMPLE_BYTES: Final = 2


@dataclass(frozen=True, slots=True)
class Models:
    """Every fork has its own copy of their state; the weights are shared."""

    vad: SileroVADAnalyzer
    turn: LocalSmartTurnAnalyzerV3

    def use(self, turns: Turns) -> None:
        """Take what an agent wants of them, before a call."""
        self.vad.set_params(vad_params(turns))
        self.turn._params.stop_secs = turns.patience  # noqa: SLF001 - it has no setter,
        self.turn._stop_ms = turns.patience * 1000  # noqa: SLF001 - and keeps it in two places

    def voice_after(self, pcm: bytes) -> VADState:
        """Look at the next piece of audio and say whether somebody speaks; at once, 0.1 ms for 32 ms of sound."""
        return self.vad._run_analyzer(pcm)  # noqa: SLF001 - the public way takes a thread, for 2.5 times the CPU


def load_models() -> Models:
    """Load the models and run each once, without starting a thread: for the zygote."""
    pipecat_log.remove()
    vad = SileroVADAnalyzer(sample_rate=RATE, params=vad_params(Turns()))
    turn = LocalSmartTurnAnalyzerV3(sample_rate=RATE, params=SmartTurnParams())
    vad.set_sample_rate(RATE)
    turn.set_sample_rate(RATE)
    vad.voice_confidence(bytes(SAMPLE_BYTES * vad.num_frames_required()))
    vad._model.reset_states()  # type: ignore[no-untyped-call]  # noqa: SLF001 - the rehearsal must leave no trace in a caller's stream
    turn._predict_endpoint(np.zeros(RATE, dtype=np.float32))  # noqa: SLF001 - as above, without its thread
    return Models(vad, turn)


def vad_params(turns: Turns) -> VADParams:
    """Write an agent's turn taking for the voice detector."""
    return VADParams(
        confidence=turns.confidence, start_secs=turns.start, stop_secs=turns.stop, min_volume=turns.min_volume
    )
