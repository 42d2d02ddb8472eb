"""Answers that are begun before the caller has certainly finished: heard once, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.stack import Plan, Stack
from tests.system.talk import ask, greeted, recording

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.standins.carrier import Carrier

pytestmark = pytest.mark.system

PAUSE = b"\xff" * 4000
"""Half a second: half of what ends a turn here, and long enough for an answer to be begun."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    agents: Path = tmp_path_factory.mktemp("agents") / "agents.toml"
    agents.write_text("[agents.default]\n[agents.default.turns]\neager = true\nstop = 1.0\n")
    return Plan(pool_ready=2, env={"AGENTS_FILE": str(agents)})


@pytest.fixture
async def carrier(stack: Stack) -> AsyncIterator[Carrier]:
    await stack.ready()
    await stack.openai.control(reset=True)
    async with stack.carrier() as made:
        yield made


async def completions(stack: Stack) -> list[dict[str, Any]]:
    """Give what the model was asked, in order."""
    return [entry for entry in (await stack.openai.state())["log"] if entry["kind"] == "completion"]


async def test_an_answer_that_was_begun_ahead_is_the_only_one_and_is_remembered(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial()
    await greeted(call)
    heard = await ask(call, "remember", "purple")
    (asked,) = await completions(stack)
    assert asked["messages"][-1] == {"role": "user", "content": "My favourite colour is purple."}
    assert heard.count("purple") == 1
    await ask(call, "recall", "purple")
    last = (await completions(stack))[-1]["messages"]
    assert [each["content"] for each in last if each["role"] == "user"] == [
        "My favourite colour is purple.",
        "What is my favourite colour?",
    ]
    assert sum(each["role"] == "assistant" for each in last) >= 2, "greeting and first answer"
    await call.hangup()


async def test_a_tool_is_not_run_ahead_but_when_the_turn_has_ended(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial()
    await greeted(call)
    heard = await ask(call, "what-time", "UTC.")
    assert heard.count("UTC.") == 1
    asked = await completions(stack)
    with_result = [each for each in asked if each["messages"][-1]["role"] == "tool"]
    assert len(with_result) == 1
    assert len(asked) == 3, "ahead, again at the end of the turn, and with what the tool gave"
    await call.hangup()


async def test_a_caller_who_goes_on_is_answered_once_and_wholly(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial()
    await greeted(call)
    await call.say(recording("remember") + PAUSE + recording("hours"))
    await call.hears(lambda heard: "opening" in heard.text())
    await call.hears(lambda heard: not heard.playing and heard.quiet_s > 0.5)
    words = call.heard.text()
    assert words.count("purple") <= 1, "what was begun ahead was never said"
    last = (await completions(stack))[-1]["messages"]
    assert [each["content"] for each in last if each["role"] == "user"] == [
        "My favourite colour is purple. What are your opening hours?"
    ]
    await call.hangup()
