"""Get TwiML or audio from the system under test, with Twilio's error numbers for what can go wrong."""

from __future__ import annotations

import io
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.standins.carrier_http import ConnectFailed, RequestBroken
from tests.standins.carrier_record import Exchange
from tests.standins.carrier_requests import Post, request
from tests.standins.carrier_twiml import TwimlError, Verb, parse

if TYPE_CHECKING:
    from tests.standins.carrier_settings import CarrierSettings

OK = range(200, 300)
XML = frozenset({"text/xml", "application/xml"})
WAV = frozenset({"audio/wav", "audio/x-wav", "audio/wave"})
PCM, MULAW = 1, 7
RATE_HZ = 8000
CHUNK_HEAD_BYTES = 8


class FetchFailed(Exception):
    """What was asked for could not be had or used; `code` is Twilio's number, `exchange` what happened."""

    def __init__(self, code: int, text: str, exchange: Exchange) -> None:
        super().__init__(text)
        self.code = code
        self.exchange = exchange


@dataclass(frozen=True, slots=True)
class Document:
    """TwiML that arrived; relative URLs in it count from `url`."""

    url: str
    verbs: tuple[Verb, ...]
    exchange: Exchange | None = None  # None: it came inside a REST request


async def exchange(settings: CarrierSettings, purpose: str, post: Post) -> Exchange:
    """Send `post`; raises `FetchFailed` with 11205 (no answer) or 11200 (an answer other than 2xx)."""
    sent_at = time.monotonic()
    try:
        answer = await request(settings, post)
    except (ConnectFailed, RequestBroken) as error:
        nothing = Exchange(purpose, post.url, post.params, 0, b"", sent_at, time.monotonic())
        raise FetchFailed(11205, f"{purpose} {post.url}: {error}", nothing) from error
    done = Exchange(
        purpose,
        post.url,
        post.params,
        answer.status,
        answer.body,
        answer.sent_at,
        answer.answered_at,
        answer.content_type,
        post.idempotency_token,
    )
    if answer.status not in OK:
        raise FetchFailed(11200, f"{purpose} {post.url}: HTTP {answer.status}", done)
    return done


async def document(settings: CarrierSettings, purpose: str, post: Post) -> Document:
    """Fetch TwiML; raises `FetchFailed` also with 12300 (not XML by its type) and the codes of `parse`."""
    done = await exchange(settings, purpose, post)
    if done.content_type not in XML:
        raise FetchFailed(12300, f"{purpose} {post.url}: content type {done.content_type!r}", done)
    try:
        return Document(post.url, parse(done.body), done)
    except TwimlError as error:
        raise FetchFailed(error.code, f"{purpose} {post.url}: {error}", done) from error


async def audio(settings: CarrierSettings, url: str) -> tuple[Exchange, bytes]:
    """Fetch what <Play> names: 8 kHz mono mu-law. Raises `FetchFailed`, with 12300 when it cannot be decoded."""
    done = await exchange(settings, "play", Post(url, {}, "GET", "missing"))
    if done.content_type == "audio/basic":
        return done, done.body
    if done.content_type not in WAV:
        raise FetchFailed(12300, f"play {url}: content type {done.content_type!r}", done)
    try:
        return done, decode_wav(done.body)
    except (ValueError, struct.error) as error:
        raise FetchFailed(12300, f"play {url}: {error}", done) from error


def decode_wav(data: bytes) -> bytes:
    """The audio of a WAV file as mu-law. Raises ValueError unless it is 8 kHz mono, 16-bit PCM or mu-law.

    Twilio converts other rates; a server that sends them makes the caller wait and hear worse, so it is an error here.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise ValueError("not a WAV file")
    chunks = _chunks(io.BytesIO(data[12:]))
    if "fmt " not in chunks or "data" not in chunks:
        raise ValueError("WAV file without fmt or data")
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunks["fmt "])
    if (channels, rate) != (1, RATE_HZ):
        raise ValueError(f"{rate} Hz with {channels} channels, not 8000 Hz mono")
    if (kind, bits) == (MULAW, 8):
        return chunks["data"]
    if (kind, bits) == (PCM, 16):
        import audioop  # late: deprecated in 3.11, and only <Play> needs it

        return audioop.lin2ulaw(chunks["data"], 2)
    raise ValueError(f"format {kind} with {bits} bits")


def _chunks(data: io.BytesIO) -> dict[str, bytes]:
    found = {}
    while len(head := data.read(CHUNK_HEAD_BYTES)) == CHUNK_HEAD_BYTES:
        name, size = struct.unpack("<4sI", head)
        found[name.decode("latin-1")] = data.read(size)
        data.read(size % 2)
    return found
