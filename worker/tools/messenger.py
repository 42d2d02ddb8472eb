"""The messenger of the tool host: has messages sent by the prefetchers, and waits a moment for what comes of it.

That Twilio takes a message says little: what WhatsApp does not deliver (error 63016 above all) is mostly taken, and reported
as failed a moment later. So the wait goes on until a message has arrived or failed, or its time is up. A failure reported
later than that is in the database only.

The host itself needs no key to Twilio. RQ is blocking code, so it gets one thread and one connection of its own; the answer
comes on a stream of ours, read with a client made for it.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

import msgspec
from redis.exceptions import RedisError
from rq import Queue, Retry
from rq.exceptions import DuplicateJobError
from rq.serializers import JSONSerializer

from shared import keys, logs, redis_door
from shared.letters import DEAD_KEPT_S, JOB_KEPT_S, JOB_TIMEOUT_S, QUEUE, RETRY_S, SEND_JOB, Told, slot
from worker.tools.services import ServiceTrouble

WAIT_S: Final = 3.0
"""How long a caller waits for a message to arrive; to be taken by Twilio it needs about 0.3 s of them."""

ENQUEUE_TIMEOUT_S: Final = 1.0
"""After this Redis is as good as away; queueing takes 0.7 ms (p99 6 ms, measured)."""

MAX_WAITING: Final = 64

_Entries = list[tuple[str, dict[str, str]]]
_Answer = list[tuple[str, _Entries]]
_decoder: Final = msgspec.json.Decoder(Told)
_log = logs.get(__name__)


class QueuedMessenger:
    """`services.Messenger` by way of RQ; made once per host. `close` it at the end."""

    def __init__(self, redis_url: str) -> None:
        # one retry is safe here: a job that was queued although its answer got lost is a duplicate
        self._redis = redis_door.for_rq(redis_url, retries=1)
        self._queue = Queue(QUEUE, connection=self._redis, serializer=JSONSerializer)
        self._reading = redis_door.reading(redis_url)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="messenger")
        self._waiting = 0

    async def send_whatsapp(self, key: str, to: str, body: str, call_sid: str) -> str:
        """Have a message sent, once for each `key`, and say within `WAIT_S` what is known of it, as the protocol has it.

        Raises:
            ServiceTrouble: Redis did not take it; `maybe_done` when that is not certain.
        """
        until = time.monotonic() + WAIT_S
        await self._enqueue(key, {"key": key, "to": to, "body": body, "call_sid": call_sid, "asked_at": time.time()})
        told = await self._told(key, until)
        if told is None:
            return "queued"
        if told.state != "sent":
            return told.words
        return "delivered" if told.delivered else "taken"

    async def close(self) -> None:
        """Stop; does not wait for a thread that is stuck."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._redis.close()
        await self._reading.aclose()

    async def _enqueue(self, key: str, arguments: dict[str, Any]) -> None:
        if self._waiting >= MAX_WAITING:
            raise ServiceTrouble("redis hangs")
        job = self._thread.submit(self._put, key, arguments)
        queued = asyncio.wrap_future(job)
        self._waiting += 1
        queued.add_done_callback(self._done)
        try:
            await asyncio.wait_for(asyncio.shield(queued), ENQUEUE_TIMEOUT_S)
        except TimeoutError:
            # Not done for certain when it is taken back before the thread has begun with it.
            raise ServiceTrouble("redis is slow", maybe_done=not job.cancel()) from None

    def _put(self, key: str, arguments: dict[str, Any]) -> None:
        try:
            self._redis.ping()
        except (RedisError, OSError) as error:
            raise ServiceTrouble(f"redis does not answer: {type(error).__name__}") from error
        try:
            self._queue.enqueue(
                SEND_JOB,
                kwargs=arguments,
                job_id=f"message-{slot(key)}",
                unique=True,
                description="send a message",  # the default one would repeat number and text
                retry=Retry(max=len(RETRY_S), interval=list(RETRY_S)),
                job_timeout=JOB_TIMEOUT_S,
                result_ttl=JOB_KEPT_S,
                failure_ttl=DEAD_KEPT_S,
            )
        except DuplicateJobError:
            return
        except (RedisError, OSError) as error:
            raise ServiceTrouble(f"not queued: {type(error).__name__}", maybe_done=True) from error

    async def _told(self, key: str, until: float) -> Told | None:
        """Wait until it is settled what comes of a message, else give the last that is known; None when nothing is.

        What was told before is known at once, even when the time is up.
        """
        stream, seen, known, left_s = keys.told(slot(key)), "0-0", None, 1.0
        while left_s > 0 and not (known is not None and known.settled):
            left_s = until - time.monotonic()
            block_ms = (
                max(0, min(int(left_s * 1000), redis_door.READ_BLOCK_MS)) or None
            )  # None only looks, 0 is for ever
            try:
                answer = cast("_Answer", await self._reading.xread({stream: seen}, block=block_ms))
            except (RedisError, OSError) as error:
                _log.warning("nobody tells what became of a message", why=str(error))
                return known
            for _, entries in answer:
                seen, known = entries[-1][0], _heard(known, entries)
        return known

    def _done(self, queued: "asyncio.Future[None]") -> None:
        self._waiting -= 1
        if not queued.cancelled():
            queued.exception()  # whoever asked has it, or has gone


def _heard(known: Told | None, entries: _Entries) -> Told | None:
    """Add what is told to what is known. That a message was sent is told anew to whoever asks again: it undoes nothing."""
    for _, entry in entries:
        told = _decoder.decode(entry["told"])
        if told.settled:
            return told
        if told.final and (known is None or told.state != "sent"):
            known = told
    return known
