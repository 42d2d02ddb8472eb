"""Providers that fail in a call, judged by the caller: every word heard once, whatever was lost on the way."""

from __future__ import annotations

import asyncio
import audioop
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.effort import some
from tests.stack import LEXICON, ROOT, Plan, Stack
from tests.standins.carrier_settings import CallFailed
from tests.standins.cartesia_tts import tone
from tests.system.talk import recording
from tests.tones import distortion_db, largest_jump

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.standins.carrier import Carrier
    from tests.standins.carrier_call import Call

pytestmark = pytest.mark.system

BRIDGING = (ROOT / "audio_assets" / "bridging.ulaw").read_bytes()
ANSWER = "We open at nine. See you then. Good day."
HEARD = "You said: My favourite colour is purple."
PATIENCE_S = 25.0
TONE_HZ = 1004.0

Faults = dict[str, Any]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Greet with one short word, so that the callers of this module come to the point."""
    agents = tmp_path_factory.mktemp("agents") / "agents.toml"
    agents.write_text(f'[agents.default]\ngreeting = "No."\ngreeting_clip = "{LEXICON / "no.ulaw"}"\n')
    return Plan(pool_ready=2, prefetch_workers=1, env={"AGENTS_FILE": str(agents)})


@pytest.fixture
async def carrier(stack: Stack) -> AsyncIterator[Carrier]:
    """Give a carrier; afterwards every fault is over, and the pool at rest."""
    cartesia = (await stack.cartesia.state())["settings"]
    openai = (await stack.openai.state())["settings"]
    await stack.ready()
    await stack.cartesia.control(tts_realtime_factor=50.0)  # a busy machine must not put holes into words
    try:
        async with stack.carrier() as made:
            yield made
    finally:
        await stack.cartesia.control(**cartesia, reset=True)
        await stack.openai.control(**openai, reset=True, script=[])
    await stack.until(lambda: stack.metric("offhook_calls_active") == 0, "the pool is at rest")


async def listening(stack: Stack, carrier: Carrier) -> Call:
    """Place a call and wait until the greeting was heard to its end, and the ear is there."""
    call = await carrier.dial()
    await call.streaming()
    await call.until(lambda: any(mark.echoed_at and not mark.cleared for mark in call.streams[0].marks))
    await stack.until(lambda: any_warm(stack, "stt"), "the ear is connected")
    return call


def any_warm(stack: Stack, resource: str) -> bool:
    """Say whether a worker has a warm resource."""
    return any(stack.metric("offhook_worker_warm", worker=str(slot), resource=resource) for slot in range(6))


async def hears_once(call: Call, text: str) -> None:
    """Wait for the last word of a text, and check that every word of it was heard once and nothing else."""
    last = text.rsplit(maxsplit=1)[-1]
    with contextlib.suppress(CallFailed):  # what was heard says more
        await call.hears(lambda heard: heard.text().endswith(last) and not heard.playing, PATIENCE_S)
    assert call.heard.text() == text


async def hung_up(call: Call) -> None:
    """Hang up, and check that nothing else had ended the call."""
    await call.hangup()
    record = await call.ended()
    assert (record.outcome, record.ended_by) == ("completed", "caller")


async def goes_on(call: Call) -> None:
    """Check that the call can still be talked on, then hang up."""
    before = len(call.heard.words())
    await call.say(recording("yes"))
    await call.hears(lambda heard: "said:" in [word.text for word in heard.words()[before:]], PATIENCE_S)
    await hung_up(call)


async def retries(stack: Stack, provider: str, cause: str) -> float:
    return await asyncio.to_thread(stack.metric, "offhook_provider_retries_total", provider=provider, cause=cause)


# --- a short trouble: no word is lost, none is said twice ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "cause"),
    some(
        [
            ({"drop_all": "tts"}, "lost"),
            ({"close_all": "tts"}, "lost"),
            ({"drop_all": "tts", "refuse_status": 503, "refuse_kind": "tts", "refuse_next": 2}, "failed"),
            ({"drop_all": "tts", "refuse_status": 429, "refuse_kind": "tts", "refuse_next": 2}, "limited"),
            ({"tts_error_code": 500, "tts_error_next": 1}, "failed"),
            ({"tts_error_code": 429, "tts_error_next": 1}, "limited"),
            ({"drop_tts_after_chunks": 1, "drop_tts_next": 1}, "lost"),
            ({"drop_tts_after_chunks": 13, "drop_tts_next": 1}, "lost"),
            ({"drop_tts_after_chunks": 17, "drop_tts_next": 2}, "lost"),
        ],
        3,
    ),
    ids=str,
)
async def test_a_voice_that_fails_and_comes_back_says_every_word_once(
    stack: Stack, carrier: Carrier, faults: Faults, cause: str
) -> None:
    """Before the answer and in its middle."""
    before = await retries(stack, "tts", cause)
    call = await listening(stack, carrier)
    await stack.openai.control(script=[{"text": ANSWER}])
    await stack.cartesia.control(**faults)
    await call.say(recording("remember"))
    await hears_once(call, ANSWER)
    assert await retries(stack, "tts", cause) > before
    assert BRIDGING not in call.heard.audio()
    await hung_up(call)


async def test_what_is_to_be_said_while_the_voice_connects_is_heard(stack: Stack, carrier: Carrier) -> None:
    """The answer comes in the second in which there is no connection."""
    call = await listening(stack, carrier)
    await stack.openai.control(script=[{"text": ANSWER}])
    await stack.cartesia.control(connect_ms=1500)
    await call.say(recording("remember"))
    await stack.cartesia.control(drop_all="tts")
    await hears_once(call, ANSWER)
    await goes_on(call)


async def test_a_voice_that_takes_the_text_and_says_nothing_is_replaced(stack: Stack, carrier: Carrier) -> None:
    call = await listening(stack, carrier)
    await stack.openai.control(script=[{"text": ANSWER}])
    await stack.cartesia.control(stall_tts=True)
    await call.say(recording("remember"))
    asked = len(ANSWER.split()) + 1  # its words and its end
    await stack.until(
        lambda: stack.cartesia.state_now()["counters"].get("tts_stalled", 0) >= asked, "the answer was swallowed"
    )
    await stack.cartesia.control(stall_tts=False)
    await hears_once(call, ANSWER)
    assert await retries(stack, "tts", "silent") > 0
    await goes_on(call)


async def test_a_tone_reaches_the_caller_as_the_voice_made_it(stack: Stack, carrier: Carrier) -> None:
    """Cut inside samples on its way to us, written word by word, and no click where pieces meet."""
    pure = audioop.lin2ulaw(tone(ANSWER, TONE_HZ), 2)
    call = await listening(stack, carrier)
    before = len(played(call))
    await stack.openai.control(script=[{"text": ANSWER}])
    await stack.cartesia.control(tts_tone_hz=TONE_HZ, tts_chunk_bytes=1601)
    await call.say(recording("remember"))
    await call.hears(lambda _heard: len(played(call)) >= before + len(pure), PATIENCE_S)
    ideal, heard = (
        np.frombuffer(audioop.ulaw2lin(ulaw, 2), dtype="<i2").astype(float)
        for ulaw in (pure, played(call)[before : before + len(pure)])
    )
    assert distortion_db(heard, TONE_HZ) <= distortion_db(ideal, TONE_HZ) + 0.01
    assert largest_jump(heard) <= largest_jump(ideal)
    assert np.array_equal(heard, ideal)
    await hung_up(call)


def played(call: Call) -> bytes:
    """Give the agent's sound as it was played, without the silences between: a busy machine may make some."""
    return b"".join(span.audio for span in call.heard.spans)


@pytest.mark.parametrize(
    ("faults", "cause"),
    some(
        [
            ({"fail_status": 500, "fail_next": 2}, "failed"),
            ({"fail_status": 429, "fail_next": 1, "retry_after": "1"}, "limited"),
            ({"drop_before_stream": True, "break_next": 1}, "lost"),
            ({"stall": True, "break_next": 1}, "silent"),
            ({"drop_mid_stream": True, "break_next": 1}, "lost"),
            ({"drop_mid_stream": True, "break_next": 2}, "lost"),
            ({"stall_mid_stream": True, "break_next": 1}, "silent"),
        ],
        3,
    ),
    ids=str,
)
async def test_a_model_that_fails_and_comes_back_answers_once(
    stack: Stack, carrier: Carrier, faults: Faults, cause: str
) -> None:
    """Before the answer and in its middle: the rest is asked for, and joined."""
    before = await retries(stack, "llm", cause)
    call = await listening(stack, carrier)
    await stack.openai.control(**faults)
    await call.say(recording("remember"))
    await hears_once(call, HEARD)
    assert await retries(stack, "llm", cause) > before
    await hung_up(call)


@pytest.mark.parametrize(
    ("faults", "when_s"),
    some(
        [
            ({"drop_all": "stt"}, 0.0),
            ({"drop_all": "stt"}, 0.6),
            ({"drop_all": "stt"}, 1.0),
            ({"close_all": "stt"}, 0.8),
        ],
        2,
    ),
    ids=str,
)
async def test_an_ear_that_is_lost_before_or_in_the_middle_of_speech_understands_it_once(
    stack: Stack, carrier: Carrier, faults: Faults, when_s: float
) -> None:
    call = await listening(stack, carrier)
    speech = recording("remember")
    cut = int(when_s * 8000)
    await call.say(speech[:cut])
    await stack.cartesia.control(**faults)
    await call.say(speech[cut:])
    await hears_once(call, HEARD)
    assert await retries(stack, "stt", "lost") > 0
    await hung_up(call)


@pytest.mark.parametrize(
    ("faults", "cause"),
    some(
        [
            ({"stt_error_code": 500, "stt_error_next": 1}, "failed"),
            ({"stt_error_code": 429, "stt_error_next": 2}, "limited"),
            ({"drop_all": "stt", "refuse_status": 503, "refuse_kind": "stt", "refuse_next": 3}, "failed"),
        ],
        2,
    ),
    ids=str,
)
async def test_an_ear_that_fails_at_the_end_of_a_turn_understands_it_once(
    stack: Stack, carrier: Carrier, faults: Faults, cause: str
) -> None:
    before = await retries(stack, "stt", cause)
    call = await listening(stack, carrier)
    await stack.cartesia.control(**faults)
    await call.say(recording("remember"))
    await hears_once(call, HEARD)
    assert await retries(stack, "stt", cause) > before
    await hung_up(call)


async def test_an_ear_that_takes_speech_and_says_nothing_is_replaced(stack: Stack, carrier: Carrier) -> None:
    call = await listening(stack, carrier)
    await stack.cartesia.control(stall_stt=True)
    await call.say(recording("remember"))
    await stack.until(lambda: stack.cartesia.state_now()["counters"].get("stt_stalled"), "the turn was swallowed")
    await stack.cartesia.control(stall_stt=False)
    await hears_once(call, HEARD)
    assert await retries(stack, "stt", "silent") > 0
    await goes_on(call)


async def test_an_ear_refused_at_the_reservation_comes_during_the_call(stack: Stack, carrier: Carrier) -> None:
    """The plan's connections are used up when the call comes; it is answered all the same, and understood later."""
    await stack.cartesia.control(refuse_status=429, refuse_kind="stt", refuse_next=3)
    call = await carrier.dial()
    await call.streaming()
    await call.until(lambda: any(mark.echoed_at and not mark.cleared for mark in call.streams[0].marks))
    await call.say(recording("remember"))
    await hears_once(call, HEARD)
    assert await retries(stack, "stt", "limited") > 0
    await goes_on(call)


def asked(stack: Stack, words: str) -> bool:
    """Say whether the model was asked something that ends with these words."""
    log = stack.openai.state_now()["log"]
    return any(one["kind"] == "completion" and one["messages"][-1]["content"].endswith(words) for one in log)


async def test_who_speaks_while_the_voice_is_away_is_answered_and_the_former_answer_is_forgotten(
    stack: Stack, carrier: Carrier
) -> None:
    """The caller interrupts an answer that cannot be said; only the one to the last turn is heard."""
    call = await listening(stack, carrier)
    await stack.openai.control(script=[{"text": ANSWER}])
    await stack.cartesia.control(refuse_status=503, refuse_kind="tts", drop_all="tts")
    await call.say(recording("yes"))
    await stack.until(lambda: asked(stack, "Yes."), "the first answer is asked for")
    await call.say(recording("remember"))
    await stack.until(lambda: asked(stack, "purple."), "the second one too")
    await stack.cartesia.control(refuse_status=0)
    await hears_once(call, HEARD)
    await goes_on(call)


# --- a long trouble: bridging words, then an apology --------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults", [{"drop_all": "tts"}, {"drop_tts_after_chunks": 9, "drop_tts_next": 1}], ids=["before", "in the middle"]
)
async def test_an_outage_of_some_seconds_is_bridged_once_and_the_answer_follows(
    stack: Stack, carrier: Carrier, faults: Faults
) -> None:
    call = await listening(stack, carrier)
    await stack.openai.control(script=[{"text": ANSWER}])
    await stack.cartesia.control(refuse_status=503, refuse_kind="tts", **faults)
    await call.say(recording("remember"))
    await call.hears(lambda heard: BRIDGING in heard.audio(), PATIENCE_S)
    await stack.cartesia.control(refuse_status=0)
    await call.hears(lambda heard: heard.text().endswith("day.") and not heard.playing, PATIENCE_S)
    assert call.heard.text() == ANSWER
    assert call.heard.audio().count(BRIDGING) == 1
    await goes_on(call)


@pytest.mark.parametrize("provider", some(["tts", "stt", "llm"], 2))
async def test_a_provider_that_does_not_come_back_ends_the_call_with_an_apology(
    stack: Stack, carrier: Carrier, provider: str
) -> None:
    before = stack.metric("offhook_calls_total", end_reason="provider_lost")
    call = await listening(stack, carrier)
    if provider == "llm":
        await stack.openai.control(fail_status=500)
    else:
        await stack.cartesia.control(refuse_status=503, refuse_kind=provider, drop_all=provider)
    await call.say(recording("remember"))
    record = await call.ended(PATIENCE_S)
    assert call.heard.audio().count(BRIDGING) == 1
    assert len(record.spoken) == 1, "one apology"
    assert record.verbs[-1] == "Hangup"
    assert record.stream.closed_by == "server"
    assert stack.metric("offhook_calls_total", end_reason="provider_lost") == before + 1


@pytest.mark.parametrize(
    "faults",
    some([{"fail_status": 401}, {"fail_status": 404}, {"fail_status": 429, "fail_code": "insufficient_quota"}], 1),
    ids=str,
)
async def test_a_refusal_that_will_not_change_ends_the_call_at_once(
    stack: Stack, carrier: Carrier, faults: Faults
) -> None:
    call = await listening(stack, carrier)
    await stack.openai.control(**faults)
    await call.say(recording("remember"))
    record = await call.ended(PATIENCE_S)
    assert BRIDGING not in call.heard.audio(), "nobody waited for it"
    assert len(record.spoken) == 1
    assert len([one for one in (await stack.openai.state())["log"] if one["kind"] == "failed"]) == 1


async def test_a_trouble_is_logged_when_it_begins_and_when_it_ends(stack: Stack, carrier: Carrier) -> None:
    call = await listening(stack, carrier)
    await stack.cartesia.control(refuse_status=503, refuse_kind="tts", refuse_next=3, drop_all="tts")

    def said(event: str) -> int:
        return sum(line.get("event") == event and line.get("call_sid") == call.call_sid for line in stack.pool.lines())

    await stack.until(lambda: said("provider works again"), "the voice is back")
    assert said("provider in trouble") == said("provider works again") == 1
    await goes_on(call)


# --- while parking; last, because the pool waits for half a minute afterwards ------------------------------------------------


async def test_a_used_up_plan_stops_the_refill_and_is_named(stack: Stack, carrier: Carrier) -> None:
    """Both voices the plan allows are there; the one that a call would need behind them is asked for once."""
    await stack.cartesia.control(tts_max_connections=2)
    call = await listening(stack, carrier)
    page = await stack.until(
        lambda: next(filter(lambda text: "429" in text, [stack.fetch(f"{stack.pool_url}/readyz")]), ""),
        "the pool says so",
    )
    assert "429: connection limit of the plan reached" in page
    await goes_on(call)
    refused = [one["at"] for one in (await stack.cartesia.state())["log"] if one["kind"] == "tts_refused"]
    assert all(later - earlier > 20 for earlier, later in itertools.pairwise(refused)), (
        "and is not asked for again soon"
    )
