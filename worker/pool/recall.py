"""Calls that were cut off and come back: what was said in them before is brought from Redis.

Their former pool died with its container or host, and the router has reserved here again. The journal must be there before
the caller's new stream is, and Redis has no place at the hand-off: so the router's question is answered a moment later than
others, when the journal has come or has had its time. Later than that it still counts until the hand-off; after it the
call has begun without memory.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from shared import logs
from shared.calls import CallState
from shared.errors import ReadinessUnavailable
from shared.journal import entry
from shared.records import CallRecords
from worker.call.tasks import Tasks
from worker.pool.book import Call

ANSWER_WAIT_S: Final = 0.3
"""How long an answer waits for the journal: less than the router waits for one pool while it could ask another."""

_log = logs.get(__name__)


class Recall:
    """Loads journals. `copy` brings what is new in a journal into its copy in Redis, which goes on under the same key."""

    def __init__(self, records: CallRecords, copy: Callable[[Call], None]) -> None:
        self._records = records
        self._copy = copy
        self._tasks = Tasks()

    def before(self, call: Call, then: Callable[[], object]) -> None:
        """Load the journal of a call that has just been promised a worker, and do something then, or after 0.3 s."""
        loading = self._tasks.go(self._load(call))
        self._tasks.go(self._wait(loading, then))

    async def _wait(self, loading: asyncio.Task[None], then: Callable[[], object]) -> None:
        await asyncio.wait([loading], timeout=ANSWER_WAIT_S)
        then()

    async def _load(self, call: Call) -> None:
        try:
            said = await self._records.journal_of(call.sid)
        except ReadinessUnavailable as error:
            _log.warning("journal not loaded: the call begins anew", call_sid=call.sid, error=str(error))
            return
        if call.state is not CallState.PROMISED or not said:
            _log.warning("no journal in time: the call begins anew", call_sid=call.sid, entries=len(said))
            return
        back = entry("came_back", "")
        call.journal += [*said, back]
        self._copy(call)
        _log.info("journal loaded", call_sid=call.sid, trace_id=call.incoming.trace_id, attempt=call.attempt,
                  entries=len(said))  # fmt: skip
