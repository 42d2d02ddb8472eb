"""Voices over the agent's: what stops it, what does not, and what is heard of it; judged from the caller's side."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from shared.clips import load_manifest
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

GREETING = load_manifest(ROOT / "audio_assets")["greeting"].audio
RATE_HZ = 8000
PATIENT_NUMBER = "+15550000001"
LONG = (
    "The first house is red. The second house is blue. The third house is green. The fourth house is yellow. "
    "The fifth house is black."
)
QUESTION = "Do you want the red house or the blue one?"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    agents: Path = tmp_path_factory.mktemp("agents") / "agents.toml"
    agents.write_text(f'[agents.patient]\nnumbers = ["{PATIENT_NUMBER}"]\n[agents.patient.turns]\nmin_words = 3\n')
    return Plan(pool_ready=2, env={"AGENTS_FILE": str(agents)})


@pytest.fixture
async def carrier(stack: Stack) -> AsyncIterator[Carrier]:
    await stack.ready()
    await stack.openai.control(script=[])
    async with stack.carrier() as made:
        yield made


def noise() -> bytes:
    """Something the voice detector takes for a voice, and that holds no word: speech played backwards, half a second."""
    return recording("what-time")[::-1][:4000]


def text(heard: Playout) -> str:
    """Give every word that was played, the silences between left out."""
    return " ".join(word.text for word in decode(b"".join(span.audio for span in heard.spans)))


async def quiet(call: Call) -> None:
    """Wait until everything that was sent was heard, and said to be."""
    await call.until(lambda: bool(call.streams[0].marks) and all(mark.echoed_at for mark in call.streams[0].marks))
    await call.hears(lambda heard: not heard.playing and heard.quiet_s > 0.3)


async def answering(stack: Stack, call: Call, answer: str, until: str, *later: str) -> None:
    """Interrupt the greeting, have the agent say an answer (and others later), and wait until a word of it was heard."""
    await greeted(call)
    await stack.openai.control(script=[{"text": each} for each in (answer, *later)])
    await call.say(recording("remember"))
    await call.hears(lambda heard: until in text(heard))


async def speak_over(call: Call, ulaw: bytes) -> None:
    """Say something, and wait until what the carrier had to play was taken back."""
    before = len(call.streams[0].clears)
    await call.say(ulaw)
    await call.until(lambda: len(call.streams[0].clears) > before)


async def asked(stack: Stack) -> list[list[dict[str, Any]]]:
    """Give the conversations the model was asked about, oldest first, without the prompt."""
    return [one["messages"][1:] for one in (await stack.openai.state())["log"] if one["kind"] == "completion"]


def once_in_order(heard: str, whole: str) -> bool:
    """Say whether a text was heard whole and in order; a word that was cut, and the piece before it, may be there twice."""
    words = iter(heard.split())
    return all(word in words for word in whole.split())


async def ended(call: Call) -> None:
    await call.hangup()
    await call.ended()


@pytest.mark.parametrize("what", ["uh-huh", "noise"])
async def test_who_only_listens_does_not_stop_the_agent(stack: Stack, carrier: Carrier, what: str) -> None:
    call = await carrier.dial()
    await answering(stack, call, LONG, "blue.")
    before = len(await asked(stack))
    await speak_over(call, noise() if what == "noise" else recording(what))
    await call.hears(lambda heard: "black." in text(heard))
    heard = text(call.heard)
    assert once_in_order(heard, LONG), heard
    assert len(heard.split()) <= len(LONG.split()) + 3, "not more than a short piece is heard twice"
    assert len(await asked(stack)) == before, "the model was not asked again"
    await call.hears(lambda heard: once_in_order(text(heard), LONG))  # a halt is quiet, too
    await quiet(call)
    await ask(call, "remember", "purple.")
    conversation = (await asked(stack))[-1]
    assert [each["role"] for each in conversation[-3:]] == ["user", "assistant", "user"]
    assert conversation[-2]["content"] == LONG, "the context has the answer once and whole"
    assert conversation[-1]["content"] == "My favourite colour is purple.", "and nothing of what was no turn"
    await ended(call)


async def test_who_wants_to_speak_stops_the_agent(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial()
    await answering(stack, call, LONG, "blue.")
    await speak_over(call, recording("interrupt"))
    await call.hears(lambda heard: "said:" in text(heard))
    heard = text(call.heard)
    assert "fourth" not in heard
    conversation = (await asked(stack))[-1]
    assert conversation[-1]["role"] == "user"
    said = conversation[-2]["content"]
    assert LONG.startswith(said), "the context has what was heard"
    assert heard.startswith(f"{said}"[:20])
    assert "blue." in said
    assert "black" not in said
    await ended(call)


async def test_two_voices_in_a_row_cost_nothing_and_the_third_may_be_a_real_one(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial()
    await answering(stack, call, LONG, "red.")
    await speak_over(call, recording("uh-huh"))
    await call.hears(lambda heard: "blue." in text(heard))
    await speak_over(call, noise())
    await call.hears(lambda heard: "green." in text(heard))
    await call.say(recording("wait"))
    await call.hears(lambda heard: "said:" in text(heard))
    heard = text(call.heard)
    assert once_in_order(heard, LONG.partition("green.")[0])
    assert "black." not in heard
    await ended(call)


async def test_who_goes_on_speaking_after_a_backchannel_interrupts(stack: Stack, carrier: Carrier) -> None:
    """The words come while the agent still halts because of what was said before them."""
    call = await carrier.dial()
    await answering(stack, call, LONG, "red.")
    await call.say(recording("uh-huh") + b"\xff" * 1600 + recording("wait"))
    await call.hears(lambda heard: "said:" in text(heard))
    assert "black." not in text(call.heard)
    await ended(call)


async def test_an_okay_at_the_very_end_of_a_question_is_its_answer(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial()
    await answering(stack, call, QUESTION, "or")
    await call.hears(lambda heard: "the blue" in text(heard))
    await call.say(recording("okay"))
    await call.hears(lambda heard: "said:" in text(heard))
    assert (await asked(stack))[-1][-1] == {"role": "user", "content": "Okay."}
    await ended(call)


async def test_noise_at_the_very_end_of_an_answer_costs_none_of_it(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial()
    await answering(stack, call, QUESTION, "or")
    await call.hears(lambda heard: "the blue" in text(heard))
    await call.say(noise())
    await call.hears(lambda heard: once_in_order(text(heard), QUESTION))
    await ended(call)


@pytest.mark.parametrize("what", ["uh-huh", "noise"])
async def test_a_greeting_that_is_spoken_over_is_heard_whole(stack: Stack, carrier: Carrier, what: str) -> None:
    call = await carrier.dial()
    await call.hears(lambda heard: heard.duration_s > 1.5)
    await speak_over(call, noise() if what == "noise" else recording(what))
    await call.until(lambda: any(mark.echoed_at and not mark.cleared for mark in call.streams[0].marks))
    audio = b"".join(span.audio for span in call.heard.spans)
    cut = next(index for index, (one, other) in enumerate(zip(audio, GREETING, strict=False)) if one != other)
    assert audio.endswith(GREETING[cut:]), "it goes on where it was cut"
    assert 0 < len(audio) - len(GREETING) < RATE_HZ, "from a little before"
    await ask(call, "yes", "said:")
    assert (await asked(stack))[-1][0]["content"].startswith("Hello, thanks for calling.")
    assert not (await asked(stack))[-1][0]["content"].endswith("…")
    await ended(call)


async def test_an_agent_that_waits_for_words_does_not_even_pause(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial(to=PATIENT_NUMBER)
    await answering(stack, call, LONG, "red.")
    before = len(call.streams[0].clears)
    await call.say(recording("yes"))
    await call.hears(lambda heard: "green." in text(heard))
    assert len(call.streams[0].clears) == before
    await call.say(recording("interrupt"))
    await call.hears(lambda heard: "said:" in text(heard))
    assert "black." not in text(call.heard)
    assert (await asked(stack))[-1][-1]["content"] == "Excuse me, wait a moment.", "the yes is forgotten"
    await ended(call)


async def test_a_worker_that_dies_while_the_agent_halts_owes_the_rest(stack: Stack, carrier: Carrier) -> None:
    call = await carrier.dial()
    await answering(stack, call, LONG, "blue.", "And this is the rest.")
    pid = await stack.until(lambda: worker_of(stack, call.call_sid), "the log names the worker")
    before = len(call.streams[0].clears)
    saying = asyncio.create_task(call.say(noise()))
    await call.until(lambda: len(call.streams[0].clears) > before)
    os.kill(pid, signal.SIGKILL)
    await saying
    await call.hears(lambda heard: text(heard).endswith("And this is the rest."))
    conversation = (await asked(stack))[-1]
    assert [message["role"] for message in conversation[-3:]] == ["user", "assistant", "developer"]
    assert LONG.startswith(conversation[-2]["content"])
    assert conversation[-2]["content"] in text(call.heard), "nothing is remembered that was not heard"
    await ended(call)


async def test_a_worker_that_dies_while_a_greeting_halts_leaves_its_rest_to_the_next(
    stack: Stack, carrier: Carrier
) -> None:
    call = await carrier.dial()
    await call.hears(lambda heard: heard.duration_s > 1.5)
    pid = await stack.until(lambda: worker_of(stack, call.call_sid), "the log names the worker")
    before = len(call.streams[0].clears)
    saying = asyncio.create_task(call.say(noise()))
    await call.until(lambda: len(call.streams[0].clears) > before)
    os.kill(pid, signal.SIGKILL)
    await saying
    await call.until(lambda: any(mark.echoed_at and not mark.cleared for mark in call.streams[0].marks))
    audio = b"".join(span.audio for span in call.heard.spans)
    assert audio.endswith(GREETING[-2 * RATE_HZ :])
    assert audio.startswith(GREETING[:RATE_HZ])
    await ended(call)
