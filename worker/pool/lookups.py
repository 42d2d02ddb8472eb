"""Asks for the lookup of a caller when the stream has begun, where the router does not at the webhook.

RQ is blocking code, so it gets one thread and one connection of its own, which connects at the first call. Nobody waits for
an answer longer than `ASK_TIMEOUT_S`.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from redis.exceptions import RedisError

from shared import logs, redis_door
from shared.calls import IncomingCall
from shared.settings import Settings
from worker.lookup_jobs import enqueue

ASK_TIMEOUT_S: Final = 1.0
"""After this nobody need wait for the customer; queueing takes 0.7 ms (p99 6 ms, measured at the router)."""

_log = logs.get(__name__)


class Lookups:
    """Queues lookups; made once per pool. `close` it at the end."""

    def __init__(self, settings: Settings) -> None:
        # one retry is safe here: a job that was queued although its answer got lost is a duplicate
        self._redis = redis_door.for_rq(settings.redis_url, retries=1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lookups")

    async def ask(self, call: IncomingCall) -> bool:
        """Queue the lookup of a call's caller; False when nobody will look (logged), never an exception."""
        asked = asyncio.get_running_loop().run_in_executor(self._thread, enqueue, self._redis, call, time.time())
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                await asyncio.shield(asked)
        except TimeoutError:
            asked.add_done_callback(lambda done: done.cancelled() or done.exception())  # it has been said
            asked.cancel()  # takes it back when the thread has not begun with it
            return self._not_asked(call, "redis is slow")
        except (RedisError, OSError) as error:
            return self._not_asked(call, redis_door.words(error))
        except Exception:  # noqa: BLE001 - the call goes on whatever RQ thinks of this job
            _log.exception("prefetch not queued", call_sid=call.call_sid)
            return False
        _log.info("prefetch queued", call_sid=call.call_sid, trace_id=call.trace_id)
        return True

    def close(self) -> None:
        """Ask no more; does not wait for a thread that is stuck."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._redis.close()

    @staticmethod
    def _not_asked(call: IncomingCall, why: str) -> bool:
        _log.warning("prefetch not queued", call_sid=call.call_sid, why=why)
        return False
