"""The doctor and Redis: whether it lets us in, keeps what it is given, and has anybody who works for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared import redis_door
from shared.readiness import PoolRecord, Readiness
from shared.workers import PoolId
from tests.doctoring import case_of, found, only, words
from worker.doctor import store
from worker.doctor.findings import State

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

WORKER = "rq:worker:one"


def configure(url: str, name: str, value: str) -> None:
    """Change a server while it runs."""
    with redis_door.sync_commands(url) as client:
        client.config_set(name, value)


async def test_a_redis_that_forgets_is_a_warning(redis_url: str) -> None:
    findings = await found(store.redis, case_of(redis_url=redis_url))
    assert [finding.state for finding in findings][1:] == [State.WARNING]
    assert "appendonly" in findings[1].said


async def test_a_redis_that_may_throw_things_away_is_a_warning(redis_server: RedisServer) -> None:
    configure(redis_server.url, "maxmemory-policy", "allkeys-lru")
    configure(redis_server.url, "appendonly", "yes")
    findings = await found(store.redis, case_of(redis_url=redis_server.url))
    assert ["allkeys-lru" in finding.said for finding in findings] == [False, True]
    assert "noeviction" in findings[1].remedy


async def test_a_password_that_was_not_given_is_asked_for_by_its_setting(redis_server: RedisServer) -> None:
    configure(redis_server.url, "requirepass", "open-sesame")
    finding = await only(store.redis, case_of(redis_url=redis_server.url))
    assert finding.state is State.FAILED
    assert "wants a password" in finding.said
    assert "REDIS_URL" in finding.remedy


async def test_a_wrong_password_is_said_to_be_one_and_not_shown(redis_server: RedisServer) -> None:
    configure(redis_server.url, "requirepass", "open-sesame")
    finding = await only(store.redis, case_of(redis_url=f"{redis_server.url}?password=open-barley"))
    assert "does not know this password" in finding.said
    assert "barley" not in words(finding)


async def test_a_password_where_none_is_wanted_is_said_to_be_one(redis_url: str) -> None:
    finding = await only(store.redis, case_of(redis_url=f"{redis_url}?password=open-sesame"))
    assert "has no password, and is given one" in finding.said


async def test_a_right_password_lets_in(redis_server: RedisServer) -> None:
    configure(redis_server.url, "requirepass", "open-sesame")
    findings = await found(store.redis, case_of(redis_url=f"{redis_server.url}?password=open-sesame"))
    assert all(finding.state is not State.FAILED for finding in findings)


async def test_a_redis_that_is_not_there_is_named_by_its_setting() -> None:
    finding = await only(store.redis, case_of(redis_url="redis://127.0.0.1:1/0"))
    assert finding.state is State.FAILED
    assert "REDIS_URL" in finding.remedy


async def test_queues_that_nobody_works_on_are_failures(redis_url: str) -> None:
    findings = await found(store.prefetchers, case_of(redis_url=redis_url))
    assert [finding.state for finding in findings] == [State.FAILED, State.FAILED, State.OK]
    assert "worker.prefetcher" in findings[0].remedy


async def test_a_worker_that_is_gone_counts_for_nothing(redis_url: str) -> None:
    with redis_door.sync_commands(redis_url) as client:
        client.sadd("rq:workers:prefetch", WORKER)
        assert (await found(store.prefetchers, case_of(redis_url=redis_url)))[0].state is State.FAILED
        client.hset(WORKER, "state", "idle")
    assert (await found(store.prefetchers, case_of(redis_url=redis_url)))[0].state is State.OK


async def test_lookups_that_pile_up_are_a_warning(redis_url: str) -> None:
    with redis_door.sync_commands(redis_url) as client:
        client.sadd("rq:workers:prefetch", WORKER)
        client.hset(WORKER, "state", "busy")
        client.rpush("rq:queue:prefetch", *map(str, range(11)))
    finding = (await found(store.prefetchers, case_of(redis_url=redis_url)))[0]
    assert finding.state is State.WARNING
    assert "11 waiting" in finding.said


async def test_jobs_that_were_given_up_are_a_warning(redis_url: str) -> None:
    with redis_door.sync_commands(redis_url) as client:
        client.zadd("rq:failed:aftercall", {"job": 1})
    finding = (await found(store.prefetchers, case_of(redis_url=redis_url)))[-1]
    assert finding.state is State.WARNING
    assert "worker.records dead" in finding.remedy


async def test_the_queues_of_messages_count_where_messages_are_sent(redis_url: str) -> None:
    assert len(await found(store.prefetchers, case_of(redis_url=redis_url, whatsapp_from="+15550009999"))) == 5


async def test_pools_are_known_to_redis_or_it_is_said_that_none_is(redis_url: str) -> None:
    assert (await only(store.directory, case_of(redis_url=redis_url))).state is State.FAILED
    client = redis_door.commands(redis_url)
    await Readiness(client).publish(PoolRecord(pool=PoolId("a"), boot="b", ready=3, socket="/run/offhook/a.sock"))
    await client.aclose()
    finding = await only(store.directory, case_of(redis_url=redis_url))
    assert finding.state is State.OK
    assert "pool a: 3 ready" in finding.said
