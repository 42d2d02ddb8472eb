"""The language model, by any OpenAI-compatible `OPENAI_BASE_URL`.

From the reservation on connections (TCP, TLS) are open before anything is asked, so that no answer pays for one
(`openai_connections`). What an agent's calls have in common comes first in every request, under a key (`openai_prompt`).

An answer that fails is asked for again here, and nowhere else: the client's own retries are off. One that broke in the
middle is gone on with: what was said of it stands behind the conversation as the agent's words, and the model is asked for
the rest. A tool call is given on only when its stream has come to its end.

Source: openai 3.54 and Pipecat 1.14 source; OpenAI docs, "Error codes" (`insufficient_quota` is a 429 that no retry changes).
"""

import asyncio
import contextlib
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final
from urllib.parse import quote

import httpx2
from openai import APIError, APIStatusError, AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.services.openai.llm import OpenAILLMService

from shared.agents import Agent
from shared.calls import Seat
from shared.metrics import Setback
from shared.settings import Settings
from shared.variables import Values
from shared.workers import Resource
from worker.providers.continuation import NOTE, Continuation
from worker.providers.line import Failed, cause_of
from worker.providers.openai_connections import Spares, WarmClient
from worker.providers.openai_prompt import (
    LEAST_CACHED_TOKENS,
    cache_key,
    guessed_tokens,
    prompt,
    static_part,
    takes_key,
)
from worker.providers.retry import MOST_PAUSE_S, Trouble

OUT_OF_QUOTA: Final = "insufficient_quota"

HOT_S: Final = 240.0
"""How long a seat's cache is taken to be warm behind the last request: the vendor keeps it for 5 to 10 idle minutes."""

READ_AHEAD_TIMEOUT_S: Final = 10.0


class WarmOpenAILLM(OpenAILLMService):
    """The model."""

    def __init__(self, settings: Settings, trouble: Trouble | None = None) -> None:
        self._usual_model = settings.openai_model
        super().__init__(
            api_key=settings.openai_api_key.get_secret_value(),
            base_url=settings.openai_base_url,
            settings=OpenAILLMService.Settings(model=settings.openai_model, system_instruction=""),
        )
        self._trouble = trouble or Trouble(Resource.LLM)
        self._agent = Agent()
        self._given = ""
        self._asked_at = 0.0
        self._sends_key = takes_key(settings.openai_prompt_cache, settings.openai_base_url)
        self._reads_ahead = settings.openai_cache_warmup
        self._place = settings.pool_id or socket.gethostname()
        self._seat, self._key = Seat(), ""
        self._reading: asyncio.Task[None] | None = None
        self._beside: Counter[str] = Counter()  # used, and not told yet
        self._told = {"llm_connections": 0, "llm_connections_awaited": 0}
        self.spoke = False
        """Whether the completion under way, or the last one, says anything."""
        self.on_text: Callable[[], None] = lambda: None
        self.on_used: Callable[..., None] = lambda **_amounts: None
        self.before: Callable[[LLMContext], object] = lambda _context: None
        """Called with the conversation before it is sent, to bring it up to date."""

    def create_client(self, api_key: str | None = None, base_url: str | None = None, **_kwargs: Any) -> AsyncOpenAI:
        """Make the client as the base does, with connections of our own and without retries of its own.

        What opens a connection ahead is the cheapest request there is: of the whole list of models the vendor gives 10 kB.
        """
        http = WarmClient()
        client = AsyncOpenAI(api_key=api_key, base_url=base_url, http_client=http, max_retries=0)
        address = f"{str(client.base_url).rstrip('/')}/models/{quote(self._usual_model, safe='')}"
        self._spares = Spares(http, address, {"Authorization": f"Bearer {client.api_key}"}, self._may_ask)
        return client

    def warm(self) -> bool:
        """Say whether a connection is open now that the next answer can use."""
        return self._spares.warm() and bool(self.is_usable)

    async def open(self) -> None:
        """Open a connection, and have there be open ones from now on until the end of the call."""
        await self._spares.open()

    async def cleanup(self) -> None:
        """Close what was opened ahead."""
        if self._reading is not None:
            self._reading.cancel()
        await self._spares.stop()
        await super().cleanup()

    def become(self, agent: Agent) -> None:
        """Take the prompt of an agent, at once: a settings frame would be applied later and in steps, beside the customer."""
        self._agent = agent
        self.sit(self._seat)
        self.know(Values(agent=agent.name, zone=agent.timezone))

    def sit(self, seat: Seat) -> None:
        """Take a seat among the agent's calls, which decides with whom this one has a cache in common."""
        self._seat = seat
        self._key = cache_key(self._agent, self._place, seat.number) if self._sends_key else ""

    def know(self, values: Values) -> None:
        """Put what is known of the call into the agent's prompt, at once; again when more is known."""
        self._base_system_instruction = prompt(self._agent, values)
        self._compose_system_instruction()

    async def get_chat_completions(self, context: LLMContext) -> Any:
        """Give the chunks of an answer, whatever number of tries it takes."""
        return self._answer(context)

    def build_chat_completion_params(self, params_from_context: Any) -> dict[str, Any]:
        """Ask for the rest of an answer when there is a beginning."""
        params: dict[str, Any] = super().build_chat_completion_params(params_from_context) | self._own_params()
        if self._given:
            beginning = {"role": "assistant", "content": self._given}
            params["messages"] = [*params["messages"], beginning, {"role": "system", "content": NOTE}]
        return params

    def read_ahead(self, context: LLMContext) -> None:
        """Have the provider read what all calls of this agent begin with, so that it knows it at the first answer.

        Only where that is wanted, worth it, and not known there from the former call on this seat. Nothing waits for it, and
        nobody hears what it answers.
        """
        idle_s = self._seat.idle_s
        if self._reads_ahead and self._reading is None and (idle_s is None or idle_s > HOT_S):
            self._reading = asyncio.create_task(self._read_ahead(context))

    async def _read_ahead(self, context: LLMContext) -> None:
        text = static_part(self._agent)
        beginning = LLMContext([{"role": "user", "content": "."}], tools=context.tools)
        asked: dict[str, Any] = super().build_chat_completion_params(
            await self.get_llm_adapter().get_llm_invocation_params(
                beginning, system_instruction=text, convert_developer_to_user=not self.supports_developer_role
            )
        )
        tools = asked.get("tools")
        if guessed_tokens(text, tools if isinstance(tools, list) else []) < LEAST_CACHED_TOKENS or not self._may_ask():
            return
        del asked["stream"], asked["stream_options"]
        asked |= {"max_completion_tokens": 1, **self._own_params()}
        with contextlib.suppress(APIError, httpx2.HTTPError, TimeoutError):
            async with asyncio.timeout(READ_AHEAD_TIMEOUT_S):
                self._beside.update(llm_read_ahead=1)
                self._beside.update(amounts(await self._client.chat.completions.create(**asked)))

    def _own_params(self) -> dict[str, str]:
        """Give what stands in every request of this call, as far as it has it."""
        own = {"model": self._agent.model, "prompt_cache_key": self._key}
        return {name: value for name, value in own.items() if value}

    def report(self) -> None:
        """Tell what was used beside the answers and is not told yet: the call ends."""
        beside = self._besides()
        if beside:
            self.on_used(**beside)

    def _besides(self) -> dict[str, int]:
        now = {"llm_connections": self._spares.opened, "llm_connections_awaited": self._spares.awaited}
        self._beside.update({name: count - self._told[name] for name, count in now.items()})
        self._told = now
        beside = {name: count for name, count in self._beside.items() if count}
        self._beside.clear()
        return beside

    def _may_ask(self) -> bool:
        """Say whether anything may be asked that nobody waits for: not of a provider in trouble."""
        return self._trouble.since is None and not self._trouble.refused

    async def _answer(self, context: LLMContext) -> AsyncGenerator[ChatCompletionChunk, None]:
        self.before(context)
        self._given = ""
        self.spoke = False
        self._trouble.wanted(time.monotonic())
        try:
            while True:
                self._asked_at = time.monotonic()
                try:
                    async with contextlib.aclosing(self._attempt(context)) as attempt:
                        async for chunk in attempt:
                            yield chunk
                except (APIError, httpx2.HTTPError, TimeoutError, Failed) as error:
                    await self._pause(error)
                else:
                    return
        finally:
            self._given = ""
            self._trouble.idle()
            self._spares.look()  # an interruption has closed one

    async def _pause(self, error: Exception) -> None:
        """Wait before another try; raises `Failed` when there is none to be made.

        Its words are ours: what the vendor says to a wrong key repeats parts of it.
        """
        now, cause = time.monotonic(), setback_of(error)
        if cause is None:
            why = " ".join(
                str(each) for each in (getattr(error, "status_code", ""), getattr(error, "code", "")) if each
            )
            self._trouble.refuse(why, now)
            raise Failed(f"the model provider refused: {why}") from None
        since = self._asked_at if cause is Setback.SILENT else None
        pause = self._trouble.setback(cause, now, random.random(), since)  # noqa: S311 - spreads load
        await asyncio.sleep(max(pause, retry_after_s(error)))

    async def _attempt(self, context: LLMContext) -> AsyncGenerator[ChatCompletionChunk, None]:
        """Ask once. Text is given on as it comes, a tool call when the answer is whole."""
        rest = Continuation(self._given)
        tools: list[ChatCompletionChunk] = []
        finished = False
        used: dict[str, int] = {}
        async with asyncio.timeout(self._trouble.patience_s):
            stream = await super().get_chat_completions(context)
        try:
            async with contextlib.aclosing(self._chunks(stream)) as chunks:
                async for chunk in chunks:
                    used.update(amounts(chunk))
                    delta = chunk.choices[0].delta if chunk.choices else None
                    finished = finished or bool(chunk.choices and chunk.choices[0].finish_reason)
                    if delta is not None and delta.tool_calls:
                        tools.append(chunk)
                        continue
                    if delta is not None:
                        delta.content = rest.take(delta.content or "") + (rest.rest() if finished else "")
                        self._given += delta.content
                        self._say(delta.content)
                    yield chunk
        finally:
            self.on_used(**Counter(completions=1, **used) + Counter(self._besides()))
            with contextlib.suppress(httpx2.HTTPError):  # it may be what broke
                await stream.close()
        if not finished and (tools or not self._given):  # not every server says that it has finished
            raise Failed("the answer had no end")
        for chunk in tools:
            yield chunk

    def _say(self, text: str) -> None:
        """Note text before it goes on its way: a tool called in the same answer asks whether anything was said."""
        if text.strip() and not self.spoke:
            self.spoke = True
            self.on_text()

    async def _chunks(self, stream: Any) -> AsyncGenerator[ChatCompletionChunk, None]:
        """Give the chunks of a stream; one that falls silent is given up."""
        chunks = stream.__aiter__()
        while True:
            self._asked_at = time.monotonic()
            try:
                async with asyncio.timeout(self._trouble.patience_s):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            self._trouble.works(time.monotonic())
            self._spares.works()
            yield chunk


def amounts(answer: ChatCompletion | ChatCompletionChunk) -> dict[str, int]:
    """Read what an answer used: it stands in the last chunk of a stream, and in an answer that is none; empty elsewhere.

    Source: OpenAI API reference, "Chat Completions", the chunk object (`stream_options.include_usage`, which Pipecat asks for).
    """
    if answer.usage is None:
        return {}
    details = answer.usage.prompt_tokens_details
    return {
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "cached_tokens": (details.cached_tokens if details is not None else 0) or 0,
    }


def setback_of(error: Exception) -> Setback | None:
    """Say what kind of failure this is; None for one that no other try will change."""
    if isinstance(error, APIStatusError):
        return None if error.code == OUT_OF_QUOTA else cause_of(Failed(str(error), error.status_code))
    if isinstance(error, APIError) and type(error) is APIError:
        return Setback.FAILED  # an error event in a stream
    if isinstance(error, httpx2.TimeoutException | TimeoutError) or isinstance(
        error.__cause__, httpx2.TimeoutException
    ):
        return Setback.SILENT
    return Setback.FAILED if isinstance(error, Failed) else Setback.LOST


def retry_after_s(error: Exception) -> float:
    """Give the seconds a refusal asks to be waited; 0 when it says nothing usable, or more than a caller would wait.

    Source: RFC 9110, "Retry-After" (seconds); OpenAI's own `retry-after-ms`.
    """
    if not isinstance(error, APIStatusError):
        return 0.0
    headers = error.response.headers
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            asked_s = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        return asked_s if 0 <= asked_s < MOST_PAUSE_S else 0.0
    return 0.0
