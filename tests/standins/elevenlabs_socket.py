"""What both ElevenLabs sockets share: admission of an upgrade, one accepted socket, and the desk that knows them all."""

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

from tests.standins import elevenlabs_wire as wire
from tests.standins.control import Control

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.websockets import WebSocket

    from tests.standins.speech import Speech

Kind = Literal["tts", "stt"]
KINDS = ("tts", "stt")
BLOCKING_THREADS = 2  # both cores may be busy speaking; more would only make everybody wait


@dataclass(frozen=True, slots=True)
class ElevenLabsSettings:
    """Latencies in ms and faults. 0 means never or no limit where that is the sensible reading."""

    api_key: str = ""  # the only one accepted; empty accepts any, but one must be there
    voices: str = ""  # the only ones there are, separated by commas; empty: any
    connect_ms: float = 150.0  # before the 101
    refuse_status: int = 0  # answer upgrades with this HTTP status
    refuse_kind: str = ""  # only upgrades of this kind: tts or stt
    refuse_next: int = 0  # only so many upgrades are refused, then all is well again
    close_code: int = 1000  # what close_all closes with
    tts_first_byte_ms: float = 90.0  # text to first piece of sound
    tts_realtime_factor: float = 10.0  # generation is this much faster than speech
    tts_chunk_ms: float = 100.0  # sound in one message
    tts_odd_bytes: bool = False  # messages end in the middle of a sample
    tts_each_aligned: bool = (
        False  # times come with each message, as with `sync_alignment`; otherwise with a segment's first
    )
    tts_final_ms: float = 0.0  # from the end of a closed context's sound to its `isFinal`
    tts_idle_close_s: float = float(wire.INACTIVITY_S)  # unless `inactivity_timeout` says otherwise
    tts_max_connections: int = 0  # above: 429 on the upgrade
    tts_max_contexts: int = wire.CONTEXTS
    tts_error: str = ""  # answer texts with this error
    tts_error_next: int = 0  # only so many texts, then all is well again
    stall_tts: bool = False  # accept, never answer
    drop_tts_after_chunks: int = 0  # cut the connection after so many messages with sound on one socket
    drop_tts_next: int = 0  # only so many connections, then all is well again
    stt_final_ms: float = 100.0  # commit to committed transcript
    stt_partial_ms: float = 500.0  # audio between partial transcripts; scripted speech only
    stt_idle_close_s: float = 15.0  # since the last message; Source: measured by others, the docs do not say
    stt_auto_commit_s: float = 36.0  # audio that nobody commits; Source: measured, the docs say 90
    stt_max_connections: int = 0
    stt_error: str = ""  # answer commits with this error
    stt_error_next: int = 0  # only so many, then all is well again
    stt_twice_next: int = 0  # answer so many commits twice
    stt_never_next: int = 0  # leave so many commits without an answer
    stall_stt: bool = False
    drop_stt_after_s: float = 0.0  # cut the connection this long after it opened


@dataclass(eq=False, slots=True)
class Socket:
    """One accepted WebSocket. Sending on one that has gone does nothing, as on a real network."""

    kind: Kind
    websocket: WebSocket
    request_id: str
    idle_s: float = 0.0
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

    async def refuse(self, refused: wire.Refused) -> None:
        """Send an error frame and close, as the vendor does after every error."""
        if self.kind == "tts":
            message, reason = wire.tts_error(refused)
            await self.send(message)
            await self.close(wire.POLICY_VIOLATION, reason)
        else:
            await self.send(wire.stt_error(refused))
            await self.close(wire.NORMAL, refused.code if refused.code == "commit_throttled" else "")

    async def close(self, code: int, reason: str = "") -> None:
        """Close in the orderly way."""
        self.closed = True
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await self.websocket.close(code, reason)

    def drop(self) -> None:
        """Cut the connection: no close frame."""
        self.closed = True
        self.websocket.scope["state"]["transport"].abort()

    async def messages(self) -> AsyncIterator[str]:
        """Yield text frames until either side closes; each starts the idle clock anew."""
        while not self.closed:
            event = await self.websocket.receive()
            if event["type"] == "websocket.disconnect":
                self.closed = True
                return
            self.active_at = time.monotonic()
            yield event.get("text") or ""


class Desk:
    """Admits sockets, knows the open ones, ends those that were idle too long. One for each process."""

    def __init__(self, settings: ElevenLabsSettings, speech: Speech) -> None:
        self.control = Control(
            settings,
            actions={"close_all": self._close_all, "drop_all": self._drop_all},
            gauges=frozenset({"tts_open", "stt_open", "contexts_open"}),
        )
        self.control.on_change.append(self.look_again)
        self.speech = speech
        self.threads = ThreadPoolExecutor(BLOCKING_THREADS, thread_name_prefix="speech")
        self._sockets: set[Socket] = set()
        self._changed = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def settings(self) -> ElevenLabsSettings:
        """The settings that hold now."""
        return self.control.settings

    def spend(self, count: str, fault: str = "") -> None:
        """Use up one of the failures that were ordered; after the last one the fault is over. 0 ordered: it never ends."""
        left = getattr(self.settings, count)
        if left:
            over: dict[str, Any] = {fault: type(getattr(self.settings, fault))()} if fault and left == 1 else {}
            self.control.settings = dataclasses.replace(self.settings, **{count: left - 1, **over})

    @contextlib.asynccontextmanager
    async def admitted(self, kind: Kind, websocket: WebSocket, refusal: int = 0) -> AsyncIterator[Socket | None]:
        """Answer an upgrade: an open socket, or None when it was refused. It is forgotten at the end of the block."""
        await asyncio.sleep(self.settings.connect_ms / 1000)
        status = refusal or self._refusal(kind)
        if status:
            self.control.counters[f"{kind}_refused"] += 1
            self.control.note(f"{kind}_refused", status=status)
            body = {"detail": {"status": "refused", "message": "made to fail"}}
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await websocket.send_denial_response(JSONResponse(body, status))
            yield None
            return
        idle_s = self.settings.tts_idle_close_s if kind == "tts" else self.settings.stt_idle_close_s
        asked = websocket.query_params.get("inactivity_timeout", "")
        if kind == "tts" and asked.isdecimal():
            idle_s = min(float(asked), wire.MOST_INACTIVITY_S)
        socket = Socket(kind, websocket, uuid.uuid4().hex, idle_s)
        self._sockets.add(socket)
        self.control.counters[f"{kind}_open"] += 1
        self.control.counters[f"{kind}_opened"] += 1
        said = {"path": websocket.url.path, "query": dict(websocket.query_params)}
        self.control.note(f"{kind}_open", request_id=socket.request_id, **said)
        self.look_again()
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
            await socket.websocket.accept()
        except (RuntimeError, WebSocketDisconnect):
            return False
        return True

    def knows(self, websocket: WebSocket, given: str | None = None) -> bool:
        """Say whether a key is good: the one of the header, or the one in a message."""
        key = websocket.headers.get("xi-api-key") or given
        return bool(key) and self.settings.api_key in ("", key)

    def speaks(self, voice: str) -> bool:
        """Say whether there is such a voice."""
        return not self.settings.voices or voice in self.settings.voices.split(",")

    async def watch(self) -> None:
        """Close idle sockets and drop those whose time has come; runs as long as the process."""
        while True:
            self._changed.clear()
            now = time.monotonic()
            wait = min((self._due(socket)[0] for socket in self._sockets), default=now + 3600) - now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(wait, 0.001)):
                    await self._changed.wait()
            for socket in list(self._sockets):
                at, drop = self._due(socket)
                if at <= time.monotonic() and not socket.closed:
                    if drop:
                        socket.drop()
                    elif socket.kind == "tts":
                        self._in_background(
                            socket.refuse(wire.Refused("input_timeout_exceeded", seconds=socket.idle_s))
                        )
                        socket.active_at = float("inf")
                    else:
                        self._in_background(socket.close(wire.NORMAL))

    def _due(self, socket: Socket) -> tuple[float, bool]:
        """Return when a socket ends if nothing happens (monotonic seconds), and whether by being cut."""
        if socket.closed:
            return float("inf"), False
        idle = socket.active_at + socket.idle_s if socket.idle_s else float("inf")
        cut = float("inf")
        if socket.kind == "stt" and self.settings.drop_stt_after_s:
            cut = socket.opened_at + self.settings.drop_stt_after_s
        return min(idle, cut), cut < idle

    def _refusal(self, kind: Kind) -> int:
        """Return the HTTP status an upgrade is refused with, or 0. A wrong key is none: it is told after the 101."""
        settings = self.settings
        limit = settings.tts_max_connections if kind == "tts" else settings.stt_max_connections
        if settings.refuse_status and settings.refuse_kind in ("", kind):
            self.spend("refuse_next", "refuse_status")
            return settings.refuse_status
        return 429 if limit and self.control.counters[f"{kind}_open"] >= limit else 0

    def _in_background(self, closing: Any) -> None:
        task = asyncio.get_running_loop().create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _close_all(self, which: object) -> None:
        if which not in (*KINDS, "all"):
            raise ValueError("close_all: tts, stt or all expected")
        for socket in self._sockets:
            if which in ("all", socket.kind):
                self._in_background(socket.close(self.settings.close_code, "closed by the test"))

    def _drop_all(self, which: object) -> None:
        if which not in (*KINDS, "all"):
            raise ValueError("drop_all: tts, stt or all expected")
        for socket in self._sockets:
            if which in ("all", socket.kind):
                socket.drop()

    def look_again(self) -> None:
        """Compute anew which socket ends next."""
        self._changed.set()
