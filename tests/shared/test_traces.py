"""What the router finds in Redis about a call, written by those who write it in life."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared import keys, redis_door
from shared.calls import CallSid, EndReason, TraceId
from shared.errors import ReadinessUnavailable
from shared.readiness import PoolRecord, Readiness
from shared.records import Records
from shared.ticket import Ticket
from shared.traces import Traces, traces_of
from shared.workers import PoolId, WorkerId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from tests.redis_server import RedisServer

pytestmark = pytest.mark.redis

POOL = PoolId("p1")
TICKET = Ticket(CallSid("CA1"), 1, POOL, "b1", WorkerId("0-1"), TraceId("t"), 0)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = redis_door.commands(redis_url)
    yield client
    await client.aclose()


def lease(boot: str) -> PoolRecord:
    return PoolRecord(pool=POOL, boot=boot, ready=1, socket="p1.sock")


async def test_a_call_nobody_knows_has_left_nothing(redis: Redis) -> None:
    assert await traces_of(redis, TICKET) == Traces()


async def test_a_call_in_progress_has_a_journal_and_its_pools_lease(redis: Redis) -> None:
    await Readiness(redis).publish(lease("b1"))
    await redis.rpush(keys.journal(TICKET.call_sid), "{}")
    found = await traces_of(redis, TICKET)
    assert (found.ended, found.journal) == (False, True)
    assert 0 < found.lease_s <= keys.LEASE_MS / 1000


async def test_a_pool_that_was_started_again_holds_no_lease_for_the_calls_of_its_former_life(redis: Redis) -> None:
    await Readiness(redis).publish(lease("b2"))
    assert (await traces_of(redis, TICKET)).lease_s == 0


async def test_whom_to_dial_stands_behind_a_transfer(redis: Redis) -> None:
    await Records(redis).store_end(TICKET.call_sid, TICKET.attempt, EndReason.TRANSFERRED, "+15005550077")
    found = await traces_of(redis, TICKET)
    assert (found.reason, found.dial) == (EndReason.TRANSFERRED, "+15005550077")
    assert await Records(redis).end_of(TICKET.call_sid, TICKET.attempt) is EndReason.TRANSFERRED


async def test_only_the_end_of_this_attempt_counts(redis: Redis) -> None:
    await Records(redis).store_end(TICKET.call_sid, 0, EndReason.AGENT_HANGUP)
    assert not (await traces_of(redis, TICKET)).ended
    await Records(redis).store_end(TICKET.call_sid, 1, EndReason.CALLER_HANGUP)
    assert await traces_of(redis, TICKET) == Traces(ended=True, reason=EndReason.CALLER_HANGUP)


async def test_a_reason_nobody_knows_is_an_end_all_the_same(redis: Redis) -> None:
    await redis.set(keys.end(TICKET.call_sid, 1), "abducted")
    assert await traces_of(redis, TICKET) == Traces(ended=True)


@pytest.mark.parametrize("text", ['{"pool": 5}', "x"])
async def test_a_lease_that_cannot_be_read_stands(redis: Redis, text: str) -> None:
    await redis.set(keys.pool(POOL), text, px=2_000)
    assert 0 < (await traces_of(redis, TICKET)).lease_s <= 2
    await redis.set(keys.pool(POOL), text)
    assert (await traces_of(redis, TICKET)).lease_s == keys.LEASE_MS / 1000


async def test_a_redis_that_does_not_answer_or_refuses_says_nothing(redis_server: RedisServer) -> None:
    client = redis_door.commands(redis_server.url)
    await client.set(keys.pool(POOL), "x")
    await client.set(keys.journal(TICKET.call_sid), "not a list")
    assert (await traces_of(client, TICKET)).journal, "its existence is all that is asked"
    await client.rpush(keys.end(TICKET.call_sid, 1), "not a string")
    with pytest.raises(ReadinessUnavailable):
        await traces_of(client, TICKET)
    redis_server.stop()
    with pytest.raises(ReadinessUnavailable):
        await traces_of(client, TICKET)
    redis_server.start()
    assert await traces_of(client, TICKET) == Traces(), "it was started again empty"
    await client.aclose()
