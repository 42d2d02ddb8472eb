"""What is seen of RQ's queues, against a real Redis: every queue and state, and nothing that blocks a scrape."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from rq import Queue, SimpleWorker
from rq.registry import DeferredJobRegistry, FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty

from shared import redis_door
from shared.metrics_prefetch import Depths, JobState
from shared.prefetch import AFTERCALL_QUEUE, JOB_TTL_S, QUEUE
from tests.redis_proxy import RedisProxy
from worker import prefetcher_queues
from worker.prefetcher_queues import QUEUES, REGISTRIES, Queues, depths_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

    from tests.redis_server import RedisServer

pytestmark = pytest.mark.redis

NOTHING = Depths({queue: dict.fromkeys(JobState, 0) for queue in QUEUES}, dict.fromkeys(QUEUES, 0.0))


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with redis_door.for_rq(redis_url) as client:
        yield client


@contextmanager
def looking(url: str) -> Iterator[Queues]:
    queues = Queues(url)
    yield queues
    queues.close()


def queue_on(redis: Redis, name: str) -> Queue:
    return Queue(name, connection=redis, serializer=JSONSerializer)


def test_empty_queues_are_shown_as_empty(redis_url: str) -> None:
    with looking(redis_url) as queues:
        assert queues.look() == NOTHING


def test_a_job_is_counted_where_it_is(redis: Redis, redis_url: str) -> None:
    """One in every state, put there by RQ itself."""
    queue = queue_on(redis, AFTERCALL_QUEUE)
    queue.enqueue("no.such.function")
    worker = SimpleWorker([queue], connection=redis, serializer=JSONSerializer)
    worker.death_penalty_class = TimerDeathPenalty
    worker.work(burst=True, logging_level="CRITICAL")
    waiting = queue.enqueue("time.time")
    queue.enqueue("time.time", depends_on=waiting)
    queue.enqueue_in(timedelta(hours=1), "time.time")
    queue.enqueue_in(timedelta(hours=2), "time.time")
    started = queue.enqueue("time.time")
    worker.prepare_execution(started)  # as it does just before it runs a job
    with looking(redis_url) as queues:
        depths = queues.look()
    assert depths is not None
    assert depths.jobs[AFTERCALL_QUEUE] == {
        JobState.QUEUED: 2,
        JobState.STARTED: 1,
        JobState.SCHEDULED: 2,
        JobState.FAILED: 1,
        JobState.DEFERRED: 1,
    }
    assert all(depths.jobs[queue] == NOTHING.jobs[queue] for queue in QUEUES if queue != AFTERCALL_QUEUE)


def test_every_registry_of_rq_that_keeps_unfinished_jobs_is_looked_at() -> None:
    kept = {StartedJobRegistry, ScheduledJobRegistry, FailedJobRegistry, DeferredJobRegistry}
    assert set(REGISTRIES.values()) == kept
    assert {*REGISTRIES, JobState.QUEUED} == set(JobState)


def test_the_age_is_that_of_the_job_that_is_next(redis: Redis) -> None:
    first = queue_on(redis, QUEUE).enqueue("time.time")
    queue_on(redis, QUEUE).enqueue("time.time")
    assert first.enqueued_at is not None
    later = first.enqueued_at.replace(tzinfo=UTC).timestamp() + 7.5
    depths = depths_on(redis, later)
    assert depths.oldest_s == {**NOTHING.oldest_s, QUEUE: pytest.approx(7.5)}
    assert depths_on(redis, later - 60).oldest_s[QUEUE] == 0.0  # another machine's clock


def test_a_lookup_nobody_took_in_its_time_counts_as_old_as_it_could_become(redis: Redis) -> None:
    job = queue_on(redis, QUEUE).enqueue("time.time")
    redis.delete(job.key)  # as its TTL does; the name stays in the queue
    assert depths_on(redis, datetime.now(UTC).timestamp()).oldest_s[QUEUE] == JOB_TTL_S


def test_a_redis_that_is_away_is_none_and_back_is_seen_at_the_next_look(redis_server: RedisServer) -> None:
    with looking(redis_server.url) as queues:
        assert queues.look() == NOTHING
        redis_server.stop()
        assert queues.look() is None
        redis_server.start()
        assert queues.look() == NOTHING


def test_a_redis_that_hangs_is_none_and_keeps_no_more_than_one_thread(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own timeouts are made useless: what bounds a scrape must not depend on them."""
    monkeypatch.setattr(prefetcher_queues, "ANSWER_S", 600.0)
    monkeypatch.setattr(prefetcher_queues, "WITHIN_S", 0.1)
    with looking(redis_server.url) as queues:
        assert queues.look() == NOTHING
        os.kill(redis_server.pid, signal.SIGSTOP)
        assert [queues.look() for _ in range(3)] == [None, None, None]
        assert [thread.name for thread in threading.enumerate()].count("queues") == 1
        os.kill(redis_server.pid, signal.SIGCONT)
        [reading] = [thread for thread in threading.enumerate() if thread.name == "queues"]
        reading.join()
        assert queues.look() == NOTHING


def test_looks_at_the_same_time_share_one(redis_url: str) -> None:
    with RedisProxy(redis_url) as proxy, looking(proxy.url) as queues:
        proxy.delay_s = 0.15
        seen: list[Depths | None] = []
        others = [threading.Thread(target=lambda: seen.append(queues.look())) for _ in range(4)]
        for each in others:
            each.start()
        assert [thread.name for thread in threading.enumerate()].count("queues") <= 1
        for each in others:
            each.join()
    assert seen == [NOTHING] * 4


def test_a_date_that_cannot_be_read_is_none_and_no_error(redis: Redis, redis_url: str) -> None:
    job = queue_on(redis, QUEUE).enqueue("time.time")
    redis.hset(job.key, "enqueued_at", "yesterday")
    with looking(redis_url) as queues:
        assert queues.look() is None
