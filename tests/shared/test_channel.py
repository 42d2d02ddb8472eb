"""The channel: whole messages with their descriptors, slow peers, broken peers."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from shared.calls import StreamSid
from shared.channel import MAX_QUEUED, Channel, close_all, receive_datagram
from shared.errors import StreamProtocolError
from shared.framing import FROM_WORKER, MAX_MESSAGE_BYTES, encode
from shared.messages import Closed, Entry, Started

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 30.0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield ours, theirs
    ours.close()
    theirs.close()


class Peer:
    """A channel that remembers what happened to it."""

    def __init__(self, sock: socket.socket) -> None:
        self.got: list[tuple[Any, list[int]]] = []
        self.lost: list[str] = []
        self.news = asyncio.Event()
        self.channel = Channel(sock, FROM_WORKER, self._receive, self._lost)

    def _receive(self, message: Any, fds: list[int]) -> None:
        self.got.append((message, fds))
        self.news.set()

    def _lost(self, why: str) -> None:
        self.lost.append(why)
        self.news.set()

    async def until(self, count: int) -> None:
        """Wait until this many things have happened."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.got) + len(self.lost) < count:
                self.news.clear()
                await self.news.wait()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count, without the listing's own objects


async def test_a_descriptor_travels_with_its_message_and_is_not_inheritable(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    receiver = Peer(pair[0])
    sender = Peer(pair[1])
    read, write = os.pipe()
    assert sender.channel.send(Closed(), write)
    await receiver.until(1)
    message, fds = receiver.got[0]
    assert message == Closed()
    assert not os.get_inheritable(fds[0])
    os.write(fds[0], b"x")
    assert os.read(read, 1) == b"x"
    close_all([read, write, *fds])
    sender.channel.close()
    await receiver.until(2)
    assert receiver.lost == [""]
    assert not receiver.channel.open


async def test_a_slow_peer_gets_everything_in_order_with_its_descriptors(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """What does not fit the kernel waits; its descriptors are kept alive until then, and closed after."""
    before = descriptors()
    sender = Peer(pair[1])
    for number in range(1_000):
        read, write = os.pipe()
        assert sender.channel.send(Entry(kind="user", text=str(number) + "x" * 1_000, at=0.0), write)
        os.close(write)
        os.close(read)
    assert descriptors() > before
    receiver = Peer(pair[0])
    await receiver.until(1_000)
    assert [int(message.text.rstrip("x")) for message, _ in receiver.got] == list(range(1_000))
    for _, fds in receiver.got:
        close_all(fds)
    assert descriptors() == before
    sender.channel.close()
    receiver.channel.close()


async def test_a_peer_that_never_reads_is_given_up(pair: tuple[socket.socket, socket.socket]) -> None:
    sender = Peer(pair[1])
    sent = 0
    while sender.channel.send(Entry(kind="user", text="x" * 1_000, at=0.0)):
        sent += 1
    assert sent > MAX_QUEUED
    assert sender.lost == ["peer does not read"]
    assert not sender.channel.send(Closed())


async def test_an_unreadable_message_ends_the_channel_and_closes_its_descriptors(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    receiver = Peer(pair[0])
    before = descriptors()
    read, write = os.pipe()
    socket.send_fds(pair[1], [b"not json"], [write])
    close_all([read, write])
    await receiver.until(1)
    assert receiver.got == []
    assert "unreadable" in receiver.lost[0]
    assert descriptors() == before - 1  # the channel's own socket


async def test_a_truncated_message_is_an_error_and_never_half_a_message(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    receiver = Peer(pair[0])
    pair[1].send(b"x" * (MAX_MESSAGE_BYTES + 2))
    await receiver.until(1)
    assert receiver.lost == ["truncated datagram"]


def test_more_descriptors_than_expected_are_closed_and_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    before = descriptors()
    many = array.array("i", [pair[1].fileno()] * 12)
    pair[1].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)])
    with pytest.raises(StreamProtocolError):
        receive_datagram(pair[0])
    assert descriptors() == before


async def test_closing_is_quiet_and_can_be_repeated(pair: tuple[socket.socket, socket.socket]) -> None:
    peer = Peer(pair[0])
    peer.channel.close()
    peer.channel.close()
    assert peer.lost == []


async def test_what_was_sent_before_the_end_is_heard(pair: tuple[socket.socket, socket.socket]) -> None:
    """A worker's last words survive it."""
    receiver = Peer(pair[0])
    pair[1].send(encode(Started(stream_sid=StreamSid("MZ1"))))
    pair[1].send(encode(Closed()))
    pair[1].close()
    await receiver.until(3)
    assert [type(message) for message, _ in receiver.got] == [Started, Closed]
    assert receiver.lost == [""]
