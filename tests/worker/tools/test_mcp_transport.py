"""How MCP servers are reached, beside what `tests/worker/test_toolhost.py` plays with real ones."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import httpx2
import pytest

from worker.tools import mcp_transport
from worker.tools.mcp_transport import LINES_A_MINUTE, MAX_ANSWER_BYTES, MAX_LINE, Complaints, TooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Endless(httpx2.AsyncByteStream):
    """A body that does not end; counts what was taken of it."""

    def __init__(self) -> None:
        self.given = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.given += 65_536
            yield b"x" * 65_536


async def answer(kind: str, body: Endless) -> httpx2.Response:
    response = httpx2.Response(200, headers={"content-type": kind}, stream=body)
    await mcp_transport._bound(response)
    return response


@pytest.mark.parametrize("kind", ["application/json", "text/html", ""])
async def test_an_endless_answer_is_not_read_into_memory(kind: str) -> None:
    body = Endless()
    with pytest.raises(TooLarge):
        await (await answer(kind, body)).aread()
    assert body.given <= MAX_ANSWER_BYTES + 65_536


async def test_a_stream_of_events_may_go_on() -> None:
    body = Endless()
    async for _ in (await answer("text/event-stream", body)).aiter_raw():
        if body.given > 2 * MAX_ANSWER_BYTES:
            break
    assert body.given > 2 * MAX_ANSWER_BYTES


async def heard(complaints: Complaints) -> None:
    """Wait until the child's side was closed and read to its end."""
    while complaints._read >= 0:  # noqa: ASYNC110 - nobody else is told
        await asyncio.sleep(0)


async def complain(data: bytes) -> None:
    """Be a child that writes to stderr and ends."""
    with Complaints("shop") as complaints:
        child = os.dup(complaints.file.fileno())
        complaints.begin()
        os.write(child, data)
        os.close(child)
        await heard(complaints)


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, _event: str, *, server: str, line: str) -> None:
        """Take a line."""
        assert server == "shop"
        self.lines.append(line)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log()
    monkeypatch.setattr(mcp_transport, "_log", made)
    return made


async def test_what_a_child_says_is_logged_line_by_line(log: Log) -> None:
    await complain(b"first\n\nsecond \xff\nwithout an end")
    assert log.lines == ["first", "second \N{REPLACEMENT CHARACTER}", "without an end"]


async def test_of_much_that_a_child_says_a_little_is_logged(log: Log) -> None:
    await complain(b"x" * 20_000 + b"\n" + b"again\n" * 1_000)
    assert len(log.lines) == LINES_A_MINUTE
    assert len(log.lines[0]) == MAX_LINE
