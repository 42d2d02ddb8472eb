"""RQ workers as threads of one process.

Thirty RQ worker processes need 1 GB and thirty threads 90 MB, at the same latency (measured: a lookup is a wait of
half a second around 3 ms of work). RQ has no thread worker, so this is its `SimpleWorker` for everything about a job, in
a waiting loop of ours: RQ's own can only be stopped by a signal, which a thread does not get, and meets a Redis that is
away with one traceback per worker and up to a minute of waiting.
"""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.exceptions import DequeueTimeout
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty

from shared import logs, redis_door
from shared.outage import Outage
from worker.jobs.later import TryLater

WAIT_S: Final = 5
"""How long one blocking dequeue lasts (whole seconds): the rhythm of heartbeats and of `idle`."""

WORKER_TTL_S: Final = 30
"""RQ forgets a worker that died 60 s after this; by default seven minutes later."""

HEALTHY_S: Final = 10.0
"""An attempt that lasted this long was no failed one: the next is made soon."""

SCHEDULE_S: Final = 1.0
"""How often jobs that are due later are looked for, as RQ's own scheduler does."""

_log = logs.get(__name__)


class ThreadWorker(SimpleWorker):
    """An RQ worker that runs its jobs in the thread that calls `work_until`, and takes no orders over Redis."""

    death_penalty_class = TimerDeathPenalty  # the other one is a signal: main thread only
    log_result_lifespan = False

    @property
    def connection_timeout(self) -> int:
        """How long Redis may take for an answer, in seconds; RQ would set 25 and notice a hanging Redis late."""
        return WAIT_S + 1

    def work_until(self, stop: threading.Event, idle: Callable[[], None]) -> None:
        """Take and run jobs until `stop` is set; `idle` is called whenever there was none for `WAIT_S`.

        `stop` is seen after `WAIT_S`, or at once when the blocking command is ended (`Threads.stop`).

        Raises:
            RedisError, OSError: Redis is away; a new worker is needed.
        """
        me: Any = self  # half of RQ's methods have no types
        me.register_birth()
        while not stop.is_set():
            me.heartbeat()
            if me.should_run_maintenance_tasks:
                me.run_maintenance_tasks()
            try:
                taken = Queue.dequeue_any(
                    self.queues,
                    WAIT_S,
                    connection=self.connection,
                    serializer=self.serializer,
                    death_penalty_class=self.death_penalty_class,
                )
            except DequeueTimeout:
                idle()
                continue
            if taken is not None:
                self.execute_job(*taken)
        me.register_death()  # not after an error: a Redis that hangs would take its time to say so again


class Threads:
    """The RQ workers of a process: started one by one, stopped together."""

    def __init__(
        self, redis_url: str, stop: threading.Event, listening: Callable[[int], None] = lambda _: None
    ) -> None:
        """`listening` is told, in any thread, how many of them take jobs, whenever that changes."""
        self._url = redis_url
        self._stop = stop
        self._count = 0
        self._counting = threading.Lock()
        self._listening = listening
        self._redis_link = Outage("redis")
        self._threads: list[threading.Thread] = []
        self._name = f"prefetcher-{uuid4().hex}"  # the connections of this process, on whatever machine

    def start_worker(self, queue: str, prepare: Callable[[], Callable[[], None]]) -> None:
        """Start a thread that works on a queue; `prepare` runs in it first and gives what to do when idle."""
        self._start(lambda: self._work(queue, prepare))

    def start_scheduler(self, *queues: str) -> None:
        """Start the thread that moves jobs to the queues when their time has come."""
        self._start(lambda: self._schedule(list(queues)))

    def start(self, attempt: Callable[[Redis, str], None]) -> None:
        """Start a thread with other work on Redis; `attempt` is given a client, and begun anew when it raises."""
        self._start(lambda: self._keep_on(attempt))

    def stop(self, within_s: float) -> bool:
        """Let running jobs finish and idle threads go; False when some are still there after `within_s`.

        `stop` is set by now. Idle threads sit in a blocking command: Redis is asked to end those.
        """
        try:
            with redis_door.sync_commands(self._url) as client:
                for connection in client.client_list():
                    if connection["name"].startswith(self._name):
                        client.client_unblock(int(connection["id"]))
        except (RedisError, OSError) as error:
            _log.info("blocking reads not ended", why=str(error))
        until = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _start(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, daemon=True, name=f"rq-{len(self._threads)}")
        self._threads.append(thread)
        thread.start()

    def _work(self, queue: str, prepare: Callable[[], Callable[[], None]]) -> None:
        idle: Callable[[], None] | None = None

        def attempt(redis: Redis, name: str) -> None:
            nonlocal idle
            if idle is None:
                idle = prepare()
            worker = ThreadWorker(
                [queue],
                name=name,
                connection=redis,
                serializer=JSONSerializer,
                worker_ttl=WORKER_TTL_S,
                log_job_description=False,
            )
            self._redis_link.back()
            with self._counted():
                worker.work_until(self._stop, functools.partial(self._idle, idle))

        self._keep_on(attempt)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._count_listening(1)
        try:
            yield
        finally:
            self._count_listening(-1)

    def _idle(self, idle: Callable[[], None]) -> None:
        idle()
        self._count_listening(0)  # said again: what a parent that did not read has missed is wrong until then

    def _count_listening(self, change: int) -> None:
        with self._counting:
            self._count += change
            self._listening(self._count)

    def _schedule(self, queues: list[str]) -> None:
        def attempt(redis: Redis, _: str) -> None:
            scheduler: Any = RQScheduler(
                queues, connection=redis, serializer=JSONSerializer, logging_level=logging.WARNING
            )
            scheduler.acquire_locks()
            self._redis_link.back()
            scheduler.register_birth()
            try:
                while not self._stop.wait(SCHEDULE_S):
                    if scheduler.should_reacquire_locks:
                        scheduler.acquire_locks()
                    scheduler.heartbeat()
                    scheduler.enqueue_scheduled_jobs()
            finally:
                scheduler.stop()

        self._keep_on(attempt)

    def _keep_on(self, attempt: Callable[[Redis, str], None]) -> None:
        """Try again with a new connection after every failure, at a jittered and bounded pace, until `stop`."""
        backoff = redis_door.Backoff()
        while not self._stop.is_set():
            # RQ refuses the name of a worker it believes alive; the client has it too, so that it survives a reconnection
            name = f"{self._name}-{uuid4().hex[:8]}"
            began = time.monotonic()
            try:
                with redis_door.for_rq(self._url, socket_timeout_s=WAIT_S + 1, name=name) as redis:
                    attempt(redis, name)
            except (RedisError, OSError) as error:
                if not self._stop.is_set():
                    self._redis_link.away(redis_door.words(error))
            except Exception:  # noqa: BLE001 - whatever RQ meets, this thread must work on
                _log.exception("rq worker failed")
            if time.monotonic() - began > HEALTHY_S:
                backoff.reset()
            self._stop.wait(backoff.next())


def quiet_rq() -> None:
    """Keep RQ's loggers from printing a traceback per job when Redis goes away, which is said once, by `Outage`.

    Nor for a job that wants to be run again: that is no error, and it has said why.
    """
    for name in ("rq.worker", "rq.scheduler", "rq.job"):
        logging.getLogger(name).addFilter(_no_expected_traceback)


def _no_expected_traceback(record: logging.LogRecord) -> bool:
    error: Any = record.exc_info[1] if record.exc_info else None
    text = record.getMessage()
    return (
        not isinstance(error, (RedisError, OSError, TryLater))
        and "redis.exceptions." not in text
        and "later.TryLater" not in text
    )
