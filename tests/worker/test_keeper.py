"""The keeper's sockets: the 101, refusals, farewells, and nothing left open."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.uri import parse_uri

from shared.agents import Agent
from shared.calls import CallEvent, CallSid, IncomingCall, TraceId
from shared.ticket import Ticket
from shared.workers import PoolId, WorkerId
from tests.pool_process import DEADLINE_S, descriptors, eventually
from worker.pool.book import Book, Call
from worker.pool.keeper import SEND_BUFFER_BYTES, Keeper, adopt, refusal, shake

if TYPE_CHECKING:
    from collections.abc import Iterator


def _client() -> tuple[ClientProtocol, bytes]:
    client = ClientProtocol(parse_uri("ws://voice.example/media/x"))
    client.send_request(client.connect())
    return client, b"".join(client.data_to_send())


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, int]]:
    """Give the caller's socket and a descriptor of the accepted one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        caller = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    caller.settimeout(DEADLINE_S)
    with caller:
        yield caller, accepted.detach()


@pytest.fixture
async def book() -> Book:
    return Book()


@pytest.fixture
async def keeper() -> Keeper:
    return Keeper()


def _call(book: Book) -> Call:
    sid, trace = CallSid("CA1"), TraceId("0" * 32)
    incoming = IncomingCall(call_sid=sid, caller="", called="", trace_id=trace)
    call = Call(incoming, Agent(), Ticket(sid, 0, PoolId("p"), "b", WorkerId("0-1"), trace, 0), 0.0)
    book.add(call)
    book.step(call, CallEvent.RESERVE)
    book.step(call, CallEvent.BIND)
    return call


def test_a_proper_head_is_answered_with_101_and_without_extensions() -> None:
    client, head = _client()
    answer = shake(head)
    assert answer.status == 101
    assert b"Extensions" not in answer.data
    client.receive_data(answer.data)
    assert client.handshake_exc is None
    assert client.state.name == "OPEN"


def test_an_offered_extension_is_declined() -> None:
    _, head = _client()
    offered = head.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
    assert b"deflate" not in shake(offered).data


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", 400),
        (b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1", 400),
        (b"POST / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        (b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
        (b"\xff" * 100_000, 400),
    ],
)
def test_anything_else_is_refused(head: bytes, status: int) -> None:
    answer = shake(head)
    assert answer.status == status
    assert answer.data.startswith(f"HTTP/1.1 {status} ".encode())


async def test_an_adopted_socket_is_ours_alone_and_sends_at_once(pair: tuple[socket.socket, int]) -> None:
    _, fd = pair
    os.set_inheritable(fd, True)
    with adopt(fd) as sock:
        assert not sock.get_inheritable()
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= SEND_BUFFER_BYTES


async def test_a_refusal_reaches_the_caller_and_closes(pair: tuple[socket.socket, int], keeper: Keeper) -> None:
    caller, fd = pair
    before = descriptors(os.getpid())
    keeper.refuse(adopt(fd), refusal(shake(b"").status))
    answer = await asyncio.to_thread(_read_all, caller)
    assert answer == b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    caller.close()
    await eventually(lambda: descriptors(os.getpid()) == before - 2 or None)


async def test_a_caller_who_is_gone_does_not_get_an_answer(pair: tuple[socket.socket, int], keeper: Keeper) -> None:
    caller, fd = pair
    sock = adopt(fd)
    sock.shutdown(socket.SHUT_WR)
    assert not keeper.write(sock, b"x")
    keeper.refuse(sock, b"x")
    caller.close()
    keeper.leave()


async def test_a_stream_that_no_worker_serves_is_closed_with_a_code_and_without_a_reset(
    pair: tuple[socket.socket, int], keeper: Keeper, book: Book
) -> None:
    caller, fd = pair
    call = _call(book)
    keeper.keep(call, adopt(fd))
    caller.sendall(b"unread frames" * 100)  # must not turn the farewell into a reset
    keeper.close(call, CloseCode.INTERNAL_ERROR)
    assert call.stream is None
    frame = await asyncio.to_thread(_read_all, caller)
    assert frame == Frame(Opcode.CLOSE, Close(1011, "").serialize()).serialize(mask=False)
    keeper.leave()


async def test_dropping_twice_is_harmless(pair: tuple[socket.socket, int], keeper: Keeper, book: Book) -> None:
    caller, fd = pair
    call = _call(book)
    keeper.keep(call, adopt(fd))
    keeper.drop(call)
    keeper.drop(call)
    assert await asyncio.to_thread(_read_all, caller) == b""
    keeper.leave()


async def test_a_peer_that_never_closes_is_let_go(pair: tuple[socket.socket, int], keeper: Keeper, book: Book) -> None:
    _, fd = pair
    before = descriptors(os.getpid())
    call = _call(book)
    keeper.keep(call, adopt(fd))
    keeper.drop(call)
    await eventually(lambda: descriptors(os.getpid()) == before - 1 or None)


def _read_all(sock: socket.socket) -> bytes:
    got = b""
    while data := sock.recv(65_536):
        got += data
    return got
