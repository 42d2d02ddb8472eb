"""The stream: an open WebSocket on a socket that somebody else accepted and answered with the 101.

Bind and resume are one path: the protocol object starts in state OPEN. No extensions are ever in use, since the 101 was
written without any; a resume first drops the rest of a frame its predecessor had begun to read. While the pool keeps its
duplicate, closing our descriptor sends no FIN, so the end is a close frame and `shutdown`.
"""

import asyncio
import contextlib
import socket
from typing import Final, Protocol

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import SERVER, State
from websockets.protocol import Protocol as WebSocket

from worker.call.media import MAX_FRAME_BYTES
from worker.call.resync import Find, next_message

CLOSE_WAIT_S: Final = 2.0
"""How long the peer may take to answer our close frame."""


class Listener(Protocol):
    """What a stream calls, on the loop, in the order of the wire."""

    def text(self, data: bytes) -> None:
        """Take one text message."""

    def binary(self) -> None:
        """Note a binary message, which has no meaning here."""

    def oversize(self) -> None:
        """Note that the peer broke the size limit; the stream is ending."""

    def ended(self, code: int | None) -> None:
        """Note the end: the peer's close code, or None when the connection broke. Called once."""


class Stream(asyncio.Protocol):
    """Reads messages into a listener and writes text messages at once."""

    def __init__(self, listener: Listener, *, resync: bool = False) -> None:
        self._listener = listener
        self._seeking: bytearray | None = bytearray() if resync else None
        self._ws = WebSocket(SERVER, state=State.OPEN, max_size=MAX_FRAME_BYTES)
        self._transport: asyncio.Transport | None = None
        self._fragments: list[bytes] = []
        self._fragment_opcode = Opcode.TEXT
        self._ended = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.writable = asyncio.Event()
        self.writable.set()

    @property
    def open(self) -> bool:
        """Say whether messages can be written."""
        return self._ws.state is State.OPEN and self._transport is not None and not self._transport.is_closing()

    def send(self, *texts: str) -> bool:
        """Write text messages with one system call when the socket takes them; False when the stream is not open."""
        if not self.open:
            return False
        for text in texts:
            self._ws.send_text(text.encode())
        self._flush()
        return True

    async def close(self, code: CloseCode = CloseCode.NORMAL_CLOSURE) -> None:
        """Close with a close frame, wait for the peer's, then shut the connection down. Safe to call twice."""
        if self._ws.state is State.OPEN and self._transport is not None:
            self._ws.send_close(code)
            self._flush()
        try:
            async with asyncio.timeout(CLOSE_WAIT_S):
                await asyncio.shield(self.done)
        except TimeoutError:
            self._shutdown()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what connect_accepted_socket gives
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Feed the protocol and give its events to the listener."""
        if self._seeking is not None:
            data = self._sought(data)
        self._ws.receive_data(data)
        for frame in self._ws.events_received():
            if isinstance(frame, Frame):
                self._frame(frame)
        self._flush()
        if self._ws.parser_exc is not None and not self._ended:
            self._broken()
        elif self._ws.close_rcvd is not None:
            self._end(self._ws.close_rcvd.code)
            self._shutdown()

    def _sought(self, data: bytes) -> bytes:
        """Drop what belongs to a frame that somebody else began to read."""
        assert self._seeking is not None  # noqa: S101 - asked by the caller
        self._seeking += data
        at, found = next_message(self._seeking)
        del self._seeking[:at]
        if found is not Find.MESSAGE:
            return b""
        rest, self._seeking = bytes(self._seeking), None
        return rest

    def leave(self) -> None:
        """Stop reading and writing without ending the connection, which somebody else holds too."""
        self._ended = True
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> bool:
        """Treat the end of input as the end of the stream; the peer learns it although the pool keeps its duplicate."""
        self._end(None)
        self._shutdown()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Note that the connection is gone."""
        self._end(None)
        if not self.done.done():
            self.done.set_result(None)

    def pause_writing(self) -> None:
        """Hold paced audio: the socket's buffer is full."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """Let paced audio go on."""
        self.writable.set()

    def _frame(self, frame: Frame) -> None:
        match frame.opcode:
            case Opcode.TEXT | Opcode.BINARY if frame.fin:
                self._message(frame.opcode, bytes(frame.data))
            case Opcode.TEXT | Opcode.BINARY:
                self._fragment_opcode = frame.opcode
                self._fragments = [bytes(frame.data)]
            case Opcode.CONT:
                self._fragments.append(bytes(frame.data))
                if frame.fin:
                    data, self._fragments = b"".join(self._fragments), []
                    self._message(self._fragment_opcode, data)
            case _:
                pass  # ping, pong and close are the protocol object's

    def _message(self, opcode: Opcode, data: bytes) -> None:
        if opcode is Opcode.TEXT:
            self._listener.text(data)
        else:
            self._listener.binary()

    def _broken(self) -> None:
        if self._ws.close_sent is not None and self._ws.close_sent.code == CloseCode.MESSAGE_TOO_BIG:
            self._listener.oversize()
        self._end(CloseCode.PROTOCOL_ERROR)
        self._shutdown()

    def _flush(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        data = b"".join(self._ws.data_to_send())
        if data:
            self._transport.write(data)

    def _end(self, code: int | None) -> None:
        if not self._ended:
            self._ended = True
            self._listener.ended(code)

    def _shutdown(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        sock = self._transport.get_extra_info("socket")
        self._flush()
        with contextlib.suppress(OSError):  # the peer may have been faster
            sock.shutdown(socket.SHUT_WR)
        self._transport.close()


async def open_stream(sock: socket.socket, listener: Listener, *, resync: bool = False) -> Stream:
    """Go on with a WebSocket on a connected TCP socket whose 101 has been written; takes the socket over.

    With `resync` somebody else may have read from it, and have stopped within a frame.
    """
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    _, stream = await loop.connect_accepted_socket(lambda: Stream(listener, resync=resync), sock)
    return stream
