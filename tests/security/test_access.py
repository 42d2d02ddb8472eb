"""Who gets in, tried from outside: other users of the machine, strangers on the network, and crowds of slow clients."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from shared.messages import Hello, encode
from tests.pool_process import descriptors
from tests.system.talk import ask, greeted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.security.conftest import Planted
    from tests.standins.carrier import Carrier

pytestmark = pytest.mark.system

NOBODY = 65534
CROWD = 500

# What another user of the machine would try: connect, say hello, and see whether anything comes back.
INTRUDER = """
import os, socket, sys
os.setgroups([]), os.setgid(int(sys.argv[2])), os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
    sock.settimeout(30)
    try:
        sock.connect(sys.argv[1])
        sock.send(sys.argv[3].encode())
        print(len(sock.recv(65536)))
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.fixture
async def carrier(planted: Planted) -> AsyncIterator[Carrier]:
    await planted.ready()
    async with planted.caller() as made:
        yield made


def control_socket(stack: Planted) -> Path:
    """Find the socket of the pool."""
    (path,) = (stack.folder / "handoff").glob("*.sock")
    return path


def intrude(path: Path, user: int) -> str:
    """Be another user who says hello to a pool."""
    command = [sys.executable, "-S", "-c", INTRUDER, str(path), str(user), encode(Hello()).decode()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_the_control_socket_is_for_its_owner_alone(planted: Planted) -> None:
    path = control_socket(planted)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.stat().st_uid == os.getuid()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_gets_nothing_from_a_pool_not_even_through_an_open_folder(planted: Planted) -> None:
    """The modes keep them out; and should somebody loosen those, the pool looks at who they are."""
    path = control_socket(planted)
    assert intrude(path, NOBODY) == "PermissionError"
    loosened = (planted.folder, path.parent, path)
    before = [stat.S_IMODE(each.stat().st_mode) for each in loosened]
    try:
        for each in loosened:
            each.chmod(0o777)
        assert intrude(path, NOBODY) in {"0", "ConnectionResetError", "BrokenPipeError"}
        assert int(intrude(path, 0)) > 0, "root is let in, as is the owner"
    finally:
        for each, mode in zip(loosened, before, strict=True):
            each.chmod(mode)
    assert any(
        line["event"] == "refused a connection of another user" and line["uid"] == NOBODY
        for line in planted.pool.lines()
    )


async def head(port: int, *lines: str) -> int:
    """Send a request head and give the status of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join([*lines, "host: x", "connection: close", "", ""]).encode())
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("x-forwarded-for: 127.0.0.1",),
        ("x-forwarded-for: ::1", "forwarded: for=127.0.0.1", "x-real-ip: 127.0.0.1"),
        ("authorization: Bearer",),
        ("authorization: Bearer planted",),
        ("cookie: token=planted",),
    ],
)
async def test_the_routers_metrics_are_for_the_token_alone(planted: Planted, lines: tuple[str, ...]) -> None:
    assert await head(planted.router_port, "GET /metrics HTTP/1.1", *lines) == HTTPStatus.UNAUTHORIZED
    token = planted.secrets["CONSOLE_TOKEN"]
    assert await head(planted.router_port, f"GET /metrics?token={token} HTTP/1.1") == HTTPStatus.UNAUTHORIZED
    assert await head(planted.router_port, "GET /metrics HTTP/1.1", f"authorization: Bearer {token}") == HTTPStatus.OK


async def test_nobody_but_twilio_reserves_a_worker(planted: Planted, carrier: Carrier) -> None:
    reserved = planted.metric("offhook_workers", state="reserved")
    for sign in ("missing", "wrong"):
        answer = await carrier.webhook(sign=sign)
        assert answer.status == HTTPStatus.FORBIDDEN
    for method, path in (
        ("GET", "/incoming-call"),
        ("POST", "/hold"),
        ("POST", "/call-ended/x"),
        ("POST", "/call-status"),
    ):
        lines = (f"{method} {path} HTTP/1.1", "content-length: 0", "x-forwarded-for: 127.0.0.1")
        assert await head(planted.router_port, *lines) == HTTPStatus.FORBIDDEN, path
    assert planted.metric("offhook_workers", state="reserved") == reserved


async def test_five_hundred_slow_clients_do_not_keep_a_call_out(planted: Planted, carrier: Carrier) -> None:
    """Some say nothing, some send a head byte by byte, some a body that never comes whole; all stay as long as they may."""
    beginnings = (b"", b"POST /incoming-call HTTP/1.1\r\nhost: x\r\ncontent-", b"GET /media/",
                  b"POST /incoming-call HTTP/1.1\r\ncontent-length: 500\r\n\r\nCallSid=CA")  # fmt: skip
    writers: list[asyncio.StreamWriter] = []
    trickle = asyncio.create_task(_trickle(writers))
    try:
        for number in range(CROWD):
            _, writer = await asyncio.open_connection("127.0.0.1", planted.router_port)
            writer.write(beginnings[number % len(beginnings)])
            writers.append(writer)
        for _ in range(2):
            call = await carrier.dial()
            await greeted(call)
            await ask(call, "yes", "said:")
            await call.hangup()
            assert (await call.ended()).outcome == "completed"
        assert descriptors(planted.router.pid) < 1024, "within the usual limit of a process"
    finally:
        trickle.cancel()
        for writer in writers:
            writer.close()
    await planted.until(lambda: descriptors(planted.router.pid) < CROWD / 2, "they are let go")


async def _trickle(writers: list[asyncio.StreamWriter]) -> None:
    """Send everybody's next byte, over and over."""
    while True:
        for writer in writers:
            if not writer.is_closing():
                writer.write(b"x")
        await asyncio.sleep(0.2)
