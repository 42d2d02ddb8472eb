"""The second line of defence: a pool dies with all its workers, and its callers go on talking with another one.

Death is that of a container: everything in it stops at one moment. That the carrier asks what follows after such a loss is
what its documentation leaves open; the stand-in does (`continue_after_loss`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from shared import keys, redis_door
from shared.calls import CallSid
from tests.effort import some
from tests.stack import ROOT, Plan, Stack
from tests.system.talk import ask, greeted, recording
from worker.call.memory import COME_BACK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.stack import Part
    from tests.standins.carrier import Carrier
    from tests.standins.carrier_call import Call
    from tests.standins.carrier_record import CallRecord

pytestmark = pytest.mark.system

CALLER = "+5511987654321"
APOLOGY = ["Play", "Hangup"]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(pool_ready=1, prefetch_workers=1, supabase=False)


@pytest.fixture(scope="module")
def pools(stack: Stack) -> list[Part]:
    """Give two pools, as on two machines behind the same router."""
    return [stack.pool, beside(stack)]


@pytest.fixture
async def carrier(stack: Stack, pools: list[Part]) -> AsyncIterator[Carrier]:
    if not stack.redis.running:
        stack.redis.start()
    await all_ready(stack, pools)
    async with stack.carrier() as made:
        yield made


async def all_ready(stack: Stack, pools: list[Part]) -> None:
    """Start those that died in the test before, and wait for a worker and for Redis in each."""
    for part in pools:
        if not part.running:
            part.start()
    await stack.ready(len(pools))
    await stack.until(lambda: stack.metric("offhook_redis_up") == 1, "the pool has Redis")


def beside(stack: Stack) -> Part:
    """Make another pool of the same router, not started."""
    return stack.another("pool", {"HANDOFF_DIR": str(stack.folder / "handoff")})


def _sound(name: str) -> bytes:
    """Give a piece from the middle of a clip, which is nowhere else."""
    clip = (ROOT / "audio_assets" / f"{name}.ulaw").read_bytes()
    return clip[1600:2400]


def times_heard(call: Call, name: str) -> int:
    return call.heard.audio().count(_sound(name))


def holder_of(call: Call, pools: list[Part]) -> Part:
    """Say which pool was given a call last."""
    bound = [
        (line["timestamp"], part)
        for part in pools
        for line in part.lines()
        if line["event"] == "bound" and line["call_sid"] == call.call_sid
    ]
    return max(bound, key=lambda one: str(one[0]))[1]


def journal_kinds(stack: Stack, call: Call) -> list[str]:
    """List the kinds of entries in the copy of a call's journal."""
    with redis_door.sync_commands(stack.redis.url) as client:
        copied: list[Any] = client.lrange(keys.journal(CallSid(call.call_sid)), 0, -1)
    return [json.loads(each)["kind"] for each in copied]


def dies(part: Part) -> None:
    """End a pool, its zygote and all its workers at one moment, as when their container dies."""
    pool = psutil.Process(part.pid)
    everything = [pool, *pool.children(recursive=True)]
    for process in everything:
        process.suspend()
    for process in everything:
        process.kill()
    part.wait()


@contextlib.asynccontextmanager
async def out_of_sight(stack: Stack, part: Part) -> AsyncIterator[None]:
    """Take a pool where the router cannot see it, as on another machine; its calls do not notice."""
    path = Path([line["socket"] for line in part.lines() if line["event"] == "pool is up"][-1])
    hidden = await asyncio.to_thread(path.rename, path.with_suffix(".elsewhere"))
    await asyncio.to_thread(stack.router.terminate)
    stack.router.start()
    await stack.until(lambda: stack.fetch(f"{stack.router_url}/healthz"), "the router is back")
    try:
        yield
    finally:
        await asyncio.to_thread(part.terminate)
        await asyncio.to_thread(hidden.unlink, missing_ok=True)


@contextlib.contextmanager
def paused(pid: int) -> Iterator[None]:
    """Stop a process for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def talking(carrier: Carrier) -> Call:
    """Place a call in which something worth remembering was said."""
    call = await carrier.dial(from_=CALLER)
    await greeted(call)
    await ask(call, "remember", "purple.")
    return call


async def goodbye(call: Call) -> CallRecord:
    await call.say(recording("goodbye"))
    record = await call.ended()
    assert "Goodbye." in call.heard.text()
    return record


async def test_a_call_whose_pool_dies_goes_on_with_another_and_remembers(
    stack: Stack, pools: list[Part], carrier: Carrier
) -> None:
    call = await talking(carrier)
    await stack.until(
        lambda: "heard" in journal_kinds(stack, call)[-1:], "all that was said was heard and is written down"
    )
    asked = len(await completions(stack))
    dies(holder_of(call, pools))
    await call.streaming(2)
    await call.until(lambda: times_heard(call, "bridging") == 1)
    assert await asked_again(stack, asked) == COME_BACK, "nothing is owed: the agent takes up the thread"
    await ask(call, "recall", "purple.")
    record = await goodbye(call)
    assert times_heard(call, "greeting") == 1, "nobody is greeted twice"
    first, second = record.streams
    assert first.closed_by == "lost"
    assert first.stream_sid != second.stream_sid
    assert second.closed_by == "server"
    assert record.verbs == ("Stream", "Stream", "Hangup")
    lines = [line for part in pools for line in part.lines() if line.get("call_sid") == call.call_sid]
    [ended] = [line for line in lines if line["event"] == "call ended" and line["process"] == "pool"]
    assert ended["reason"] == "agent_hangup"
    assert {line["trace_id"] for line in lines if "trace_id" in line} == {ended["trace_id"]}, "one conversation"


async def test_an_answer_that_was_owed_is_given_after_the_reconnection(
    stack: Stack, pools: list[Part], carrier: Carrier
) -> None:
    """The pool dies while the model is thinking."""
    call = await talking(carrier)
    await stack.openai.control(llm_first_token_ms=600_000)
    asked = len(await completions(stack))
    await call.say(recording("recall"))
    assert await asked_again(stack, asked) == "What is my favourite colour?"
    await stack.openai.control(llm_first_token_ms=30)
    heard = len(call.heard.words())
    dies(holder_of(call, pools))
    await call.streaming(2)
    await call.hears(lambda now: any("purple" in word.text for word in now.words()[heard:]))
    assert await asked_again(stack, asked + 1) == "What is my favourite colour?", "and no other words are asked for"
    await goodbye(call)


async def completions(stack: Stack) -> list[list[dict[str, Any]]]:
    """Give what the model was asked so far: the messages of each completion."""
    return [list(one["messages"]) for one in (await stack.openai.state())["log"] if one["kind"] == "completion"]


async def asked_again(stack: Stack, before: int) -> str:
    """Wait for a completion after so many, and give the last message in it."""
    async with asyncio.timeout(30):
        while len(asked := await completions(stack)) == before:  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.02)
    return str(asked[before][-1]["content"])


async def test_a_pool_on_another_machine_is_given_up_when_nothing_is_heard_of_it(
    stack: Stack, pools: list[Part], carrier: Carrier
) -> None:
    """All there is to go by is Redis: the router waits until the lease must have been renewed, then reconnects."""
    call = await talking(carrier)
    holder = holder_of(call, pools)
    async with out_of_sight(stack, holder):
        await stack.ready(1)
        dies(holder)
        await call.streaming(2)
        await ask(call, "recall", "purple.")
        await goodbye(call)
    lines = [line for line in stack.router.lines() if line.get("call_sid") == call.call_sid]
    assert [line for line in lines if line["event"] == "call seems to be cut off"]


async def test_a_goodbye_on_another_machine_is_an_end(stack: Stack, pools: list[Part], carrier: Carrier) -> None:
    call = await talking(carrier)
    async with out_of_sight(stack, holder_of(call, pools)):
        record = await goodbye(call)
    assert record.verbs == ("Stream", "Hangup")


async def test_the_third_time_a_caller_is_asked_to_call_again(
    stack: Stack, pools: list[Part], carrier: Carrier
) -> None:
    more = [*pools, beside(stack), beside(stack)]
    await all_ready(stack, more)
    call = await talking(carrier)
    for stream in (2, 3):
        dies(holder_of(call, more))
        await call.streaming(stream)
        await ask(call, "recall", "purple.")
    dies(holder_of(call, more))
    record = await call.ended()
    for part in more[2:]:
        await asyncio.to_thread(part.terminate)
    assert len(record.streams) == 3
    assert list(record.verbs) == ["Stream"] * 3 + APOLOGY
    assert times_heard(call, "greeting") == 1


async def test_nobody_is_reconnected_while_redis_is_away(stack: Stack, pools: list[Part], carrier: Carrier) -> None:
    call = await talking(carrier)
    stack.redis.stop()
    dies(holder_of(call, pools))
    record = await call.ended()
    assert list(record.verbs) == ["Stream", *APOLOGY]


@pytest.mark.parametrize("redis", some(["stopped", "paused", "restarted empty"], 1))
async def test_a_goodbye_is_an_end_whatever_redis_does(stack: Stack, carrier: Carrier, redis: str) -> None:
    call = await talking(carrier)
    with contextlib.ExitStack() as trouble:
        if redis == "paused":
            trouble.enter_context(paused(stack.redis.pid))
        else:
            stack.redis.stop()
        if redis == "restarted empty":
            stack.redis.start()
        record = await goodbye(call)
    assert record.verbs == ("Stream", "Hangup")


@pytest.mark.parametrize("redis", ["stays", "restarted empty"])
async def test_a_goodbye_is_an_end_also_when_its_pool_dies_before_it_is_asked(
    stack: Stack, pools: list[Part], carrier: Carrier, redis: str
) -> None:
    """The router is stopped for a moment, so that the carrier's question waits until everything else is gone."""
    call = await talking(carrier)
    with paused(stack.router.pid):
        await call.say(recording("goodbye"))
        await call.until(lambda: call.streams[0].closed_at is not None)
        dies(holder_of(call, pools))
        if redis == "restarted empty":
            stack.redis.stop()
            stack.redis.start()
    record = await call.ended()
    assert record.stream.closed_by == "server"
    assert record.verbs == ("Stream", "Hangup")


async def test_a_caller_who_hung_up_meanwhile_is_left_alone(stack: Stack, pools: list[Part], carrier: Carrier) -> None:
    call = await talking(carrier)
    with paused(stack.router.pid):
        dies(holder_of(call, pools))
        await call.hangup()
    record = await call.ended()
    assert record.ended_by == "caller"
    assert len(record.streams) == 1
    lines = [line for part in pools for line in part.lines() if line.get("call_sid") == call.call_sid]
    assert len([line for line in lines if line["event"] == "reserved"]) == 1
