"""Cartesia's voice: connected while parked, never reconnecting behind the pool's back.

A parked worker whose voice is lost can serve nobody: it says so and the pool replaces it. In a call Pipecat's own reconnect
goes on, with one lock around it: without the lock a sentence sent while the receive loop is reconnecting goes out on a
second connection that nobody reads, and is never heard.

Source: Cartesia docs, "Concurrency limits and timeouts" (5 min without a generation; pings do not count).
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from pipecat.frames.frames import ErrorFrame, Frame
from pipecat.services.cartesia.tts import CartesiaTTSService
from websockets.protocol import State

from shared.agents import Agent
from shared.settings import Settings
from worker.providers.languages import base_language
from worker.providers.tls import websocket_options


class ParkedCartesiaTTS(CartesiaTTSService):
    """The voice. `on_lost` is called with what happened while the worker is parked; `on_word` with each timed word."""

    def __init__(self, settings: Settings, on_lost: Callable[[str], None]) -> None:
        super().__init__(
            api_key=settings.cartesia_api_key.get_secret_value(),
            url=settings.cartesia_tts_url,
            settings=CartesiaTTSService.Settings(
                model=settings.cartesia_tts_model, voice=settings.cartesia_voice_id, language="en"
            ),
        )
        self._on_lost = on_lost
        self._connecting = asyncio.Lock()
        self._default_voice = settings.cartesia_voice_id
        self.serving = False
        self.last_error = ""
        self.on_word: Callable[[str, str, float], None] = lambda _context, _word, _start_s: None

    def warm(self) -> bool:
        """Say whether the voice can speak now: its socket is open and nothing permanent was refused."""
        return bool(self.is_usable) and self._websocket is not None and self._websocket.state is State.OPEN

    def become(self, agent: Agent) -> None:
        """Take the voice and language of an agent, at once: they travel with each text, so no reconnect is needed.

        To be called before anything was spoken, since a context keeps the voice it began with.
        """
        self._settings.voice = agent.voice or self._default_voice  # type: ignore[attr-defined]
        self._settings.language = base_language(agent.language)  # type: ignore[attr-defined]

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Speak; a connection that is closing is waited for, because the base would lose the sentence on it."""
        if self._websocket is not None and self._websocket.state is State.CLOSING:
            await self._websocket.wait_closed()
        async for frame in super().run_tts(text, context_id):
            yield frame

    async def push_error(self, error_msg: str, exception: Exception | None = None, **kwargs: Any) -> None:
        """Keep the last error, for `/readyz`."""
        self.last_error = error_msg
        await super().push_error(error_msg, exception=exception, **kwargs)

    async def add_word_timestamps(self, word_times: list[tuple[str, float]], context_id: str, **kwargs: Any) -> None:
        """Let the play-out clock know which words the audio holds, and where."""
        for word, start_s in word_times:
            self.on_word(context_id, word, start_s)
        await super().add_word_timestamps(word_times, context_id, **kwargs)

    async def _websocket_connect(self, uri: str, **kwargs: Any) -> Any:
        return await super()._websocket_connect(uri, **websocket_options(uri), **kwargs)

    async def _connect_websocket(self) -> None:
        async with self._connecting:
            await super()._connect_websocket()

    async def _receive_messages(self) -> None:
        while True:
            await self._process_messages()
            if not self.serving:
                self._on_lost("the voice provider closed the connection")
                await asyncio.Event().wait()  # the pool ends this process
            await self._connect_websocket()

    async def _report_error(self, error: ErrorFrame, *args: Any, **kwargs: Any) -> None:
        if not self.serving:
            self._on_lost(str(error.error))
        await super()._report_error(error, *args, **kwargs)

    async def _maybe_try_reconnect(self, error_message: str, *args: Any, **kwargs: Any) -> bool:
        if not self.serving:
            self._on_lost(error_message)
            return False
        return await super()._maybe_try_reconnect(error_message, *args, **kwargs)
