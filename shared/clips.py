"""Clips: stored recordings, checked once at start and held ready in the form the phone line takes.

Everything here is pure except for reading files. numpy, soundfile and soxr are needed only for recordings that are
not in the line's own format, and are imported only then. Nothing here plays, paces or frames audio.
"""

import hashlib
import io
import re
import tomllib
import warnings
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from shared.errors import ClipError

with warnings.catch_warnings():
    # 3.11 and 3.12 announce its removal; from 3.13 on the package audioop-lts provides the same module.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

RATE_HZ: Final = 8000  # Source: Twilio media streams, "media" message: audio/x-mulaw, 8000, one channel, always
MAX_SECONDS: Final = 60  # longer is a programme and not a clip: the greeting is sent to the carrier's buffer unpaced
SILENT_PEAK: Final = 328  # of 32767: -40 dBFS, ten times the idle noise of a G.711 line
DURATION_TOLERANCE_MS: Final = 20  # one media frame: rendering tools round differently
MANIFEST: Final = "manifest.toml"

_HEADERLESS = frozenset({".ulaw", ".raw"})
_CONTAINERS = frozenset({"WAV", "WAVEX", "RF64"})
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")  # it becomes a path segment: /clips/{id}.wav
_MAGIC = {
    b"RIFF": "WAV",
    b"RF64": "WAV",
    b".snd": "AU",
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"ID3\x03": "MP3",
    b"ID3\x04": "MP3",
}
_TEXT_FIELDS = ("id", "file", "text", "language", "voice", "sha256", "licence")
_FIELDS = frozenset({*_TEXT_FIELDS, "duration_ms"})


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording as the line takes it.

    Attributes:
        id: what agents and settings call it; lower-case words joined by hyphens.
        text: the words spoken, which the model is told it has said.
        language: BCP 47, e.g. `en` or `pt-BR`.
        voice: who speaks, in the words of the manifest.
        duration_ms: length of `audio`, rounded down.
        audio: 8 kHz mono mu-law without header, 160 bytes = 20 ms; never empty, not padded to whole frames.
        licence: what allows the recording to be used.
    """

    id: str
    text: str
    language: str
    voice: str
    duration_ms: int
    audio: bytes
    licence: str


def load_manifest(folder: Path) -> Mapping[str, Clip]:
    """Load and check every clip named by `manifest.toml` in `folder`, by id.

    Raises:
        ClipError: something is wrong; the message has one line for each problem, naming the clip and its file.
    """
    rows = _rows(folder / MANIFEST)
    clips: dict[str, Clip] = {}
    problems: list[str] = []
    for number, row in enumerate(rows, start=1):
        if form := _row_problems(number, row):
            problems += form
            continue
        clip, found = _load_row(folder, row)
        problems += found
        if clip is not None and clip.id in clips:
            problems.append(f"clip {clip.id!r} (row {number}): the id is used twice")
        elif clip is not None:
            clips[clip.id] = clip
    if problems:
        raise ClipError("\n".join(problems))
    return MappingProxyType(clips)


def load_clip(path: Path, *, clip_id: str = "", text: str = "", language: str = "", voice: str = "") -> Clip:
    """Load one recording that has no row in a manifest, e.g. an existing `greetings.raw`.

    The id is the file's name without suffix unless given; the licence stays empty, nobody stated one.

    Raises:
        ClipError: the file cannot be read or holds nothing that can be played.
    """
    name = clip_id or path.stem
    try:
        audio = _audio_of(path)
    except ClipError as error:
        raise ClipError(f"clip {name!r} ({path}): {error}") from error
    return Clip(name, text, language, voice, duration_ms(audio), audio, licence="")


def wav(clip: Clip) -> bytes:
    """Wrap a clip for players: a complete WAV file, 8 kHz mono PCM of 16 bits.

    Source: Twilio, TwiML `<Play>`: audio/wav is among the types it fetches.
    """
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(audioop.ulaw2lin(clip.audio, 2))
    return buffer.getvalue()


def duration_ms(audio: bytes) -> int:
    """Return how long 8 kHz mu-law plays, in ms, rounded down."""
    return len(audio) * 1000 // RATE_HZ


def _rows(manifest: Path) -> list[Any]:
    try:
        document = tomllib.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ClipError(f"{manifest}: cannot be read: {_words(error)}") from error
    rows = document.pop("clip", None)
    if document:
        raise ClipError(f"{manifest}: unknown entry {min(document)!r}: only [[clip]] rows belong here")
    if not isinstance(rows, list) or not rows:
        raise ClipError(f"{manifest}: has no [[clip]] row")
    return rows


def _row_problems(number: int, row: object) -> list[str]:
    """Say what is wrong with the form of a row; its file is not looked at."""
    if not isinstance(row, dict):
        return [f"clip number {number}: is not a table"]
    name = f"clip {row['id']!r}" if isinstance(row.get("id"), str) else f"clip number {number}"
    name += f" ({row['file']})" if isinstance(row.get("file"), str) else ""
    found = [f"{name}: unknown field {field!r}" for field in sorted(row.keys() - _FIELDS)]
    for field in _TEXT_FIELDS:
        value = row.get(field)
        if field not in row:
            found.append(f"{name}: no {field!r}")
        elif not isinstance(value, str) or not value.strip() or "\0" in value:
            found.append(f"{name}: {field!r} must be text, {value!r} is not")
    length = row.get("duration_ms")
    if not isinstance(length, int) or isinstance(length, bool) or length <= 0:
        found.append(f"{name}: 'duration_ms' must be a whole number above 0, {length!r} is not")
    if isinstance(row.get("id"), str) and not _ID.fullmatch(row["id"]):
        found.append(f"{name}: the id may have lower-case letters, digits and single hyphens between them")
    return found


def _load_row(folder: Path, row: Any) -> tuple[Clip | None, list[str]]:
    name = f"clip {row['id']!r} ({row['file']})"
    path = folder / row["file"]
    if not path.resolve().is_relative_to(folder.resolve()):
        return None, [f"{name}: lies outside the folder of its manifest"]
    try:
        audio = _audio_of(path)
    except ClipError as error:
        return None, [f"{name}: {error}"]
    found = []
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != row["sha256"].lower():
        found.append(f"{name}: sha256 is {digest}, the manifest says {row['sha256']}")
    length = duration_ms(audio)
    if abs(length - row["duration_ms"]) > DURATION_TOLERANCE_MS:
        found.append(f"{name}: plays {length} ms, the manifest says {row['duration_ms']}")
    fields = {field: row[field] for field in ("id", "text", "language", "voice", "licence")}
    return Clip(**fields, duration_ms=length, audio=audio), found


def _audio_of(path: Path) -> bytes:
    """Return the 8 kHz mu-law of a recording; every objection is a ClipError without the file's name."""
    suffix = path.suffix.lower()
    try:
        if not path.is_file():
            raise ClipError("there is no such file")
        if suffix in _HEADERLESS:
            audio = _headerless(path)
        elif suffix == ".wav":
            audio = _converted(path)
        else:
            raise ClipError(f"{suffix or 'no suffix'!r} is not a known format: .ulaw, .raw (8 kHz mu-law) or .wav")
    except OSError as error:
        raise ClipError(f"cannot be read: {_words(error)}") from error
    if not audio:
        raise ClipError("is shorter than one sample at 8 kHz")
    if audioop.max(audioop.ulaw2lin(audio, 2), 2) < SILENT_PEAK:
        raise ClipError("is silent")
    return audio


def _headerless(path: Path) -> bytes:
    size = path.stat().st_size
    if size == 0:
        raise ClipError("is empty")
    _refuse_long(size / RATE_HZ)
    audio = path.read_bytes()
    if kind := _MAGIC.get(audio[:4]):
        raise ClipError(f"begins with the header of a {kind} file, headerless 8 kHz mu-law is expected")
    return audio


def _converted(path: Path) -> bytes:
    """Convert a WAV of any rate, width and number of channels."""
    # Late: numpy and two libraries cost 100 ms of start, and a folder of .ulaw files never needs them.
    import numpy as np
    import soundfile
    import soxr

    if path.stat().st_size == 0:
        raise ClipError("is empty")
    try:
        info = soundfile.info(path)
        if info.format not in _CONTAINERS:
            raise ClipError(f"is {info.format} inside, not WAV")
        _refuse_long(info.duration)
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ClipError(f"is not a WAV file that can be read: {error.error_string.rstrip('.')}") from error
    if len(samples) == 0:
        raise ClipError("is empty")
    if not np.isfinite(samples).all():
        raise ClipError("has samples that are not numbers")
    line = soxr.resample(samples.mean(axis=1), rate_hz, RATE_HZ, quality="HQ")
    pcm = (np.clip(line, -1.0, 1.0) * 32767).astype("<i2").tobytes()
    return audioop.lin2ulaw(pcm, 2)


def _refuse_long(seconds: float) -> None:
    if seconds > MAX_SECONDS:
        raise ClipError(f"plays {seconds:.0f} s, more than the {MAX_SECONDS} s allowed")


def _words(error: Exception) -> str:
    """Return an error's own words without the path, which the line already names."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
