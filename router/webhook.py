"""What happens at a webhook: reserve a worker and queue the prefetch side by side, once per announcement.

A call for which there is no worker stands in the hold line and announces itself again, turn by turn; it gets its worker
by the same path. Twilio repeats a request it believes lost, also while we are still answering it. Every try gets the same
bytes, as long as the reservation they speak of lives.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeVar, assert_never

from router import admission, hold
from router.admission import Announcement, TurnedAway
from router.hold import GiveUp, Hold, Place, Rules, Spot, Workers
from router.line import Line
from router.overflow import Overflow
from router.pools import Pools
from router.twiml import Twiml
from shared import logs, tracing_spans
from shared.calls import CallSid, IncomingCall
from shared.holdline import Visitor
from shared.messages import Reserved
from shared.metrics import HoldOutcome
from shared.metrics_router import RouterMetrics
from shared.prefetch import AT_STREAM
from shared.ticket import Ticket, TicketOffice

T = TypeVar("T")
Enqueue = Callable[[IncomingCall], Coroutine[Any, Any, bool]]
"""Queue the prefetch of a call's customer; False when it could not be. Never raises."""

QUIET_S: Final = 0.05
"""How long what follows an answer waits at most for a moment in which no other call waits for one."""

REPEATED_S: Final = 15.0
"""How long an answer without a worker is given again to a repeat. Source: Twilio docs, webhook timeout (`tt`)."""

LEAVING_S: Final = 2.0
"""How long prefetch jobs under way may still be queued when the router stops."""

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Answered:
    """The TwiML for a call, what to count it as, and until when a repeat gets the same (unix seconds)."""

    twiml: bytes
    result: Literal["reserved", "repeated", "held", "no_worker"]
    good_until: float
    ticket: Ticket | None = None
    why: str = ""  # there is none


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A call without a worker: where it stands (None: there is no room), and why there is none."""

    spot: Spot | None
    why: str


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
        return now < self.answer.result().good_until


@dataclass(slots=True, eq=False)
class Webhook:
    """Answers announcements of calls. Use within `open()`, which owns the tasks.

    Without `prefetches` no lookup is queued here: the pool of the call is told so, and asks for it when the stream has begun.
    """

    pools: Pools
    enqueue: Enqueue
    office: TicketOffice
    twiml: Twiml
    metrics: RouterMetrics
    ticket_ttl_s: float
    line: Line
    rules: Rules
    overflow: Overflow
    prefetches: bool = True
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

    async def answer(self, call: IncomingCall, token: str, place: Place | None = None) -> Answered:
        """Give the TwiML for an announced call; `token` is Twilio's idempotency token, empty when it sent none.

        `place` is where the call stands in the hold line, when it was there before.
        """
        now = time.time()
        place = place or Place(call.trace_id, now)
        announcement, key = Announcement(call.call_sid, call.attempt, token, place.turn), (call.call_sid, call.attempt)
        given = self._given.get(key)
        if given is not None and given.lives(now) and announcement.repeats(given.announcement):
            answered = await asyncio.shield(given.answer)
            log.info("call announced again", attempt=call.attempt)
            return Answered(answered.twiml, "repeated", answered.good_until, answered.ticket)
        self._forget(now)
        task = self._start(self._admit(call, place))
        self._start(self._afterwards(call, place, task))
        self._given.pop(key, None)  # so that a new entry stands last: oldest first is what `_forget` relies on
        self._given[key] = _Given(announcement, task)
        answered = await asyncio.shield(task)
        tracing_spans.announced(call, now, answered.result, place.turn)
        return answered

    async def _admit(self, call: IncomingCall, place: Place) -> Answered:
        self._answering += 1
        self._quiet.clear()
        try:
            found = await self._seek(call, place)
        finally:
            self._answering -= 1
            if not self._answering:
                self._quiet.set()
        now = time.time()
        if isinstance(found, _Waiting):
            return self._without_worker(call, place, found, now)
        if place.turn:
            self.metrics.hold_ended(HoldOutcome.SERVED, place.waited(now))
        ticket = found.ticket
        segment = self.office.sign(ticket)
        return Answered(self.twiml.stream(segment, call, ticket.trace_id), "reserved", ticket.expires_at, ticket)

    async def _seek(self, call: IncomingCall, place: Place) -> Reserved | _Waiting:
        """Look for a worker; a call that came before only when it is its turn, a new one behind all who wait."""
        why = "not_its_turn"
        if not place.turn or not self.rules.hold_max_s:
            decision = await self._reserve(call, place, self.line.waiting)
            if isinstance(decision, Reserved):
                return decision
            why = decision.why
        if not self.rules.hold_max_s:
            return _Waiting(None, why)
        now = time.time()
        visitor = Visitor(call.call_sid, place.waited(now), hold.patience_s(place, self.rules, now))
        spot = await self.line.visit(visitor)
        if spot is None or spot.before >= self.pools.ready or why == admission.NO_POOL:  # which took its 2 s already
            return _Waiting(spot, why)
        with self.line.asking(call.call_sid):
            decision = await self._reserve(call, place, spot.before)
            if isinstance(decision, TurnedAway):
                return _Waiting(spot, decision.why)
            self.line.served(call.call_sid)
        return decision

    async def _reserve(self, call: IncomingCall, place: Place, behind: int) -> Reserved | TurnedAway:
        began = time.time()
        decision = admission.at_webhook(await self.pools.reserve(call, self.ticket_ttl_s, behind))
        tracing_spans.reserved(call, place.turn, began, decision.ticket if isinstance(decision, Reserved) else None)
        return decision

    def _without_worker(self, call: IncomingCall, place: Place, found: _Waiting, now: float) -> Answered:
        workers = Workers(self.pools.ready, self.pools.warming)
        rules = replace(self.rules, overflow_number=self.overflow.of(call.called))
        decision = hold.at_hold(place, found.spot, workers, rules, now)
        match decision:
            case Hold():
                return Answered(self.twiml.hold(decision, call.attempt), "held", now + REPEATED_S, why=found.why)
            case GiveUp(outcome=outcome):
                self.line.served(call.call_sid)
                if self.rules.hold_max_s:
                    self.metrics.hold_ended(HoldOutcome(outcome), place.waited(now))
                dial = outcome == "overflow"
                twiml = self.twiml.overflow(rules.overflow_number) if dial else self.twiml.apology()
                return Answered(twiml, "no_worker", now + REPEATED_S, why=found.why)
            case _:
                assert_never(decision)

    async def _afterwards(self, call: IncomingCall, place: Place, admitted: asyncio.Task[Answered]) -> None:
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
        if ticket is None:  # nobody will ask for its customer
            if answered.result == "no_worker":
                log.warning("call turned away", why=answered.why, attempt=call.attempt, turn=place.turn)
            elif not place.turn:
                log.info("call held", why=answered.why, attempt=call.attempt)
            return
        queued = self.prefetches and await self.enqueue(call)
        log.info("call promised", pool=ticket.pool, worker=ticket.worker, attempt=call.attempt, prefetch=queued)
        if self.prefetches:
            self.metrics.prefetch_queued(queued=queued)
        if not queued:  # nobody need wait for a customer nobody looks up
            self.pools.no_prefetch(ticket, "not_queued" if self.prefetches else AT_STREAM)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _forget(self, now: float) -> None:
        """Drop what may not be repeated any more: the oldest stand first, and none outlives a ticket by much."""
        while self._given:
            key = next(iter(self._given))
            if self._given[key].lives(now):
                return
            del self._given[key]
