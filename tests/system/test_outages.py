"""Router, pool, Redis, prefetchers and database in trouble, one after the other, while people are on the line.

One installation for all of it, and a caller in each: what is in progress goes on, who calls meanwhile is answered, and
when the trouble is over everything works again without a restart of anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from shared import keys
from shared.calls import CallSid, EndReason
from shared.workers import PoolId
from tests.effort import some
from tests.pool_process import lives
from tests.redis_proxy import RedisProxy
from tests.stack import PUBLIC, ROOT, Part, Plan, Stack
from tests.standins.carrier import CALLED, Dialling
from tests.standins.carrier_fetch import Document
from tests.standins.carrier_settings import CallFaults
from tests.standins.carrier_sign import call_parameters, new_sid
from tests.standins.carrier_twiml import parse
from tests.system.talk import ask, greeted, recording

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.standins.carrier import Carrier
    from tests.standins.carrier_call import Call
    from tests.standins.carrier_http import Answer
    from tests.standins.carrier_record import CallRecord

pytestmark = pytest.mark.system

CALLER = "+5511987654321"
NAME = "Ana Souza"
DEADLINE_S = 90.0
CLIP = ROOT / "audio_assets" / "goodbye.ulaw"
LAST_WORDS = {"no": "you.", "yes": "Yes.", "remember": "purple.", "recall": "purple.", "book": "Friday."}
"""Of the answer to each recording: what was said is said again."""


class Installation(Stack):
    """A stack whose way to Redis can be made slow."""

    def __init__(self) -> None:
        super().__init__()
        self.proxy = RedisProxy(self.redis.url)
        self.plan = Plan(
            pool_ready=3, env={"POOL_ID": "p1", "TICKET_TTL": "600", "REDIS_URL": self.proxy.url, "LOG_LEVEL": "INFO"}
        )


@pytest.fixture(scope="module")
def stack() -> Iterator[Installation]:
    made = Installation()
    with made.proxy:
        try:
            made.start()
            made.supabase.control_now(customers=[{"phone": CALLER, "name": NAME}])
            yield made
        finally:
            made.stop()


@pytest.fixture
async def carrier(stack: Installation) -> AsyncIterator[Carrier]:
    for part in (stack.router, stack.pool, stack.prefetcher):
        if not part.running:  # a test that failed may have left it so
            part.start()
    await stack.ready()
    async with stack.carrier() as made:
        yield made


# --- what callers do ----------------------------------------------------------------------------------------------------


async def answered(call: Call, name: str) -> None:
    """Say something and wait for the end of the answer: a starved machine may leave a hole in its first word."""
    await ask(call, name, LAST_WORDS[name])


async def talking(carrier: Carrier, name: str = "no") -> Call:
    """Place a call in which the caller has said something and was answered."""
    call = await carrier.dial(from_=CALLER)
    await greeted(call)
    await answered(call, name)
    return call


def heard_goodbye(call: Call) -> bool:
    """Whether the caller heard one, by the voice or by the clip that speaks for a silent one."""
    return "Goodbye." in call.heard.text() or CLIP.read_bytes() in call.heard.audio()


async def goodbye(call: Call) -> CallRecord:
    """Let the agent end a call; the carrier must be told to hang up, and nobody apologises."""
    await call.say(recording("goodbye"))
    record = await call.ended()
    assert heard_goodbye(call), record
    assert record.ended_by == "twiml"
    assert (record.stream.closed_by, record.stream.close_code) == ("server", 1000)
    assert record.verbs[-1] == "Hangup"
    assert record.spoken == (), "no apology"
    return record


async def served(stack: Stack, carrier: Carrier) -> str:
    """Place a call that is greeted, answered once, and hung up; give its SID."""
    await stack.ready(1)
    call = await talking(carrier, "yes")
    await call.hangup()
    assert (await call.ended()).outcome == "completed"
    return call.call_sid


async def looked_up(stack: Stack, carrier: Carrier) -> None:
    """Place calls until one knows its caller: queue, lookup, result and the journal's copy work again."""
    async with asyncio.timeout(DEADLINE_S):
        found = False
        while not found:
            await stack.ready(1)
            call = await carrier.dial(from_=CALLER)
            await greeted(call)
            outcome = functools.partial(outcomes, stack, call.call_sid)
            found = "found" in await stack.until(outcome, "its worker hears what the lookup gave")
            await call.hangup()
            await call.ended()


def unbroken(stack: Stack) -> bool:
    """Whether every frame of every caller was read."""
    return stack.metric("offhook_stream_oddities_total", oddity="sequence_gap") == 0


# --- what stands in Redis -----------------------------------------------------------------------------------------------


def asked(stack: Stack, question: Callable[[Redis], Any]) -> Any:
    """Ask Redis itself, not through the proxy; None when it does not answer."""
    with Redis.from_url(stack.redis.url, decode_responses=True, socket_timeout=5) as client:
        try:
            return question(client)
        except (RedisError, OSError):
            return None


def journal(stack: Stack, sid: str) -> list[tuple[str, str]]:
    """Read the copy of a call's journal: kinds and texts."""
    lines = asked(stack, lambda client: client.lrange(keys.journal(CallSid(sid)), 0, -1)) or []
    return [(entry["kind"], entry["text"]) for entry in map(json.loads, lines)]


def said_by_caller(stack: Stack, sid: str) -> list[str]:
    """Read from the copy what the caller said."""
    return [text for kind, text in journal(stack, sid) if kind == "user"]


def outcomes(stack: Stack, sid: str) -> list[str]:
    """Read from the copy what the worker heard about its customer."""
    return [text for kind, text in journal(stack, sid) if kind == "customer"]


def end_of(stack: Stack, sid: str) -> Any:
    """Read the end reason of a call."""
    return asked(stack, lambda client: client.get(keys.end(CallSid(sid), 0)))


def listed(stack: Stack, pool: str) -> bool:
    """Whether a pool's lease lives."""
    return bool(asked(stack, lambda client: client.exists(keys.pool(PoolId(pool)))))


# --- the router ---------------------------------------------------------------------------------------------------------


async def announced(carrier: Carrier, sid: str) -> Answer:
    """Send the webhook of a call, without following its answer."""
    params = call_parameters(carrier.settings.account_sid, sid, CALLER, CALLED, "inbound")
    return await carrier.webhook(params | {"CallStatus": "ringing"})


def followed(carrier: Carrier, sid: str, answer: Answer) -> Call:
    """Go on with a call whose webhook was answered earlier."""
    document = Document(f"{PUBLIC}/incoming-call", parse(answer.body))
    return carrier.place(Dialling(sid, CALLER, CALLED, document=document))


async def test_a_router_that_is_restarted_is_not_noticed(stack: Installation, carrier: Carrier) -> None:
    """Not in a call: no frame is lost either way. Not between webhook and upgrade: the reservation is the pool's."""
    call, sid = await talking(carrier), new_sid("CA")
    promised = await announced(carrier, sid)
    await goes_on_without_router(stack, call, "book", signal.SIGKILL)
    stack.router.start()
    await stack.ready(1)
    again = await announced(carrier, sid)
    assert again.body == promised.body, "a repeat gets the same reservation"
    late = followed(carrier, sid, promised)
    await greeted(late)
    await goes_on_without_router(stack, late, "remember", signal.SIGTERM)
    stack.router.start()
    await stack.ready(1)
    for record in await asyncio.gather(goodbye(late), goodbye(call)):
        assert len(record.streams) == 1
    assert unbroken(stack)


async def goes_on_without_router(stack: Stack, call: Call, name: str, number: signal.Signals) -> None:
    """Say something and stop the router in the middle of the answer, which is heard to its end."""
    before = len(call.heard.words())
    await call.say(recording(name))
    await call.hears(lambda heard: len(heard.words()) > before)
    clears = len(call.streams[0].clears)
    await asyncio.to_thread(stack.router.stop, number)
    await call.hears(lambda heard: heard.text().endswith(LAST_WORDS[name]))
    assert len(call.streams[0].clears) == clears


# --- the pool -----------------------------------------------------------------------------------------------------------


def processes(stack: Stack) -> set[int]:
    """Give every process the pool's log names that lives: zygotes and workers."""
    lines = [line for line in stack.pool.lines() if line.get("event") in {"zygote started", "parked"}]
    return {pid for pid in (int(line["pid"]) for line in lines) if lives(pid)}


async def test_calls_of_a_killed_pool_are_finished_by_their_workers(stack: Installation, carrier: Carrier) -> None:
    """To the agent's goodbye and the carrier's hang-up, beside a new pool of the same name."""
    call = await talking(carrier, "remember")
    crew = processes(stack)
    assert len(crew) >= 2 + stack.plan.pool_ready - 1
    stack.pool.stop(signal.SIGKILL)
    await stack.until(lambda: len(processes(stack) & crew) == 1, "zygote and parked workers are gone")
    await answered(call, "yes")
    await stack.until(
        lambda: said_by_caller(stack, call.call_sid) == ["My favourite colour is purple.", "Yes."],
        "the orphan goes on with the journal's copy",
    )
    stack.pool.start()
    await stack.ready(1)
    await asyncio.gather(served(stack, carrier), answered(call, "recall"))
    await goodbye(call)
    assert end_of(stack, call.call_sid) == EndReason.AGENT_HANGUP, "a normal end does not look like a cut-off"
    assert journal(stack, call.call_sid) == []
    await stack.until(lambda: not processes(stack) & crew, "the orphan is gone")
    await stack.ready()


async def test_an_orphaned_call_is_not_held_up_by_a_redis_that_is_gone(stack: Installation, carrier: Carrier) -> None:
    """Nobody is left to know why it ended, so the caller hears the apology of a call that was cut off."""
    call = await talking(carrier)
    crew = processes(stack)
    stack.pool.stop(signal.SIGKILL)
    with stopped(stack):
        await call.say(recording("goodbye"))
        record = await call.ended()
        assert heard_goodbye(call)
        assert (record.stream.closed_by, record.stream.close_code) == ("server", 1000)
        assert record.verbs[-1] == "Hangup"
    stack.pool.start()
    await stack.until(lambda: end_of(stack, call.call_sid) == EndReason.AGENT_HANGUP, "it is stored late")
    await stack.until(lambda: not processes(stack) & crew, "the orphan is gone")
    await looked_up(stack, carrier)


# --- Redis --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stopped(stack: Installation) -> Iterator[None]:
    """Stop Redis as an operator does; it comes back empty."""
    os.kill(stack.redis.pid, signal.SIGTERM)
    stack.redis.stop()
    yield
    stack.redis.start()


@contextlib.contextmanager
def killed_and_back_empty(stack: Installation) -> Iterator[None]:
    stack.redis.stop()
    stack.redis.start()
    yield


@contextlib.contextmanager
def paused(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def hanging(stack: Installation) -> Iterator[None]:
    with paused(stack.redis.pid):
        yield


@contextlib.contextmanager
def slow(stack: Installation) -> Iterator[None]:
    stack.proxy.delay_s = 0.6
    try:
        yield
    finally:
        stack.proxy.delay_s = 0.0


@contextlib.contextmanager
def read_only(stack: Installation) -> Iterator[None]:
    with Redis.from_url(stack.redis.url) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "9")
        yield
        client.execute_command("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def wrong_password(stack: Installation) -> Iterator[None]:
    with Redis.from_url(stack.redis.url) as client:
        client.config_set("requirepass", "another")
        client.execute_command("AUTH", "another")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")  # who is in stays in, but for this
        yield
        client.config_set("requirepass", "")


@contextlib.contextmanager
def out_of_memory(stack: Installation) -> Iterator[None]:
    with Redis.from_url(stack.redis.url) as client:
        client.config_set("maxmemory", "1")
        yield
        client.config_set("maxmemory", "0")


@pytest.mark.parametrize(
    "trouble", some([killed_and_back_empty, stopped, hanging, slow, read_only, wrong_password, out_of_memory], 3)
)
async def test_redis_in_trouble_costs_no_call(
    stack: Installation, carrier: Carrier, trouble: Callable[[Installation], AbstractContextManager[None]]
) -> None:
    """And when it is over: copies are whole, ends are stored, the directory is there, callers are looked up."""
    call = await talking(carrier)
    with trouble(stack):
        sid, _ = await asyncio.gather(served(stack, carrier), answered(call, "yes"))
    await stack.until(lambda: said_by_caller(stack, call.call_sid) == ["No, thank you.", "Yes."], "the copy is whole")
    await stack.until(lambda: end_of(stack, sid) == EndReason.CALLER_HANGUP, "the end is stored late")
    await stack.until(lambda: listed(stack, "p1"), "the directory is rebuilt")
    await stack.until(lambda: stack.metric("offhook_redis_up") == 1, "the pool knows")
    await looked_up(stack, carrier)
    await goodbye(call)
    await stack.until(lambda: journal(stack, call.call_sid) == journal(stack, sid) == [], "copies are deleted")


# --- prefetchers and database -------------------------------------------------------------------------------------------


async def test_prefetchers_that_are_gone_cost_no_call(stack: Installation, carrier: Carrier) -> None:
    stack.prefetcher.stop(signal.SIGKILL)
    await served(stack, carrier)
    stack.prefetcher.start()
    await looked_up(stack, carrier)
    with paused(lookup_process(stack)):
        await served(stack, carrier)
    await looked_up(stack, carrier)


def lookup_process(stack: Stack) -> int:
    """Give the process that looks callers up."""
    started = [line for line in stack.prefetcher.lines() if line.get("event") == "prefetcher child started"]
    return [int(line["pid"]) for line in started if line["queue"] == "prefetch"][-1]


@pytest.mark.parametrize(
    "trouble",
    some(
        [
            {"fail_status": 500},
            {"garbage": True},
            {"garbage": True, "fail_status": 502},
            {"stall": True},
            {"latency_ms": 4000},
            {"api_key": "another"},
            {"wrong_shape": True},
        ],
        3,
    ),
    ids=str,
)
async def test_a_database_in_trouble_costs_no_call(
    stack: Installation, carrier: Carrier, trouble: dict[str, object]
) -> None:
    was = (await stack.supabase.state())["settings"]
    await stack.supabase.control(**trouble)
    try:
        await served(stack, carrier)
    finally:
        await stack.supabase.control(**{name: was[name] for name in trouble})


async def test_a_database_that_is_gone_costs_no_call_and_is_asked_again_when_it_is_back(
    stack: Installation, carrier: Carrier
) -> None:
    """The last of its kind: after every trouble above, callers are looked up."""
    port = stack.supabase.port
    stack.supabase.kill()
    await served(stack, carrier)
    await asyncio.to_thread(stack.restart_supabase, port)
    await stack.supabase.control(customers=[{"phone": CALLER, "name": NAME}])
    await looked_up(stack, carrier)


# --- drain --------------------------------------------------------------------------------------------------------------


async def test_a_second_pool_takes_over_without_a_missed_call(stack: Installation, carrier: Carrier) -> None:
    """SIGTERM to one of two pools: it finishes its calls, also one that was promised, and every caller is answered."""
    call, sid = await talking(carrier, "remember"), new_sid("CA")
    promised = await announced(carrier, sid)
    second = stack.another("pool", {"POOL_ID": "p2", "HANDOFF_DIR": str(stack.folder / "handoff")})
    second.start()
    await stack.until(lambda: said_so(second, "pool is up"), "the second pool is up")
    together = stack.plan.pool_ready  # the second pool alone has as many workers as callers come together
    for drained in (False, True):
        await stack.ready(2 * together)
        if drained:
            os.kill(stack.pool.pid, signal.SIGTERM)
        await asyncio.gather(*(short(carrier) for _ in range(together)))
    await stack.ready(together)
    await asyncio.gather(*(short(carrier) for _ in range(together)))
    late = followed(carrier, sid, promised)
    await greeted(late)
    await late.hangup()
    assert (await late.ended()).outcome == "completed"
    await answered(call, "recall")
    assert stack.pool.running
    await goodbye(call)
    assert await asyncio.to_thread(stack.pool.wait) == 0
    assert not listed(stack, "p1")
    stack.pool.start()
    await stack.until(lambda: listed(stack, "p1"), "the first pool is back")
    assert await asyncio.to_thread(second.terminate) == 0


def said_so(part: Part, event: str) -> bool:
    """Whether a process has logged an event."""
    return any(line.get("event") == event for line in part.lines())


async def short(carrier: Carrier) -> None:
    """Place a call that lasts until its first sound; there must be a worker for it."""
    call = await carrier.dial(faults=CallFaults(hangup_at_first_media=True))
    record = await call.ended()
    assert re.search(b"<Stream", call.exchanges[0].body), "neither an apology nor a hold"
    assert record.stream.upgrade_status == 101
    assert record.stream.media


async def test_a_call_that_outlasts_the_drain_hears_a_goodbye(stack: Installation, carrier: Carrier) -> None:
    env = stack.pool.env
    assert await asyncio.to_thread(stack.pool.terminate) == 0
    stack.pool.env = env | {"DRAIN_TIMEOUT": "0.5"}
    stack.pool.start()
    await stack.ready()
    try:
        call = await talking(carrier)
        os.kill(stack.pool.pid, signal.SIGTERM)
        record = await call.ended()
        assert CLIP.read_bytes() in call.heard.audio()
        assert (record.stream.closed_by, record.stream.close_code) == ("server", 1000)
        assert record.verbs[-1] == "Hangup"
        assert record.spoken == (), "no apology"
        assert end_of(stack, call.call_sid) == EndReason.DRAINED
        assert await asyncio.to_thread(stack.pool.wait) == 0
    finally:
        await asyncio.to_thread(stack.pool.terminate)
        stack.pool.env = env
        stack.pool.start()
    await stack.ready()
