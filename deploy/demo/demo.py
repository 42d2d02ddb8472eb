"""The demo from its first line to its last."""

import asyncio
import os
import time
from contextlib import AsyncExitStack
from typing import Final

from deploy.demo.calls import Told, call_each, check
from deploy.demo.ear import Ear
from deploy.demo.scene import (
    CALLERS,
    LOG_OF,
    LOGS,
    STATE,
    Progress,
    Site,
    empty_logs,
    explained,
    parked,
    plan,
    plant,
)
from deploy.demo.show import table, transcript
from deploy.demo.trouble import ROOT, Trouble
from tests.stack import Stack

NOTE: Final = """
Speech is really recognised and really spoken on this machine: about 0.5 s for each sentence heard and 0.1-0.3 s for each
spoken, which is most of "reply heard". The vendors' services are faster; `make bench` measures offhook alone."""


async def demo(*, keep: bool) -> None:
    """Start everything, place three calls (one, then two at once), print what was heard and how long it took.

    Raises:
        Trouble: the one line to print.
    """
    begun = time.monotonic()
    progress = Progress()
    logs = empty_logs()
    print("starting")
    async with AsyncExitStack() as parts:
        parts.callback(progress.abandon)
        ear = await parts.enter_async_context(Ear(logs / "ear.log"))
        with explained():
            stack = await parts.enter_async_context(Stack(plan(), progress.begin))
        parts.callback(STATE.unlink, missing_ok=True)
        await _show(stack, ear, progress)
        print(f"\nall of it took {time.monotonic() - begun:.0f} s; the logs are in {LOGS.relative_to(ROOT)}")
        if keep:
            await _serve(stack)


async def _show(stack: Stack, ear: Ear, progress: Progress) -> None:
    progress.begin("workers (pipeline built and running, voice connected)")
    await parked(stack)
    progress.begin("the carrier's ear (judges by what a caller hears)")
    await ear.ready()
    progress.end()
    site = Site(stack.router_url, str(LOGS), await plant(stack), supabase_url=stack.supabase.url)
    site.save()
    told: list[Told] = []
    for group in ({CALLERS[0]: "call 1"}, {CALLERS[1]: "call 2", CALLERS[2]: "call 3"}):
        progress.begin(" and ".join(group.values()) + (" at once" if len(group) > 1 else ""))
        for one in await call_each(site, group, ear):
            if isinstance(one, Trouble):
                raise one
            told.append(one)
        progress.end()
        print("\n".join(f"\n{transcript(one)}" for one in told[-len(group) :]) + "\n")
        for one in told[-len(group) :]:
            check(one)
    print(f"{table(told)}\n{NOTE}")


async def _serve(stack: Stack) -> None:
    """Say where everything is and go on until stopped.

    Raises:
        Trouble: a process ended.
    """
    print(f"""
serving until Ctrl-C
  router       {stack.router_url}/readyz and /metrics
  pool         {stack.pool_url}/readyz and /metrics
  prefetchers  http://127.0.0.1:{stack.prefetch_metrics_port}/metrics
  stand-ins    {stack.cartesia.url}/_control (Cartesia), {stack.openai.url}/_control (OpenAI), \
{stack.supabase.url}/_control (Supabase)
  logs         {LOGS.relative_to(ROOT)}
  another call .venv/bin/python -m deploy.demo call
""")
    task = asyncio.current_task()
    try:
        await _any_ends([part.pid for part in stack.parts.values()])
    except asyncio.CancelledError:
        if task is not None:
            task.uncancel()  # being stopped is how serving ends: the demo has succeeded
        return
    name = next(part.name for part in stack.parts.values() if not part.running)
    raise Trouble(f"the {name} ended", f"see {LOG_OF[name]}")


async def _any_ends(pids: list[int]) -> None:
    """Wait until one of these processes, children of ours, ends."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    watched = [os.pidfd_open(pid) for pid in pids]
    try:
        for fd in watched:
            loop.add_reader(fd, ended.set)
        await ended.wait()
    finally:
        for fd in watched:
            loop.remove_reader(fd)
            os.close(fd)
