"""A call whose worker dies, from outside: the same connection, another worker that knows what the first one knew."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from shared.calls import CallSid, CallState, EndReason
from shared.clips import load_manifest
from shared.messages import Reserved
from shared.metrics import Loss
from shared.settings import Settings
from tests.fake_child import Script
from tests.pool_process import (
    DEADLINE_S,
    Router,
    descriptors,
    eventually,
    eventually_asked,
    new_sid,
    running_pool,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from websockets.asyncio.client import ClientConnection

    from tests.pool_process import PoolProcess


def full(count: int) -> dict[str, str]:
    """Keep a pool from having more than that for calls that wait: they would still be ready afterwards."""
    return {"POOL_MAX": str(count)}


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[PoolProcess]:
    async with running_pool(tmp_path, ready=3, settings=full(3)) as running:
        yield running


@pytest.fixture
async def router(pool: PoolProcess) -> Router:
    router = await pool.router()
    await router.ready(3)
    return router


@dataclass
class Caller:
    """A call under way; its worker is killed by name."""

    pool: PoolProcess
    sid: CallSid
    stream: ClientConnection
    deaths: int = 0
    passed_over: list[dict[str, Any]] = field(default_factory=list)

    async def asks(self, text: str) -> str:
        """Say something and give the answer; bridging words before it are passed over."""
        await self.stream.send(text)
        async with asyncio.timeout(DEADLINE_S):
            while (answer := str(await self.stream.recv())).startswith('{"event"'):
                self.passed_over.append(json.loads(answer))
        return answer

    async def memory(self) -> Any:
        """Ask the present worker what it was told."""
        return json.loads(await self.asks("memory"))

    async def loses_its_worker(self) -> str:
        """Kill the worker, and give its name."""
        name, pid = (await self.asks("who")).split()
        os.kill(int(pid), signal.SIGKILL)
        self.deaths += 1
        return name

    async def goes_on(self) -> None:
        """Wait until the next worker has taken over."""
        await self.pool.resumed(self.sid, self.deaths)

    async def hears(self, event: str) -> dict[str, Any]:
        """Give the next message, which is one of the pool's own."""
        async with asyncio.timeout(DEADLINE_S):
            message: dict[str, Any] = json.loads(await self.stream.recv())
        assert message["streamSid"] == "MZ1"
        assert message["event"] == event
        return message

    async def waits(self) -> None:
        """Wait until the pool says that the call waits for a worker."""
        await eventually(
            lambda: (
                sum(
                    line["event"] == "call waits for a worker" and line["call_sid"] == self.sid
                    for line in self.pool.lines
                )
                or None
            )
        )


async def spare(pool: PoolProcess, count: int) -> None:
    """Wait until so many workers are ready beside one that serves a call; the router's news may be older."""
    await eventually(lambda: len(pool.workers()) > count or None)


async def promised_to(router: Router, sid: CallSid) -> Reserved:
    """Ask for a worker until there is one."""

    async def ask() -> Reserved | None:
        answer = await router.reserve(sid)
        return answer if isinstance(answer, Reserved) else None

    return await eventually_asked(ask)


async def ended(router: Router, sid: CallSid) -> EndReason:
    async def known() -> EndReason | None:
        return (await router.end_of(sid)).reason

    return await eventually_asked(known)


async def closed(stream: ClientConnection) -> int | None:
    async with asyncio.timeout(DEADLINE_S):
        await stream.wait_closed()
    return stream.close_code


async def test_the_same_connection_is_served_by_another_worker_that_knows_the_call(
    pool: PoolProcess, router: Router
) -> None:
    sid = new_sid()
    promised = await router.reserved(sid)
    async with router.upgrade(promised.ticket) as stream:
        caller = Caller(pool, sid, stream)
        assert (await caller.memory())["resume"] is None
        await caller.asks("journal first")
        await caller.asks("journal second")
        await caller.asks("tape the caller's words")
        first = await caller.loses_its_worker()
        await caller.goes_on()
        memory = await caller.memory()
        assert memory["journal"] == ["first", "second"]
        assert memory["tape"] == "the caller's words"
        assert memory["resume"]["number"] == 1
        assert memory["resume"]["stream_sid"] == "MZ1"
        assert memory["resume"]["bridged"] is False
        assert (await caller.asks("who")).split()[0] != first
        assert await caller.asks("customer") == "unavailable", "what was said to the former one is said again"
        assert (await router.end_of(sid)).state is CallState.STREAMING
        await caller.asks("journal third")
        await caller.loses_its_worker()
        await caller.goes_on()
        memory = await caller.memory()
        assert memory["journal"] == ["first", "second", "third"]
        assert memory["resume"]["number"] == 2
        await stream.send("end agent_hangup")
        assert await closed(stream) == 1000
    assert await ended(router, sid) is EndReason.AGENT_HANGUP
    assert await pool.metric("offhook_failovers_total", reason=Loss.DIED, outcome="resumed") == 2
    assert await pool.metric("offhook_failover_seconds_count") == 2
    assert await pool.metric("offhook_calls_total", end_reason="worker_lost") == 0
    assert await pool.metric("offhook_calls_active") == 0


async def test_a_worker_that_dies_of_what_it_was_told_is_no_other_case(pool: PoolProcess, router: Router) -> None:
    sid = new_sid()
    promised = await router.reserved(sid)
    async with router.upgrade(promised.ticket) as stream:
        caller = Caller(pool, sid, stream, deaths=1)
        await caller.asks("journal before")
        await stream.send("crash")
        await caller.goes_on()
        assert (await caller.memory())["journal"] == ["before"]


async def test_a_journal_larger_than_a_message_arrives_whole_and_in_order(pool: PoolProcess, router: Router) -> None:
    sid = new_sid()
    promised = await router.reserved(sid)
    said = [f"{number} " + "x" * 9_000 for number in range(40)]
    async with router.upgrade(promised.ticket) as stream:
        caller = Caller(pool, sid, stream)
        for text in said:
            await caller.asks(f"journal {text}")
        await caller.loses_its_worker()
        await caller.goes_on()
        assert (await caller.memory())["journal"] == said


async def test_a_call_that_kills_its_workers_is_given_up_after_three_resumes(pool: PoolProcess, router: Router) -> None:
    sid = new_sid()
    promised = await router.reserved(sid)
    async with router.upgrade(promised.ticket) as stream:
        caller = Caller(pool, sid, stream)
        for _ in range(3):
            await caller.loses_its_worker()
            await caller.goes_on()
            assert await caller.asks("still there") == "still there"
        await caller.loses_its_worker()
        assert await closed(stream) == 1011
    assert await ended(router, sid) is EndReason.POISONED
    assert await pool.metric("offhook_calls_total", end_reason="poisoned") == 1
    assert await pool.metric("offhook_failovers_total", reason=Loss.DIED, outcome="resumed") == 3
    assert await pool.metric("offhook_failovers_total", reason=Loss.DIED, outcome="ended") == 1
    await router.ready(3)


async def test_the_last_ready_worker_is_not_for_a_call_that_has_cost_two(tmp_path: Path) -> None:
    """It waits, hearing bridging words, while another caller gets that worker; the first that can be spared serves it."""
    async with running_pool(tmp_path, ready=1, settings=full(2)) as pool:
        router = await pool.router()
        await router.ready(1)
        sid = new_sid()
        promised = await router.reserved(sid)
        async with router.upgrade(promised.ticket) as stream:
            caller = Caller(pool, sid, stream)
            await caller.asks("journal before")
            await spare(pool, 1)
            await caller.loses_its_worker()
            await caller.goes_on()
            await spare(pool, 1)
            pool.tell(Script(fail="tts"))  # nobody else comes
            await caller.loses_its_worker()
            await caller.waits()
            bridging = load_manifest(Settings(_env_file=None).assets_dir)["bridging"].audio
            await caller.hears("clear")
            message = await caller.hears("media")
            assert base64.b64decode(message["media"]["payload"]) == bridging
            other = await router.reserved(new_sid())
            async with router.upgrade(other.ticket) as second:
                await second.send("hello")
                assert await second.recv() == "hello"
            pool.tell(Script())
            await caller.goes_on()
            memory = await caller.memory()
            assert memory["journal"] == ["before"]
            assert memory["resume"]["number"] == 2
            assert memory["resume"]["bridged"] is True


async def test_with_one_worker_to_be_ready_a_second_death_still_finds_one(tmp_path: Path) -> None:
    """A call that may not have the last worker makes the pool keep one more for as long as it waits."""
    async with running_pool(tmp_path, ready=1, settings=full(2)) as pool:
        router = await pool.router()
        await router.ready(1)
        sid = new_sid()
        promised = await router.reserved(sid)
        async with router.upgrade(promised.ticket) as stream:
            caller = Caller(pool, sid, stream)
            for _ in range(3):
                await spare(pool, 1)
                await caller.loses_its_worker()
                await caller.goes_on()
            assert await caller.asks("still there") == "still there"


async def test_a_caller_whose_worker_died_is_served_by_the_first_that_becomes_ready(tmp_path: Path) -> None:
    async with running_pool(tmp_path, ready=1) as pool:
        router = await pool.router()
        await router.ready(1)
        sid = new_sid()
        pool.tell(Script(fail="tts"))
        promised = await router.reserved(sid)
        async with router.upgrade(promised.ticket) as stream:
            caller = Caller(pool, sid, stream)
            await caller.loses_its_worker()
            await caller.waits()
            await caller.hears("media")
            said = {"event": "media", "streamSid": "MZ1", "media": {"track": "inbound"}}
            for piece in (b"said to ", b"nobody"):
                said["media"] = {"track": "inbound", "payload": base64.b64encode(piece).decode()}
                await stream.send(json.dumps(said))
            pool.tell(Script())
            await caller.goes_on()
            memory = await caller.memory()
            later = [base64.b64decode(each["media"]["payload"]).decode() for each in caller.passed_over]
            assert memory["tape"] + "".join(later) == "said to nobody", (
                "what the pool did not read is there for the worker"
            )
            assert memory["resume"]["number"] == 1


@pytest.mark.parametrize("how", ["stop", "close"])
async def test_a_caller_who_hangs_up_while_waiting_ends_the_call(tmp_path: Path, how: str) -> None:
    async with running_pool(tmp_path, ready=1, settings=full(1)) as pool:
        router = await pool.router()
        await router.ready(1)
        before = descriptors(pool.pid)
        sid = new_sid()
        pool.tell(Script(fail="tts"))
        promised = await router.reserved(sid)
        async with router.upgrade(promised.ticket) as stream:
            caller = Caller(pool, sid, stream)
            await caller.loses_its_worker()
            await caller.waits()
            await caller.hears("media")
            if how == "stop":
                await stream.send('{"event": "stop", "streamSid": "MZ1"}')
                await ended(router, sid)
        assert await ended(router, sid) is EndReason.CALLER_HANGUP
        assert await pool.metric("offhook_failovers_total", reason=Loss.DIED, outcome="hung_up") == 1
        assert await pool.metric("offhook_calls_active") == 0
        pool.tell(Script())
        await router.ready(1)
        await eventually(lambda: descriptors(pool.pid) == before or None)


async def test_a_hundred_kills_leave_no_descriptor_behind(tmp_path: Path) -> None:
    async with running_pool(tmp_path, ready=4, settings=full(4)) as pool:
        router = await pool.router()
        await router.ready(4)
        before = descriptors(pool.pid), descriptors(pool.zygote)
        for _ in range(50):
            sid = new_sid()
            promised = await promised_to(router, sid)
            async with router.upgrade(promised.ticket) as stream:
                caller = Caller(pool, sid, stream)
                for _ in range(2):
                    await caller.loses_its_worker()
                    await caller.goes_on()
                assert await caller.asks("still there") == "still there"
            assert await ended(router, sid) is EndReason.CALLER_HANGUP
        await router.ready(4)
        await eventually(lambda: (descriptors(pool.pid), descriptors(pool.zygote)) == before or None)
        assert await pool.metric("offhook_failovers_total", reason=Loss.DIED, outcome="resumed") == 100
