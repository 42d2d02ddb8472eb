"""More calls than workers: everybody is served or held, in order, whatever else is missing."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from tests.stack import PUBLIC, Plan, Stack, sample
from tests.system.talk import ask, greeted

if TYPE_CHECKING:
    from tests.standins.carrier_call import Call

pytestmark = pytest.mark.system

OVERFLOW = "+15005550009"
DEADLINE_S = 120.0
"""From a call's end to the next one's stream takes seconds: a replacement warms, and the clip is played to its end."""


def plan(workers: int, **env: str) -> Plan:
    """Plan a pool that never has more workers, and a line in which nobody waits in vain."""
    return Plan(pool_ready=workers, env={"POOL_MAX": str(workers), "HOLD_MAX": "900", **env})


def waits(call: Call) -> bool:
    return b"<Redirect" in call.exchanges[0].body


def number_of(call: Call) -> int:
    """The number a held caller was told first; 0 before, since a caller may wait in silence while a worker is warming."""
    told = (re.search(rb"number (\d+) in line", exchange.body) for exchange in call.exchanges)
    return next((int(number[1]) for number in told if number is not None), 0)


def router_metric(stack: Stack, name: str, **labels: str) -> float:
    return sample(stack.fetch(f"{stack.router_url}/metrics"), name, labels)


async def served_in_order(live: list[Call], held: list[Call]) -> None:
    """End calls one by one, and check that each worker goes to the one who has waited longest."""
    live, held = list(live), list(held)
    while held:
        await live.pop(0).hangup()
        following = held.pop(0)
        await following.streaming(timeout_s=DEADLINE_S)
        assert [call for call in held if call.streams] == [], "nobody was overtaken"
        live.append(following)
    for call in live:
        await greeted(call)
        await call.hangup()


async def nobody_got_an_error(calls: list[Call]) -> None:
    for call in calls:
        record = await call.ended(timeout_s=DEADLINE_S)
        assert (record.outcome, record.notices) == ("completed", ())
        assert {exchange.status for exchange in record.exchanges} <= {200, 204}


async def test_a_burst_of_three_times_the_pool_is_served_or_held_and_then_served_in_order() -> None:
    async with Stack(plan(2)) as stack, stack.carrier(fast_verbs=False) as carrier:
        calls = list(await asyncio.gather(*(carrier.dial() for _ in range(6))))
        await stack.until(lambda: all(map(number_of, filter(waits, calls))), "each has its number")
        live, held = [call for call in calls if not waits(call)], sorted(filter(waits, calls), key=number_of)
        assert len(live) == 2
        assert [number_of(call) for call in held] == [1, 2, 3, 4]
        assert stack.metric("offhook_cold_starts_total") == 4
        await stack.until(lambda: router_metric(stack, "offhook_hold_waiting") == 4, "four wait")
        for call in live:
            await greeted(call)
            await ask(call, "yes", "said:")
        await served_in_order(live, held)
        await nobody_got_an_error(calls)
        assert router_metric(stack, "offhook_hold_seconds_count", outcome="served") == 4
        assert stack.metric("offhook_cold_starts_total") == 4
        await stack.until(lambda: router_metric(stack, "offhook_hold_waiting") == 0, "nobody waits")


async def test_a_held_caller_who_hangs_up_leaves_the_line_to_the_others() -> None:
    async with Stack(plan(1)) as stack, stack.carrier(fast_verbs=False, status_callback="/call-status") as carrier:
        live, first, second = [await carrier.dial() for _ in range(3)]
        await stack.until(lambda: number_of(first) and number_of(second), "both have their numbers")
        assert [number_of(call) for call in (first, second)] == [1, 2]
        await first.hangup()
        await stack.until(
            lambda: router_metric(stack, "offhook_hold_seconds_count", outcome="left") >= 1, "one has left"
        )
        await served_in_order([live], [second])
        await nobody_got_an_error([live, first, second])


async def test_who_has_waited_enough_is_connected_to_the_overflow_number_or_hears_an_apology() -> None:
    async with (
        Stack(plan(1, HOLD_MAX="1", OVERFLOW_NUMBER=OVERFLOW)) as stack,
        stack.carrier(fast_verbs=False) as carrier,
        stack.carrier(fast_verbs=False, dial_result="completed") as answered,
    ):
        live = await carrier.dial()
        await greeted(live)
        calls = [await carrier.dial(), await answered.dial()]
        records = [await call.ended(timeout_s=DEADLINE_S) for call in calls]
        for record in records:
            assert record.dialled == (OVERFLOW,)
            assert record.verbs[-1] == "Hangup"
            assert record.notices == ()
        apologies = [any(said.text == f"{PUBLIC}/clips/apology.wav" for said in record.spoken) for record in records]
        assert apologies == [True, False], "only when nobody answered"
        await ask(live, "yes", "said:")
        await live.hangup()
        await live.ended()


async def test_callers_who_wait_are_served_in_order_while_redis_is_gone_and_after() -> None:
    async with Stack(plan(1)) as stack, stack.carrier(fast_verbs=False) as carrier:
        live, first, second = [await carrier.dial() for _ in range(3)]
        await stack.until(lambda: number_of(first) and number_of(second), "both have their numbers")
        assert [number_of(call) for call in (first, second)] == [1, 2]
        stack.redis.stop()
        await stack.until(lambda: "the hold line is not shared" in stack.router.log, "the router knows")
        third = await carrier.dial()
        assert waits(third), "without an error, and without a number"
        assert b"in line" not in third.exchanges[0].body
        await live.hangup()
        await first.streaming(timeout_s=DEADLINE_S)
        stack.redis.start()
        await stack.until(lambda: "the hold line is shared" in stack.router.log, "the router has Redis again")
        await stack.until(lambda: router_metric(stack, "offhook_hold_waiting") == 2, "both took their places again")
        fourth = await carrier.dial()
        await stack.until(lambda: number_of(fourth), "it has its number")
        assert number_of(fourth) == 3
        await served_in_order([first], [second, third, fourth])
        await nobody_got_an_error([live, first, second, third, fourth])
