"""The ear that knows its recordings: which words arrived, and nothing that did not."""

from __future__ import annotations

import audioop
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.standins.known_speech import KnownSpeech, Recording, load_lexicon
from tests.standins.speech import ScriptedSpeech, spread

if TYPE_CHECKING:
    from pathlib import Path

FRAME = 160  # mu-law bytes, 20 ms


def recording(id_: str, text: str, language: str = "en", seed: int = 0) -> Recording:
    """Noise with a syllable for each word, and silence before and after."""
    rng = np.random.default_rng([seed, *id_.encode()])
    syllables = [np.hanning(400 + 480 * len(word)) * 8000 for word in text.split()]
    sound = np.concatenate([np.zeros(400), *syllables, np.zeros(400)])
    pcm = (sound * rng.uniform(-1, 1, len(sound))).astype("<i2").tobytes()
    return Recording(id_, text, language, audioop.lin2ulaw(pcm, 2))


TIME = recording("what-time", "What time is it please?")
CODE = recording("my-code", "What is my reference code?")
HOURS = recording("pt-hours", "Que horas são, por favor?", "pt-BR")
EAR = KnownSpeech([TIME, CODE, HOURS])


def pcm(ulaw: bytes) -> bytes:
    return audioop.ulaw2lin(ulaw, 2)


def heard(ulaw: bytes) -> str:
    return " ".join(word.text for word in EAR.hear(pcm(ulaw)))


@given(lead=st.integers(0, 9000), order=st.permutations([TIME, CODE, HOURS, TIME]))
@settings(max_examples=15, deadline=None)
def test_recordings_are_heard_in_the_order_they_were_spoken(lead: int, order: list[Recording]) -> None:
    audio = b"\xff" * lead + (b"\xff" * 1000).join(one.ulaw for one in order)
    assert heard(audio) == " ".join(one.text for one in order)


def test_a_word_says_when_it_was_spoken() -> None:
    words = EAR.hear(pcm(b"\xff" * 8000 + TIME.ulaw))
    assert words[0].start_s == pytest.approx(1.05, abs=0.05)
    assert words[-1].end_s == pytest.approx(1.0 + len(TIME.ulaw) / 8000 - 0.05, abs=0.05)
    assert [word.index for word in words] == [0, 1, 2, 3, 4]


def test_a_lost_frame_loses_at_most_its_word() -> None:
    words = CODE.text.split()
    lost = set()
    for at in range(0, len(CODE.ulaw) - FRAME, FRAME):
        left = heard(CODE.ulaw[:at] + CODE.ulaw[at + FRAME :]).split()
        assert len(left) >= len(words) - 1
        assert left == [word for word in words if word in left]
        lost |= set(words) - set(left)
    assert lost == set(words)


def test_a_recording_cut_off_is_heard_as_far_as_it_went() -> None:
    assert heard(TIME.ulaw[: len(TIME.ulaw) // 2]) in ("What time", "What time is")


def test_what_is_not_in_the_lexicon_is_no_word() -> None:
    stranger = recording("stranger", "something else entirely", seed=7)
    assert heard(stranger.ulaw) == ""
    assert heard(stranger.ulaw + TIME.ulaw + stranger.ulaw) == TIME.text
    assert heard(b"") == heard(b"\xff" * 16000) == ""
    assert KnownSpeech([]).hear(pcm(TIME.ulaw)) == []


def test_a_language_that_was_not_asked_for_is_not_understood() -> None:
    speech = ScriptedSpeech([TIME, HOURS])
    both = pcm(TIME.ulaw + HOURS.ulaw)
    assert speech.recognise(both, 8000, "en") == TIME.text
    assert speech.recognise(both, 8000, "pt") == HOURS.text
    assert speech.recognise(both, 16000, "en") == ""


def test_a_recording_that_could_never_be_heard_is_refused() -> None:
    with pytest.raises(ValueError, match="short: too short or too quiet for 3 words"):
        KnownSpeech([Recording("short", "one two three", "en", TIME.ulaw[2000:2200])])
    with pytest.raises(ValueError, match="silent: too short or too quiet"):
        KnownSpeech([Recording("silent", "one", "en", b"\xff" * 8000)])
    quiet = audioop.lin2ulaw(audioop.mul(pcm(TIME.ulaw), 2, 0.01), 2)
    with pytest.raises(ValueError, match="quiet: 'What' is too quiet"):
        KnownSpeech([Recording("quiet", TIME.text, "en", quiet)])


def test_a_lexicon_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "lexicon.toml").write_text('[[recording]]\nid = "what-time"\ntext = "What time"\nlanguage = "en"\n')
    (tmp_path / "what-time.ulaw").write_bytes(TIME.ulaw)
    assert load_lexicon(tmp_path) == [Recording("what-time", "What time", "en", TIME.ulaw)]
    assert ScriptedSpeech.from_folder(tmp_path).recognise(pcm(TIME.ulaw), 8000, "en-US") == "What time"


def test_words_are_spread_over_their_audio_in_order() -> None:
    words, starts, ends = spread("Olá tudo bem", 1.5, start_s=2.0)
    assert words == ["Olá", "tudo", "bem"]
    assert starts[0] == 2.0
    assert ends[-1] == pytest.approx(3.5)
    assert starts[1:] == ends[:-1]
    assert spread("  ", 1.0) == ([], [], [])
