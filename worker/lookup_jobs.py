"""How a pool queues the lookup of a caller: the very job a router queues at the webhook. Imports RQ."""

from redis import Redis
from rq import Queue
from rq.exceptions import DuplicateJobError
from rq.serializers import JSONSerializer

from shared import prefetch
from shared.calls import IncomingCall


def enqueue(redis: Redis, call: IncomingCall, queued_at: float) -> None:
    """Queue a lookup on a client made for RQ; one that a router has queued already is left as it is.

    Raises:
        RedisError: Redis did not take it.
    """
    queue = Queue(prefetch.QUEUE, connection=redis, serializer=JSONSerializer)
    try:
        queue.enqueue(prefetch.JOB, **prefetch.job(call, queued_at))
    except DuplicateJobError:
        return
