"""A call that comes back after its pool died: another pool knows what was said, and its end is an end."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from shared import keys, redis_door
from shared.calls import EndReason
from shared.messages import Ended, Reserved
from shared.records import Records
from tests.pool_process import Router, eventually, eventually_asked, new_sid, running_pool
from tests.worker.test_pool import closed, said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from websockets.asyncio.client import ClientConnection

    from shared.calls import CallSid
    from tests.pool_process import PoolProcess
    from tests.redis_server import RedisServer

pytestmark = pytest.mark.redis


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = redis_door.commands(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def pool(tmp_path: Path, redis_url: str) -> AsyncIterator[PoolProcess]:
    async with running_pool(tmp_path, settings={"REDIS_URL": redis_url}) as running:
        yield running


@pytest.fixture
async def router(pool: PoolProcess) -> Router:
    router = await pool.router()
    await router.ready(2)
    return router


async def left_behind(redis: Redis, *texts: str) -> CallSid:
    """Leave a journal as a dead pool does; give the call."""
    sid = new_sid()
    for text in texts:
        await redis.rpush(keys.journal(sid), json.dumps({"type": "entry", "kind": "user", "text": text, "at": 1.0}))
    return sid


async def back(router: Router, sid: CallSid, attempt: int = 1) -> Reserved:
    promised = await router.reserve(sid, attempt=attempt)
    assert isinstance(promised, Reserved)
    return promised


async def journal(stream: ClientConnection) -> list[str]:
    """Ask the worker what it was told."""
    told: dict[str, Any] = json.loads(await said(stream, "memory"))
    assert told["resume"] is None, "the stream is a new one"
    return list(told["journal"])


async def kinds(redis: Redis, sid: CallSid) -> list[str]:
    return [entry.kind for entry in await Records(redis).journal_of(sid)]


async def test_the_worker_of_a_call_that_comes_back_knows_what_was_said(redis: Redis, router: Router) -> None:
    sid = await left_behind(redis, "one", "two")
    async with router.upgrade((await back(router, sid)).ticket) as stream:
        assert await journal(stream) == ["one", "two", ""]
        assert await kinds(redis, sid) == ["user", "user", "came_back"]
        assert await said(stream, "journal three") == "noted"

        async def copied() -> bool:
            return [entry.text for entry in await Records(redis).journal_of(sid)] == ["one", "two", "", "three"]

        assert await eventually_asked(copied), "the copy goes on where it was"
        await stream.send("end agent_hangup")
        assert await closed(stream) == 1000
    assert await Records(redis).end_of(sid, 1) is EndReason.AGENT_HANGUP
    assert await Records(redis).end_of(sid, 0) is None, "nobody has seen how the former attempt ended"

    async def forgotten() -> bool:
        return not await Records(redis).journal_of(sid)

    assert await eventually_asked(forgotten)


async def test_a_call_that_comes_back_and_hangs_up_without_a_word_leaves_no_journal(
    redis: Redis, router: Router
) -> None:
    sid = await left_behind(redis, "one")
    async with router.upgrade((await back(router, sid)).ticket) as stream:
        await stream.send("end caller_hangup")
        await closed(stream)

    async def forgotten() -> bool:
        return not await redis.exists(keys.journal(sid))

    assert await eventually_asked(forgotten)


async def test_every_router_is_told_of_an_end_before_the_stream_is_closed(pool: PoolProcess, router: Router) -> None:
    """So it is known although the pool dies as soon as the caller's stream is closed."""
    other = await pool.router()
    sid = new_sid()
    async with router.upgrade((await router.reserved(sid)).ticket) as stream:
        await stream.send("end agent_hangup")
        await closed(stream)
        pool.process.kill()
        await pool.process.wait()
    for each in (router, other):
        await each.until(lambda each=each: each.ends)  # type: ignore[misc]  # a default has no type here
        assert each.ends == [Ended(call_sid=sid, attempt=0, reason=EndReason.AGENT_HANGUP)]


async def test_another_worker_knows_it_too_when_the_promised_one_dies_before_the_stream(
    redis: Redis, pool: PoolProcess, router: Router
) -> None:
    sid = await left_behind(redis, "one")
    promised = await back(router, sid)
    os.kill(pool.workers()[promised.ticket.worker], signal.SIGKILL)
    await eventually(lambda: promised.ticket.worker not in pool.workers())
    await router.until(lambda: router.readiness[-1].ready >= 1)
    async with router.upgrade(promised.ticket) as stream:
        assert await journal(stream) == ["one", ""]


async def test_a_worker_that_dies_in_the_call_that_came_back_has_a_successor_who_knows_all_of_it(
    redis: Redis, pool: PoolProcess, router: Router
) -> None:
    sid = await left_behind(redis, "one")
    promised = await back(router, sid)
    async with router.upgrade(promised.ticket) as stream:
        assert await said(stream, "journal two") == "noted"
        os.kill(pool.workers()[promised.ticket.worker], signal.SIGKILL)
        await pool.said("call resumed")
        told = json.loads(await said(stream, "memory"))
    assert told["journal"] == ["one", "", "two"]


async def test_asking_again_gives_the_same_promise(redis: Redis, router: Router) -> None:
    sid = await left_behind(redis, "one")
    first = await back(router, sid)
    second = await back(router, sid)
    assert first.ticket == second.ticket
    async with router.upgrade(first.ticket) as stream:
        assert await journal(stream) == ["one", ""], "once"


async def test_a_long_journal_arrives_whole(redis: Redis, router: Router) -> None:
    texts = [f"{number} " + "x" * 9_000 for number in range(30)]
    sid = await left_behind(redis, *texts)
    async with router.upgrade((await back(router, sid)).ticket) as stream:
        assert await journal(stream) == [*texts, ""]


async def test_without_a_journal_the_call_begins_anew(router: Router) -> None:
    async with router.upgrade((await back(router, new_sid())).ticket) as stream:
        assert await journal(stream) == []


async def test_a_redis_that_hangs_costs_the_memory_and_not_the_call(tmp_path: Path, redis_server: RedisServer) -> None:
    """It answered the router a moment ago. What comes when the call has begun is too late, and breaks nothing."""
    async with running_pool(tmp_path, settings={"REDIS_URL": redis_server.url}) as pool:
        router = await pool.router()
        await router.ready(2)
        client = redis_door.commands(redis_server.url)
        sid = await left_behind(client, "one")
        os.kill(redis_server.pid, signal.SIGSTOP)
        try:
            async with router.upgrade((await back(router, sid)).ticket) as stream:
                assert await journal(stream) == []
                os.kill(redis_server.pid, signal.SIGCONT)
                assert await said(stream, "journal two") == "noted"
                assert await journal(stream) == []
        finally:
            os.kill(redis_server.pid, signal.SIGCONT)
        await client.aclose()
