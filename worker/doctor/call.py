"""A call from end to end, placed as Twilio places one: webhook, stream, first sound, hang-up.

What it leaves behind is what any caller leaves who hangs up in the greeting: one call in the metrics and, where records are
kept, one record whose SID begins with `carrier.MARK` and whose caller is `carrier.CALLER`; no customer. Nothing is said in it,
so that the model is not asked.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import secrets
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import httpx
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus, WebSocketException

from worker.doctor.carrier import INCOMING, MARK, PUBLIC, STATUS, client_of, form, new_call_sid, post, signature
from worker.doctor.case import Case, Stopwatch
from worker.doctor.findings import Finding, bad, good, timed
from worker.doctor.trouble import trouble, unreachable
from worker.doctor.wire import socket_to

FRAME_S: Final = 0.02
FRAME: Final = base64.b64encode(b"\xff" * 160).decode()
"""20 ms of silence in mu-law."""

SLOW_ANSWER_MS: Final = 2000.0
"""Of the webhook: a caller hears it ring meanwhile."""

SLOW_SOUND_MS: Final = 500.0
"""From `start` to the first sound at this place: a recording leaves within 3 ms, the rest is the way there and back."""

SOUND_S: Final = 5.0
LISTEN_S: Final = 3.0
"""How long the greeting is listened to: a recording comes at once, a spoken one as it is spoken."""

BYTES_PER_S: Final = 8000
EDGE: Final = "does the edge pass WebSockets, and every path as it is, to the router?"


@dataclass(frozen=True, slots=True)
class _Stream:
    """What the TwiML says of the stream."""

    url: str
    action: str
    parameters: Mapping[str, str]


async def call(case: Case) -> AsyncGenerator[Finding, None]:
    """Place a call, listen to its beginning, and hang up."""
    call_sid = new_call_sid()
    async with client_of(case) as client:
        try:
            async for finding in _placed(client, case, call_sid):
                yield finding
        except (httpx.HTTPError, OSError) as error:
            yield trouble(PUBLIC, error)
        finally:
            with contextlib.suppress(httpx.HTTPError, OSError):  # so that it stands in no line
                await post(client, case, case.conf.public_base_url + STATUS, form(case, call_sid, "completed"))


async def _placed(client: httpx.AsyncClient, case: Case, call_sid: str) -> AsyncGenerator[Finding, None]:
    watch = Stopwatch()
    answer = await post(client, case, case.conf.public_base_url + INCOMING, form(case, call_sid, "ringing"))
    if not answer.is_success:
        yield bad(f"{INCOMING} answers {answer.status_code}", "see the check of `signature`, and the router's log")
        return
    stream = _stream(answer.content)
    if stream is None:
        yield bad("no worker was free: the caller is held, or hears an apology", "see the check of `pools`; POOL_READY")
        return
    yield timed(
        "the webhook promises a worker", watch.ms, SLOW_ANSWER_MS, "see how loaded the router and its pools are"
    )
    base = case.conf.public_base_url
    if urlsplit(stream.url).netloc != urlsplit(base).netloc:
        other = urlsplit(stream.url).netloc
        yield bad(f"the stream is to come to {other}: the router has another PUBLIC_BASE_URL", "start it with this one")
        return
    try:
        async with socket_to(stream.url, signature(case, stream.url, {}), case.tls) as socket:
            async for finding in _heard(socket, case, call_sid, stream):
                yield finding
    except InvalidStatus as error:
        yield bad(f"the stream is refused with {error.response.status_code}", EDGE)
    except (WebSocketException, OSError, TimeoutError) as error:
        yield bad(f"the stream broke: {unreachable(error)}", f"{EDGE} See also the pool's log for {call_sid}")
    ended = await post(client, case, stream.action, form(case, call_sid, "completed"))
    if ended.is_success:
        yield good(f"hung up; what is left is a call named {MARK}... without a customer")
    else:
        yield bad(f"the end of the call is answered with {ended.status_code}", "see the router's log")


def _stream(twiml: bytes) -> _Stream | None:
    """Read where a stream is to go; None for TwiML without one."""
    try:
        root = ET.fromstring(twiml)  # noqa: S314 - our own router's
    except ET.ParseError:
        return None
    connect, stream = root.find("Connect"), root.find("Connect/Stream")
    if connect is None or stream is None:
        return None
    parameters = {each.get("name", ""): each.get("value", "") for each in stream.iter("Parameter")}
    return _Stream(stream.get("url", ""), connect.get("action", ""), parameters)


async def _heard(socket: ClientConnection, case: Case, call_sid: str, stream: _Stream) -> AsyncGenerator[Finding, None]:
    """Be silent on the stream, and say when it began to sound and for how long."""
    stream_sid = "MZ" + secrets.token_hex(16)
    await socket.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
    await socket.send(_start(case, call_sid, stream_sid, stream))
    watch = Stopwatch()
    silence = asyncio.create_task(_be_silent(socket, stream_sid))
    try:
        async with asyncio.timeout(SOUND_S):
            first = await _sound(socket)
        ms = watch.ms
        yield timed(
            "first sound after the stream began", ms, SLOW_SOUND_MS, "see `clips`: a recorded greeting is faster"
        )
        seconds, whole = await _rest(socket, first)
        yield good(f"the greeting has {seconds:.1f} s" if whole else f"the greeting has {seconds:.1f} s or more")
    except TimeoutError:
        yield bad(
            f"no sound within {SOUND_S:.0f} s",
            f"see the checks of `voice` and `clips`, and the pool's log for {call_sid}",
        )
    finally:
        silence.cancel()
        await asyncio.wait({silence})
    with contextlib.suppress(WebSocketException):
        own = {"accountSid": case.conf.twilio_account_sid, "callSid": call_sid}
        await socket.send(json.dumps({"event": "stop", "sequenceNumber": "2", "stop": own, "streamSid": stream_sid}))


def _start(case: Case, call_sid: str, stream_sid: str, stream: _Stream) -> str:
    start = {
        "accountSid": case.conf.twilio_account_sid,
        "streamSid": stream_sid,
        "callSid": call_sid,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": dict(stream.parameters),
    }
    return json.dumps({"event": "start", "sequenceNumber": "1", "start": start, "streamSid": stream_sid})


async def _be_silent(socket: ClientConnection, stream_sid: str) -> None:
    """Send silence at the pace of a telephone until cancelled, or until nobody wants it."""
    for number in itertools.count(1):
        timestamp = str(round(number * FRAME_S * 1000))
        media = {"track": "inbound", "chunk": str(number), "timestamp": timestamp, "payload": FRAME}
        said = {"event": "media", "sequenceNumber": str(number + 1), "media": media, "streamSid": stream_sid}
        try:
            await socket.send(json.dumps(said))
        except WebSocketException:
            return
        await asyncio.sleep(FRAME_S)


async def _sound(socket: ClientConnection) -> int:
    """Wait for the next sound; give its bytes, 0 for a mark in its place."""
    while True:
        said: dict[str, Any] = json.loads(await socket.recv())
        if said.get("event") == "media":
            return len(base64.b64decode(said["media"]["payload"]))
        if said.get("event") == "mark":
            return 0


async def _rest(socket: ClientConnection, received: int) -> tuple[float, bool]:
    """Take what else comes of the greeting; give its seconds, and whether its end was heard of."""
    try:
        async with asyncio.timeout(LISTEN_S):
            while size := await _sound(socket):
                received += size
    except TimeoutError:
        return received / BYTES_PER_S, False
    return received / BYTES_PER_S, True
