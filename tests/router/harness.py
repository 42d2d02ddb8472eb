"""A router on a real socket, in the loop of the test, and what a test needs to speak to it as Twilio does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import uvicorn
from prometheus_client import CollectorRegistry
from twilio.request_validator import RequestValidator
from websockets.asyncio.client import connect

from router.app import build
from router.parts import Outside, Parts, assemble
from router.serving import listen, server
from router.twilio import MessageReport
from shared.calls import CallSid, EndReason, IncomingCall
from shared.holdline import HoldLine, NoHoldLine
from shared.processes import Process
from shared.settings import Settings, load
from shared.ticket import Ticket, TicketOffice
from shared.traces import Traces

T = TypeVar("T")
TOKEN = "a-made-up-auth-token"
BASE = "https://voice.example.test"
SID = "CA" + "0123456789abcdef" * 2
DEADLINE_S = 20.0
"""For things that take milliseconds: only a test that fails waits for it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body."""
        return self.body.decode()


def settings_for(folder: Path, **overrides: Any) -> Settings:
    """The settings of a router under test."""
    values: dict[str, Any] = {
        "public_base_url": BASE,
        "twilio_auth_token": TOKEN,
        "handoff_dir": folder,
        "router_host": "127.0.0.1",
        "router_port": 0,
        "_env_file": None,
    }
    return load(Process.ROUTER, **values | overrides)


def params_for(**changes: str | None) -> dict[str, str]:
    """The form of a webhook; a parameter changed to None is left out."""
    params: dict[str, str | None] = {
        "CallSid": SID,
        "AccountSid": "AC" + "0" * 32,
        "From": "+5511999990000",
        "To": "+15005550006",
        "CallStatus": "ringing",
        "ApiVersion": "2010-04-01",
        "Direction": "inbound",
        "SomethingNew": "á & b",
        **changes,
    }
    return {name: value for name, value in params.items() if value is not None}


def signature(url: str, params: Mapping[str, str | list[str]] | None = None, algorithm: str = "HMAC_SHA1") -> str:
    """Sign as Twilio's own library does."""
    return str(RequestValidator(TOKEN).compute_signature(url, params or {}, algorithm))


@dataclass(slots=True, eq=False)
class Router:
    """A running router, and what its outside was told."""

    port: int
    parts: Parts
    queued: list[IncomingCall]
    state: "Outer"
    connections: set[Any]

    @property
    def office(self) -> TicketOffice:
        """Who signs its tickets."""
        return self.parts.door.office

    def metric(self, name: str, **labels: str) -> float:
        """The value of a sample."""
        registry: CollectorRegistry = self.parts.health.registry
        return registry.get_sample_value(name, labels) or 0.0

    async def send(self, raw: bytes) -> Answer:
        """Send bytes on a connection of their own; the answer ends with the connection."""
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(raw)
                data = await reader.read(-1)
            finally:
                writer.close()
        return parse(data)

    async def request(
        self, method: str, target: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """Make one request."""
        given = {"host": "somebody.else.test", "connection": "close", "content-length": str(len(body))}
        lines = [f"{name}: {value}" for name, value in (given | dict(headers or {})).items()]
        return await self.send("\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("latin-1") + body)

    async def post(
        self, target: str = "/incoming-call", params: Mapping[str, str] | None = None, **headers: str
    ) -> Answer:
        """Post a signed form; header names are given with underscores, an empty value leaves one out."""
        params = params_for() if params is None else params
        given = {
            "content-type": "application/x-www-form-urlencoded; charset=UTF-8",
            "x-twilio-signature": signature(BASE + target, params),
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        given = {name: value for name, value in given.items() if value}
        return await self.request("POST", target, headers=given, body=urlencode(params).encode())

    async def get(self, target: str, **headers: str) -> Answer:
        """Get a page."""
        return await self.request(
            "GET", target, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    def upgrade(self, segment: str, *, sign: bool = True, **options: Any) -> connect:
        """Open a media stream as Twilio does."""
        path = f"/media/{segment}"
        headers = {"X-Twilio-Signature": signature("wss" + BASE.removeprefix("https") + path)} if sign else {}
        return connect(f"ws://127.0.0.1:{self.port}{path}", additional_headers=headers, **options)


@dataclass(slots=True, eq=False)
class Outer:
    """What stands in for Redis: `queue_works` is what queueing says, `ends` (with `dial`) and `traces` are what is stored.

    Of `traces` each look takes one, the last one stays.
    """

    queue_works: bool = True
    queue_gate: asyncio.Event = field(default_factory=asyncio.Event)  # queueing waits for it
    ends: dict[tuple[CallSid, int], EndReason] = field(default_factory=dict)
    dial: str = ""
    end_error: Exception | None = None
    traces: list[Traces] = field(default_factory=lambda: [Traces()])
    closed: bool = False
    reports: list[MessageReport] = field(default_factory=list)


@contextlib.asynccontextmanager
async def running(
    folder: Path, clips: Mapping[str, bytes] | None = None, hold_line: HoldLine | None = None, **overrides: Any
) -> AsyncIterator[Router]:
    """Run a router until left; without a hold line it keeps one of its own."""
    outer, queued = Outer(), list[IncomingCall]()
    outer.queue_gate.set()

    async def enqueue(call: IncomingCall) -> bool:
        queued.append(call)
        await outer.queue_gate.wait()
        return outer.queue_works

    async def look(ticket: Ticket) -> Traces:
        if outer.end_error is not None:
            raise outer.end_error
        reason = outer.ends.get((ticket.call_sid, ticket.attempt))
        if reason is not None:
            return Traces(ended=True, reason=reason, dial=outer.dial)
        return outer.traces.pop(0) if len(outer.traces) > 1 else outer.traces[0]

    async def report(said: MessageReport) -> bool:
        outer.reports.append(said)
        return outer.queue_works

    async def close() -> None:
        outer.closed = True

    settings = settings_for(folder, **overrides)
    parts = assemble(settings, clips or {}, Outside(enqueue, look, close, hold_line or NoHoldLine(), report))
    sock = listen("127.0.0.1", 0)
    web: uvicorn.Server = server(build(parts))
    task = asyncio.create_task(web.serve(sockets=[sock]))
    try:
        await until(lambda: web.started or task.done())
        yield Router(sock.getsockname()[1], parts, queued, outer, web.server_state.connections)
    finally:
        web.should_exit = True
        await task


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until a condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in code that knows nothing of tests
            await asyncio.sleep(0.005)


async def soon(awaitable: Awaitable[T]) -> T:
    """Wait for something that must come."""
    async with asyncio.timeout(DEADLINE_S):
        return await awaitable


def parse(data: bytes) -> Answer:
    """Read an answer that ended with its connection; status 0 when there was none."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if not lines[0].startswith("HTTP/1.1 "):
        return Answer(0, {}, data)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return Answer(int(lines[0].split()[1]), headers, body)
