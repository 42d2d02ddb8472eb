"""What the pipeline does with tools whose worker died, with a real pipeline that is built and never started."""

import asyncio
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from shared.agents import Agent, ToolStage
from shared.messages import Entry, Message
from shared.settings import Settings
from tests.standins import pipecat_rig  # noqa: F401 - imports Pipecat without the warnings it gives itself
from worker.call.memory import BROKEN_OFF, CANCELLED, UNKNOWN_OUTCOME, Asked, Memory
from worker.call.models import load_models
from worker.call.pipeline import AgentPipeline, Hooks, Kit
from worker.call.scribe import Scribe
from worker.tools.registry import Outcome, Tool, ToolCall

BOOKED = {"table": 7}
ASKED = Asked("call_1", "book", {"guests": 4})


class Session:
    """A call as a tool sees it."""

    agent = Agent()

    async def hang_up(self) -> None:
        """Do nothing."""

    async def transfer(self) -> None:
        """Do nothing."""

    def widen(self, stage: ToolStage) -> tuple[str, ...]:
        """Have nothing more."""
        return (stage,)


class Rig:
    """A pipeline with one tool, which counts its runs; its answers are counted too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **tool: Any) -> None:
        self.runs: list[str] = []
        self.told: list[Message] = []
        self.answers = 0
        self.blocked = asyncio.Event()
        self.result: Mapping[str, Any] | None = BOOKED
        key = SecretStr("made-up")
        settings = Settings(_env_file=None, cartesia_api_key=key, openai_api_key=key, cartesia_voice_id="v")
        tools = {"book": Tool("book", "Book a table.", self._run, **tool)}
        hooks = Hooks(lambda _resource, _why: None, lambda _stage, _seconds: None)
        self.pipeline = AgentPipeline(Kit(settings, load_models(), tools), hooks, Scribe(self.told.append))
        self.pipeline.prepare(Agent(tools=("book",)), Session())
        monkeypatch.setattr(self.pipeline, "answer", self._answer)

    async def _run(self, call: ToolCall) -> Outcome:
        self.runs.append(call.id)
        if self.result is None:
            self.blocked.set()
            await asyncio.Event().wait()
        return Outcome(self.result or {})

    async def _answer(self, _note: str = "") -> None:
        self.answers += 1

    async def call(self, key: str = "call_2") -> Any:
        """Have the model call the tool, and give what it is told."""
        results: list[Any] = []

        async def callback(result: Any, *, properties: Any) -> None:  # noqa: ARG001 - the signature is Pipecat's
            results.append(result)

        params = SimpleNamespace(tool_call_id=key, arguments=ASKED.arguments, result_callback=callback)
        await self.pipeline._toolbox._run(self.pipeline._toolbox._tools["book"], cast("Any", params))
        (result,) = results
        return result

    @property
    def journal(self) -> list[tuple[str, Any]]:
        """What was written down."""
        return [
            (each.kind, json.loads(each.text) if each.kind == "result" else each.key)
            for each in self.told
            if isinstance(each, Entry)
        ]

    @property
    def context(self) -> list[Any]:
        """The conversation."""
        return list(self.pipeline.context.get_messages())


UNRESOLVED = Memory(messages=({"role": "user", "content": "A table."},), owed=True, unresolved=(ASKED,), demands=1)


async def test_a_tool_call_is_written_down_before_it_runs_and_its_result_after(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch)
    assert await rig.call() == BOOKED
    assert rig.runs == ["call_2"]
    assert rig.journal == [("tool", "call_2"), ("result", BOOKED)]


async def test_a_call_that_the_caller_cancels_is_written_down_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a successor would take it for unfinished: a goodbye that was interrupted would end the call after all."""
    rig = Rig(monkeypatch)
    rig.result = None
    running = asyncio.create_task(rig.call())
    await rig.blocked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert rig.journal[:2] == [("tool", "call_2"), ("result", CANCELLED)]
    assert rig.journal[2][0] == "spoken", "nothing is owed for it"


async def test_a_tool_call_in_flight_is_never_run_again_and_the_model_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch)
    await rig.pipeline.recall(UNRESOLVED)
    assert rig.runs == []
    assert rig.answers == 1
    call, result = rig.context[-2:]
    assert call["tool_calls"][0]["id"] == result["tool_call_id"] == "call_1"
    assert json.loads(result["content"]) == UNKNOWN_OUTCOME
    assert rig.journal == [("result", UNKNOWN_OUTCOME)]


async def test_a_model_that_asks_again_for_the_same_gets_the_same_without_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch)
    await rig.pipeline.recall(UNRESOLVED)
    assert await rig.call() == UNKNOWN_OUTCOME
    assert rig.runs == []
    rig.pipeline._user_said("Try again, please.")
    assert await rig.call() == BOOKED, "the caller's own wish is another thing"


async def test_what_a_predecessors_tool_gave_is_given_again_without_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch)
    await rig.pipeline.recall(Memory(messages=UNRESOLVED.messages, owed=True, results={ASKED.same: {"table": 3}}))
    assert await rig.call() == {"table": 3}
    assert rig.runs == []


@pytest.mark.parametrize("found", [True, False])
async def test_a_tool_that_can_look_its_call_up_is_asked_by_its_id(
    monkeypatch: pytest.MonkeyPatch,
    found: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    asked: list[str] = []

    async def lookup(call: ToolCall) -> Outcome | None:
        asked.append(call.id)
        return Outcome(BOOKED) if found else None

    rig = Rig(monkeypatch, lookup=lookup)
    await rig.pipeline.recall(UNRESOLVED)
    assert asked == ["call_1"]
    assert rig.runs == []
    assert json.loads(rig.context[-1]["content"]) == (BOOKED if found else UNKNOWN_OUTCOME)


async def test_a_look_up_that_fails_leaves_the_outcome_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lookup(_call: ToolCall) -> Outcome | None:
        raise RuntimeError("the database is away")

    rig = Rig(monkeypatch, lookup=lookup)
    await rig.pipeline.recall(UNRESOLVED)
    assert json.loads(rig.context[-1]["content"]) == UNKNOWN_OUTCOME


async def test_a_tool_that_does_no_harm_twice_is_run_again_under_its_own_id(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, repeatable=True)
    await rig.pipeline.recall(UNRESOLVED)
    assert rig.runs == ["call_1"]
    assert json.loads(rig.context[-1]["content"]) == BOOKED
    assert rig.answers == 1


async def test_a_tool_that_is_no_longer_there_has_an_unknown_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch)
    await rig.pipeline.recall(Memory(owed=True, unresolved=(Asked("call_1", "gone", {}),)))
    assert json.loads(rig.context[-1]["content"]) == UNKNOWN_OUTCOME


async def test_a_tool_whose_outcome_needs_no_answer_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lookup(_call: ToolCall) -> Outcome | None:
        return Outcome({"status": "over"}, answer=False)

    rig = Rig(monkeypatch, lookup=lookup)
    await rig.pipeline.recall(UNRESOLVED)
    assert rig.answers == 0


@pytest.mark.parametrize(
    ("memory", "note", "answers"),
    [
        (Memory(messages=UNRESOLVED.messages), False, 0),
        (Memory(messages=UNRESOLVED.messages, owed=True), False, 1),
        (Memory(messages=UNRESOLVED.messages, owed=True, broke_off=True), True, 1),
    ],
    ids=["listening", "thinking", "speaking"],
)
async def test_an_answer_is_asked_for_when_one_is_owed(
    monkeypatch: pytest.MonkeyPatch,
    memory: Memory,
    note: bool,  # noqa: FBT001 - as above
    answers: int,
) -> None:
    rig = Rig(monkeypatch)
    await rig.pipeline.recall(memory)
    assert rig.answers == answers
    assert (rig.context[-1] == {"role": "developer", "content": BROKEN_OFF}) is note
