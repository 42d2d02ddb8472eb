"""Clients that do not finish what they begin: each is let go in its time, and a crowd of them stops nobody else."""

import asyncio
from http import HTTPStatus
from pathlib import Path

import pytest

from router import serving
from tests.fakes_pool import FakePool
from tests.router.harness import running, until


async def test_a_crowd_of_idle_connections_makes_room_for_whoever_comes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The eldest leave, the youngest stay, and each webhook among them is answered."""
    monkeypatch.setattr(serving, "MOST_CONNECTIONS", 20)
    async with FakePool(folder).serving(), running(folder) as router:
        streams = []
        for number in range(50):
            streams.append(await asyncio.open_connection("127.0.0.1", router.port))
            if number % 3 == 0:
                streams[-1][1].write(b"POST /incoming-call HTTP/1.1\r\ncontent-length: 100\r\n")
            if number % 10 == 9:
                assert (await router.post()).status == HTTPStatus.OK
        await until(lambda: len(router.connections) <= 20)
        async with asyncio.timeout(20):
            assert await streams[0][0].read() == b"", "the eldest was closed"
        assert not streams[-1][0].at_eof()
        for _, writer in streams:
            writer.close()


async def test_an_answer_that_nobody_reads_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_TIMEOUT_S", 0.05)
    async with running(folder, clips={"long": bytes(16_000_000)}) as router:
        reader, writer = await asyncio.open_connection("127.0.0.1", router.port, limit=1024)
        writer.write(b"GET /clips/long.wav HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readexactly(4)
        assert len(router.connections) == 1
        await until(lambda: not router.connections)
        writer.close()


async def test_an_answer_takes_as_long_as_we_need_for_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is bounded is the client's part of a conversation, not ours: here a pool that never answers is waited for."""
    monkeypatch.setattr(serving, "HEAD_TIMEOUT_S", 0.01)
    async with FakePool(folder, silent=True).serving(), running(folder) as router:
        assert (await router.post()).status == HTTPStatus.OK
