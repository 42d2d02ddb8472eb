"""The rollback switches: each phase off and on beside the others, and what that changes for a caller."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.stack import Plan, Stack
from tests.system.talk import ask, greeted, recording, worker_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.standins.carrier import Carrier
    from tests.standins.carrier_call import Call

pytestmark = [pytest.mark.system, pytest.mark.redis]

CALLER: Final = "+5511987654321"
GREETING: Final = "Hello, thanks for calling."
TOOL: Final = """
import os, pathlib
from worker.tools.custom import tool

with pathlib.Path({log!r}).open("a") as log:
    log.write(f"{{os.getpid()}}\\n")

@tool
async def gate_code() -> str:
    "Say the code of the gate."
    return "Code nine."
"""


@dataclass(frozen=True)
class Phases:
    """Which phases are on."""

    eager: bool
    direct: bool
    parallel: bool

    def __str__(self) -> str:
        off = [name for name in ("eager", "direct", "parallel") if not getattr(self, name)]
        return f"without {' and '.join(off)}" if off else "all on"

    @property
    def env(self) -> dict[str, str]:
        """The environment that says so."""
        return {
            "EAGER_TOOL_LOADING": str(self.eager).lower(),
            "DIRECT_GREETING_INJECTION": str(self.direct).lower(),
            "PARALLEL_CONTEXT_PREFETCH": str(self.parallel).lower(),
        }


ALL: Final = [Phases(*each) for each in itertools.product((True, False), repeat=3)]
NOT_PARALLEL: Final = Phases(eager=True, direct=True, parallel=False).env
NOT_EAGER: Final = Phases(eager=False, direct=True, parallel=True).env


def warm_tools(stack: Stack, state: str) -> set[float]:
    """Give what the gauge of tools says of the workers in a state."""
    slots = [str(slot) for slot in range(4) if stack.metric("offhook_worker_state", worker=str(slot), state=state)]
    return {stack.metric("offhook_worker_warm", worker=slot, resource="tools") for slot in slots}


def events(stack: Stack, event: str, call: Call) -> list[dict[str, Any]]:
    """Give what the pool has logged of a call."""
    said = (line for line in stack.pool.lines() if line.get("process") == "pool")
    return [line for line in said if line.get("event") == event and line.get("call_sid") == call.call_sid]


async def lookups(stack: Stack, since: float) -> list[float]:
    """Give when the database was asked for the caller (monotonic)."""
    log = (await stack.supabase.state())["log"]
    return [one["at"] for one in log if CALLER.removeprefix("+") in str(one.get("body")) and one["at"] > since]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a tool, and the file in which each process that loads it writes its number."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "gate.py").write_text(TOOL.format(log=str(folder / "loaded")))
    return folder


@pytest.fixture(scope="module")
def plan(tools: Path) -> Plan:
    return Plan(prefetch_workers=1, env={"TOOLS_DIR": str(tools)})


async def restart(stack: Stack, **env: dict[str, str]) -> None:
    """Restart parts with other settings, and wait until calls are taken: all that a rollback needs."""
    parts = [stack.parts[name] for name in env]
    await asyncio.gather(*(asyncio.to_thread(part.terminate) for part in parts))
    for part in parts:
        part.env |= env[part.name]
        part.start()
    await stack.ready()


async def known(stack: Stack, carrier: Carrier) -> Call:
    """Have somebody call whom the database knows."""
    await stack.supabase.control(customers=[{"phone": CALLER, "name": "Ana", "facts": {"reference_code": "x7k"}}])
    call = await carrier.dial(from_=CALLER)
    await greeted(call)
    return call


@pytest.mark.parametrize("phases", ALL, ids=str)
async def test_a_call_is_served_with_any_phases_off(stack: Stack, tools: Path, phases: Phases) -> None:
    """Greeted, known, served with a tool, hung up; and what is off is seen to be done as it was before."""
    (tools / "loaded").write_text("")
    began = time.monotonic()
    await restart(stack, router=phases.env, pool=phases.env)
    assert warm_tools(stack, "ready") == {float(phases.eager)}
    async with stack.carrier() as carrier:
        spoken_before = len((await stack.cartesia.state())["log"])
        call = await known(stack, carrier)
        await ask(call, "my-code", "x7k.")
        worker = worker_of(stack, call.call_sid)
        await stack.openai.control(script=[{"tool": "gate_code"}])
        await ask(call, "no", "nine.")
        assert warm_tools(stack, "in_call") == {1.0}
        await call.say(recording("goodbye"))
        record = await call.ended()
    assert record.ended_by == "twiml"
    loaders = {int(line) for line in (tools / "loaded").read_text().split()}
    assert (worker in loaders) is not phases.eager, "who runs the files of tools"
    spoken = [one["text"] for one in (await stack.cartesia.state())["log"][spoken_before:] if one.get("text")]
    assert any(each.startswith(GREETING) for each in spoken) is not phases.direct, "who says the greeting"
    (looked_up,) = await lookups(stack, began)
    start, first_media = record.stream.start_sent, record.stream.first_media_received
    assert start is not None
    assert first_media is not None
    assert (start < looked_up < first_media) or phases.parallel, "what the greeting waits for"


async def test_a_router_that_looks_nobody_up_leaves_it_to_a_pool_that_would_not_have_to(stack: Stack) -> None:
    """The other way round the pool finds the router's job, or its result: `tests/worker/test_customers.py`.

    And a worker that takes a call over has tools by the time it answers, as the first one had.
    """
    began = time.monotonic()
    await restart(stack, router=NOT_PARALLEL, pool=NOT_EAGER)
    async with stack.carrier() as carrier:
        call = await known(stack, carrier)
        await ask(call, "my-code", "x7k.")
        first = worker_of(stack, call.call_sid)
        os.kill(first, signal.SIGKILL)
        await stack.until(lambda: worker_of(stack, call.call_sid) != first, "a successor")
        await stack.openai.control(script=[{"tool": "gate_code"}])
        await ask(call, "no", "nine.")
        await call.hangup()
        record = await call.ended()
    (looked_up,) = await lookups(stack, began)
    assert looked_up > (record.stream.start_sent or 0)


async def test_a_lookup_that_nobody_makes_silences_nobody(stack: Stack) -> None:
    """Nor does the death of the worker in which they wait for it: another one greets, and nobody asks for it again."""
    stack.prefetcher.terminate()
    await restart(stack, pool=NOT_PARALLEL | {"PREFETCH_TIMEOUT": "1.5"})
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_=CALLER)
        await call.streaming()
        asked = await stack.until(lambda: events(stack, "prefetch queued", call), "a lookup that is asked for")
        os.kill(worker_of(stack, call.call_sid), signal.SIGKILL)
        await greeted(call)
        await ask(call, "no", "said:")
        await call.hangup()
        await call.ended()
    assert len(events(stack, "call resumed", call)) == 1
    assert events(stack, "prefetch queued", call) == asked
    assert "the caller is greeted without a record" in stack.pool.log
