"""A worker whose pool is gone, and the records of its call in a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from shared import keys, redis_door
from shared.agents import Agent
from shared.callrecord import decode
from shared.calls import CallSid, EndReason, IncomingCall, TraceId
from shared.messages import Beat, Bind, Ending, Entry
from shared.records import Records
from shared.settings import Settings
from tests.pool_process import DEADLINE_S, eventually_asked
from worker.call import orphan
from worker.call.orphan import MOST_KEPT, Orphan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.redis_server import RedisServer

pytestmark = pytest.mark.redis

SID = CallSid("CA07")
PERSON = "+551140000009"
CALL = IncomingCall(
    call_sid=SID, caller="+5511999990000", called="+551140000000", trace_id=TraceId("f" * 32), attempt=1
)


def said(number: int) -> Entry:
    return Entry(kind="user", text=f"word {number}", at=float(number))


class Orphaned:
    """A worker without a pool: what it tells goes nowhere else."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.orphan = Orphan(Settings(_env_file=None, redis_url=url, **settings))
        self.orphan.serve(
            Bind(
                call=CALL,
                agent=Agent(name="recepcao", transfer_number=PERSON),
                accepted_at=time.monotonic(),
                reserved_at=0.0,
            ),
            (),
        )
        self.stored = asyncio.Event()
        self.running: asyncio.Task[None] | None = None

    def pool_is_lost(self) -> None:
        """Do what the end of the channel does."""
        self.running = asyncio.create_task(self.orphan.run(self.stored.set))

    def end(self, reason: EndReason = EndReason.AGENT_HANGUP) -> None:
        """End the call."""
        self.orphan.note(Ending(reason=reason))


@asynccontextmanager
async def orphaned(url: str, **settings: Any) -> AsyncIterator[Orphaned]:
    made = Orphaned(url, **settings)
    try:
        yield made
    finally:
        if made.running is not None:
            made.running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await made.running


@asynccontextmanager
async def records_in(url: str) -> AsyncIterator[Records]:
    client = redis_door.commands(url)
    yield Records(client)
    await client.aclose()


async def copied(records: Records, *entries: Entry) -> None:
    """Wait until the copy of the journal is exactly this."""

    async def is_whole() -> bool:
        return await records.journal_of(SID) == list(entries)

    assert await eventually_asked(is_whole)


async def test_a_worker_with_a_pool_writes_nothing_and_leaves_at_once(redis_url: str) -> None:
    async with orphaned(redis_url) as worker, records_in(redis_url) as records:
        worker.orphan.note(said(1))
        worker.end()
        await worker.orphan.leave()
        assert await records.journal_of(SID) == []
        assert await records.end_of(SID, 1) is None


async def test_the_journal_goes_on_where_the_pool_ended(redis_url: str) -> None:
    """In the copy there is what an earlier worker of this call said, and the beginning of this one's."""
    async with orphaned(redis_url) as worker, records_in(redis_url) as records:
        await records.write_journal(SID, 0, [said(0), said(1)])
        for number in (1, 2, 3):
            worker.orphan.note(said(number))
        worker.pool_is_lost()
        await copied(records, *map(said, range(4)))
        worker.orphan.note(Beat(warm={}, lag_s=0.0))
        worker.orphan.note(said(4))
        await copied(records, *map(said, range(5)))


async def test_at_the_end_the_reason_is_stored_and_the_copy_deleted_before_anybody_is_told(redis_url: str) -> None:
    async with orphaned(redis_url) as worker, records_in(redis_url) as records:
        worker.orphan.note(said(1))
        worker.pool_is_lost()
        await copied(records, said(1))
        worker.end()
        async with asyncio.timeout(DEADLINE_S):
            await worker.stored.wait()
        assert await records.end_of(SID, 1) is EndReason.AGENT_HANGUP
        assert await records.journal_of(SID) == []
        await worker.orphan.leave()


async def test_whom_to_dial_is_stored_with_a_transfer(redis_url: str) -> None:
    client = redis_door.commands(redis_url)
    async with orphaned(redis_url) as worker:
        worker.pool_is_lost()
        worker.end(EndReason.TRANSFERRED)
        async with asyncio.timeout(DEADLINE_S):
            await worker.stored.wait()
        assert await client.get(keys.end(SID, 1)) == f"transferred {PERSON}"
    await client.aclose()


async def test_an_end_that_the_pool_did_not_come_to_store_is_stored(redis_url: str) -> None:
    async with orphaned(redis_url) as worker, records_in(redis_url) as records:
        await records.write_journal(SID, 0, [said(1)])
        worker.end()
        worker.pool_is_lost()
        async with asyncio.timeout(DEADLINE_S):
            await worker.stored.wait()
        assert await records.end_of(SID, 1) is EndReason.AGENT_HANGUP
        assert await records.journal_of(SID) == []


async def test_a_journal_is_whole_after_an_outage_that_redis_came_back_from_empty(redis_server: RedisServer) -> None:
    async with orphaned(redis_server.url) as worker:
        worker.orphan.note(said(1))
        async with records_in(redis_server.url) as records:
            worker.pool_is_lost()
            await copied(records, said(1))
        redis_server.stop()
        worker.orphan.note(said(2))
        redis_server.start()
        async with records_in(redis_server.url) as records:
            await copied(records, said(1), said(2))


@pytest.mark.parametrize("outage", ["stopped", "hanging"])
async def test_an_end_is_stored_when_redis_is_back(redis_server: RedisServer, outage: str) -> None:
    async with orphaned(redis_server.url) as worker:
        if outage == "stopped":
            redis_server.stop()
        else:
            os.kill(redis_server.pid, signal.SIGSTOP)
        worker.pool_is_lost()
        worker.end()
        leaving = asyncio.create_task(worker.orphan.leave())
        await asyncio.sleep(0)
        assert not worker.stored.is_set()
        if outage == "stopped":
            redis_server.start()
        else:
            os.kill(redis_server.pid, signal.SIGCONT)
        async with asyncio.timeout(DEADLINE_S):
            await worker.stored.wait()
            await leaving
        async with records_in(redis_server.url) as records:
            assert await records.end_of(SID, 1) is EndReason.AGENT_HANGUP


async def test_a_worker_does_not_wait_for_redis_for_ever(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphan, "LATE_S", 0.05)
    redis_server.stop()
    async with orphaned(redis_server.url) as worker:
        worker.pool_is_lost()
        worker.end()
        await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE_S):
            await worker.orphan.leave()
        assert worker.running is not None
        assert not worker.running.done()
        assert not worker.stored.is_set()


async def test_without_journals_in_redis_only_the_end_is_written(redis_url: str) -> None:
    client = redis_door.commands(redis_url)

    async def pushed() -> Any:
        return (await client.info("commandstats")).get("cmdstat_rpush")

    before = await pushed()
    async with orphaned(redis_url, journal_in_redis=False) as worker, records_in(redis_url) as records:
        worker.orphan.note(said(1))
        worker.pool_is_lost()
        worker.orphan.note(said(2))
        await asyncio.sleep(0)
        worker.end()
        async with asyncio.timeout(DEADLINE_S):
            await worker.stored.wait()
        assert await records.end_of(SID, 1) is EndReason.AGENT_HANGUP
    assert await pushed() == before
    await client.aclose()


async def test_an_endless_call_keeps_what_was_said_last(redis_url: str) -> None:
    async with orphaned(redis_url) as worker, records_in(redis_url) as records:
        worker.pool_is_lost()
        for number in range(MOST_KEPT + 1):
            worker.orphan.note(said(number))
        await copied(records, *map(said, range(MOST_KEPT // 2, MOST_KEPT + 1)))


async def left_in(url: str) -> list[Any]:
    """Give the records that workers have left for the prefetchers."""
    client = redis_door.commands(url)
    try:
        return [decode(text) for text in await client.lrange(keys.RECORDS, 0, -1)]
    finally:
        await client.aclose()


KEPT: dict[str, Any] = {"supabase_url": "http://127.0.0.1:1", "supabase_secret_key": "sb_secret"}


async def test_the_record_of_an_orphaned_call_is_left_for_the_prefetchers(redis_url: str) -> None:
    """With what the worker's predecessors said, and before the journal's copy is deleted."""
    async with orphaned(redis_url, **KEPT) as worker, records_in(redis_url) as records:
        await records.write_journal(SID, 0, [said(0), said(1)])
        for number in (1, 2):
            worker.orphan.note(said(number))
        worker.end()
        worker.pool_is_lost()
        async with asyncio.timeout(DEADLINE_S):
            await worker.stored.wait()
        [record] = await left_in(redis_url)
        assert record.entries == tuple(map(said, range(3)))
        assert (record.caller, record.agent, record.attempts) == (CALL.caller, "recepcao", 2)
        assert record.end_reason is EndReason.AGENT_HANGUP
        assert await records.journal_of(SID) == []


async def test_what_a_predecessor_said_is_in_the_record_also_when_redis_has_no_journals(redis_url: str) -> None:
    async with orphaned(redis_url, journal_in_redis=False, **KEPT) as worker:
        bind = Bind(call=CALL, agent=Agent(), accepted_at=time.monotonic(), reserved_at=0.0)
        worker.orphan.serve(bind, [said(0)])
        worker.orphan.note(said(1))
        worker.end()
        worker.pool_is_lost()
        async with asyncio.timeout(DEADLINE_S):
            await worker.stored.wait()
        [record] = await left_in(redis_url)
        assert record.entries == (said(0), said(1))


async def test_no_record_is_left_where_none_is_kept(redis_url: str) -> None:
    async with orphaned(redis_url, call_records=False, **KEPT) as worker:
        worker.end()
        worker.pool_is_lost()
        async with asyncio.timeout(DEADLINE_S):
            await worker.stored.wait()
        assert await left_in(redis_url) == []
