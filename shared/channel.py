"""A `SOCK_SEQPACKET` connection on the event loop: whole messages, with descriptors.

asyncio's streams refuse this socket type, and a hand-off needs one message to be one datagram; hence this room of its
own, used by the router (to pools), the pool (to routers, zygote and workers) and the worker (to its pool).
"""

import array
import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from shared.errors import StreamProtocolError
from shared.framing import MAX_MESSAGE_BYTES, Reader, encode
from shared.messages import Message

MAX_FDS: Final = 4
MAX_QUEUED: Final = 4096
"""Messages waiting for a peer that does not read; about 93 of 1 kB fit the kernel before that (measured)."""

Receive = Callable[[Any, list[int]], None]
"""Called with each message and the descriptors that came with it; the callee owns them from then on."""

_FD_SIZE: Final = array.array("i").itemsize
_RECEIVE_SPACE: Final = socket.CMSG_SPACE(MAX_FDS * _FD_SIZE)


def receive_datagram(sock: socket.socket) -> tuple[bytes, list[int]] | None:
    """Read one datagram and its descriptors (made non-inheritable); None at the end of the connection.

    Raises:
        StreamProtocolError: the datagram or its descriptors were truncated.
        BlockingIOError: nothing is there.
    """
    data, ancillary, flags, _ = sock.recvmsg(MAX_MESSAGE_BYTES + 1, _RECEIVE_SPACE, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % _FD_SIZE])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(fds)
        raise StreamProtocolError("truncated datagram")
    if not data:
        close_all(fds)
        return None
    return data, list(fds)


def close_all(fds: "list[int] | array.array[int]") -> None:
    """Close descriptors that nobody will use."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


class Channel:
    """Messages to and from one peer.

    `receive` is called on the loop for each message; `lost` once, when the peer is gone or broke the protocol (with the
    reason, empty for a plain end). Descriptors given to `send` are duplicated by the kernel; the caller keeps its own.
    """

    def __init__(self, sock: socket.socket, reader: Reader, receive: Receive, lost: Callable[[str], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._reader = reader
        self._receive = receive
        self._lost = lost
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def open(self) -> bool:
        """Say whether messages can still be sent."""
        return self._open

    def send(self, message: Message, *fds: int) -> bool:
        """Send a message, queueing it when the peer is slow; False when the channel is closed."""
        if not self._open:
            return False
        data = encode(message)
        if self._queue:
            if len(self._queue) >= MAX_QUEUED:
                self._end("peer does not read")
                return False
            self._queue.append((data, [os.dup(fd) for fd in fds]))
            return True
        try:
            self._write(data, fds)
        except BlockingIOError:
            self._queue.append((data, [os.dup(fd) for fd in fds]))
            self._loop.add_writer(self._sock.fileno(), self._writable)
        except OSError as error:
            self._end(str(error))
            return False
        return True

    def close(self) -> None:
        """Close the channel; `lost` is not called."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        for _, fds in self._queue:
            close_all(fds)
        self._queue.clear()
        self._sock.close()

    def _write(self, data: bytes, fds: "tuple[int, ...] | list[int]") -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)

    def _writable(self) -> None:
        while self._queue:
            data, fds = self._queue[0]
            try:
                self._write(data, fds)
            except BlockingIOError:
                return
            except OSError as error:
                self._end(str(error))
                return
            self._queue.popleft()
            close_all(fds)
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        while self._open:
            try:
                received = receive_datagram(self._sock)
            except BlockingIOError:
                return
            except (OSError, StreamProtocolError) as error:
                self._end(str(error))
                return
            if received is None:
                self._end("")
                return
            data, fds = received
            try:
                message = self._reader(data)
            except StreamProtocolError as error:
                close_all(fds)
                self._end(str(error))
                return
            self._receive(message, fds)

    def _end(self, why: str) -> None:
        if self._open:
            self.close()
            self._lost(why)
