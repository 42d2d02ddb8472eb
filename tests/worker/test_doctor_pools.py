"""The doctor and the pools: the folder they share with the router, who answers in it, and in which version."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING

import pytest

from shared.framing import FROM_ROUTER, MAX_MESSAGE_BYTES, encode
from shared.messages import PROTOCOL_VERSION, Hello, Problem, Readiness, Welcome
from shared.workers import PoolId
from tests.doctoring import case_of, found, only, words
from worker.doctor import pools
from worker.doctor.findings import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from shared.messages import Message

WELCOME = Welcome(version=PROTOCOL_VERSION, pool=PoolId("alpha"), boot="b")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "handoff"
    made.mkdir(mode=0o700)
    return made


@contextlib.asynccontextmanager
async def pool(folder: Path, *answers: Message, name: str = "alpha", stays: bool = True) -> AsyncIterator[list[object]]:
    """Answer each router's greeting with these messages; give what was heard. Without `stays` hang up after them."""
    heard: list[object] = []
    loop = asyncio.get_running_loop()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    listener.bind(str(folder / f"{name}.sock"))
    listener.listen()

    async def serve() -> None:
        while True:
            peer, _ = await loop.sock_accept(listener)
            with peer:
                heard.append(FROM_ROUTER(await loop.sock_recv(peer, MAX_MESSAGE_BYTES)))
                for answer in answers:
                    await loop.sock_sendall(peer, encode(answer))
                if stays:
                    await loop.sock_recv(peer, MAX_MESSAGE_BYTES)

    task = asyncio.create_task(serve())
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.wait([task])
        listener.close()


async def test_a_pool_with_ready_workers_is_well_and_was_greeted_as_a_router_does(folder: Path) -> None:
    async with pool(folder, WELCOME, Readiness(ready=3, warming=1)) as heard:
        finding = await only(pools.pools, case_of(handoff_dir=folder))
    assert finding.state is State.OK
    assert "pool alpha: 3 ready, 1 warming" in finding.said
    assert heard == [Hello()]


async def test_without_a_ready_worker_in_any_pool_callers_wait(folder: Path) -> None:
    async with pool(folder, WELCOME, Readiness(ready=0, warming=2)):
        findings = await found(pools.pools, case_of(handoff_dir=folder))
    assert [finding.state for finding in findings] == [State.WARNING, State.FAILED]


async def test_one_pool_without_ready_workers_beside_another_is_a_warning(folder: Path) -> None:
    ready, none = Readiness(ready=2, warming=0), Readiness(ready=0, warming=2)
    async with pool(folder, WELCOME, none), pool(folder, WELCOME, ready, name="beta"):
        findings = await found(pools.pools, case_of(handoff_dir=folder))
    assert [finding.state for finding in findings] == [State.WARNING, State.OK]


async def test_what_keeps_workers_from_being_ready_is_said_in_the_pools_words(folder: Path) -> None:
    problem = Problem(resource="tts", detail="401: no such key")
    async with pool(folder, WELCOME, Readiness(ready=0, warming=1, problems=(problem,))):
        findings = await found(pools.pools, case_of(handoff_dir=folder))
    assert findings[0].state is State.FAILED
    assert "tts: 401: no such key" in findings[0].said


async def test_a_pool_that_drains_promises_nothing(folder: Path) -> None:
    async with pool(folder, WELCOME, Readiness(ready=2, warming=0, draining=True)):
        findings = await found(pools.pools, case_of(handoff_dir=folder))
    assert "drains" in findings[0].said
    assert findings[-1].state is State.FAILED


async def test_a_pool_of_another_version_is_named_with_both(folder: Path) -> None:
    async with pool(folder, Welcome(version=PROTOCOL_VERSION + 1, pool=PoolId("alpha"), boot="b")):
        finding = (await found(pools.pools, case_of(handoff_dir=folder)))[0]
    assert finding.state is State.FAILED
    assert f"pool alpha speaks version {PROTOCOL_VERSION + 1}, this image {PROTOCOL_VERSION}" in finding.said
    assert "same build" in finding.remedy


async def test_a_pool_that_hangs_up_on_our_version_is_of_another(folder: Path) -> None:
    async with pool(folder, stays=False):
        finding = (await found(pools.pools, case_of(handoff_dir=folder)))[0]
    assert "another version" in finding.said
    assert "same build" in finding.remedy


async def test_a_pool_that_has_not_said_yet_what_it_promises_has_only_just_started(folder: Path) -> None:
    async with pool(folder, WELCOME):
        finding = (await found(pools.pools, case_of(handoff_dir=folder)))[0]
    assert "just started" in finding.said


async def test_a_pool_that_does_not_answer_is_said_not_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "ANSWER_S", 0.01)
    async with pool(folder):
        finding = (await found(pools.pools, case_of(handoff_dir=folder)))[0]
    assert finding.state is State.FAILED
    assert "does not answer" in finding.said


async def test_the_socket_of_a_pool_that_is_gone_is_a_warning_and_no_pool(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(str(folder / "gone.sock"))
    findings = await found(pools.pools, case_of(handoff_dir=folder))
    assert [finding.state for finding in findings] == [State.WARNING, State.FAILED]


async def test_a_folder_without_a_pool_says_how_to_start_one(folder: Path) -> None:
    finding = await only(pools.pools, case_of(handoff_dir=folder))
    assert finding.state is State.FAILED
    assert "python -m worker" in finding.remedy


async def test_a_folder_that_is_not_there_or_none_is_named(folder: Path) -> None:
    (folder / "file").touch()
    for path, said in ((folder / "absent", "there is no"), (folder / "file", "is no folder")):
        finding = await only(pools.pools, case_of(handoff_dir=path))
        assert finding.state is State.FAILED
        assert said in finding.said
        assert "HANDOFF_DIR" in words(finding)


async def test_a_folder_that_anybody_may_write_is_a_failure(folder: Path) -> None:
    os.chmod(folder, 0o777)  # noqa: PTH101, S103 - what is wrong with it, in a coroutine
    finding = await only(pools.pools, case_of(handoff_dir=folder))
    assert "anybody" in finding.said


async def test_a_folder_that_cannot_be_written_says_whose_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    finding = await only(pools.pools, case_of(handoff_dir=folder))
    assert finding.state is State.FAILED
    assert f"uid {os.geteuid()}" in finding.said
    assert "chown" in finding.remedy
