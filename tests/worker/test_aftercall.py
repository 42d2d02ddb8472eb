"""The pool's side of records: every call with a stream becomes jobs, whatever Redis does meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from shared import redis_door
from shared.agents import Agent
from shared.callrecord import decode
from shared.calls import CallSid, EndReason, IncomingCall, TraceId
from shared.messages import Entry
from shared.metrics import PoolMetrics
from shared.settings import Settings
from shared.ticket import Ticket
from shared.workers import PoolId, WorkerId
from tests.pool_process import DEADLINE_S, eventually_asked
from worker.pool import aftercall
from worker.pool.aftercall import AfterCall
from worker.pool.book import Call
from worker.record_jobs import RETRY_S, queue_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from rq.job import Job

    from tests.redis_server import RedisServer

pytestmark = pytest.mark.redis

CALLER = "+5511987654321"
WANTED: dict[str, Any] = {
    "supabase_url": "http://127.0.0.1:1",
    "supabase_secret_key": "sb_secret",
    "records_webhook_url": "http://127.0.0.1:1/calls",
    "records_webhook_secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
}
SAID = (Entry(kind="user", text="Hello.", at=1.0),)


def call(number: int, attempt: int = 0, accepted_ago_s: float = 5.0) -> Call:
    sid, trace_id = CallSid(f"CA{number}"), TraceId("f" * 32)
    incoming = IncomingCall(call_sid=sid, caller=CALLER, called="+551130000000", trace_id=trace_id, attempt=attempt)
    ticket = Ticket(
        call_sid=sid, attempt=attempt, pool=PoolId("p"), boot="b", worker=WorkerId("w"), trace_id=trace_id, expires_at=0
    )
    made = Call(incoming, Agent(name="recepcao"), ticket, 0.0)
    made.accepted_at = time.monotonic() - accepted_ago_s if accepted_ago_s else 0.0
    return made


class After:
    """The part of a pool under test, running."""

    def __init__(self, url: str, settings: dict[str, Any] = WANTED) -> None:
        self.registry = CollectorRegistry()
        self.part = AfterCall(Settings(_env_file=None, redis_url=url, **settings), PoolMetrics(self.registry, 1))
        self.url = url
        self.running: asyncio.Task[None] | None = None

    def over(self, ended: Call, journal: Sequence[Entry] = SAID) -> None:
        """End a call."""
        self.part.over(ended, EndReason.CALLER_HANGUP, journal)

    def metric(self, name: str) -> float | None:
        """Read a metric."""
        return self.registry.get_sample_value(name)

    async def jobs(self, count: int) -> dict[str, Job]:
        """Wait for so many jobs in the queue, and give them by name."""

        def look() -> dict[str, Job]:
            with contextlib.suppress(OSError), redis_door.for_rq(self.url) as redis:
                found = {job.id: job for job in queue_on(redis).get_jobs()}
                return found if len(found) == count else {}
            return {}

        return await eventually_asked(lambda: asyncio.to_thread(look))


@contextlib.asynccontextmanager
async def after(url: str, settings: dict[str, Any] = WANTED) -> AsyncIterator[After]:
    made = After(url, settings)
    made.running = asyncio.create_task(made.part.run())
    try:
        yield made
    finally:
        made.running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await made.running


async def test_the_end_of_a_call_is_two_jobs_that_are_tried_for_more_than_a_day(redis_url: str) -> None:
    async with after(redis_url) as pool:
        pool.over(call(1))
        jobs = await pool.jobs(2)
        assert set(jobs) == {"store-CA1-1", "post-CA1-1"}
        for job in jobs.values():
            assert sum(RETRY_S) > 86_400
            assert job.retries_left == len(RETRY_S)
            assert CALLER not in str(job.description)
            record = decode(job.args[0])
            assert (record.caller, record.agent, record.end_reason) == (CALLER, "recepcao", "caller_hangup")
            assert record.entries == SAID
            assert record.ended_at == pytest.approx(time.time(), abs=DEADLINE_S)


async def test_the_same_end_twice_is_one_record_and_another_attempt_another(redis_url: str) -> None:
    async with after(redis_url) as pool:
        for each in (call(1), call(1), call(1, attempt=1)):
            pool.over(each)
        assert set(await pool.jobs(4)) == {"store-CA1-1", "post-CA1-1", "store-CA1-2", "post-CA1-2"}


async def test_a_call_that_was_cut_off_and_did_not_come_back_is_recorded_as_far_as_it_went(redis_url: str) -> None:
    """Its caller hung up before the stream of its new worker: what was said before is in the journal it left."""
    async with after(redis_url) as pool:
        pool.over(call(1, attempt=1, accepted_ago_s=0.0))
        record = decode((await pool.jobs(2))["store-CA1-2"].args[0])
        assert record.entries == SAID
        assert record.started_at == SAID[0].at


@pytest.mark.parametrize(
    ("settings", "accepted_ago_s"),
    [(WANTED, 0.0), (WANTED | {"call_records": False}, 5.0), ({}, 5.0)],
    ids=["never had a stream", "not wanted", "nobody to tell"],
)
async def test_a_call_of_which_nothing_is_kept_leaves_nothing(
    redis_url: str, settings: dict[str, Any], accepted_ago_s: float
) -> None:
    pool = After(redis_url, settings)
    pool.over(call(1, accepted_ago_s=accepted_ago_s), SAID if accepted_ago_s else ())
    assert pool.metric("offhook_records_waiting") == 0
    await pool.part.leave()
    with redis_door.for_rq(redis_url) as redis:
        assert queue_on(redis).get_job_ids() == []


async def test_records_wait_for_a_redis_that_is_away(redis_server: RedisServer) -> None:
    redis_server.stop()
    async with after(redis_server.url) as pool:
        for number in (1, 2):
            pool.over(call(number))
        assert pool.metric("offhook_records_waiting") == 2
        redis_server.start()
        assert len(await pool.jobs(4)) == 4

        async def told() -> bool:
            return pool.metric("offhook_records_waiting") == 0

        assert await eventually_asked(told)
        assert pool.metric("offhook_records_lost_total") == 0


async def test_a_record_that_can_be_no_job_does_not_keep_the_others(redis_url: str) -> None:
    """RQ allows no such name for a job."""
    async with after(redis_url) as pool:
        odd = call(1)
        odd.incoming = msgspec.structs.replace(odd.incoming, call_sid=CallSid("CA:1 *"))
        for each in (odd, call(2)):
            pool.over(each)
        assert set(await pool.jobs(2)) == {"store-CA2-1", "post-CA2-1"}
        assert pool.metric("offhook_records_lost_total") == 1


async def test_of_too_many_the_oldest_are_lost_and_counted(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aftercall, "MOST_WAITING", 2)
    redis_server.stop()
    pool = After(redis_server.url)
    for number in (1, 2, 3):
        pool.over(call(number))
    assert (pool.metric("offhook_records_waiting"), pool.metric("offhook_records_lost_total")) == (2, 1)
    redis_server.start()
    await pool.part.leave()
    assert set(await pool.jobs(4)) == {"store-CA2-1", "post-CA2-1", "store-CA3-1", "post-CA3-1"}


async def test_a_pool_that_leaves_while_redis_is_away_counts_what_is_lost(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aftercall, "LEAVE_PAUSE_S", 0.01)
    redis_server.stop()
    pool = After(redis_server.url)
    pool.over(call(1))
    await pool.part.leave()
    assert pool.metric("offhook_records_lost_total") == 1
