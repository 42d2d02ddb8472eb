"""What the thread that deals with the records of calls has ready, and the one that looks after what is left lying.

The second makes jobs of the records that workers without a pool have left, counts the jobs that were given up, and deletes
recordings whose time is over.
"""

import socket
import threading
import time
from collections.abc import Callable
from typing import Final

import httpx
from redis import Redis
from standardwebhooks import Webhook

from shared import keys, letters, logs, redis_door
from shared.callrecord import decode
from shared.prefetch import AFTERCALL_QUEUE
from shared.settings import Settings
from worker.jobs import recordings
from worker.jobs.aftercall import CONTEXT, Context, Receiver
from worker.jobs.lookup import CustomerLookup
from worker.prefetcher_report import DeadLetters, line
from worker.record_jobs import dead_on, enqueue, enqueue_unlink, queue_on

STEP_S: Final = 10.0
"""How long each step of storing or posting may take: nobody waits for it."""

LOOK_S: Final = 5
"""How long one blocking read of what was left lasts (whole seconds): the rhythm of counting too."""

SWEEP_S: Final = 3600.0

QUEUES: Final = (AFTERCALL_QUEUE, letters.QUEUE, letters.STATUS_QUEUE)

_log = logs.get(__name__)


def prepare(conf: Settings) -> Callable[[], None]:
    """Set up the calling thread with clients of its own; there is nothing to keep warm."""
    tls = httpx.create_ssl_context()
    database = receiver = None
    if conf.supabase_url:
        key = conf.supabase_secret_key.get_secret_value()
        database = CustomerLookup(conf.supabase_url, key, STEP_S, tls).call
    if conf.records_webhook_url:
        signer = Webhook(conf.records_webhook_secret.get_secret_value())
        receiver = Receiver(httpx.Client(verify=tls, timeout=STEP_S), conf.records_webhook_url, signer)
    CONTEXT.set(Context(database, receiver, redis_door.sync_commands(conf.redis_url), conf.recordings_dir))
    return lambda: None


class Leftovers:
    """Looks after what is left lying; `look_after` is a thread's work, and `parent` is told how many jobs were given up."""

    def __init__(self, conf: Settings, parent: socket.socket, stop: threading.Event) -> None:
        self._conf = conf
        self._parent = parent
        self._stop = stop
        self._sweep_at = 0.0

    def look_after(self, redis: Redis, _name: str) -> None:
        """Work until told to stop.

        Raises:
            RedisError, OSError: Redis is away; what was begun is done again later.
        """
        while (text := redis.lindex(keys.RECORDS_TAKEN, 0)) is not None:  # of somebody who was killed
            self._hand_in(redis, text)
        while not self._stop.is_set():
            self._tell_dead(redis)
            self._sweep(redis)
            taken = redis.blmove(keys.RECORDS, keys.RECORDS_TAKEN, LOOK_S, "LEFT", "RIGHT")
            if taken is not None:
                self._hand_in(redis, taken)

    def _hand_in(self, redis: Redis, text: bytes | str) -> None:
        try:
            enqueue(queue_on(redis), self._conf, decode(text))
        except ValueError as error:
            _log.error("a record that was left cannot be read", error=str(error))
        redis.lrem(keys.RECORDS_TAKEN, 1, text)  # type: ignore[arg-type] # bytes are what it takes

    def _tell_dead(self, redis: Redis) -> None:
        count = sum(dead_on(redis, queue).get_job_count(cleanup=False) for queue in QUEUES)
        try:
            self._parent.send(line(DeadLetters(count)), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return

    def _sweep(self, redis: Redis) -> None:
        if time.monotonic() < self._sweep_at:
            return
        self._sweep_at = time.monotonic() + SWEEP_S
        for call_sid in recordings.expired(self._conf.recordings_dir, self._conf.recording_retention_days):
            _log.info("recording deleted", call_sid=call_sid)
            if self._conf.supabase_url:
                enqueue_unlink(queue_on(redis), call_sid)
