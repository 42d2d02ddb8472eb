"""What calls of an agent have in common for the model's provider, and what is read ahead of an answer."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import LLMContextFrame, LLMFullResponseEndFrame, LLMTextFrame
from pipecat.processors.aggregators.llm_context import LLMContext

from shared.agents import Agent
from shared.calls import Seat
from shared.settings import Settings
from shared.variables import Values
from tests.pool_process import eventually, eventually_asked
from tests.standins.pipecat_rig import of_kind, piped
from tests.standins.process import ROOT, Standin, running
from worker.providers.openai_llm import HOT_S, WarmOpenAILLM
from worker.providers.openai_prompt import cache_key, guessed_tokens, prompt, static_part, takes_key

LONG = "Be kind to whoever calls, and answer in one short sentence. " * 100  # 1,500 tokens
AGENT = Agent(name="desk", prompt=LONG)
FIRST = Seat()
TOOL = FunctionSchema("note", "Notes something.", {"text": {"type": "string"}}, ["text"])


def test_two_calls_of_an_agent_have_the_same_beginning_whoever_calls() -> None:
    ana = Values(caller="+15550001", agent="desk", record={"customer": {"name": "Ana"}})
    rui = Values(caller="+15550002", agent="desk", record={"customer": {"name": "Rui"}})
    assert prompt(AGENT, ana) == prompt(AGENT, rui) == static_part(AGENT)
    greeted = Agent(
        name="desk", prompt=f"You are {{{{agent}}}}. {LONG}You talk to {{{{customer.name|somebody}}}}. Be brief."
    )
    common = static_part(greeted)
    assert common == f"You are desk. {LONG}You talk to "
    assert prompt(greeted, ana).startswith(f"{common}“Ana”")
    assert prompt(greeted, rui).startswith(f"{common}“Rui”")


def test_a_key_is_of_an_agent_its_prompt_a_pool_and_a_seat() -> None:
    keys = {
        cache_key(agent, place, seat)
        for agent in (AGENT, Agent(name="desk", prompt="Else."), Agent(name="other", prompt=LONG))
        for place in ("one", "two")
        for seat in (0, 1)
    }
    assert len(keys) == 3 * 2 * 2
    assert cache_key(AGENT, "one", 3) == cache_key(AGENT, "one", 3)
    assert cache_key(AGENT, "one", 3).endswith("-3")


@pytest.mark.parametrize("name", ["a" * 200, "recepção da clínica", "\ud800", ""])
def test_a_key_is_one_the_vendor_takes(name: str) -> None:
    key = cache_key(Agent(name=name), "a-pool-with-a-long-name.example.com", 99_999)
    assert len(key) <= 64
    assert key.isascii()
    assert " " not in key


def test_only_the_vendor_is_told_the_key_unless_that_is_wanted() -> None:
    ours, proxy = "https://api.openai.com/v1", "http://127.0.0.1:8000/v1"
    assert [takes_key("auto", url) for url in (ours, "https://eu.api.openai.com/v1", proxy)] == [True, True, False]
    assert not takes_key("auto", "https://api.openai.com.example/v1")
    assert not takes_key("auto", "https://notopenai.com/v1")
    assert takes_key("always", proxy)
    assert not takes_key("never", ours)


def test_the_tools_are_written_the_same_in_every_process() -> None:
    """What has an order that changes from process to process (a set) would end what calls have in common at its place."""
    program = """
import hashlib, json
from worker.tools.builtin import BUILT_IN
written = json.dumps([(tool.name, tool.description, tool.schema()) for tool in BUILT_IN.values()])
print(hashlib.sha256(written.encode()).hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


@asynccontextmanager
async def seated(
    standin: Standin, agent: Agent = AGENT, seat: Seat = FIRST, **changes: Any
) -> AsyncIterator[WarmOpenAILLM]:
    """Give the model of a call."""
    settings = Settings(
        _env_file=None,
        openai_api_key="key",
        openai_base_url=f"{standin.url}/v1",
        pool_id="pool",
        **{"openai_prompt_cache": "always", **changes},
    )
    llm = WarmOpenAILLM(settings)
    llm.become(agent)
    llm.sit(seat)
    yield llm
    await llm._client.close()


def used(llm: WarmOpenAILLM) -> list[dict[str, float]]:
    """Give what a model will tell of what it used."""
    told: list[dict[str, float]] = []
    llm.on_used = lambda **amounts: told.append(amounts)
    return told


def beginning(*said: str) -> LLMContext:
    """Make a conversation with a tool."""
    return LLMContext(cast("Any", [{"role": "user", "content": each} for each in said]), tools=[TOOL])


async def completions(standin: Standin) -> list[dict[str, Any]]:
    """Give the completions that were asked for."""
    return [entry for entry in (await standin.state())["log"] if entry["kind"] == "completion"]


@asynccontextmanager
async def provider(**flags: Any) -> AsyncIterator[Standin]:
    """Run a provider that answers at once."""
    async with running("openai_api", **{"llm_first_token_ms": 0, "token_ms": 0, **flags}) as standin:
        yield standin


async def test_the_next_call_on_a_seat_finds_its_beginning_read_and_one_on_another_does_not() -> None:
    async with provider() as standin:
        cached = []
        for number, name in ((0, "Ana"), (0, "Rui"), (1, "Eva")):
            async with seated(standin, seat=Seat(number=number)) as llm, piped(llm) as rig:
                told = used(llm)
                llm.append_system_instruction(f"<customer_record>{name}</customer_record>")
                await rig.send(LLMContextFrame(beginning("Hello.")))
                await rig.until(LLMFullResponseEndFrame)
                await eventually(lambda told=told: bool(told))  # type: ignore[misc] # of this call
                cached.append(told[0].get("cached_tokens", 0))
        assert cached[0] == cached[2] == 0
        assert cached[1] >= 1024
        keys = [entry["prompt_cache_key"] for entry in await completions(standin)]
        assert keys[0] == keys[1] != keys[2]


async def test_a_provider_that_knows_no_keys_is_told_none() -> None:
    async with (
        provider(refuse_cache_key=True) as standin,
        seated(standin, openai_prompt_cache="auto") as llm,
        piped(llm) as rig,
    ):
        await rig.send(LLMContextFrame(beginning("Hello.")))
        assert of_kind(await rig.until(LLMFullResponseEndFrame), LLMTextFrame)


async def test_an_agent_may_think_with_a_model_of_its_own() -> None:
    async with provider() as standin:
        for agent in (AGENT, Agent(prompt=LONG, model="gpt-4.1-mini")):
            async with seated(standin, agent, openai_cache_warmup=True) as llm, piped(llm) as rig:
                llm.read_ahead(beginning("Hello."))
                assert llm._reading is not None
                await llm._reading
                await rig.send(LLMContextFrame(beginning("Hello.")))
                await rig.until(LLMFullResponseEndFrame)
        models = [entry["model"] for entry in await completions(standin)]
        assert models == ["gpt-4.1"] * 2 + ["gpt-4.1-mini"] * 2


async def test_what_is_read_ahead_is_known_at_the_first_answer_and_is_none_itself() -> None:
    async with provider() as standin, seated(standin, openai_cache_warmup=True) as llm, piped(llm) as rig:
        told = used(llm)
        context = beginning("Hello.")
        await llm.open()
        llm.read_ahead(context)
        llm.read_ahead(context)
        assert llm._reading is not None
        await llm._reading
        llm.append_system_instruction("<customer_record>Ana</customer_record>")
        await rig.send(LLMContextFrame(context))
        frames = await rig.until(LLMFullResponseEndFrame)
        assert "".join(frame.text for frame in of_kind(frames, LLMTextFrame)) == "You said: Hello."
        await eventually(lambda: bool(told))
        assert context.get_messages() == [{"role": "user", "content": "Hello."}]
        ahead, answer = await completions(standin)
        assert not ahead["stream"]
        assert ahead["tools"] == answer["tools"] == ["note"]
        assert ahead["prompt_cache_key"] == answer["prompt_cache_key"]
        assert not answer["fresh"]
        (amounts,) = told
        assert (amounts["completions"], amounts["llm_read_ahead"]) == (1, 1)
        assert amounts["cached_tokens"] == answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= 1024
        assert amounts["prompt_tokens"] == sum(each["usage"]["prompt_tokens"] for each in (ahead, answer))


@pytest.mark.parametrize(
    ("agent", "seat", "wanted"),
    [
        (AGENT, Seat(), False),
        (Agent(prompt="Be brief."), Seat(), True),
        (AGENT, Seat(idle_s=HOT_S / 2), True),
    ],
)
async def test_nothing_is_read_ahead_where_it_is_not_wanted_too_short_or_known(
    agent: Agent,
    seat: Seat,
    wanted: bool,  # noqa: FBT001 - a row of the table
) -> None:
    async with provider() as standin, seated(standin, agent, seat, openai_cache_warmup=wanted) as llm:
        llm.read_ahead(beginning("Hello."))
        if llm._reading is not None:
            await llm._reading
        assert await completions(standin) == []


async def test_an_answer_does_not_wait_for_what_is_read_ahead() -> None:
    async with provider(llm_first_token_ms=600_000) as standin:
        async with seated(standin, openai_cache_warmup=True) as llm, piped(llm) as rig:
            await llm.open()
            context = beginning("Hello.")
            llm.read_ahead(context)
            await eventually_asked(lambda: completions(standin))
            await standin.control(llm_first_token_ms=0)
            await rig.send(LLMContextFrame(context))
            assert of_kind(await rig.until(LLMFullResponseEndFrame), LLMTextFrame)
            assert llm._reading is not None
            assert not llm._reading.done()
        assert await asyncio.wait({llm._reading}, timeout=5) == ({llm._reading}, set())
        assert llm._reading.cancelled()


async def test_a_provider_that_fails_what_is_read_ahead_costs_nothing() -> None:
    async with (
        provider(fail_status=503, fail_next=1) as standin,
        seated(standin, openai_cache_warmup=True) as llm,
        piped(llm) as rig,
    ):
        llm.read_ahead(beginning("Hello."))
        assert llm._reading is not None
        await llm._reading
        await rig.send(LLMContextFrame(beginning("Hello.")))
        assert of_kind(await rig.until(LLMFullResponseEndFrame), LLMTextFrame)
        assert llm._trouble.tries == 0


def test_the_size_of_a_beginning_is_guessed_with_its_tools() -> None:
    tools = [{"type": "function", "function": {"name": "note", "description": "n" * 400}}]
    assert guessed_tokens("a" * 400, []) == 100
    assert guessed_tokens("a" * 400, tools) == (400 + len(json.dumps(tools))) // 4
