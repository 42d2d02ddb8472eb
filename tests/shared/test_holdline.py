"""The shared hold line, against a real Redis."""

from collections.abc import AsyncIterator

import pytest

from shared import holdline, keys, redis_door
from shared.calls import CallSid
from shared.errors import ReadinessUnavailable
from shared.holdline import NoHoldLine, SharedHoldLine, Standing, Visitor, Word
from tests.redis_server import RedisServer

pytestmark = pytest.mark.redis

A, B, C = CallSid("CA-a"), CallSid("CA-b"), CallSid("CA-c")
LONG_S = 1000.0


@pytest.fixture
async def line(redis_url: str) -> AsyncIterator[SharedHoldLine]:
    client = redis_door.commands(redis_url)
    yield SharedHoldLine(client)
    await client.aclose()


@pytest.fixture
async def elsewhere(redis_url: str) -> AsyncIterator[SharedHoldLine]:
    """The same line, seen by another router."""
    client = redis_door.commands(redis_url)
    yield SharedHoldLine(client)
    await client.aclose()


async def ask(
    line: SharedHoldLine, sid: CallSid, waited_s: float = 0.0, patience_s: float = LONG_S, **words: Word
) -> int | None:
    """Visit the line; give the place."""
    said = {CallSid(f"CA-{name}"): word for name, word in words.items()}
    return (await line.visit(Visitor(sid, waited_s, patience_s), said)).place


async def look(line: SharedHoldLine, **words: Word) -> Standing:
    return await line.visit(None, {CallSid(f"CA-{name}"): word for name, word in words.items()})


async def test_callers_stand_in_the_order_of_their_arrival_at_any_router(
    line: SharedHoldLine, elsewhere: SharedHoldLine
) -> None:
    assert [await ask(line, A), await ask(elsewhere, B), await ask(line, C)] == [0, 1, 2]
    assert [await ask(line, C), await ask(line, B), await ask(elsewhere, A)] == [2, 1, 0]
    assert await look(elsewhere) == Standing(None, 3, ())


async def test_an_empty_line_is_seen_as_one(line: SharedHoldLine) -> None:
    assert await look(line) == Standing(None, 0, ())


async def test_who_stops_asking_leaves_and_is_told_once(line: SharedHoldLine, elsewhere: SharedHoldLine) -> None:
    await ask(line, A, waited_s=30.0, patience_s=0.0)
    standing = await elsewhere.visit(Visitor(B, 0.0, LONG_S), {})
    assert (standing.place, standing.length, len(standing.left)) == (0, 1, 1)
    assert standing.left[0] >= 30.0
    assert await look(line) == Standing(None, 1, ())
    assert await ask(line, B) == 0


async def test_who_comes_back_late_has_its_old_place(line: SharedHoldLine) -> None:
    await ask(line, A, patience_s=0.0)
    await ask(line, B)
    assert await ask(line, B) == 0
    assert await ask(line, A, waited_s=5.0) == 0
    assert await ask(line, B) == 1


async def test_who_comes_late_but_before_anybody_noticed_never_left(line: SharedHoldLine) -> None:
    await ask(line, A, patience_s=0.0)
    standing = await line.visit(Visitor(A, 1.0, LONG_S), {})
    assert standing == Standing(0, 1, ())


async def test_a_served_caller_is_out_and_not_counted_as_one_that_left(line: SharedHoldLine) -> None:
    await ask(line, A)
    await ask(line, B)
    assert await look(line, a="served") == Standing(None, 1, ())
    assert await ask(line, B) == 0


async def test_a_caller_that_hung_up_is_out_at_once_and_counted(line: SharedHoldLine) -> None:
    await ask(line, A, waited_s=7.0)
    await ask(line, B)
    standing = await line.visit(Visitor(B, 0.0, LONG_S), {A: "gone"})
    assert (standing.place, standing.length) == (0, 1)
    assert len(standing.left) == 1
    assert await look(line, c="gone", a="gone") == Standing(None, 1, ())


async def test_a_caller_that_is_being_given_a_worker_is_in_nobodys_way(line: SharedHoldLine) -> None:
    for sid in (A, B, C):
        await ask(line, sid)
    assert await ask(line, C, a="asking", b="asking") == 0
    assert await ask(line, B, c="asking") == 1, "one behind was never in the way"
    assert await ask(line, C) == 2


async def test_a_new_caller_is_the_last_also_when_the_clock_was_set_back(line: SharedHoldLine, redis_url: str) -> None:
    later = 4_000_000_000_000_001  # us, in the next century: all 16 digits count
    client = redis_door.commands(redis_url)
    await client.zadd(keys.HOLD_LINE, {A: later})
    await client.zadd(keys.HOLD_DUE, {A: later})
    assert await ask(line, C) == 1
    assert await ask(line, B) == 2
    assert [await client.zscore(keys.HOLD_LINE, sid) for sid in (C, B)] == [later + 1, later + 2]
    await client.aclose()


async def test_a_full_line_takes_nobody_new_and_everybody_who_was_in_it(
    line: SharedHoldLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdline, "MOST_WAITING", 2)
    assert [await ask(line, sid) for sid in (A, B, C)] == [0, 1, None]
    assert (await look(line)).length == 2
    assert await ask(line, A) == 0
    assert await ask(line, C, waited_s=9.0) == 0, "it was here, and was forgotten"


async def test_a_line_that_redis_forgot_is_rebuilt_in_its_order(
    line: SharedHoldLine, redis_server: RedisServer
) -> None:
    client = redis_door.commands(redis_server.url)
    line = SharedHoldLine(client)
    assert [await ask(line, sid) for sid in (A, B, C)] == [0, 1, 2]
    redis_server.stop()
    with pytest.raises(ReadinessUnavailable):
        await ask(line, A)
    redis_server.start()
    for sid, waited_s in ((C, 10.0), (A, 30.0), (B, 20.0)):
        await ask(line, sid, waited_s=waited_s)
    assert [await ask(line, sid, waited_s=1.0) for sid in (A, B, C)] == [0, 1, 2]
    await client.aclose()


async def test_both_keys_have_a_time_to_live(line: SharedHoldLine, redis_url: str) -> None:
    await ask(line, A)
    client = redis_door.commands(redis_url)
    for key in (keys.HOLD_LINE, keys.HOLD_DUE):
        assert 0 < await client.ttl(key) <= keys.HOLD_TTL_S
    await client.aclose()


async def test_without_a_shared_line_nobody_answers() -> None:
    with pytest.raises(ReadinessUnavailable):
        await NoHoldLine().visit(None, {})
