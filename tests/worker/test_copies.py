"""What a pool writes to Redis, against records in memory that can be away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shared import keys
from shared.agents import Agent
from shared.calls import CallSid, EndReason, IncomingCall, TraceId
from shared.messages import Entry
from shared.readiness import PoolRecord
from shared.ticket import Ticket
from shared.workers import PoolId, WorkerId
from tests.fakes import FakeReadiness, FakeRecords
from worker.pool import copies as module
from worker.pool.book import Call
from worker.pool.copies import LATE_ENDS, Copies

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

DEADLINE_S = 30.0

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


class WatchedRecords(FakeRecords):
    """Records that tell of each write."""

    def __init__(self) -> None:
        super().__init__()
        self.wrote = asyncio.Event()

    async def write_journal(self, call_sid: CallSid, at: int, entries: Sequence[Entry]) -> bool:
        """Write, and tell."""
        whole = await super().write_journal(call_sid, at, entries)
        self.wrote.set()
        return whole


async def test_the_copy_of_a_call_in_which_nothing_is_said_does_not_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.01)
    records, call = WatchedRecords(), a_call()
    copies = made(records, FakeReadiness())
    copies.append(call)
    running = asyncio.create_task(copies.run())
    for _ in range(3):
        async with asyncio.timeout(DEADLINE_S):
            await records.wrote.wait()
        records.clock.advance(keys.JOURNAL_TTL_S * 2 / 3)
        records.wrote.clear()
    assert await records.journal_of(call.sid) == [SAID]
    running.cancel()
    await asyncio.wait([running])
