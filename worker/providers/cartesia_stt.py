"""Cartesia's ear: connected from the reservation on, because plans count idle STT sockets as calls.

Audio that arrives while there is no connection is kept and sent afterwards, together with what the lost connection had not
understood yet (`unheard`): the caller may speak over the greeting, and over an outage.

Source: Cartesia docs, "Concurrency limits and timeouts" (a live STT socket is a concurrent request), "STT manual finalize".
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final

from pipecat.frames.frames import Frame, TranscriptionFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessorSetup
from pipecat.services.cartesia.stt import CartesiaSTTService
from websockets.asyncio.client import ClientConnection
from websockets.protocol import State

from shared.agents import Agent
from shared.settings import Settings
from shared.workers import Resource
from worker.providers.interface import TranscriptEnd, nothing_used, passes, stand_by
from worker.providers.languages import base_language, cartesia_model
from worker.providers.line import Failed, Line, Owner
from worker.providers.retry import Trouble
from worker.providers.tls import websocket_options
from worker.providers.unheard import PIECE_S, Unheard

BYTES_PER_S: Final = 16_000
"""8 kHz, 16 bits."""

REPORT_S: Final = 5.0
"""How often it is told how much was heard: what a killed worker had not told yet is missing in the count."""


class CartesiaEar(CartesiaSTTService):
    """The ear."""

    ends_turns = False

    def __init__(self, settings: Settings, trouble: Trouble | None = None) -> None:
        super().__init__(
            api_key=settings.cartesia_api_key.get_secret_value(),
            base_url=settings.cartesia_stt_url,
            settings=CartesiaSTTService.Settings(model=settings.cartesia_stt_model, language="en"),
        )
        self._model = settings.cartesia_stt_model
        self._language_override = settings.cartesia_stt_language
        self._trouble = trouble or Trouble(Resource.STT)
        self._line = Line(self._trouble, Owner(self._dial, self._hear, self._lost, self._ask_again))
        self._unheard = Unheard(BYTES_PER_S)
        self._sending = asyncio.Lock()
        self._outgoing = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._sent_bytes = 0
        self.active = True
        self.on_used: Callable[..., None] = nothing_used
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

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Let everything pass: audio and the ends of speech come by call."""
        if not self.active and passes(frame):
            await stand_by(self, frame, direction)
            return
        await super(CartesiaSTTService, self).process_frame(frame, direction)

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        """Take audio that came as a frame; in this pipeline none does."""
        self.hear(audio)
        yield None

    def hear(self, pcm: bytes) -> None:
        """Take a piece of the caller's audio; it goes out in the pieces the vendor advises, or when its speech ends."""
        self._unheard.add(pcm)
        self._last_audio_time = time.monotonic()
        if self._unheard.waiting_s >= PIECE_S:
            self._outgoing.set()

    def speech_began(self) -> None:
        """Note that the caller speaks."""
        self._unheard.speaking = True

    def speech_ended(self) -> None:
        """Ask for a transcript, now or as soon as there is a connection."""
        self._unheard.end_turn()
        self._trouble.wanted(time.monotonic())
        self._outgoing.set()

    async def push_frame(self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM) -> None:
        """Let no interruption take a final transcript back: on a busy machine the caller's words overtake their own barge-in."""
        if isinstance(frame, TranscriptionFrame):
            frame.interruptible = False
            frame.text = (
                frame.text.strip()
            )  # the vendor begins a further one with a space, and the aggregator adds its own
        await super().push_frame(frame, direction)

    async def push_error(self, error_msg: str, exception: Exception | None = None, **kwargs: Any) -> None:
        """Keep what went wrong; the trouble tells of it. Pipecat would make the ear unusable for good."""
        self._failure = exception or ConnectionError(error_msg)
        del kwargs

    def report(self) -> None:
        """Tell how much was heard since the last time; also called at the end of a call."""
        seconds, self._sent_bytes = self._sent_bytes / BYTES_PER_S, 0
        if seconds:
            self.on_used(stt_seconds=round(seconds, 2))

    async def _send(self) -> None:
        while True:
            await self._outgoing.wait()
            self._outgoing.clear()
            if self._line.up:
                await self._send_all()

    async def _send_all(self) -> None:
        async with self._sending:
            while (piece := self._unheard.next()) is not None:
                if not await (self._ask(piece) if isinstance(piece, str) else self._send_audio(piece)):
                    return

    async def _ask(self, word: str) -> bool:
        sent = await self._line.send(word)
        if sent:
            self._line.expect()
        return sent

    async def _send_audio(self, pcm: bytes) -> bool:
        if not await self._line.send(pcm):
            return False
        self._sent_bytes += len(pcm)
        if self._sent_bytes >= REPORT_S * BYTES_PER_S:
            self.report()
        return True

    # --- the connection -----------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        self._disconnecting = False
        if not self._receive_task:
            self._create_keepalive_task()
            self._sender = self.create_task(self._send())
            self._receive_task = self.create_task(self._line.run(None))  # type: ignore[assignment]

    async def _disconnect(self) -> None:
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

    async def _lost(self, _why: str) -> bool:
        async with self._sending:
            self._unheard.rewind()
        return not self._disconnecting

    async def _ask_again(self) -> None:
        await self._send_all()
        if not self._unheard.turns:
            self._trouble.works(time.monotonic())

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
        if kind == "flush_done" and not self._unheard.turns and not self._unheard.speaking:
            await self.push_frame(TranscriptEnd())


def failed(said: Mapping[str, Any]) -> Failed:
    """Read an error event."""
    return Failed(str(said.get("message") or said), said.get("status_code"))
