"""What routers ask: reserve a worker, take over a caller's socket, say how a call ended.

The hand-off is the one path that must be fast (the caller hears nothing until it is done): no await on it, nothing is
logged or counted before the worker has the socket.
"""

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from websockets.frames import CloseCode

from shared import logs, tracing_spans
from shared.calls import CallEvent, CallSid, CallState, EndReason, IncomingCall
from shared.channel import close_all
from shared.messages import (
    AskEnd,
    Bind,
    EndKnown,
    HandOff,
    Message,
    NoPrefetch,
    NoWorker,
    Prepare,
    Reserve,
    Reserved,
)
from shared.metrics import UpgradeRefusal
from shared.ticket import Ticket
from shared.workers import WorkerEvent, WorkerState
from worker.call.tape import make_tape
from worker.pool.book import Call
from worker.pool.house import House
from worker.pool.keeper import adopt, refusal, shake
from worker.pool.plan import REFILL_DELAY_S
from worker.pool.recall import Recall
from worker.pool.roster import Worker

MANY_COLD: Final = 1_000
"""How many calls that found no worker are remembered, so that one that asks again is counted once."""

_BUSY: Final = frozenset({WorkerState.RESERVED, WorkerState.IN_CALL})

_log = logs.get(__name__)


class Control:
    """Answers routers."""

    def __init__(self, house: House, recall: Recall) -> None:
        self._house = house
        self._recall = recall
        self._cold: dict[tuple[CallSid, int], None] = {}
        self.draining = False

    def receive(self, message: Any, fds: list[int], answer: Callable[[Message], bool]) -> None:
        """Take a message of a router, and answer it when it is a question."""
        if isinstance(message, HandOff):
            self.hand_off(message, fds)
            return
        close_all(fds)
        match message:
            case Reserve():
                self._reserve(message, answer)
            case AskEnd():
                answer(self.ask_end(message))
            case NoPrefetch():
                self._house.customers.no_job(message.call_sid, message.why)

    # --- reserve ----------------------------------------------------------------------------------------------------

    def _reserve(self, ask: Reserve, answer: Callable[[Message], bool]) -> None:
        """Answer at once, except for a call that comes back: its worker will need what was said before."""
        known = self._house.book.get(ask.call.call_sid, ask.call.attempt)
        said = self.reserve(ask)
        call = self._house.book.get(ask.call.call_sid, ask.call.attempt)
        if ask.call.attempt and call is not None and call is not known:
            self._recall.before(call, lambda: answer(said))
        else:
            answer(said)

    def reserve(self, ask: Reserve) -> Reserved | NoWorker:
        """Promise a worker to a call; asking again while the call lives gives the same answer."""
        house, key = self._house, (ask.call.call_sid, ask.call.attempt)
        known = house.book.get(*key)
        if known is not None and known.state is not CallState.ENDED:
            return Reserved(request=ask.request, ticket=known.ticket, agent=known.agent)
        if self.draining:
            return NoWorker(request=ask.request, why="draining")
        now = time.monotonic()
        busy = sum(worker.state in _BUSY for worker in house.roster) if house.stt_most else 0
        full = house.stt_most and busy + ask.behind >= house.stt_most
        worker = None if full else house.roster.choose(now, ask.behind)
        if worker is None:
            self._count_cold(key)
            return NoWorker(request=ask.request, why="none_ready")
        ticket = Ticket(
            call_sid=ask.call.call_sid,
            attempt=ask.call.attempt,
            pool=house.pool,
            boot=house.boot,
            worker=worker.id,
            trace_id=ask.call.trace_id,
            expires_at=int(time.time() + ask.ttl_s),
        )
        call = Call(ask.call, worker.agents.serving(ask.call.called), ticket, now, now + ask.ttl_s)
        house.book.add(call)
        house.book.step(call, CallEvent.RESERVE)
        self._promise(call, worker, now)
        house.customers.expect(call)
        _log.info("reserved", call_sid=call.sid, trace_id=ask.call.trace_id, worker=worker.id, agent=call.agent.name)
        return Reserved(request=ask.request, ticket=ticket, agent=call.agent)

    def promise_again(self, call: Call) -> None:
        """Promise another worker to a call whose worker is gone before it came; without one, the hand-off looks again."""
        call.worker = None
        worker = self._house.roster.choose(time.monotonic())
        if worker is not None:
            call.agent = worker.agents.serving(call.incoming.called)
            self._promise(call, worker, time.monotonic())
            self._house.customers.repeat(call)
        else:
            asyncio.get_running_loop().call_at(call.deadline, self._expire, call)

    def _expire(self, call: Call) -> None:
        if call.state is CallState.PROMISED and call.worker is None:
            self._house.metrics.reservation_expired()
            self._house.ended(call, EndReason.NEVER_CONNECTED)

    def _promise(self, call: Call, worker: Worker, now: float) -> None:
        call.worker, worker.call = worker.id, call
        self._house.roster.step(worker, WorkerEvent.RESERVE, now)
        worker.refill_at = now + REFILL_DELAY_S
        self._tape(call)
        worker.tell(Prepare(call=call.incoming, agent=call.agent, reserved_at=call.reserved_at, seat=call.seat))
        self._house.changed()

    def _count_cold(self, key: tuple[CallSid, int]) -> None:
        if key in self._cold:
            return
        self._cold[key] = None
        while len(self._cold) > MANY_COLD:
            del self._cold[next(iter(self._cold))]
        self._house.metrics.cold_start()

    # --- hand-off ---------------------------------------------------------------------------------------------------

    def hand_off(self, message: HandOff, fds: list[int]) -> None:
        """Take over a caller's socket and give it to a worker, or refuse the upgrade on it."""
        if len(fds) != 1:
            close_all(fds)
            _log.error("hand-off without its socket", call_sid=message.ticket.call_sid, descriptors=len(fds))
            return
        house = self._house
        try:
            sock = adopt(fds[0])
        except OSError as error:
            _log.error("hand-off of no socket", call_sid=message.ticket.call_sid, error=str(error))
            return
        call = self._admit(message.ticket, message.call)
        if isinstance(call, UpgradeRefusal):
            house.keeper.refuse(sock, refusal(HTTPStatus.FORBIDDEN))
            self._refused(message.ticket, call)
            return
        answer = shake(message.head)
        if answer.status is not HTTPStatus.SWITCHING_PROTOCOLS:
            house.keeper.refuse(sock, answer.data)
            self._refused(message.ticket, UpgradeRefusal.MALFORMED)
            return
        worker = self._worker_for(call)
        if worker is None:
            house.keeper.refuse(sock, refusal(HTTPStatus.SERVICE_UNAVAILABLE))
            self._refused(message.ticket, UpgradeRefusal.NO_POOL)
            return
        if not house.keeper.write(sock, answer.data):
            sock.close()  # the caller is gone; the promise runs out by itself
            return
        call.accepted_at = message.accepted_at
        bind = Bind(
            call=call.incoming,
            agent=call.agent,
            accepted_at=call.accepted_at,
            reserved_at=call.reserved_at,
            seat=call.seat,
        )
        descriptors = (sock.fileno(), self._tape(call))
        while worker is not None and not worker.give(bind, call.journal, *descriptors):
            worker = self._worker_for(call)
        house.keeper.keep(call, sock)
        if worker is None:
            self._nobody_left(call)
        else:
            self._bound(call, worker)

    def _bound(self, call: Call, worker: Worker) -> None:
        house, now = self._house, time.monotonic()
        if house.book.get(call.sid, call.attempt) is not call:
            house.book.add(call)
        prepared = house.bind(call, worker, now)
        tracing_spans.bound(call.ticket, call.accepted_at, worker.id, prepared=prepared)
        if not prepared and not call.watched:
            house.customers.expect(call)
        house.metrics.calls_active(house.book.streaming)
        _log.info("bound", call_sid=call.sid, trace_id=call.incoming.trace_id, worker=worker.id, prepared=prepared)

    def _tape(self, call: Call) -> int:
        """Give the call's tape; made at the reservation, so that the hand-off need not."""
        if call.tape is None:
            call.tape = make_tape()
        return call.tape

    def _nobody_left(self, call: Call) -> None:
        """End a call whose upgrade was accepted while its last worker was dying."""
        house = self._house
        if house.book.get(call.sid, call.attempt) is not call:
            house.book.add(call)
        house.keeper.close(call, CloseCode.TRY_AGAIN_LATER)
        house.ended(call, EndReason.WORKER_LOST)

    def _admit(self, ticket: Ticket, promised: IncomingCall | None) -> Call | UpgradeRefusal:
        """Judge whether a ticket still admits: the one place where single use is enforced."""
        house, now = self._house, time.monotonic()
        ours = ticket.pool == house.pool and ticket.boot == house.boot
        call = house.book.get(ticket.call_sid, ticket.attempt)
        if call is None:
            # Another pool's, or our own from a former life: the router says that pool is gone, so we are to judge.
            if ours or time.time() >= ticket.expires_at:
                return UpgradeRefusal.EXPIRED
            incoming = promised or IncomingCall(
                call_sid=ticket.call_sid, caller="", called="", trace_id=ticket.trace_id, attempt=ticket.attempt
            )
            call = Call(incoming, house.agents().serving(incoming.called), ticket, now)
            call.seat = house.book.seat_for(call)
            house.book.step(call, CallEvent.RESERVE)
            return call
        if call.state is CallState.PROMISED:
            return call if now < call.deadline else UpgradeRefusal.EXPIRED
        return UpgradeRefusal.EXPIRED if call.reason is EndReason.NEVER_CONNECTED else UpgradeRefusal.SPENT

    def _worker_for(self, call: Call) -> Worker | None:
        house = self._house
        promised = house.roster.get(call.worker)
        if (
            promised is not None
            and promised.state is WorkerState.RESERVED
            and not promised.killed
            and promised.channel is not None
            and promised.channel.open
        ):
            return promised
        return house.roster.choose(time.monotonic())

    def _refused(self, ticket: Ticket, refused: UpgradeRefusal) -> None:
        self._house.metrics.handoff_refused(refused)
        _log.warning("upgrade refused", call_sid=ticket.call_sid, trace_id=ticket.trace_id, reason=refused.value)

    # --- the end ----------------------------------------------------------------------------------------------------

    def ask_end(self, ask: AskEnd) -> EndKnown:
        """Say how a call ended, or where it is."""
        call = self._house.book.get(ask.call_sid, ask.attempt)
        if call is None:
            return EndKnown(request=ask.request, state=None, reason=None)
        return EndKnown(request=ask.request, state=call.state, reason=call.reason, dial=call.dial)
