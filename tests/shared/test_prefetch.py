"""The pool's side of the prefetch, against a real Redis."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import msgspec
import pytest

from shared import keys, redis_door
from shared.calls import CallSid
from shared.prefetch import Result, ResultReader, job_id
from shared.workers import PoolId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from tests.redis_server import RedisServer

pytestmark = pytest.mark.redis

ONE, TWO = CallSid("CA1"), CallSid("CA2")
FOUND = Result(outcome="found", record={"customer": {"name": "Inês"}}, queued_at=10.0, took_s=0.5)
UNKNOWN = Result(outcome="unknown", queued_at=11.0, took_s=0.1)
DEADLINE_S = 30.0


class Heard:
    """What a reader called back, as queues to wait on."""

    def __init__(self) -> None:
        self.results: asyncio.Queue[tuple[CallSid, Result]] = asyncio.Queue()
        self.links: asyncio.Queue[bool] = asyncio.Queue()

    async def result(self) -> tuple[CallSid, Result]:
        """Wait for the next result."""
        return await asyncio.wait_for(self.results.get(), DEADLINE_S)

    async def link(self) -> bool:
        """Wait for the next change of the link."""
        return await asyncio.wait_for(self.links.get(), DEADLINE_S)


@asynccontextmanager
async def reading(url: str, heard: Heard, *early: CallSid) -> AsyncIterator[ResultReader]:
    """Run a reader, watching some calls before it runs."""
    reader = ResultReader(
        url,
        PoolId("p1"),
        lambda call, result: heard.results.put_nowait((call, result)),
        heard.links.put_nowait,
    )
    for call in early:
        reader.watch(call)
    task = asyncio.create_task(reader.run())
    try:
        yield reader
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def publish(client: Redis, call: CallSid, result: Result) -> None:
    await client.xadd(keys.customer(call), {"result": msgspec.json.encode(result).decode()})


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    made = redis_door.commands(redis_url)
    yield made
    await made.aclose()


async def test_a_result_published_before_the_call_is_watched_is_brought(redis_url: str, client: Redis) -> None:
    heard = Heard()
    await publish(client, ONE, FOUND)
    async with reading(redis_url, heard) as reader:
        assert await heard.link() is True
        reader.watch(ONE)
        assert await heard.result() == (ONE, FOUND)


async def test_calls_watched_during_a_read_are_read_for_at_once(redis_url: str, client: Redis) -> None:
    """Bring both results long before the read under way would have ended by itself."""
    heard = Heard()
    async with reading(redis_url, heard, ONE) as reader:
        assert await heard.link() is True
        reader.watch(TWO)
        reader.watch(TWO)
        await publish(client, TWO, UNKNOWN)
        assert await heard.result() == (TWO, UNKNOWN)
        await publish(client, ONE, FOUND)
        assert await heard.result() == (ONE, FOUND)


async def test_each_result_of_a_call_is_brought_once_and_in_order(redis_url: str, client: Redis) -> None:
    heard = Heard()
    async with reading(redis_url, heard, ONE):
        await publish(client, ONE, UNKNOWN)
        assert await heard.result() == (ONE, UNKNOWN)
        await publish(client, ONE, FOUND)
        assert await heard.result() == (ONE, FOUND)
    assert heard.results.empty()


async def test_a_forgotten_call_brings_nothing_more(redis_url: str, client: Redis) -> None:
    heard = Heard()
    async with reading(redis_url, heard, ONE, TWO) as reader:
        await heard.link()
        reader.forget(ONE)
        reader.forget(ONE)
        await publish(client, ONE, FOUND)
        await publish(client, TWO, UNKNOWN)
        assert await heard.result() == (TWO, UNKNOWN)
    assert heard.results.empty()


async def test_garbage_on_a_stream_is_skipped(redis_url: str, client: Redis) -> None:
    heard = Heard()
    async with reading(redis_url, heard, ONE):
        await client.xadd(keys.customer(ONE), {"result": "{"})
        await client.xadd(keys.customer(ONE), {"other": "{}"})
        await client.xadd(keys.customer(ONE), {"result": '{"outcome":"perhaps","queued_at":0,"took_s":0}'})
        await publish(client, ONE, FOUND)
        assert await heard.result() == (ONE, FOUND)


async def test_a_stopped_redis_is_reported_and_a_returning_one_brings_what_came_meanwhile(
    redis_server: RedisServer,
) -> None:
    heard = Heard()
    async with reading(redis_server.url, heard, ONE) as reader:
        assert await heard.link() is True
        await asyncio.to_thread(redis_server.stop)
        assert await heard.link() is False
        reader.watch(TWO)
        await asyncio.to_thread(redis_server.start)
        client = redis_door.commands(redis_server.url)
        await publish(client, TWO, UNKNOWN)
        await publish(client, ONE, FOUND)
        await client.aclose()
        assert await heard.link() is True
        both = [await heard.result(), await heard.result()]
        assert sorted(call for call, _ in both) == [ONE, TWO]


async def test_without_redis_from_the_beginning_the_link_is_down_once(redis_server: RedisServer) -> None:
    heard = Heard()
    redis_server.stop()
    async with reading(redis_server.url, heard, ONE):
        assert await heard.link() is False
        await asyncio.to_thread(redis_server.start)
        assert await heard.link() is True
    assert heard.links.empty()


async def test_thirty_calls_need_one_blocking_connection(redis_url: str, client: Redis) -> None:
    heard = Heard()
    calls = [CallSid(f"CA{n}") for n in range(30)]
    async with reading(redis_url, heard, *calls[:15]) as reader:
        for call in calls[15:]:
            reader.watch(call)
        for call in calls:
            await publish(client, call, FOUND)
        assert {(await heard.result())[0] for _ in calls} == set(calls)
        reading_now = [c for c in await client.client_list() if c["cmd"].startswith("xread")]
        assert len(reading_now) <= 1


def test_a_job_is_named_by_call_and_attempt() -> None:
    assert job_id(ONE, 0) == "prefetch-CA1-0"
    assert job_id(ONE, 1) != job_id(ONE, 0)
