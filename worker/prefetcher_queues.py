"""How much waits in RQ, for `/metrics` of the prefetchers: read from Redis at each scrape.

A Redis that hangs costs a scrape no more than `WITHIN_S`, and leaves at most one thread waiting for it.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.job import Job
from rq.registry import BaseRegistry, DeferredJobRegistry, FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.utils import as_text, str_to_date

from shared import letters, redis_door
from shared.metrics_prefetch import Depths, JobState
from shared.prefetch import AFTERCALL_QUEUE, JOB_TTL_S, QUEUE

QUEUES: Final = (QUEUE, AFTERCALL_QUEUE, letters.QUEUE, letters.STATUS_QUEUE)

WITHIN_S: Final = 0.9
"""How long a scrape waits for Redis: the second it may take has room for the rest of the page."""

ANSWER_S: Final = 0.4
"""For each of the two answers, so that a Redis that hangs is mostly given up before the scrape is."""

REGISTRIES: Final[Mapping[JobState, type[BaseRegistry]]] = {
    JobState.STARTED: StartedJobRegistry,
    JobState.SCHEDULED: ScheduledJobRegistry,
    JobState.FAILED: FailedJobRegistry,
    JobState.DEFERRED: DeferredJobRegistry,
}


class Queues:
    """Looks into the queues. The caller closes it."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis_door.for_rq(redis_url, socket_timeout_s=ANSWER_S, retries=1)
        self._lock = threading.Lock()
        self._reading: Future[Depths | None] | None = None

    def look(self) -> Depths | None:
        """Give what is in the queues, or None when Redis does not say so within `WITHIN_S`; from any thread.

        Scrapes at the same time share one look, and a look that hangs is not joined by another.
        """
        with self._lock:
            reading = self._reading
            if reading is None or reading.done():
                reading = self._reading = Future()
                # A thread, because the lookup of a host's name knows no timeout.
                threading.Thread(target=self._read, args=(reading,), daemon=True, name="queues").start()
        try:
            return reading.result(WITHIN_S)
        except TimeoutError:
            return None

    def close(self) -> None:
        """Let go of the connection."""
        self._redis.close()

    def _read(self, reading: "Future[Depths | None]") -> None:
        depths = None
        try:
            depths = depths_on(self._redis, time.time())
        except (RedisError, OSError, ValueError):  # a date that cannot be read is of no RQ we know
            depths = None
        finally:
            reading.set_result(depths)


def depths_on(redis: Redis, now: float) -> Depths:
    """Read the queues in two round trips; `now` is unix seconds.

    Raises:
        RedisError, OSError: Redis is away.
        ValueError: a job's date cannot be read.
    """
    with redis.pipeline(transaction=False) as pipe:
        for queue in QUEUES:
            key = Queue.redis_queue_namespace_prefix + queue
            pipe.llen(key)
            for registry in REGISTRIES.values():
                pipe.zcard(registry.key_template.format(queue))
            pipe.lindex(key, 0)
        answers: Iterator[Any] = iter(pipe.execute())
    jobs: dict[str, dict[JobState, int]] = {}
    oldest: dict[str, Any] = {}
    for queue in QUEUES:
        jobs[queue] = {state: int(next(answers)) for state in (JobState.QUEUED, *REGISTRIES)}
        oldest[queue] = next(answers)
    waiting = {queue: as_text(job) for queue, job in oldest.items() if job is not None}
    with redis.pipeline(transaction=False) as pipe:
        for job in waiting.values():
            pipe.hget(Job.key_for(job), "enqueued_at")
        since = dict(zip(waiting, pipe.execute(), strict=True))
    return Depths(jobs, {queue: _age(since[queue], now) if queue in since else 0.0 for queue in QUEUES})


def _age(enqueued_at: Any, now: float) -> float:
    """Say for how long a job has waited; one that is gone, its time being over, has waited at least for that."""
    if not enqueued_at:
        return float(JOB_TTL_S)
    return max(0.0, now - str_to_date(enqueued_at).timestamp())
