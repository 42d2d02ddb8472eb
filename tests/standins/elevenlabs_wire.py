"""What travels on ElevenLabs' two WebSockets: messages read, messages built. Pure.

Source: the types of the vendor's SDK 2.78 (`v_1_text_to_speech_voice_id_multi_stream_input`, `v_1_speech_to_text_realtime`),
the vendor's asyncapi.yml, and frames of the live service that others published: a TTS error is one frame and then close 1008
(livekit/agents-js#1985, elevenlabs-docs#426), an STT error one frame and then close 1000. Fields nobody knows are ignored.
"""

from __future__ import annotations

import audioop
import base64
import json
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
import soxr

from tests.standins.speech import RATE_HZ, spread

POLICY_VIOLATION = 1008
NORMAL = 1000
REASON_BYTES = 123  # a close frame holds no more: the vendor's longer sentences arrive cut off

CONTEXTS = 5  # Source: "Multi-Context Websocket" guide
INACTIVITY_S = 20  # Source: asyncapi.yml, `inactivity_timeout`
MOST_INACTIVITY_S = 180
SCHEDULE = (120.0, 160.0, 250.0, 290.0)  # Source: SDK, GenerationConfig.chunk_length_schedule
LEAST_COMMIT_S = 0.3
PARTIALS_FROM_S = 2.0  # Source: "Transcripts and commit strategies"

TTS_ERRORS: dict[str, str] = {
    "input_timeout_exceeded": (
        "Have not received a new text input within the timeout of {seconds:g} seconds. Streaming input terminated. Please make"
        ' sure to either feed the input in the timely manner, or to send the end of input text (empty string "") when done.'
    ),
    "invalid_api_key": "Invalid API key",
    "voice_id_does_not_exist": "A voice with the voice_id {voice} does not exist.",
    "max_active_conversations": (
        "Maximum simultaneous contexts per WebSocket connection exceeded ({contexts}). Please close an existing context before"
        " opening a new one."
    ),
    "quota_exceeded": "This request exceeds your quota of 10000. You have 0 credits remaining.",
    "too_many_concurrent_requests": "Too many concurrent requests.",
    "something_went_wrong": "We are sorry, something went wrong. You are not charged for this request.",
    "voice_settings": "voice_settings and generation_config can only be provided in the first message of a context.",
}

STT_ERRORS: dict[str, str] = {
    "auth_error": "You must be authenticated to use this endpoint.",
    "quota_exceeded": "You have exceeded your quota.",
    "rate_limited": "Too many requests.",
    "resource_exhausted": "The server is at its capacity.",
    "transcriber_error": "Internal error of the transcriber.",
    "session_time_limit_exceeded": "The session has reached its longest duration.",
    "insufficient_audio_activity": "Not enough speech to keep the session open.",
    "commit_throttled": (
        "Commit request ignored: only {seconds:.2f}s of uncommitted audio."
        " You need at least 0.3s of uncommitted audio before committing."
    ),
    "input_error": "The message cannot be read.",
    "invalid_request": "The parameters of the session are not valid.",
}


class Refused(Exception):
    """Something the vendor answers with an error frame, and then a close."""

    def __init__(self, code: str, context_id: str | None = None, **parts: object) -> None:
        super().__init__(code)
        self.code = code
        self.context_id = context_id
        self.parts = parts


class GenerationConfig(msgspec.Struct, frozen=True):
    """How much text is collected before sound is made, while `auto_mode` is off."""

    chunk_length_schedule: list[Annotated[float, msgspec.Meta(ge=50, le=500)]] | None = None


class ClientMessage(msgspec.Struct, frozen=True):
    """Anything a client may send; which kind it is says which fields are there."""

    text: str | None = None
    context_id: str | None = None
    camel_context_id: str | None = msgspec.field(name="contextId", default=None)
    voice_settings: dict[str, Any] | None = None
    generation_config: GenerationConfig | None = None
    flush: bool | None = None
    close_context: bool | None = None
    close_socket: bool | None = None
    xi_api_key: str | None = None

    @property
    def context(self) -> str | None:
        """The context it is about, under either of its names."""
        return self.context_id if self.context_id is not None else self.camel_context_id


class AudioChunk(msgspec.Struct, frozen=True, tag_field="message_type", tag="input_audio_chunk"):
    """A piece of the caller's audio, or of none, and whether what came since the last commit is to be transcribed."""

    audio_base_64: str
    commit: bool = False
    sample_rate: int | None = None
    previous_text: str | None = None


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """An encoding and a rate, by the vendor's one word for both: `pcm_8000`, `ulaw_8000`."""

    encoding: str
    rate_hz: int

    @property
    def sample_bytes(self) -> int:
        """How many bytes one sample is."""
        return 1 if self.encoding == "ulaw" else 2


FORMATS = {
    f"{encoding}_{rate}": AudioFormat(encoding, rate)
    for encoding, rates in (("pcm", (8000, 16000, 22050, 24000, 32000, 44100, 48000)), ("ulaw", (8000,)))
    for rate in rates
}


def client_message(text: str) -> ClientMessage:
    """Read one text frame of the TTS socket. Raises Refused."""
    try:
        return msgspec.json.decode(text, type=ClientMessage)
    except msgspec.MsgspecError:
        raise Refused("something_went_wrong") from None


def audio_chunk(text: str) -> tuple[AudioChunk, bytes]:
    """Read one text frame of the STT socket, and the audio in it. Raises Refused."""
    try:
        chunk = msgspec.json.decode(text, type=AudioChunk)
        return chunk, base64.b64decode(chunk.audio_base_64, validate=True)
    except (msgspec.MsgspecError, ValueError):
        raise Refused("input_error") from None


def audio(context_id: str | None, piece: bytes, alignment: dict[str, object] | None) -> str:
    """Build a piece of sound, with the times of the characters in it when they are known."""
    fields: dict[str, object] = {"audio": base64.b64encode(piece).decode()}
    fields |= {"isFinal": None, "normalizedAlignment": alignment, "alignment": alignment}
    return json.dumps(fields if context_id is None else fields | {"contextId": context_id})


def final(context_id: str | None) -> str:
    """Build the end of a context."""
    fields: dict[str, object] = {"audio": None, "isFinal": True}
    return json.dumps(fields if context_id is None else fields | {"contextId": context_id})


def tts_error(refused: Refused) -> tuple[str, str]:
    """Build an error frame; give it, and the sentence for the close frame."""
    message = TTS_ERRORS.get(refused.code, refused.code).format(
        **{"seconds": 0, "voice": "", "contexts": 0} | refused.parts
    )
    fields: dict[str, object] = {"message": message, "error": refused.code, "code": POLICY_VIOLATION}
    if refused.context_id is not None:
        fields["contextId"] = refused.context_id
    return json.dumps(fields), message.encode()[:REASON_BYTES].decode(errors="ignore")


def stt_error(refused: Refused) -> str:
    """Build an error frame of the STT socket."""
    message = STT_ERRORS.get(refused.code, refused.code).format(**{"seconds": 0.0} | refused.parts)
    return json.dumps({"message_type": refused.code, "error": message})


def session_started(session_id: str, config: dict[str, object]) -> str:
    """Build the first message of an STT session: only now is it one, a refused key is told after the 101."""
    return json.dumps({"message_type": "session_started", "session_id": session_id, "config": config})


def transcript(kind: str, text: str, **more: object) -> str:
    """Build a partial or a committed transcript."""
    return json.dumps({"message_type": kind, "text": text, **more})


@dataclass(frozen=True, slots=True)
class Letter:
    """One character of a text, and where it is in the sound of its segment, in ms."""

    char: str
    start_ms: float
    end_ms: float


def letters(text: str, duration_s: float) -> list[Letter]:
    """Place the characters of a text in its sound."""
    words, starts, ends = spread(text, duration_s)
    placed: list[Letter] = []
    at, now = 0, 0.0
    for word, start_s, end_s in zip(words, starts, ends, strict=True):
        found = text.index(word, at)
        placed += [Letter(char, now, now) for char in text[at:found]]
        step = (end_s - start_s) * 1000 / len(word)
        placed += [
            Letter(char, start_s * 1000 + step * index, start_s * 1000 + step * (index + 1))
            for index, char in enumerate(word)
        ]
        at, now = found + len(word), end_s * 1000
    return placed + [Letter(char, now, now) for char in text[at:]]


def alignment(some: list[Letter], from_ms: float = 0.0) -> dict[str, object] | None:
    """Build the times of characters, in whole ms since the beginning of the piece of sound they come with."""
    if not some:
        return None
    starts = [round(letter.start_ms - from_ms) for letter in some]
    ends = [round(letter.end_ms - from_ms) for letter in some]
    return {
        "chars": [letter.char for letter in some],
        "charStartTimesMs": starts,
        "charDurationsMs": [end - start for start, end in zip(starts, ends, strict=True)],
    }


def encoded(pcm: bytes, output: AudioFormat) -> bytes:
    """Convert PCM s16le at 8 kHz to what a connection asked for."""
    if output.rate_hz != RATE_HZ:
        samples = soxr.resample(np.frombuffer(pcm, dtype="<i2"), RATE_HZ, output.rate_hz)
        pcm = samples.astype("<i2").tobytes()
    return audioop.lin2ulaw(pcm, 2) if output.encoding == "ulaw" else pcm


def decoded(heard: bytes, given: AudioFormat) -> bytes:
    """Convert what an STT socket received to PCM s16le at the same rate; a split last sample is left out."""
    if given.encoding == "ulaw":
        return audioop.ulaw2lin(heard, 2)
    return heard[: len(heard) // 2 * 2]
