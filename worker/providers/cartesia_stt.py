"""Cartesia's ear: connected from the reservation on, because plans count idle STT sockets as calls.

Audio that arrives while it is still connecting is kept and sent afterwards, so the caller may speak over the greeting.

Source: Cartesia docs, "Concurrency limits and timeouts" (a live STT socket is a concurrent request).
"""

from pipecat.processors.frame_processor import FrameProcessorSetup
from pipecat.services.cartesia.stt import CartesiaSTTService
from websockets.protocol import State

from shared.agents import Agent
from shared.settings import Settings
from worker.providers.languages import base_language


class ParkedCartesiaSTT(CartesiaSTTService):
    """The ear."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            api_key=settings.cartesia_api_key.get_secret_value(),
            base_url=settings.cartesia_stt_url,
            settings=CartesiaSTTService.Settings(model=settings.cartesia_stt_model, language="en"),
        )
        self._language_override = settings.cartesia_stt_language

    async def setup(self, setup: FrameProcessorSetup) -> None:
        """Set up without connecting."""
        await super(CartesiaSTTService, self).setup(setup)

    def warm(self) -> bool:
        """Say whether speech sent now would be recognised."""
        return bool(self.is_usable) and self._websocket is not None and self._websocket.state is State.OPEN

    async def open(self, agent: Agent) -> None:
        """Connect in the language of an agent; audio is buffered until this is done."""
        self._settings.language = self._language_override or base_language(agent.language)  # type: ignore[attr-defined]
        await self._reconnect()
