"""The language model, by any OpenAI-compatible `OPENAI_BASE_URL`.

The connection (TCP, TLS) is opened at the reservation, so that the first completion of a call does not pay for it.

An answer that fails is asked for again here, and nowhere else: the client's own retries are off. One that broke in the
middle is gone on with: what was said of it stands behind the conversation as the agent's words, and the model is asked for
the rest. A tool call is given on only when its stream has come to its end.

Source: openai 3.54 and Pipecat 1.14 source (the client of the service keeps idle connections until the peer closes);
OpenAI docs, "Error codes" (`insufficient_quota` is a 429 that no retry changes).
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import httpx2
from openai import APIError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient
from openai.types.chat import ChatCompletionChunk
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.services.openai.llm import OpenAILLMService

from shared.agents import Agent
from shared.metrics import Setback
from shared.settings import Settings
from shared.variables import Values, render
from shared.workers import Resource
from worker.providers.continuation import NOTE, Continuation
from worker.providers.languages import language_name
from worker.providers.line import Failed, cause_of
from worker.providers.retry import MOST_PAUSE_S, Trouble
from worker.providers.tls import CONTEXT

WARM_TIMEOUT_S = 3.0

OUT_OF_QUOTA: Final = "insufficient_quota"


class WarmOpenAILLM(OpenAILLMService):
    """The model."""

    def __init__(self, settings: Settings, trouble: Trouble | None = None) -> None:
        super().__init__(
            api_key=settings.openai_api_key.get_secret_value(),
            base_url=settings.openai_base_url,
            settings=OpenAILLMService.Settings(model=settings.openai_model, system_instruction=""),
        )
        self._connected = False
        self._trouble = trouble or Trouble(Resource.LLM)
        self._agent = Agent()
        self._given = ""
        self._asked_at = 0.0
        self.spoke = False
        """Whether the completion under way, or the last one, says anything."""
        self.on_text: Callable[[], None] = lambda: None
        self.on_used: Callable[..., None] = lambda **_amounts: None
        self.before: Callable[[LLMContext], object] = lambda _context: None
        """Called with the conversation before it is sent, to bring it up to date."""

    def create_client(self, api_key: str | None = None, base_url: str | None = None, **_kwargs: Any) -> AsyncOpenAI:
        """Make the client as the base does, with the certificates the zygote has read and without retries of its own."""
        limits = httpx2.Limits(max_keepalive_connections=100, max_connections=1000, keepalive_expiry=None)
        self._http = DefaultAsyncHttpxClient(limits=limits, verify=CONTEXT)
        return AsyncOpenAI(api_key=api_key, base_url=base_url, http_client=self._http, max_retries=0)

    def warm(self) -> bool:
        """Say whether a connection was opened; whether the peer keeps it shows at the next request."""
        return self._connected and bool(self.is_usable)

    async def open(self) -> None:
        """Open a connection with the cheapest request there is. Any answer, even a refusal, means it is open.

        Sent beside the vendor's client, on its connections: building and reading the request through it costs 5 ms more.
        """
        try:
            async with asyncio.timeout(WARM_TIMEOUT_S):
                await self._http.get(
                    f"{str(self._client.base_url).rstrip('/')}/models",
                    headers={"Authorization": f"Bearer {self._client.api_key}"},
                )
        except (TimeoutError, httpx2.HTTPError):
            return
        self._connected = True

    def become(self, agent: Agent) -> None:
        """Take the prompt of an agent, at once: a settings frame would be applied later and in steps, beside the customer."""
        self._agent = agent
        self.know(Values(agent=agent.name, zone=agent.timezone))

    def know(self, values: Values) -> None:
        """Put what is known of the call into the agent's prompt, at once; again when more is known."""
        self._base_system_instruction = prompt(self._agent, values)
        self._compose_system_instruction()

    async def get_chat_completions(self, context: LLMContext) -> Any:
        """Give the chunks of an answer, whatever number of tries it takes."""
        return self._answer(context)

    def build_chat_completion_params(self, params_from_context: Any) -> dict[str, Any]:
        """Ask for the rest of an answer when there is a beginning."""
        params: dict[str, Any] = super().build_chat_completion_params(params_from_context)
        if self._given:
            beginning = {"role": "assistant", "content": self._given}
            params["messages"] = [*params["messages"], beginning, {"role": "system", "content": NOTE}]
        return params

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
                    used.update(tokens(chunk))
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
            self.on_used(completions=1, **used)
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
            yield chunk


def tokens(chunk: ChatCompletionChunk) -> dict[str, int]:
    """Read what an answer used, which stands in its last chunk; empty for any other.

    Source: OpenAI API reference, "Chat Completions", the chunk object (`stream_options.include_usage`, which Pipecat asks for).
    """
    if chunk.usage is None:
        return {}
    details = chunk.usage.prompt_tokens_details
    return {
        "prompt_tokens": chunk.usage.prompt_tokens,
        "completion_tokens": chunk.usage.completion_tokens,
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


def prompt(agent: Agent, values: Values) -> str:
    """Write the first part of the system instruction: identical between calls of an agent whose prompt has no variables."""
    return f"{render(agent.prompt, values, quoted=True)}\n\nSpeak {language_name(agent.language)}."
