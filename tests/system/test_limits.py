"""What ends a call that its caller does not end: silence, and the longest duration. Judged by what the caller hears."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.stack import ROOT, Plan, Stack
from tests.standins.carrier_settings import CallFailed
from tests.system.talk import greeted, recording

if TYPE_CHECKING:
    from pathlib import Path

    from tests.standins.carrier_record import CallRecord

pytestmark = pytest.mark.system

PATIENCE_S = 90.0

GOODBYE = (ROOT / "audio_assets" / "goodbye.ulaw").read_bytes()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A short greeting and a short patience."""
    folder: Path = tmp_path_factory.mktemp("agents")
    (folder / "agents.toml").write_text(
        '[agents.default]\ngreeting_clip = "bridging"\n'
        '[agents.recepcao]\nlanguage = "pt-BR"\ngreeting = "Olá, obrigada por ligar."\nnumbers = ["+551130000000"]\n'
    )
    settings = {"CALLER_SILENCE_TIMEOUT": "1.5", "AGENTS_FILE": str(folder / "agents.toml")}
    return Plan(pool_ready=2, supabase=False, prefetcher=False, env=settings)


async def test_a_caller_who_says_nothing_is_asked_once_and_told_goodbye(stack: Stack) -> None:
    """In the agent's language: with the recording where there is one in it, else with its voice."""
    await stack.ready()
    async with stack.carrier() as carrier:
        english, portuguese = await asyncio.gather(carrier.dial(), carrier.dial(to="+551130000000"))
        for call in (english, portuguese):
            parted(await call.ended(PATIENCE_S))
    assert english.heard.audio().endswith(GOODBYE)
    await stack.until(lambda: stack.metric("offhook_calls_total", end_reason="caller_silent") == 2, "both are counted")
    # What the voice was told, not what was understood of it: on a busy machine a gap may hide a word.
    told = [one for one in (await stack.cartesia.state())["log"] if one["kind"] == "tts_text"]
    assert said(told, "en") == "Are you still there?"
    assert said(told, "pt") == "Olá, obrigada por ligar. Você ainda está aí? Até logo."


def said(told: list[dict[str, Any]], language: str) -> str:
    """Join what the voice was told to say in a language."""
    return " ".join(" ".join(one["text"] for one in told if one["language"] == language).split())


async def test_a_call_that_lasts_too_long_ends_with_a_goodbye_that_is_heard() -> None:
    """The caller talks on and on, also into the answers: at the end nobody listens any more."""
    plan = Plan(pool_ready=1, supabase=False, prefetcher=False, env={"MAX_CALL_DURATION": "8"})
    async with Stack(plan) as stack, stack.carrier() as carrier:
        call = await carrier.dial()
        await greeted(call)
        with contextlib.suppress(CallFailed):  # it ends while they speak
            while True:
                await call.say(recording("yes"))
        parted(await call.ended(PATIENCE_S))
        assert call.heard.audio().endswith(GOODBYE)
        await stack.until(lambda: stack.metric("offhook_calls_total", end_reason="max_duration") == 1, "it is counted")


def parted(record: CallRecord) -> None:
    """Check that we ended the call in good order, and that the carrier was told to hang up."""
    assert record.ended_by == "twiml"
    assert record.stream.closed_by == "server"
    assert record.stream.close_code == 1000
    assert record.verbs[-1] == "Hangup"
    assert not record.spoken, "no apology: this was no fault"
