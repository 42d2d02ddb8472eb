"""The carrier's end of a stream, for tests that speak to it over a real connection."""

import asyncio
import socket

from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, Protocol, State

DEADLINE_S = 20


def connected() -> tuple[socket.socket, socket.socket]:
    """Connect over TCP as a carrier does: our end and theirs."""
    listener = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    listener.close()
    theirs.setblocking(False)
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


def masked(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    """Write a frame as a client does."""
    return Frame(opcode, data, fin).serialize(mask=True)


class Peer:
    """The carrier's end: raw bytes out, frames of ours in."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ws = Protocol(CLIENT, state=State.OPEN, max_size=None)

    async def send(self, data: bytes) -> None:
        """Write raw bytes."""
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def flush(self) -> None:
        """Write what the protocol has to say."""
        await self.send(b"".join(self.ws.data_to_send()))

    async def text(self, *texts: str) -> None:
        """Send text messages."""
        for text in texts:
            self.ws.send_text(text.encode())
        await self.flush()

    async def frames(self, count: int) -> list[Frame]:
        """Read until this many frames came; fewer at the end of the connection."""
        found: list[Frame] = []
        async with asyncio.timeout(DEADLINE_S):
            while len(found) < count and await self.receive():
                found += [event for event in self.ws.events_received() if isinstance(event, Frame)]
        return found

    async def receive(self) -> bytes:
        """Read once; nothing at the end of the connection."""
        data = await asyncio.get_running_loop().sock_recv(self.sock, 65_536)
        if data:
            self.ws.receive_data(data)
        return data

    async def at_end(self) -> bool:
        """Read to the end of the connection; False when it was reset."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while await self.receive():
                    pass
        except ConnectionError:
            return False
        return True
