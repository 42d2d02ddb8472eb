"""Whole calls in which Cartesia says when the caller has finished, beside an agent whose language that model does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.stack import LEXICON, Plan
from tests.system.talk import ask, recording

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.stack import Stack
    from tests.standins.carrier import Carrier

pytestmark = pytest.mark.system

PORTUGUESE_NUMBER, EAGER_NUMBER = "+15550000001", "+15550000002"
BOOK = "I would like to book an appointment for Friday."
LONG = (
    "The first house is red. The second house is blue. The third house is green. The fourth house is yellow. "
    "The fifth house is black."
)
PAUSE = b"\xff" * 8000  # 1 s: five times what makes a pause, a third of the patience


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Have agents of two languages, and one that answers ahead."""
    agents = tmp_path_factory.mktemp("agents") / "agents.toml"
    clip = f'greeting = "No."\ngreeting_clip = "{LEXICON / "no.ulaw"}"\n'
    agents.write_text(
        f"[agents.default]\n{clip}"
        f'[agents.portuguese]\nnumbers = ["{PORTUGUESE_NUMBER}"]\nlanguage = "pt-BR"\n{clip}'
        f'[agents.eager]\nnumbers = ["{EAGER_NUMBER}"]\n{clip}[agents.eager.turns]\neager = true\n'
    )
    return Plan(pool_ready=1, prefetch_workers=1, env={"AGENTS_FILE": str(agents), "CARTESIA_STT_MODEL": "ink-2"})


@pytest.fixture
async def carrier(stack: Stack) -> AsyncIterator[Carrier]:
    """Give a carrier; afterwards nothing is wrong any more."""
    before = (await stack.cartesia.state())["settings"]
    await stack.ready()
    try:
        async with stack.carrier() as made:
            yield made
    finally:
        await stack.cartesia.control(**before, reset=True)
        await stack.openai.control(script=[], reset=True)


async def asked(stack: Stack) -> list[str]:
    """Give what the model was asked about, once for each completion."""
    log: list[dict[str, Any]] = (await stack.openai.state())["log"]
    return [entry["messages"][-1]["content"] for entry in log if entry["kind"] == "completion"]


async def test_the_caller_pauses_is_cut_off_listens_and_interrupts(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial()
    await call.streaming()
    said = recording("book")
    middle = len(said) // 2 // 160 * 160
    await call.say(said[:middle] + PAUSE + said[middle:])
    await call.hears(lambda heard: "Friday." in heard.text())
    assert await asked(stack) == [BOOK], "the pause was none"
    said = recording("my-name")
    await call.say(said[:4000])
    await stack.cartesia.control(drop_all="stt")
    await call.say(said[4000:])
    await call.hears(lambda heard: "name?" in heard.text())
    assert await asked(stack) == [BOOK, "What is my name?"], "the lost connection cost no word"
    await stack.openai.control(script=[{"text": LONG}])
    await ask(call, "remember", "red.")
    await call.say(recording("uh-huh"))
    await call.hears(lambda heard: "blue." in heard.text())
    await call.say(recording("interrupt"))
    await call.hears(lambda heard: "said: Excuse me, wait a moment." in heard.text())
    assert "black." not in call.heard.text()
    await call.say(recording("goodbye"))
    await call.ended()
    opened = [entry["query"] for entry in (await stack.cartesia.state())["log"] if entry["kind"] == "stt_open"]
    assert [query["turn_end_timeout_ms"] for query in opened] == ["3000", "3000"]


async def test_a_language_that_the_model_does_not_know_is_heard_by_another(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial(to=PORTUGUESE_NUMBER)
    await call.streaming()
    await ask(call, "pt-hours", "São")
    assert (await asked(stack))[0] == "Que horas são, por favor?"
    await call.hangup()
    await call.ended()
    (opened,) = [entry["query"] for entry in (await stack.cartesia.state())["log"] if entry["kind"] == "stt_open"]
    assert (opened["model"], opened["language"]) == ("ink-whisper", "pt")


async def test_an_eager_agent_asks_once_ahead_of_the_turns_end(stack: Stack, carrier: Carrier) -> None:
    await stack.cartesia.control(stt_turn_end_ms=1000)
    call = await carrier.dial(to=EAGER_NUMBER)
    await call.hears(lambda heard: bool(heard.duration_s))
    await ask(call, "remember", "purple.")
    assert await asked(stack) == ["My favourite colour is purple."]
    openai, cartesia = (await stack.openai.state())["log"], (await stack.cartesia.state())["log"]
    completion = next(entry for entry in openai if entry["kind"] == "completion")
    final = next(entry for entry in cartesia if entry["kind"] == "stt_final")
    assert completion["at"] < final["at"]
    await call.say(recording("remember") + b"\xff" * 4000 + recording("my-name"))
    await call.hears(lambda heard: "name?" in heard.text())
    assert "purple. What is my name?" in call.heard.text(), "what was begun in between is not heard"
    await call.hangup()
    await call.ended()
