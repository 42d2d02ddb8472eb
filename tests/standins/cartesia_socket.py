"""What both Cartesia sockets share: admission of an upgrade, one accepted socket, and the desk that knows them all."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from starlette.responses import JSONResponse
from starlette.websockets import WebSocketDisconnect

from tests.standins.cartesia_wire import ERRORS, STRUCTURED_ERRORS, Refused, error
from tests.standins.control import Control

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.websockets import WebSocket

    from tests.standins.speech import Speech

Kind = Literal["tts", "stt"]
BLOCKING_THREADS = 2  # both cores may be busy speaking; more would only make everybody wait


@dataclass(frozen=True, slots=True)
class CartesiaSettings:
    """Latencies in ms and faults. 0 means never or no limit where that is the sensible reading."""

    api_key: str = ""  # the only one accepted; empty accepts any, but one must be there
    connect_ms: float = 150.0  # before the 101
    refuse_status: int = 0  # answer upgrades with this HTTP status
    refuse_kind: str = ""  # only upgrades of this kind: tts or stt
    refuse_next: int = 0  # only so many upgrades are refused, then all is well again
    close_code: int = 1000  # what close_all and the idle limits close with
    tts_first_byte_ms: float = 90.0  # input to first chunk
    tts_realtime_factor: float = 10.0  # generation is this much faster than speech
    tts_chunk_ms: float = 100.0  # audio in one chunk
    tts_chunk_bytes: int = 0  # if not 0, audio in one chunk instead: a sample may be cut, as on any stream of bytes
    tts_tone_hz: float = 0.0  # speak one tone, as long as the words would take, that goes on from input to input
    tts_context_expire_s: float = 1.0  # after its audio would have been heard, if played as it came
    tts_expire_silently: bool = False  # without `done`: what the vendor sends then is not published
    tts_idle_close_s: float = 300.0  # since the last generation
    tts_max_connections: int = 0  # above: 429 on the upgrade
    tts_max_contexts: int = 0  # above: a 429 error event
    tts_error_code: int = 0  # answer inputs with an error event of this status
    tts_error_next: int = 0  # only so many inputs, then all is well again
    stall_tts: bool = False  # accept, never answer
    drop_tts_after_chunks: int = 0  # cut the connection after so many chunks on one socket
    drop_tts_next: int = 0  # only so many connections, then all is well again
    stt_final_ms: float = 100.0  # finalize to final transcript
    stt_interim_ms: float = 500.0  # audio between interim transcripts; scripted speech only
    stt_turn_start_ms: float = 100.0  # turns only: sound until a turn begins
    stt_turn_eager_end_ms: float = 120.0  # silence after a whole sentence until its turn may be over; in steps of 20 ms
    stt_turn_end_ms: float = 240.0  # and until it is
    stt_idle_close_s: float = 180.0  # since the last message
    stt_max_connections: int = 0
    stt_error_code: int = 0  # answer finalize with an error event of this status
    stt_error_next: int = 0  # only so many, then all is well again
    stall_stt: bool = False
    drop_stt_after_s: float = 0.0  # cut the connection this long after it opened


@dataclass(eq=False, slots=True)
class Socket:
    """One accepted WebSocket. Sending on one that has gone does nothing, as on a real network."""

    kind: Kind
    websocket: WebSocket
    version: str
    request_id: str
    opened_at: float = field(default_factory=time.monotonic)
    active_at: float = field(default_factory=time.monotonic)
    closed: bool = False

    async def send(self, text: str) -> None:
        """Send a text frame."""
        if not self.closed:
            try:
                await self.websocket.send_text(text)
            except (RuntimeError, WebSocketDisconnect):  # closed by either side in the meantime
                self.closed = True

    async def refuse(self, refused: Refused) -> None:
        """Send an error event."""
        await self.send(error(self.version, self.request_id, refused, stt=self.kind == "stt"))

    async def close(self, code: int, reason: str = "") -> None:
        """Close in the orderly way."""
        self.closed = True
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await self.websocket.close(code, reason)

    def drop(self) -> None:
        """Cut the connection: no close frame."""
        self.closed = True
        self.websocket.scope["state"]["transport"].abort()

    def touch(self) -> None:
        """Restart the idle clock."""
        self.active_at = time.monotonic()

    async def messages(self) -> AsyncIterator[str | bytes]:
        """Yield text and binary frames until either side closes."""
        while True:
            event = await self.websocket.receive()
            if event["type"] == "websocket.disconnect":
                self.closed = True
                return
            data = event.get("bytes")
            yield event["text"] if data is None else data


class Desk:
    """Admits sockets, knows the open ones, ends those that were idle too long. One for each process."""

    def __init__(self, settings: CartesiaSettings, speech: Speech) -> None:
        self.control = Control(
            settings,
            actions={"close_all": self._close_all, "drop_all": self._drop_all},
            gauges=frozenset({"tts_open", "stt_open", "contexts_open"}),
        )
        self.control.on_change.append(self._look_again)
        self.speech = speech
        self.threads = ThreadPoolExecutor(BLOCKING_THREADS, thread_name_prefix="speech")
        self._sockets: set[Socket] = set()
        self._changed = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def settings(self) -> CartesiaSettings:
        """The settings that hold now."""
        return self.control.settings

    def spend(self, count: str, fault: str) -> None:
        """Use up one of the failures that were ordered; after the last one the fault is over. 0 ordered: it never ends."""
        left = getattr(self.settings, count)
        if left:
            changes: dict[str, Any] = {count: left - 1, **({fault: 0} if left == 1 else {})}
            self.control.settings = dataclasses.replace(self.settings, **changes)

    @contextlib.asynccontextmanager
    async def admitted(self, kind: Kind, websocket: WebSocket) -> AsyncIterator[Socket | None]:
        """Answer an upgrade: an open socket, or None when it was refused. It is forgotten at the end of the block."""
        await asyncio.sleep(self.settings.connect_ms / 1000)
        query, headers = websocket.query_params, websocket.headers
        version = headers.get("cartesia-version") or query.get("cartesia_version") or STRUCTURED_ERRORS
        status = self._refusal(kind, websocket)
        if status:
            self.control.counters[f"{kind}_refused"] += 1
            self.control.note(f"{kind}_refused", status=status)
            code, title = ERRORS.get(status, ("error", "Error"))
            body = {"error_code": code, "title": title, "message": title, "status_code": status}
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await websocket.send_denial_response(JSONResponse(body, status))
            yield None
            return
        socket = Socket(kind, websocket, version, uuid.uuid4().hex)
        self._sockets.add(socket)
        self.control.counters[f"{kind}_open"] += 1
        self.control.counters[f"{kind}_opened"] += 1
        self.control.note(f"{kind}_open", request_id=socket.request_id, version=version, query=dict(query))
        self._look_again()
        try:
            yield socket if await self._accepted(socket) else None
        finally:
            self._sockets.discard(socket)
            self.control.counters[f"{kind}_open"] -= 1
            self.control.note(f"{kind}_closed", request_id=socket.request_id)

    @staticmethod
    async def _accepted(socket: Socket) -> bool:
        """Send the 101; False when the client did not wait for it."""
        try:
            await socket.websocket.accept(headers=[(b"x-request-id", socket.request_id.encode())])
        except (RuntimeError, WebSocketDisconnect):
            return False
        return True

    async def watch(self) -> None:
        """Close idle sockets and drop those whose time has come; runs as long as the process."""
        while True:
            self._changed.clear()
            now = time.monotonic()
            due = [self._due(socket) for socket in self._sockets]
            wait = min((at for at, _ in due), default=now + 3600) - now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(wait, 0.001)):
                    await self._changed.wait()
            for socket in list(self._sockets):
                at, drop = self._due(socket)
                if at <= time.monotonic() and not socket.closed:
                    if drop:
                        socket.drop()
                    else:
                        self._close(socket, "idle timeout")

    def _due(self, socket: Socket) -> tuple[float, bool]:
        """Return when a socket ends if nothing happens (monotonic seconds), and whether by being cut."""
        settings = self.settings
        if socket.closed:
            return float("inf"), False
        idle_s = settings.tts_idle_close_s if socket.kind == "tts" else settings.stt_idle_close_s
        idle = socket.active_at + idle_s if idle_s else float("inf")
        cut = float("inf")
        if socket.kind == "stt" and settings.drop_stt_after_s:
            cut = socket.opened_at + settings.drop_stt_after_s
        return min(idle, cut), cut < idle

    def _refusal(self, kind: Kind, websocket: WebSocket) -> int:
        """Return the HTTP status an upgrade is refused with, or 0."""
        settings, headers, query = self.settings, websocket.headers, websocket.query_params
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        key = headers.get("x-api-key") or bearer or query.get("access_token") or query.get("api_key")
        limit = settings.tts_max_connections if kind == "tts" else settings.stt_max_connections
        if settings.refuse_status and settings.refuse_kind in ("", kind):
            self.spend("refuse_next", "refuse_status")
            return settings.refuse_status
        if not key or (settings.api_key and key != settings.api_key):
            return 401
        if limit and self.control.counters[f"{kind}_open"] >= limit:
            return 429
        return 0

    def _close(self, socket: Socket, reason: str) -> None:
        task = asyncio.get_running_loop().create_task(socket.close(self.settings.close_code, reason))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _close_all(self, which: object) -> None:
        if which not in ("tts", "stt", "all"):
            raise ValueError("close_all: tts, stt or all expected")
        for socket in self._sockets:
            if which in ("all", socket.kind):
                self._close(socket, "closed by the test")

    def _drop_all(self, which: object) -> None:
        if which not in ("tts", "stt", "all"):
            raise ValueError("drop_all: tts, stt or all expected")
        for socket in self._sockets:
            if which in ("all", socket.kind):
                socket.drop()

    def _look_again(self) -> None:
        self._changed.set()
