"""What the model sees of the tools, and how it gets more of them; and tools that act on the call or on the messenger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from shared.agents import STAGES, Agent, ToolStage
from tests.worker.tools.desk import ANA, Desk
from worker.tools import running
from worker.tools.builtin import BUILT_IN
from worker.tools.registry import Outcome, Tool, ToolCall, visible
from worker.tools.send_whatsapp_message import STATES
from worker.tools.services import ServiceTrouble

CRITICAL = {"end_call", "get_current_time", "transfer_call", "more_tools"}
ESSENTIAL = CRITICAL | {"get_customer_by_phone", "create_customer", "list_free_slots", "book_appointment"}
AGENT = Agent(transfer_number="+551130000001")


@dataclass
class Call:
    """A session that notes what a tool did."""

    agent: Agent = AGENT
    transferred: bool = False
    stage: ToolStage = "critical"
    others: tuple[str, ...] = field(default=("weather",))

    async def hang_up(self) -> None:
        """End nothing."""

    async def transfer(self) -> None:
        """Note it."""
        self.transferred = True

    def widen(self, stage: ToolStage) -> tuple[str, ...]:
        """Go to a stage, as the toolbox of a call does."""
        before = {tool.name for tool in visible(BUILT_IN.values(), self.agent, self.stage)}
        self.stage = max(self.stage, stage, key=STAGES.index)
        new = [tool.name for tool in visible(BUILT_IN.values(), self.agent, self.stage) if tool.name not in before]
        return (*new, *self.others) if new else ()


async def run(name: str, session: Call | None, **arguments: Any) -> Outcome:
    """Run a tool of the worker."""
    agent = session.agent if session is not None else AGENT
    return await running.run(BUILT_IN[name], ToolCall("call_1", arguments, agent, session=session), arguments)


def seen(agent: Agent, stage: ToolStage) -> set[str]:
    """Give the names of what the model sees."""
    return {tool.name for tool in visible(BUILT_IN.values(), agent, stage)}


def test_each_stage_holds_the_former_ones() -> None:
    assert seen(AGENT, "critical") == CRITICAL
    assert seen(AGENT, "essential") == ESSENTIAL
    assert seen(AGENT, "full") == set(BUILT_IN) - {"more_tools"}


def test_a_caller_can_be_transferred_only_where_somebody_is_there() -> None:
    nobody = msgspec.structs.replace(AGENT, transfer_number="")
    assert seen(AGENT, "full") - seen(nobody, "full") == {"transfer_call"}


def test_an_agent_with_tools_of_its_own_choice_has_no_others() -> None:
    chosen = msgspec.structs.replace(AGENT, tools=("end_call", "book_appointment"))
    assert seen(chosen, "full") == {"end_call", "book_appointment", "transfer_call"}
    assert seen(chosen, "critical") == {"end_call", "transfer_call", "more_tools"}


def test_a_list_of_tools_takes_none_away_that_has_a_rule_of_its_own() -> None:
    """Else who may see more could not ask for it, and a caller could not be transferred although somebody is there."""
    few = Agent(tools=("end_call",), stage="critical")
    assert seen(few, "critical") == {"end_call", "more_tools"}
    assert seen(few, "full") == {"end_call"}
    assert seen(msgspec.structs.replace(few, transfer_number="+551130000001"), "full") == {"end_call", "transfer_call"}


@pytest.mark.parametrize(
    ("tools", "mcp", "names"),
    [
        (("end_call",), ("shop",), {"shop_find", "shop_buy"}),
        (("end_call",), (), set()),
        (("end_call", "shop_find"), ("shop",), {"shop_find"}),
        (("end_call", "shop_find"), (), set()),
        (("end_call", "shop_nothing"), ("shop",), set()),
        ((), ("shop",), {"shop_find", "shop_buy"}),
    ],
)
def test_of_the_servers_an_agent_may_use_a_list_takes_away_only_what_it_chooses_from(
    tools: tuple[str, ...], mcp: tuple[str, ...], names: set[str]
) -> None:
    async def nothing(_: ToolCall) -> Outcome:
        return Outcome({})

    offered = [
        Tool(name, "", nothing, server="shop", offered=lambda agent, _stage: "shop" in agent.mcp)
        for name in ("shop_find", "shop_buy")
    ]
    assert {tool.name for tool in visible(offered, Agent(tools=tools, mcp=mcp), "full")} == names


@pytest.mark.parametrize("tool", BUILT_IN.values(), ids=lambda tool: tool.name)
def test_a_tool_says_what_may_be_done_with_it_twice(tool: Tool) -> None:
    assert tool.repeatable != tool.writes
    assert tool.idempotent == tool.writes
    assert (tool.place == "host") == bool(tool.needs)
    for each in tool.schema()["properties"].values():
        assert "$ref" not in str(each)
        assert each["type"] in {"string", "integer"}


async def test_further_tools_are_named_with_a_line_each_and_those_of_others_by_name() -> None:
    call = Call()
    outcome = await run("more_tools", call, stage="essential")
    assert outcome.answer
    assert call.stage == outcome.result["stage"] == "essential"
    lines: Mapping[str, str] = outcome.result["tools"]
    assert set(lines) == ESSENTIAL - CRITICAL | {"weather"}
    assert lines["book_appointment"] == BUILT_IN["book_appointment"].description
    assert lines["weather"] == ""
    again = await run("more_tools", call, stage="essential")
    assert again.result == {"stage": "essential", "note": "There are no further tools in this stage."}


async def test_a_stage_that_does_not_exist_is_refused() -> None:
    call = Call()
    outcome = await run("more_tools", call, stage="everything")
    assert outcome.result["error"] == "more_tools was not run. stage: Input should be 'essential' or 'full'."
    assert call.stage == "critical"


async def test_a_transfer_is_the_last_thing_the_agent_does() -> None:
    call = Call()
    outcome = await run("transfer_call", call)
    assert call.transferred
    assert not outcome.answer
    assert "error" not in outcome.result


async def test_there_may_be_nobody_to_transfer_to() -> None:
    call = Call(msgspec.structs.replace(AGENT, transfer_number=""))
    outcome = await run("transfer_call", call)
    assert not call.transferred
    assert outcome.answer
    assert outcome.result == {"error": "There is nobody to transfer the caller to. Offer to take a note."}


@pytest.mark.parametrize("name", ["transfer_call", "more_tools", "end_call"])
async def test_without_a_call_nothing_is_done_to_it(name: str) -> None:
    outcome = await run(name, None, **({"stage": "full"} if name == "more_tools" else {}))
    assert outcome.result["error"].startswith("There is no call")


@dataclass
class Post:
    """A messenger that says what it is told to say."""

    state: str | ServiceTrouble
    sent: list[tuple[str, str, str, str]] = field(default_factory=list)

    async def send_whatsapp(self, key: str, to: str, body: str, call_sid: str) -> str:
        """Note the message."""
        self.sent.append((key, to, body, call_sid))
        if isinstance(self.state, ServiceTrouble):
            raise self.state
        return self.state


async def message(desk: Desk, post: Post) -> dict[str, Any]:
    """Send a message of two lines."""
    return await replace(desk, messenger=post).run("send_whatsapp_message", "call_w", text=" See you.\r\n\x07Tuesday ")


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("delivered", {"status": "delivered", "to": ANA}),
        ("taken", {"status": STATES["taken"], "to": ANA}),
        ("queued", {"status": STATES["queued"], "to": ANA}),
        ("This number has no WhatsApp.", {"error": "This number has no WhatsApp."}),
        (ServiceTrouble("redis is slow", maybe_done=True), running.TOO_LONG_WRITE),
        (ServiceTrouble("redis hangs"), running.OUT_OF_ORDER),
    ],
)
async def test_what_became_of_a_message_is_told(
    quiet_desk: Desk, state: str | ServiceTrouble, told: dict[str, str]
) -> None:
    post = Post(state)
    assert await message(quiet_desk, post) == told
    ((key, *rest),) = post.sent
    assert key.startswith(f"{quiet_desk.call_sid}:call_w:")
    assert rest == [ANA, "See you.\nTuesday", quiet_desk.call_sid]


@pytest.mark.parametrize("state", sorted(set(STATES) - {"delivered"}))
def test_nothing_is_promised_of_a_message_that_may_not_arrive(state: str) -> None:
    assert "not known yet whether it arrives" in STATES[state]
    assert "sent" not in STATES[state].removeprefix("waiting to be sent").split()
    assert "delivered" not in STATES[state]


async def test_without_a_messenger_or_a_database_a_tool_is_out_of_order(quiet_desk: Desk) -> None:
    assert await quiet_desk.run("send_whatsapp_message", text="hello") == running.OUT_OF_ORDER
    nothing = await running.run(BUILT_IN["list_free_slots"], ToolCall("call_1", {}), {})
    assert nothing.result == running.OUT_OF_ORDER
