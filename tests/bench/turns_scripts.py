"""What callers do in the evaluation of turn taking: recorded words, clean, soft, with noise, with pauses. Pure; times in seconds.

Words come from the lexicon of the tests, noise is made here. Each script says when its words are over, so that an ear can be
imitated that understands them as an ear does: also under noise, in which the exact one of the stand-ins hears nothing.
"""

from __future__ import annotations

import audioop
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tests.stack import LEXICON
from tests.standins.known_speech import RATE_HZ, KnownSpeech, load_lexicon

if TYPE_CHECKING:
    from collections.abc import Iterator

Samples = NDArray[np.float64]
Kind = Literal["question", "pause", "answer", "interruption", "backchannel", "noise"]

LEAD_S: Final = 1.0
"""How long the caller is silent before: a line never begins with a word."""

TAIL_S: Final = 4.5
"""How long after: longer than any patience."""

QUESTIONS: Final = ("what-time", "my-code", "hours", "book", "cancel", "remember", "my-appointment", "goodbye")
INTERRUPTIONS: Final = ("interrupt", "wait", "no", "cancel", "what-time")
BACKCHANNELS: Final = ("uh-huh", "okay", "yeah")
ANSWERS: Final = ("yes", "no", "okay")
PAUSES: Final = {"book": (1, 3), "cancel": (1, 2), "remember": (1, 3), "my-appointment": (1, 2)}
"""In which sentences a speaker stops to think, and between the ends of which words."""

PAUSES_S: Final = (0.3, 0.5, 0.8, 1.2)
SNRS_DB: Final = (20, 10, 3)
SOFT_DB: Final = (-10, -18, -24)
NOISE_DBFS: Final = (-40, -30, -20)
AUDIBLE: Final = 0.011
"""Of full scale, -39 dBFS: where a recording begins and ends."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word, and when it is over."""

    text: str
    end_s: float


@dataclass(frozen=True, slots=True)
class Script:
    """One thing a caller does. `begin_s` and `end_s` are its first and last audible samples; `samples` are -1 to 1."""

    kind: Kind
    name: str
    samples: Samples
    words: tuple[Word, ...]
    begin_s: float
    end_s: float

    @property
    def ulaw(self) -> bytes:
        """It as a carrier sends it."""
        pcm = np.clip(np.rint(self.samples * 32767), -32768, 32767).astype("<i2").tobytes()
        return audioop.lin2ulaw(pcm, 2)


def scripts(seed: int = 7) -> list[Script]:
    """Give all scripts; the noise is the same for a seed."""
    rng = np.random.default_rng(seed)
    known = _Lexicon()
    babble = known.babble()
    made: list[Script] = []
    groups: tuple[tuple[Kind, tuple[str, ...]], ...] = (
        ("question", QUESTIONS), ("answer", ANSWERS), ("interruption", INTERRUPTIONS), ("backchannel", BACKCHANNELS),
    )  # fmt: skip
    for kind, names in groups:
        for name in names:
            clean = known.script(kind, name)
            made += [clean, *_softer(clean), *_under_noise(clean, rng, babble)]
    for (name, between), pause_s in itertools.product(PAUSES.items(), PAUSES_S):
        made.append(known.paused(name, between, pause_s))
    return [*made, *_noises(rng, babble, known.backwards("remember"))]


class _Lexicon:
    """The recordings and where their words are."""

    def __init__(self) -> None:
        self._recordings = {each.id: each for each in load_lexicon(LEXICON)}
        self._ear = KnownSpeech(self._recordings.values())

    def script(self, kind: Kind, name: str) -> Script:
        """Make a recording a script."""
        pcm = audioop.ulaw2lin(self._recordings[name].ulaw, 2)
        words = tuple(Word(word.text, word.end_s) for word in self._ear.hear(pcm))
        return _script(kind, name, _samples(pcm), words)

    def paused(self, name: str, between: tuple[int, int], pause_s: float) -> Script:
        """Have a speaker stop to think behind the first words of a sentence, where these border on each other most quietly."""
        pcm = audioop.ulaw2lin(self._recordings[name].ulaw, 2)
        samples, words = _samples(pcm), self._ear.hear(pcm)
        level = np.convolve(np.abs(samples), np.ones(160) / 160, mode="same")
        first, last = between
        middle = range(int(words[first].end_s * RATE_HZ), int(words[last].end_s * RATE_HZ))
        cut = min(middle, key=lambda place: level[place])
        parts = (samples[:cut], np.zeros(int(pause_s * RATE_HZ)), samples[cut:])
        moved = [Word(each.text, each.end_s + pause_s * (each.end_s > cut / RATE_HZ)) for each in words]
        return _script("pause", f"{name}, {pause_s} s behind its first words", np.concatenate(parts), tuple(moved))

    def backwards(self, name: str) -> Samples:
        """Give somebody who says nothing that could be understood."""
        return _samples(audioop.ulaw2lin(self._recordings[name].ulaw, 2))[::-1]

    def babble(self) -> Samples:
        """Give ten seconds of many people: recordings backwards, over each other."""
        length = 10 * RATE_HZ
        mixed = np.zeros(length)
        for number, each in enumerate(self._recordings.values()):
            mixed += np.roll(np.resize(self.backwards(each.id), length), 3000 * number)
        return _at_rms(mixed, 1.0)


def _script(kind: Kind, name: str, samples: Samples, words: tuple[Word, ...]) -> Script:
    padded = np.concatenate([np.zeros(int(LEAD_S * RATE_HZ)), samples, np.zeros(int(TAIL_S * RATE_HZ))])
    loud = np.flatnonzero(np.abs(padded) > AUDIBLE)
    later = tuple(Word(each.text, each.end_s + LEAD_S) for each in words)
    return Script(kind, name, padded, later, loud[0] / RATE_HZ, (loud[-1] + 1) / RATE_HZ)


def _softer(script: Script) -> Iterator[Script]:
    for db in SOFT_DB:
        yield replace(script, name=f"{script.name}, {db} dB", samples=script.samples * _factor(db))


def _under_noise(script: Script, rng: np.random.Generator, babble: Samples) -> Iterator[Script]:
    begin, end = int(script.begin_s * RATE_HZ), int(script.end_s * RATE_HZ)
    speech = float(np.sqrt(np.mean(script.samples[begin:end] ** 2)))
    for kind, db in itertools.product(("white", "babble"), SNRS_DB):
        length = len(script.samples)
        noise = rng.standard_normal(length) if kind == "white" else np.resize(babble, length)
        mixed = script.samples + noise * speech * _factor(-db)
        yield replace(script, name=f"{script.name}, {kind} {db} dB below", samples=mixed)


def _noises(rng: np.random.Generator, babble: Samples, voice: Samples) -> Iterator[Script]:
    at = np.arange(2 * RATE_HZ) / RATE_HZ
    ring = np.sin(2 * np.pi * 440 * at) + np.sin(2 * np.pi * 480 * at)
    sounds = {
        "white": rng.standard_normal(2 * RATE_HZ),
        "babble": babble[:RATE_HZ],
        "someone in the background": babble[RATE_HZ : RATE_HZ + RATE_HZ // 2],
        "ringing": ring,
        "half a second of a television": voice[: RATE_HZ // 2],
        "a television": voice,
        "coughing": _cough(rng),
    }
    for (name, sound), dbfs in itertools.product(sounds.items(), NOISE_DBFS):
        yield _noise(f"{name}, {dbfs} dBFS", _at_rms(sound, _factor(dbfs)))


def _noise(name: str, samples: Samples) -> Script:
    padded = np.concatenate([np.zeros(int(LEAD_S * RATE_HZ)), samples, np.zeros(int(TAIL_S * RATE_HZ))])
    return Script("noise", name, padded, (), LEAD_S, LEAD_S + len(samples) / RATE_HZ)


def _cough(rng: np.random.Generator) -> Samples:
    """Two bursts of noise that resounds at some 500 Hz, as a throat does."""
    at = np.arange(int(0.25 * RATE_HZ)) / RATE_HZ
    resounds = np.exp(-at * 120) * np.sin(2 * np.pi * 500 * at)
    burst = np.convolve(rng.standard_normal(len(at)) * np.exp(-at * 14), resounds)[: len(at)]
    return np.concatenate([burst, np.zeros(int(0.12 * RATE_HZ)), burst * 0.8])


def _samples(pcm: bytes) -> Samples:
    return np.frombuffer(pcm, dtype="<i2").astype(np.float64) / 32768


def _at_rms(samples: Samples, rms: float) -> Samples:
    return np.asarray(samples * (rms / float(np.sqrt(np.mean(samples**2)))), dtype=np.float64)


def _factor(db: float) -> float:
    return float(10 ** (db / 20))
