"""Callers in the hold line from outside: what they get for which question, and that they get their worker in turn."""

import asyncio
import contextlib
import re
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from router import line as router_line
from router import pools
from shared import holdline, redis_door
from shared.holdline import HoldLine, SharedHoldLine
from tests.fakes_pool import FakePool
from tests.router.harness import BASE, DEADLINE_S, Answer, Router, params_for, running, until


def sid(number: int) -> str:
    return f"CA{number:032x}"


def verbs(answer: Answer) -> list[str]:
    assert answer.status == HTTPStatus.OK, answer
    return [verb.tag for verb in ET.fromstring(answer.text)]  # noqa: S314 - our own words


def said(answer: Answer) -> list[str]:
    return [verb.text or "" for verb in ET.fromstring(answer.text).iter("Say")]  # noqa: S314 - our own words


def back(answer: Answer) -> str:
    """Where the caller comes back to: path and query."""
    redirect = ET.fromstring(answer.text).find("Redirect")  # noqa: S314 - our own words
    assert redirect is not None, answer.text
    assert redirect.attrib == {"method": "POST"}
    assert (redirect.text or "").startswith(f"{BASE}/hold?")
    return (redirect.text or "").removeprefix(BASE)


@dataclass(slots=True, eq=False)
class Caller:
    """A caller, who goes where it is sent."""

    number: int
    last: Answer = field(default_factory=lambda: Answer(0, {}, b""))
    token: int = 0

    async def dials(self, router: Router) -> Answer:
        """Announce the call."""
        return await self._post(router, "/incoming-call")

    async def asks(self, router: Router, after_s: int = 0) -> Answer:
        """Do what the last answer says, as if it had waited for longer."""
        target = back(self.last)
        since = re.search(r"since=([0-9.]+)", target)
        assert since is not None
        return await self._post(router, target.replace(since[1], f"{float(since[1]) - after_s:.3f}"))

    async def repeats(self, router: Router, target: str) -> Answer:
        """Make the last request again."""
        return await router.post(target, self._params(), i_twilio_idempotency_token=f"{self.number}-{self.token}")

    async def _post(self, router: Router, target: str) -> Answer:
        self.token += 1
        self.last = await self.repeats(router, target)
        return self.last

    def _params(self) -> dict[str, str]:
        return params_for(CallSid=sid(self.number), CallStatus="in-progress")

    @property
    def held(self) -> bool:
        """Whether it waits."""
        return verbs(self.last)[-1] == "Redirect"

    @property
    def connected(self) -> bool:
        """Whether it has a worker."""
        return verbs(self.last) == ["Connect"]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine is not a Redis that hangs."""
    monkeypatch.setattr(router_line, "ANSWER_S", DEADLINE_S)


@pytest.fixture
async def line(redis_url: str) -> AsyncIterator[HoldLine]:
    """The shared line on a real Redis."""
    client = redis_door.commands(redis_url)
    yield SharedHoldLine(client)
    await client.aclose()


@contextlib.asynccontextmanager
async def house(
    folder: Path, line: HoldLine | None = None, ready: int = 0, **overrides: Any
) -> AsyncIterator[tuple[FakePool, Router]]:
    """Run a pool, without workers unless told, and a router."""
    async with FakePool(folder, ready=ready).serving() as pool, running(folder, hold_line=line, **overrides) as router:
        yield pool, router


async def give(pool: FakePool, router: Router, ready: int) -> None:
    """Let workers become ready, and the router know."""
    pool.push(ready)
    await until(lambda: router.parts.door.pools.ready == ready)


async def test_without_a_worker_a_caller_hears_that_it_waits_and_which_number_it_is(
    folder: Path, line: HoldLine
) -> None:
    async with house(folder, line) as (pool, router):
        callers = [Caller(number) for number in range(3)]
        for caller in callers:
            assert verbs(await caller.dials(router)) == ["Say", "Say", "Pause", "Redirect"]
        assert [said(caller.last)[1] for caller in callers] == [
            f"You are number {number} in line." for number in (1, 2, 3)
        ]
        assert len(pool.refused) == 3, "each is a cold start, counted by the pool"
        assert router.metric("offhook_webhook_seconds_count", result="held") == 3
        assert router.metric("offhook_hold_waiting") == 3
        assert not router.queued


async def test_a_held_caller_is_not_told_the_same_again_and_asks_no_pool_that_has_nobody(
    folder: Path, line: HoldLine
) -> None:
    async with house(folder, line) as (pool, router):
        caller = Caller(1)
        await caller.dials(router)
        for _ in range(2):
            assert verbs(await caller.asks(router)) == ["Pause", "Redirect"]
        assert len(pool.refused) == 1


async def test_the_hold_clip_is_played_when_there_is_one(folder: Path) -> None:
    async with FakePool(folder, ready=0).serving(), running(folder, clips={"hold": b"RIFF"}) as router:
        answer = await Caller(1).dials(router)
        assert f"<Play>{BASE}/clips/hold.wav</Play>" in answer.text
        assert verbs(answer) == ["Play", "Pause", "Redirect"]


async def test_callers_get_workers_in_the_order_in_which_they_came_whoever_asks_first(
    folder: Path, line: HoldLine
) -> None:
    async with house(folder, line) as (pool, router):
        callers = [Caller(number) for number in range(4)]
        for caller in callers:
            await caller.dials(router)
        served: list[int] = []
        for _ in callers:
            await give(pool, router, 1)
            for caller in reversed([each for each in callers if each.held]):
                await caller.asks(router)
                served += [caller.number] if caller.connected else []
        assert served == [0, 1, 2, 3]
        assert [question.call.call_sid for question in pool.reserved] == [sid(number) for number in range(4)]
        assert router.metric("offhook_hold_seconds_count", outcome="served") == 4
        await until(lambda: router.metric("offhook_hold_waiting") == 0)
        await until(lambda: len(router.queued) == 4)
        assert [call.attempt for call in router.queued] == [0] * 4, "the lookup of each is queued once, with its worker"


async def test_a_new_caller_does_not_overtake_the_line_and_one_too_many_is_free_for_it(
    folder: Path, line: HoldLine
) -> None:
    async with house(folder, line) as (pool, router):
        first, second, third = Caller(1), Caller(2), Caller(3)
        await first.dials(router)
        await give(pool, router, 1)
        await second.dials(router)
        assert second.held
        assert pool.refused[-1].behind == 1
        await give(pool, router, 3)
        await third.dials(router)
        assert third.connected, "two workers are left for the two in line"
        assert pool.reserved[-1].behind == 2
        await second.asks(router)
        await first.asks(router)
        assert first.connected
        assert second.connected


async def test_callers_who_ask_at_the_same_moment_are_all_served_when_there_are_enough_workers(
    folder: Path, line: HoldLine
) -> None:
    async with house(folder, line) as (pool, router):
        callers = [Caller(number) for number in range(8)]
        for caller in callers:
            await caller.dials(router)
        await give(pool, router, 8)
        await asyncio.gather(*(caller.asks(router) for caller in callers))
        assert all(caller.connected for caller in callers)


async def test_two_routers_keep_one_line(folder: Path, line: HoldLine) -> None:
    async with house(folder, line) as (pool, one), running(folder, hold_line=line) as two:
        first, second = Caller(1), Caller(2)
        await first.dials(one)
        await second.dials(two)
        assert said(second.last)[1] == "You are number 2 in line."
        pool.push(1)
        await until(lambda: one.parts.door.pools.ready == two.parts.door.pools.ready == 1)
        await second.asks(one)
        assert second.held
        await first.asks(two)
        assert first.connected, "any router can go on where another stopped"


async def test_without_redis_a_router_serves_its_own_callers_in_order_and_tells_no_number(folder: Path) -> None:
    async with house(folder) as (pool, router):
        first, second = Caller(1), Caller(2)
        for caller in (first, second):
            assert verbs(await caller.dials(router)) == ["Say", "Pause", "Redirect"]
        await give(pool, router, 1)
        await second.asks(router)
        assert second.held
        await first.asks(router)
        assert first.connected


@pytest.mark.parametrize("no_pool", ["none", "draining"])
async def test_a_pool_that_drains_or_is_not_there_keeps_nobody_out_of_the_line(folder: Path, no_pool: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if no_pool == "draining":
            await stack.enter_async_context(FakePool(folder, draining=True).serving())
        router = await stack.enter_async_context(running(folder))
        caller = Caller(1)
        await caller.dials(router)
        await caller.asks(router)
        assert caller.held
        async with FakePool(folder, name="p2").serving():
            await until(lambda: router.parts.door.pools.ready == 4)
            await caller.asks(router)
            assert caller.connected


async def test_a_pool_that_does_not_answer_is_waited_for_once_in_each_question(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "RESERVE_TIMEOUT_S", 0.05)
    async with FakePool(folder, silent=True).serving() as pool, running(folder) as router:
        caller = Caller(1)
        for asked in (1, 2, 3):
            await (caller.dials(router) if asked == 1 else caller.asks(router))
            assert caller.held
            assert len(pool.reserved) == asked


async def test_a_caller_who_only_waits_for_a_warming_worker_hears_nothing(folder: Path, line: HoldLine) -> None:
    async with house(folder, line) as (pool, router):
        pool.warming = 1
        pool.push(0)
        await until(lambda: router.parts.door.pools.warming == 1)
        caller, behind = Caller(1), Caller(2)
        assert verbs(await caller.dials(router)) == ["Pause", "Redirect"]
        assert verbs(await behind.dials(router)) == ["Say", "Say", "Pause", "Redirect"]
        await give(pool, router, 1)
        await caller.asks(router)
        assert caller.connected
        assert len(pool.refused) == 2, "a cold start each, counted once"


async def test_a_repeat_of_any_question_gets_the_same_bytes(folder: Path, line: HoldLine) -> None:
    async with house(folder, line) as (pool, router):
        caller = Caller(1)
        first = await caller.dials(router)
        assert (await caller.repeats(router, "/incoming-call")).body == first.body
        target = back(first)
        second = await caller.asks(router)
        assert second.body != first.body
        assert (await caller.repeats(router, target)).body == second.body
        await give(pool, router, 1)
        target = back(second)
        third = await caller.asks(router)
        assert (await caller.repeats(router, target)).body == third.body
        assert len(pool.reserved) == len(router.queued) == 1


async def test_questions_without_a_token_are_told_apart_by_their_turn(folder: Path, line: HoldLine) -> None:
    async with house(folder, line) as (pool, router):
        first = await router.post()
        second = await router.post(back(first))
        assert first.body != second.body
        await give(pool, router, 1)
        assert verbs(await router.post(back(second))) == ["Connect"]


async def test_a_held_call_keeps_its_trace_and_its_attempt(folder: Path, line: HoldLine) -> None:
    async with house(folder, line) as (pool, router):
        first = await router.post("/incoming-call?attempt=1")
        await give(pool, router, 1)
        await router.post(back(first))
        assert [each.call.attempt for each in (pool.refused[0], pool.reserved[0])] == [1, 1]
        assert pool.reserved[0].call == pool.refused[0].call


async def test_who_has_waited_too_long_hears_an_apology_and_is_out_of_the_line(folder: Path, line: HoldLine) -> None:
    async with house(folder, line) as (_, router):
        caller = Caller(1)
        await caller.dials(router)
        assert verbs(await caller.asks(router, after_s=61)) == ["Say", "Hangup"]
        assert router.metric("offhook_hold_seconds_count", outcome="apology") == 1
        assert router.metric("offhook_hold_seconds_bucket", outcome="apology", le="60.0") == 0
        await until(lambda: router.metric("offhook_hold_waiting") == 0)
        assert router.metric("offhook_hold_seconds_count", outcome="left") == 0


async def test_who_has_waited_too_long_still_gets_a_worker_that_is_free_now(folder: Path, line: HoldLine) -> None:
    async with house(folder, line) as (pool, router):
        caller = Caller(1)
        await caller.dials(router)
        await give(pool, router, 1)
        await caller.asks(router, after_s=61)
        assert caller.connected


@pytest.mark.parametrize(("status", "following"), [("completed", ["Hangup"]), ("busy", ["Say", "Hangup"])])
async def test_who_has_waited_too_long_is_connected_to_the_overflow_number(
    folder: Path, status: str, following: list[str]
) -> None:
    async with house(folder, overflow_number="+15005550009") as (_, router):
        caller = Caller(1)
        await caller.dials(router)
        answer = await caller.asks(router, after_s=61)
        assert f'<Dial action="{BASE}/hold?dialled=overflow" method="POST">+15005550009</Dial>' in answer.text
        assert router.metric("offhook_hold_seconds_count", outcome="overflow") == 1
        ended = await router.post("/hold?dialled=overflow", params_for(DialCallStatus=status, CallStatus="in-progress"))
        assert verbs(ended) == following


async def test_the_overflow_number_is_the_agents_where_it_has_one(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "agents.toml"
    path.write_text(
        f'[agents.a]\nnumbers = ["{params_for()["To"]}"]\noverflow_number = "+15005550001"\n', encoding="utf-8"
    )
    async with house(folder, overflow_number="+15005550009", agents_file=path) as (_, router):
        caller = Caller(1)
        await caller.dials(router)
        assert "+15005550001</Dial>" in (await caller.asks(router, after_s=61)).text


async def test_without_a_line_the_overflow_number_is_dialled_at_once(folder: Path) -> None:
    async with house(folder, hold_max=0, overflow_number="+15005550009") as (_, router):
        assert verbs(await Caller(1).dials(router)) == ["Dial"]
        assert router.metric("offhook_webhook_seconds_count", result="no_worker") == 1
        assert router.metric("offhook_hold_seconds_count", outcome="overflow") == 0


async def test_a_full_line_takes_nobody_else(folder: Path, line: HoldLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdline, "MOST_WAITING", 1)
    async with house(folder, line) as (_, router):
        await Caller(1).dials(router)
        assert verbs(await Caller(2).dials(router)) == ["Say", "Hangup"]
        assert router.metric("offhook_hold_waiting") == 1


@pytest.mark.parametrize("path", ["/call-status", "/hold"])
async def test_a_caller_who_hangs_up_makes_room(folder: Path, line: HoldLine, path: str) -> None:
    async with house(folder, line) as (pool, router):
        first, second = Caller(1), Caller(2)
        for caller in (first, second):
            await caller.dials(router)
        target = back(first.last) if path == "/hold" else path
        answer = await router.post(target, params_for(CallSid=sid(1), CallStatus="completed"))
        assert answer.status in {HTTPStatus.OK, HTTPStatus.NO_CONTENT}
        await until(lambda: router.metric("offhook_hold_seconds_count", outcome="left") == 1)
        await give(pool, router, 1)
        await second.asks(router)
        assert second.connected


@pytest.mark.parametrize("query", ["since=1", "since=x&turn=1", "dialled=&since=0&turn=-1"])
async def test_a_place_that_is_not_ours_is_a_bad_request(folder: Path, query: str) -> None:
    async with house(folder, ready=1) as (pool, router):
        answer = await router.post(f"/hold?{query}")
        assert answer.status == HTTPStatus.BAD_REQUEST
        assert not pool.reserved
        assert router.metric("offhook_requests_refused_total", route="hold", reason="place") == 1


async def test_a_hold_request_without_a_place_is_a_call_that_arrives(folder: Path) -> None:
    async with house(folder, ready=1) as (_, router):
        assert verbs(await router.post("/hold")) == ["Connect"]
        assert (await router.post("/hold", x_twilio_signature="")).status == HTTPStatus.FORBIDDEN
