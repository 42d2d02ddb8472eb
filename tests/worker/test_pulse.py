"""Stuck workers from outside: real processes that are stopped, blocked or looping, and a pool that was not listening."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from shared.metrics import Failover, PoolMetrics
from shared.workers import WorkerEvent
from tests.hogs import hogs
from tests.pool_process import DEADLINE_S, eventually, eventually_asked, lives, new_sid, running_pool
from worker.pool import vitals
from worker.pool.pulse import Pulse
from worker.pool.roster import Roster, Worker
from worker.pool.stall import PARKED_LIMIT_S
from worker.pool.watch import Watch

if TYPE_CHECKING:
    from pathlib import Path

    from websockets.asyncio.client import ClientConnection

    from tests.pool_process import PoolProcess


async def said(stream: ClientConnection, text: str) -> str:
    await stream.send(text)
    async with asyncio.timeout(DEADLINE_S):
        return str(await stream.recv())


async def served_by(stream: ClientConnection) -> tuple[str, int]:
    """Give the worker at the other end and its process."""
    worker, pid = (await said(stream, "who")).split()
    return worker, int(pid)


async def stall_failovers(pool: PoolProcess) -> float:
    """Count the calls whose worker was stalled, whatever became of them."""
    outcomes = [await pool.metric("offhook_failovers_total", reason="stalled", outcome=outcome) for outcome in Failover]
    return sum(outcomes)


def stalled(pool: PoolProcess) -> list[str]:
    """Name the workers that were found stuck."""
    return [str(line["worker"]) for line in pool.lines if line["event"] == "worker stalled"]


@pytest.mark.parametrize(
    ("word", "function", "doing"),
    [("block", "sleep_in_the_wrong_place", "blocked"), ("spin", "loop_in_the_wrong_place", "busy")],
)
async def test_a_worker_that_is_blocked_in_a_call_is_ended_and_the_log_names_the_place(
    tmp_path: Path, word: str, function: str, doing: str
) -> None:
    async with running_pool(tmp_path) as pool:
        router = await pool.router()
        await router.ready(2)
        sid = new_sid()
        async with router.upgrade((await router.reserved(sid)).ticket) as stream:
            worker, pid = await served_by(stream)
            await stream.send(word)
            line = await pool.said("worker stalled")
            await eventually(lambda: not lives(pid) or None)
        assert (line["worker"], line["pid"], line["call_sid"]) == (worker, pid, sid)
        assert line["trace_id"] == "0" * 32
        assert line["doing"] == doing
        assert function in line["stack"][1], line["stack"]
        assert line["own_s"] >= 2.0
        assert await eventually_asked(lambda: _is(pool, 1))
        await router.ready(2)
        assert stalled(pool) == [worker]


async def test_a_worker_that_is_stopped_in_a_call_is_ended_and_the_log_says_that_it_was_stopped(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as pool:
        router = await pool.router()
        await router.ready(2)
        async with router.upgrade((await router.reserved(new_sid())).ticket) as stream:
            worker, pid = await served_by(stream)
            os.kill(pid, signal.SIGSTOP)
            line = await pool.said("worker stalled")
            await eventually(lambda: not lives(pid) or None)
        assert (line["worker"], line["doing"], line["process_state"]) == (worker, "stopped", "T")
        assert "stack" not in line
        assert "stopped" in line["no_stack"]
        assert await eventually_asked(lambda: _is(pool, 1))
        await router.ready(2)


async def test_parked_and_promised_workers_that_are_stopped_are_replaced(tmp_path: Path) -> None:
    """The promise passes to another worker; nobody who waits for a call is lost to it."""
    async with running_pool(tmp_path, ready=3) as pool:
        router = await pool.router()
        await router.ready(3)
        first = pool.workers()
        sid = new_sid()
        promised = await router.reserved(sid, ttl_s=DEADLINE_S)
        parked = next(name for name in first if name != promised.ticket.worker)
        victims = {first[promised.ticket.worker], first[parked]}
        for pid in victims:
            os.kill(pid, signal.SIGSTOP)
        await eventually(lambda: not any(lives(pid) for pid in victims) or None)
        assert set(stalled(pool)) == {promised.ticket.worker, parked}
        async with router.upgrade(promised.ticket) as stream:
            assert (await served_by(stream))[0] != promised.ticket.worker
            assert await said(stream, "prepared") == "prepared"
        await router.ready(3)
        assert await stall_failovers(pool) == 0


async def test_a_pool_that_was_stopped_hears_the_beats_that_came_meanwhile_before_it_judges(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as pool:
        router = await pool.router()
        await router.ready(2)
        async with router.upgrade((await router.reserved(new_sid())).ticket) as stream:
            _, pid = await served_by(stream)
            before = pool.workers()
            pool.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(5)  # longer than any worker may be silent: this is what the test is about
            pool.process.send_signal(signal.SIGCONT)
            beats = await _beats(pool)
            assert await eventually_asked(lambda: _beaten(pool, beats + 20))  # some 3 s of them
            assert await served_by(stream) == (_, pid)
            assert before.items() <= pool.workers().items()
            assert stalled(pool) == []


async def test_a_pool_that_was_late_lets_all_clocks_start_anew() -> None:
    """This process is the pool: its loop stands still while it has a suspect, and whatever was said meanwhile is unheard."""
    ended: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
    watch, roster = Watch(), Roster(2, PoolMetrics(CollectorRegistry(), 2))
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", "import time; time.sleep(3600)")
    pulse = Pulse(roster, watch, ended.set_result)
    try:
        suspect = roster.add(0.0)
        suspect.pid, suspect.pidfd = process.pid, os.pidfd_open(process.pid)
        watch.add(suspect.pidfd, lambda: None)
        for event in (WorkerEvent.FORKED, WorkerEvent.PARK):
            roster.step(suspect, event, 0.0)
        suspect.beat_at = time.monotonic() - PARKED_LIMIT_S + 1.0
        pulse.listen()
        await eventually(lambda: pulse._suspects)
        time.sleep(1.5)  # noqa: ASYNC251 - the late pool
        woke = time.monotonic()
        assert await asyncio.wait_for(ended, DEADLINE_S) is suspect
        assert time.monotonic() - woke > PARKED_LIMIT_S
    finally:
        pulse.close()
        watch.close()
        process.kill()
        await process.wait()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the pool and its starved worker need a CPU each")
async def test_a_worker_that_is_starved_for_seconds_is_left_alone(tmp_path: Path) -> None:
    """The pool has a CPU of its own and is always on time, so that nothing but the worker's waiting can speak for it."""
    crowded, calm = sorted(os.sched_getaffinity(0))[:2]
    async with running_pool(tmp_path) as pool:
        router = await pool.router()
        await router.ready(2)
        async with router.upgrade((await router.reserved(new_sid())).ticket) as stream:
            worker, pid = await served_by(stream)
            os.sched_setaffinity(pool.pid, {calm})
            os.sched_setaffinity(pid, {crowded})
            before = vitals.read(pid)
            async with hogs(20, 6, cpu=crowded):
                assert await said(stream, "work 0.6") == "done"
            assert await served_by(stream) == (worker, pid)
            after = vitals.read(pid)
        assert before is not None
        assert after is not None
        assert after.waited[pid] - before.waited[pid] > 3, "it was starved indeed"
        assert stalled(pool) == []


async def test_the_stack_of_a_worker_that_crashed_is_in_the_log(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as pool:
        router = await pool.router()
        await router.ready(2)
        async with router.upgrade((await router.reserved(new_sid())).ticket) as stream:
            await stream.send("segfault")
            line = await pool.said("worker gone")
        assert line["stack"][0] == "Fatal Python error: Segmentation fault"
        assert any("in crash" in each for each in line["stack"])
        await router.ready(2)


async def _is(pool: PoolProcess, count: int) -> bool:
    return await stall_failovers(pool) == count


async def _beats(pool: PoolProcess) -> float:
    """Count beats of workers and of the pool's own loop."""
    return await pool.metric("offhook_event_loop_lag_seconds_count")


async def _beaten(pool: PoolProcess, count: float) -> bool:
    return await _beats(pool) >= count
