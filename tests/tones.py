"""How clean a tone arrived: its spectrum, and the steps between its samples. 8 kHz, any amplitude."""

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 8000
PEAK_HZ = 40  # around the tone: the width of the window's main lobe over half a second


def distortion_db(samples: NDArray[np.float64], hz: float) -> float:
    """Say how much is in the sound beside a tone, against the tone: mu-law alone leaves about -38 dB.

    Raises AssertionError when the tone is not the highest peak.
    """
    window = np.blackman(len(samples))
    power = np.abs(np.fft.rfft(samples * window)) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    near = np.abs(frequencies - hz) < PEAK_HZ
    peak = float(frequencies[np.argmax(power)])
    assert abs(peak - hz) < PEAK_HZ, f"the highest peak is at {peak:.0f} Hz"
    return float(10 * np.log10(power[~near].sum() / power[near].sum()))


def largest_jump(samples: NDArray[np.float64]) -> float:
    """Say how far two neighbouring samples are apart, at most."""
    return float(np.abs(np.diff(samples)).max())
