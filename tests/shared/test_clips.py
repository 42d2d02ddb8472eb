import audioop
import hashlib
import io
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shared.clips import RATE_HZ, Clip, load_clip, load_manifest, wav
from shared.errors import ClipError

Row = dict[str, object]


def tone(seconds: float, rate_hz: int = RATE_HZ, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def ulaw(samples: np.ndarray) -> bytes:
    return audioop.lin2ulaw((samples * 32767).astype("<i2").tobytes(), 2)


def row(path: Path, **changed: object) -> Row:
    fields: Row = {
        "id": path.stem,
        "file": path.name,
        "text": "Hello.",
        "language": "en",
        "voice": "a sine",
        "duration_ms": 500,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "0" * 64,
        "licence": "CC0-1.0",
    }
    return fields | changed


def write_manifest(folder: Path, *rows: Row) -> None:
    lines = []
    for fields in rows:
        lines.append("[[clip]]")
        lines += [
            f"{key} = {value}" if isinstance(value, int) else f'{key} = "{value}"' for key, value in fields.items()
        ]
    (folder / "manifest.toml").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def beep(tmp_path: Path) -> Path:
    path = tmp_path / "beep.ulaw"
    path.write_bytes(ulaw(tone(0.5)))
    return path


def problems(folder: Path) -> list[str]:
    with pytest.raises(ClipError) as caught:
        load_manifest(folder)
    return str(caught.value).splitlines()


def test_a_headerless_clip_is_loaded_byte_for_byte(beep: Path) -> None:
    write_manifest(beep.parent, row(beep, text="Olá.", language="pt-BR"))
    clip = load_manifest(beep.parent)["beep"]
    assert clip == Clip("beep", "Olá.", "pt-BR", "a sine", 500, beep.read_bytes(), "CC0-1.0")


def test_the_manifest_cannot_be_changed_after_loading(beep: Path) -> None:
    write_manifest(beep.parent, row(beep))
    clips = load_manifest(beep.parent)
    with pytest.raises(TypeError):
        clips["other"] = clips["beep"]  # type: ignore[index]


def test_every_problem_of_every_clip_is_named_in_one_go(beep: Path) -> None:
    folder = beep.parent
    (folder / "silence.raw").write_bytes(b"\xff" * 4000)
    (folder / "empty.ulaw").touch()
    write_manifest(
        folder,
        row(beep, sha256="ab" * 32, duration_ms=900),
        row(folder / "silence.raw"),
        row(folder / "empty.ulaw"),
        row(folder / "gone.ulaw"),
    )
    lines = problems(folder)
    assert len(lines) == 5
    assert all(
        f"({name})" in line
        for name, line in zip(["beep.ulaw", "beep.ulaw", "silence.raw", "empty.ulaw", "gone.ulaw"], lines, strict=True)
    )
    for words, line in zip(["sha256 is", "plays 500 ms", "silent", "empty", "no such file"], lines, strict=True):
        assert words in line


def test_a_duration_may_be_off_by_one_frame_and_not_more(beep: Path) -> None:
    write_manifest(beep.parent, row(beep, duration_ms=520))
    assert load_manifest(beep.parent)["beep"].duration_ms == 500
    write_manifest(beep.parent, row(beep, duration_ms=521))
    assert "plays 500 ms, the manifest says 521" in problems(beep.parent)[0]


def test_a_hash_in_capitals_is_the_same_hash(beep: Path) -> None:
    write_manifest(beep.parent, row(beep, sha256=str(row(beep)["sha256"]).upper()))
    assert "beep" in load_manifest(beep.parent)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"id": "Upper Case"}, "lower-case"),
        ({"id": "../up"}, "lower-case"),
        ({"text": " "}, "'text' must be text"),
        ({"file": r"a\u0000.ulaw"}, "'file' must be text"),
        ({"licence": 3}, "'licence' must be text"),
        ({"duration_ms": 0}, "'duration_ms' must be a whole number"),
        ({"duration_ms": "500"}, "'duration_ms' must be a whole number"),
        ({"speed": 2}, "unknown field 'speed'"),
        ({"file": "../beep.ulaw"}, "outside the folder"),
        ({"file": "/etc/hostname"}, "outside the folder"),
        ({"file": "."}, "no such file"),
    ],
)
def test_a_malformed_row_is_refused_by_name(beep: Path, changed: Row, words: str) -> None:
    write_manifest(beep.parent, row(beep, **changed))
    lines = problems(beep.parent)
    assert len(lines) == 1
    assert words in lines[0]


def test_a_missing_field_is_named(beep: Path) -> None:
    fields = row(beep)
    del fields["licence"]
    write_manifest(beep.parent, fields)
    assert problems(beep.parent) == ["clip 'beep' (beep.ulaw): no 'licence'"]


def test_two_clips_cannot_share_an_id(beep: Path) -> None:
    write_manifest(beep.parent, row(beep), row(beep))
    assert problems(beep.parent) == ["clip 'beep' (row 2): the id is used twice"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read: No such file"),
        ("not toml", "cannot be read"),
        ("", "has no [[clip]] row"),
        ("clip = 3", "has no [[clip]] row"),
        ("clip = []", "has no [[clip]] row"),
        ("clip = [1]", "is not a table"),
        ('voice = "x"', "unknown entry 'voice'"),
    ],
)
def test_a_manifest_that_is_none_is_one_line(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "manifest.toml").write_text(text)
    lines = problems(tmp_path)
    assert len(lines) == 1
    assert words in lines[0]


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "ULAW", "ALAW"])
def test_a_wav_of_any_rate_width_and_channels_becomes_the_same_tone(
    tmp_path: Path, rate_hz: int, channels: int, subtype: str
) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.column_stack([tone(0.5, rate_hz)] * channels), rate_hz, subtype=subtype)
    clip = load_clip(path)
    assert abs(clip.duration_ms - 500) <= 1
    pcm = np.frombuffer(audioop.ulaw2lin(clip.audio, 2), "<i2").astype(float)
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm))))
    assert abs(np.argmax(spectrum) * RATE_HZ / len(pcm) - 440) < 5
    assert 0.45 < np.abs(pcm[400:-400]).max() / 32767 < 0.55


def test_a_tone_above_the_line_does_not_fold_back(tmp_path: Path) -> None:
    """A 5 kHz tone cannot be sent at 8 kHz: it vanishes instead of returning as 3 kHz."""
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(0.5, 48000, hertz=5000) * np.hanning(24000), 48000)
    with pytest.raises(ClipError, match="silent"):
        load_clip(path)


def test_the_hash_of_a_wav_is_that_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(0.5, 44100), 44100)
    write_manifest(tmp_path, row(path))
    assert abs(load_manifest(tmp_path)["tone"].duration_ms - 500) <= 1


def not_a_number(path: Path) -> None:
    soundfile.write(path, np.full(8000, np.nan, np.float32), 8000, subtype="FLOAT")


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("a.wav", Path.touch, "is empty"),
        ("a.wav", lambda path: path.write_bytes(b"hello, world" * 9), "is not a WAV file that can be read"),
        ("a.wav", lambda path: soundfile.write(path, tone(0), 8000), "is empty"),
        ("a.wav", lambda path: soundfile.write(path, tone(0.5), 8000, format="FLAC"), "is FLAC inside, not WAV"),
        ("a.wav", lambda path: soundfile.write(path, tone(61), 8000), "plays 61 s, more than the 60 s allowed"),
        ("a.wav", lambda path: soundfile.write(path, tone(1) / 1000, 8000), "is silent"),
        ("a.wav", not_a_number, "not numbers"),
        ("a.wav", lambda path: soundfile.write(path, tone(0.001, 48000)[:2], 48000), "shorter than one sample"),
        ("a.ulaw", lambda path: soundfile.write(path, tone(0.5), 8000, format="WAV"), "header of a WAV file"),
        ("a.raw", lambda path: path.write_bytes(b".snd" + ulaw(tone(1))), "header of a AU file"),
        ("a.ulaw", lambda path: path.write_bytes(ulaw(tone(61))), "plays 61 s"),
        ("a.ulaw", Path.mkdir, "no such file"),
        ("a.mp3", lambda path: path.write_bytes(b"ID3"), "'.mp3' is not a known format"),
        ("a", lambda path: path.write_bytes(b"x"), "'no suffix' is not a known format"),
    ],
)
def test_an_unusable_recording_is_refused_in_words(
    tmp_path: Path, name: str, write: Callable[[Path], object], words: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(ClipError, match="clip 'a' ") as caught:
        load_clip(tmp_path / name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cut_off_wav_header_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.5), 8000)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(ClipError, match="clip 'a' "):
        load_clip(path)


def test_a_file_that_may_not_be_read_says_so(beep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(beep))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ClipError, match=r"cannot be read: Permission denied$"):
        load_clip(beep)


def test_an_existing_greetings_raw_is_loaded_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "greetings.raw"
    path.write_bytes(ulaw(tone(1.2345)))
    clip = load_clip(path, text="Hello.", language="en")
    assert (clip.id, clip.text, clip.language, clip.duration_ms) == ("greetings", "Hello.", "en", 1234)
    assert clip.audio == path.read_bytes()


def test_a_player_gets_a_whole_wav_file(beep: Path) -> None:
    clip = load_clip(beep)
    with wave.open(io.BytesIO(wav(clip))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE_HZ)
        assert audioop.lin2ulaw(file.readframes(file.getnframes()), 2) == clip.audio


def test_loading_line_format_needs_no_numpy_and_prints_no_warning(beep: Path) -> None:
    """The router imports this too: no 100 ms of numpy, and no word about audioop at start."""
    write_manifest(beep.parent, row(beep))
    program = (
        "import sys, pathlib, shared.clips as c; c.load_manifest(pathlib.Path(sys.argv[1]));"
        "sys.exit(bool({'numpy', 'soundfile', 'soxr'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(beep.parent)], capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
