"""What every ear is, whoever hears: connected from the reservation on, because plans count idle sessions as calls.

Audio that arrives while there is no connection is kept and sent afterwards, together with what the lost connection had not
understood yet (`unheard`): the caller may speak over the greeting, and over an outage. A provider's ear adds how it dials, how it
is told of audio and of the end of speech, and how its words are read.
"""

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

from pipecat.frames.frames import Frame, TranscriptionFrame
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.stt_service import STTService
from websockets.asyncio.client import ClientConnection

from shared.workers import Resource
from worker.providers.interface import TranscriptEnd, nothing_used, passes, stand_by
from worker.providers.line import Line, Owner
from worker.providers.retry import Trouble
from worker.providers.traced import hears
from worker.providers.unheard import PIECE_S, Unheard

PCM_BYTES_PER_S: Final = 16_000
"""8 kHz, 16 bits."""

REPORT_S: Final = 5.0
"""How often it is told how much was heard: what a killed worker had not told yet is missing in the count."""


class CallEar(STTService):
    """The ear. `bytes_per_s` is how much one second is of the audio that is sent; `service` is for Pipecat's own."""

    ends_turns = False

    def __init__(self, trouble: Trouble | None, *, bytes_per_s: int = PCM_BYTES_PER_S, **service: Any) -> None:
        super().__init__(**service)
        self._trouble = trouble or Trouble(Resource.STT)
        self._line = Line(self._trouble, Owner(self._dial, self._hear, self._lost, self._ask_again))
        self._unheard = Unheard(bytes_per_s)
        self._bytes_per_s = bytes_per_s
        self._sending = asyncio.Lock()
        self._outgoing = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._sent_bytes = 0
        self._over = False
        self.active = True
        self.on_used: Callable[..., None] = nothing_used

    # --- the worker asks ----------------------------------------------------------------------------------------------

    def hear(self, pcm: bytes) -> None:
        """Take a piece of the caller's audio; it goes out in the pieces vendors advise, or when its speech ends."""
        self._unheard.add(pcm)
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

    def report(self) -> None:
        """Tell how much was heard since the last time; also called at the end of a call."""
        seconds, self._sent_bytes = self._sent_bytes / self._bytes_per_s, 0
        if seconds:
            self.on_used(stt_seconds=round(seconds, 2))

    # --- Pipecat asks -------------------------------------------------------------------------------------------------

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Let everything pass: audio and the ends of speech come by call."""
        if not self.active and passes(frame):
            await stand_by(self, frame, direction)
            return
        await STTService.process_frame(self, frame, direction)  # a vendor's service would ask at a pause by itself

    @hears
    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        """Take audio that came as a frame; in this pipeline none does."""
        self.hear(audio)
        yield None

    async def push_frame(self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM) -> None:
        """Let no interruption take a final transcript back: on a busy machine the caller's words overtake their own barge-in."""
        if isinstance(frame, TranscriptionFrame):
            frame.interruptible = False
            frame.text = (
                frame.text.strip()
            )  # some vendors begin a further one with a space, and the aggregator adds its own
        await super().push_frame(frame, direction)

    # --- the connection -----------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Connect, and stay connected; returns after the first attempt."""
        if not self._tasks:
            self._tasks = [
                self.create_task(self._send(), "sending"),
                self.create_task(self._line.run(None), "listening"),
            ]
        await self._line.tried.wait()

    async def _cease(self) -> None:
        """Connect no more."""
        self._over = True
        self._line.relax()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            await self.cancel_task(task)

    @abstractmethod
    async def _dial(self) -> ClientConnection:
        """Make a connection; raises what went wrong."""

    async def _lost(self, _why: str) -> bool:
        async with self._sending:
            self._unheard.rewind()
        return not self._over

    async def _ask_again(self) -> None:
        await self._send_all()
        if not self._unheard.turns:
            self._trouble.works(time.monotonic())

    # --- audio out, words in ------------------------------------------------------------------------------------------

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

    @abstractmethod
    async def _ask(self, word: str) -> bool:
        """Ask for what was said up to here; False when the connection turned out to be lost."""

    async def _send_audio(self, audio: bytes) -> bool:
        if not await self._line.send(self._message(audio)):
            return False
        self._sent_bytes += len(audio)
        if self._sent_bytes >= REPORT_S * self._bytes_per_s:
            self.report()
        return True

    def _message(self, audio: bytes) -> str | bytes:
        """Write audio as the vendor takes it."""
        return audio

    @abstractmethod
    async def _hear(self, message: str | bytes) -> None:
        """Take a message of the vendor."""

    async def _no_more_words(self) -> bool:
        """Say that no other word will come, when nothing is asked any more and the caller is silent; whether that is so."""
        over = not self._unheard.turns and not self._unheard.speaking
        if over:
            await self.push_frame(TranscriptEnd())
        return over
