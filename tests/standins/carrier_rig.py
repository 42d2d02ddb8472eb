"""A small voice server for the carrier's own tests: answers webhooks with what a test says, talks on the stream.

It judges with the vendor's library only (`RequestValidator`, TwiML made by `voice_response`), so that the carrier is
not measured against itself.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from twilio.request_validator import RequestValidator, get_signature_algorithm
from twilio.twiml.voice_response import Connect, VoiceResponse

from tests.standins.carrier import Carrier, CarrierSettings
from tests.standins.control import NumberedHttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request

PUBLIC = "https://voice.example.test"
TOKEN = "carrier-auth-token"
DEADLINE_S = 30.0

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived; `valid` is the vendor's judgement of its signature."""

    path: str
    method: str
    params: dict[str, str]
    headers: dict[str, str]
    valid: bool


@dataclass(slots=True)
class Line:
    """A media stream as the server sees it: every text message in order, and how it ended."""

    socket: WebSocket
    path: str
    valid: bool
    messages: list[Message] = field(default_factory=list)
    odd: list[str | bytes] = field(default_factory=list)  # what was not JSON text
    close_code: int | None = None
    stream_sid: str = ""
    changed: Callable[[], None] = lambda: None

    async def receive(self) -> Message | None:
        """The next message that is JSON; None when the stream is over."""
        while True:
            event = await self.socket.receive()
            if event["type"] == "websocket.disconnect":
                self.close_code = event["code"]
                return None
            text = event.get("text")
            try:
                message: Message = msgspec.json.decode(text if text is not None else b"!", type=dict[str, Any])
            except msgspec.DecodeError:
                self.odd.append(text if text is not None else event["bytes"])
                continue
            self.messages.append(message)
            if message["event"] == "start":
                self.stream_sid = message["streamSid"]
            self.changed()
            return message

    async def until(self, event: str) -> Message | None:
        """Read on to the next `event`."""
        while (message := await self.receive()) is not None and message["event"] != event:
            pass
        return message

    async def send(self, event: str, **body: object) -> None:
        """Send a message of this stream."""
        await self.socket.send_text(
            msgspec.json.encode({"event": event, "streamSid": self.stream_sid, **body}).decode()
        )

    async def play(self, audio: bytes) -> None:
        """Send audio."""
        await self.send("media", media={"payload": base64.b64encode(audio).decode()})

    async def mark(self, name: str) -> None:
        """Send a mark."""
        await self.send("mark", mark={"name": name})

    def events(self) -> list[str]:
        """The names of the messages received, runs of media written once."""
        names = [message["event"] for message in self.messages]
        return [name for name, before in zip(names, [None, *names], strict=False) if name != before or name != "media"]


async def listen(line: Line) -> None:
    """An agent that says nothing."""
    while await line.receive() is not None:
        pass


class Rig:
    """The server. `pages` maps a path to TwiML, a `Response`, or a function of what was received."""

    def __init__(self, port: int) -> None:
        self.target = f"http://127.0.0.1:{port}"
        self.pages: dict[str, str | Response | Callable[[Received], str | Response]] = {
            "/incoming-call": stream_twiml()
        }
        self.received: list[Received] = []
        self.lines: list[Line] = []
        self.agent: Callable[[Line], Awaitable[None]] = listen
        self.refuse_upgrade = 0  # HTTP status
        self.hold_upgrade: asyncio.Event | None = None  # upgrades are answered when it is set
        self._changed = asyncio.Event()
        self._validator = RequestValidator(TOKEN)

    def app(self) -> Starlette:
        """Every path, HTTP and WebSocket."""
        return Starlette(
            routes=[
                Route("/{path:path}", self._http, methods=["GET", "POST"]),
                WebSocketRoute("/{path:path}", self._stream),
            ]
        )

    def at(self, path: str) -> list[Received]:
        """The requests for `path`."""
        return [received for received in self.received if received.path == path]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition`, looked at whenever something was received."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def _http(self, request: Request) -> Response:
        async with request.form() as form:
            params = {name: str(value) for name, value in form.items()}
        url = PUBLIC + request.url.path + (f"?{request.url.query}" if request.url.query else "")
        valid = self._judge(request.headers, url, params)
        params |= dict(request.query_params)
        received = Received(request.url.path, request.method, params, dict(request.headers), valid)
        self.received.append(received)
        self._changed.set()
        page = self.pages.get(request.url.path, Response(status_code=404))
        if not isinstance(page, (str, Response)):
            page = page(received)
        return Response(page, media_type="text/xml") if isinstance(page, str) else page

    async def _stream(self, socket_: WebSocket) -> None:
        path = socket_.scope["raw_path"].decode()
        line = Line(socket_, path, self._judge(socket_.headers, f"wss://voice.example.test{path}", {}))
        line.changed = self._changed.set
        self.lines.append(line)
        self._changed.set()
        if self.hold_upgrade is not None:
            await self.hold_upgrade.wait()
        if self.refuse_upgrade or not line.valid:
            await socket_.send_denial_response(Response(status_code=self.refuse_upgrade or 403))
            return
        await socket_.accept()
        try:
            await self.agent(line)
        except WebSocketDisconnect as end:
            line.close_code = end.code

    def _judge(self, headers: Any, url: str, params: dict[str, str]) -> bool:
        signature = headers.get("x-twilio-signature", "")
        algorithm = get_signature_algorithm(headers.get("x-twilio-webhooks-signature-settings", ""))
        return bool(self._validator.validate(url, params, signature, algorithm))


def stream_twiml(
    url: str = "wss://voice.example.test/media/ticket",
    *,
    action: str = "",
    parameters: dict[str, str] | None = None,
    after: Callable[[VoiceResponse], object] | None = None,
    **attributes: str,
) -> str:
    """A document that connects a stream, made by the vendor's library; `after` adds verbs behind it."""
    response = VoiceResponse()
    connect = Connect(action=action) if action else Connect()
    stream = connect.stream(url=url, **attributes)
    for name, value in (parameters or {}).items():
        stream.parameter(name=name, value=value)
    response.append(connect)
    if after is not None:
        after(response)
    return str(response)


@asynccontextmanager
async def calling(**settings: Any) -> AsyncIterator[tuple[Rig, Carrier]]:
    """A server and a carrier that calls it; verbs take no time unless `fast_verbs` says so."""
    settings = {"fast_verbs": True, "close_wait_s": 0.5, **settings}
    async with rig() as server:
        made = CarrierSettings(target=server.target, public_base_url=PUBLIC, auth_token=TOKEN, **settings)
        async with Carrier(made) as carrier:
            yield server, carrier


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    """Run the server on a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # who connects before the server runs waits, and is not refused
        result = Rig(listener.getsockname()[1])
        config = uvicorn.Config(
            result.app(),
            http=NumberedHttp,
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        task = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
        try:
            yield result
        finally:
            server.should_exit = True
            await task
