"""The speech of the OpenAI stand-in: `POST /v1/audio/speech` and the transcription sessions of `/v1/realtime`.

Part of the process of tests.standins.openai_api, since all of it has one `OPENAI_BASE_URL`: `SpeechSettings` are among its
settings, and `Desk.actions` among its actions: `transcripts` is a list of texts that the commits which follow are answered
with, in order, whatever the audio is; `drop_realtime` and `drop_speech` (any value) cut every connection of the kind.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from tests.standins import openai_speech_wire as wire
from tests.standins.openai_speech_session import TranscriptionSession
from tests.standins.speech import RATE_HZ, ScriptedSpeech

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from starlette.requests import Request
    from starlette.routing import BaseRoute
    from starlette.types import Receive, Scope, Send
    from starlette.websockets import WebSocket

    from tests.standins.control import Control
    from tests.standins.speech import Speech

BLOCKING_THREADS = 2


@dataclass(frozen=True, slots=True)
class SpeechSettings:
    """Latencies in ms and faults of speech; 0 and empty mean none."""

    speech_first_byte_ms: float = 250.0  # request to first sound
    speech_realtime_factor: float = 8.0  # generation is this much faster than speech
    speech_chunk_bytes: int = 4095  # of 24 kHz PCM; not a whole number of samples, as on a real network
    speech_status: int = 0  # answer requests to speak with this HTTP status
    speech_code: str = ""  # and this `code` in the error
    speech_fail_next: int = 0  # only so many fail, then all is well again; 0: all
    stall_speech: bool = False  # take requests to speak, never answer
    drop_speech_after_chunks: int = 0  # cut the connection after so many chunks of an answer
    drop_speech_next: int = 0  # only so many answers, then all is well again; 0: all
    realtime_connect_ms: float = 150.0  # before the 101
    realtime_status: int = 0  # answer upgrades with this HTTP status
    realtime_code: str = ""  # answer session.update with an error of this code, and close
    realtime_fail_next: int = 0  # only so many of both, then all is well again; 0: all
    transcript_ms: float = 150.0  # commit to whole transcript
    delta_ms: float = 300.0  # audio between deltas of a model that gives them early; scripted speech only
    stall_transcripts: bool = False  # take audio and commits, never answer
    fail_transcripts: int = 0  # so many transcriptions come to nothing
    transcripts_twice: bool = False  # whole transcripts come twice
    transcripts_backwards: bool = False  # of two commits under way the later one is answered first
    session_s: float = wire.SESSION_S  # how long a session may last


class Desk:
    """What requests and sessions share: the voice, the ear, what is open. `control` is set by the process it is part of."""

    control: Control[Any]

    def __init__(self, speech: Speech | None = None) -> None:
        self.speech = speech or ScriptedSpeech()
        self.threads = ThreadPoolExecutor(BLOCKING_THREADS, thread_name_prefix="speech")
        self.transcripts: deque[str] = deque()
        self.sessions: set[TranscriptionSession] = set()
        self._connections: dict[int, Any] = {}  # number to transport, of HTTP

    @property
    def settings(self) -> SpeechSettings:
        """The settings that hold now."""
        settings: SpeechSettings = self.control.settings
        return settings

    @property
    def actions(self) -> Mapping[str, Callable[[Any], None]]:
        """What `/_control` can have done."""
        return {
            "transcripts": self._set_transcripts,
            "drop_realtime": self._drop_realtime,
            "drop_speech": self._drop_speech,
        }

    gauges = frozenset({"realtime_open"})

    def routes(self) -> list[BaseRoute]:
        """Give what is to be mounted."""
        return [
            Route("/v1/audio/speech", self.speak, methods=["POST"]),
            WebSocketRoute("/v1/realtime", self.transcribe),
        ]

    def spend(self, count: str, **over: Any) -> None:
        """Use up one of the failures that were ordered; after the last one it is over. 0 ordered: it never ends."""
        left = getattr(self.settings, count)
        if left:
            changes = {count: left - 1, **(over if left == 1 else {})}
            self.control.settings = dataclasses.replace(self.control.settings, **changes)

    async def speak(self, request: Request) -> Response:
        """Serve `POST /v1/audio/speech`."""
        settings, state = self.settings, request.scope["state"]
        self.control.counters["speeches"] += 1
        self.control.counters["speech_connections"] += state["connection"] not in self._connections
        self._connections[state["connection"]] = state["transport"]
        refused = self._refusal(request.headers.get("authorization", ""))
        if refused is not None:
            self.control.note("speech_refused", status=refused.status)
            return JSONResponse(refused.body(), refused.status)
        try:
            asked = wire.speech_request(await request.body())
        except wire.Refused as problem:
            return JSONResponse(problem.body(), problem.status)
        entry = self.control.note(
            "speech",
            text=asked.input,
            voice=asked.voice,
            model=asked.model,
            instructions=asked.instructions,
            connection=state["connection"],
        )
        self.control.counters["characters"] += len(asked.input)
        if settings.stall_speech:
            await _gone(request.receive)
            return Response(status_code=499)  # nobody is there to read it
        audio = await asyncio.get_running_loop().run_in_executor(self.threads, _spoken, self.speech, asked)
        return Sound(self, entry, asked, audio)

    def _refusal(self, authorization: str) -> wire.Refused | None:
        settings = self.settings
        if not self.admits(authorization):
            return wire.Refused("Incorrect API key provided.", "invalid_api_key", None, 401)
        if not settings.speech_status:
            return None
        self.spend("speech_fail_next", speech_status=0)
        return wire.Refused("made to fail", settings.speech_code or None, None, settings.speech_status)

    def admits(self, authorization: str) -> bool:
        """Say whether a key is the right one."""
        key, wanted = authorization.removeprefix("Bearer ").strip(), self.control.settings.api_key
        return bool(key) and (not wanted or key == wanted)

    async def transcribe(self, websocket: WebSocket) -> None:
        """Serve `/v1/realtime?intent=transcription`."""
        settings = self.settings
        await asyncio.sleep(settings.realtime_connect_ms / 1000)
        if settings.realtime_status:
            self.spend("realtime_fail_next", realtime_status=0)
            self.control.counters["realtime_refused"] += 1
            refused = wire.Refused("made to fail", None, None, settings.realtime_status)
            await websocket.send_denial_response(JSONResponse(refused.body(), refused.status))
            return
        await websocket.accept()
        self.control.counters["realtime_open"] += 1
        self.control.counters["realtime_opened"] += 1
        session = TranscriptionSession(self, websocket)
        self.sessions.add(session)
        try:
            await session.run()
        finally:
            self.sessions.discard(session)
            self.control.counters["realtime_open"] -= 1

    def _drop_realtime(self, _: Any) -> None:
        for session in list(self.sessions):
            session.drop()

    def _drop_speech(self, _: Any) -> None:
        for transport in self._connections.values():
            transport.abort()

    def _set_transcripts(self, texts: Any) -> None:
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("transcripts: a list of texts expected")
        self.transcripts = deque(texts)


class Sound(Response):
    """An answer of sound at the pace of a model. Stops when the client goes away, as a barge-in makes it do."""

    def __init__(self, desk: Desk, entry: dict[str, object], asked: wire.SpeechRequest, audio: bytes) -> None:
        super().__init__(media_type="audio/pcm" if asked.response_format == "pcm" else "audio/wav")
        del self.headers["content-length"]
        self._desk = desk
        self._entry = entry
        self._header = wire.wav_header() if asked.response_format == "wav" else b""
        self._audio = audio
        self._asked_at = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the sound."""
        settings, desk = self._desk.settings, self._desk
        gone = asyncio.create_task(_gone(receive))
        due = self._asked_at + settings.speech_first_byte_ms / 1000
        try:
            for number, piece in enumerate(self._pieces(settings.speech_chunk_bytes)):
                if 0 < settings.drop_speech_after_chunks <= number:
                    desk.spend("drop_speech_next", drop_speech_after_chunks=0)
                    desk.control.counters["speeches_cut"] += 1
                    scope["state"]["transport"].abort()
                    await gone
                    return
                await asyncio.wait({gone}, timeout=max(0.0, due - time.monotonic()))
                if gone.done():
                    desk.control.counters["speeches_cancelled"] += 1
                    self._entry["cancelled_at"] = time.monotonic()
                    return
                if number == 0:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    self._entry["first_byte_at"] = time.monotonic()
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                due += len(piece) / (2 * wire.SPEECH_HZ) / max(settings.speech_realtime_factor, 0.01)
            await send({"type": "http.response.body", "body": b""})
            self._entry["done_at"] = time.monotonic()
        finally:
            gone.cancel()

    def _pieces(self, size: int) -> Iterator[bytes]:
        audio = self._header + self._audio
        return (audio[at : at + size] for at in range(0, len(audio), size))


async def _gone(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _spoken(speech: Speech, asked: wire.SpeechRequest) -> bytes:
    """Speak: PCM s16le at 24 kHz; blocks."""
    return _raised(speech.synthesize(asked.input, ""))


@lru_cache(maxsize=128)
def _raised(pcm: bytes) -> bytes:
    """Convert 8 kHz to 24 kHz. What was said once is not computed again."""
    samples = np.frombuffer(pcm, dtype="<i2")
    raised: np.ndarray[Any, np.dtype[np.int16]] = soxr.resample(samples, RATE_HZ, wire.SPEECH_HZ, quality="VHQ")
    return raised.astype("<i2").tobytes()
