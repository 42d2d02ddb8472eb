"""What a call waits for where a phase is off, and the tools that are then loaded in it."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, cast

import pytest

from shared.agents import Agent
from shared.clips import Clip
from shared.settings import Settings
from worker.call import old_ways
from worker.call.equipment import Equipment, find_tools
from worker.call.greeting import Recording, opening, record
from worker.call.old_ways import OldWays
from worker.tools.builtin_names import NAMES
from worker.tools.custom_folder import check_custom, load_good

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from worker.call.pipeline import AgentPipeline
    from worker.call.toolbox import Line
    from worker.tools.registry import Tool

GOOD = 'from worker.tools.custom import tool\n\n@tool\ndef {name}() -> str:\n    "Do."\n    return "done"\n'


def settings(**changes: Any) -> Settings:
    return Settings(_env_file=None, **changes)


class Waits:
    """The waits of a call, and what came of them."""

    def __init__(self, **changes: Any) -> None:
        self.happened: list[str] = []
        self.ways = OldWays(settings(**changes), lambda: self.happened.append("given up"))
        self.ways.load_tools = self._load
        self.loadable = asyncio.Event()

    async def _load(self) -> None:
        await self.loadable.wait()
        self.happened.append("tools")


async def test_with_every_phase_on_nothing_is_waited_for() -> None:
    waits = Waits()
    assert (waits.ways.any, waits.ways.over.is_set()) == (False, True)
    await waits.ways.wait(lambda: waits.happened.append("asked"), greeted=False)
    assert (waits.happened, waits.ways.over_at) == (["asked"], 0.0)


async def test_tools_come_first_and_then_the_record() -> None:
    waits = Waits(eager_tool_loading=False, parallel_context_prefetch=False, prefetch_timeout=60.0)
    waiting = asyncio.create_task(waits.ways.wait(lambda: waits.happened.append("asked"), greeted=False))
    waits.ways.customer_known()
    await asyncio.sleep(0)
    assert not waiting.done()
    waits.loadable.set()
    await waiting
    assert waits.happened == ["tools", "asked"]
    assert waits.ways.over.is_set()
    assert waits.ways.over_at > 0


async def test_a_caller_who_was_greeted_waits_for_tools_alone() -> None:
    waits = Waits(eager_tool_loading=False, parallel_context_prefetch=False, prefetch_timeout=60.0)
    waits.loadable.set()
    await waits.ways.wait(greeted=True)
    assert waits.happened == ["tools"]


async def test_a_record_that_does_not_come_is_given_up() -> None:
    waits = Waits(parallel_context_prefetch=False, prefetch_timeout=0.01)
    await waits.ways.wait(greeted=False)
    assert waits.happened == ["given up"]


async def test_tools_that_take_too_long_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_ways, "TOOLS_WAIT_S", 0.01)
    waits = Waits(eager_tool_loading=False)
    await waits.ways.wait(greeted=False)
    assert waits.happened == []
    waits.loadable.set()
    assert waits.ways._loading is not None
    await waits.ways._loading
    assert waits.happened == ["tools"]


async def test_tools_that_cannot_be_loaded_do_not_cost_the_call() -> None:
    async def fail() -> None:
        raise RuntimeError("no tools")

    waits = Waits(eager_tool_loading=False)
    waits.ways.load_tools = fail
    await waits.ways.wait(greeted=False)
    assert waits.ways.over.is_set()


class FakePipeline:
    """What has tools."""

    def __init__(self) -> None:
        self.tools: Mapping[str, Tool] = {}
        self.line: Line | None = None

    def equip(self, tools: Mapping[str, Tool]) -> None:
        """Take them."""
        self.tools = tools

    def reach(self, line: Line) -> None:
        """Take the line."""
        self.line = line


def equipment(pipeline: FakePipeline, **changes: Any) -> Equipment:
    configured = settings(**changes)
    return Equipment(configured, find_tools(configured, []), cast("AgentPipeline", pipeline))


async def test_a_worker_without_eager_tools_has_none_and_no_line_until_it_loads_them(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(GOOD.format(name="one"))
    pipeline = FakePipeline()
    made = equipment(pipeline, eager_tool_loading=False, tools_dir=tmp_path)
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
    for ours, _ in pairs[:2]:
        made.connect(ours)
    assert (dict(pipeline.tools), pipeline.line) == ({}, None)
    assert pairs[0][1].recv(1) == b"", "only the latest line is of use"
    await made.load()
    assert set(pipeline.tools) == NAMES | {"one"}
    assert pipeline.line is not None
    assert pairs[1][0].getblocking() is False, "it is read from now on"
    made.connect(pairs[2][0])
    assert pairs[1][1].recv(1) == b"", "and replaced as any other"
    made._line.close()
    for _, theirs in pairs:
        theirs.close()


async def test_with_eager_tools_the_line_is_used_at_once() -> None:
    pipeline = FakePipeline()
    made = equipment(pipeline)
    assert pipeline.line is made._line
    await made.load()
    assert dict(pipeline.tools) == {}, "it was built with them"


@pytest.mark.parametrize("eager", [True, False])
def test_what_is_wrong_with_tools_is_found_before_any_call(tmp_path: Path, *, eager: bool) -> None:
    (tmp_path / "bad.py").write_text("raise ValueError('one')\n")
    (tmp_path / "good.py").write_text(GOOD.format(name="good"))
    agent = Agent(name="desk", tools=("end_call", "good", "nobodys"))
    found = find_tools(settings(eager_tool_loading=eager, tools_dir=tmp_path), [agent])
    assert [problem.detail for problem in found.problems] == [
        "bad.py:1: ValueError: one",
        "agent desk: tools: there is no nobodys",
    ]
    assert bool(found.loaded) is eager


def test_a_file_that_has_changed_since_it_was_found_good_costs_its_own_tool(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.py").write_text(GOOD.format(name=name))
    good = check_custom(settings(tools_dir=tmp_path)).good
    (tmp_path / "one.py").write_text("not Python")
    (tmp_path / "two.py").write_text(GOOD.format(name="end_call"))
    assert [tool.name for tool in load_good(tmp_path, good)] == ["three"]


def clip(name: str, text: str) -> Recording:
    return record(
        Clip(id=name, text=text, language="en", voice="v", duration_ms=20, audio=b"\x11" * 160, licence="CC0-1.0")
    )


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        (Agent(), "Hello."),
        (Agent(greeting="Good day."), "Good day."),
        (Agent(greeting_clip="own"), "Own words."),
    ],
)
def test_without_direct_injection_the_voice_says_what_the_recording_would(agent: Agent, said: str) -> None:
    clips = {"greeting": clip("greeting", "Hello."), "own": clip("own", "Own words.")}
    assert opening(agent, clips, settings())[1] == said
    assert opening(agent, clips, settings(direct_greeting_injection=False)) == (None, said)


def test_a_recording_whose_words_nobody_knows_is_played_all_the_same() -> None:
    clips = {"own": clip("own", "")}
    agent = Agent(greeting_clip="own")
    assert opening(agent, clips, settings(direct_greeting_injection=False)) == (clips["own"], "")
