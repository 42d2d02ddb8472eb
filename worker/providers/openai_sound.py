"""The sound of a vendor that speaks at 24 kHz, brought to the 8 kHz of a telephone as it comes. Pure.

One conversion runs through all pieces of an answer, however they are cut, so that there is no click at their borders. Its last
20 ms come with `rest`.

Source: OpenAI API reference, "Create speech" (`pcm` is 24 kHz, 16 bits, little endian, without a header).
"""

from typing import Final

import numpy as np
import soxr

VENDOR_HZ: Final = 24_000
SAMPLE_BYTES: Final = 2
_NOTHING: Final = np.zeros(0, dtype=np.int16)


class Converter:
    """Converts one answer to `rate_hz`."""

    def __init__(self, rate_hz: int) -> None:
        self._stream = soxr.ResampleStream(VENDOR_HZ, rate_hz, 1, dtype="int16", quality="HQ")
        self._half = b""

    def take(self, sound: bytes) -> bytes:
        """Convert what came, which may end in the middle of a sample."""
        sound = self._half + sound
        whole = len(sound) - len(sound) % SAMPLE_BYTES
        self._half = sound[whole:]
        return self._convert(np.frombuffer(sound[:whole], dtype="<i2"), last=False)

    def rest(self) -> bytes:
        """Give the end; half a sample is none."""
        return self._convert(_NOTHING, last=True)

    def _convert(self, samples: "np.ndarray[tuple[int], np.dtype[np.int16]]", *, last: bool) -> bytes:
        converted: np.ndarray[tuple[int], np.dtype[np.int16]] = self._stream.resample_chunk(samples, last=last)
        return converted.astype("<i2").tobytes()
