"""Whole calls, judged from the caller's side."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import pytest

from tests.stack import ROOT, Plan, Stack
from tests.standins.carrier_settings import CarrierSettings
from tests.system.talk import ask, greeted, recording

pytestmark = pytest.mark.system

CALLER = "+5511987654321"
GREETING_S = 4.0  # the shipped greeting lasts 4.8 s


@pytest.fixture(scope="module")
def secret() -> str:
    """A value planted in the customer record of this run: no canned answer can know it."""
    return secrets.token_hex(3)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(pool_ready=3)


async def know(stack: Stack, secret: str) -> None:
    await stack.supabase.control(
        customers=[{"phone": CALLER, "name": "Ana Souza", "facts": {"reference_code": secret}}]
    )


async def test_a_call_is_answered_understood_and_ended_by_the_agent(stack: Stack, secret: str) -> None:
    """Greeting, barge-in, a tool, the customer record, the goodbye: and the carrier is told to hang up."""
    await know(stack, secret)
    before = sum(entry["kind"] == "completion" for entry in (await stack.openai.state())["log"])
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_=CALLER)
        await call.streaming()
        await call.hears(lambda heard: heard.duration_s > 0.5)
        await call.say(recording("interrupt"))
        await call.until(lambda: bool(call.streams[0].clears))
        assert call.heard.duration_s < GREETING_S, "the barge-in took back what was not played yet"
        await call.hears(lambda heard: "said:" in heard.text())
        await ask(call, "what-time", "It", "UTC.")
        await ask(call, "my-code", f"{secret}.")
        await call.say(recording("goodbye"))
        record = await call.ended()
    assert record.ended_by == "twiml"
    assert "Goodbye." in call.heard.text(), "the goodbye was heard before the stream was closed"
    assert record.stream.closed_by == "server"
    assert record.stream.close_code == 1000
    assert record.verbs[-1] == "Hangup"
    assert set(record.codes) <= {31921}, record.notices
    asked = [entry for entry in (await stack.openai.state())["log"] if entry["kind"] == "completion"]
    assert {entry["fresh"] for entry in asked[before:]} == {False}, "no answer waited for a connection"


async def test_the_greeting_is_played_whole_and_without_gaps(stack: Stack) -> None:
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_="anonymous")
        await call.streaming()
        await call.until(lambda: any(mark.echoed_at and not mark.cleared for mark in call.streams[0].marks))
        heard = call.heard
        assert heard.duration_s == pytest.approx(4.8, abs=0.01)
        assert heard.gaps(0.02) == []
        await call.hangup()
        record = await call.ended()
    assert record.stream.media[0].size == 160, "the first message is 20 ms, so that it leaves at once"


async def test_the_model_knows_what_the_greeting_said(stack: Stack) -> None:
    """The greeting's text stands in the context, or the model would greet again."""
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_=CALLER)
        await call.streaming()
        await call.until(lambda: any(mark.echoed_at and not mark.cleared for mark in call.streams[0].marks))
        await ask(call, "yes", "said:")
        await call.hangup()
        await call.ended()
    messages = (await stack.openai.state())["log"][-1]["messages"]
    assert [message["role"] for message in messages] == ["system", "assistant", "user"]
    assert messages[1]["content"].startswith("Hello, thanks for calling.")


async def test_an_interrupted_greeting_is_remembered_as_far_as_it_was_heard(stack: Stack) -> None:
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_=CALLER)
        await call.streaming()
        await call.hears(lambda heard: heard.duration_s > 1.5)
        await ask(call, "interrupt", "said:")
        await call.hangup()
        await call.ended()
    messages = (await stack.openai.state())["log"][-1]["messages"]
    greeting = messages[1]["content"]
    assert greeting.startswith("Hello, thanks")
    assert greeting.endswith("…")
    assert "today" not in greeting


async def test_the_customer_record_is_data_in_the_system_instruction(stack: Stack, secret: str) -> None:
    await know(stack, secret)
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_=CALLER)
        await call.streaming()
        await ask(call, "my-name", "Ana", "Souza.")
        await call.hangup()
        await call.ended()
    system = (await stack.openai.state())["log"][-1]["messages"][0]
    assert system["role"] == "system"
    assert system["content"].index("<customer_record>") > system["content"].index("receptionist")
    assert system["content"].count("</customer_record>") == 1


async def test_a_get_webhook_and_the_sha256_signature_are_answered_alike(stack: Stack) -> None:
    for changes in ({"method": "GET"}, {"algorithm": "HMAC_SHA256"}, {"method": "GET", "algorithm": "HMAC_SHA256"}):
        async with stack.carrier(**changes) as carrier:
            call = await carrier.dial()
            await greeted(call)
            await call.hangup()
            assert (await call.ended()).outcome == "completed", changes


async def test_a_repeated_webhook_gets_the_same_answer_and_no_second_worker(stack: Stack) -> None:
    await stack.ready()
    async with stack.carrier(answer_delay_s=1.0) as carrier:
        call = await carrier.dial()
        reserved = stack.metric("offhook_workers", state="reserved")
        first = call.exchanges[0]
        again = await carrier.repeat_webhook(call)
        assert again.body == first.body
        other_token = await carrier.repeat_webhook(call, same_token=False)
        assert media_path(other_token.body) == media_path(first.body), "the reservation is the same"
        assert stack.metric("offhook_workers", state="reserved") == reserved == 1
        await call.streaming()
        await call.hangup()
        await call.ended()


def media_path(document: bytes) -> str:
    """Give the ticket's path in a TwiML document."""
    found = re.search(rb"/media/([^\"]+)", document)
    assert found is not None
    return found.group(1).decode()


@pytest.fixture
def portuguese(tmp_path: Path) -> Path:
    agents = tmp_path / "agents.toml"
    agents.write_text(
        """
        [agents.recepcao]
        prompt = "Você é a recepcionista. Fale português do Brasil."
        language = "pt-BR"
        greeting = "Olá, obrigada por ligar."
        timezone = "America/Sao_Paulo"
        numbers = ["+551130000000"]
        """
    )
    return agents


async def test_a_portuguese_agent_greets_hears_and_answers_in_portuguese(portuguese: Path) -> None:
    """No Portuguese clip: its greeting is spoken by its voice. The same installation answers in English elsewhere."""
    async with Stack(Plan(env={"AGENTS_FILE": str(portuguese)})) as stack, stack.carrier() as carrier:
        call = await carrier.dial(from_=CALLER, to="+551130000000")
        await call.streaming()
        await call.hears(lambda heard: "Olá, obrigada por ligar." in heard.text())
        await ask(call, "pt-hours", "São")
        await call.say(recording("pt-bye"))
        await call.ended()
        assert "Tchau." in call.heard.text()
        log = (await stack.cartesia.state())["log"]
        assert any(one.get("language") == "pt" for one in log), "the ear and the voice were told the language"
        english = await carrier.dial(from_=CALLER, to="+15550001111")
        await greeted(english)
        assert english.heard.words() == [], "a recording, not the voice"
        await english.hangup()
        await english.ended()


def test_the_carrier_follows_the_documented_defaults() -> None:
    """What these tests rely on: the stand-in is not more forgiving than the carrier it stands for."""
    assert CarrierSettings().connect_retries == 1
    assert not CarrierSettings().allow_ws


async def test_an_agent_may_have_a_recording_of_its_own_outside_the_manifest(tmp_path: Path) -> None:
    """What it says is the agent's `greeting`; another agent of the same installation is greeted by its voice."""
    clip = ROOT / "tests" / "data" / "clips" / "greeting-pt.ulaw"
    agents = tmp_path / "agents.toml"
    agents.write_text(
        f'[agents.recepcao]\nlanguage = "pt-BR"\ngreeting = "Olá, aqui é a recepção."\ngreeting_clip = "{clip}"\n'
        'numbers = ["+551130000000"]\n[agents.default]\ngreeting = "Good morning, this is the clinic."\n'
    )
    async with Stack(Plan(env={"AGENTS_FILE": str(agents)})) as stack, stack.carrier() as carrier:
        recorded = await carrier.dial(to="+551130000000")
        await recorded.streaming()
        await recorded.until(lambda: any(mark.echoed_at and not mark.cleared for mark in recorded.streams[0].marks))
        await ask(recorded, "pt-hours", "São")
        await recorded.hangup()
        await recorded.ended()
        messages = (await stack.openai.state())["log"][-1]["messages"]
        assert messages[1] == {"role": "assistant", "content": "Olá, aqui é a recepção."}
        spoken = await carrier.dial(to="+15550001111")
        await spoken.hears(lambda heard: "Good morning, this is the clinic." in heard.text())
        await spoken.hangup()
        await spoken.ended()
