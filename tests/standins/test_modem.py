"""The modem: what was said as tones is heard through a telephone line, and nothing else is."""

from __future__ import annotations

import audioop

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.standins import modem

SILENT = b"\xff"
WORDS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=8), min_size=1, max_size=5
)


def line(text: str) -> bytes:
    """What the far end of a telephone line gets."""
    return audioop.lin2ulaw(modem.encode(text), 2)


def texts(ulaw: bytes) -> list[str]:
    return [word.text for word in modem.decode(ulaw)]


@given(words=WORDS, lead=st.integers(0, 500), chunk=st.integers(1, 50), pad=st.integers(0, 400))
@settings(max_examples=40, deadline=None)
def test_words_are_heard_through_silence_before_and_between_chunks(
    words: list[str], lead: int, chunk: int, pad: int
) -> None:
    audio = line(" ".join(words))
    size = chunk * 160
    chunks = [audio[at : at + size] for at in range(0, len(audio), size)]
    assert texts(SILENT * lead + (SILENT * max(pad, 24) if pad else b"").join(chunks)) == words


def test_portuguese_words_keep_their_accents() -> None:
    assert texts(line("Você disse: são três horas, tchau!")) == ["Você", "disse:", "são", "três", "horas,", "tchau!"]


def test_a_word_says_when_it_was_played() -> None:
    audio = SILENT * 8000 + line("one two")
    one, two = modem.decode(audio)
    assert one.start_s == pytest.approx(1.0, abs=0.005)
    assert two.start_s == pytest.approx(1.0 + modem.duration_s("one"), abs=0.005)
    assert two.end_s == pytest.approx(len(audio) / 8000 - 0.04, abs=0.01)


def test_a_word_cut_off_at_any_place_is_not_a_word() -> None:
    audio = line("yes goodbye")
    last = len(line("yes")) + int(8000 * (modem.duration_s("goodbye") - 0.04))
    for end in range(len(line("yes")), last - 120, 160):
        assert texts(audio[:end]) == ["yes"]
        assert texts(audio[:end] + SILENT * 4000 + line("after")) == ["yes", "after"]


def test_a_lost_frame_loses_its_word_and_no_other() -> None:
    audio = line("first second third")
    hole = len(line("first")) + 800
    assert texts(audio[:hole] + audio[hole + 160 :]) == ["first", "third"]


def test_a_frame_of_another_value_of_silence_is_silence_too() -> None:
    audio = line("hello")
    assert texts(audio[:500] + b"\x7f" * 320 + audio[500:]) == ["hello"]


@pytest.mark.parametrize("seed", range(5))
def test_noise_hums_and_voices_are_not_words(seed: int) -> None:
    rng = np.random.default_rng(seed)
    time_s = np.arange(8000 * 20) / 8000
    pitch = 2 * np.pi * np.cumsum(120 + 60 * np.sin(time_s * 3 + seed)) / 8000
    voice = sum(np.sin(pitch * harmonic) / harmonic for harmonic in range(1, 25))
    siren = np.sin(2 * np.pi * np.cumsum(1800 + 1500 * np.sin(time_s)) / 8000)
    noise = rng.normal(0, 1, len(time_s))
    for sound in (voice, siren, noise, voice + noise):
        pcm = (6000 * sound / np.abs(sound).max()).astype("<i2").tobytes()
        assert texts(audioop.lin2ulaw(pcm, 2)) == []
        assert texts(audioop.lin2ulaw(pcm, 2) + line("still heard")) == ["still", "heard"]


@pytest.mark.parametrize("rate", [16000, 22050, 24000, 44100, 48000])
def test_words_survive_another_sample_rate(rate: int) -> None:
    import soxr  # only here: costs a shared library

    samples = np.frombuffer(modem.encode("there and back"), dtype="<i2")
    back = soxr.resample(soxr.resample(samples, 8000, rate), rate, 8000)
    assert texts(audioop.lin2ulaw(back.astype("<i2").tobytes(), 2)) == ["there", "and", "back"]


@pytest.mark.parametrize("audio", [b"", b"\xff", b"\x10" * 239, b"\x00" * 5000])
def test_next_to_nothing_is_no_word(audio: bytes) -> None:
    assert texts(audio) == []
