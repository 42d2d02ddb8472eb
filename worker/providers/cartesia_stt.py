"""Cartesia's ear: connected from the reservation on, because plans count idle STT sockets as calls.

Audio that arrives while it is still connecting is kept and sent afterwards, so the caller may speak over the greeting.

Source: Cartesia docs, "Concurrency limits and timeouts" (a live STT socket is a concurrent request).
"""

from typing import Any

from pipecat.frames.frames import Frame, VADUserStoppedSpeakingFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessorSetup
from pipecat.services.cartesia.stt import CartesiaSTTService
from websockets.protocol import State

from shared.agents import Agent
from shared.settings import Settings
from worker.providers.languages import base_language
from worker.providers.tls import websocket_options


class ParkedCartesiaSTT(CartesiaSTTService):
    """The ear."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            api_key=settings.cartesia_api_key.get_secret_value(),
            base_url=settings.cartesia_stt_url,
            settings=CartesiaSTTService.Settings(model=settings.cartesia_stt_model, language="en"),
        )
        self._language_override = settings.cartesia_stt_language
        self._turn_ended = False

    async def setup(self, setup: FrameProcessorSetup) -> None:
        """Set up without connecting."""
        await super(CartesiaSTTService, self).setup(setup)

    def warm(self) -> bool:
        """Say whether speech sent now would be recognised."""
        return bool(self.is_usable) and self._websocket is not None and self._websocket.state is State.OPEN

    async def open(self, agent: Agent) -> None:
        """Connect in the language of an agent; audio is buffered until this is done."""
        self._settings.language = self._language_override or base_language(agent.language)  # type: ignore[attr-defined]
        self._turn_ended = False
        await self._reconnect()
        if self._turn_ended and self.warm():
            await self._get_websocket().send("finalize")

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Remember a turn that ended while connecting: the base would drop its `finalize`, and the caller wait for ever."""
        if isinstance(frame, VADUserStoppedSpeakingFrame) and self._reconnecting:
            self._turn_ended = True
        await super().process_frame(frame, direction)

    async def _websocket_connect(self, uri: str, **kwargs: Any) -> Any:
        # mu-law noise does not shrink: deflate costs CPU on each 20 ms and saves nothing
        return await super()._websocket_connect(uri, compression=None, **websocket_options(uri), **kwargs)
