"""Queues the lookup of a caller, and what Twilio reports of a message. The only part of the router that touches RQ.

RQ is blocking code, so it gets one thread and one connection of its own. A caller is never kept waiting for it: nothing
is raised, an answer comes within `ENQUEUE_TIMEOUT_S`, and while the thread is stuck every further call is told so at once.
"""

import asyncio
import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from redis.exceptions import RedisError
from rq import Queue, Retry
from rq.exceptions import DuplicateJobError
from rq.serializers import JSONSerializer

from router.twilio import MessageReport
from shared import letters, logs, prefetch, redis_door
from shared.calls import IncomingCall
from shared.prefetch import JOB, QUEUE
from shared.settings import Settings

ENQUEUE_TIMEOUT_S: Final = 1.0
"""After this an answer is not worth waiting for; queueing takes 0.7 ms (p99 6 ms, measured)."""

MAX_WAITING: Final = 256

_log = logs.get(__name__)


class PrefetchQueue:
    """Queues jobs; made once per router. `close` it at the end."""

    def __init__(self, settings: Settings) -> None:
        # one retry is safe here: a job that was queued although its answer got lost is a duplicate
        self._redis = redis_door.for_rq(settings.redis_url, retries=1)
        self._queue = Queue(QUEUE, connection=self._redis, serializer=JSONSerializer)
        self._reports = Queue(letters.STATUS_QUEUE, connection=self._redis, serializer=JSONSerializer)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch-queue")
        self._waiting = 0
        self._busy_since: float | None = None

    async def enqueue(self, call: IncomingCall) -> bool:
        """Queue the lookup of this call's caller; False when nobody will look (logged), never an exception.

        The same call and attempt again is the same job: True, and nothing is queued twice.
        """
        return await self._queued("prefetch", call.call_sid, functools.partial(self._put_lookup, call, time.time()))

    async def report(self, report: MessageReport) -> bool:
        """Queue what Twilio says of a message, to be written down; as `enqueue`, also for what it says twice."""
        return await self._queued("report", report.call_sid, functools.partial(self._put_report, report, time.time()))

    async def _queued(self, what: str, call_sid: str, put: Callable[[], object]) -> bool:
        if self._stuck() or self._waiting >= MAX_WAITING:
            _log.warning(f"{what} not queued", call_sid=call_sid, why="redis hangs")
            return False
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._enqueue, what, call_sid, put)
        future.add_done_callback(self._done)
        try:
            return await asyncio.wait_for(asyncio.shield(future), ENQUEUE_TIMEOUT_S)
        except TimeoutError:
            future.cancel()  # takes it back when the thread has not begun with it
            _log.warning(f"{what} not queued", call_sid=call_sid, why="redis is slow")
            return False

    def close(self) -> None:
        """Stop queueing; does not wait for a thread that is stuck."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._redis.close()

    def _done(self, _: "asyncio.Future[bool]") -> None:
        self._waiting -= 1

    def _stuck(self) -> bool:
        since = self._busy_since
        return since is not None and time.monotonic() - since > ENQUEUE_TIMEOUT_S

    def _enqueue(self, what: str, call_sid: str, put: Callable[[], object]) -> bool:
        self._busy_since = time.monotonic()
        try:
            put()
        except DuplicateJobError:
            return True
        except (RedisError, OSError) as error:
            _log.warning(f"{what} not queued", call_sid=call_sid, why=redis_door.words(error))
            return False
        except Exception:  # noqa: BLE001 - the webhook is to be answered whatever RQ thinks of this job
            _log.exception(f"{what} not queued", call_sid=call_sid)
            return False
        else:
            return True
        finally:
            self._busy_since = None

    def _put_lookup(self, call: IncomingCall, queued_at: float) -> None:
        self._queue.enqueue(JOB, **prefetch.job(call, queued_at))

    def _put_report(self, report: MessageReport, told_at: float) -> None:
        self._reports.enqueue(
            letters.STATUS_JOB,
            kwargs={
                "provider_sid": report.sid,
                "status": report.status,
                "error_code": report.error_code,
                "key": report.key,
                "call_sid": report.call_sid,
                "told_at": told_at,
            },
            job_id=f"report-{report.sid}-{report.status}",
            unique=True,
            description=f"message {report.status}",
            retry=Retry(max=len(letters.RETRY_S), interval=list(letters.RETRY_S)),
            job_timeout=letters.JOB_TIMEOUT_S,
            result_ttl=letters.JOB_KEPT_S,
            failure_ttl=letters.DEAD_KEPT_S,
        )
