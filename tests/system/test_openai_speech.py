"""A whole call in which OpenAI hears and speaks, judged by the caller."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.stack import LEXICON, Plan, Stack
from tests.standins.carrier_settings import CallFailed
from tests.system.talk import recording

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.standins.carrier import Carrier
    from tests.standins.carrier_call import Call

pytestmark = pytest.mark.system

ANSWER = "We open at nine, every day of the week. See you then. Good day."
HEARD = "You said: My favourite colour is purple."
PATIENCE_S = 25.0


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Let OpenAI hear and speak, and greet with one short word."""
    agents = tmp_path_factory.mktemp("agents") / "agents.toml"
    agents.write_text(f'[agents.default]\ngreeting = "No."\ngreeting_clip = "{LEXICON / "no.ulaw"}"\n')
    env = {"AGENTS_FILE": str(agents), "STT_PROVIDER": "openai", "TTS_PROVIDER": "openai"}
    return Plan(pool_ready=2, prefetch_workers=1, env=env)


@pytest.fixture
async def carrier(stack: Stack) -> AsyncIterator[Carrier]:
    """Give a carrier; afterwards every fault is over, and the pool at rest."""
    settings = (await stack.openai.state())["settings"]
    await stack.ready()
    await stack.openai.control(speech_realtime_factor=50.0)  # a busy machine must not put holes into words
    try:
        async with stack.carrier() as made:
            yield made
    finally:
        await stack.openai.control(**settings, reset=True, script=[])
    await stack.until(lambda: stack.metric("offhook_calls_active") == 0, "the pool is at rest")


async def listening(stack: Stack, carrier: Carrier) -> Call:
    """Place a call and wait until the greeting was heard to its end, and the ear is there."""
    call = await carrier.dial()
    await call.streaming()
    await call.until(lambda: any(mark.echoed_at and not mark.cleared for mark in call.streams[0].marks))
    await stack.until(lambda: stack.openai.state_now()["counters"].get("realtime_open", 0), "the ear is connected")
    return call


async def hears_once(call: Call, text: str) -> None:
    """Wait for the last word of a text, and check that every word of it was heard once and nothing else."""
    last = text.rsplit(maxsplit=1)[-1]
    with contextlib.suppress(CallFailed):  # what was heard says more
        await call.hears(lambda heard: heard.text().endswith(last) and not heard.playing, PATIENCE_S)
    assert call.heard.text() == text


async def hung_up(call: Call) -> None:
    await call.hangup()
    record = await call.ended()
    assert (record.outcome, record.ended_by) == ("completed", "caller")


async def test_what_is_said_is_heard_and_answered(stack: Stack, carrier: Carrier) -> None:
    call = await listening(stack, carrier)
    await call.say(recording("remember"))
    await hears_once(call, HEARD)
    await stack.openai.control(script=[{"text": ANSWER}])
    await call.say(recording("hours"))
    await hears_once(call, f"{HEARD} {ANSWER}")
    await hung_up(call)
    log = (await stack.openai.state())["log"]
    assert [entry["text"] for entry in log if entry["kind"] == "transcript"] == [
        "My favourite colour is purple.",
        "What are your opening hours?",
    ]
    await stack.until(lambda: not stack.openai.state_now()["counters"]["realtime_open"], "the ear is gone")


async def test_an_interruption_is_heard_and_what_was_not_played_is_not_remembered(
    stack: Stack, carrier: Carrier
) -> None:
    call = await listening(stack, carrier)
    long = " ".join(["One two three four five six seven eight nine ten."] * 4)
    await stack.openai.control(script=[{"text": long}])
    await call.say(recording("hours"))
    await call.hears(lambda heard: "four" in heard.text(), PATIENCE_S)
    await call.say(recording("interrupt"))
    await call.hears(lambda heard: heard.text().endswith("moment."), PATIENCE_S)
    heard = call.heard.text()
    await hung_up(call)
    said = heard.partition(" You said:")[0]
    assert long.startswith(said)
    assert said != long
    asked = [entry for entry in (await stack.openai.state())["log"] if entry["kind"] == "completion"][-1]
    remembered = next(
        one["content"] for one in asked["messages"] if one["role"] == "assistant" and "One" in one["content"]
    )
    words = len(remembered.split())
    assert long.startswith(remembered)
    assert abs(words - len(said.split())) <= 1  # where a word is in the sound is a guess


async def test_lost_connections_cost_no_word(stack: Stack, carrier: Carrier) -> None:
    call = await listening(stack, carrier)
    await stack.openai.control(script=[{"text": ANSWER}], drop_speech_after_chunks=4, drop_speech_next=2)
    await stack.openai.control(drop_realtime=True)
    await call.say(recording("hours"))
    await hears_once(call, ANSWER)
    await hung_up(call)
    retried = [
        await asyncio.to_thread(stack.metric, "offhook_provider_retries_total", provider=provider, cause="lost")
        for provider in ("tts", "stt")
    ]
    assert min(retried) >= 1
