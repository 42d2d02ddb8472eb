"""Workers that get stuck in a call, and healthy ones that only look like it."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from shared.metrics import Failover
from tests.hogs import hogs
from tests.pool_process import lives
from tests.stack import Plan, Stack
from tests.system.talk import greeted, recording, worker_of

if TYPE_CHECKING:
    from tests.standins.carrier_call import Call

pytestmark = pytest.mark.system

HOGS = 60
HOGGING_S = 10


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Without Redis and prefetch, which are not needed; a starved carrier may be silent for longer than a real one."""
    return Plan(
        pool_ready=3,
        redis=False,
        prefetcher=False,
        supabase=False,
        child="tests.blocking_child",
        env={"SILENCE_TIMEOUT": "60"},
    )


def stalls(stack: Stack) -> list[dict[str, Any]]:
    """List what the pool said of stuck workers."""
    return [line for line in stack.pool.lines() if line.get("event") == "worker stalled"]


async def stall_of(stack: Stack, call: Call) -> dict[str, Any]:
    """Wait until the worker of a call was found stuck."""

    def line() -> dict[str, Any] | None:
        return next((line for line in stalls(stack) if line["call_sid"] == call.call_sid), None)

    found: dict[str, Any] = await stack.until(line, "the worker is found stuck")
    return found


def failovers(stack: Stack) -> float:
    """Count the calls whose worker was stalled, whatever became of them."""
    return sum(stack.metric("offhook_failovers_total", reason="stalled", outcome=outcome) for outcome in Failover)


async def serving_pid(stack: Stack, call: Call) -> int:
    """Give the process of the worker that serves a call."""
    pid: int = await stack.until(lambda: worker_of(stack, call.call_sid), "the log names the worker")
    return pid


async def test_a_worker_that_is_stopped_in_a_call_is_replaced_and_the_log_says_so(stack: Stack) -> None:
    await stack.ready()
    before = failovers(stack)
    async with stack.carrier() as carrier:
        call = await carrier.dial()
        await greeted(call)
        pid = await serving_pid(stack, call)
        os.kill(pid, signal.SIGSTOP)
        line = await stall_of(stack, call)
        await stack.until(lambda: not lives(pid), "the stopped worker is gone")
        await call.hangup()
        await call.ended()
    assert (line["pid"], line["doing"]) == (pid, "stopped")
    assert "stopped" in line["no_stack"]
    await stack.until(lambda: failovers(stack) == before + 1, "the failover is counted")


async def test_a_tool_that_blocks_costs_one_worker_and_the_log_names_its_function(stack: Stack) -> None:
    await stack.ready()
    before = failovers(stack)
    async with stack.carrier() as carrier:
        call = await carrier.dial()
        await greeted(call)
        pid = await serving_pid(stack, call)
        await call.say(recording("what-time"))
        line = await stall_of(stack, call)
        await stack.until(lambda: not lives(pid), "the blocked worker is gone")
        await call.hangup()
        await call.ended()
    assert (line["pid"], line["doing"]) == (pid, "blocked")
    assert line["stack"][1].endswith("in ask_a_slow_clock"), line["stack"]
    assert "blocking_child.py" in line["stack"][1]
    assert "nanosleep" in line["sleeps_in"]
    await stack.until(lambda: failovers(stack) == before + 1, "the failover is counted")


async def test_sixty_processes_that_want_the_cpu_end_no_call(stack: Stack) -> None:
    """For 10 s, beside three calls: starved workers miss their beats for seconds, and none is stuck."""
    await stack.until(lambda: stack.metric("offhook_calls_active") == 0, "nobody blocks any more")
    await stack.ready()
    before = len(stalls(stack))
    async with stack.carrier() as carrier:
        calls = await asyncio.gather(*(carrier.dial() for _ in range(3)))
        for call in calls:
            await greeted(call)
        serving = [await serving_pid(stack, call) for call in calls]
        async with hogs(HOGS, HOGGING_S):
            pass
        beats = stack.metric("offhook_event_loop_lag_seconds_count")
        await stack.until(
            lambda: stack.metric("offhook_event_loop_lag_seconds_count") >= beats + 30, "3 s of beats of everybody"
        )
        assert stalls(stack)[before:] == []
        assert all(lives(pid) for pid in serving)
        for call in calls:
            await call.hangup()
            assert (await call.ended()).outcome == "completed"
