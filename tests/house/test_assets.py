import audioop
import math
import tomllib
from pathlib import Path

import pytest

from shared.clips import load_clip, load_manifest
from tests.data.render import vad_events
from tests.standins.known_speech import KnownSpeech, load_lexicon

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "audio_assets"
SPEECH = ROOT / "tests" / "data" / "speech"
OTHER_CLIPS = ROOT / "tests" / "data" / "clips"
CLIP_IDS = ["greeting", "hold", "bridging", "apology", "goodbye"]
RECORDINGS = [row["id"] for row in tomllib.loads((SPEECH / "lexicon.toml").read_text(encoding="utf-8"))["recording"]]
FRAME = 160  # 20 ms
QUIET = 260  # of 32767: -42 dBFS


def silence_ms(ulaw: bytes) -> tuple[int, int]:
    """Measure silence at both ends, in steps of 5 ms."""
    pcm = audioop.ulaw2lin(ulaw, 2)
    loud = [start for start in range(0, len(pcm), 80) if audioop.max(pcm[start : start + 80], 2) > QUIET]
    return loud[0] // 16, (len(pcm) - loud[-1] - 80) // 16


def test_the_shipped_clips_pass_the_check_made_at_start() -> None:
    assert set(CLIP_IDS) <= load_manifest(ASSETS).keys()


def test_every_file_in_the_assets_has_a_row() -> None:
    named = {row["file"] for row in tomllib.loads((ASSETS / "manifest.toml").read_text(encoding="utf-8"))["clip"]}
    assert {path.name for path in ASSETS.iterdir()} == named | {"manifest.toml", "README.md"}


@pytest.mark.parametrize("clip_id", CLIP_IDS)
def test_a_shipped_clip_is_loud_trimmed_and_in_whole_frames(clip_id: str) -> None:
    clip = load_manifest(ASSETS)[clip_id]
    assert clip.language == "en"
    assert len(clip.audio) % FRAME == 0
    assert -3.5 < 20 * math.log10(audioop.max(audioop.ulaw2lin(clip.audio, 2), 2) / 32767) < -2.5
    assert max(silence_ms(clip.audio)) <= 40


def test_clips_are_as_long_as_what_they_are_for() -> None:
    clips = load_manifest(ASSETS)
    assert 4000 <= clips["greeting"].duration_ms <= 6000
    assert clips["bridging"].duration_ms <= 1500
    assert clips["goodbye"].duration_ms <= 2500
    assert max(clip.duration_ms for clip in clips.values()) <= 6000


def test_the_readme_describes_every_clip() -> None:
    text = (ASSETS / "README.md").read_text(encoding="utf-8")
    assert [clip_id for clip_id in load_manifest(ASSETS) if f"`{clip_id}`" not in text] == []


def test_the_clips_of_other_languages_that_tests_use_are_sound() -> None:
    assert load_manifest(OTHER_CLIPS)["greeting-pt"].language == "pt-BR"


def test_every_recording_has_a_row_and_every_row_a_recording() -> None:
    assert len(set(RECORDINGS)) == len(RECORDINGS)
    assert {path.stem for path in SPEECH.glob("*.ulaw")} == set(RECORDINGS)


def test_both_languages_can_ask_interrupt_and_leave() -> None:
    for ids in ({"what-time", "my-code", "interrupt", "goodbye"}, {"pt-hours", "pt-code", "pt-interrupt", "pt-bye"}):
        assert ids <= set(RECORDINGS)


@pytest.mark.parametrize("recording", RECORDINGS)
def test_a_recording_is_trimmed_and_in_whole_frames(recording: str) -> None:
    clip = load_clip(SPEECH / f"{recording}.ulaw")
    assert len(clip.audio) % FRAME == 0
    assert max(silence_ms(clip.audio)) <= 60


@pytest.mark.parametrize("recording", RECORDINGS)
def test_the_voice_detector_hears_one_stretch_of_speech_in_a_recording(recording: str) -> None:
    """By the models' own clock, not ours: the times are positions in the audio.

    At confidence alone speech is noticed within 300 ms. Pipecat's volume gate (0.6) smooths over windows of 400 ms and
    notices it up to 150 ms later.
    """
    audio = load_clip(SPEECH / f"{recording}.ulaw").audio
    confident, gated = vad_events(audio, min_volume=0.0), vad_events(audio)
    assert len(gated) == 2
    assert confident[0][1] <= 300
    assert gated[0][1] <= 450
    assert gated[1][1] > len(audio) // 8


def test_the_scripted_ear_hears_every_recording_word_for_word() -> None:
    recordings = load_lexicon(SPEECH)
    ear = KnownSpeech(recordings)
    for recording in recordings:
        heard = ear.hear(audioop.ulaw2lin(b"\xff" * 777 + recording.ulaw + b"\xff" * 500, 2))
        assert " ".join(word.text for word in heard) == recording.text


def test_all_audio_together_stays_small() -> None:
    files = [*ASSETS.glob("*.ulaw"), *SPEECH.glob("*.ulaw"), *OTHER_CLIPS.glob("*.ulaw")]
    assert sum(path.stat().st_size for path in files) < 1_500_000
