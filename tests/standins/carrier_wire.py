"""One WebSocket of the carrier: websockets' sans-I/O client inside an asyncio protocol.

Rules: no JSON and no call logic. `at` is the moment the bytes were read, taken before anything else is done with them.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.speedups import apply_mask
from websockets.uri import parse_uri

if TYPE_CHECKING:
    from collections.abc import Mapping

SWITCHING_PROTOCOLS = 101
MAX_MESSAGE_BYTES = 16 * 2**20  # Twilio publishes no limit for what the server sends
FIN_TEXT, MASKED = 0x81, 0x80
SHORT, MEDIUM = 125, 65535  # payload sizes that fit into the first byte and into two more
_RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Listener(Protocol):
    """Who is told what arrives. Calls come from the event loop and must not block."""

    def on_answer(self, status: int, at: float) -> None:
        """The upgrade was answered; with another status than 101 `on_lost` follows."""

    def on_text(self, text: bytes, at: float) -> None:
        """A whole text message."""

    def on_binary(self, at: float) -> None:
        """A binary message, whatever it held."""

    def on_lost(self, end: WireEnd) -> None:
        """The connection is gone; nothing follows."""


@dataclass(frozen=True, slots=True)
class WireEnd:
    """How a connection ended."""

    by: str  # server or carrier: who sent the first Close frame; lost: none was exchanged; violation: not WebSocket
    code: int | None
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What the upgrade request says: the public `host`, the path as it is in TwiML, and further headers."""

    host: str
    path: str
    headers: Mapping[str, str]


class Wire(asyncio.Protocol):
    """The connection, from the upgrade request to the end."""

    def __init__(self, upgrade: Upgrade, listener: Listener, split_pause_s: float = 0.0) -> None:
        self._upgrade = upgrade
        self._listener = listener
        self._split_pause_s = split_pause_s
        self._held: deque[bytes] = deque()  # frames waiting for the second half of the one before
        self._holding = False
        self._protocol = ClientProtocol(parse_uri(f"ws://{upgrade.host}{upgrade.path}"), max_size=MAX_MESSAGE_BYTES)
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        self._parts_opcode = Opcode.TEXT
        self._first_close = ""
        self.upgrade_sent: float | None = None

    @property
    def open(self) -> bool:
        """Whether messages can be sent."""
        return self._protocol.state is State.OPEN and self._transport is not None and not self._transport.is_closing()

    def send_text(self, text: str) -> None:
        """Send a text message; nothing happens when the connection is not open."""
        if self.open:
            self._write(masked_text(text.encode()))

    def send_binary(self, data: bytes) -> None:
        """Send a binary message, as Twilio never does."""
        if self.open:
            self._protocol.send_binary(data)
            self._flush()

    def close(self, code: int = 1000) -> None:
        """Begin the closing handshake."""
        if self.open:
            self._first_close = self._first_close or "carrier"
            self._protocol.send_close(code)
            self._flush()

    def reset(self) -> None:
        """Drop the connection with a TCP RST."""
        if self._transport is not None:
            sock: socket.socket = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            self._transport.abort()

    def abort(self) -> None:
        """Drop the connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the upgrade request."""
        tcp = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._transport = tcp
        tcp.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = self._protocol.connect()
        for name, value in self._upgrade.headers.items():
            request.headers[name] = value
        self._protocol.send_request(request)
        self.upgrade_sent = time.monotonic()
        tcp.write(b"".join(self._protocol.data_to_send()))

    def data_received(self, data: bytes) -> None:
        """Take the time, then look at what came."""
        at = time.monotonic()
        self._protocol.receive_data(data)
        self._dispatch(at)

    def eof_received(self) -> bool:
        """Let the protocol object finish; the transport closes itself."""
        self._protocol.receive_eof()
        self._dispatch(time.monotonic())
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the listener who ended it."""
        del exc  # an error and a bare FIN are the same loss to Twilio
        received = self._protocol.close_rcvd
        by = self._first_close or "lost"
        if by == "carrier" and received is None:
            by = "lost"  # our Close was never answered
        code, reason = (received.code, received.reason) if received is not None else (None, "")
        self._listener.on_lost(WireEnd(by, code, reason, time.monotonic()))

    def _dispatch(self, at: float) -> None:
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._listener.on_answer(event.status_code, at)
            elif isinstance(event, Frame):
                self._frame(event, at)
        broken = self._protocol.parser_exc
        if broken is not None and not isinstance(broken, EOFError):
            self._first_close = self._first_close or "violation"
        self._flush()

    def _frame(self, frame: Frame, at: float) -> None:
        if frame.opcode is Opcode.CLOSE:
            self._first_close = self._first_close or "server"
            return
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return  # the protocol object has answered a ping already
        if frame.opcode is not Opcode.CONT:
            self._parts_opcode = frame.opcode
        self._parts.append(bytes(frame.data))
        if not frame.fin:
            return
        message, self._parts = b"".join(self._parts), []
        if self._parts_opcode is Opcode.TEXT:
            self._listener.on_text(message, at)
        else:
            self._listener.on_binary(at)

    def _flush(self) -> None:
        assert self._transport is not None
        pending = self._protocol.data_to_send()
        if self._transport.is_closing():
            return
        for data in pending:
            if data:
                self._write(data)
            elif self._transport.can_write_eof():
                self._transport.write_eof()
            else:
                self._transport.close()  # TLS has no half-closed connection

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        if not self._split_pause_s:
            self._transport.write(data)
            return
        self._held.append(data)
        if not self._holding:
            self._write_half()

    def _write_half(self) -> None:
        """Write the first half of the next frame, and its second half in a segment of its own a little later."""
        self._holding = bool(self._held)
        if not self._held or self._transport is None or self._transport.is_closing():
            return
        data = self._held.popleft()
        self._transport.write(data[: len(data) // 2])

        def second() -> None:
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(data[len(data) // 2 :])
                self._write_half()

        asyncio.get_running_loop().call_later(self._split_pause_s, second)


def masked_text(payload: bytes) -> bytes:
    """A text message in one masked frame: what the protocol object would write, at a fifth of its cost."""
    size = len(payload)
    if size <= SHORT:
        head = struct.pack("!BB", FIN_TEXT, MASKED | size)
    elif size <= MEDIUM:
        head = struct.pack("!BBH", FIN_TEXT, MASKED | SHORT + 1, size)
    else:
        head = struct.pack("!BBQ", FIN_TEXT, MASKED | SHORT + 2, size)
    mask = random.getrandbits(32).to_bytes(4, "big")
    return head + mask + apply_mask(payload, mask)
