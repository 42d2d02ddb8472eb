"""The faults: each is a name and what is done; when it is done is the moment it is put together with."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.chaos.stage import READY

if TYPE_CHECKING:
    from tests.chaos.callers import Act, Moment, Undo
    from tests.chaos.stage import Stage
    from tests.standins.carrier_call import Call


async def nothing() -> list[str]:
    """Undo nothing."""
    return []


async def _worker(stage: Stage, call: Call, moment: Moment) -> int:
    """Give the process that a fault of this moment is for."""
    match moment:
        case "parked":
            return await stage.parked()
        case "reserved" | "bound":
            return await stage.promised(call)
        case _:
            return await stage.serving(call)


async def kill_worker(stage: Stage, call: Call, moment: Moment) -> Undo:
    """End the worker as a crash does."""
    await stage.hit(await _worker(stage, call, moment), signal.SIGKILL)
    return nothing


async def stop_worker(stage: Stage, call: Call, moment: Moment) -> Undo:
    """Stop the worker; the pool has to find out by itself."""
    await stage.hit(await _worker(stage, call, moment), signal.SIGSTOP)
    return nothing


async def restart_redis(stage: Stage, _call: Call, _moment: Moment) -> Undo:
    """Kill Redis and start it again, empty."""
    async with stage.harming:
        await stage.run(stage.stack.redis.stop)
        await stage.run(stage.stack.redis.start)
    return nothing


async def pause_redis(stage: Stage, _call: Call, _moment: Moment) -> Undo:
    """Have Redis take requests and never answer, until the turn is over."""
    await stage.harming.acquire()
    pid = stage.stack.redis.pid
    await stage.hit(pid, signal.SIGSTOP)

    async def go_on() -> list[str]:
        await stage.hit(pid, signal.SIGCONT)
        stage.harming.release()
        return []

    return go_on


async def restart_router(stage: Stage, _call: Call, _moment: Moment) -> Undo:
    """Kill the router and start another."""
    async with stage.harming:
        await stage.run(lambda: stage.stack.router.stop(signal.SIGKILL))
        stage.stack.router.start()
        await stage.stack.ready(1)
    return nothing


async def kill_zygote(stage: Stage, _call: Call, _moment: Moment) -> Undo:
    """End the process that workers come from."""
    async with stage.harming:
        await stage.hit(await stage.zygote(), signal.SIGKILL)
    return nothing


async def restart_prefetchers(stage: Stage, _call: Call, _moment: Moment) -> Undo:
    """Kill the prefetchers and start others."""
    async with stage.harming:
        await stage.run(lambda: stage.stack.prefetcher.stop(signal.SIGKILL))
        stage.stack.prefetcher.start()
    return nothing


def provider(part: str, trouble: dict[str, object], remedy: dict[str, object] | None = None) -> Act:
    """Bring a provider into trouble; with a remedy it stays there until the turn is over."""

    async def act(stage: Stage, _call: Call, _moment: Moment) -> Undo:
        await stage.harming.acquire()
        standin = stage.stack.openai if part == "openai" else stage.stack.cartesia

        async def heal() -> list[str]:
            if remedy is not None:
                await standin.control(**remedy)
            stage.harming.release()
            return []

        await standin.control(**trouble)
        return heal

    return act


async def burst(stage: Stage, _call: Call, _moment: Moment) -> Undo:
    """Have more callers than ready workers call at the same moment."""
    async with stage.harming:
        wrong = await stage.burst(READY + 2)

    async def tell() -> list[str]:
        return wrong

    return tell


ON_WORKERS: dict[str, Act] = {"kill -9": kill_worker, "SIGSTOP": stop_worker}
ON_PARTS: dict[str, Act] = {
    "redis restarted": restart_redis,
    "redis paused": pause_redis,
    "router restarted": restart_router,
    "zygote killed": kill_zygote,
    "prefetchers restarted": restart_prefetchers,
    "voice connections dropped": provider("cartesia", {"close_all": "tts"}),
    "ear connections dropped": provider("cartesia", {"close_all": "stt"}),
    "model fails once": provider("openai", {"fail_next": 1, "fail_status": 500}, {"fail_next": 0, "fail_status": 0}),
    "model busy once": provider("openai", {"fail_next": 1, "fail_status": 429}, {"fail_next": 0, "fail_status": 0}),
    "burst of calls": burst,
}
