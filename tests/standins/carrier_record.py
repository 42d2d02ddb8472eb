"""What is known about a call when it is over. Every time is `time.monotonic()` seconds; None means it did not happen."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Notice:
    """An error or warning as Twilio numbers them (its error and warning dictionary)."""

    code: int
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class MediaReceived:
    """One outbound media message: when its last byte was read, and how many bytes of audio it held."""

    at: float
    size: int


@dataclass(slots=True)
class MarkReceived:
    """A mark of the server; `cleared` when a clear, not play-out, caused its echo."""

    name: str
    received_at: float
    echoed_at: float | None = None
    cleared: bool = False


@dataclass(frozen=True, slots=True)
class Exchange:
    """One webhook-like request and its answer; `status` 0 means that none came."""

    purpose: str  # incoming, redirect, action, fallback, update, play
    url: str
    parameters: dict[str, str]
    status: int
    body: bytes
    sent_at: float
    answered_at: float
    content_type: str = ""
    token: str = ""  # I-Twilio-Idempotency-Token


@dataclass(frozen=True, slots=True)
class Spoken:
    """A <Say> or <Play> the caller heard: the text, or the URL and its audio (8 kHz mono mu-law)."""

    kind: str  # say or play
    text: str
    at: float
    language: str = ""
    audio: bytes = field(default=b"", repr=False)


@dataclass(slots=True)
class StreamRecord:
    """One media stream. Filled while it runs; to be read, not changed, by others."""

    stream_sid: str
    url: str
    upgrade_sent: float | None = None  # the request head was written
    upgrade_accepted: float | None = None  # 101 was read
    upgrade_status: int = 0  # 0: no answer
    start_sent: float | None = None
    media: list[MediaReceived] = field(default_factory=list)
    marks: list[MarkReceived] = field(default_factory=list)
    clears: list[float] = field(default_factory=list)
    frames_sent: int = 0
    frames_late: int = 0  # more than 20 ms behind: the carrier itself is overloaded, its figures do not count
    invalid_messages: int = 0  # Twilio reports only the first of a stream
    closed_at: float | None = None
    close_code: int | None = None
    close_reason: str = ""
    closed_by: str = ""  # server, carrier, or lost (no closing handshake)
    repeat_status: int | None = None  # answer to the second upgrade of the fault `upgrade_twice`

    @property
    def first_media_received(self) -> float | None:
        """When the first outbound media message had been read."""
        return self.media[0].at if self.media else None


_NO_STREAM = StreamRecord("", "")


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A finished call.

    `outcome` is Twilio's final status, except that `failed` also covers a call ended by its unusable TwiML.
    The stream's facts are offered here for the first stream; a call that reconnected has several in `streams`.
    """

    call_sid: str
    outcome: str  # completed, busy, no-answer, failed
    ended_by: str  # caller, twiml, rest or error
    documents: tuple[bytes, ...]  # TwiML, in the order received
    verbs: tuple[str, ...]  # executed, by name
    exchanges: tuple[Exchange, ...]
    streams: tuple[StreamRecord, ...]
    spoken: tuple[Spoken, ...]
    dialled: tuple[str, ...]
    notices: tuple[Notice, ...]
    duration_s: float  # answered to ended; 0 when never answered

    @property
    def stream(self) -> StreamRecord:
        """The first stream, or an empty record."""
        return self.streams[0] if self.streams else _NO_STREAM

    @property
    def webhook(self) -> Exchange | None:
        """The first webhook; None for a call that brought its TwiML."""
        return next((exchange for exchange in self.exchanges if exchange.purpose == "incoming"), None)

    @property
    def webhook_sent(self) -> float | None:
        """When the first webhook was sent."""
        return self.webhook.sent_at if self.webhook is not None else None

    @property
    def webhook_answered(self) -> float | None:
        """When its answer had been read, whatever its status."""
        return self.webhook.answered_at if self.webhook is not None and self.webhook.status else None

    @property
    def upgrade_sent(self) -> float | None:
        """When the first media upgrade was written."""
        return self.stream.upgrade_sent

    @property
    def upgrade_accepted(self) -> float | None:
        """When its 101 was read."""
        return self.stream.upgrade_accepted

    @property
    def start_sent(self) -> float | None:
        """When `start` was written."""
        return self.stream.start_sent

    @property
    def first_media_received(self) -> float | None:
        """When the first agent audio was read."""
        return self.stream.first_media_received

    @property
    def codes(self) -> tuple[int, ...]:
        """The numbers of the notices, in order."""
        return tuple(notice.code for notice in self.notices)

    def said(self) -> tuple[str, ...]:
        """Texts of <Say> and URLs of <Play>, in order."""
        return tuple(spoken.text for spoken in self.spoken)
