"""The call book: every call this pool has promised, holds or held lately. One writer: the pool.

Ended calls stay for `/call-ended`, which asks why, and so that a ticket cannot admit twice.
"""

import itertools
import math
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from shared.agents import Agent
from shared.calls import CALL_TABLE, CallEvent, CallSid, CallState, EndReason, IncomingCall, Seat, StreamSid
from shared.machine import advance
from shared.messages import Customer, Entry
from shared.metrics import Loss
from shared.ticket import Ticket
from shared.workers import WorkerId

ENDED_KEPT_S: Final = 900.0
"""As long as the end reason lives in Redis."""

ENDED_KEPT: Final = 10_000
"""About 10 MB; a pool that ends more calls than this in 15 minutes has its oldest answers in Redis only."""

_STREAMING: Final = frozenset({CallState.STREAMING, CallState.RESUMING})


@dataclass(slots=True, eq=False)
class Call:
    """One attempt of a call, as its pool knows it. Changed only through the book, the keeper and the customers.

    Attributes:
        deadline: until when its reservation waits for the stream; CLOCK_MONOTONIC.
        worker: who is promised to it or serves it; None when that one is gone.
        stream: the kept duplicate of the caller's socket, while there is one.
        customer: the last word of the prefetch about the caller, None while nobody knows.
        watched: the prefetch may still say something.
        ask_late: its lookup is to be asked for when the stream has begun; `asked` when that was done.
        journal: what a successor must know, oldest first.
        tape: the last of the caller's audio, for a successor; a descriptor.
        bound_at: since when the present worker, or the last one, serves it; CLOCK_MONOTONIC.
        lost_at: when that one was lost; 0 while it lives.
        loss: how.
        bridged: bridging words were played since then.
        resumes: how often another worker took it over.
        deaths: how many workers it lost in quick succession.
        seat: given by the book.
    """

    incoming: IncomingCall
    agent: Agent
    ticket: Ticket
    reserved_at: float
    deadline: float = math.inf
    state: CallState = CallState.INCOMING
    worker: WorkerId | None = None
    accepted_at: float = 0.0
    stream: socket.socket | None = None
    stream_sid: StreamSid | None = None
    customer: Customer | None = None
    watched: bool = False
    ask_late: bool = False
    asked: bool = False
    journal: list[Entry] = field(default_factory=list)
    tape: int | None = None
    bound_at: float = 0.0
    lost_at: float = 0.0
    loss: Loss = Loss.DIED
    resumes: int = 0
    deaths: int = 0
    bridged: bool = False
    reason: EndReason | None = None
    ended_at: float = math.inf
    seat: Seat = field(default_factory=Seat)

    @property
    def sid(self) -> CallSid:
        """The call's name at the carrier."""
        return self.incoming.call_sid

    @property
    def attempt(self) -> int:
        """Which attempt of the call this is; 0 is the first."""
        return self.incoming.attempt

    @property
    def dial(self) -> str:
        """Whom the caller is to be connected to, when the call has ended for that; empty for nobody."""
        return "" if self.reason is None else self.agent.dials(self.reason)

    @property
    def streaming(self) -> bool:
        """Whether the caller's stream is open."""
        return self.state in _STREAMING


class Book:
    """Calls by SID and attempt."""

    def __init__(self) -> None:
        self._calls: dict[tuple[CallSid, int], Call] = {}
        self._live: dict[CallSid, Call] = {}
        self._ended: dict[tuple[CallSid, int], Call] = {}  # in the order of their ends
        self._streaming = 0
        self._left_at: dict[tuple[str, int], float] = {}  # when a seat of an agent was left

    @property
    def streaming(self) -> int:
        """How many calls have a live stream."""
        return self._streaming

    def get(self, call_sid: CallSid, attempt: int) -> Call | None:
        """Find an attempt of a call, also an ended one."""
        return self._calls.get((call_sid, attempt))

    def live(self, call_sid: CallSid) -> Call | None:
        """Find the attempt of a call that is not over."""
        return self._live.get(call_sid)

    def all_live(self) -> Iterator[Call]:
        """List the calls that are not over."""
        return iter(list(self._live.values()))

    def add(self, call: Call) -> None:
        """Write down a call; a new attempt takes the place of an ended one with the same number."""
        key = (call.sid, call.attempt)
        self._ended.pop(key, None)
        call.seat = self.seat_for(call)
        self._calls[key] = call
        self._live[call.sid] = call

    def step(self, call: Call, event: CallEvent) -> None:
        """Bring a call to its next state.

        Raises:
            IllegalTransition: the call does not take this event now; nothing has changed.
        """
        before = call.streaming
        call.state = advance(CALL_TABLE, call.state, event)
        self._streaming += call.streaming - before

    def end(self, call: Call, reason: EndReason, now: float) -> bool:
        """End a call; False when it had ended before, whose reason then stays."""
        if call.state is CallState.ENDED:
            return False
        self.step(call, CallEvent.END)
        call.reason, call.ended_at = reason, now
        self._left_at[call.agent.name, call.seat.number] = now
        call.journal.clear()
        if call.tape is not None:
            os.close(call.tape)
            call.tape = None
        if self._live.get(call.sid) is call:
            del self._live[call.sid]
        self._ended[call.sid, call.attempt] = call
        self._forget(now)
        return True

    def seat_for(self, call: Call) -> Seat:
        """Give the seat a call is to have among those of its agent that are not over."""
        agent = call.agent.name
        taken = {each.seat.number for each in self._live.values() if each.agent.name == agent and each is not call}
        number = next(number for number in itertools.count() if number not in taken)
        left_at = self._left_at.get((agent, number))
        return Seat(number=number, idle_s=None if left_at is None else max(0.0, call.reserved_at - left_at))

    def _forget(self, now: float) -> None:
        while self._ended:
            key, oldest = next(iter(self._ended.items()))
            if len(self._ended) <= ENDED_KEPT and now - oldest.ended_at < ENDED_KEPT_S:
                return
            del self._ended[key]
            if self._calls.get(key) is oldest:
                del self._calls[key]
