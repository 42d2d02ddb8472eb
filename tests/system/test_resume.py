"""A worker is killed in the middle of a call: what the caller hears, in each state the call can be in.

The stream never closes; the carrier stand-in judges by what was really played to the caller.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from shared.clips import load_manifest
from tests.counting_child import TABLE
from tests.stack import ROOT, Plan, Stack
from tests.standins.modem import decode
from tests.system.talk import ask, greeted, recording, worker_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.standins.carrier import Carrier
    from tests.standins.carrier_call import Call
    from tests.standins.carrier_playout import Playout

pytestmark = pytest.mark.system

CLIPS = load_manifest(ROOT / "audio_assets")
GREETING, BRIDGING = CLIPS["greeting"].audio, CLIPS["bridging"].audio
RATE_HZ = 8000
VOICE = "Good morning, this is the clinic. All our doctors are in today. What can we do for you?"
LONG_NUMBER, VOICE_NUMBER, TOOLS_NUMBER = "+15550000001", "+15550000002", "+15550000003"


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tools count their runs."""
    return tmp_path_factory.mktemp("counted") / "runs"


@pytest.fixture(scope="module")
def long_greeting() -> bytes:
    """A greeting of 9.6 s, no part of which sounds like another."""
    return GREETING + bytes(byte ^ 1 for byte in GREETING)


@pytest.fixture(scope="module")
def plan(counted: Path, long_greeting: bytes) -> Plan:
    counted.write_text("")
    clip = counted.with_name("long.ulaw")
    clip.write_bytes(long_greeting)
    agents = counted.with_name("agents.toml")
    agents.write_text(
        f'[agents.long]\ngreeting = "A long one."\ngreeting_clip = "{clip}"\nnumbers = ["{LONG_NUMBER}"]\n'
        f'[agents.voice]\ngreeting = "{VOICE}"\nnumbers = ["{VOICE_NUMBER}"]\n'
        f'[agents.tools]\ntools = ["book", "book_by_id", "end_call"]\nnumbers = ["{TOOLS_NUMBER}"]\n'
    )
    return Plan(
        pool_ready=3,
        child="tests.counting_child",
        env={"AGENTS_FILE": str(agents), "COUNTED_RUNS": str(counted)},
    )


@pytest.fixture
async def carrier(stack: Stack) -> AsyncIterator[Carrier]:
    await stack.ready()
    await stack.openai.control(script=[], llm_first_token_ms=stack.plan.llm_first_token_ms)
    async with stack.carrier() as made:
        yield made


def played(heard: Playout) -> bytes:
    """Give everything that was played, without the pauses: a busy machine may put one into a word."""
    return b"".join(span.audio for span in heard.spans)


def text(heard: Playout) -> str:
    """Give every word that was played."""
    return " ".join(word.text for word in decode(played(heard)))


async def kill(stack: Stack, call: Call) -> int:
    """Kill the worker that serves a call, and give what it was."""
    pid = await stack.until(lambda: worker_of(stack, call.call_sid), "the log names the worker")
    os.kill(pid, signal.SIGKILL)
    return int(pid)


async def resumed(stack: Stack, call: Call, killed: int) -> None:
    """Wait until another worker serves the call."""
    await stack.until(lambda: worker_of(stack, call.call_sid) not in {0, killed}, "another worker serves the call")


async def quiet(call: Call) -> None:
    """Wait until everything that was sent was heard, and said to be: the caller is being listened to."""
    await call.until(lambda: bool(call.streams[0].marks) and all(mark.echoed_at for mark in call.streams[0].marks))
    await call.hears(lambda heard: not heard.playing)


async def over(call: Call) -> None:
    """Hang up and check that the call went on on its one stream until then."""
    await call.hangup()
    record = await call.ended()
    assert record.outcome == "completed"
    assert record.ended_by == "caller"
    assert len(record.streams) == 1


async def asked(stack: Stack) -> list[list[dict[str, Any]]]:
    """Give the conversations the model was asked about, oldest first, without the prompt."""
    return await asyncio.to_thread(completions, stack)


def completions(stack: Stack) -> list[list[dict[str, Any]]]:
    """Give the same, blocking."""
    return [one["messages"][1:] for one in stack.openai.state_now()["log"] if one["kind"] == "completion"]


# --- the greeting -----------------------------------------------------------------------------------------------------


async def test_a_greeting_is_heard_once_and_whole(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial()
    await greeted(call)
    await resumed(stack, call, await kill(stack, call))
    await quiet(call)
    assert played(call.heard) == GREETING
    assert call.streams[0].clears == []
    await ask(call, "yes", "said:")
    assert (await asked(stack))[-1][0] == {"role": "assistant", "content": CLIPS["greeting"].text}
    await over(call)


async def test_a_kill_before_anything_was_said_costs_no_greeting(stack: Stack, carrier: Carrier) -> None:
    """It falls around `start`: who read that, and how much of the greeting was written, only the dead worker knew."""
    call = await carrier.dial()
    await kill(stack, call)
    await call.streaming()
    await quiet(call)
    assert played(call.heard).endswith(GREETING)
    await ask(call, "yes", "said:")
    await over(call)


async def test_a_greeting_longer_than_what_is_sent_at_once_goes_on(
    stack: Stack, carrier: Carrier, long_greeting: bytes
) -> None:
    call = await carrier.dial(to=LONG_NUMBER)
    await call.hears(lambda heard: heard.duration_s > 1.5)
    await resumed(stack, call, await kill(stack, call))
    await quiet(call)
    assert played(call.heard) == long_greeting
    await over(call)


async def test_a_greeting_of_the_voice_begins_again_and_is_heard_whole(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial(to=VOICE_NUMBER)
    await call.hears(lambda heard: "morning," in text(heard))
    await kill(stack, call)
    # The first word may follow the cut one too closely to be told from it.
    await call.hears(lambda heard: text(heard).endswith(VOICE.partition(", ")[2]))
    assert BRIDGING not in played(call.heard)
    await over(call)


async def test_a_greeting_can_be_interrupted_after_a_kill(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial()
    await greeted(call)
    await resumed(stack, call, await kill(stack, call))
    await ask(call, "interrupt", "said:")
    conversation = (await asked(stack))[-1]
    assert conversation[0]["content"].endswith("…")
    assert CLIPS["greeting"].text.startswith(conversation[0]["content"][:-1])
    assert played(call.heard).count(GREETING[: RATE_HZ // 2]) == 1
    await over(call)


# --- listening --------------------------------------------------------------------------------------------------------


async def test_a_caller_who_is_listened_to_notices_nothing_and_is_remembered(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial()
    await greeted(call)
    await quiet(call)
    await ask(call, "remember", "purple.")
    await quiet(call)
    media, clears = len(call.streams[0].media), len(call.streams[0].clears)
    await resumed(stack, call, await kill(stack, call))
    frames = call.streams[0].frames_sent
    await call.until(lambda: call.streams[0].frames_sent > frames + 50)
    assert len(call.streams[0].media) == media, "nothing was played"
    assert len(call.streams[0].clears) == clears
    answer = await ask(call, "recall", "told", "purple.")
    assert answer.endswith("You told me: My favourite colour is purple.")
    await over(call)


async def test_what_a_caller_is_saying_is_understood(stack: Stack, carrier: Carrier) -> None:
    """The words before the kill come from the tape. At most one frame of 20 ms is lost with the worker that read it."""
    call = await carrier.dial()
    await greeted(call)
    await quiet(call)
    said = recording("book")
    half = len(said) // 2 // 160 * 160
    before = await asked(stack)
    await call.say(said[:half])
    await kill(stack, call)
    await call.say(said[half:])
    await understood(stack, call)
    assert len(await asked(stack)) == len(before) + 1, "it was one turn"
    await over(call)


async def test_what_a_caller_has_just_said_is_understood(stack: Stack, carrier: Carrier) -> None:
    """All of it comes from the tape, unless the model was asked already: then from the journal."""
    call = await carrier.dial()
    await greeted(call)
    await quiet(call)
    await call.say(recording("book"))
    await kill(stack, call)
    await understood(stack, call)
    await over(call)


async def understood(stack: Stack, call: Call) -> None:
    """Wait for the answer and check that it answers one turn with every word of it; one may be lost with its frame."""
    await call.hears(lambda heard: "said:" in text(heard) and text(heard).endswith("."))
    users = [message["content"] for message in (await asked(stack))[-1] if message["role"] == "user"]
    assert len(users) == 1
    words = ["I", "would", "like", "to", "book", "an", "appointment", "for", "Friday."]
    assert sum(word in users[0].split() for word in words) >= len(words) - 1, users
    assert text(call.heard).count("said:") == 1


# --- thinking and speaking --------------------------------------------------------------------------------------------


async def test_a_caller_who_waits_for_an_answer_hears_bridging_words_and_the_answer_once(
    stack: Stack, carrier: Carrier
) -> None:
    call = await carrier.dial()
    await greeted(call)
    await quiet(call)
    await stack.openai.control(llm_first_token_ms=3_000)
    before = len(await asked(stack))
    await call.say(recording("book"))
    await stack.until(lambda: len(completions(stack)) > before, "the model is asked")
    await kill(stack, call)
    await call.hears(lambda heard: text(heard).endswith("Friday."))
    assert text(call.heard) == "You said: I would like to book an appointment for Friday."
    assert played(call.heard).index(BRIDGING) < decode(played(call.heard))[0].start_s * RATE_HZ
    conversations = await asked(stack)
    assert conversations[-1] == conversations[-2], "it was asked the same"
    await over(call)


async def test_of_an_answer_that_broke_off_the_heard_sentences_are_not_asked_for_again(
    stack: Stack, carrier: Carrier
) -> None:
    call = await carrier.dial()
    await greeted(call)
    await quiet(call)
    sentences = [f"Sentence number {number} says something." for number in range(12)]
    await stack.openai.control(script=[{"text": " ".join(sentences)}, {"text": "And this is the rest."}])
    await call.say(recording("book"))
    await call.hears(lambda heard: text(heard).count("something.") >= 3)
    await kill(stack, call)
    await call.hears(lambda heard: text(heard).endswith("And this is the rest."))
    assert BRIDGING in played(call.heard)
    conversation = (await asked(stack))[-1]
    assert [message["role"] for message in conversation[-3:]] == ["user", "assistant", "developer"]
    remembered = conversation[-2]["content"].split(". ")
    heard = text(call.heard)
    assert conversation[-2]["content"] in heard, "nothing is remembered that was not heard"
    assert 2 <= len(remembered) < len(sentences)
    assert heard.count("something.") <= len(remembered) + 1, "what was not played yet was taken back"
    await over(call)


async def test_a_call_survives_three_kills_and_remembers_everything(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial()
    await greeted(call)
    for _ in range(3):
        await resumed(stack, call, await kill(stack, call))
    await quiet(call)
    await ask(call, "remember", "purple.")
    await quiet(call)
    answer = await ask(call, "recall", "told", "purple.")
    assert "You told me: My favourite colour is purple." in answer
    await over(call)


async def test_a_call_that_kills_every_worker_ends_with_an_apology(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial()
    await greeted(call)
    for _ in range(3):
        await resumed(stack, call, await kill(stack, call))
    await kill(stack, call)
    record = await call.ended()
    assert record.stream.close_code == 1011
    assert record.spoken, "an apology is played or said"
    assert record.verbs[-1] == "Hangup"
    assert stack.metric("offhook_calls_total", end_reason="poisoned") == 1


async def test_a_goodbye_is_said_to_the_end_and_the_call_is_ended(stack: Stack, carrier: Carrier) -> None:
    """The kill may fall before the goodbye, into it, or into the tool that ends the call: each ends it the same way."""
    call = await carrier.dial()
    await greeted(call)
    await quiet(call)
    before = len(await asked(stack))
    await call.say(recording("goodbye"))
    await stack.until(lambda: len(completions(stack)) > before, "the model is asked")
    await kill(stack, call)
    record = await call.ended()
    assert record.ended_by == "twiml"
    assert record.verbs[-1] == "Hangup"
    assert "Goodbye." in text(call.heard) or CLIPS["goodbye"].audio in played(call.heard)


# --- tools ------------------------------------------------------------------------------------------------------------


def runs(counted: Path) -> int:
    """Count the tools' runs since `in_a_tool`."""
    return len(counted.read_text(encoding="utf-8").splitlines())


async def in_a_tool(stack: Stack, carrier: Carrier, counted: Path, tool: str) -> Call:
    """Bring a call to where a tool runs, which never ends."""
    await asyncio.to_thread(counted.write_text, "")
    call = await carrier.dial(to=TOOLS_NUMBER)
    await greeted(call)
    await quiet(call)
    await stack.openai.control(script=[{"tool": tool, "arguments": {"guests": 4}}])
    await call.say(recording("book"))
    await stack.until(lambda: runs(counted), "the tool runs")
    return call


async def test_a_tool_in_flight_is_run_once_and_the_model_is_told_that_nobody_knows(
    stack: Stack, carrier: Carrier, counted: Path
) -> None:
    call = await in_a_tool(stack, carrier, counted, "book")
    await stack.openai.control(script=[{"tool": "book", "arguments": {"guests": 4}}])  # it insists
    await kill(stack, call)
    await call.hears(lambda heard: "unknown," in text(heard) and "checked." in text(heard))
    assert BRIDGING in played(call.heard)
    assert runs(counted) == 1
    await over(call)


async def test_a_tool_that_can_look_its_call_up_is_run_once_and_its_result_is_told(
    stack: Stack, carrier: Carrier, counted: Path
) -> None:
    call = await in_a_tool(stack, carrier, counted, "book_by_id")
    await kill(stack, call)
    await call.hears(lambda heard: text(heard).endswith(f"The result is {TABLE}."))
    assert runs(counted) == 1
    await over(call)


async def test_a_tool_that_the_caller_cancelled_is_not_taken_up_after_a_kill(
    stack: Stack, carrier: Carrier, counted: Path
) -> None:
    call = await in_a_tool(stack, carrier, counted, "book")
    await ask(call, "remember", "purple.")
    await quiet(call)
    media = len(call.streams[0].media)
    await resumed(stack, call, await kill(stack, call))
    frames = call.streams[0].frames_sent
    await call.until(lambda: call.streams[0].frames_sent > frames + 50)
    assert len(call.streams[0].media) == media, "nothing was owed"
    await ask(call, "recall", "told", "purple.")
    assert runs(counted) == 1
    await over(call)
