"""Queueing a lookup: what stands in Redis, and that a webhook never waits for it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import zlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from rq import Queue
from rq.serializers import JSONSerializer

from router.prefetch import PrefetchQueue
from shared import redis_door
from shared.calls import CallSid, IncomingCall, TraceId
from shared.prefetch import JOB, JOB_TTL_S, KEPT_S, QUEUE, job_id
from shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.redis_server import RedisServer

pytestmark = pytest.mark.redis

DEADLINE_S = 30.0


def call(sid: str = "CA1", attempt: int = 0) -> IncomingCall:
    return IncomingCall(
        call_sid=CallSid(sid), caller="+5511999990000", called="+1", trace_id=TraceId("a" * 32), attempt=attempt
    )


@pytest.fixture(autouse=True)
def patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine take its time, except where a Redis that takes too long is the point."""
    if "hanging" not in request.node.name:
        monkeypatch.setattr("router.prefetch.ENQUEUE_TIMEOUT_S", 20.0)


@asynccontextmanager
async def queueing(url: str) -> AsyncIterator[PrefetchQueue]:
    queue = PrefetchQueue(Settings(_env_file=None, redis_url=url))
    try:
        yield queue
    finally:
        queue.close()


def queued(url: str) -> list[str]:
    with redis_door.for_rq(url) as client:
        return Queue(QUEUE, connection=client, serializer=JSONSerializer).get_job_ids()


async def test_a_job_says_whom_to_look_up_and_does_not_stay_for_ever(redis_url: str) -> None:
    async with queueing(redis_url) as queue:
        assert await queue.enqueue(call())
    with redis_door.for_rq(redis_url) as client:
        [job] = Queue(QUEUE, connection=client, serializer=JSONSerializer).jobs
        assert job.id == job_id(CallSid("CA1"), 0)
        assert job.func_name == JOB
        assert set(job.kwargs) == {"call_sid", "phone", "trace_id", "queued_at"}
        assert job.kwargs["phone"] == "+5511999990000"
        assert (job.ttl, job.result_ttl, job.failure_ttl) == (JOB_TTL_S, KEPT_S, KEPT_S)
        assert 0 < client.ttl(job.key) <= JOB_TTL_S
        assert json.loads(zlib.decompress(client.hget(job.key, "data") or b""))[0] == JOB  # JSON, not pickle
        assert "+5511" not in str(job.description)


async def test_the_same_webhook_again_is_the_same_job_and_another_attempt_is_another(redis_url: str) -> None:
    async with queueing(redis_url) as queue:
        assert await queue.enqueue(call())
        assert await queue.enqueue(call())
        assert await queue.enqueue(call(attempt=1))
    assert queued(redis_url) == ["prefetch-CA1-0", "prefetch-CA1-1"]


async def test_thirty_calls_at_once_are_all_queued_by_one_thread(redis_url: str) -> None:
    async with queueing(redis_url) as queue:
        assert all(await asyncio.gather(*(queue.enqueue(call(f"CA{n}")) for n in range(30))))
    assert len(queued(redis_url)) == 30
    assert len([t for t in threading.enumerate() if t.name.startswith("prefetch-queue")]) <= 1


async def test_without_redis_nobody_looks_and_nothing_is_raised(redis_server: RedisServer) -> None:
    redis_server.stop()
    async with queueing(redis_server.url) as queue:
        assert await queue.enqueue(call()) is False
        await asyncio.to_thread(redis_server.start)
        assert await queue.enqueue(call()) is True


async def test_a_redis_that_restarted_costs_no_call_its_customer(redis_server: RedisServer) -> None:
    async with queueing(redis_server.url) as queue:
        assert await queue.enqueue(call("CA1"))
        await asyncio.to_thread(redis_server.stop)
        await asyncio.to_thread(redis_server.start)
        assert await queue.enqueue(call("CA2"))
    assert queued(redis_server.url) == ["prefetch-CA2-0"]


async def test_a_hanging_redis_holds_one_thread_and_is_survived(redis_server: RedisServer) -> None:
    async with queueing(redis_server.url) as queue:
        assert await queue.enqueue(call("CA0"))
        os.kill(redis_server.pid, signal.SIGSTOP)
        try:
            answers = await asyncio.wait_for(
                asyncio.gather(*(queue.enqueue(call(f"CA{n}")) for n in range(1, 300))), DEADLINE_S
            )
            assert not any(answers)
            assert len([t for t in threading.enumerate() if t.name.startswith("prefetch-queue")]) == 1
        finally:
            os.kill(redis_server.pid, signal.SIGCONT)
        for _ in range(int(DEADLINE_S / 0.01)):
            if await queue.enqueue(call("CA999")):
                break
            await asyncio.sleep(0.01)  # the thread needs a moment to get its answer
        else:
            pytest.fail("still not queued")


async def test_a_call_whose_name_is_no_name_for_a_job_is_not_queued(redis_url: str) -> None:
    async with queueing(redis_url) as queue:
        assert await queue.enqueue(call("CA:1 x")) is False
        assert await queue.enqueue(call("CA1")) is True
