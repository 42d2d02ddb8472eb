"""Tools of somebody else's in a whole installation: one that hangs, one that is broken, and what mending it takes."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.stack import Plan, Stack
from tests.system.talk import ask, greeted, worker_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.system

HANGS = """
import time
from worker.tools.custom import CallInfo, tool

@tool(timeout_s=1.0)
def parking_space(info: CallInfo) -> str:
    "Say which space in the car park is free."
    time.sleep(3600)
"""
SAYS = """
from worker.tools.custom import CallInfo, tool

@tool
async def gate_code(info: CallInfo) -> str:
    "Say the code of the gate."
    return f"Code nine for {info.agent}."
"""
BROKEN = SAYS.replace("return", "retrun")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a tool that hangs, and one that is broken."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "parking.py").write_text(HANGS, encoding="utf-8")
    (folder / "gate.py").write_text(BROKEN, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def plan(tools: Path) -> Plan:
    return Plan(pool_ready=1, supabase=False, env={"TOOLS_DIR": str(tools)})


def readyz(stack: Stack) -> dict[str, Any]:
    """Give the pool's `/readyz`."""
    page: dict[str, Any] = json.loads(stack.fetch(f"{stack.pool_url}/readyz"))
    return page


async def test_a_broken_file_is_named_at_the_start_and_costs_no_readiness(stack: Stack) -> None:
    page = readyz(stack)
    assert page["reason"] == ""
    assert page["problems"] == [
        {"resource": "custom_tools", "detail": "gate.py:7: SyntaxError: invalid syntax", "traceback": ""}
    ]
    assert "custom tool left out" in stack.pool.log
    router = json.loads(stack.fetch(f"{stack.router_url}/readyz"))
    assert router["ready"] == 1


async def test_a_tool_that_hangs_costs_its_answer_and_not_the_call(stack: Stack) -> None:
    async with stack.carrier() as carrier:
        call = await carrier.dial()
        await greeted(call)
        served_by = worker_of(stack, call.call_sid)
        await stack.openai.control(script=[{"tool": "parking_space"}])
        await ask(call, "no", "took too long")
        await ask(call, "yes", "said:")
        assert worker_of(stack, call.call_sid) == served_by, "nobody had to take over"
        asked = [one for one in (await stack.openai.state())["log"] if one["kind"] == "completion"][-1]
        assert "parking_space" in asked["tools"]
        assert "gate_code" not in asked["tools"]
        await call.hangup()
        assert (await call.ended()).outcome == "completed"


async def test_mending_a_file_brings_its_tool_and_breaking_it_again_is_refused(stack: Stack, tools: Path) -> None:
    def changed(outcome: str) -> bool:
        return stack.metric("offhook_reloads_total", outcome=outcome) >= 1

    def renewed() -> bool:
        events = [line["event"] for line in stack.pool.lines()]
        return "parked" in events[events.index("zygote takes over") :]

    (tools / "gate.py").write_text(SAYS, encoding="utf-8")
    os.kill(stack.pool.pid, signal.SIGHUP)
    await stack.until(lambda: changed("done") and readyz(stack)["problems"] == [], "the file is mended")
    await stack.until(renewed, "a worker has its tool")
    (tools / "gate.py").write_text(BROKEN, encoding="utf-8")
    await stack.until(lambda: changed("refused"), "the broken change is refused")
    (problem,) = readyz(stack)["problems"]
    assert problem["resource"] == "reload"
    assert "gate.py:7: SyntaxError: invalid syntax" in problem["detail"]
    await stack.ready()
    async with stack.carrier() as carrier:
        call = await carrier.dial()
        await greeted(call)
        await stack.openai.control(script=[{"tool": "gate_code"}])
        await ask(call, "no", "nine")
        await call.hangup()
        assert (await call.ended()).outcome == "completed"
