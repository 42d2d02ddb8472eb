"""Words as tones: lets a carrier stand-in hear exactly which words were played, without recognising speech.

Line code, 8 kHz: a word is an opening tone, two tones for each UTF-8 byte (high nibble first), a closing tone, and
40 ms of silence; every tone lasts 30 ms. All frequencies are whole multiples of 1/30 ms, so the tones are orthogonal
over one symbol. A word without its closing tone was cut off (a barge-in) and is not a word. Runs of digital silence
are taken out before decoding: an underrun in the middle of a tone delays a word but does not destroy it, as with speech.
"""

from __future__ import annotations

import audioop
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 8000
SYMBOL = 240  # samples, 30 ms: one bin of a transform over it is 33.3 Hz wide
SILENCE = 320  # samples, 40 ms after each word
FADE = 16  # samples, 2 ms: no clicks, and next to no energy in the neighbouring bins
AMPLITUDE = 9000  # of 32767: as loud as a moderate voice
NIBBLE_BINS = 15 + 4 * np.arange(16)  # 500 Hz to 2500 Hz, 133 Hz apart
OPEN_BIN, CLOSE_BIN = 90, 98  # 3000 Hz, 3267 Hz: inside the telephone band, above all nibbles
PURE = 0.8  # share of a symbol's energy in its own bin; measured: tones > 0.95 after mu-law, speech and noise < 0.5
LONGEST = 2 * 64  # nibbles; nothing we say has a word of more than 64 bytes
HOP = 60  # samples between the windows searched for an opening tone; the exact place is found afterwards
FLOOR = 16  # no sample of a tone is nearer to zero, so that a zero on the line is always silence put in between
QUIET_RUN = 24  # samples (3 ms) of exact zero are silence and not the zero crossing of a tone

Samples = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HeardWord:
    """A whole word and when it was heard, in seconds from the first sample given to `decode`."""

    text: str
    start_s: float
    end_s: float


def encode(text: str) -> bytes:
    """Say the words of a text: PCM s16le, 8 kHz mono, (70 + 60 per byte + 30) ms a word."""
    silence = np.zeros(SILENCE)
    pieces = [piece for word in text.split() for piece in (*map(_tone, _bins(word)), silence)]
    return np.concatenate(pieces or [silence]).astype("<i2").tobytes()


def duration_s(word: str) -> float:
    """Say how long `encode` takes for one word, the silence after it included."""
    return (len(_bins(word)) * SYMBOL + SILENCE) / RATE_HZ


def decode(ulaw: bytes) -> list[HeardWord]:
    """Find the words in what a phone played: 8 kHz mu-law from any offset, other audio and silence around them."""
    heard = _expansion()[np.frombuffer(ulaw, dtype=np.uint8)]
    places = np.flatnonzero(~_silent(heard))
    # The fade at the end of a tone went with the silence behind it: the last symbol may be a few samples short.
    signal = np.append(heard[places], np.zeros(SYMBOL))
    words: list[HeardWord] = []
    at = 0
    for start in _starts(signal, places):
        if start < at:
            continue
        text, end = _read_word(signal, start)
        if text is not None:
            words.append(HeardWord(text, _time_s(places, start + FADE) - FADE / RATE_HZ, _time_s(places, end - FADE)))
            at = end - SYMBOL // 2  # a start found some samples late must not hide the next word
    return words


def _time_s(places: NDArray[np.intp], index: int) -> float:
    """Return when a sample of the squeezed signal was played."""
    return float(places[min(index, len(places) - 1)]) / RATE_HZ


def _bins(word: str) -> list[int]:
    nibbles = [half for byte in word.encode() for half in (byte >> 4, byte & 15)]
    return [OPEN_BIN, *(int(NIBBLE_BINS[nibble]) for nibble in nibbles), CLOSE_BIN]


@cache
def _tone(bin_: int) -> Samples:
    fade = np.sin(np.linspace(0, np.pi / 2, FADE)) ** 2
    shape = np.concatenate([fade, np.ones(SYMBOL - 2 * FADE), fade[::-1]])
    wave = AMPLITUDE * shape * np.sin(2 * np.pi * bin_ * np.arange(SYMBOL) / SYMBOL)
    return np.where(np.abs(wave) < FLOOR, np.where(np.arange(SYMBOL) % 2, FLOOR, -FLOOR), wave)


@cache
def _expansion() -> Samples:
    """Return what each of the 256 mu-law bytes stands for."""
    return np.frombuffer(audioop.ulaw2lin(bytes(range(256)), 2), dtype="<i2").astype(np.float64)


@cache
def _probes() -> NDArray[np.complex128]:
    """Return one column per bin the code uses: the nibbles, then opening and closing tone."""
    bins = np.append(NIBBLE_BINS, [OPEN_BIN, CLOSE_BIN])
    return np.asarray(np.exp(-2j * np.pi * np.outer(np.arange(SYMBOL), bins) / SYMBOL))


def _silent(signal: Samples) -> NDArray[np.bool_]:
    """Mark the samples that belong to a run of at least QUIET_RUN near-zero samples."""
    quiet = np.concatenate([[False], signal == 0, [False]])
    edges = np.flatnonzero(quiet[1:] != quiet[:-1]).reshape(-1, 2)
    marked = np.zeros(len(signal) + 1, dtype=np.int8)
    long_runs = edges[edges[:, 1] - edges[:, 0] >= QUIET_RUN]
    marked[long_runs[:, 0]] = 1
    marked[long_runs[:, 1]] = -1
    return np.asarray(np.cumsum(marked[:-1]) > 0)


def _starts(signal: Samples, places: NDArray[np.intp]) -> list[int]:
    """Return where words may start, in order: in the middle of sound, and after each silence that was taken out.

    The silences matter after a barge-in: two opening tones side by side are one long tone without a beginning.
    """
    if len(signal) < 2 * SYMBOL:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(signal, SYMBOL)[::HOP]
    found = np.abs(windows @ _probes()[:, -2]) ** 2 * 2 / SYMBOL
    energy = np.einsum("ij,ij->i", windows, windows)
    near = np.flatnonzero(found > 0.5 * energy + 1.0) * HOP
    after_silence = np.flatnonzero(np.diff(places) > 1) + 1
    return sorted({*(_exact_start(signal, int(place)) for place in near), *map(int, after_silence)})


def _exact_start(signal: Samples, near: int) -> int:
    """Slide around a rough place; the opening tone begins where its energy is greatest."""
    first = max(0, near - HOP)
    span = signal[first : near + HOP + SYMBOL]
    turned = span * np.exp(-2j * np.pi * OPEN_BIN * np.arange(len(span)) / SYMBOL)
    total = np.concatenate([[0], np.cumsum(turned)])
    return first + int(np.argmax(np.abs(total[SYMBOL:] - total[:-SYMBOL])))


def _read_word(signal: Samples, start: int) -> tuple[str | None, int]:
    """Read the symbols after an opening tone; the text is None unless a closing tone ended whole UTF-8 characters."""
    count = min((len(signal) - start) // SYMBOL, LONGEST + 2)
    symbols = signal[start : start + SYMBOL * count].reshape(-1, SYMBOL)
    energy = np.einsum("ij,ij->i", symbols, symbols)
    share = np.abs(symbols @ _probes()) ** 2 * 2 / SYMBOL / np.maximum(energy, 1.0)[:, None]
    best, purity = share.argmax(axis=1), share.max(axis=1)
    if not len(best) or best[0] != len(NIBBLE_BINS) or purity[0] < PURE:
        return None, start
    nibbles: list[int] = []
    for index in range(1, len(best)):
        if purity[index] < PURE or best[index] == len(NIBBLE_BINS):
            break
        if best[index] > len(NIBBLE_BINS):
            return _text(nibbles), start + (index + 1) * SYMBOL
        nibbles.append(int(best[index]))
    return None, start


def _text(nibbles: list[int]) -> str | None:
    if not nibbles or len(nibbles) % 2:
        return None
    try:
        return bytes(high << 4 | low for high, low in zip(nibbles[::2], nibbles[1::2], strict=True)).decode()
    except UnicodeDecodeError:
        return None
