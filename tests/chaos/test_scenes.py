"""Seeded mixtures: several calls at once, workers lost in them, and parts of the installation in trouble meanwhile.

SEEDS=<how many> and SEED=<the first> choose them; what failed says how to play it again, and where its logs are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from tests.chaos.callers import Fault, Moment, Verdict, live_through
from tests.chaos.scenes import Scene, scene
from tests.chaos.stage import Stage
from tests.stack import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.system

FIRST = int(os.environ.get("SEED", "12"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("SEEDS", "1")))
KEPT = ROOT / ".run" / "chaos"


@pytest.fixture
def logs(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Give a folder for logs, which stays when the test fails."""
    folder = KEPT / f"seed-{request.getfixturevalue('seed')}"
    shutil.rmtree(folder, ignore_errors=True)
    failed = request.session.testsfailed
    yield folder
    if request.session.testsfailed == failed:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_happens_nobody_loses_the_line_a_word_or_the_memory(seed: int, logs: Path) -> None:
    played = scene(seed)
    print(played)
    stage = Stage(logs)
    async with stage:
        verdicts = await _play(stage, played)
    for verdict in verdicts:
        print(verdict)
    wrong = [str(verdict) for verdict in verdicts if verdict.wrong]
    assert not wrong, f"{played}\nto play it again: make chaos SEED={seed} SEEDS=1; logs: {logs}"


async def _play(stage: Stage, played: Scene) -> list[Verdict]:
    arrived = asyncio.Barrier(len(played.calls))

    async def pool_killed() -> None:
        """Wait until everybody has come so far, then go on without the pool."""
        with contextlib.suppress(asyncio.BrokenBarrierError):
            if await arrived.wait() == 0:
                await stage.run(lambda: stage.stack.pool.stop(signal.SIGKILL))
            await arrived.wait()

    async def one(faults: tuple[Fault, ...]) -> Verdict:
        verdict = await live_through(stage, carrier, faults, pool_killed if played.pool_killed else None)
        if verdict.wrong:
            await arrived.abort()  # nobody need wait for this one
        return verdict

    async with stage.stack.carrier() as carrier:
        return list(await asyncio.gather(*(one(faults) for faults in played.calls)))


def test_a_seed_is_the_same_scene_for_ever() -> None:
    assert [str(scene(seed)) for seed in range(20)] == [str(scene(seed)) for seed in range(20)]


def test_the_seeds_reach_every_moment_and_every_fault() -> None:
    drawn = {str(fault) for seed in range(400) for faults in scene(seed).calls for fault in faults}
    assert {f"kill -9 while {moment}" for moment in Moment} <= drawn
    assert any("redis" in name for name in drawn)
    assert any(scene(seed).pool_killed for seed in range(20))
