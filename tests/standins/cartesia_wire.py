"""What travels on Cartesia's two WebSockets: requests checked, events and errors built. Pure.

Source: docs.cartesia.ai, API reference "TTS (WebSocket)", "STT manual finalize" and "API errors", and the types of the
vendor's SDK 4.2. Not built: phoneme timestamps, and the word list of a final transcript (docs and SDK disagree on it).
"""

from __future__ import annotations

import audioop
import base64
import json
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import soxr

STRUCTURED_ERRORS = "2026-03-01"  # the first API version whose errors are more than one string
RATE_HZ = 8000

Encoding = Literal["pcm_s16le", "pcm_f32le", "pcm_mulaw", "pcm_alaw"]
SttEncoding = Literal["pcm_s16le", "pcm_s32le", "pcm_f16le", "pcm_f32le", "pcm_mulaw", "pcm_alaw"]
STT_SAMPLE_BYTES: dict[SttEncoding, int] = {
    "pcm_s16le": 2,
    "pcm_s32le": 4,
    "pcm_f16le": 2,
    "pcm_f32le": 4,
    "pcm_mulaw": 1,
    "pcm_alaw": 1,
}

ERRORS: dict[int, tuple[str, str]] = {
    400: ("invalid_request", "Bad request"),
    401: ("unauthorized", "Unauthorized"),
    402: ("quota_exceeded", "Payment required"),
    404: ("model_not_found", "Not found"),
    429: ("concurrency_limited", "Too many concurrent requests"),
    500: ("internal_error", "Internal server error"),
    503: ("unavailable", "Service unavailable"),
}


class OutputFormat(msgspec.Struct, frozen=True):
    """What a context produces; `raw` is the only container on the socket."""

    container: Literal["raw"]
    encoding: Encoding
    sample_rate: Literal[8000, 16000, 22050, 24000, 44100, 48000]


class Voice(msgspec.Struct, frozen=True):
    """A voice by its id."""

    id: Annotated[str, msgspec.Meta(min_length=1)]
    mode: Literal["id"] = "id"


class Generation(msgspec.Struct, frozen=True):
    """One input of a context."""

    context_id: Annotated[str, msgspec.Meta(min_length=1)]
    model_id: Annotated[str, msgspec.Meta(pattern="^sonic")]
    output_format: OutputFormat
    transcript: str
    voice: Annotated[str, msgspec.Meta(min_length=1)] | Voice  # the 2026-08-14 version also takes the bare id
    continues: bool = msgspec.field(name="continue", default=False)
    flush: bool = False
    language: str | None = None
    add_timestamps: bool = False
    max_buffer_delay_ms: Annotated[int, msgspec.Meta(ge=0, le=5000)] = 3000

    def fixed(self) -> tuple[object, ...]:
        """Return what must stay the same in all inputs of one context."""
        return self.model_id, self.output_format, self.voice, self.language


class Cancel(msgspec.Struct, frozen=True):
    """Ends a context; no more messages are sent for it."""

    context_id: str


class Refused(Exception):
    """A request that cannot be served; carries what the error event needs."""

    def __init__(self, status: int, message: str, context_id: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.context_id = context_id


def parse_request(text: str) -> Generation | Cancel:
    """Read one text frame of the TTS socket. Raises Refused, with the context id when there is one to read."""
    try:
        fields = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise Refused(400, f"invalid JSON: {error}") from None
    context_id = fields.get("context_id")
    try:
        if fields.get("cancel"):
            return msgspec.convert(fields, Cancel)
        return msgspec.convert(fields, Generation)
    except msgspec.ValidationError as error:
        raise Refused(400, str(error), context_id if isinstance(context_id, str) else None) from None


def chunk(context_id: str, audio: bytes, flush_id: int, step_time_ms: float) -> str:
    """Build a piece of audio; by hand, because a call is a few hundred of them."""
    return (
        f'{{"type":"chunk","context_id":{json.dumps(context_id)},"data":"{base64.b64encode(audio).decode()}",'
        f'"done":false,"status_code":206,"step_time":{step_time_ms:.1f},"flush_id":{flush_id}}}'
    )


def timestamps(context_id: str, words: list[str], starts: list[float], ends: list[float], flush_id: int) -> str:
    """Build the times of words, in seconds from the beginning of the context's audio."""
    return json.dumps(
        {
            "type": "timestamps",
            "context_id": context_id,
            "done": False,
            "status_code": 206,
            "flush_id": flush_id,
            "word_timestamps": {"words": words, "start": starts, "end": ends},
        }
    )


def flush_done(context_id: str, flush_id: int) -> str:
    """Build the boundary after the audio of one flushed input."""
    return json.dumps(
        {
            "type": "flush_done",
            "context_id": context_id,
            "done": False,
            "flush_done": True,
            "flush_id": flush_id,
            "status_code": 206,
        }
    )


def done(context_id: str) -> str:
    """Build the end of a context."""
    return json.dumps({"type": "done", "context_id": context_id, "done": True, "status_code": 206})


def error(version: str, request_id: str, refused: Refused, *, stt: bool = False) -> str:
    """Build an error event; before 2026-03-01 it was one string."""
    code, title = ERRORS.get(refused.status, ("error", "Error"))
    context = {} if refused.context_id is None else {"context_id": refused.context_id}
    fields: dict[str, object] = {"type": "error", "status_code": refused.status, **context}
    if not stt:
        fields["done"] = True
    if version < STRUCTURED_ERRORS:
        return json.dumps({**fields, "error": f"{title}: {refused.message}"})
    parts = (request_id, refused.context_id) if refused.context_id else (request_id,)
    return json.dumps(
        {**fields, "error_code": code, "title": title, "message": refused.message, "request_id": ":".join(parts)}
    )


def transcript(request_id: str, text: str, language: str, duration_s: float, *, final: bool) -> str:
    """Build a transcript; the text is what came after the last final one."""
    return json.dumps(
        {
            "type": "transcript",
            "request_id": request_id,
            "is_final": final,
            "text": text,
            "language": language,
            "duration": round(duration_s, 3),
        }
    )


def acknowledgement(kind: Literal["flush_done", "done"], request_id: str) -> str:
    """Build the answer to `finalize` or to `close`."""
    return json.dumps({"type": kind, "request_id": request_id})


def turn_event(kind: str, request_id: str, **fields: str) -> str:
    """Build an event of the turns socket; the transcript is everything said in the turn so far."""
    return json.dumps({"type": kind, "request_id": request_id, **fields})


def encoded(pcm: bytes, output: OutputFormat) -> bytes:
    """Convert PCM s16le at 8 kHz to what a context asked for."""
    if output.sample_rate != RATE_HZ:
        samples = soxr.resample(np.frombuffer(pcm, dtype="<i2"), RATE_HZ, output.sample_rate)
        pcm = samples.astype("<i2").tobytes()
    match output.encoding:
        case "pcm_s16le":
            return pcm
        case "pcm_mulaw":
            return audioop.lin2ulaw(pcm, 2)
        case "pcm_alaw":
            return audioop.lin2alaw(pcm, 2)
        case "pcm_f32le":
            return (np.frombuffer(pcm, dtype="<i2") / 32768).astype("<f4").tobytes()


def sample_bytes(encoding: Encoding) -> int:
    """Return the bytes of one sample of speech."""
    return STT_SAMPLE_BYTES[encoding]


def decoded(audio: bytes, encoding: SttEncoding) -> bytes:
    """Convert what an STT socket received to PCM s16le at the same rate; a split last sample is left out."""
    audio = audio[: len(audio) // STT_SAMPLE_BYTES[encoding] * STT_SAMPLE_BYTES[encoding]]
    match encoding:
        case "pcm_s16le":
            return audio
        case "pcm_mulaw":
            return audioop.ulaw2lin(audio, 2)
        case "pcm_alaw":
            return audioop.alaw2lin(audio, 2)
        case "pcm_s32le":
            return audioop.lin2lin(audio, 4, 2)
        case "pcm_f16le" | "pcm_f32le":
            samples = np.frombuffer(audio, dtype="<f2" if encoding == "pcm_f16le" else "<f4")
            return bytes((np.clip(samples.astype(np.float64), -1, 1) * 32767).astype("<i2").tobytes())
