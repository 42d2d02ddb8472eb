"""The tools of a call: what a barge-in does to them, where they run, which of them the model sees, and words meanwhile."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shared.agents import Agent, ToolStage
from shared.calls import CallSid, IncomingCall, TraceId
from shared.messages import Entry, Message
from tests.standins import pipecat_rig  # noqa: F401 - imports Pipecat without the warnings it gives itself
from worker.call import waiting_words
from worker.call.memory import CANCELLED, UNKNOWN_OUTCOME, Asked, remember
from worker.call.scribe import Scribe
from worker.call.toolbox import GOES_ON, Toolbox
from worker.call.waiting_words import WaitingWords
from worker.tools.registry import MOST_TOOLS, Outcome, Tool, ToolCall
from worker.tools.running import TOO_LONG

BOOKED = {"status": "booked"}
CALL = IncomingCall(call_sid=CallSid("CA1"), caller="+15550001111", called="+15550002222", trace_id=TraceId("t"))


@dataclass
class Session:
    """A call as a tool sees it."""

    agent: Agent = field(default_factory=Agent)

    async def hang_up(self) -> None:
        """Do nothing."""

    async def transfer(self) -> None:
        """Do nothing."""

    def widen(self, stage: ToolStage) -> tuple[str, ...]:
        """Have nothing more."""
        return (stage,)


class Line:
    """A way to a host that notes what is run there."""

    def __init__(self) -> None:
        self.offered: Mapping[str, Tool] = {}
        self.on_offered = lambda: None
        self.has = True
        self.ran: list[tuple[str, str, Mapping[str, Any]]] = []
        self.again: list[bool] = []

    def available(self, tool: Tool) -> bool:
        """Have everything, or nothing."""
        return self.has and bool(tool.name)

    async def run(self, tool: Tool, call: ToolCall, arguments: Mapping[str, Any], *, again: bool = False) -> Outcome:
        """Note it."""
        self.again.append(again)
        self.ran.append((tool.name, call.key.rpartition(":")[0], arguments))
        return Outcome({"where": "host"})


async def nothing(_call: ToolCall) -> Outcome:
    """Do nothing."""
    return Outcome({})


def told(key: str, name: str, result: str) -> list[dict[str, Any]]:
    """Write a tool call and its result as a conversation has them."""
    call = {"id": key, "type": "function", "function": {"name": name, "arguments": "{}"}}
    return [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": key, "content": result},
    ]


class Rig:
    """A toolbox with tools that run until they are let go."""

    def __init__(self, agent: Agent | None = None, *tools: Tool) -> None:
        self.told: list[Message] = []
        self.went_on = asyncio.Event()
        self.may_end = asyncio.Event()
        self.began = asyncio.Event()
        self.words: list[str] = []
        waiting = WaitingWords(lambda: False)
        waiting.say = lambda: self.words.append("One moment.")
        listed = tools or (Tool("book", "", self.run, writes=True), Tool("look", "", self.run))
        self.box = Toolbox({tool.name: tool for tool in listed}, Scribe(self.told.append), waiting)
        self.line = Line()
        self.box.line = self.line
        self.box.schemas(agent or Agent(), Session(agent or Agent()), CALL)
        self.results: list[Any] = []

    async def run(self, _call: ToolCall) -> Outcome:
        """Run until let go."""
        self.began.set()
        await self.may_end.wait()
        self.went_on.set()
        return Outcome(BOOKED)

    def call(self, name: str, key: str = "call_1", **arguments: Any) -> asyncio.Task[None]:
        """Have the model call a tool, as Pipecat does."""

        async def callback(result: Any, *, properties: Any) -> None:
            self.results.append((result, properties.run_llm))

        params = SimpleNamespace(tool_call_id=key, arguments=arguments, result_callback=callback)
        (schema,) = [each for each in self.box.seen() if each.name == name]
        assert schema.handler is not None
        return asyncio.create_task(cast("Any", schema.handler)(params))

    @property
    def seen(self) -> list[str]:
        """What the model sees."""
        return [each.name for each in self.box.seen()]

    @property
    def journal(self) -> list[Entry]:
        """What was written down."""
        return [each for each in self.told if isinstance(each, Entry)]


async def test_a_write_goes_on_when_the_caller_speaks_and_its_result_takes_the_place_of_cancelled() -> None:
    rig = Rig()
    call = rig.call("book", guests=4)
    await rig.began.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    conversation = [
        {"role": "tool", "tool_call_id": "call_1", "content": "CANCELLED"},
        {"role": "user", "content": "Hm?"},
    ]
    rig.box.mend(conversation)
    assert json.loads(conversation[0]["content"]) == GOES_ON
    rig.may_end.set()
    await rig.went_on.wait()
    await asyncio.sleep(0)
    rig.box.mend(conversation)
    assert json.loads(conversation[0]["content"]) == BOOKED
    assert rig.results == [], "Pipecat was told nothing"
    assert [entry.kind for entry in rig.journal] == ["tool", "result", "spoken"], "and no answer of its own is owed"


async def test_a_write_that_ends_as_the_caller_begins_to_speak_is_not_taken_for_cancelled() -> None:
    rig = Rig()
    call = rig.call("book")
    await rig.began.wait()
    (writing,) = rig.box._writing
    writing.add_done_callback(lambda _: call.cancel())  # its result is there, and not yet given on
    rig.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    conversation = [{"role": "tool", "tool_call_id": "call_1", "content": "CANCELLED"}]
    rig.box.mend(conversation)
    assert json.loads(conversation[0]["content"]) == BOOKED


async def test_a_write_under_way_is_finished_behind_the_call() -> None:
    rig = Rig()
    assert rig.box.busy_s == 0
    call = rig.call("book")
    await rig.began.wait()
    call.cancel()  # as the end of the pipeline does
    assert rig.box.busy_s > 0
    finishing = asyncio.create_task(rig.box.finish())
    await asyncio.sleep(0)
    assert not finishing.done()
    rig.may_end.set()
    await finishing
    assert rig.went_on.is_set()
    assert rig.box.busy_s == 0


async def test_a_successor_knows_what_came_of_a_write_that_went_on() -> None:
    rig = Rig()
    scribe = Scribe(rig.told.append)
    scribe.user_said("Book it.")
    call = rig.call("book")
    await rig.began.wait()
    call.cancel()
    rig.box.mend([])
    scribe.user_said("And one more thing.")
    rig.may_end.set()
    await rig.went_on.wait()
    await asyncio.sleep(0)
    memory = remember(rig.journal)
    assert not memory.unresolved
    assert json.loads(memory.messages[-1]["content"]) == BOOKED
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_tool_that_only_reads_is_given_up_when_the_caller_speaks() -> None:
    rig = Rig()
    call = rig.call("look")
    await rig.began.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0)
    rig.may_end.set()
    await asyncio.sleep(0)
    assert not rig.went_on.is_set()
    assert [json.loads(entry.text) for entry in rig.journal if entry.kind == "result"] == [CANCELLED]


async def test_a_tool_of_the_host_is_run_there_under_the_name_of_its_request() -> None:
    rig = Rig(None, Tool("book", "", nothing, place="host", writes=True))
    await rig.call("book", key="call_7", guests=2)
    assert rig.line.ran == [("book", "CA1:call_7", {"guests": 2})]
    assert rig.results == [({"where": "host"}, None)]


async def test_a_request_whose_worker_died_is_made_again_under_its_own_id_when_the_tool_knows_ids() -> None:
    rig = Rig(None, Tool("book", "", nothing, place="host", writes=True, idempotent=True))
    outcome = await rig.box.settle(Asked("call_7", "book", {"guests": 2}))
    assert outcome.result == {"where": "host"}
    assert rig.line.ran == [("book", "CA1:call_7", {"guests": 2})]
    assert rig.line.again == [True]
    await rig.call("book", key="call_8", guests=2)
    assert len(rig.line.ran) == 1, "the model asks for the same once more: it is not done twice"
    assert rig.results[-1][0] == {"where": "host"}


@pytest.mark.parametrize(("repeatable", "told"), [(True, TOO_LONG), (False, UNKNOWN_OUTCOME)])
async def test_a_tool_in_which_a_worker_hung_is_not_run_in_the_next(
    repeatable: bool,  # noqa: FBT001 - pytest gives it by name
    told: Mapping[str, Any],
) -> None:
    runs: list[str] = []

    async def run(call: ToolCall) -> Outcome:
        runs.append(call.id)
        return Outcome({})

    rig = Rig(None, Tool("look", "", run, repeatable=repeatable, idempotent=True))
    assert (await rig.box.settle(Asked("call_1", "look", {}), hung=True)).result == told
    assert runs == []
    await rig.box.settle(Asked("call_1", "look", {}))
    assert runs == ["call_1"]


async def test_a_tool_of_the_host_is_asked_again_though_a_worker_hung() -> None:
    rig = Rig(None, Tool("book", "", nothing, place="host", writes=True, idempotent=True))
    assert (await rig.box.settle(Asked("call_7", "book", {}), hung=True)).result == {"where": "host"}


async def test_the_model_sees_what_its_agent_has_at_the_stage_and_what_the_host_can_do() -> None:
    tools = (
        Tool("a", "", nothing, stage="critical"),
        Tool("b", "", nothing, stage="essential", place="host"),
        Tool("c", "", nothing, stage="full"),
        Tool("d", "", nothing, stage="full"),
    )
    rig = Rig(Agent(stage="critical", tools=("a", "b", "c")), *tools)
    assert rig.seen == ["a"]
    assert rig.box.widen("essential") == ("b",)
    rig.line.has = False
    assert rig.seen == ["a"]
    assert rig.box.widen("full") == ("c",)
    assert rig.box.widen("critical") == (), "there is no way back"
    assert rig.seen == ["a", "c"]


async def test_a_tool_with_a_schema_that_is_none_costs_itself_only() -> None:
    rig = Rig()
    broken = Tool("shop_broken", "", nothing, parameters={"properties": "none"}, place="host", server="shop")
    rig.line.offered = {broken.name: broken}
    assert rig.seen == ["book", "look"]


async def test_a_model_is_given_no_more_tools_than_it_takes_and_its_own_first() -> None:
    rig = Rig()
    rig.line.offered = {f"shop_{number}": Tool(f"shop_{number}", "", nothing, place="host") for number in range(200)}
    assert len(rig.seen) == MOST_TOOLS
    assert rig.seen[:2] == ["book", "look"]


async def test_a_successor_sees_the_stage_the_conversation_had_come_to() -> None:
    tools = (Tool("a", "", nothing, stage="critical"), Tool("c", "", nothing, stage="full"))
    rig = Rig(Agent(stage="critical"), *tools)
    asked = [("1", "more_tools", '{"stage": "full"}'), ("2", "more_tools", "no json"), ("3", "more_tools", "[]")]
    messages = [each for key, name, result in asked for each in told(key, name, result)]
    rig.box.recall({}, messages)
    assert rig.seen == ["a", "c"]


async def test_what_another_tool_says_of_stages_widens_nothing() -> None:
    tools = (Tool("a", "", nothing, stage="critical"), Tool("c", "", nothing, stage="full"))
    rig = Rig(Agent(stage="critical"), *tools)
    rig.box.recall({}, told("1", "a", '{"stage": "full"}'))
    assert rig.seen == ["a"]


async def test_a_caller_whose_tool_takes_long_hears_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_S", "AFTER_WORDS_S", "AGAIN_S"):
        monkeypatch.setattr(waiting_words, name, 0.0)
    rig = Rig()
    call = rig.call("look")
    while len(rig.words) < 2:  # noqa: ASYNC110 - said again and again until the tool is done
        await asyncio.sleep(0)
    rig.may_end.set()
    await call
    said = len(rig.words)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(rig.words) == said


async def test_tools_that_run_together_need_the_words_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_words, "FIRST_S", 0.0)
    rig = Rig()
    calls = [rig.call("look", key=f"call_{number}") for number in range(3)]
    while not rig.words:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(rig.words) == 1
    rig.may_end.set()
    await asyncio.gather(*calls)


async def test_a_quick_tool_needs_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_words, "FIRST_S", 0.0)
    words = WaitingWords(lambda: False)
    said: list[int] = []
    words.say = lambda: said.append(1)
    with words.while_running(Tool("now", "", nothing, quick=True)):
        for _ in range(5):
            await asyncio.sleep(0)
    assert not said


def test_the_words_are_the_agents_own_or_in_its_language() -> None:
    assert waiting_words.waiting_words(Agent(looking="Hang on.")) == "Hang on."
    assert waiting_words.waiting_words(Agent(language="pt-BR")) == waiting_words.WORDS["pt"]
    assert waiting_words.waiting_words(Agent(language="xx")) == ""
