"""One suite for the records of calls, run against the fake and against a real Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared import keys, redis_door
from shared.calls import CallSid, EndReason
from shared.errors import ReadinessUnavailable
from shared.messages import Entry
from shared.records import CallRecords, Records
from tests.fakes import FakeRecords

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.redis_server import RedisServer

CALL = CallSid("CA1")
SAID = Entry(kind="user", text="Olá, tudo bem?", at=1.0)
HEARD = Entry(kind="heard", text="Hello.", at=2.0)
TOOL = Entry(kind="tool", text="{}", at=3.0, key="call_1")


@pytest.fixture(params=["fake", pytest.param("redis", marks=pytest.mark.redis)])
async def records(request: pytest.FixtureRequest) -> AsyncIterator[CallRecords]:
    if request.param == "fake":
        yield FakeRecords()
        return
    client = redis_door.commands(request.getfixturevalue("redis_url"))
    yield Records(client)
    await client.aclose()


async def test_a_call_without_a_stored_end_has_none(records: CallRecords) -> None:
    assert await records.end_of(CALL, 0) is None


async def test_each_attempt_of_a_call_has_its_own_end(records: CallRecords) -> None:
    await records.store_end(CALL, 0, EndReason.STREAM_LOST)
    await records.store_end(CALL, 1, EndReason.AGENT_HANGUP)
    assert await records.end_of(CALL, 0) is EndReason.STREAM_LOST
    assert await records.end_of(CALL, 1) is EndReason.AGENT_HANGUP
    assert await records.end_of(CallSid("CA2"), 0) is None


async def test_the_first_end_stays(records: CallRecords) -> None:
    await records.store_end(CALL, 0, EndReason.CALLER_HANGUP)
    await records.store_end(CALL, 0, EndReason.STREAM_SILENT)
    assert await records.end_of(CALL, 0) is EndReason.CALLER_HANGUP


async def test_a_journal_is_kept_in_order_until_it_is_deleted(records: CallRecords) -> None:
    assert await records.journal_of(CALL) == []
    await records.append_journal(CALL, [SAID, HEARD])
    await records.append_journal(CALL, [])
    await records.append_journal(CALL, [TOOL])
    assert await records.journal_of(CALL) == [SAID, HEARD, TOOL]
    await records.delete_journal(CALL)
    await records.delete_journal(CALL)
    assert await records.journal_of(CALL) == []


async def test_fake_records_expire_by_its_clock() -> None:
    fake = FakeRecords()
    await fake.store_end(CALL, 0, EndReason.CALLER_HANGUP)
    await fake.append_journal(CALL, [SAID])
    fake.clock.advance(keys.END_TTL_S)
    assert await fake.end_of(CALL, 0) is None
    assert await fake.journal_of(CALL) == []


@pytest.mark.redis
async def test_ends_and_journals_expire_in_redis(redis_url: str) -> None:
    client = redis_door.commands(redis_url)
    records = Records(client)
    await records.store_end(CALL, 0, EndReason.CALLER_HANGUP)
    await records.append_journal(CALL, [SAID])
    assert 0 < await client.ttl(keys.end(CALL, 0)) <= keys.END_TTL_S
    assert 0 < await client.ttl(keys.journal(CALL)) <= keys.JOURNAL_TTL_S
    await client.aclose()


@pytest.mark.redis
async def test_what_another_version_wrote_is_left_out(redis_url: str) -> None:
    client = redis_door.commands(redis_url)
    records = Records(client)
    await client.set(keys.end(CALL, 0), "abducted")
    await client.rpush(keys.journal(CALL), "{")
    await records.append_journal(CALL, [SAID])
    assert await records.end_of(CALL, 0) is None
    assert await records.journal_of(CALL) == [SAID]
    await client.aclose()


@pytest.mark.redis
async def test_without_redis_every_record_is_readiness_unavailable(redis_server: RedisServer) -> None:
    client = redis_door.commands(redis_server.url)
    redis_server.stop()
    records = Records(client)
    fake = FakeRecords()
    fake.away = True
    for each in (records, fake):
        with pytest.raises(ReadinessUnavailable):
            await each.store_end(CALL, 0, EndReason.CALLER_HANGUP)
        with pytest.raises(ReadinessUnavailable):
            await each.end_of(CALL, 0)
        with pytest.raises(ReadinessUnavailable):
            await each.append_journal(CALL, [SAID])
        with pytest.raises(ReadinessUnavailable):
            await each.journal_of(CALL)
        with pytest.raises(ReadinessUnavailable):
            await each.delete_journal(CALL)
    await client.aclose()
