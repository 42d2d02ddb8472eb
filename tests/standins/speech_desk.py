"""What stand-ins of speech have in common: admission of an upgrade, one accepted socket, the desk that knows them all.

Nothing here knows any vendor; what is a vendor's own are the methods that its socket and its desk add or replace.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.websockets import WebSocketDisconnect

from tests.standins.control import Control, parser, serve, settings_from
from tests.standins.speech import ScriptedSpeech

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence

    from starlette.routing import BaseRoute
    from starlette.websockets import WebSocket

    from tests.standins.speech import Speech

Kind = Literal["tts", "stt"]
KINDS = ("tts", "stt")
BLOCKING_THREADS = 2  # both cores may be busy speaking; more would only make everybody wait
UNAUTHORIZED, TOO_MANY = 401, 429


@dataclass(frozen=True, slots=True)
class SpeechSettings:
    """Latencies in ms and faults. 0 means never or no limit where that is the sensible reading."""

    api_key: str = ""  # the only one accepted; empty accepts any, but one must be there
    connect_ms: float = 150.0  # before the 101
    refuse_status: int = 0  # answer upgrades with this HTTP status
    refuse_kind: str = ""  # only upgrades of this kind: tts or stt
    refuse_next: int = 0  # only so many upgrades are refused, then all is well again
    close_code: int = 1000  # what close_all closes with
    tts_first_byte_ms: float = 90.0  # text to first piece of sound
    tts_realtime_factor: float = 10.0  # generation is this much faster than speech
    tts_chunk_ms: float = 100.0  # sound in one message
    tts_max_connections: int = 0  # above: 429 on the upgrade
    stall_tts: bool = False  # accept, never answer
    drop_tts_after_chunks: int = 0  # cut the connection after so many messages with sound on one socket
    drop_tts_next: int = 0  # only so many connections, then all is well again
    stt_final_ms: float = 100.0  # from the request to the final transcript
    stt_max_connections: int = 0
    stall_stt: bool = False
    drop_stt_after_s: float = 0.0  # cut the connection this long after it opened


SettingsT = TypeVar("SettingsT", bound=SpeechSettings)


@dataclass(eq=False, slots=True, kw_only=True)
class Socket:
    """One accepted WebSocket. Sending on one that has gone does nothing, as on a real network."""

    kind: Kind
    websocket: WebSocket
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

    async def close(self, code: int, reason: str = "") -> None:
        """Close in the orderly way."""
        self.closed = True
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await self.websocket.close(code, reason)

    def drop(self) -> None:
        """Cut the connection: no close frame."""
        self.closed = True
        self.websocket.scope["state"]["transport"].abort()


SocketT = TypeVar("SocketT", bound=Socket)


class Desk(Generic[SettingsT, SocketT]):
    """Admits sockets, knows the open ones, ends those that were idle too long. One for each process."""

    def __init__(self, settings: SettingsT, speech: Speech) -> None:
        self.control = Control(
            settings,
            actions={"close_all": self._close_all, "drop_all": self._drop_all},
            gauges=frozenset({"tts_open", "stt_open", "contexts_open"}),
        )
        self.control.on_change.append(self.look_again)
        self.speech = speech
        self.threads = ThreadPoolExecutor(BLOCKING_THREADS, thread_name_prefix="speech")
        self._sockets: set[SocketT] = set()
        self._changed = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def settings(self) -> SettingsT:
        """The settings that hold now."""
        return self.control.settings

    def spend(self, count: str, fault: str = "") -> None:
        """Use up one of the failures that were ordered; after the last one the fault is over. 0 ordered: it never ends."""
        left = getattr(self.settings, count)
        if left:
            over: dict[str, Any] = {fault: type(getattr(self.settings, fault))()} if fault and left == 1 else {}
            self.control.settings = dataclasses.replace(self.settings, **{count: left - 1, **over})

    @contextlib.asynccontextmanager
    async def admitted(self, kind: Kind, websocket: WebSocket, refusal: int = 0) -> AsyncIterator[SocketT | None]:
        """Answer an upgrade: an open socket, or None when it was refused. It is forgotten at the end of the block."""
        await asyncio.sleep(self.settings.connect_ms / 1000)
        status = refusal or self._refusal(kind, websocket)
        if status:
            self.control.counters[f"{kind}_refused"] += 1
            self.control.note(f"{kind}_refused", status=status)
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await websocket.send_denial_response(JSONResponse(self._denial(status), status))
            yield None
            return
        socket = self._socket(kind, websocket)
        self._sockets.add(socket)
        self.control.counters[f"{kind}_open"] += 1
        self.control.counters[f"{kind}_opened"] += 1
        self.control.note(f"{kind}_open", request_id=socket.request_id, **self._noted(socket))
        self.look_again()
        try:
            yield socket if await self._accepted(socket) else None
        finally:
            self._sockets.discard(socket)
            self.control.counters[f"{kind}_open"] -= 1
            self.control.note(f"{kind}_closed", request_id=socket.request_id)

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
                    else:
                        self._in_background(self._idle(socket))

    def look_again(self) -> None:
        """Compute anew which socket ends next."""
        self._changed.set()

    # --- a vendor's own -----------------------------------------------------------------------------------------------

    def _knows(self, websocket: WebSocket) -> bool:
        """Say whether an upgrade has a good key, for a vendor that looks at it there."""
        del websocket
        return True

    def _denial(self, status: int) -> Mapping[str, object]:
        """Write the body of a refused upgrade."""
        raise NotImplementedError

    def _socket(self, kind: Kind, websocket: WebSocket) -> SocketT:
        """Make the socket of an upgrade."""
        raise NotImplementedError

    def _noted(self, socket: SocketT) -> Mapping[str, object]:
        """Say what is noted of an open socket."""
        raise NotImplementedError

    def _headers(self, socket: SocketT) -> list[tuple[bytes, bytes]]:
        """Give the headers of the 101."""
        del socket
        return []

    def _idle_s(self, socket: SocketT) -> float:
        """Say how long a socket may be idle."""
        raise NotImplementedError

    async def _idle(self, socket: SocketT) -> None:
        """End a socket that was idle too long."""
        raise NotImplementedError

    # --- everybody's --------------------------------------------------------------------------------------------------

    async def _accepted(self, socket: SocketT) -> bool:
        """Send the 101; False when the client did not wait for it."""
        try:
            await socket.websocket.accept(headers=self._headers(socket))
        except (RuntimeError, WebSocketDisconnect):
            return False
        return True

    def _due(self, socket: SocketT) -> tuple[float, bool]:
        """Return when a socket ends if nothing happens (monotonic seconds), and whether by being cut."""
        if socket.closed:
            return float("inf"), False
        idle_s = self._idle_s(socket)
        idle = socket.active_at + idle_s if idle_s else float("inf")
        cut = float("inf")
        if socket.kind == "stt" and self.settings.drop_stt_after_s:
            cut = socket.opened_at + self.settings.drop_stt_after_s
        return min(idle, cut), cut < idle

    def _refusal(self, kind: Kind, websocket: WebSocket) -> int:
        """Return the HTTP status an upgrade is refused with, or 0."""
        settings = self.settings
        limit = settings.tts_max_connections if kind == "tts" else settings.stt_max_connections
        if settings.refuse_status and settings.refuse_kind in ("", kind):
            self.spend("refuse_next", "refuse_status")
            return settings.refuse_status
        if not self._knows(websocket):
            return UNAUTHORIZED
        return TOO_MANY if limit and self.control.counters[f"{kind}_open"] >= limit else 0

    def _in_background(self, closing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _close_all(self, which: object) -> None:
        for socket in self._named("close_all", which):
            self._in_background(socket.close(self.settings.close_code, "closed by the test"))

    def _drop_all(self, which: object) -> None:
        for socket in self._named("drop_all", which):
            socket.drop()

    def _named(self, action: str, which: object) -> list[SocketT]:
        if which not in (*KINDS, "all"):
            raise ValueError(f"{action}: tts, stt or all expected")
        return [socket for socket in self._sockets if which in ("all", socket.kind)]


def application(desk: Desk[Any, Any], routes: Sequence[BaseRoute]) -> Starlette:
    """Build the ASGI application around a desk."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(desk.watch())
            yield
            watching.cancel()

    return Starlette(routes=[desk.control.route(), *routes], lifespan=lifespan)


def run(
    name: str, description: str, settings: type[SettingsT], build: Callable[[SettingsT, Speech], Starlette]
) -> None:
    """Run a stand-in of speech as its command line says."""
    arguments = parser(name, description, settings)
    arguments.add_argument("--speech", choices=["scripted", "local"], default="scripted")
    arguments.add_argument("--lexicon", type=Path, help="folder of known recordings, for --speech scripted")
    options = arguments.parse_args()
    serve(name, build(settings_from(options, settings), _speech(options.speech, options.lexicon)), options)


def _speech(kind: str, lexicon: Path | None) -> Speech:
    if kind == "scripted":
        return ScriptedSpeech.from_folder(lexicon)
    from tests.standins.local_speech import LocalSpeech  # half a gigabyte of models, and an optional extra

    return LocalSpeech()
