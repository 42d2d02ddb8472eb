"""Each fault of a call is really on the wire."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from tests.standins.carrier import Carrier, CarrierSettings
from tests.standins.carrier_call import Call
from tests.standins.carrier_rig import Line, calling, listen, stream_twiml
from tests.standins.carrier_settings import CallFaults

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ENOUGH_FRAMES = 20


async def close_after_frames(line: Line) -> None:
    """Listen for a while, then close."""
    while sum(message["event"] == "media" for message in line.messages) < ENOUGH_FRAMES:
        if await line.receive() is None:
            return
    await line.socket.close()


async def one_line(faults: CallFaults, agent: Any = close_after_frames, **settings: Any) -> tuple[Line, Call]:
    """Make a call with `faults` to its end; return what the server saw of its only stream."""
    async with calling(**settings) as (server, carrier):
        server.agent = agent
        call = await carrier.dial(faults=faults)
        await call.ended()
        [line] = server.lines
    return line, call


async def test_without_faults_nothing_is_odd() -> None:
    line, call = await one_line(CallFaults())
    assert line.odd == []
    assert line.events() == ["connected", "start", "media"]
    assert call.record().codes == (31921,)


async def test_no_connected_opens_with_start() -> None:
    line, _ = await one_line(CallFaults(no_connected=True))
    assert line.events() == ["start", "media"]


async def test_no_start_says_connected_and_nothing_else() -> None:
    async def agent(line: Line) -> None:
        await line.until("connected")
        await line.socket.close()

    line, call = await one_line(CallFaults(no_start=True), agent)
    assert line.events() == ["connected"]
    assert call.record().start_sent is None


async def test_wrong_call_sid_names_another_call_in_start() -> None:
    line, call = await one_line(CallFaults(wrong_call_sid=True))
    assert line.messages[1]["start"]["callSid"] != call.call_sid


async def test_hangup_before_start_closes_a_stream_that_said_nothing() -> None:
    line, call = await one_line(CallFaults(hangup_before_start=True), listen)
    assert line.messages == []
    assert line.close_code == 1000
    assert (call.record().ended_by, call.record().stream.upgrade_status) == ("caller", 101)


async def test_hangup_at_first_media_ends_with_stop() -> None:
    async def agent(line: Line) -> None:
        await line.until("start")
        await line.play(b"\x10" * 8000)
        await listen(line)

    line, call = await one_line(CallFaults(hangup_at_first_media=True), agent)
    assert line.events()[-1] == "stop"
    assert call.record().ended_by == "caller"


async def test_hangup_after_a_time_ends_with_stop() -> None:
    line, call = await one_line(CallFaults(hangup_after_s=0.1), listen)
    assert line.events() == ["connected", "start", "media", "stop"]
    assert call.record().ended_by == "caller"


async def test_silent_sends_no_more_frames_on_an_open_socket() -> None:
    async with calling() as (server, carrier):
        call = await carrier.dial(faults=CallFaults(silent_after_s=0.1))
        await call.streaming()
        stream = call.stream
        assert stream is not None
        await stream.silent.wait()
        sent = stream.record.frames_sent
        await call.dtmf("1")
        await call.hangup()
        record = await call.ended()
        [line] = server.lines
    assert record.stream.frames_sent == sent
    assert line.events() == ["connected", "start", "media", "dtmf", "stop"]


@pytest.mark.parametrize(
    ("faults", "odd"),
    [
        (CallFaults(binary_frame=True), b"\xff\x7f" * 80),
        (CallFaults(invalid_json=True), '{"event":"media","media":{'),
    ],
)
async def test_what_is_no_message_arrives_once(faults: CallFaults, odd: str | bytes) -> None:
    line, _ = await one_line(faults)
    assert line.odd == [odd]


async def test_an_unknown_event_arrives_once() -> None:
    line, _ = await one_line(CallFaults(unknown_event=True))
    assert line.events() == ["connected", "start", "media", "weather", "media"]


async def test_an_oversize_frame_is_more_than_64_kib() -> None:
    line, _ = await one_line(CallFaults(oversize_frame=True))
    assert sorted(len(str(message)) > 65536 for message in line.messages)[-2:] == [False, True]


async def test_media_of_another_stream_arrives_once() -> None:
    line, _ = await one_line(CallFaults(wrong_stream_sid=True))
    foreign = [message for message in line.messages[1:] if message["streamSid"] != line.stream_sid]
    assert [message["event"] for message in foreign] == ["media"]


async def test_a_sequence_gap_skips_numbers_chunks_and_time() -> None:
    line, _ = await one_line(CallFaults(sequence_gap=True, inject_after_frames=5))
    frames = [message for message in line.messages if message["event"] == "media"]
    assert [frame["media"]["chunk"] for frame in frames[4:6]] == ["5", "11"]
    assert [frame["sequenceNumber"] for frame in frames[4:6]] == ["6", "12"]
    assert [frame["media"]["timestamp"] for frame in frames[4:6]] == ["100", "220"]


@pytest.mark.parametrize("sign", ["missing", "wrong"])
async def test_a_bad_upgrade_signature_is_refused_by_who_checks_it(sign: str) -> None:
    line, call = await one_line(CallFaults(upgrade_signature=sign))
    assert line.valid is False
    assert ("x-twilio-signature" in line.socket.headers) is (sign == "wrong")
    assert call.record().codes == (31920,)


async def test_upgrade_twice_dials_the_same_url_again() -> None:
    async def agent(line: Line) -> None:
        await line.until("dtmf")
        await line.socket.close()

    async with calling() as (server, carrier):
        server.agent = agent
        call = await carrier.dial(faults=CallFaults(upgrade_twice=True))
        await call.streaming()
        await call.until(lambda: call.streams[0].repeat_status is not None)
        await call.dtmf("1")
        record = await call.ended()
    assert record.stream.repeat_status == 101
    assert len({line.path for line in server.lines}) == 1
    assert len(server.lines) == 2


async def test_upgrade_delay_postpones_the_upgrade_of_this_call() -> None:
    _, call = await one_line(CallFaults(upgrade_delay_s=0.2))
    record = call.record()
    assert record.upgrade_sent is not None
    assert record.webhook_answered is not None
    assert record.upgrade_sent - record.webhook_answered >= 0.2


@dataclass(slots=True, eq=False)
class RawServer(asyncio.Protocol):
    """Answers a webhook or an upgrade, and keeps every read of the stream as it came, and how the connection ended."""

    connections: list[RawServer]
    lost: asyncio.Future[Exception | None]
    reads: list[bytes] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    protocol: ServerProtocol = field(default_factory=ServerProtocol)
    transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer what came."""
        assert self.transport is not None
        if data.startswith(b"POST"):
            page = stream_twiml().encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {len(page)}\r\n\r\n"
            self.transport.write(head.encode() + page)
            return
        if self.protocol.state is State.OPEN:
            self.reads.append(data)
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            if isinstance(event, Request):
                self.connections.append(self)
                self.protocol.send_response(self.protocol.accept(event))
            elif isinstance(event, Frame):
                self.frames.append(event)
        for out in self.protocol.data_to_send():
            self.transport.write(out) if out else self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell how it ended."""
        if not self.lost.done():
            self.lost.set_result(exc)


@asynccontextmanager
async def raw_call(faults: CallFaults) -> AsyncIterator[tuple[Call, Callable[[], RawServer]]]:
    """A call to a server that sees bytes."""
    loop = asyncio.get_running_loop()
    connections: list[RawServer] = []
    server = await loop.create_server(lambda: RawServer(connections, loop.create_future()), "127.0.0.1", 0)
    async with server:
        target = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Carrier(CarrierSettings(target=target, close_wait_s=0.5)) as carrier:
            call = await carrier.dial(faults=faults)
            await call.streaming()
            yield call, lambda: connections[0]


async def test_reset_is_a_tcp_reset() -> None:
    async with raw_call(CallFaults(reset_after_s=0.1)) as (call, connection):
        assert isinstance(await connection().lost, ConnectionResetError)
        record = await call.ended()
    assert record.codes == (31903,)
    assert connection().frames[-1].opcode is Opcode.TEXT


async def test_split_frames_arrive_in_two_segments_and_are_whole() -> None:
    async with raw_call(CallFaults(split_frames=True, split_pause_s=0.005)) as (call, connection):
        await call.until(lambda: call.streams[0].frames_sent > ENOUGH_FRAMES)
        await call.hangup()
        await call.ended()
    texts = [frame for frame in connection().frames if frame.opcode is Opcode.TEXT]
    halves = [read for read in connection().reads if len(read) < 200]
    assert len(texts) == call.streams[0].frames_sent + 3  # connected, start and stop
    assert len(halves) > ENOUGH_FRAMES  # reads smaller than any media message, which has more than 300 bytes


async def test_frames_are_masked_as_a_client_must() -> None:
    async with raw_call(CallFaults()) as (call, connection):
        await call.until(lambda: call.streams[0].frames_sent > 2)
        await call.hangup()
        await call.ended()
    assert all(read[1] & 0x80 for read in connection().reads)
    assert len(connection().frames) > 2
