"""What is left of calls goes to the prefetchers: each record becomes jobs, in a thread, after the call.

While Redis is away records wait here, up to a limit, beyond which the oldest are lost: that is counted and logged, as are those
that a pool still has when it has to leave.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from redis import Redis
from redis.exceptions import RedisError

from shared import logs, redis_door
from shared.callrecord import CallRecord, record_of
from shared.calls import EndReason
from shared.messages import Entry
from shared.metrics import PoolMetrics
from shared.outage import Outage
from shared.settings import Settings
from worker.pool.book import Call
from worker.record_jobs import enqueue, queue_on

MOST_WAITING: Final = 1_000
"""About 50 MB of records: at 100 calls an hour an outage of ten hours."""

LEAVE_TRIES: Final = 10
LEAVE_PAUSE_S: Final = 0.5
"""How long a pool that leaves tries to get rid of its records, at least; without any it leaves at once."""

_log = logs.get(__name__)


class AfterCall:
    """The records on their way. `run` is a task of the pool; `over` may be called before it."""

    def __init__(self, settings: Settings, metrics: PoolMetrics, outage: Outage | None = None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._waiting: deque[CallRecord] = deque()
        self._news = asyncio.Event()
        self._outage = outage or Outage("redis")

    def over(self, call: Call, reason: EndReason, journal: Sequence[Entry]) -> None:
        """Take the record of a call that has just ended, if it had a stream (here or before it was cut off) and is wanted."""
        if not (self._settings.keeps_records and (call.accepted_at or journal)):
            return
        now = time.time()
        accepted_at = now - (time.monotonic() - call.accepted_at) if call.accepted_at else journal[0].at
        self._waiting.append(record_of(call.incoming, call.agent.name, reason, journal, (accepted_at, now)))
        if len(self._waiting) > MOST_WAITING:
            lost = self._waiting.popleft()
            self._lost(1)
            _log.error("the record of a call is lost: too many wait for redis", call_sid=lost.call_sid)
        self._show()
        self._news.set()

    async def run(self) -> None:
        """Make jobs of records until cancelled, through every outage."""
        backoff = redis_door.Backoff()
        redis = redis_door.for_rq(self._settings.redis_url, retries=1)
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                if await self._hand_in(redis):
                    backoff.reset()
                else:
                    await asyncio.sleep(backoff.next())
                    self._news.set()
        finally:
            redis.close()

    async def leave(self) -> None:
        """Hand in what is left, for a while; `run` is cancelled by now."""
        if not self._waiting:
            return
        with redis_door.for_rq(self._settings.redis_url, retries=1) as redis:
            for _ in range(LEAVE_TRIES):
                if await self._hand_in(redis):
                    return
                await asyncio.sleep(LEAVE_PAUSE_S)
        self._lost(len(self._waiting))
        _log.error("records of calls are lost: the pool leaves and redis is away",
                   call_sids=[record.call_sid for record in self._waiting])  # fmt: skip

    async def _hand_in(self, redis: Redis) -> bool:
        """Make jobs of what waits, oldest first; False when Redis does not take them."""
        while self._waiting:
            record = self._waiting[0]
            try:
                await asyncio.to_thread(enqueue, queue_on(redis), self._settings, record)
            except (RedisError, OSError) as error:
                self._outage.away(redis_door.words(error), "records")
                return False
            except Exception:  # noqa: BLE001 - whatever is wrong with this one, it must not keep the others
                self._lost(1)
                _log.exception("the record of a call is lost: it cannot be made a job", call_sid=record.call_sid)
            self._outage.back("records")
            if self._waiting and self._waiting[0] is record:  # it may have been the oldest of too many
                self._waiting.popleft()
            self._show()
        return True

    def _show(self) -> None:
        self._metrics.records_waiting(len(self._waiting))

    def _lost(self, count: int) -> None:
        self._metrics.records_lost(count)
