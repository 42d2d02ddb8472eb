"""A recogniser for recordings it knows: exact, instant, and honest about what did not arrive.

What a speech service gets from a phone call at 8 kHz is the G.711 expansion of the very bytes the caller sent, so a
recording can be found by its samples. Each word owns a stretch of its recording; the loudest 30 ms of that stretch
must be there, sample for sample, for the word to be heard. A lost frame therefore loses its words and no others,
and audio that is not in the lexicon is no words at all.
"""

from __future__ import annotations

import audioop
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

RATE_HZ = 8000
NEEDLE = 240  # samples, 30 ms: touches at most three 20 ms frames, and is unique in anything but a pure tone
ANCHOR = 4  # consecutive samples by which the places of needles are looked up, 64 bits
SPEECH_LEVEL = 0.05  # of the recording's peak: below is the silence before and after it
QUIET_PEAK = 500  # of 32767: audio that never gets louder holds no word of ours

Samples = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Recording:
    """What was recorded. `ulaw` is headerless 8 kHz mono mu-law; the language is written `en` or `pt-BR`."""

    id: str
    text: str
    language: str
    ulaw: bytes


@dataclass(frozen=True, slots=True)
class KnownWord:
    """One word that was heard: of which recording, which word of it, when (seconds into the audio)."""

    text: str
    recording: str
    index: int
    language: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class _Needle:
    word: KnownWord  # its times are those within the recording
    samples: bytes
    offset: int  # sample of the recording at which the needle begins
    anchor: int  # sample of the needle at which its anchor begins


def load_lexicon(folder: Path) -> list[Recording]:
    """Read `lexicon.toml` (one array of tables with id, text, language) and `<id>.ulaw` beside it."""
    tables = tomllib.loads((folder / "lexicon.toml").read_text(encoding="utf-8"))
    return [
        Recording(row["id"], row["text"], row["language"], (folder / f"{row['id']}.ulaw").read_bytes())
        for rows in tables.values()
        if isinstance(rows, list)
        for row in rows
    ]


class KnownSpeech:
    """Finds the words of known recordings in PCM s16le, 8 kHz mono. Safe to use from several threads.

    Raises:
        ValueError: a recording is too short or too quiet for the number of its words.
    """

    def __init__(self, recordings: Iterable[Recording]) -> None:
        needles = [needle for recording in recordings for needle in _needles(recording)]
        self._by_anchor: dict[int, list[_Needle]] = {}
        self._first = np.zeros(1 << 16, dtype=np.bool_)
        for needle in needles:
            anchor = np.frombuffer(needle.samples, dtype="<u2")[needle.anchor : needle.anchor + ANCHOR]
            self._first[anchor[0]] = True
            self._by_anchor.setdefault(int(_keys(anchor, np.zeros(1, dtype=np.intp))[0]), []).append(needle)
        self._anchors = np.array(sorted(self._by_anchor), dtype=np.uint64)

    def hear(self, pcm: bytes) -> list[KnownWord]:
        """Return the words in the order in which they were spoken."""
        pcm = pcm[: len(pcm) // 2 * 2]
        samples = np.frombuffer(pcm, dtype="<i2")
        if len(samples) < NEEDLE or not len(self._anchors) or np.abs(samples, dtype=np.int32).max() < QUIET_PEAK:
            return []
        found: list[tuple[int, KnownWord]] = []
        for place, key in self._places(samples.view("<u2")):
            for needle in self._by_anchor[key]:
                start = place - needle.anchor
                if start >= 0 and pcm.startswith(needle.samples, 2 * start):
                    found.append((start, _placed(needle, start)))
        return [word for _, word in sorted(found, key=lambda item: item[0])]

    def _places(self, samples: NDArray[np.uint16]) -> list[tuple[int, int]]:
        """Return where an anchor stands, and which: few samples pass the first look, so the second may cost more."""
        at = np.flatnonzero(self._first[samples[: 1 - ANCHOR]])
        keys = _keys(samples, at)
        index = np.minimum(np.searchsorted(self._anchors, keys), len(self._anchors) - 1)
        hit = self._anchors[index] == keys
        return list(zip(at[hit].tolist(), keys[hit].tolist(), strict=True))


def _keys(samples: NDArray[np.uint16], at: NDArray[np.intp]) -> NDArray[np.uint64]:
    """Pack the ANCHOR samples from each place into one number."""
    keys = np.zeros(len(at), dtype=np.uint64)
    for index in range(ANCHOR):
        keys = keys << np.uint64(16) | samples[at + index].astype(np.uint64)
    return keys


def _placed(needle: _Needle, start: int) -> KnownWord:
    """Give the word its times in the audio in which its needle was found."""
    shift = (start - needle.offset) / RATE_HZ
    word = needle.word
    return KnownWord(
        word.text, word.recording, word.index, word.language, max(0.0, word.start_s + shift), word.end_s + shift
    )


def _needles(recording: Recording) -> list[_Needle]:
    pcm = audioop.ulaw2lin(recording.ulaw, 2)
    samples: Samples = np.frombuffer(pcm, dtype="<i2")
    level = np.abs(samples.astype(np.float64))
    loud = np.flatnonzero(level > max(SPEECH_LEVEL * level.max(initial=0.0), 1.0))
    words = recording.text.split()
    if not len(loud) or loud[-1] - loud[0] < len(words) * NEEDLE:
        raise ValueError(f"{recording.id}: too short or too quiet for {len(words)} words")
    shares = np.cumsum([0, *(len(word) + 1 for word in words)], dtype=np.float64)
    edges = (loud[0] + (loud[-1] + 1 - loud[0]) * shares / shares[-1]).astype(int)
    energy = np.concatenate([[0.0], np.cumsum(level**2)])
    needles = []
    for index, word in enumerate(words):
        start, end = int(edges[index]), int(edges[index + 1])
        span = max(1, end - start - NEEDLE)
        offset = min(start + int(np.argmax(energy[start + NEEDLE :][:span] - energy[start:][:span])), end - NEEDLE)
        needle = level[offset : offset + NEEDLE]
        if offset < 0 or needle.max() < QUIET_PEAK:
            raise ValueError(f"{recording.id}: {word!r} is too quiet to be told from silence")
        anchor = min(int(np.argmax(needle)), NEEDLE - ANCHOR)
        known = KnownWord(word, recording.id, index, recording.language, start / RATE_HZ, end / RATE_HZ)
        needles.append(_Needle(known, pcm[2 * offset : 2 * (offset + NEEDLE)], offset, anchor))
    return needles
