"""One suite for the directory of pools, run against the fake and against a real Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from shared import keys, redis_door
from shared.errors import ReadinessUnavailable
from shared.readiness import PoolDirectory, PoolRecord, Readiness
from shared.workers import PoolId
from tests.fakes import FakeReadiness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from tests.redis_server import RedisServer

A = PoolRecord(pool=PoolId("a"), boot="b1", ready=4, socket="a.sock")
B = PoolRecord(pool=PoolId("b"), boot="b2", ready=0, socket="b.sock", draining=True, metrics="10.0.0.2:9100")


class Stage(Protocol):
    """A directory, and the way to let time pass for its leases."""

    directory: PoolDirectory

    async def outlive(self) -> None:
        """Let every lease run out."""


class _FakeStage:
    def __init__(self) -> None:
        self.fake = FakeReadiness()
        self.directory: PoolDirectory = self.fake

    async def outlive(self) -> None:
        self.fake.clock.advance(keys.LEASE_MS / 1000)


class _RedisStage:
    def __init__(self, client: Redis) -> None:
        self.client = client
        self.directory: PoolDirectory = Readiness(client)

    async def outlive(self) -> None:
        async for key in self.client.scan_iter("offhook:pool:*"):
            assert 0 < await self.client.pttl(key) <= keys.LEASE_MS
            await self.client.pexpire(key, 0)


@pytest.fixture(params=["fake", pytest.param("redis", marks=pytest.mark.redis)])
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    if request.param == "fake":
        yield _FakeStage()
        return
    client = redis_door.commands(request.getfixturevalue("redis_url"))
    yield _RedisStage(client)
    await client.aclose()


async def test_no_pool_has_published_anything(stage: Stage) -> None:
    assert await stage.directory.pools() == []


async def test_a_pool_learns_that_its_lease_was_forgotten(stage: Stage) -> None:
    assert not await stage.directory.publish(A)
    assert await stage.directory.publish(A)
    await stage.outlive()
    assert not await stage.directory.publish(A)


async def test_published_pools_are_listed_by_their_id(stage: Stage) -> None:
    await stage.directory.publish(B)
    await stage.directory.publish(A)
    assert await stage.directory.pools() == [A, B]


async def test_publishing_again_replaces_what_was_said(stage: Stage) -> None:
    await stage.directory.publish(A)
    later = PoolRecord(pool=A.pool, boot="b9", ready=1, socket=A.socket)
    await stage.directory.publish(later)
    assert await stage.directory.pools() == [later]


async def test_a_pool_that_stops_renewing_is_gone_and_can_come_back(stage: Stage) -> None:
    await stage.directory.publish(A)
    await stage.outlive()
    assert await stage.directory.pools() == []
    assert await stage.directory.pools() == []
    await stage.directory.publish(A)
    assert await stage.directory.pools() == [A]


async def test_a_withdrawn_pool_is_gone_at_once_and_withdrawing_twice_is_harmless(stage: Stage) -> None:
    await stage.directory.publish(A)
    await stage.directory.publish(B)
    await stage.directory.withdraw(A.pool)
    await stage.directory.withdraw(A.pool)
    assert await stage.directory.pools() == [B]


@pytest.mark.redis
async def test_an_unreadable_record_hides_nobody_else(redis_url: str) -> None:
    client = redis_door.commands(redis_url)
    directory = Readiness(client)
    await directory.publish(A)
    await client.set(keys.pool(PoolId("x")), '{"pool": 5}')
    await client.sadd(keys.POOLS, "x")
    assert await directory.pools() == [A]
    await client.aclose()


@pytest.mark.redis
async def test_without_redis_every_question_is_readiness_unavailable(redis_server: RedisServer) -> None:
    client = redis_door.commands(redis_server.url)
    directory = Readiness(client)
    await directory.publish(A)
    redis_server.stop()
    with pytest.raises(ReadinessUnavailable):
        await directory.publish(A)
    with pytest.raises(ReadinessUnavailable):
        await directory.pools()
    with pytest.raises(ReadinessUnavailable):
        await directory.withdraw(A.pool)
    redis_server.start()
    await directory.publish(A)
    assert await directory.pools() == [A]
    await client.aclose()


async def test_the_fake_can_be_away_too() -> None:
    fake = FakeReadiness()
    fake.away = True
    with pytest.raises(ReadinessUnavailable):
        await fake.publish(A)
    with pytest.raises(ReadinessUnavailable):
        await fake.pools()
    with pytest.raises(ReadinessUnavailable):
        await fake.withdraw(A.pool)
