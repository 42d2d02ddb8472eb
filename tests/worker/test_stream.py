"""The stream on a real connection: a client of the websockets library at the other end, from state OPEN on."""

import asyncio
import itertools
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from websockets.frames import CloseCode, Frame, Opcode

from tests.worker.line import DEADLINE_S, Peer, connected, masked
from worker.call.media import MAX_FRAME_BYTES
from worker.call.stream import Stream, open_stream


@dataclass
class Heard:
    """A listener that remembers."""

    log: list[tuple[str, object]] = field(default_factory=list)
    more: asyncio.Event = field(default_factory=asyncio.Event)

    def text(self, data: bytes) -> None:
        """Take a message."""
        self._note("text", data)

    def binary(self) -> None:
        """Note a binary message."""
        self._note("binary", None)

    def oversize(self) -> None:
        """Note a message that is too large."""
        self._note("oversize", None)

    def ended(self, code: int | None) -> None:
        """Note the end."""
        self._note("ended", code)

    def _note(self, what: str, value: object) -> None:
        self.log.append((what, value))
        self.more.set()

    async def until(self, count: int) -> list[tuple[str, object]]:
        """Wait for this many entries and give all there are."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.log) < count:
                self.more.clear()
                await self.more.wait()
        return self.log


@dataclass
class Line:
    """Both ends of one connection, and the duplicate that the pool keeps."""

    stream: Stream
    heard: Heard
    peer: Peer
    kept: socket.socket


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    """Open a stream over TCP."""
    ours, theirs = connected()
    kept = ours.dup()
    heard = Heard()
    stream = await open_stream(ours, heard)
    yield Line(stream, heard, Peer(theirs), kept)
    theirs.close()
    async with asyncio.timeout(DEADLINE_S):
        await stream.close()
        await asyncio.shield(stream.done)
    kept.close()


async def test_text_messages_arrive_in_order(line: Line) -> None:
    await line.peer.text("one", "two", "drei ü")
    assert await line.heard.until(3) == [("text", b"one"), ("text", b"two"), ("text", "drei ü".encode())]


async def test_our_messages_arrive_and_carry_no_mask(line: Line) -> None:
    assert line.stream.open
    assert line.stream.send("eins", "zwei")
    frames = await line.peer.frames(2)
    assert [(frame.opcode, bytes(frame.data)) for frame in frames] == [(Opcode.TEXT, b"eins"), (Opcode.TEXT, b"zwei")]


async def test_a_message_in_fragments_is_one_message(line: Line) -> None:
    await line.peer.send(
        masked(Opcode.TEXT, b'{"ev', fin=False)
        + masked(Opcode.CONT, b"en", fin=False)
        + masked(Opcode.PING, b"between")
        + masked(Opcode.CONT, b't":1}')
        + masked(Opcode.TEXT, b"next")
    )
    assert await line.heard.until(2) == [("text", b'{"event":1}'), ("text", b"next")]


async def test_binary_messages_are_noted_whole_or_in_fragments(line: Line) -> None:
    await line.peer.send(
        masked(Opcode.BINARY, b"\x00")
        + masked(Opcode.BINARY, b"\x01", fin=False)
        + masked(Opcode.CONT, b"\x02")
        + masked(Opcode.TEXT, b"on")
    )
    assert await line.heard.until(3) == [("binary", None), ("binary", None), ("text", b"on")]


async def test_a_ping_is_answered_with_its_words(line: Line) -> None:
    await line.peer.send(masked(Opcode.PING, b"are you there") + masked(Opcode.PONG, b"unasked"))
    (pong,) = await line.peer.frames(1)
    assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"are you there")
    assert line.heard.log == []


@pytest.mark.parametrize("length", [0, 1, 125, 126, 1000])
async def test_frames_may_be_split_at_every_byte(line: Line, length: int) -> None:
    wire = masked(Opcode.TEXT, b"x" * length)
    for byte in wire:
        line.stream.data_received(bytes([byte]))
    assert line.heard.log == [("text", b"x" * length)]


async def test_two_frames_may_be_cut_anywhere(line: Line) -> None:
    wire = masked(Opcode.TEXT, b"first") + masked(Opcode.PING, b"p") + masked(Opcode.TEXT, b"second" * 30)
    for cut in range(len(wire) + 1):
        line.heard.log.clear()
        line.stream.data_received(wire[:cut])
        line.stream.data_received(wire[cut:])
        assert line.heard.log == [("text", b"first"), ("text", b"second" * 30)]


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4000])
async def test_the_peers_close_is_answered_and_ends_the_stream_with_its_code(line: Line, code: int) -> None:
    line.peer.ws.send_close(code, "bye")
    await line.peer.flush()
    assert await line.heard.until(1) == [("ended", code)]
    assert await line.peer.at_end()
    assert line.peer.ws.close_rcvd is not None
    assert line.peer.ws.close_rcvd.code == code
    assert not line.stream.open
    assert not line.stream.send("too late")


async def test_a_close_without_a_code_is_an_end_too(line: Line) -> None:
    await line.peer.send(masked(Opcode.CLOSE, b""))
    assert await line.heard.until(1) == [("ended", CloseCode.NO_STATUS_RCVD)]


async def test_our_close_waits_for_the_peers_and_shuts_the_connection_down(line: Line) -> None:
    closing = asyncio.create_task(line.stream.close(CloseCode.POLICY_VIOLATION))
    (frame,) = await line.peer.frames(1)
    assert frame.opcode is Opcode.CLOSE
    assert line.peer.ws.close_rcvd is not None
    assert line.peer.ws.close_rcvd.code == CloseCode.POLICY_VIOLATION
    assert not closing.done()
    assert not line.stream.send("too late")
    await line.peer.flush()
    async with asyncio.timeout(DEADLINE_S):
        await closing
    assert await line.peer.at_end()
    assert [what for what, _ in line.heard.log] == ["ended"]


async def test_messages_that_cross_our_close_are_still_read(line: Line) -> None:
    closing = asyncio.create_task(line.stream.close())
    await line.peer.send(masked(Opcode.TEXT, b"crossing"))
    assert await line.heard.until(1) == [("text", b"crossing")]
    await line.peer.frames(1)
    await line.peer.flush()
    await closing


async def test_a_peer_that_does_not_answer_our_close_is_left(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.call.stream.CLOSE_WAIT_S", 0.05)
    async with asyncio.timeout(DEADLINE_S):
        await line.stream.close()
        assert await line.peer.at_end()


async def test_closing_twice_and_after_the_end_is_harmless(line: Line) -> None:
    line.peer.ws.send_close(1000)
    await line.peer.flush()
    await line.heard.until(1)
    await line.stream.close()
    await line.stream.close(CloseCode.INTERNAL_ERROR)
    assert line.heard.log == [("ended", 1000)]


async def test_the_largest_message_passes(line: Line) -> None:
    await line.peer.text("x" * MAX_FRAME_BYTES)
    ((what, data),) = await line.heard.until(1)
    assert what == "text"
    assert data == b"x" * MAX_FRAME_BYTES


@pytest.mark.parametrize("fragments", [1, 3])
async def test_a_message_beyond_64_kib_ends_the_stream(line: Line, fragments: int) -> None:
    size = MAX_FRAME_BYTES // fragments + 1
    opcodes = itertools.chain([Opcode.TEXT], itertools.repeat(Opcode.CONT))
    pieces = [
        masked(opcode, b"x" * size, fin=number == fragments)
        for number, opcode in zip(range(1, fragments + 1), opcodes, strict=False)
    ]
    await line.peer.send(b"".join(pieces))
    assert await line.heard.until(2) == [("oversize", None), ("ended", CloseCode.PROTOCOL_ERROR)]
    await line.peer.at_end()


async def test_a_size_is_refused_before_its_bytes_have_come(line: Line) -> None:
    line.stream.data_received(b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"mask")
    assert await line.heard.until(2) == [("oversize", None), ("ended", CloseCode.PROTOCOL_ERROR)]
    (frame,) = await line.peer.frames(1)
    assert frame.opcode is Opcode.CLOSE
    assert line.peer.ws.close_rcvd is not None
    assert line.peer.ws.close_rcvd.code == CloseCode.MESSAGE_TOO_BIG


GARBAGE = {
    "an unmasked frame": Frame(Opcode.TEXT, b"naked").serialize(mask=False),
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "reserved bits": b"\xf1\x80mask",
    "an unknown opcode": b"\x83\x80mask",
    "a continuation of nothing": masked(Opcode.CONT, b"x"),
    "a text inside another": masked(Opcode.TEXT, b"x", fin=False) + masked(Opcode.TEXT, b"y"),
    "a ping in fragments": b"\x09\x80mask",
    "a long ping": b"\x89\xfe\x00\x7emask" + b"x" * 126,
    "a close of one byte": masked(Opcode.CLOSE, b"\x03"),
    "a close with a forbidden code": masked(Opcode.CLOSE, struct.pack("!H", 1005)),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_ends_the_stream_with_a_close_frame(line: Line, name: str) -> None:
    await line.peer.send(GARBAGE[name])
    assert await line.heard.until(1) == [("ended", CloseCode.PROTOCOL_ERROR)]
    (frame,) = await line.peer.frames(1)
    assert frame.opcode is Opcode.CLOSE
    assert line.peer.ws.close_rcvd is not None
    assert line.peer.ws.close_rcvd.code == CloseCode.PROTOCOL_ERROR
    assert await line.peer.at_end()
    assert not line.stream.open


async def test_what_came_before_garbage_is_heard(line: Line) -> None:
    await line.peer.send(masked(Opcode.TEXT, b"good") + GARBAGE["http"])
    assert await line.heard.until(2) == [("text", b"good"), ("ended", CloseCode.PROTOCOL_ERROR)]


async def test_nothing_is_heard_after_the_end(line: Line) -> None:
    await line.peer.send(masked(Opcode.CLOSE, struct.pack("!H", 1000)) + masked(Opcode.TEXT, b"afterthought"))
    assert await line.heard.until(1) == [("ended", 1000)]
    await line.peer.at_end()
    assert line.heard.log == [("ended", 1000)]


async def test_a_reset_ends_the_stream_without_a_code(line: Line) -> None:
    line.peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.peer.sock.close()
    assert await line.heard.until(1) == [("ended", None)]
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.shield(line.stream.done)
    assert not line.stream.send("anybody?")


async def test_a_half_close_ends_the_stream_and_the_peer_sees_our_end(line: Line) -> None:
    line.peer.sock.shutdown(socket.SHUT_WR)
    assert await line.heard.until(1) == [("ended", None)]
    assert await line.peer.at_end()  # although the pool still holds its duplicate


async def test_the_duplicate_kept_elsewhere_does_not_keep_the_peer_waiting(line: Line) -> None:
    closing = asyncio.create_task(line.stream.close())
    await line.peer.frames(1)
    await line.peer.flush()
    assert await line.peer.at_end()
    await closing
    assert line.kept.fileno() >= 0


async def test_a_full_socket_holds_paced_audio_until_the_peer_reads(line: Line) -> None:
    assert line.stream.writable.is_set()
    while line.stream.writable.is_set():
        line.stream.send("x" * 60_000)
    reading = asyncio.create_task(line.peer.at_end())
    async with asyncio.timeout(DEADLINE_S):
        await line.stream.writable.wait()
    reading.cancel()


async def test_also_a_unix_socket_pair_carries_a_stream() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    heard = Heard()
    stream = await open_stream(ours, heard)
    peer = Peer(theirs)
    await peer.text("hello")
    assert await heard.until(1) == [("text", b"hello")]
    theirs.close()
    await heard.until(2)
    await stream.close()


# --- after somebody else ------------------------------------------------------------------------------------------------

MEDIA = b'{"event": "media", "media": {"payload": "f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/"}}'


@pytest.mark.parametrize("taken", [1, 2, 5, 6, 40, len(MEDIA) + 5])
async def test_what_is_left_of_a_frame_that_somebody_else_began_is_dropped(taken: int) -> None:
    ours, theirs = connected()
    peer, heard = Peer(theirs), Heard()
    await peer.send(masked(Opcode.TEXT, MEDIA)[taken:])
    stream = await open_stream(ours, heard, resync=True)
    await peer.text('{"event": "mark"}', "anything that is a message now")
    assert await heard.until(2) == [("text", b'{"event": "mark"}'), ("text", b"anything that is a message now")]
    assert stream.send("and back")
    assert bytes((await peer.frames(1))[0].data) == b"and back"
    theirs.close()
    await stream.close()


async def test_a_caller_who_left_meanwhile_is_noticed_at_once() -> None:
    ours, theirs = connected()
    peer, heard = Peer(theirs), Heard()
    peer.ws.send_close(1000)
    await peer.flush()
    stream = await open_stream(ours, heard, resync=True)
    assert await heard.until(1) == [("ended", 1000)]
    assert await peer.at_end()
    await stream.close()
    theirs.close()


async def test_who_leaves_does_not_end_the_connection_and_hears_nothing_more() -> None:
    ours, theirs = connected()
    kept = ours.dup()
    peer, heard = Peer(theirs), Heard()
    stream = await open_stream(ours, heard, resync=True)
    await peer.text('{"event": "mark"}')
    await heard.until(1)
    stream.leave()
    assert not stream.send("not from here any more")
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.shield(stream.done)
    successor = Heard()
    next_stream = await open_stream(kept, successor)
    await peer.text("for the next one")
    assert await successor.until(1) == [("text", b"for the next one")]
    assert len(heard.log) == 1
    theirs.close()
    await next_stream.close()
