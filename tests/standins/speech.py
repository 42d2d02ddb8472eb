"""The mouth and the ear of the Cartesia stand-in, whichever is plugged in.

`ScriptedSpeech` is exact and costs nothing: it speaks modem tones and hears known recordings. `--speech local` really
speaks and really listens (tests.standins.local_speech). Both block and may be called from two threads at once.
"""

from __future__ import annotations

import audioop
from typing import TYPE_CHECKING, Protocol

from tests.standins import modem
from tests.standins.known_speech import KnownSpeech, load_lexicon

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.standins.known_speech import KnownWord, Recording

RATE_HZ = 8000  # what a mouth produces; the socket converts to what was asked for


class Speech(Protocol):
    """A mouth and an ear."""

    def synthesize(self, text: str, language: str) -> bytes:
        """Speak a text: PCM s16le, 8 kHz mono."""
        ...

    def recognise(self, pcm: bytes, rate_hz: int, language: str) -> str:
        """Return the words in PCM s16le mono; empty when there are none."""
        ...


class ScriptedSpeech:
    """Tones out, known recordings in. A recording in another language than the one asked for is not understood."""

    def __init__(self, recordings: Iterable[Recording] = ()) -> None:
        self._ear = KnownSpeech(recordings)

    @classmethod
    def from_folder(cls, lexicon: Path | None) -> ScriptedSpeech:
        """Use the recordings of a lexicon folder, or none."""
        return cls(load_lexicon(lexicon) if lexicon is not None else ())

    def synthesize(self, text: str, language: str) -> bytes:
        """Say the words as modem tones, in any language."""
        del language
        return modem.encode(text)

    def recognise(self, pcm: bytes, rate_hz: int, language: str) -> str:
        """Return the words that arrived whole."""
        return " ".join(word.text for word in self.hear(pcm, rate_hz, language))

    def hear(self, pcm: bytes, rate_hz: int, language: str) -> list[KnownWord]:
        """Return the words with their times.

        Audio at another rate than 8 kHz is converted, and its samples are then no longer those of the recording:
        nothing is heard. The ear for other rates would go here.
        """
        if rate_hz != RATE_HZ:
            pcm, _ = audioop.ratecv(pcm, 2, 1, rate_hz, RATE_HZ, None)
        wanted = language.partition("-")[0].lower()
        return [word for word in self._ear.hear(pcm) if word.language.partition("-")[0].lower() == wanted]


def spread(text: str, duration_s: float, start_s: float = 0.0) -> tuple[list[str], list[float], list[float]]:
    """Place the words of a text in its audio: words, starts and ends in seconds.

    The shares are those of the modem (exact there) and a fair guess for a voice.
    """
    words = text.split()
    shares = [modem.duration_s(word) for word in words]
    unit = duration_s / sum(shares) if words else 0.0
    starts, ends = [], []
    for share in shares:
        starts.append(round(start_s, 3))
        start_s += share * unit
        ends.append(round(start_s, 3))
    return words, starts, ends
