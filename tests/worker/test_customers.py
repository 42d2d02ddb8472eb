"""When a pool asks for a lookup by itself: once the stream has begun, for whom nobody was asked, and once for a call."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from shared.agents import Agent
from shared.calls import CallSid, IncomingCall, StreamSid, TraceId
from shared.messages import Customer
from shared.metrics import PoolMetrics
from shared.prefetch import AT_STREAM, Result
from shared.ticket import Ticket
from shared.workers import PoolId, WorkerId
from worker.pool.book import Book, Call
from worker.pool.customers import Customers
from worker.pool.roster import Roster

SID = CallSid("CA1")
UNAVAILABLE = Customer(outcome="unavailable")
ANA = Result(outcome="found", record={"name": "Ana"}, queued_at=0.0, took_s=0.1)


@dataclass
class Desk:
    """The customers of a pool, and what was asked. `answers` is whether the queue takes a lookup."""

    late: bool = True
    database: bool = True
    answers: bool = True
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.book = Book()
        roster = Roster(1, PoolMetrics(CollectorRegistry(), 1))
        self.customers = Customers(self.book, roster, self if self.database else None, self._ask, late=self.late)

    def watch(self, call_sid: CallSid) -> None:
        """Bring nothing by itself."""

    def forget(self, call_sid: CallSid) -> None:
        """Have nothing to forget."""

    async def _ask(self, call: IncomingCall) -> bool:
        self.asked.append(call.attempt)
        return self.answers

    def reserve(self, attempt: int = 0) -> Call:
        """Promise a worker to a call."""
        incoming = IncomingCall(call_sid=SID, caller="+1", called="+2", trace_id=TraceId("0"), attempt=attempt)
        ticket = Ticket(
            call_sid=SID, attempt=attempt, pool=PoolId("p"), boot="b", worker=WorkerId("0-1"), trace_id=TraceId("0"),
            expires_at=0,
        )  # fmt: skip
        call = Call(incoming, Agent(), ticket, 0.0)
        self.book.add(call)
        self.customers.expect(call)
        return call

    async def begin(self, call: Call) -> None:
        """Have a worker say that the stream of a call has begun."""
        call.stream_sid = StreamSid("MZ1")
        self.customers.begun(call)
        await self.settle()

    async def settle(self) -> None:
        """Let what was begun come to its end."""
        await asyncio.gather(*self.customers._tasks)


async def test_a_pool_that_does_not_prefetch_asks_when_the_stream_has_begun_and_once_for_a_call() -> None:
    """Also when another worker begins with the same stream anew, because the first one died before the greeting."""
    desk = Desk()
    call = desk.reserve()
    assert desk.asked == []
    await desk.begin(call)
    await desk.begin(call)
    assert (desk.asked, call.customer) == ([0], None)
    desk.customers.came(SID, ANA)
    assert call.customer == Customer(outcome="found", record={"name": "Ana"})


async def test_what_is_known_by_then_is_not_asked_for() -> None:
    """A router that prefetches has brought it, or a former attempt of the call has."""
    desk = Desk()
    call = desk.reserve(attempt=1)
    desk.customers.came(SID, ANA)
    await desk.begin(call)
    assert desk.asked == []


async def test_a_pool_that_leaves_it_to_the_router_asks_nothing() -> None:
    desk = Desk(late=False)
    await desk.begin(desk.reserve())
    assert desk.asked == []


@pytest.mark.parametrize("when", ["before its reservation", "before its stream", "later"])
async def test_a_router_that_does_not_prefetch_has_the_pool_ask(when: str) -> None:
    desk = Desk(late=False)
    if when == "before its reservation":
        desk.customers.no_job(SID, AT_STREAM)
    call = desk.reserve()
    assert call.customer is None, "nobody is told yet that there is none"
    if when == "before its stream":
        desk.customers.no_job(SID, AT_STREAM)
    await desk.begin(call)
    if when == "later":
        assert desk.asked == []
        desk.customers.no_job(SID, AT_STREAM)
        await desk.settle()
    assert (desk.asked, call.customer) == ([0], None)


@pytest.mark.parametrize("reserved_first", [True, False])
async def test_a_job_that_could_not_be_queued_is_not_waited_for(*, reserved_first: bool) -> None:
    desk = Desk(late=False)
    if not reserved_first:
        desk.customers.no_job(SID, "not_queued")
    call = desk.reserve()
    if reserved_first:
        desk.customers.no_job(SID, "not_queued")
    assert call.customer == UNAVAILABLE
    await desk.begin(call)
    assert desk.asked == []


async def test_a_lookup_that_cannot_be_queued_late_is_not_waited_for_either() -> None:
    desk = Desk(answers=False)
    call = desk.reserve()
    await desk.begin(call)
    assert (desk.asked, call.customer) == ([0], UNAVAILABLE)


@pytest.mark.parametrize("lack", ["no database", "no redis"])
async def test_nobody_is_asked_in_vain(lack: str) -> None:
    desk = Desk(database=lack != "no database")
    if lack == "no redis":
        desk.customers.linked(up=False)
    call = desk.reserve()
    await desk.begin(call)
    assert (desk.asked, call.customer) == ([], UNAVAILABLE)
