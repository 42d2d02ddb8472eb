"""How many workers there may be: the machine's limit, and what the plans of the providers allow. Real processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.messages import NoWorker, Reserved
from tests.pool_process import Router, eventually, eventually_asked, lives, new_sid, running_pool

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pool_process import PoolProcess


def born(pool: PoolProcess) -> int:
    """Count the workers that have parked so far, living or not."""
    return sum(line["event"] == "parked" for line in pool.lines)


async def test_live_and_parked_workers_never_have_more_voices_than_the_plan_allows(tmp_path: Path) -> None:
    """Each worker has a voice from its warm-up on, so the plan's number is the number of workers."""
    settings = {"TTS_MAX_CONNECTIONS": "3", "POOL_MAX": "8"}
    async with running_pool(tmp_path, ready=2, settings=settings) as pool:
        router = await pool.router()
        await router.ready(2)
        promised = [await router.reserved(new_sid()) for _ in range(2)]
        await eventually(lambda: born(pool) == 3)  # the third is refilled, a fourth is not
        await router.ready(1)
        assert isinstance(await router.reserve(new_sid()), Reserved)
        refused = await router.reserve(new_sid())
        assert isinstance(refused, NoWorker)
        assert refused.why == "none_ready"
        assert born(pool) == 3
        await _served(router, promised[0])
        await router.ready(1)  # its place is free again
        assert len([pid for pid in pool.workers().values() if lives(pid)]) <= 3


async def test_live_calls_never_have_more_ears_than_the_plan_allows(tmp_path: Path) -> None:
    async with running_pool(tmp_path, ready=2, settings={"STT_MAX_CONNECTIONS": "1"}) as pool:
        router = await pool.router()
        await router.ready(2)
        first = await router.reserved(new_sid())
        assert isinstance(await router.reserve(new_sid()), NoWorker)
        again = await router.reserve(first.ticket.call_sid)
        assert isinstance(again, Reserved), "who has an ear keeps it"
        await _served(router, first)

        async def another() -> bool:
            return isinstance(await router.reserve(new_sid()), Reserved)

        assert await eventually_asked(another), "and leaves it to the next"


async def _served(router: Router, promised: Reserved) -> None:
    async with router.upgrade(promised.ticket) as stream:
        await stream.send("end agent_hangup")
        await stream.wait_closed()
