"""Agents of a file, in a whole installation: who answers which number, changes under way, and a caller who wants a person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.stack import Plan, Stack
from tests.system.talk import ask, greeted, recording, worker_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.standins.carrier_call import Call

pytestmark = pytest.mark.system

CALLER = "+5511987654321"
DESK, CLINIC, PERSON = "+12125550100", "+551140000000", "+12125550143"

TOOL = """
from worker.tools.custom import tool

@tool(stage="critical")
def parking_space() -> str:
    'Say which space in the car park is free.'
    return "Number seven is free."
"""

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
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of custom tools, empty."""
    return tmp_path_factory.mktemp("tools")


@pytest.fixture(scope="module")
def plan(file: Path, tools: Path) -> Plan:
    return Plan(pool_ready=2, env={"AGENTS_FILE": str(file), "TOOLS_DIR": str(tools), "TOOLS_STRICT": "true"})


async def completion(stack: Stack) -> dict[str, Any]:
    """Give the model's last completion."""
    asked: dict[str, Any] = [one for one in (await stack.openai.state())["log"] if one["kind"] == "completion"][-1]
    return asked


async def instructions(stack: Stack) -> str:
    """Give the system instruction of the model's last completion."""
    return str((await completion(stack))["messages"][0]["content"])


async def changed(stack: Stack, outcome: str, change: Callable[[], object]) -> None:
    """Change something, and wait until that was taken (and a worker has it) or refused."""
    before = stack.metric("offhook_reloads_total", outcome=outcome)
    change()
    await stack.until(lambda: stack.metric("offhook_reloads_total", outcome=outcome) == before + 1, outcome)

    def renewed() -> bool:
        lines = stack.pool.lines()
        last = [at for at, line in enumerate(lines) if line["event"] == "zygote takes over"][-1]
        return any(line["event"] == "parked" for line in lines[last:])

    if outcome == "done":
        await stack.until(renewed, "a worker of the new generation is ready")


def refusal(stack: Stack) -> list[str]:
    """Give what `/readyz` says about the last change."""
    page = json.loads(stack.fetch(f"{stack.pool_url}/readyz"))
    return [each["detail"] for each in page["problems"] if each["resource"] == "reload"]


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

    async with stack.carrier() as carrier:
        present = await carrier.dial(from_=CALLER, to=DESK)
        await greeted(present)
        served_by = worker_of(stack, present.call_sid)

        await changed(stack, "done", lambda: write(FIRST.replace("You are", "From now on you are")))
        await ask(present, "yes", "said:")
        assert (await instructions(stack)).startswith("You are desk"), "a call keeps its agent"
        assert worker_of(stack, present.call_sid) == served_by
        following = await carrier.dial(from_=CALLER, to=DESK)
        await greeted(following)
        await ask(following, "yes", "said:")
        assert (await instructions(stack)).startswith("From now on you are desk")

        broken = FIRST.replace('language = "pt-BR"', 'language = "Portuguese"\nhours = {mon = ["9-5"]}')
        await changed(stack, "refused", lambda: write(broken))
        named = [each.split("agent clinic: ")[1].split(":")[0] for each in refusal(stack)]
        assert named == ["language", "hours"]
        last = await carrier.dial(from_=CALLER, to=DESK)
        await greeted(last)
        await ask(last, "yes", "said:")
        assert (await instructions(stack)).startswith("From now on you are desk")
        for call in (present, following, last):
            await hung_up(call)
        await changed(stack, "done", lambda: write(FIRST))


async def test_a_new_tool_is_for_the_next_call_and_a_broken_one_for_nobody(stack: Stack, tools: Path) -> None:
    async with stack.carrier() as carrier:
        present = await carrier.dial(from_=CALLER, to=DESK)
        await greeted(present)
        await changed(stack, "done", lambda: (tools / "parking.py").write_text(TOOL, encoding="utf-8"))
        await changed(stack, "refused", lambda: (tools / "broken.py").write_text("def (", encoding="utf-8"))
        assert any("broken.py" in line for line in refusal(stack)), refusal(stack)
        for call, has in ((present, False), (await carrier.dial(from_=CALLER, to=DESK), True)):
            await greeted(call)
            await ask(call, "yes", "said:")
            assert ("parking_space" in (await completion(stack))["tools"]) is has
        await stack.openai.control(script=[{"tool": "parking_space"}])
        await ask(call, "no", "seven")
        await hung_up(present)
        await hung_up(call)
