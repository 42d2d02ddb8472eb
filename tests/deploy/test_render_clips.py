import audioop
import json
import math
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile

from deploy.render_clips import main, polish, read_rows
from shared.clips import load_manifest
from shared.errors import ClipError


def speech(seconds: float = 0.5, level: float = 0.1) -> bytes:
    """A tone with a second of silence before and after: PCM s16le, 8 kHz."""
    tone = level * np.sin(np.arange(int(8000 * seconds)) / 3)
    return bytes(16000) + (tone * 32767).astype("<i2").tobytes() + bytes(16000)


def manifest(folder: Path, *rows: str) -> None:
    (folder / "manifest.toml").write_text("\n".join(f"[[clip]]\n{row}" for row in rows), encoding="utf-8")


def test_polish_levels_trims_and_fills_the_last_frame() -> None:
    audio = polish(speech())
    assert 500 <= len(audio) / 8 <= 560
    assert len(audio) % 160 == 0
    assert abs(20 * math.log10(audioop.max(audioop.ulaw2lin(audio, 2), 2) / 32767) + 3) < 0.5


def test_silence_cannot_be_made_into_a_clip() -> None:
    with pytest.raises(ClipError, match="said nothing"):
        polish(bytes(16000))


def test_ones_own_recording_gets_its_row_filled_in(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "mine.wav", 0.5 * np.sin(np.arange(44100) / 9), 44100)
    manifest(tmp_path, 'id = "greeting"\nfile = "mine.wav"\ntext = "Olá, \\"você\\"."\nlanguage = "pt-BR"')
    assert main(["--provider", "recorded", "--folder", str(tmp_path), "--voice", "Ana", "--licence", "ours"]) == 0
    clip = load_manifest(tmp_path)["greeting"]
    assert (clip.text, clip.voice, clip.licence) == ('Olá, "você".', "Ana", "ours")
    assert abs(clip.duration_ms - 1000) <= 1


@pytest.mark.parametrize(
    ("row", "arguments", "words"),
    [
        ('id = "a"\ntext = "A."\nlanguage = "en"', [], "clip 'a': names no file"),
        ('id = "a"\nfile = "a.wav"\ntext = "A."\nlanguage = "en"', [], "no such file"),
        ('id = "a"\ntext = "A."\nlanguage = "en"', ["--only", "b"], "has no clip b"),
        ('id = "a"', [], "clip number 1 has no language, text"),
        ("id = ", [], "cannot be read"),
    ],
)
def test_what_cannot_be_rendered_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: str, arguments: list[str], words: str
) -> None:
    manifest(tmp_path, row)
    before = (tmp_path / "manifest.toml").read_bytes()
    assert main(["--provider", "recorded", "--folder", str(tmp_path), *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert (tmp_path / "manifest.toml").read_bytes() == before


@pytest.fixture
def cartesia(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, object]]]:
    """A server that says a tone, and what it was asked for."""
    asked: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, "authorization": self.headers["Authorization"], **body})
            audio = speech()
            self.send_response(200)
            self.send_header("Content-Length", str(len(audio)))
            self.end_headers()
            self.wfile.write(audio)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("CARTESIA_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        yield asked
        server.shutdown()
        thread.join()


def test_cartesia_renders_only_what_is_asked_for(
    tmp_path: Path, cartesia: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARTESIA_API_KEY", "key")
    monkeypatch.setenv("CARTESIA_VOICE_ID", "voice-1")
    manifest(tmp_path, 'id = "a-pt"\ntext = "Olá."\nlanguage = "pt-BR"')
    assert main(["--provider", "cartesia", "--folder", str(tmp_path)]) == 0
    (request,) = cartesia
    assert request["path"] == "/tts/bytes"
    assert request["authorization"] == "Bearer key"
    assert request["transcript"] == "Olá."
    assert request["language"] == "pt"
    assert request["voice"] == {"id": "voice-1"}
    assert request["output_format"] == {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 8000}
    clip = load_manifest(tmp_path)["a-pt"]
    assert clip.voice == "Cartesia voice-1"
    assert 500 <= clip.duration_ms <= 560

    rows = read_rows(tmp_path / "manifest.toml")
    manifest(
        tmp_path,
        *["\n".join(f"{key} = {json.dumps(value)}" for key, value in row.items()) for row in rows],
        'id = "b"\ntext = "B."\nlanguage = "en"',
    )
    assert main(["--provider", "cartesia", "--folder", str(tmp_path), "--only", "b"]) == 0
    assert [request["transcript"] for request in cartesia] == ["Olá.", "B."]


def test_cartesia_without_a_key_says_what_to_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CARTESIA_API_KEY", raising=False)
    manifest(tmp_path, 'id = "a"\ntext = "A."\nlanguage = "en"')
    assert main(["--provider", "cartesia", "--folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "set CARTESIA_API_KEY and CARTESIA_VOICE_ID\n"
