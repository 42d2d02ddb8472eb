"""Memory limits: the rule by itself, what the kernel says, and real workers that grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.workers import WorkerState
from tests.fake_child import Script
from tests.pool_process import eventually, eventually_asked, new_sid, running_pool
from worker.pool.memory import Limits, Verdict, judge, own, private, resident

if TYPE_CHECKING:
    from pathlib import Path

_S = WorkerState
EATEN_MB = 300
LIMITS = {"WORKER_MEMORY_SOFT_MB": "150", "WORKER_MEMORY_HARD_MB": "250"}


@pytest.mark.parametrize(
    ("own_mb", "state", "verdict"),
    [
        (100, _S.READY, Verdict.NOTHING),
        (100.1, _S.READY, Verdict.REPLACE),
        (100.1, _S.RESERVED, Verdict.REPORT),
        (100.1, _S.IN_CALL, Verdict.REPORT),
        (200, _S.IN_CALL, Verdict.REPORT),
        (200.1, _S.READY, Verdict.KILL),
        (200.1, _S.RESERVED, Verdict.KILL),
        (200.1, _S.IN_CALL, Verdict.KILL),
        (9e9, _S.WARMING, Verdict.NOTHING),
        (9e9, _S.RETIRED, Verdict.NOTHING),
    ],
)
def test_a_limit_is_passed_by_what_is_above_it(own_mb: float, state: WorkerState, verdict: Verdict) -> None:
    assert judge(own_mb, state, Limits(100, 200)) is verdict


@given(st.floats(0, 1e9), st.sampled_from(WorkerState))
def test_a_limit_of_zero_is_none(own_mb: float, state: WorkerState) -> None:
    assert judge(own_mb, state, Limits(0, 0)) is Verdict.NOTHING
    assert judge(own_mb, state, Limits(100, 0)) is not Verdict.KILL
    assert judge(own_mb, state, Limits(0, 100)) in {Verdict.NOTHING, Verdict.KILL}


@given(st.integers(0, 4096), st.integers(0, 4096))
def test_the_lowest_limit_there_is_says_whom_to_look_at(soft: int, hard: int) -> None:
    limits = Limits(soft, hard)
    assert judge(limits.lowest, _S.READY, limits) is Verdict.NOTHING
    assert limits.lowest in {soft, hard}
    assert bool(limits.lowest) == bool(soft or hard)


def test_what_the_kernel_writes_is_read() -> None:
    assert resident("44960 5760 2944 1 0 0 0") == pytest.approx(5760 * os.sysconf("SC_PAGESIZE") / (1 << 20))
    rollup = "55d-7ff ---p 00000000 00:00 0    [rollup]\nRss: 9000 kB\nPrivate_Clean: 1024 kB\nPrivate_Dirty: 2048 kB\n"
    assert private(rollup) == 3


def test_what_a_process_takes_is_its_own_and_what_it_shares_is_not() -> None:
    """A child that was forked and took nothing has little for itself, however much its parent has."""
    program = (
        "import os, sys\nmine = b'x' * (64 << 20)\nif os.fork():\n    os.wait()\nelse:\n"
        "    print(os.getpid(), flush=True); sys.stdin.read(1)\n    more = b'x' * (64 << 20)\n"
        "    print(flush=True); sys.stdin.read(1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        child = int(process.stdout.readline())
        before = own(child, 1)
        process.stdin.write(b"x")
        process.stdin.flush()
        process.stdout.readline()
        assert before < 32
        assert 60 < own(child, 1) - before < 80
        assert own(child, 4096) == 0.0, "whoever has less in memory altogether is not looked at any closer"
        process.communicate(b"x")
    assert own(child, 1) == 0.0, "nor is one that is gone"


async def test_a_parked_worker_above_the_soft_limit_is_replaced(tmp_path: Path) -> None:
    """Only when its replacement is ready: somebody is there to answer all the time."""
    soft = {**LIMITS, "WORKER_MEMORY_HARD_MB": "0"}
    async with running_pool(tmp_path, ready=1, said=Script(eat_mb=EATEN_MB), settings=soft) as pool:
        router = await pool.router()
        await router.ready(1)
        (heavy,) = pool.workers()
        told = len(router.readiness)
        pool.tell(Script())
        line = await pool.said("worker is over its memory limit")
        assert (line["worker"], line["worker_state"], line["limit_mb"]) == (heavy, "ready", 150)
        assert EATEN_MB <= line["own_mb"] < 2 * EATEN_MB
        await eventually(lambda: heavy not in pool.workers() and pool.workers())
        assert all(seen.ready for seen in router.readiness[told:])
        assert await pool.metric("offhook_workers_over_memory_total", limit="soft") >= 1


async def test_a_worker_in_a_call_above_the_soft_limit_finishes_it_and_one_above_the_hard_limit_is_killed(
    tmp_path: Path,
) -> None:
    async with running_pool(tmp_path, ready=2, settings=LIMITS) as pool:
        router = await pool.router()
        await router.ready(2)
        promised = await router.reserved(new_sid())
        async with router.upgrade(promised.ticket) as stream:
            await stream.send("eat 180")
            assert await stream.recv() == "eaten"
            line = await pool.said("worker is over its memory limit")
            assert (line["worker"], line["worker_state"]) == (promised.ticket.worker, "in_call")
            assert line["call_sid"] == promised.ticket.call_sid
            await stream.send("hello")
            assert await stream.recv() == "hello"
            assert promised.ticket.worker in pool.workers()
            await stream.send("eat 180")
            await eventually(lambda: promised.ticket.worker not in pool.workers())

        assert await pool.metric("offhook_workers_over_memory_total", limit="hard") == 1
        assert await pool.metric("offhook_workers_over_memory_total", limit="soft") == 1, "it was said once"
        killed = [line for line in pool.lines if line["event"] == "worker killed"]
        assert [line["why"] for line in killed] == ["memory"]


async def test_parked_workers_above_the_hard_limit_are_named_and_back_off(tmp_path: Path) -> None:
    """A limit that is too low is a wrong setting: it is said, and the machine is not kept busy with it."""
    async with running_pool(tmp_path, ready=1, said=Script(eat_mb=EATEN_MB), settings=LIMITS) as pool:
        await pool.said("worker killed")

        async def named() -> bool:
            _, text = await pool.get("/readyz")
            return any(
                each["resource"] == "memory" and "the limit is 250" in each["detail"]
                for each in json.loads(text)["problems"]
            )

        assert await eventually_asked(named)
        pool.tell(Script())
        router = await pool.router()
        await router.ready(1)
