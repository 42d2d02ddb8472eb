"""A pool for tests of the router: a real SEQPACKET socket that speaks `shared.messages`, with scripted answers."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from shared.agents import Agent
from shared.calls import CallSid, CallState, EndReason
from shared.channel import Channel
from shared.framing import FROM_ROUTER
from shared.messages import (
    PROTOCOL_VERSION,
    AskEnd,
    Ended,
    EndKnown,
    HandOff,
    Hello,
    Message,
    NoPrefetch,
    NoWorker,
    Problem,
    Readiness,
    Reserve,
    Reserved,
    Welcome,
)
from shared.ticket import Ticket
from shared.workers import PoolId, WorkerId


@dataclass(slots=True, eq=False)
class Taken:
    """A socket that was handed over."""

    message: HandOff
    fd: int


@dataclass(slots=True, eq=False)
class FakePool:
    """Start it with `async with pool.serving():`; all fields may be changed while it runs."""

    folder: Path
    name: str = "p1"
    boot: str = "b1"
    version: int = PROTOCOL_VERSION
    ready: int = 4
    warming: int = 0
    draining: bool = False
    problems: tuple[Problem, ...] = ()
    silent: bool = False  # takes questions and never answers
    expires_at: int = 2**40  # of the tickets it gives
    end: EndReason | None = None
    dial: str = ""
    end_state: CallState | None = CallState.ENDED
    hellos: list[Hello] = field(default_factory=list)
    reserved: list[Reserve] = field(default_factory=list)
    refused: list[Reserve] = field(default_factory=list)
    asked: list[AskEnd] = field(default_factory=list)
    no_prefetch: list[NoPrefetch] = field(default_factory=list)
    taken: "asyncio.Queue[Taken]" = field(default_factory=asyncio.Queue)
    heard: "asyncio.Queue[Message]" = field(default_factory=asyncio.Queue)
    channels: list[Channel] = field(default_factory=list)
    _fds: list[int] = field(default_factory=list)
    _listener: socket.socket | None = None

    @property
    def path(self) -> Path:
        """Where its socket stands."""
        return self.folder / f"{self.name}.sock"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["FakePool"]:
        """Listen until left; `die` may come before."""
        self.start()
        try:
            yield self
        finally:
            self.die()
            self.path.unlink(missing_ok=True)

    def start(self) -> None:
        """Bind the socket as a pool does: under another name, renamed when it listens."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.setblocking(False)
        raw = self.path.with_suffix(".new")
        listener.bind(os.fspath(raw))
        listener.listen(16)
        raw.rename(self.path)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    def die(self) -> None:
        """Stop as a killed pool does: the file stays."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for channel in self.channels:
            channel.close()
        self.channels.clear()
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds.clear()

    def push(self, ready: int) -> None:
        """Tell the routers how many workers are ready now."""
        self.ready = ready
        for channel in self.channels:
            channel.send(self._readiness())

    def ended(self, call_sid: str, attempt: int, reason: EndReason) -> None:
        """Tell the routers of the end of a call."""
        for channel in self.channels:
            channel.send(Ended(call_sid=CallSid(call_sid), attempt=attempt, reason=reason, dial=self.dial))

    def ticket_for(self, question: Reserve) -> Ticket:
        """The ticket it gives in answer."""
        call = question.call
        worker = WorkerId(f"{len(self.reserved)}-1")
        return Ticket(call.call_sid, call.attempt, PoolId(self.name), self.boot, worker, call.trace_id, self.expires_at)

    def _readiness(self) -> Readiness:
        return Readiness(ready=self.ready, warming=self.warming, draining=self.draining, problems=self.problems)

    def _accept(self) -> None:
        assert self._listener is not None
        sock, _ = self._listener.accept()
        channel: Channel

        def receive(message: Any, fds: list[int]) -> None:
            self._answer(channel, message, fds)

        channel = Channel(sock, FROM_ROUTER, receive, lambda _: self.channels.remove(channel))
        self.channels.append(channel)

    def _answer(self, channel: Channel, message: Any, fds: list[int]) -> None:
        self.heard.put_nowait(message)
        match message:
            case Hello():
                self.hellos.append(message)
                channel.send(Welcome(version=self.version, pool=PoolId(self.name), boot=self.boot))
                channel.send(self._readiness())
            case Reserve():
                self._reserve(channel, message)
            case AskEnd(request=number):
                self.asked.append(message)
                if not self.silent:
                    channel.send(EndKnown(request=number, state=self.end_state, reason=self.end, dial=self.dial))
            case NoPrefetch():
                self.no_prefetch.append(message)
            case HandOff():
                self._fds += fds
                self.taken.put_nowait(Taken(message, fds[0]))

    def _reserve(self, channel: Channel, question: Reserve) -> None:
        if self.silent:
            self.reserved.append(question)
        elif self.ready > question.behind and not self.draining:
            self.reserved.append(question)
            ticket = self.ticket_for(question)
            self.push(self.ready - 1)
            channel.send(Reserved(request=question.request, ticket=ticket, agent=Agent()))
        else:
            self.refused.append(question)
            channel.send(NoWorker(request=question.request, why="draining" if self.draining else "none_ready"))


async def echo(taken: Taken) -> None:
    """Take a handed-over socket as a pool and a worker do: write the 101, then send back every text message."""
    sock = socket.socket(fileno=os.dup(taken.fd))
    sock.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=sock)
    protocol = ServerProtocol(extensions=None)
    protocol.receive_data(taken.message.head)
    for request in protocol.events_received():
        assert isinstance(request, Request)
        protocol.send_response(protocol.accept(request))
    try:
        while not protocol.close_expected():
            writer.write(b"".join(protocol.data_to_send()))
            await writer.drain()
            protocol.receive_data(await reader.read(65_536))
            for frame in protocol.events_received():
                if isinstance(frame, Frame) and frame.opcode is Opcode.TEXT:
                    protocol.send_text(bytes(frame.data))
        writer.write(b"".join(protocol.data_to_send()))
        await writer.drain()
    finally:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # the pool's duplicate is still open: closing alone would send nothing
        writer.close()
