"""Agents of a file, in a whole installation: who answers which number, changes under way, and a caller who wants a person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.stack import Plan, Stack
from tests.system.talk import ask, greeted, recording, worker_of

if TYPE_CHECKING:
    from tests.standins.carrier_call import Call

pytestmark = pytest.mark.system

CALLER = "+5511987654321"
DESK, CLINIC, PERSON = "+12125550100", "+551140000000", "+12125550143"

FIRST = f"""
[agents.desk]
numbers = ["{DESK}"]
prompt = "You are {{{{agent}}}}, and talk to {{{{customer.name|somebody}}}}."
voice = "voice-of-the-desk"
transfer_number = "{PERSON}"

[agents.clinic]
numbers = ["{CLINIC}"]
prompt_file = "clinic.md"
language = "pt-BR"
voice = "voice-of-the-clinic"
greeting = "Olá {{{{customer.name|caro cliente}}}}, bom dia."
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the agents file."""
    path = tmp_path_factory.mktemp("agents") / "agents.toml"
    path.write_text(FIRST, encoding="utf-8")
    (path.parent / "clinic.md").write_text("Você é a recepção da clínica.\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def plan(file: Path) -> Plan:
    return Plan(pool_ready=2, env={"AGENTS_FILE": str(file)})


async def instructions(stack: Stack) -> str:
    """Give the system instruction of the model's last completion."""
    completions = [one for one in (await stack.openai.state())["log"] if one["kind"] == "completion"]
    return str(completions[-1]["messages"][0]["content"])


async def spoken(stack: Stack) -> dict[str, Any]:
    """Give the last thing the voice was asked to say."""
    said: dict[str, Any] = [one for one in (await stack.cartesia.state())["log"] if one["kind"] == "tts_text"][-1]
    return said


async def hung_up(call: Call) -> None:
    """End a call."""
    await call.hangup()
    assert (await call.ended()).outcome == "completed"


async def test_each_number_has_its_prompt_voice_and_language(stack: Stack) -> None:
    await stack.supabase.control(customers=[{"phone": CALLER, "name": "Ana Souza"}])
    async with stack.carrier() as carrier:
        desk = await carrier.dial(from_=CALLER, to=DESK)
        await greeted(desk)
        await ask(desk, "yes", "said:")
        told = await instructions(stack)
        assert told.startswith("You are desk, and talk to “Ana Souza”.\n")
        assert "\n\nSpeak English." in told
        said = await spoken(stack)
        assert (said["voice"], said["language"]) == ("voice-of-the-desk", "en")
        await hung_up(desk)

        clinic = await carrier.dial(from_="+5511900000000", to=CLINIC)
        await clinic.streaming()
        await clinic.hears(lambda heard: "caro cliente, bom dia." in heard.text())
        await ask(clinic, "pt-code", "disse:")
        told = await instructions(stack)
        assert told.startswith("Você é a recepção da clínica.\n\nSpeak Brazilian Portuguese.")
        said = await spoken(stack)
        assert (said["voice"], said["language"]) == ("voice-of-the-clinic", "pt")
        await hung_up(clinic)


async def test_a_caller_who_asks_for_a_person_is_dialled_one(stack: Stack) -> None:
    async with stack.carrier(dial_result="completed") as carrier:
        call = await carrier.dial(from_=CALLER, to=DESK)
        await greeted(call)
        await stack.openai.control(script=[{"text": "I connect you.", "tool": "transfer_call"}])
        await call.say(recording("no"))
        record = await call.ended()
    assert "I connect you." in call.heard.text(), "what the agent says is heard before"
    assert record.dialled == (PERSON,)
    assert record.verbs[-2:] == ("Dial", "Hangup")
    assert stack.metric("offhook_calls_total", end_reason="transferred") == 1
    logs = "".join(part.log for part in stack.parts.values())
    assert PERSON not in logs
    assert '"answer": "transfer"' in logs


async def test_a_change_is_for_the_next_call_and_a_broken_one_for_nobody(stack: Stack, file: Path) -> None:
    def write(content: str) -> None:
        fresh = file.with_suffix(".new")
        fresh.write_text(content, encoding="utf-8")
        fresh.replace(file)

    def counted(outcome: str) -> bool:
        return stack.metric("offhook_reloads_total", outcome=outcome) == 1

    async with stack.carrier() as carrier:
        present = await carrier.dial(from_=CALLER, to=DESK)
        await greeted(present)
        served_by = worker_of(stack, present.call_sid)

        write(FIRST.replace("You are", "From now on you are"))
        await stack.until(lambda: counted("done"), "the change was taken")

        def renewed() -> bool:
            lines = stack.pool.lines()
            last = [at for at, line in enumerate(lines) if line["event"] == "zygote takes over"][-1]
            return any(line["event"] == "parked" for line in lines[last:])

        await stack.until(renewed, "a worker of the new generation is ready")
        await ask(present, "yes", "said:")
        assert (await instructions(stack)).startswith("You are desk"), "a call keeps its agent"
        assert worker_of(stack, present.call_sid) == served_by
        following = await carrier.dial(from_=CALLER, to=DESK)
        await greeted(following)
        await ask(following, "yes", "said:")
        assert (await instructions(stack)).startswith("From now on you are desk")

        write(FIRST.replace('language = "pt-BR"', 'language = "Portuguese"\nhours = {mon = ["9-5"]}'))
        await stack.until(lambda: counted("refused"), "the change was refused")
        page = json.loads(stack.fetch(f"{stack.pool_url}/readyz"))
        shown = [each["detail"] for each in page["problems"] if each["resource"] == "reload"]
        assert [each.split("agent clinic: ")[1].split(":")[0] for each in shown] == ["language", "hours"]
        last = await carrier.dial(from_=CALLER, to=DESK)
        await greeted(last)
        await ask(last, "yes", "said:")
        assert (await instructions(stack)).startswith("From now on you are desk")
        for call in (present, following, last):
            await hung_up(call)
