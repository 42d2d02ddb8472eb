"""The router as a process of its own: its exit codes, and what survives it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from shared.calls import CallSid, TraceId
from shared.ticket import Ticket, TicketOffice
from shared.workers import PoolId, WorkerId
from tests.fakes_pool import FakePool, echo
from tests.router.harness import BASE, SID, TOKEN, signature, soon, until

ROOT = Path(__file__).resolve().parents[2]


async def start(folder: Path, *arguments: str, **changes: str) -> Process:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PUBLIC_BASE_URL": BASE,
        "TWILIO_AUTH_TOKEN": TOKEN,
        "HANDOFF_DIR": str(folder),
        "ROUTER_HOST": "127.0.0.1",
        "ROUTER_PORT": "0",
        "REDIS_URL": "redis://127.0.0.1:1/0",  # nobody listens on port 1
    } | changes
    return await asyncio.create_subprocess_exec(
        sys.executable, *(arguments or ("-m", "router")),
        env=environment, cwd=folder, stdin=DEVNULL, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def running(folder: Path, **changes: str) -> AsyncIterator[tuple[Process, int]]:
    """Run a router and give its port; it is ended in any case."""
    process = await start(folder, **changes)
    try:
        yield process, (await line_of(process, "router listening"))["port"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_of(process: Process, event: str) -> dict[str, Any]:
    """The log line of an event."""
    assert process.stdout is not None
    while line := await soon(process.stdout.readline()):
        content: dict[str, Any] = json.loads(line)
        if content["event"] == event:
            return content
    raise AssertionError(f"it ended without {event!r}")


def descriptors_of(process: Process) -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


async def call(port: int) -> bytes:
    body = "&".join(f"{name}={value}" for name, value in {"CallSid": SID, "From": "a"}.items()).encode()
    signed = signature(f"{BASE}/incoming-call", {"CallSid": SID, "From": "a"})
    head = (
        f"POST /incoming-call HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
        f"content-type: application/x-www-form-urlencoded\r\nx-twilio-signature: {signed}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + body)
    try:
        return await soon(reader.read(-1))
    finally:
        writer.close()


async def test_a_stream_and_a_reservation_outlive_kill_9_of_the_router(folder: Path) -> None:
    async with FakePool(folder).serving() as pool:
        async with running(folder) as (process, port):
            answer = (await call(port)).decode()
            segment = answer.partition("/media/")[2].partition('"')[0]
            assert TicketOffice(TOKEN).open(segment).call_sid == SID
            path = f"/media/{segment}"
            headers = {"X-Twilio-Signature": signature(f"wss://voice.example.test{path}")}
            upgrade = asyncio.ensure_future(soon(connect(f"ws://127.0.0.1:{port}{path}", additional_headers=headers)))
            served = asyncio.create_task(echo(await soon(pool.taken.get())))
            stream = await upgrade
            await stream.send("both here")
            assert await soon(stream.recv()) == "both here"
            process.kill()
            await process.wait()
            await stream.send("still here")
            assert await soon(stream.recv()) == "still here"
            await stream.close()
            await soon(served)
        async with running(folder) as (_, port):  # another one takes over, the pool untouched
            assert b"<Connect" in await call(port)
            upgrade = asyncio.ensure_future(soon(connect(f"ws://127.0.0.1:{port}{path}", additional_headers=headers)))
            served = asyncio.create_task(echo(await soon(pool.taken.get())))
            await (await upgrade).close()
            await soon(served)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_ends_with_0_when_told_to(folder: Path, number: signal.Signals) -> None:
    async with FakePool(folder).serving(), running(folder) as (process, port):
        assert b"<Connect" in await call(port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)  # a client that says nothing
        process.send_signal(number)
        assert await soon(process.wait()) == 0
        writer.close()
        assert await reader.read() == b""
        assert process.stderr is not None
        assert await process.stderr.read() == b""


async def test_a_call_being_answered_when_it_is_told_to_end_is_answered(folder: Path) -> None:
    async with FakePool(folder, silent=True).serving() as pool, running(folder) as (process, port):
        answering = asyncio.create_task(call(port))
        while not pool.reserved:
            await soon(pool.heard.get())
        process.terminate()
        assert b"<Redirect" in await answering
        assert await soon(process.wait()) == 0


async def test_handing_off_leaves_no_descriptor_behind(folder: Path) -> None:
    async with FakePool(folder, ready=100).serving() as pool, running(folder) as (process, port):
        await call(port)
        before = descriptors_of(process)
        for number in range(20):
            ticket = Ticket(CallSid(SID), number, PoolId("p1"), "b1", WorkerId("1-1"), TraceId("0" * 32), 2**40)
            path = f"/media/{TicketOffice(TOKEN).sign(ticket)}"
            headers = {"X-Twilio-Signature": signature(f"wss://voice.example.test{path}")}
            upgrade = asyncio.ensure_future(soon(connect(f"ws://127.0.0.1:{port}{path}", additional_headers=headers)))
            served = asyncio.create_task(echo(await soon(pool.taken.get())))
            await (await upgrade).close()
            await soon(served)
        await until(lambda: descriptors_of(process) <= before)


async def test_calls_are_answered_while_redis_is_down(folder: Path) -> None:
    async with FakePool(folder).serving() as pool, running(folder) as (_, port):
        assert b"<Connect" in await call(port)
        while not pool.no_prefetch:
            await soon(pool.heard.get())
        assert pool.no_prefetch[0].call_sid == SID


async def refusal(folder: Path, **changes: str) -> list[str]:
    """What it says before it ends with 2."""
    process = await start(folder, **changes)
    _, stderr = await soon(process.communicate())
    assert process.returncode == 2, stderr
    return stderr.decode().splitlines()


async def test_every_wrong_setting_is_named_before_it_listens(folder: Path) -> None:
    lines = await refusal(folder, PUBLIC_BASE_URL="ftp://x", ROUTER_PORT="seventy", TICKET_TTL="0")
    assert [line.split(":")[1].strip() for line in lines] == ["PUBLIC_BASE_URL", "TICKET_TTL", "ROUTER_PORT"]
    lines = await refusal(folder, PUBLIC_BASE_URL="", TWILIO_AUTH_TOKEN="")
    assert lines == ["offhook: PUBLIC_BASE_URL: missing", "offhook: TWILIO_AUTH_TOKEN: missing"]


async def test_a_missing_clip_and_an_impossible_folder_are_both_named(folder: Path) -> None:
    assets = folder / "assets"
    assets.mkdir()
    row = 'id = "greeting"\nfile = "none.ulaw"\ntext = "t"\nlanguage = "en"\nvoice = "v"\nduration_ms = 1\n'
    (assets / "manifest.toml").write_text(f'[[clip]]\n{row}sha256 = "0"\nlicence = "l"\n')
    (folder / "file").touch()
    lines = await refusal(folder, ASSETS_DIR=str(assets), HANDOFF_DIR=str(folder / "file"))
    assert len(lines) == 2
    assert lines[0].startswith("offhook: HANDOFF_DIR: ")
    assert "'greeting' (none.ulaw)" in lines[1]


async def test_a_port_that_is_taken_is_said_in_one_line(folder: Path) -> None:
    (line,) = await refusal(folder, ROUTER_HOST="no such host")
    assert line.startswith("offhook: ROUTER_HOST: cannot listen on no such host:0: ")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (line,) = await refusal(folder, ROUTER_PORT=str(port))
        assert line == f"offhook: ROUTER_PORT: cannot listen on 127.0.0.1:{port}: Address already in use"


async def test_a_second_port_that_is_taken_is_said_beside_the_first(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        (line,) = await refusal(folder, ROUTER_METRICS_PORT=port)
        assert line == f"offhook: ROUTER_METRICS_PORT: cannot listen on 127.0.0.1:{port}: Address already in use"
        lines = await refusal(folder, ROUTER_METRICS_PORT=port, ROUTER_PORT=port)
        assert [each.split(":")[1].strip() for each in lines] == ["ROUTER_PORT", "ROUTER_METRICS_PORT"]


async def test_a_second_port_serves_metrics_and_ends_with_the_first(folder: Path) -> None:
    async with running(folder, ROUTER_METRICS_PORT="0", CONSOLE_TOKEN="the-token") as (process, port):
        pages = (await line_of(process, "metrics listening"))["port"]
        for number, status in ((port, b"401"), (pages, b"200")):
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert (await soon(reader.read(-1))).startswith(b"HTTP/1.1 " + status)
            writer.close()
        idle, writer = await asyncio.open_connection("127.0.0.1", pages)
        process.terminate()
        assert await soon(process.wait()) == 0
        assert await idle.read() == b""
        writer.close()


async def test_the_router_loads_neither_pipecat_nor_the_worker(folder: Path) -> None:
    script = "import sys, router.__main__; print({name.partition('.')[0] for name in sys.modules})"
    process = await start(folder, "-c", script)
    stdout, _ = await soon(process.communicate())
    loaded = stdout.decode()
    assert "'uvicorn'" in loaded
    assert "'pipecat'" not in loaded
    assert "'worker'" not in loaded
