"""A whole call with ElevenLabs' ear and voice, and no other provider of speech."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.stack import Plan
from tests.system.talk import ask, recording

if TYPE_CHECKING:
    from tests.stack import Stack

pytestmark = pytest.mark.system

ANSWER = "We open at nine. See you then. Good day."


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Have an agent with a voice of its own: its connection is made while the call comes in."""
    agents = tmp_path_factory.mktemp("agents") / "agents.toml"
    agents.write_text('[agents.default]\ngreeting = "Good evening to everybody who calls."\nvoice = "clinic-voice"\n')
    chosen = {
        "STT_PROVIDER": "elevenlabs",
        "TTS_PROVIDER": "elevenlabs",
        "CARTESIA_API_KEY": "",
        "CARTESIA_VOICE_ID": "",
    }
    return Plan(pool_ready=1, prefetch_workers=1, elevenlabs=True, env={"AGENTS_FILE": str(agents), **chosen})


async def test_a_call_is_held_with_the_words_of_elevenlabs(stack: Stack) -> None:
    """A spoken greeting, a barge-in, a tool, both connections lost in the middle of an answer, and the goodbye."""
    async with stack.carrier() as carrier:
        call = await carrier.dial()
        await call.streaming()
        await call.hears(lambda heard: "evening" in heard.text())
        await call.say(recording("interrupt"))
        await call.until(lambda: bool(call.streams[0].clears))
        await call.hears(lambda heard: "said:" in heard.text())
        assert "calls." not in call.heard.text(), "the barge-in took back what was not played yet"
        await ask(call, "what-time", "It", "UTC.")
        await stack.openai.control(script=[{"text": ANSWER}])
        await stack.elevenlabs.control(drop_tts_after_chunks=11, drop_tts_next=1, drop_all="stt")
        assert await ask(call, "my-name", "day.") == ANSWER
        await call.say(recording("goodbye"))
        record = await call.ended()
    assert record.ended_by == "twiml"
    assert "Goodbye." in call.heard.text()
    state = await stack.elevenlabs.state()
    assert state["settings"]["drop_tts_next"] == 0, "the voice was cut off"
    said = {(entry["voice"], entry["language"]) for entry in state["log"] if entry["kind"] == "tts_text"}
    assert said == {("clinic-voice", "en")}
    assert "tts_opened" not in (await stack.cartesia.state())["counters"]
