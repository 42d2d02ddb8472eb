"""Cartesia's ear, of the models that are asked for a transcript at the end of speech.

Source: Cartesia docs, "Concurrency limits and timeouts" (a live STT socket is a concurrent request), "STT manual finalize".
"""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

from pipecat.processors.frame_processor import FrameProcessorSetup
from pipecat.services.cartesia.stt import CartesiaSTTService
from websockets.asyncio.client import ClientConnection
from websockets.protocol import State

from shared.agents import Agent
from shared.settings import Settings
from worker.providers.call_ear import CallEar
from worker.providers.languages import base_language, cartesia_model
from worker.providers.line import Failed
from worker.providers.retry import Trouble
from worker.providers.tls import websocket_options


class CartesiaEar(CallEar, CartesiaSTTService):
    """The ear."""

    def __init__(self, settings: Settings, trouble: Trouble | None = None) -> None:
        super().__init__(
            trouble,
            api_key=settings.cartesia_api_key.get_secret_value(),
            base_url=settings.cartesia_stt_url,
            settings=CartesiaSTTService.Settings(model=settings.cartesia_stt_model, language="en"),
        )
        self._model = settings.cartesia_stt_model
        self._language_override = settings.cartesia_stt_language
        self._sender: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    async def setup(self, setup: FrameProcessorSetup) -> None:
        """Set up without connecting."""
        await super(CartesiaSTTService, self).setup(setup)

    def warm(self) -> bool:
        """Say whether speech sent now would be recognised."""
        return bool(self.is_usable) and self._websocket is not None and self._websocket.state is State.OPEN

    async def open(self, agent: Agent) -> None:
        """Connect in the language of an agent, and stay connected; returns after the first attempt."""
        language = self._language_override or base_language(agent.language)
        self._settings.language = language  # type: ignore[attr-defined]
        self._settings.model = cartesia_model(self._model, language)  # type: ignore[attr-defined]
        await self._connect()
        await self._line.tried.wait()

    def hear(self, pcm: bytes) -> None:
        """Take a piece of the caller's audio."""
        super().hear(pcm)
        self._last_audio_time = time.monotonic()

    async def push_error(self, error_msg: str, exception: Exception | None = None, **kwargs: Any) -> None:
        """Keep what went wrong; the trouble tells of it. Pipecat would make the ear unusable for good."""
        self._failure = exception or ConnectionError(error_msg)
        del kwargs

    async def _ask(self, word: str) -> bool:
        sent = await self._line.send(word)
        if sent:
            self._line.expect()
        return sent

    # --- the connection -----------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        self._disconnecting = self._over = False
        if not self._receive_task:
            self._create_keepalive_task()
            self._sender = self.create_task(self._send())
            self._receive_task = self.create_task(self._line.run(None))  # type: ignore[assignment]

    async def _disconnect(self) -> None:
        self._over = True
        if self._sender is not None:
            await self.cancel_task(self._sender)
            self._sender = None
        await super()._disconnect()

    async def _websocket_connect(self, uri: str, **kwargs: Any) -> Any:
        # mu-law noise does not shrink: deflate costs CPU on each 20 ms and saves nothing
        return await super()._websocket_connect(uri, compression=None, **websocket_options(uri), **kwargs)

    async def _dial(self) -> ClientConnection:
        self._websocket = None
        await self._connect_websocket()
        made: ClientConnection | None = self._websocket
        if made is None:
            raise self._failure or ConnectionError("not connected")
        return made

    async def _hear(self, message: str | bytes) -> None:
        said = json.loads(message)
        kind = said.get("type")
        if kind == "error":
            raise failed(said)
        self._trouble.works(time.monotonic())
        if kind == "transcript" and said.get("is_final"):
            self._unheard.transcribed()
        elif kind == "flush_done":
            self._unheard.flushed()
        if not self._unheard.asked:
            self._line.relax()
        elif kind == "transcript":
            self._line.expect()
        if not self._unheard.turns:
            self._trouble.idle()
        await self._process_response(said)
        if kind == "flush_done":
            await self._no_more_words()


def failed(said: Mapping[str, Any]) -> Failed:
    """Read an error event."""
    return Failed(str(said.get("message") or said), said.get("status_code"))
