"""The carrier's media messages, sans-I/O: what a text frame says, and how ours are written. Pure.

Nothing in here raises for what the carrier sends: a message is an event or an oddity, and the call goes on.

Source: Twilio docs, Media Streams "WebSocket messages" (numbers are JSON strings; `connected` has no sequenceNumber).
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from shared.metrics import Oddity

MAX_FRAME_BYTES: Final = 65_536
"""Twilio's own messages stay below 1 KiB; anything larger is not Twilio's."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The stream is open; `start` follows at once."""


@dataclass(frozen=True, slots=True)
class Started:
    """What the stream belongs to. `parameters` are the `<Parameter>`s of the TwiML."""

    stream_sid: str
    call_sid: str
    parameters: dict[str, str]


@dataclass(frozen=True, slots=True)
class Audio:
    """The caller's sound: 8 kHz mono mu-law, usually 160 bytes = 20 ms, but no page promises that."""

    ulaw: bytes


@dataclass(frozen=True, slots=True)
class Digit:
    """A key the caller pressed."""

    digit: str


@dataclass(frozen=True, slots=True)
class MarkEchoed:
    """Everything sent before this mark was played, or was cleared."""

    name: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The caller hung up or the call left the stream."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The first message of a stream whose `start` a predecessor has read; what else it says is dropped."""

    stream_sid: str


Event = Connected | Started | Joined | Audio | Digit | MarkEchoed | Stopped


class _Start(msgspec.Struct):
    callSid: str = ""  # noqa: N815 - the wire's name
    streamSid: str = ""  # noqa: N815 - the wire's name
    customParameters: dict[str, Any] = {}  # noqa: N815 - the wire's name


class _Media(msgspec.Struct):
    payload: str = ""
    track: str = "inbound"


class _Dtmf(msgspec.Struct):
    digit: str = ""


class _Mark(msgspec.Struct):
    name: str = ""


class _Message(msgspec.Struct):
    event: str = ""
    streamSid: str = ""  # noqa: N815 - the wire's name
    sequenceNumber: str | int = ""  # noqa: N815 - the wire's name
    start: _Start | None = None
    media: _Media | None = None
    dtmf: _Dtmf | None = None
    mark: _Mark | None = None


_decoder: Final = msgspec.json.Decoder(_Message)


@dataclass(slots=True)
class Codec:
    """Reads one stream's messages in order; remembers its streamSid and sequence numbers.

    With `joining` the stream may have begun before: its streamSid is taken from any message.
    """

    stream_sid: str = ""
    joining: bool = False
    _next_sequence: int = 0

    def read(self, text: bytes) -> tuple[Event | None, Oddity | None]:
        """Read one text frame: its event, if it is one of ours, and what is odd about it, if anything is."""
        try:
            message = _decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # 64 KiB of brackets nest too deep
            return None, Oddity.INVALID_JSON
        if self.stream_sid and message.streamSid and message.streamSid != self.stream_sid:
            return None, Oddity.WRONG_STREAM
        gap = self._sequence(message)
        if self.joining and not self.stream_sid and message.streamSid and message.event != "start":
            self.stream_sid = message.streamSid
            return Joined(message.streamSid), gap
        event, oddity = self._event(message)
        return event, oddity or gap

    def _event(self, message: _Message) -> tuple[Event | None, Oddity | None]:
        match message:
            case _Message(event="media", media=_Media() as media):
                return self._audio(media)
            case _Message(event="connected"):
                return Connected(), None
            case _Message(event="start", start=_Start() as start):
                return self._started(message, start)
            case _Message(event="mark", mark=_Mark() as mark):
                return MarkEchoed(mark.name), None
            case _Message(event="dtmf", dtmf=_Dtmf() as dtmf):
                return Digit(dtmf.digit), None
            case _Message(event="stop"):
                return Stopped(), None
            case _:
                return None, Oddity.UNKNOWN_EVENT

    def _started(self, message: _Message, start: _Start) -> tuple[Event | None, Oddity | None]:
        if self.stream_sid:
            return None, Oddity.UNKNOWN_EVENT  # `start` comes once
        stream_sid = message.streamSid or start.streamSid
        if not stream_sid:
            return None, Oddity.INVALID_JSON
        self.stream_sid = stream_sid
        parameters = {name: str(value) for name, value in start.customParameters.items()}
        return Started(stream_sid=stream_sid, call_sid=start.callSid, parameters=parameters), None

    def _audio(self, media: _Media) -> tuple[Event | None, Oddity | None]:
        if media.track != "inbound":
            return None, Oddity.UNKNOWN_EVENT  # the other track is our own voice: the agent must not hear itself
        try:
            ulaw = base64.b64decode(media.payload, validate=True)
        except (binascii.Error, ValueError):
            return None, Oddity.BAD_PAYLOAD
        return (Audio(ulaw), None) if ulaw else (None, Oddity.BAD_PAYLOAD)

    def _sequence(self, message: _Message) -> Oddity | None:
        try:
            number = int(message.sequenceNumber)
        except ValueError:
            return None
        expected, self._next_sequence = self._next_sequence, number + 1
        return Oddity.SEQUENCE_GAP if expected and number != expected else None


def media_prefix(stream_sid: str) -> str:
    """Give what stands before the base64 of every media message of a stream; `MEDIA_SUFFIX` closes it."""
    return f'{{"event":"media","streamSid":{_quoted(stream_sid)},"media":{{"payload":"'


MEDIA_SUFFIX: Final = '"}}'


def mark_message(stream_sid: str, name: str) -> str:
    """Write a mark: it comes back when everything before it was played, or when it was cleared."""
    return f'{{"event":"mark","streamSid":{_quoted(stream_sid)},"mark":{{"name":{_quoted(name)}}}}}'


def clear_message(stream_sid: str) -> str:
    """Write the order to drop what the carrier has buffered; it echoes every pending mark."""
    return f'{{"event":"clear","streamSid":{_quoted(stream_sid)}}}'


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()
