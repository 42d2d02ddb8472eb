"""The pool and Redis: results come, ends and journals are kept, and an outage changes nothing for callers."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from shared import keys, redis_door
from shared.calls import EndReason
from shared.prefetch import Result
from shared.readiness import Readiness
from shared.records import Records
from tests.pool_process import eventually_asked, new_sid, running_pool
from tests.worker.test_pool import closed, said, unavailable

if TYPE_CHECKING:
    from pathlib import Path

    from redis.asyncio import Redis
    from websockets.asyncio.client import ClientConnection

    from shared.calls import CallSid
    from tests.redis_server import RedisServer

pytestmark = pytest.mark.redis

DATABASE = {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_SECRET_KEY": "made-up"}


async def publish(redis: Redis, sid: CallSid) -> None:
    """Do what the prefetch job does."""
    result = Result(outcome="found", record={"name": "Ana"}, queued_at=time.time(), took_s=0.1)
    await redis.xadd(keys.customer(sid), {"result": msgspec.json.encode(result).decode()})


async def test_a_prefetched_customer_reaches_the_worker_whenever_it_comes(tmp_path: Path, redis_url: str) -> None:
    redis = redis_door.commands(redis_url)
    async with running_pool(tmp_path, settings={**DATABASE, "REDIS_URL": redis_url}) as pool:
        router = await pool.router()
        await router.ready(2)
        early, late = new_sid(), new_sid()
        await publish(redis, early)
        promised = await router.reserved(early)
        async with router.upgrade(promised.ticket) as stream:
            assert await eventually_asked(lambda: found(stream))
        promised = await router.reserved(late)
        async with router.upgrade(promised.ticket) as stream:
            assert await said(stream, "customer") == "nothing"
            await publish(redis, late)
            assert await eventually_asked(lambda: found(stream))
    await redis.aclose()


async def found(stream: ClientConnection) -> bool:
    return await said(stream, "customer") == "found"


async def test_the_lease_the_journal_and_the_end_are_written(tmp_path: Path, redis_url: str) -> None:
    redis = redis_door.commands(redis_url)
    records, directory = Records(redis), Readiness(redis)
    async with running_pool(tmp_path, settings={"REDIS_URL": redis_url}) as pool:
        router = await pool.router()
        await router.ready(2)

        async def seen() -> bool:
            return [each.ready for each in await directory.pools()] == [2]

        assert await eventually_asked(seen)
        assert await pool.metric("offhook_redis_up") == 1
        sid = new_sid()
        promised = await router.reserved(sid)
        async with router.upgrade(promised.ticket) as stream:
            for word in ("one", "two"):
                assert await said(stream, f"journal {word}") == "noted"

            async def copied() -> bool:
                return [entry.text for entry in await records.journal_of(sid)] == ["one", "two"]

            assert await eventually_asked(copied)
            await stream.send("end agent_hangup")
            assert await closed(stream) == 1000
            assert await records.end_of(sid, 0) is EndReason.AGENT_HANGUP  # stored before the stream was closed

        async def forgotten() -> bool:
            return not await records.journal_of(sid)

        assert await eventually_asked(forgotten)
    assert await directory.pools() == []
    await redis.aclose()


async def test_an_outage_changes_nothing_for_callers_and_everything_catches_up(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    settings = {**DATABASE, "REDIS_URL": redis_server.url}
    async with running_pool(tmp_path, settings=settings) as pool:
        router = await pool.router()
        await router.ready(2)
        sid = new_sid()
        promised = await router.reserved(sid)
        async with router.upgrade(promised.ticket) as stream:
            await said(stream, "journal before")
            redis_server.stop()
            assert await eventually_asked(lambda: unavailable(stream))
            await said(stream, "journal during")
            other = await router.reserved(new_sid())
            async with router.upgrade(other.ticket) as second:
                assert await said(second, "customer") == "unavailable"
                await second.send("end agent_hangup")
                assert await closed(second) == 1000
            redis_server.start()
            redis = redis_door.commands(redis_server.url)

            async def caught_up() -> bool:
                return "during" in [entry.text for entry in await Records(redis).journal_of(sid)]

            assert await eventually_asked(caught_up)
            await publish(redis, sid)
            assert await eventually_asked(lambda: found(stream))
            await redis.aclose()


async def test_copies_are_whole_again_when_redis_comes_back_empty(tmp_path: Path, redis_server: RedisServer) -> None:
    """Nothing more need be said in the call for that; and the lease is back without a restart."""
    async with running_pool(tmp_path, settings={"REDIS_URL": redis_server.url}) as pool:
        router = await pool.router()
        await router.ready(2)
        sid = new_sid()
        promised = await router.reserved(sid)
        async with router.upgrade(promised.ticket) as stream:
            for word in ("one", "two"):
                await said(stream, f"journal {word}")
            assert await eventually_asked(lambda: journal_is(redis_server.url, sid, "one", "two"))
            redis_server.stop()
            redis_server.start()
            assert await eventually_asked(lambda: journal_is(redis_server.url, sid, "one", "two"))
            await said(stream, "journal three")
            assert await eventually_asked(lambda: journal_is(redis_server.url, sid, "one", "two", "three"))
        redis = redis_door.commands(redis_server.url)

        async def listed() -> bool:
            return [each.pool for each in await Readiness(redis).pools()] == ["p1"]

        assert await eventually_asked(listed)
        await redis.aclose()


async def journal_is(url: str, sid: CallSid, *words: str) -> bool:
    """Look at a copy through a connection of its own: the server may be another one by now."""
    redis = redis_door.commands(url)
    try:
        return [entry.text for entry in await Records(redis).journal_of(sid)] == list(words)
    finally:
        await redis.aclose()


async def test_ends_of_an_outage_are_stored_and_its_copies_deleted_when_redis_is_back(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    async with running_pool(tmp_path, settings={"REDIS_URL": redis_server.url}) as pool:
        router = await pool.router()
        await router.ready(2)
        sid = new_sid()
        promised = await router.reserved(sid)
        async with router.upgrade(promised.ticket) as stream:
            await said(stream, "journal one")
            assert await eventually_asked(lambda: journal_is(redis_server.url, sid, "one"))
            os.kill(redis_server.pid, signal.SIGSTOP)
            await stream.send("end agent_hangup")
            assert await closed(stream) == 1000, "the caller does not wait for Redis"
        os.kill(redis_server.pid, signal.SIGCONT)
        redis = redis_door.commands(redis_server.url)

        async def stored() -> bool:
            return await Records(redis).end_of(sid, 0) is EndReason.AGENT_HANGUP

        assert await eventually_asked(stored)
        assert await eventually_asked(lambda: journal_is(redis_server.url, sid))
        await redis.aclose()


async def test_a_journal_may_stay_out_of_redis(tmp_path: Path, redis_server: RedisServer) -> None:
    redis = redis_door.commands(redis_server.url)
    settings = {"REDIS_URL": redis_server.url, "JOURNAL_IN_REDIS": "false"}
    async with running_pool(tmp_path, settings=settings) as pool:
        router = await pool.router()
        await router.ready(2)
        sid = new_sid()
        promised = await router.reserved(sid)
        async with router.upgrade(promised.ticket) as stream:
            assert await said(stream, "journal one") == "noted"
            await stream.send("end agent_hangup")
            assert await closed(stream) == 1000
        assert await Records(redis).end_of(sid, 0) is EndReason.AGENT_HANGUP
    assert "cmdstat_rpush" not in await redis.info("commandstats")
    await redis.aclose()
