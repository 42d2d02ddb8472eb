"""The keeper: callers' sockets, from the hand-off to the last byte.

It writes the 101 (or the refusal), keeps a duplicate of each live stream, so that a worker's death does not close it, and
lets go of it when the call is over. While a duplicate is open, `close()` elsewhere sends no FIN: a forgotten one is a
caller who hears silence. Nothing here waits: the first media is behind it.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from shared.channel import close_all
from worker.pool.book import Call

SEND_BUFFER_BYTES: Final = 262_144
"""The kernel doubles it; 5 s of greeting in base64 are 53 kB, and a write that stays partial cannot be resumed."""

LINGER_S: Final = 1.0
"""How long a closed stream is still read: closing with unread frames resets it, and the close frame may be lost."""

# The library logs each handshake with its headers, among them the signature; our own log says what happened.
_quiet: Final = logging.getLogger("worker.pool.keeper.handshake")
_quiet.setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to an upgrade; the stream is open when `status` is 101."""

    status: HTTPStatus
    data: bytes


def shake(head: bytes) -> Answer:
    """Answer a request head as a WebSocket server without extensions; anything but a proper upgrade is refused."""
    protocol = ServerProtocol(extensions=[], logger=_quiet)
    protocol.receive_data(head)
    events = protocol.events_received()
    if not events or not isinstance(events[0], Request):
        return Answer(HTTPStatus.BAD_REQUEST, refusal(HTTPStatus.BAD_REQUEST))
    response = protocol.accept(events[0])
    protocol.send_response(response)
    return Answer(HTTPStatus(response.status_code), b"".join(protocol.data_to_send()))


def refusal(status: HTTPStatus) -> bytes:
    """Write an empty HTTP answer."""
    return f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def adopt(fd: int) -> socket.socket:
    """Take over a received descriptor: not for our children, never blocking, frames leave at once.

    Raises:
        OSError: it is no stream socket; it is closed.
    """
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        close_all([fd])
        raise
    if sock.type is not socket.SOCK_STREAM:
        sock.close()
        raise OSError(errno.EPROTOTYPE, os.strerror(errno.EPROTOTYPE))
    sock.set_inheritable(False)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Keeper:
    """Holds the duplicates."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lingering: dict[socket.socket, asyncio.TimerHandle] = {}

    def refuse(self, sock: socket.socket, answer: bytes) -> None:
        """Write an HTTP refusal and close."""
        with contextlib.suppress(OSError):
            sock.send(answer)
            sock.shutdown(socket.SHUT_WR)
        self._linger(sock)

    def write(self, sock: socket.socket, answer: bytes) -> bool:
        """Write the 101; False when the peer is gone. A fresh socket takes all of it at once."""
        try:
            return sock.send(answer) == len(answer)
        except OSError:
            return False

    def keep(self, call: Call, sock: socket.socket) -> None:
        """Hold the duplicate of a call's stream."""
        call.stream = sock

    def drop(self, call: Call) -> None:
        """Let go of a stream that its worker has closed, or whose worker is gone; harmless when there is none."""
        sock, call.stream = call.stream, None
        if sock is not None:
            with contextlib.suppress(OSError):  # the worker may not have come to that
                sock.shutdown(socket.SHUT_WR)
            self._linger(sock)

    def close(self, call: Call, code: CloseCode) -> None:
        """Close a stream that no worker serves. Best effort: its worker may have died in the middle of a frame."""
        if call.stream is not None:
            frame = Frame(Opcode.CLOSE, Close(code, "").serialize()).serialize(mask=False, extensions=[])
            with contextlib.suppress(OSError):
                call.stream.send(frame)
        self.drop(call)

    def leave(self) -> None:
        """Close what still lingers."""
        for sock in list(self._lingering):
            self._let_go(sock)

    def _linger(self, sock: socket.socket) -> None:
        self._lingering[sock] = self._loop.call_later(LINGER_S, self._let_go, sock)
        self._loop.add_reader(sock.fileno(), self._discard, sock)

    def _discard(self, sock: socket.socket) -> None:
        try:
            more = sock.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        if not more:
            self._let_go(sock)

    def _let_go(self, sock: socket.socket) -> None:
        self._lingering.pop(sock).cancel()
        self._loop.remove_reader(sock.fileno())
        sock.close()
