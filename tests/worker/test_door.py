"""The pool's socket: what is wrong with its place names the setting, and a router of another version is told ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import CapturingLogger

from router.pools import Pools
from shared.calls import CallSid
from shared.channel import Channel
from shared.errors import SettingsError
from shared.framing import FROM_POOL
from shared.messages import PROTOCOL_VERSION, Hello, Message, NoPrefetch, Readiness, Welcome
from shared.workers import PoolId
from tests.powerless import no_entry
from tests.router.harness import until
from worker.pool import door
from worker.pool.door import Door

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

DEADLINE_S = 20.0
Said = Callable[[], str]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for sockets, with a short name."""
    with tempfile.TemporaryDirectory(prefix="offhook-") as name:
        yield Path(name)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    """Give what both ends have logged; where the logs of this process go is another test's business."""
    logger = CapturingLogger()
    for module in ("worker.pool.door._log", "router.pools.log", "router.link.log"):
        monkeypatch.setattr(module, logger)
    return lambda: "\n".join(str(call) for call in logger.calls)


def refused(folder: Path, pool: str = "p1") -> str:
    with pytest.raises(SettingsError) as caught:
        door.listen(folder, PoolId(pool))
    return str(caught.value)


def test_a_folder_we_may_not_write_into_is_named_with_whose_it_is_and_nothing_stays_there(folder: Path) -> None:
    shut = folder / "shut"
    shut.mkdir()
    folder.chmod(0o755)
    with no_entry(shut, 0o555):
        said = refused(shut)
        assert said.startswith(f"HANDOFF_DIR: {shut}: Permission denied: it belongs to uid ")
        assert said.endswith(f"this process is uid {os.geteuid()}")
    assert not list(shut.iterdir())


def test_a_name_that_makes_the_path_too_long_is_refused(folder: Path) -> None:
    assert "the path of a Unix socket at most 107" in refused(folder, "p" * 100)
    assert not list(folder.iterdir())


def test_the_longest_path_there_can_be_is_taken(folder: Path) -> None:
    name = "p" * (107 - len(os.fsencode(folder)) - len("/.sock"))
    door.listen(folder, PoolId(name)).close()
    assert [each.name for each in folder.iterdir()] == [f"{name}.sock"]


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Door]:
    """Open a door, with four workers behind it."""
    welcome = Welcome(version=PROTOCOL_VERSION, pool=PoolId("p1"), boot="b1")
    made = Door(door.listen(folder, PoolId("p1")), folder / "p1.sock", welcome, lambda *_: None)
    made.push(Readiness(ready=4, warming=0))
    try:
        yield made
    finally:
        made.close()


async def meet(folder: Path, hello: Message) -> list[Any]:
    """Say something as a router that comes in; give what is said to it until the door is closed on it."""
    heard: list[Any] = []
    closed = asyncio.Event()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(os.fspath(folder / "p1.sock"))
    channel = Channel(sock, FROM_POOL, lambda message, _fds: heard.append(message), lambda _why: closed.set())
    channel.send(hello)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await closed.wait()
    finally:
        channel.close()
    return heard


async def test_a_router_of_another_version_is_told_ours_and_named_once(folder: Path, said: Said) -> None:
    async with opened(folder):
        for version in (99, 99, 98, 99):
            assert await meet(folder, Hello(version=version)) == [
                Welcome(version=PROTOCOL_VERSION, pool=PoolId("p1"), boot="b1")
            ], "and no promise"
    assert said().count("another version of the control protocol") == 2


async def test_who_does_not_introduce_itself_is_shown_the_door(folder: Path, said: Said) -> None:
    async with opened(folder):
        assert await meet(folder, NoPrefetch(call_sid=CallSid("CA1"), why="x")) == []
    assert "does not introduce itself" in said()


async def test_a_router_and_a_pool_of_different_versions_meet_once_and_then_for_calls_under_way_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    """Both real ends: the router knows why, and comes back as one of the pool's version."""
    monkeypatch.setattr("router.pools.PROTOCOL_VERSION", PROTOCOL_VERSION + 1)
    monkeypatch.setattr("router.pools.RETRY_S", 0.01)
    async with opened(folder) as made:
        pools = Pools(folder)
        async with pools.connected():
            for _ in range(3):
                await pools._rescan()
            (problem,) = pools.problems
            assert f"theirs {PROTOCOL_VERSION}, ours {PROTOCOL_VERSION + 1}" in problem.detail
            assert pools.ready == 0
            await until(lambda: len(made._greeted) == 1)
            assert len(made._routers) == 1
    lines = said()
    assert lines.count("pool not used: it speaks another version") == 1
    assert lines.count("router not served: it speaks another version") == 1
