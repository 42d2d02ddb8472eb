"""One suite for the records of calls, run against the fake and against a real Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared import keys, redis_door
from shared.calls import CallSid, EndReason
from shared.errors import ReadinessUnavailable
from shared.messages import Entry
from shared.records import CallRecords, JournalCopy, Records
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
    assert await records.write_journal(CALL, 0, [SAID, HEARD])
    assert await records.write_journal(CALL, 2, [])
    assert await records.write_journal(CALL, 2, [TOOL])
    assert await records.journal_of(CALL) == [SAID, HEARD, TOOL]
    await records.delete_journal(CALL)
    await records.delete_journal(CALL)
    assert await records.journal_of(CALL) == []


async def test_a_write_that_is_repeated_changes_nothing(records: CallRecords) -> None:
    """A Redis that hung carries out what was given up beside what was sent again."""
    for _ in range(2):
        assert await records.write_journal(CALL, 0, [SAID])
    for _ in range(2):
        assert await records.write_journal(CALL, 1, [HEARD, TOOL])
    assert await records.journal_of(CALL) == [SAID, HEARD, TOOL]


async def test_a_write_behind_something_that_is_gone_says_so(records: CallRecords) -> None:
    await records.write_journal(CALL, 0, [SAID])
    assert not await records.write_journal(CALL, 2, [TOOL])
    assert not await records.write_journal(CALL, 5, [])


async def test_a_copy_is_kept_up_with_its_journal(records: CallRecords) -> None:
    copy, journal = JournalCopy(records, CALL), [SAID]
    await copy.update(journal)
    journal.append(HEARD)
    await copy.update(journal)
    assert await records.journal_of(CALL) == [SAID, HEARD]


async def test_a_copy_that_redis_forgot_is_whole_with_the_next_entry(records: CallRecords) -> None:
    copy = JournalCopy(records, CALL)
    await copy.update([SAID, HEARD])
    await records.delete_journal(CALL)
    await copy.update([SAID, HEARD, TOOL])
    assert await records.journal_of(CALL) == [SAID, HEARD, TOOL]


async def test_a_doubted_copy_is_whole_without_a_next_entry(records: CallRecords) -> None:
    copy = JournalCopy(records, CALL)
    await copy.update([SAID, HEARD])
    await records.delete_journal(CALL)
    copy.doubt()
    await copy.update([SAID, HEARD])
    assert await records.journal_of(CALL) == [SAID, HEARD]


async def test_a_copy_goes_on_where_another_one_ended(records: CallRecords) -> None:
    await JournalCopy(records, CALL).update([SAID, HEARD])
    await JournalCopy(records, CALL, copied=2).update([SAID, HEARD, TOOL])
    assert await records.journal_of(CALL) == [SAID, HEARD, TOOL]


async def test_a_copy_that_could_not_be_written_is_written_at_the_next_update() -> None:
    fake = FakeRecords()
    copy = JournalCopy(fake, CALL)
    await copy.update([SAID])
    fake.away = True
    with pytest.raises(ReadinessUnavailable):
        await copy.update([SAID, HEARD])
    fake.away = False
    await copy.update([SAID, HEARD, TOOL])
    assert await fake.journal_of(CALL) == [SAID, HEARD, TOOL]


async def test_fake_records_expire_by_its_clock() -> None:
    fake = FakeRecords()
    await fake.store_end(CALL, 0, EndReason.CALLER_HANGUP)
    await fake.write_journal(CALL, 0, [SAID])
    fake.clock.advance(keys.END_TTL_S)
    assert await fake.end_of(CALL, 0) is None
    assert await fake.journal_of(CALL) == []


@pytest.mark.redis
async def test_ends_and_journals_expire_in_redis(redis_url: str) -> None:
    client = redis_door.commands(redis_url)
    records = Records(client)
    await records.store_end(CALL, 0, EndReason.CALLER_HANGUP)
    await records.write_journal(CALL, 0, [SAID])
    assert 0 < await client.ttl(keys.end(CALL, 0)) <= keys.END_TTL_S
    assert 0 < await client.ttl(keys.journal(CALL)) <= keys.JOURNAL_TTL_S
    await client.aclose()


@pytest.mark.redis
async def test_what_another_version_wrote_is_left_out(redis_url: str) -> None:
    client = redis_door.commands(redis_url)
    records = Records(client)
    await client.set(keys.end(CALL, 0), "abducted")
    await client.rpush(keys.journal(CALL), "{")
    await records.write_journal(CALL, 1, [SAID])
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
            await each.write_journal(CALL, 0, [SAID])
        with pytest.raises(ReadinessUnavailable):
            await each.journal_of(CALL)
        with pytest.raises(ReadinessUnavailable):
            await each.delete_journal(CALL)
    await client.aclose()
