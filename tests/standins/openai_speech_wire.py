"""What OpenAI's speech looks like on the wire: the requests to speak, and the events of a transcription session. Pure.

Source: the types of the SDK 3.54 (`audio.speech`, `realtime`); OpenAI docs, "Realtime transcription" (a session is made by
`intent=transcription` without a model; `gpt-live-transcribe` takes no turn detection); developers' forum and issues of
public clients for what the types do not say (codes of errors, close codes, the least audio of a commit).
"""

from __future__ import annotations

import audioop
import base64
import binascii
import itertools
import json
import time
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec

SPEECH_MODELS: Final = ("gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15", "tts-1", "tts-1-hd")
VOICES: Final = frozenset(
    "alloy ash ballad coral echo fable onyx nova sage shimmer verse marin cedar".split()  # noqa: SIM905 - a list of names
)
SPEECH_HZ: Final = 24_000
LONGEST_INPUT: Final = 4096  # characters
SPOKEN: Final = ("pcm", "wav")  # the formats this stand-in can make

LIVE_MODELS: Final = ("gpt-live-transcribe", "gpt-realtime-whisper")
"""Give deltas while the audio comes, and take no turn detection."""

TRANSCRIPTION_MODELS: Final = (
    *LIVE_MODELS,
    "gpt-transcribe",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-mini-transcribe-2025-12-15",
    "whisper-1",
)
LEAST_COMMIT_S: Final = 0.1
SESSION_S: Final = 3600.0
FORMATS: Final = {"audio/pcm": 24_000, "audio/pcmu": 8000, "audio/pcma": 8000}  # Hz

_numbers = itertools.count(1)


class SpeechRequest(msgspec.Struct, frozen=True):
    """`POST /v1/audio/speech`."""

    input: str
    model: str
    voice: str | dict[str, str]
    instructions: str = ""
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: Annotated[float, msgspec.Meta(ge=0.25, le=4.0)] = 1.0
    stream_format: Literal["sse", "audio"] = "audio"


class Refused(Exception):
    """Something asked that cannot be done; what an error body and an error event say."""

    def __init__(self, message: str, code: str | None = None, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.status = status

    def body(self) -> dict[str, object]:
        """Build the body of an HTTP answer."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def speech_request(body: bytes) -> SpeechRequest:
    """Read what is to be spoken. Raises Refused."""
    try:
        asked = msgspec.json.decode(body, type=SpeechRequest)
    except msgspec.MsgspecError as error:
        raise Refused(str(error)) from None
    if asked.model not in SPEECH_MODELS:
        raise Refused(f"The model `{asked.model}` does not exist", "model_not_found", "model", 404)
    voice = asked.voice if isinstance(asked.voice, str) else asked.voice.get("id", "")
    if voice not in VOICES and not voice.startswith("voice_"):
        raise Refused(f"Invalid value: '{voice}'.", "invalid_value", "voice")
    if not asked.input:
        raise Refused("Invalid 'input': empty string.", "empty_string", "input")
    if len(asked.input) > LONGEST_INPUT:
        raise Refused(f"Invalid 'input': string too long ({len(asked.input)}).", "string_above_max_length", "input")
    if asked.response_format not in SPOKEN or asked.stream_format != "audio":
        raise Refused(f"the stand-in speaks {' and '.join(SPOKEN)} only", "not_in_the_stand_in", "response_format")
    return asked


def wav_header() -> bytes:
    """Build the header of a stream whose length is not known: 24 kHz, 16 bits, mono."""
    form = b"fmt " + (16).to_bytes(4, "little") + (1).to_bytes(2, "little") + (1).to_bytes(2, "little")
    form += SPEECH_HZ.to_bytes(4, "little") + (2 * SPEECH_HZ).to_bytes(4, "little")
    form += (2).to_bytes(2, "little") + (16).to_bytes(2, "little")
    return b"RIFF\xff\xff\xff\xffWAVE" + form + b"data\xff\xff\xff\xff"


# --- transcription sessions -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hearing:
    """What a session was told to do. An empty model transcribes nothing."""

    format: str = "audio/pcm"
    model: str = ""
    language: str = ""

    @property
    def rate_hz(self) -> int:
        """The sample rate of the audio."""
        return FORMATS[self.format]

    @property
    def bytes_per_s(self) -> int:
        """How much audio one second is."""
        return self.rate_hz * (2 if self.format == "audio/pcm" else 1)

    @property
    def live(self) -> bool:
        """Whether words come before the commit."""
        return self.model in LIVE_MODELS

    def pcm(self, audio: bytes) -> bytes:
        """Decode to PCM s16le at `rate_hz`."""
        match self.format:
            case "audio/pcmu":
                return audioop.ulaw2lin(audio, 2)
            case "audio/pcma":
                return audioop.alaw2lin(audio, 2)
            case _:
                return audio


def updated(before: Hearing, session: Any) -> Hearing:
    """Read the session of a `session.update`; what is not in it stays. Raises Refused."""
    if not isinstance(session, dict) or session.get("type") != "transcription":
        raise Refused("Passing a realtime session update event to a transcription session is not allowed.", None)
    given = (session.get("audio") or {}).get("input") or {}
    for name in given:
        if name not in {"format", "transcription", "turn_detection", "noise_reduction"}:
            raise Refused(f"Unknown parameter: 'session.audio.input.{name}'.", "unknown_parameter")
    heard = (given.get("format") or {"type": before.format}).get("type")
    if heard not in FORMATS:
        raise Refused(f"Invalid value: '{heard}'.", "invalid_value", "session.audio.input.format.type")
    asked = given.get("transcription") or {"model": before.model, "language": before.language}
    model = asked.get("model") or before.model
    if model and model not in TRANSCRIPTION_MODELS:
        raise Refused(f"Invalid value: '{model}'.", "invalid_value", "session.audio.input.transcription.model")
    if given.get("turn_detection") is not None:
        if model in LIVE_MODELS:
            raise Refused("Turn detection is not supported for this transcription model.", "invalid_value")
        raise Refused("the stand-in detects no turns", "not_in_the_stand_in", "session.audio.input.turn_detection")
    language = asked.get("language") or next(iter(asked.get("languages") or ()), "")
    if language and not (len(language) in {2, 3} and language.isalpha()):
        raise Refused(f"Invalid language '{language}'.", "invalid_value", "session.audio.input.transcription.language")
    return Hearing(heard, model, language)


def appended(event: dict[str, Any]) -> bytes:
    """Read the audio of an `input_audio_buffer.append`. Raises Refused."""
    try:
        return base64.b64decode(event["audio"], validate=True)
    except (KeyError, TypeError, binascii.Error):
        raise Refused("Invalid 'audio'. Expected base64-encoded audio bytes.", "invalid_value", "audio") from None


def event(kind: str, **fields: object) -> str:
    """Build a server event."""
    return json.dumps({"type": kind, "event_id": f"event_{next(_numbers):010}", **fields}, ensure_ascii=False)


def session(session_id: str, hearing: Hearing, expires_at: float) -> dict[str, object]:
    """Build the session that `session.created` and `session.updated` show. `expires_at` is Unix time."""
    form: dict[str, object] = {"type": hearing.format}
    if hearing.format == "audio/pcm":
        form["rate"] = hearing.rate_hz
    transcription = {"model": hearing.model, "language": hearing.language or None, "prompt": ""}
    return {
        "type": "transcription",
        "object": "realtime.transcription_session",
        "id": session_id,
        "expires_at": int(expires_at),
        "audio": {
            "input": {
                "format": form,
                "transcription": transcription if hearing.model else None,
                "noise_reduction": None,
                "turn_detection": None,
            }
        },
        "include": None,
    }


def error(refused: Refused, event_id: str | None = None) -> str:
    """Build an error event; `event_id` is that of the client's event it answers."""
    kind = "invalid_request_error" if refused.status < 500 else "server_error"
    body = {"type": kind, "code": refused.code, "message": str(refused), "param": refused.param, "event_id": event_id}
    return event("error", error=body)


def too_small(seconds: float) -> Refused:
    """Refuse a commit of next to nothing. Source: the message as developers report it on the vendor's forum."""
    return Refused(
        "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, "
        f"but buffer only has {1000 * seconds:.2f}ms of audio.",
        "input_audio_buffer_commit_empty",
    )


def committed(item_id: str, before: str | None) -> list[str]:
    """Build what answers a commit at once."""
    content = [{"type": "input_audio", "transcript": None}]
    item = {"id": item_id, "type": "message", "status": "completed", "role": "user", "content": content}
    return [
        event("input_audio_buffer.committed", item_id=item_id, previous_item_id=before),
        event("conversation.item.added", item=item, previous_item_id=before),
        event("conversation.item.done", item=item, previous_item_id=before),
    ]


def delta(item_id: str, text: str) -> str:
    """Build a piece of a transcript."""
    kind = "conversation.item.input_audio_transcription.delta"
    return event(kind, item_id=item_id, content_index=0, delta=text)


def completed(item_id: str, text: str, seconds: float) -> str:
    """Build a whole transcript; empty when there were no words."""
    kind = "conversation.item.input_audio_transcription.completed"
    usage = {"type": "duration", "seconds": round(seconds, 3)}
    return event(kind, item_id=item_id, content_index=0, transcript=text, usage=usage)


def failed(item_id: str) -> str:
    """Build the end of a transcription that came to nothing."""
    kind = "conversation.item.input_audio_transcription.failed"
    problem = {"type": "server_error", "code": "transcription_failed", "message": "made to fail", "param": None}
    return event(kind, item_id=item_id, content_index=0, error=problem)


def expires_in(seconds: float) -> float:
    """Give the Unix time in so many seconds."""
    return time.time() + seconds
