"""How the record of a call becomes jobs: one that stores it, one that posts it to the webhook. Imports RQ.

Each is tried for more than a day with growing intervals, then it is a dead letter and stays for a month. Jobs are named after
the call and its attempt, so a record that is handed in twice is one. They hold personal data: it is in their arguments alone,
and those are gone when a job is done.
"""

from typing import Any, Final

from redis import Redis
from rq import Queue, Retry
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from shared.callrecord import CallRecord, encode
from shared.calls import CallSid
from shared.prefetch import AFTERCALL_QUEUE
from shared.settings import Settings

STORE: Final = "worker.jobs.aftercall.store"
POST: Final = "worker.jobs.aftercall.post"
UNLINK: Final = "worker.jobs.aftercall.recording_gone"

RETRY_S: Final = (2, 5, 10, 30, 60, 120, 300, 600, 1200, *[1800] * 2, *[3600] * 23)
"""Seconds before each further try; 24.6 hours together. The first are short, for a database that is only restarted."""

TIMEOUT_S: Final = 1200
"""A job may have an hour of recording to encode, which takes a minute, and several on a machine that has other work."""

DEAD_KEPT_S: Final = 30 * 86_400


def queue_on(redis: Redis) -> Queue:
    """Give the queue; `redis` is a client made for RQ."""
    return Queue(AFTERCALL_QUEUE, connection=redis, serializer=JSONSerializer)


def dead_on(redis: Redis, queue: str = AFTERCALL_QUEUE) -> FailedJobRegistry:
    """Give the dead letters of a queue."""
    return FailedJobRegistry(queue, connection=redis, serializer=JSONSerializer)


def enqueue(queue: Queue, conf: Settings, record: CallRecord) -> None:
    """Queue what is to be done with a record; the same call and attempt again replaces what has not been done yet."""
    text = encode(record)
    if conf.supabase_url:
        _put(queue, STORE, f"store-{record.call_sid}-{record.attempts}", text)
    if conf.records_webhook_url:
        _put(queue, POST, f"post-{record.call_sid}-{record.attempts}", text)


def enqueue_unlink(queue: Queue, call_sid: CallSid) -> None:
    """Queue telling the database that a recording is deleted."""
    _put(queue, UNLINK, f"unlink-{call_sid}", call_sid)


def _put(queue: Queue, function: str, name: str, argument: Any) -> None:
    queue.enqueue(
        function,
        argument,
        job_id=name,
        description=name,  # the default one would repeat the arguments
        retry=Retry(max=len(RETRY_S), interval=list(RETRY_S)),
        job_timeout=TIMEOUT_S,
        result_ttl=0,  # gone when it is done
        failure_ttl=DEAD_KEPT_S,
    )
