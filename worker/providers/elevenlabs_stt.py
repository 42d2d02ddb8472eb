"""ElevenLabs' ear (Scribe).

Where speech ends the transcript is asked for with a commit; its answer, which may be empty, is the last word.

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
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from pipecat.frames.frames import EndFrame, InterimTranscriptionFrame, TranscriptionFrame
from pipecat.services.settings import STTSettings
from pipecat.services.stt_latency import ELEVENLABS_REALTIME_TTFS_P99
from pipecat.utils.time import time_now_iso8601
from websockets.asyncio.client import ClientConnection
from websockets.protocol import State

from shared.agents import Agent
from shared.settings import Settings
from worker.providers.call_ear import PCM_BYTES_PER_S, CallEar
from worker.providers.connection import welcomed
from worker.providers.languages import base_language
from worker.providers.line import Failed
from worker.providers.retry import Trouble
from worker.providers.unheard import PIECE_S

RATE_HZ: Final = 8000
KEEP_ALIVE_S: Final = 5.0
"""After so much time without audio a session is given some silence, well before it is closed: before the stream begins, or
while it stands still."""

LEAST_COMMIT_S: Final = 0.35
"""What is committed is filled up with silence to this length: 0.3 s are demanded."""

ECHO_S: Final = 1.0
"""For so long words that were just committed are no news: more words seem to be on their way, and the turn would not end."""

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


class ElevenLabsEar(CallEar):
    """The ear."""

    def __init__(self, settings: Settings, trouble: Trouble | None = None) -> None:
        super().__init__(
            trouble,
            sample_rate=RATE_HZ,
            ttfs_p99_latency=ELEVENLABS_REALTIME_TTFS_P99,
            settings=STTSettings(model=settings.elevenlabs_stt_model, language=None),
        )
        self._url = "ws" + settings.elevenlabs_url.rstrip("/").removeprefix("http")
        self._key = settings.elevenlabs_api_key.get_secret_value()
        self._model = settings.elevenlabs_stt_model
        self._language = ""
        self._socket: ClientConnection | None = None
        self._uncommitted = 0
        self._last_words = ""
        self._last_words_at = float("-inf")

    # --- the worker asks ----------------------------------------------------------------------------------------------

    def warm(self) -> bool:
        """Say whether speech sent now would be recognised."""
        return bool(self.is_usable) and self._socket is not None and self._socket.state is State.OPEN

    async def open(self, agent: Agent) -> None:
        """Connect in the language of an agent, and stay connected; returns after the first attempt."""
        self._language = base_language(agent.language)
        await self._listen()

    # --- Pipecat asks -------------------------------------------------------------------------------------------------

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
        socket = await welcomed(
            f"{self._url}/v1/speech-to-text/realtime?{urlencode(query)}",
            {"xi-api-key": self._key},
            ("message_type", "session_started"),
            _failure,
        )
        self._uncommitted = 0
        self._socket = socket
        return socket

    async def _disconnect(self) -> None:
        await self._cease()
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
                    await self._send_audio(bytes(int(PIECE_S * PCM_BYTES_PER_S)))
                continue
            self._outgoing.clear()
            if self._line.up:
                await self._send_all()

    async def _ask(self, _word: str) -> bool:
        missing = int(LEAST_COMMIT_S * PCM_BYTES_PER_S) - self._uncommitted
        if missing > 0 and not await self._send_audio(bytes(missing)):
            return False
        sent = await self._line.send(_chunk(b"", commit=True))
        self._uncommitted = 0
        self._line.expect()
        return sent

    async def _send_audio(self, audio: bytes) -> bool:
        sent = await super()._send_audio(audio)
        self._uncommitted += len(audio) if sent else 0
        return sent

    def _message(self, audio: bytes) -> str:
        return _chunk(audio)

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
            await self.push_frame(TranscriptionFrame(text, "", time_now_iso8601(), result=said))
        if asked:
            await self._no_more_words()


def _chunk(pcm: bytes, *, commit: bool = False) -> str:
    """Build a message; by hand, because a call is many of them."""
    encoded, committing = base64.b64encode(pcm).decode(), "true" if commit else "false"
    return f'{{"message_type":"input_audio_chunk","audio_base_64":"{encoded}","commit":{committing},"sample_rate":{RATE_HZ}}}'


def _failure(said: Mapping[str, Any]) -> Failed:
    """Read an error message."""
    kind = str(said.get("message_type"))
    return Failed(f"{kind}: {said.get('error', '')}", STATUS.get(kind))
