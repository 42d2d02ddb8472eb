"""ElevenLabs' ear (Scribe): connected from the reservation on, because plans count live sessions.

Audio that arrives while there is no connection is kept and sent afterwards, together with what the lost connection had not
understood yet (`unheard`): the caller may speak over the greeting, and over an outage. Where speech ends the transcript is asked
for with a commit; its answer, which may be empty, is the last word.

Source: ElevenLabs docs, "Transcripts and commit strategies" (a commit is answered by one committed transcript; what nobody
commits is committed by the service; nothing is read of the first 2 s), API reference "Realtime" (`input_audio_chunk`,
`pcm_8000`, error messages by their `message_type`), "Models" (concurrent sessions). Measured by others on the live service: a
refused key is told after the 101, in place of `session_started`; a commit of under 0.3 s of audio ends the session
(`commit_throttled`); a commit without words is answered with an empty text; the words of a committed transcript come once more
as a partial one, 5 to 50 ms later; a session without audio is closed after 15 s, without a word; the service commits for itself
after 36 s of audio. Errors end a session.
"""

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from pipecat.frames.frames import EndFrame, Frame, InterimTranscriptionFrame, TranscriptionFrame
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.settings import STTSettings
from pipecat.services.stt_latency import ELEVENLABS_REALTIME_TTFS_P99
from pipecat.services.stt_service import STTService
from pipecat.utils.time import time_now_iso8601
from websockets.asyncio.client import ClientConnection, connect
from websockets.protocol import State

from shared.agents import Agent
from shared.settings import Settings
from shared.workers import Resource
from worker.providers.interface import TranscriptEnd, nothing_used, passes, stand_by
from worker.providers.languages import base_language
from worker.providers.line import Failed, Line, Owner
from worker.providers.retry import Trouble
from worker.providers.tls import websocket_options
from worker.providers.unheard import PIECE_S, Unheard

RATE_HZ: Final = 8000
BYTES_PER_S: Final = 16_000
"""8 kHz, 16 bits."""

REPORT_S: Final = 5.0
"""How often it is told how much was heard: what a killed worker had not told yet is missing in the count."""

KEEP_ALIVE_S: Final = 5.0
"""After so much time without audio a session is given some silence, well before it is closed: before the stream begins, or
while it stands still."""

LEAST_COMMIT_S: Final = 0.35
"""What is committed is filled up with silence to this length: 0.3 s are demanded."""

ECHO_S: Final = 1.0
"""For so long words that were just committed are no news: more words seem to be on their way, and the turn would not end."""

CLOSE_S: Final = 1.0

STATUS: Final[Mapping[str, int]] = {
    "auth_error": 401,
    "quota_exceeded": 402,
    "unaccepted_terms": 403,
    "invalid_request": 400,
    "rate_limited": 429,
    "resource_exhausted": 503,
    "queue_overflow": 503,
    "transcriber_error": 500,
}
"""The vendor's words for errors as HTTP statuses; any other is an end of the session that a new one may not have."""


class ElevenLabsEar(STTService):
    """The ear."""

    ends_turns = False

    def __init__(self, settings: Settings, trouble: Trouble | None = None) -> None:
        super().__init__(
            sample_rate=RATE_HZ,
            ttfs_p99_latency=ELEVENLABS_REALTIME_TTFS_P99,
            settings=STTSettings(model=settings.elevenlabs_stt_model, language=None),
        )
        self._url = "ws" + settings.elevenlabs_url.rstrip("/").removeprefix("http")
        self._key = settings.elevenlabs_api_key.get_secret_value()
        self._model = settings.elevenlabs_stt_model
        self._language = ""
        self._trouble = trouble or Trouble(Resource.STT)
        self._line = Line(self._trouble, Owner(self._dial, self._hear, self._lost, self._ask_again))
        self._socket: ClientConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._over = False
        self._unheard = Unheard(BYTES_PER_S)
        self._uncommitted = 0
        self._last_words = ""
        self._last_words_at = float("-inf")
        self._sending = asyncio.Lock()
        self._outgoing = asyncio.Event()
        self._sent_bytes = 0
        self.active = True
        self.on_used: Callable[..., None] = nothing_used

    # --- the worker asks ----------------------------------------------------------------------------------------------

    def warm(self) -> bool:
        """Say whether speech sent now would be recognised."""
        return bool(self.is_usable) and self._socket is not None and self._socket.state is State.OPEN

    async def open(self, agent: Agent) -> None:
        """Connect in the language of an agent, and stay connected; returns after the first attempt."""
        self._language = base_language(agent.language)
        if not self._tasks:
            self._tasks = [self.create_task(self._send()), self.create_task(self._line.run(None))]
        await self._line.tried.wait()

    def hear(self, pcm: bytes) -> None:
        """Take a piece of the caller's audio; it goes out in the pieces the vendor advises, or when its speech ends."""
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
        seconds, self._sent_bytes = self._sent_bytes / BYTES_PER_S, 0
        if seconds:
            self.on_used(stt_seconds=round(seconds, 2))

    # --- Pipecat asks -------------------------------------------------------------------------------------------------

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Let everything pass: audio and the ends of speech come by call."""
        if not self.active and passes(frame):
            await stand_by(self, frame, direction)
            return
        await super().process_frame(frame, direction)

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        """Take audio that came as a frame; in this pipeline none does."""
        self.hear(audio)
        yield None

    async def stop(self, frame: EndFrame) -> None:
        """Leave."""
        await super().stop(frame)
        await self._disconnect()

    async def cleanup(self) -> None:
        """Leave, unless that was done."""
        await super().cleanup()
        await self._disconnect()

    # --- the connection -----------------------------------------------------------------------------------------------

    async def _dial(self) -> ClientConnection:
        self._socket = None
        query = {
            "model_id": self._model,
            "audio_format": f"pcm_{RATE_HZ}",
            "commit_strategy": "manual",
            "language_code": self._language,
        }
        socket = await connect(
            f"{self._url}/v1/speech-to-text/realtime?{urlencode(query)}",
            additional_headers={"xi-api-key": self._key},
            compression=None,  # mu-law noise does not shrink: deflate costs CPU on each message and saves nothing
            close_timeout=CLOSE_S,
            **websocket_options(self._url),
        )
        started = False
        try:
            said = json.loads(await socket.recv())
            started = said.get("message_type") == "session_started"
        finally:
            if not started:
                socket.transport.abort()
        if not started:
            raise _failure(said)
        self._uncommitted = 0
        self._socket = socket
        return socket

    async def _lost(self, _why: str) -> bool:
        async with self._sending:
            self._unheard.rewind()
        return not self._over

    async def _ask_again(self) -> None:
        await self._send_all()
        if not self._unheard.turns:
            self._trouble.works(time.monotonic())

    async def _disconnect(self) -> None:
        self._over = True
        self._line.relax()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            await self.cancel_task(task)
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()

    # --- audio out ----------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    await self._outgoing.wait()
            except TimeoutError:
                if self._line.up:
                    await self._send_audio(bytes(int(PIECE_S * BYTES_PER_S)))
                continue
            self._outgoing.clear()
            if self._line.up:
                await self._send_all()

    async def _send_all(self) -> None:
        async with self._sending:
            while (piece := self._unheard.next()) is not None:
                sent = await (self._commit() if isinstance(piece, str) else self._send_audio(piece))
                if not sent:
                    return

    async def _commit(self) -> bool:
        missing = int(LEAST_COMMIT_S * BYTES_PER_S) - self._uncommitted
        if missing > 0 and not await self._send_audio(bytes(missing)):
            return False
        sent = await self._line.send(_chunk(b"", commit=True))
        self._uncommitted = 0
        self._line.expect()
        return sent

    async def _send_audio(self, pcm: bytes) -> bool:
        if not await self._line.send(_chunk(pcm)):
            return False
        self._uncommitted += len(pcm)
        self._sent_bytes += len(pcm)
        if self._sent_bytes >= REPORT_S * BYTES_PER_S:
            self.report()
        return True

    # --- words in -----------------------------------------------------------------------------------------------------

    async def _hear(self, message: str | bytes) -> None:
        said = json.loads(message)
        text = str(said.get("text") or "").strip()
        match said.get("message_type"):
            case "partial_transcript":
                await self._partial(text, said)
            case "committed_transcript":
                await self._committed(text, said)
            case _ if "error" in said:
                raise _failure(said)
            case _:
                pass

    async def _partial(self, text: str, said: dict[str, Any]) -> None:
        self._trouble.works(time.monotonic())
        if self._unheard.asked:
            self._line.expect()
        silent = not self._unheard.speaking and not self._unheard.turns
        echo = text == self._last_words and time.monotonic() - self._last_words_at < ECHO_S
        if text and not silent and not echo:
            await self.push_frame(InterimTranscriptionFrame(text, "", time_now_iso8601(), result=said))

    async def _committed(self, text: str, said: dict[str, Any]) -> None:
        self._trouble.works(time.monotonic())
        asked = self._unheard.asked > 0
        repeated = not asked and text == self._last_words
        self._last_words, self._last_words_at = text, time.monotonic()
        if not asked:
            self._uncommitted = 0
        if repeated:
            return
        self._unheard.transcribed()
        self._unheard.flushed()
        if self._unheard.asked:
            self._line.expect()
        else:
            self._line.relax()
        if not self._unheard.turns:
            self._trouble.idle()
        if text:
            frame = TranscriptionFrame(text, "", time_now_iso8601(), result=said)
            frame.interruptible = False  # on a busy machine the caller's words overtake their own barge-in
            await self.push_frame(frame)
        if asked and not self._unheard.turns and not self._unheard.speaking:
            await self.push_frame(TranscriptEnd())


def _chunk(pcm: bytes, *, commit: bool = False) -> str:
    """Build a message; by hand, because a call is many of them."""
    encoded, committing = base64.b64encode(pcm).decode(), "true" if commit else "false"
    return f'{{"message_type":"input_audio_chunk","audio_base_64":"{encoded}","commit":{committing},"sample_rate":{RATE_HZ}}}'


def _failure(said: Mapping[str, Any]) -> Failed:
    """Read an error message."""
    kind = str(said.get("message_type"))
    return Failed(f"{kind}: {said.get('error', '')}", STATUS.get(kind))
