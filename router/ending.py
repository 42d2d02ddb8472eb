"""Finds out what became of a call whose stream is over: asks the pools, looks into Redis, and waits where that is needed.

Twilio waits 15 s for an answer; this takes at most 6, and reserving after it at most 2. For a call that ended it takes no
longer than its pool to answer, or nothing when that has told its end by itself. The caller hears nothing meanwhile.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from router import cutoff
from router.cutoff import LookAgain, Said, Verdict
from router.pools import Pools
from shared import logs
from shared.errors import OffhookError
from shared.ticket import Ticket
from shared.traces import Traces

AT_POOL_S: Final = 0.4
LOOK_S: Final = 0.6

Look = Callable[[Ticket], Coroutine[Any, Any, Traces]]
"""What an attempt of a call has left in Redis. May raise an OffhookError when it cannot tell."""

log = logs.get(__name__)


class Endings:
    """Judges ends of streams by what pools say and what is in Redis."""

    def __init__(self, pools: Pools, look: Look) -> None:
        self._pools = pools
        self._look = look

    async def of(self, ticket: Ticket) -> Verdict:
        """Find out how the attempt of this ticket ended, or that it was cut off."""
        looks: list[Traces | None] = []
        while True:
            said = await self._said(ticket)
            if said.reason is None:  # a pool that knows is believed without Redis
                looks.append(await self._traces(ticket))
            step = cutoff.judge(ticket.attempt, self._pools.whereabouts(ticket), said, looks)
            if not isinstance(step, LookAgain):
                return step
            log.info("call seems to be cut off", pool=ticket.pool, look_again_s=round(step.after_s, 1))
            await asyncio.sleep(step.after_s)

    async def _said(self, ticket: Ticket) -> Said:
        try:
            async with asyncio.timeout(AT_POOL_S):
                known = await self._pools.ask_end(ticket)
        except TimeoutError:
            return Said(all_answered=False)
        return Said() if known is None else Said(known.state, known.reason, dial=known.dial)

    async def _traces(self, ticket: Ticket) -> Traces | None:
        try:
            async with asyncio.timeout(LOOK_S):
                return await self._look(ticket)
        except (TimeoutError, OffhookError) as error:
            log.warning("end reason not found", why=type(error).__name__)
            return None
