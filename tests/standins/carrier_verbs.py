"""What single verbs do to a call."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.standins import carrier_fetch
from tests.standins.carrier_fetch import FetchFailed
from tests.standins.carrier_http import ConnectFailed
from tests.standins.carrier_messages import StreamIds
from tests.standins.carrier_plan import StreamPlan
from tests.standins.carrier_record import Spoken
from tests.standins.carrier_requests import Post, absolute, common_headers, path_at_target, peer
from tests.standins.carrier_sign import Sign, new_sid, signature_headers
from tests.standins.carrier_stream import MediaStream
from tests.standins.carrier_wire import Upgrade, Wire, WireEnd

if TYPE_CHECKING:
    from tests.standins.carrier_call import Call
    from tests.standins.carrier_fetch import Document
    from tests.standins.carrier_settings import CarrierSettings
    from tests.standins.carrier_twiml import Dial, Pause, Play, Say, Stream

CHARACTERS_PER_S = 15.0  # of <Say>: an ordinary pace
RATE_HZ = 8000
END_CODES = {
    "server": (31921, "the server closed the stream"),
    "lost": (31903, "the stream's connection was lost"),
    "violation": (31924, "WebSocket protocol error"),
}


async def say(call: Call, verb: Say) -> None:
    """Speak."""
    call.spoken.append(Spoken("say", verb.text, time.monotonic(), verb.language))
    await _takes(call, len(verb.text) / CHARACTERS_PER_S)


async def play(call: Call, document: Document, verb: Play) -> None:
    """Fetch a recording from the system under test and play it; one from elsewhere is only written down."""
    url = absolute(call.settings, verb.url, document.url)
    audio = b""
    if url.startswith(call.settings.public_base_url):
        try:
            exchange, audio = await carrier_fetch.audio(call.settings, url)
        except FetchFailed as failed:
            call.exchanges.append(failed.exchange)
            call.notice(failed.code, str(failed))
            return
        call.exchanges.append(exchange)
    call.spoken.append(Spoken("play", url, time.monotonic(), audio=audio))
    await _takes(call, verb.loop * len(audio) / RATE_HZ)


async def pause(call: Call, verb: Pause) -> None:
    """Wait."""
    await _takes(call, verb.seconds)


async def dial(call: Call, verb: Dial) -> dict[str, str]:
    """Write down who would be called; return what its action is told."""
    call.dialled.extend(verb.numbers)
    await _takes(call, call.settings.dial_seconds)
    seconds = round(call.settings.dial_seconds) if call.settings.dial_result == "completed" else 0
    return {
        "DialCallSid": new_sid("CA"),
        "DialCallStatus": call.settings.dial_result,
        "DialCallDuration": str(seconds),
    }


async def _takes(call: Call, seconds: float) -> None:
    call.changed()
    await call.pause(0.0 if call.settings.fast_verbs else seconds)


async def stream(call: Call, document: Document, verb: Stream) -> str:
    """Run a media stream to its end; return `MediaStream.run`'s word for that, or `unreachable` for a bad URL."""
    if verb.action:
        url = absolute(call.settings, verb.action, document.url)
        call.pending_action = (url, verb.action_method)
    plan = _plan(call, document, verb)
    if plan is None:
        return "unreachable"
    await call.pause(call.settings.answer_delay_s + plan.faults.upgrade_delay_s)
    if call.order.done():
        return "carrier"
    media = MediaStream(plan, call.clock, call.wheel, call)
    call.stream = media
    call.streams.append(media.record)
    callback = _Callback(call, verb, plan)

    def started() -> None:
        callback.tell("stream-started")
        if plan.faults.upgrade_twice:
            call.spawn(_dial_again(call, media, plan))

    call.on_started = started
    end = await media.run()
    call.stream = None
    if end in END_CODES and not call.order.done():
        call.notice(*END_CODES[end])
        callback.tell("stream-error", END_CODES[end][1])
    elif end in {"refused", "unreachable"}:
        callback.tell("stream-error", call.notices[-1].text)
    if media.record.start_sent is not None:
        callback.tell("stream-stopped")
    return end


async def _dial_again(call: Call, media: MediaStream, plan: StreamPlan) -> None:
    """Use the same URL, and so the same ticket, a second time."""
    media.record.repeat_status = await upgrade_status(plan.settings, plan.url)
    call.changed()


def _plan(call: Call, document: Document, verb: Stream) -> StreamPlan | None:
    """Decide where to dial, or note why not."""
    settings, faults = call.settings, call.dialling.faults
    base = document.url.replace("http", "ws", 1)
    url = absolute(settings, verb.url, base).split("?")[0]  # Twilio strips query strings: error 31920
    if urlsplit(url).scheme != "wss" and not (settings.allow_ws and urlsplit(url).scheme == "ws"):
        call.notice(31922, f"stream URL {url} is not wss")
        return None
    try:
        upgrade = _upgrade(settings, url, _sign(faults.upgrade_signature))
    except ConnectFailed as error:
        call.notice(31902, str(error))
        return None
    ids = StreamIds(settings.account_sid, call.call_sid, new_sid("MZ"))
    return StreamPlan(settings, faults, ids, url, upgrade, verb.parameters)


def _sign(word: str) -> Sign:
    match word:
        case "valid" | "missing" | "wrong":
            return word
        case _:
            raise ValueError(f"upgrade_signature: valid, missing or wrong expected, not {word}")


def _upgrade(settings: CarrierSettings, url: str, sign: Sign) -> Upgrade:
    """The upgrade request for `url`: signed over exactly this URL and no parameters."""
    headers = {
        **common_headers(settings),
        "User-Agent": "Twilio.TmeWs/1.0",
        **signature_headers(settings, url, {}, sign),
    }
    del headers["Host"]
    return Upgrade(urlsplit(url).netloc, path_at_target(settings, url), headers)


async def upgrade_status(settings: CarrierSettings, url: str, sign: Sign = "valid") -> int:
    """Dial `url` and return only how the upgrade was answered; 0 means not at all. The connection is dropped at once.

    Raises `ConnectFailed` when `url` is not below the public base URL.
    """
    loop = asyncio.get_running_loop()
    probe = _Probe(loop.create_future())
    wire = Wire(_upgrade(settings, url, sign), probe)
    try:
        async with asyncio.timeout(settings.upgrade_timeout_s):
            await loop.create_connection(lambda: wire, **peer(settings).address())
            return await probe.status
    except (OSError, TimeoutError):
        return 0
    finally:
        wire.abort()


@dataclass(frozen=True, slots=True)
class _Probe:
    """Wants to know the answer to an upgrade and nothing else."""

    status: asyncio.Future[int]

    def on_answer(self, status: int, at: float) -> None:
        del at
        if not self.status.done():
            self.status.set_result(status)

    def on_text(self, text: bytes, at: float) -> None:
        """Not wanted."""

    def on_binary(self, at: float) -> None:
        """Not wanted."""

    def on_lost(self, end: WireEnd) -> None:
        self.on_answer(0, end.at)


class _Callback:
    """The statusCallback of one stream. Source: Twilio docs, TwiML <Stream>."""

    def __init__(self, call: Call, verb: Stream, plan: StreamPlan) -> None:
        self._call = call
        self._verb = verb
        self._plan = plan

    def tell(self, event: str, error: str = "") -> None:
        """Post `event` beside the call, if the stream asked for it."""
        if not self._verb.status_callback:
            return
        ids = self._plan.ids
        params = {
            "AccountSid": ids.account_sid,
            "CallSid": ids.call_sid,
            "StreamSid": ids.stream_sid,
            "StreamName": self._verb.name or ids.stream_sid,
            "StreamEvent": event,
            "Timestamp": datetime.now(UTC).isoformat(),
        }
        if error:
            params["StreamError"] = error
        post = Post(self._verb.status_callback, params, self._verb.status_callback_method)
        self._call.spawn(tell(self._call, "stream-status", post))


async def tell(call: Call, purpose: str, post: Post) -> None:
    """Make a request whose answer is not followed."""
    try:
        call.exchanges.append(await carrier_fetch.exchange(call.settings, purpose, post))
    except FetchFailed as failed:
        call.exchanges.append(failed.exchange)
        call.notice(failed.code, str(failed))
