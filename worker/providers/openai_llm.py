"""The language model, by any OpenAI-compatible `OPENAI_BASE_URL`.

The connection (TCP, TLS) is opened at the reservation, so that the first completion of a call does not pay for it.

Source: openai 3.54 and Pipecat 1.14 source (the client of the service keeps idle connections until the peer closes).
"""

import asyncio
from typing import Any

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from pipecat.services.openai.llm import OpenAILLMService

from shared.agents import Agent
from shared.settings import Settings
from worker.providers.languages import language_name
from worker.providers.tls import CONTEXT

WARM_TIMEOUT_S = 3.0


class WarmOpenAILLM(OpenAILLMService):
    """The model."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            api_key=settings.openai_api_key.get_secret_value(),
            base_url=settings.openai_base_url,
            settings=OpenAILLMService.Settings(model=settings.openai_model, system_instruction=""),
        )
        self._connected = False

    def create_client(self, api_key: str | None = None, base_url: str | None = None, **_kwargs: Any) -> AsyncOpenAI:
        """Make the client as the base does, with the certificates the zygote has read."""
        limits = httpx2.Limits(max_keepalive_connections=100, max_connections=1000, keepalive_expiry=None)
        self._http = DefaultAsyncHttpxClient(limits=limits, verify=CONTEXT)
        return AsyncOpenAI(api_key=api_key, base_url=base_url, http_client=self._http)

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
        self._base_system_instruction = prompt(agent)
        self._compose_system_instruction()


def prompt(agent: Agent) -> str:
    """Write the static part of the system instruction, identical between calls of one agent."""
    return f"{agent.prompt}\n\nSpeak {language_name(agent.language)}."
