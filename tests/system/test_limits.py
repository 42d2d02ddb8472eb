"""What ends a call that its caller does not end: silence, and the longest duration. Judged by what the caller hears."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.stack import ROOT, Plan, Stack
from tests.system.talk import ask, greeted

if TYPE_CHECKING:
    from pathlib import Path

    from tests.standins.carrier import Carrier
    from tests.standins.carrier_record import CallRecord

pytestmark = pytest.mark.system

QUESTION = "Are you still there?"
GOODBYE = (ROOT / "audio_assets" / "goodbye.ulaw").read_bytes()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A short greeting, a short patience, and calls of twenty seconds at most."""
    folder: Path = tmp_path_factory.mktemp("agents")
    (folder / "agents.toml").write_text(
        '[agents.default]\ngreeting_clip = "bridging"\n'
        '[agents.recepcao]\nlanguage = "pt-BR"\ngreeting = "Olá, obrigada por ligar."\nnumbers = ["+551130000000"]\n'
    )
    settings = {"CALLER_SILENCE_TIMEOUT": "1.5", "MAX_CALL_DURATION": "20", "AGENTS_FILE": str(folder / "agents.toml")}
    return Plan(pool_ready=3, supabase=False, prefetcher=False, env=settings)


async def test_what_callers_hear_when_a_limit_ends_their_call(stack: Stack) -> None:
    """Side by side, because the longest takes its twenty seconds."""
    await stack.ready()
    async with stack.carrier() as carrier:
        await asyncio.gather(silent(carrier), silent_in_portuguese(carrier), talkative(carrier))
    await stack.until(
        lambda: stack.metric("offhook_calls_total", end_reason="caller_silent") == 2, "two ended for their silence"
    )
    assert stack.metric("offhook_calls_total", end_reason="max_duration") == 1


async def silent(carrier: Carrier) -> None:
    """Say something once, and then nothing: asked once, told goodbye, hung up."""
    call = await carrier.dial()
    await greeted(call)
    await ask(call, "yes", "said:")
    await call.hears(lambda heard: QUESTION in heard.text())
    parted(await call.ended())
    assert call.heard.text().count(QUESTION) == 1
    assert call.heard.audio().endswith(GOODBYE)


async def silent_in_portuguese(carrier: Carrier) -> None:
    """Say nothing at all to an agent that speaks Portuguese and has no recordings."""
    call = await carrier.dial(to="+551130000000")
    await call.hears(lambda heard: "Até logo." in heard.text())
    parted(await call.ended())
    assert call.heard.text().endswith("por ligar. Você ainda está aí? Até logo.")


async def talkative(carrier: Carrier) -> None:
    """Talk on and on: at the end the answer under way is finished, and the goodbye is whole."""
    call = await carrier.dial()
    await greeted(call)

    async def chat() -> None:
        await ask(call, "yes", "said:")
        await call.hears(lambda heard: heard.text().endswith((".", "!", "?")))

    ending = asyncio.create_task(call.ended())
    while not ending.done():
        talk = asyncio.create_task(chat())
        await asyncio.wait([talk, ending], return_when=asyncio.FIRST_COMPLETED)
        talk.cancel()
        await asyncio.gather(talk, return_exceptions=True)
    parted(await ending)
    assert QUESTION not in call.heard.text()
    assert call.heard.audio().endswith(GOODBYE)


def parted(record: CallRecord) -> None:
    """Check that we ended the call in good order, and that the carrier was told to hang up."""
    assert record.ended_by == "twiml"
    assert record.stream.closed_by == "server"
    assert record.stream.close_code == 1000
    assert record.verbs[-1] == "Hangup"
    assert not record.spoken, "no apology: this was no fault"
