"""What happens at a webhook: reserve a worker and queue the prefetch side by side, once per announcement.

Twilio repeats a request it believes lost, also while we are still answering it. Every try gets the same bytes, as long
as the reservation they speak of lives.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from router import admission
from router.admission import Announcement, TurnedAway
from router.pools import Pools
from router.twiml import Twiml
from shared import logs
from shared.calls import CallSid, IncomingCall
from shared.metrics import RouterMetrics
from shared.ticket import Ticket, TicketOffice

T = TypeVar("T")
Enqueue = Callable[[IncomingCall], Coroutine[Any, Any, bool]]
"""Queue the prefetch of a call's customer; False when it could not be. Never raises."""

QUIET_S: Final = 0.05
"""How long what follows an answer waits at most for a moment in which no other call waits for one."""

LEAVING_S: Final = 2.0
"""How long prefetch jobs under way may still be queued when the router stops."""

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Answered:
    """The TwiML for a call, and what to count it as."""

    twiml: bytes
    result: Literal["reserved", "repeated", "no_worker"]
    ticket: Ticket | None = None
    why: str = ""  # there is none


@dataclass(slots=True, eq=False)
class _Given:
    """An answer that was given or is being found."""

    announcement: Announcement
    answer: asyncio.Task[Answered]

    def lives(self, now: float) -> bool:
        if not self.answer.done():
            return True
        if self.answer.cancelled() or self.answer.exception() is not None:
            return False
        ticket = self.answer.result().ticket
        return ticket is not None and now < ticket.expires_at


@dataclass(slots=True, eq=False)
class Webhook:
    """Answers announcements of calls. Use within `open()`, which owns the tasks."""

    pools: Pools
    enqueue: Enqueue
    office: TicketOffice
    twiml: Twiml
    metrics: RouterMetrics
    ticket_ttl_s: float
    _given: dict[tuple[CallSid, int], _Given] = field(default_factory=dict)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _answering: int = 0
    _quiet: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Finish at the end what was begun, within 2 s."""
        try:
            yield
        finally:
            if self._tasks:
                _, late = await asyncio.wait(self._tasks, timeout=LEAVING_S)
                for task in late:
                    task.cancel()

    async def answer(self, call: IncomingCall, token: str) -> Answered:
        """Give the TwiML for an announced call; `token` is Twilio's idempotency token, empty when it sent none."""
        announcement = Announcement(call.call_sid, call.attempt, token)
        key, now = (call.call_sid, call.attempt), time.time()
        given = self._given.get(key)
        if given is not None and given.lives(now) and announcement.repeats(given.announcement):
            answered = await asyncio.shield(given.answer)
            log.info("call announced again", attempt=call.attempt)
            return Answered(answered.twiml, "repeated", answered.ticket)
        self._forget(now)
        task = self._start(self._admit(call))
        self._start(self._afterwards(call, task))
        self._given.pop(key, None)  # so that a new entry stands last: oldest first is what `_forget` relies on
        self._given[key] = _Given(announcement, task)
        return await asyncio.shield(task)

    async def _admit(self, call: IncomingCall) -> Answered:
        self._answering += 1
        self._quiet.clear()
        try:
            decision = admission.at_webhook(await self.pools.reserve(call, self.ticket_ttl_s))
        finally:
            self._answering -= 1
            if not self._answering:
                self._quiet.set()
        if isinstance(decision, TurnedAway):
            return Answered(self.twiml.apology(), "no_worker", why=decision.why)
        ticket = decision.ticket
        return Answered(self.twiml.stream(self.office.sign(ticket), call, ticket.trace_id), "reserved", ticket)

    async def _afterwards(self, call: IncomingCall, admitted: asyncio.Task[Answered]) -> None:
        """Do what must not make callers wait: queue the prefetch, and write to the log.

        Both take as long as half an answer, queueing in a thread of the same interpreter: of 30 calls at once the last
        waited twice as long when they were done in between (p99 60 to 150 ms against 35 to 50, two shared cores).
        """
        await asyncio.sleep(0)  # what arrived together with this call is counted first
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                await self._quiet.wait()
        answered = await asyncio.shield(admitted)
        ticket = answered.ticket
        if ticket is None:
            log.warning("call turned away", why=answered.why, attempt=call.attempt)
            return  # nobody will ask for its customer
        queued = await self.enqueue(call)
        self.metrics.prefetch_queued(queued=queued)
        log.info("call promised", pool=ticket.pool, worker=ticket.worker, attempt=call.attempt, prefetch=queued)
        if not queued:  # nobody need wait for a customer nobody looks up
            self.pools.no_prefetch(ticket, "not_queued")

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _forget(self, now: float) -> None:
        """Drop what may not be repeated any more; tickets live equally long, so the oldest stand first."""
        while self._given:
            key = next(iter(self._given))
            if self._given[key].lives(now):
                return
            del self._given[key]
