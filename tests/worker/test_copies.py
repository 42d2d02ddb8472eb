"""What a pool writes to Redis, against records in memory that can be away."""

from __future__ import annotations

from shared.agents import Agent
from shared.calls import CallSid, EndReason, IncomingCall, TraceId
from shared.messages import Entry
from shared.readiness import PoolRecord
from shared.ticket import Ticket
from shared.workers import PoolId, WorkerId
from tests.fakes import FakeReadiness, FakeRecords
from worker.pool.book import Call
from worker.pool.copies import LATE_ENDS, Copies

POOL = PoolRecord(pool=PoolId("p1"), boot="b1", ready=1, socket="p1.sock")
SAID = Entry(kind="user", text="Hello.", at=1.0)


def a_call(name: str = "CA1") -> Call:
    """Make a call in which something was said."""
    sid, trace = CallSid(name), TraceId("f" * 32)
    incoming = IncomingCall(call_sid=sid, caller="", called="", trace_id=trace)
    ticket = Ticket(sid, 0, POOL.pool, POOL.boot, WorkerId("0-1"), trace, 0)
    return Call(incoming, Agent(), ticket, 0.0, journal=[SAID])


def made(records: FakeRecords, directory: FakeReadiness) -> Copies:
    """Make what a pool has."""
    return Copies(records, directory, lambda: POOL, lambda _up: None)


async def test_a_pool_that_leaves_writes_what_is_left_before_it_gives_its_lease_back() -> None:
    records, directory = FakeRecords(), FakeReadiness()
    copies, living, over = made(records, directory), a_call("CA1"), a_call("CA2")
    await directory.publish(POOL)
    copies.append(living)
    copies.append(over)
    await copies.withdraw()
    assert await directory.pools() == []
    assert await records.journal_of(over.sid) == [SAID]
    records.away = True
    await copies.store_end(over, EndReason.AGENT_HANGUP)
    copies.over(over)
    records.away = False
    await copies.withdraw()
    assert await records.end_of(over.sid, 0) is EndReason.AGENT_HANGUP
    assert await records.journal_of(over.sid) == []
    assert await records.journal_of(living.sid) == [SAID]


async def test_a_long_outage_keeps_a_bounded_number_of_ends() -> None:
    records, directory = FakeRecords(), FakeReadiness()
    copies = made(records, directory)
    records.away = True
    for number in range(LATE_ENDS + 1):
        await copies.store_end(a_call(f"CA{number}"), EndReason.CALLER_HANGUP)
    records.away = False
    await copies.withdraw()
    assert await records.end_of(CallSid("CA0"), 0) is None
    assert await records.end_of(CallSid("CA1"), 0) is EndReason.CALLER_HANGUP
    assert await records.end_of(CallSid(f"CA{LATE_ENDS}"), 0) is EndReason.CALLER_HANGUP


async def test_a_call_that_said_nothing_leaves_nothing_to_delete() -> None:
    records, directory = FakeRecords(), FakeReadiness()
    copies, call = made(records, directory), a_call()
    copies.append(call)
    copies.over(call)  # before anything was written
    await copies.withdraw()
    assert await records.journal_of(call.sid) == []
