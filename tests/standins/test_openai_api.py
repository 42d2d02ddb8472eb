"""The OpenAI stand-in, driven by the vendor's client and, where that hides things, by plain HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import httpx
import openai
import pytest
from openai import AsyncOpenAI, AsyncStream, DefaultAsyncHttpxClient
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from tests.standins.process import TIMER_S, Standin, StandinFailed, started

HEADERS = {"authorization": "Bearer made-up"}
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "good morning to you"}]
TOOL = {"type": "function", "function": {"name": "book", "parameters": {"type": "object", "properties": {}}}}
DEADLINE_S = 30


@pytest.fixture(scope="module")
def process() -> Iterator[Standin]:
    with started("openai_api", llm_first_token_ms=0, token_ms=0) as standin:
        yield standin


@pytest.fixture
async def api(process: Standin) -> AsyncIterator[Standin]:
    settings = (await process.state())["settings"]
    yield process
    await process.control(**settings, script=[], reset=True)


@pytest.fixture
async def client(api: Standin) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        api_key="made-up", base_url=f"{api.url}/v1", max_retries=0, http_client=DefaultAsyncHttpxClient()
    ) as client:
        yield client


async def stream(client: AsyncOpenAI, **changes: Any) -> AsyncStream[ChatCompletionChunk]:
    fields: dict[str, Any] = {"model": "gpt-4.1", "messages": ASK, "stream_options": {"include_usage": True}}
    return cast(
        "AsyncStream[ChatCompletionChunk]", await client.chat.completions.create(stream=True, **fields | changes)
    )


async def chunks(client: AsyncOpenAI, **changes: Any) -> list[ChatCompletionChunk]:
    return [chunk async for chunk in await stream(client, **changes)]


def spoken(received: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in received for choice in chunk.choices)


async def eventually(api: Standin, counter: str, value: int) -> None:
    """Wait for a count that changes when the stand-in notices something."""
    async with asyncio.timeout(DEADLINE_S):
        while (await api.state())["counters"].get(counter) != value:
            pass


async def test_an_answer_is_streamed_token_by_token_with_its_usage_last(client: AsyncOpenAI) -> None:
    received = await chunks(client)
    assert spoken(received) == "You said: good morning to you"
    first, *middle, finish, usage = received
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert len(middle) == 6
    assert finish.choices[0].finish_reason == "stop"
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.total_tokens == usage.usage.prompt_tokens + usage.usage.completion_tokens
    assert {chunk.id for chunk in received} == {first.id}
    assert [chunk.usage for chunk in received[:-1]] == [None] * (len(received) - 1)


async def test_the_stream_looks_on_the_wire_as_documented(api: Standin) -> None:
    body = {"model": "gpt-4.1", "messages": ASK, "stream": True}
    async with httpx.AsyncClient(base_url=api.url, headers=HEADERS) as http:
        response = await http.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    rows = [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]
    assert {row["object"] for row in rows} == {"chat.completion.chunk"}
    assert all("usage" not in row for row in rows)  # it was not asked for
    assert rows[0].keys() >= {"id", "created", "model", "system_fingerprint", "service_tier", "choices"}


async def test_a_script_is_used_up_before_the_rules(client: AsyncOpenAI, api: Standin) -> None:
    call = {"tool": "book", "arguments": {"day": "2026-01-02", "note": "à tarde"}, "text": "One moment."}
    await api.control(script=[{"text": "Olá, tudo bem?"}, call])
    assert spoken(await chunks(client)) == "Olá, tudo bem?"
    received = await chunks(client, tools=[TOOL])
    assert spoken(received) == "One moment."
    calls = [one for chunk in received for choice in chunk.choices for one in choice.delta.tool_calls or ()]
    assert calls[0].id
    assert calls[0].function is not None
    assert calls[0].function.name == "book"
    arguments = "".join(one.function.arguments or "" for one in calls if one.function)
    assert json.loads(arguments) == call["arguments"]
    assert len(calls) == 3
    assert received[-2].choices[0].finish_reason == "tool_calls"
    assert spoken(await chunks(client)) == "You said: good morning to you"


async def test_without_stream_the_answer_is_one_object(client: AsyncOpenAI, api: Standin) -> None:
    answer = await client.chat.completions.create(model="gpt-4.1", messages=ASK)
    assert answer.choices[0].message.content == "You said: good morning to you"
    assert answer.usage is not None
    await api.control(script=[{"tool": "book", "arguments": {"day": 1}}])
    choice = (await client.chat.completions.create(model="gpt-4.1", messages=ASK)).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls is not None
    assert choice.message.tool_calls[0].model_dump()["function"] == {"name": "book", "arguments": '{"day": 1}'}


async def test_the_log_tells_what_was_asked_and_answered(client: AsyncOpenAI, api: Standin) -> None:
    await chunks(client, tools=[TOOL])
    entry = (await api.state())["log"][-1]
    assert entry["messages"] == ASK
    assert entry["tools"] == ["book"]
    assert entry["answer"]["text"] == "You said: good morning to you"
    assert entry["at"] <= entry["first_token_at"] <= entry["done_at"]


async def test_models_are_listed_on_the_connection_that_then_serves(client: AsyncOpenAI, api: Standin) -> None:
    assert "gpt-4.1" in [model.id async for model in client.models.list()]
    await chunks(client)
    counters = (await api.state())["counters"]
    assert (counters["requests"], counters["connections"]) == (2, 1)


async def test_one_model_is_asked_for_by_its_name(client: AsyncOpenAI) -> None:
    assert (await client.models.retrieve("gpt-4.1")).id == "gpt-4.1"
    with pytest.raises(openai.NotFoundError) as error:
        await client.models.retrieve("ours/own")
    assert error.value.code == "model_not_found"


RULES = "Be kind to whoever calls. " * 400  # 2,600 tokens


async def cached(client: AsyncOpenAI, *words: str, key: str = "k", **changes: Any) -> int:
    """Ask, with these words in the system instruction; give how many tokens of the prompt were cached."""
    messages = [{"role": "system", "content": "".join(words)}, *ASK]
    usage = (await chunks(client, messages=messages, prompt_cache_key=key, **changes))[-1].usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens > (usage.prompt_tokens_details.cached_tokens or 0)
    return usage.prompt_tokens_details.cached_tokens or 0


async def test_the_beginning_of_a_prompt_is_cached_from_1024_tokens_in_steps_of_128(client: AsyncOpenAI) -> None:
    assert await cached(client, RULES, "You talk to Ana.") == 0
    known = await cached(client, RULES, "You talk to Rui.")
    assert known > 1024
    assert known % 128 == 0
    assert await cached(client, "You talk to Ana.", RULES) == 0
    assert await cached(client, RULES, tools=[TOOL]) == 0, "tools come before everything else"
    assert await cached(client, "Be brief.", key="short") == await cached(client, "Be brief.", key="short") == 0


async def test_a_key_has_a_machine_of_its_own_which_takes_15_requests_a_minute(client: AsyncOpenAI) -> None:
    known = [await cached(client, RULES, key="busy") > 0 for _ in range(17)]
    assert known == [False, *[True] * 14, False, True]
    assert await cached(client, RULES, key="quiet") == 0


async def test_what_nobody_asks_for_is_forgotten(client: AsyncOpenAI, api: Standin) -> None:
    await api.control(cache_idle_s=0.01)
    assert await cached(client, RULES, key="forgotten") == 0
    await asyncio.sleep(0.02)
    assert await cached(client, RULES, key="forgotten") == 0


async def test_a_key_that_is_too_long_or_not_known_is_refused(client: AsyncOpenAI, api: Standin) -> None:
    with pytest.raises(openai.BadRequestError, match="too long"):
        await cached(client, RULES, key="k" * 65)
    await api.control(refuse_cache_key=True)
    with pytest.raises(openai.BadRequestError, match="prompt_cache_key"):
        await cached(client, RULES)


async def test_a_connection_that_is_idle_for_long_is_closed(client: AsyncOpenAI, api: Standin) -> None:
    await api.control(keep_alive_s=0.05)
    await chunks(client)
    await eventually(api, "idle_closed", 1)
    await chunks(client)
    entries = [entry for entry in (await api.state())["log"] if entry["kind"] == "completion"]
    assert [entry["fresh"] for entry in entries] == [True, True]


async def test_a_stream_the_client_leaves_is_noticed_and_costs_a_connection(client: AsyncOpenAI, api: Standin) -> None:
    await api.control(token_ms=600_000)
    reading = await stream(client)
    await anext(aiter(reading))
    await reading.close()
    await eventually(api, "cancelled", 1)
    await api.control(token_ms=0)
    await chunks(client)
    state = await api.state()
    assert state["counters"]["connections"] == 2
    assert "cancelled_at" in next(entry for entry in state["log"] if entry["kind"] == "completion")


async def test_tokens_come_at_the_pace_that_was_set(client: AsyncOpenAI, api: Standin) -> None:
    await api.control(llm_first_token_ms=120, token_ms=20)
    begun = time.monotonic()
    reading = await stream(client)
    await anext(aiter(reading))
    assert time.monotonic() - begun >= 0.12 - TIMER_S
    await chunks(client)
    assert time.monotonic() - begun >= 0.12 + 0.12 + 6 * 0.02 - 2 * TIMER_S
    await reading.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
async def test_failures_are_the_errors_the_client_knows(
    client: AsyncOpenAI, api: Standin, status: int, kind: type[openai.APIStatusError]
) -> None:
    await api.control(fail_status=status, fail_code="insufficient_quota")
    with pytest.raises(kind) as error:
        await chunks(client)
    assert error.value.code == "insufficient_quota"
    assert (await api.state())["counters"]["failed"] == 1


async def test_the_next_requests_fail_and_then_no_more(client: AsyncOpenAI, api: Standin) -> None:
    await api.control(fail_status=503, fail_next=2)
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            await chunks(client)
    assert spoken(await chunks(client))
    await api.control(fail_next=1)
    patient = client.with_options(max_retries=1)  # the SDK repeats a 500 by itself
    assert spoken(await chunks(patient))


async def test_a_missing_or_wrong_key_is_refused(client: AsyncOpenAI, api: Standin) -> None:
    await api.control(api_key="made-up")
    assert spoken(await chunks(client))
    with pytest.raises(openai.AuthenticationError) as error:
        await chunks(client.with_options(api_key="another"))
    assert error.value.code == "invalid_api_key"
    async with httpx.AsyncClient(base_url=api.url) as http:
        assert (await http.get("/v1/models")).status_code == 401


async def test_a_stream_cut_in_the_middle_is_an_error(client: AsyncOpenAI, api: Standin) -> None:
    await api.control(drop_mid_stream=True)
    reading = await stream(client)
    with pytest.raises(openai.APIConnectionError):
        async for _ in reading:
            pass


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("drop_before_stream", openai.APIConnectionError),
        ("drop_mid_stream", openai.APIConnectionError),
        ("stall", openai.APITimeoutError),
        ("stall_mid_stream", openai.APITimeoutError),
    ],
)
async def test_so_many_answers_break_and_then_no_more(
    client: AsyncOpenAI, api: Standin, fault: str, kind: type[Exception]
) -> None:
    await api.control(**{fault: True}, break_next=2)
    for _ in range(2):
        with pytest.raises(kind):
            await chunks(client.with_options(timeout=0.3))
    assert spoken(await chunks(client))


async def test_a_failure_may_say_when_to_come_again(client: AsyncOpenAI, api: Standin) -> None:
    await api.control(fail_status=429, fail_next=1, retry_after="0.5")
    with pytest.raises(openai.RateLimitError) as error:
        await chunks(client)
    assert error.value.response.headers["retry-after"] == "0.5"


async def test_a_stalled_stand_in_never_answers(client: AsyncOpenAI, api: Standin) -> None:
    await api.control(stall=True)
    with pytest.raises(openai.APITimeoutError):
        await chunks(client.with_options(timeout=0.3))
    await eventually(api, "cancelled", 1)
    assert [entry["kind"] for entry in (await api.state())["log"]] == ["completion"]


async def test_what_is_not_a_request_is_refused_as_json(api: Standin) -> None:
    async with httpx.AsyncClient(base_url=api.url, headers=HEADERS) as http:
        for body in (b"{", b'{"model": "gpt-4.1"}'):
            response = await http.post("/v1/chat/completions", content=body)
            assert response.status_code == 400
            assert response.json()["error"]["type"] == "invalid_request_error"
        assert (await http.get("/v1/files")).json()["error"]["message"] == "Unknown request URL: GET /v1/files"


async def test_a_script_that_cannot_be_used_is_refused(api: Standin) -> None:
    for script in ("hello", [{"txt": "typo"}], [{"tool": 5}]):
        with pytest.raises(StandinFailed, match="script:"):
            await api.control(script=script)
