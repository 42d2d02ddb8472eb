"""The media stream's messages: those the carrier sends, as text, and those it understands.

Rules: pure. Sent messages are built by string formatting, because a hundred calls send five thousand of them a second;
received ones are decoded by msgspec into one shape. Numbers are JSON strings where Twilio's are.

Source: Twilio docs, Media Streams WebSocket messages.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from functools import lru_cache

import msgspec

FRAME_BYTES = 160  # 20 ms of 8 kHz mu-law; what Twilio does, though no page promises it
FRAME_S = 0.02
QUIET_FRAME = b"\xff\x7f" * (FRAME_BYTES // 2)  # both zeros of mu-law
CONNECTED = '{"event":"connected","protocol":"Call","version":"1.0.0"}'


def payload(frame: bytes) -> str:
    """Base64 of `frame`."""
    return binascii.b2a_base64(frame, newline=False).decode("ascii")


QUIET_PAYLOAD = payload(QUIET_FRAME)


@lru_cache(maxsize=256)
def payloads(ulaw: bytes) -> tuple[str, ...]:
    """Base64 of each 20 ms of `ulaw`; the last frame is filled up with silence. Kept: callers say the same things."""
    missing = -len(ulaw) % FRAME_BYTES
    padded = ulaw + QUIET_FRAME[:missing]
    return tuple(payload(padded[at : at + FRAME_BYTES]) for at in range(0, len(padded), FRAME_BYTES))


def quoted(text: str) -> str:
    """`text` as a JSON string, quotes included."""
    return msgspec.json.encode(text).decode()


@dataclass(frozen=True, slots=True)
class StreamIds:
    """Whose stream it is."""

    account_sid: str
    call_sid: str
    stream_sid: str


class Numbering:
    """The counters of one stream, and the messages that carry them. A message built is a message to be sent."""

    def __init__(self, ids: StreamIds) -> None:
        self.ids = ids
        self.sequence = 0
        self.chunk = 0
        self._media_tail = f'"}},"streamSid":"{ids.stream_sid}"}}'

    def start(self, parameters: tuple[tuple[str, str], ...], call_sid: str) -> str:
        """The first numbered message. `call_sid` is separate only because a fault falsifies it."""
        ids = self.ids
        custom = msgspec.json.encode(dict(parameters)).decode()
        return (
            f'{{"event":"start","sequenceNumber":"{self._next()}","start":{{"accountSid":"{ids.account_sid}",'
            f'"streamSid":"{ids.stream_sid}","callSid":"{call_sid}","tracks":["inbound"],'
            '"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1},'
            f'"customParameters":{custom}}},"streamSid":"{ids.stream_sid}"}}'
        )

    def media(self, frame: str) -> str:
        """One frame; its timestamp is its end in milliseconds since the stream's start."""
        self.sequence += 1
        self.chunk += 1
        return (
            f'{{"event":"media","sequenceNumber":"{self.sequence}","media":{{"track":"inbound",'
            f'"chunk":"{self.chunk}","timestamp":"{self.chunk * 20}","payload":"{frame}{self._media_tail}'
        )

    def dtmf(self, digit: str) -> str:
        """A key press; its track is spelled differently from that of media."""
        return (
            f'{{"event":"dtmf","streamSid":"{self.ids.stream_sid}","sequenceNumber":"{self._next()}",'
            f'"dtmf":{{"track":"inbound_track","digit":{quoted(digit)}}}}}'
        )

    def mark(self, name: str) -> str:
        """The echo of a mark."""
        return (
            f'{{"event":"mark","sequenceNumber":"{self._next()}","streamSid":"{self.ids.stream_sid}",'
            f'"mark":{{"name":{quoted(name)}}}}}'
        )

    def stop(self) -> str:
        """The last message: the call was hung up or left the stream."""
        return (
            f'{{"event":"stop","sequenceNumber":"{self._next()}","stop":{{"accountSid":"{self.ids.account_sid}",'
            f'"callSid":"{self.ids.call_sid}"}},"streamSid":"{self.ids.stream_sid}"}}'
        )

    def lose(self, frames: int) -> None:
        """Count `frames` media messages that are never sent."""
        self.sequence += frames
        self.chunk += frames

    def _next(self) -> int:
        self.sequence += 1
        return self.sequence


class _Media(msgspec.Struct):
    payload: str


class _Mark(msgspec.Struct):
    name: str


class _Raw(msgspec.Struct, rename="camel"):
    event: str
    stream_sid: str
    media: _Media | None = None
    mark: _Mark | None = None


@dataclass(frozen=True, slots=True)
class Media:
    """Audio to be played: 8 kHz mono mu-law of any length."""

    audio: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """A name to be echoed when everything before it was played."""

    name: str


@dataclass(frozen=True, slots=True)
class Clear:
    """Forget what was not played."""


class Invalid(Exception):
    """The server sent what Twilio warns about; `code` is the warning."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


_decoder = msgspec.json.Decoder(_Raw)


def understand(text: bytes, stream_sid: str) -> Media | Mark | Clear:
    """Read a message of the server. Raises `Invalid`: 31950 when it is not JSON, 31951 when it is no valid message."""
    try:
        raw = _decoder.decode(text)
    except msgspec.ValidationError as error:
        raise Invalid(31951, f"invalid message: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(31950, f"not decodable: {error}") from error
    if raw.stream_sid != stream_sid:
        raise Invalid(31951, f"streamSid {raw.stream_sid} is not this stream's")
    if raw.event == "media" and raw.media is not None:
        try:
            return Media(binascii.a2b_base64(raw.media.payload, strict_mode=True))
        except (binascii.Error, ValueError) as error:
            raise Invalid(31951, f"payload is not base64: {error}") from error
    if raw.event == "mark" and raw.mark is not None:
        return Mark(raw.mark.name)
    if raw.event == "clear":
        return Clear()
    raise Invalid(31951, f"no valid message for a stream: event {raw.event}")
