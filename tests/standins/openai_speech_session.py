"""One transcription session: audio in, transcripts out when the client commits.

Turn detection by the server is not played: the models meant for it have none. A wrong key shows in an error event and the
close code 3000, after an upgrade that succeeded.

Source: OpenAI docs, "Realtime transcription" (words may come before the commit; whole transcripts of several turns in any
order), reference of client and server events; issue 4 of twilio-samples/speech-assistant-openai-realtime-api-python (3000
`invalid_request_error.invalid_api_key`); issue 2358 of livekit/agents (`session_expired`, then a close).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
import uuid
from typing import TYPE_CHECKING, Any

from starlette.websockets import WebSocketDisconnect

from tests.standins import openai_speech_wire as wire
from tests.standins.cartesia_stt import spoken_part
from tests.standins.speech import ScriptedSpeech

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from tests.standins.openai_speech import Desk

REFUSED_CLOSE = 3000
EXPIRED_CLOSE = 1001
FATAL = frozenset({"invalid_api_key", "insufficient_quota", "rate_limit_exceeded", "session_expired"})


class TranscriptionSession:
    """One accepted socket."""

    _numbers = itertools.count(1)

    def __init__(self, desk: Desk, websocket: WebSocket) -> None:
        self._desk = desk
        self._websocket = websocket
        self._id = f"sess_{uuid.uuid4().hex[:16]}"
        self._expires_at = wire.expires_in(desk.settings.session_s)
        self._hearing = wire.Hearing()
        self._audio = bytearray()  # the input audio buffer
        self._looked_at = 0
        self._said = ""  # by deltas, of the audio in the buffer
        self._item = self._new_item()
        self._before: str | None = None
        self._answers: set[asyncio.Task[None]] = set()
        self._order = asyncio.Condition()
        self._waiting: list[str] = []
        self._followed: set[str] = set()  # of those, what has had another one beside it
        self._closed = False

    async def run(self) -> None:
        """Serve the socket until it closes."""
        await self._send(wire.event("session.created", session=self._session()))
        expiring = asyncio.create_task(self._expire())
        try:
            if not self._desk.admits(self._websocket.headers.get("authorization", "")):
                await self._refuse(wire.Refused("Incorrect API key provided.", "invalid_api_key"))
                return
            if self._websocket.query_params.get("intent") != "transcription":
                await self._refuse(wire.Refused("the stand-in knows transcription only", "not_in_the_stand_in"))
                return
            while not self._closed:
                message = await self._websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                await self._take(message.get("text") or "")
        finally:
            self._closed = True
            for task in (expiring, *self._answers):
                task.cancel()

    def drop(self) -> None:
        """Cut the connection: no close frame."""
        self._closed = True
        self._websocket.scope["state"]["transport"].abort()

    async def _take(self, text: str) -> None:
        asked: dict[str, Any] = {}
        try:
            asked = json.loads(text)
            match asked.get("type"):
                case "session.update":
                    await self._update(asked)
                case "input_audio_buffer.append":
                    self._audio += wire.appended(asked)
                    await self._hear()
                case "input_audio_buffer.clear":
                    self._begin()
                    await self._send(wire.event("input_audio_buffer.cleared"))
                case "input_audio_buffer.commit":
                    await self._commit()
                case kind:
                    await self._refuse(wire.Refused(f"Invalid value: '{kind}'.", "invalid_value", "type"))
        except json.JSONDecodeError:
            await self._send(wire.error(wire.Refused("We could not parse the JSON of your event.", "invalid_json")))
        except wire.Refused as refused:
            self._desk.control.note("realtime_error", code=refused.code)
            await self._refuse(refused, asked.get("event_id"))

    async def _update(self, asked: dict[str, Any]) -> None:
        settings = self._desk.settings
        if settings.realtime_code:
            self._desk.spend("realtime_fail_next", realtime_code="")
            raise wire.Refused("made to fail", settings.realtime_code)
        self._hearing = wire.updated(self._hearing, asked.get("session"))
        hearing = self._hearing
        self._desk.control.note(
            "realtime_session", model=hearing.model, language=hearing.language, format=hearing.format
        )
        await self._send(wire.event("session.updated", session=self._session()))

    async def _hear(self) -> None:
        """Say early what is new, if the model does that. Local speech would need a core for it."""
        settings, hearing = self._desk.settings, self._hearing
        if not hearing.live or settings.stall_transcripts or not isinstance(self._desk.speech, ScriptedSpeech):
            return
        if len(self._audio) - self._looked_at < settings.delta_ms / 1000 * hearing.bytes_per_s:
            return
        self._looked_at = len(self._audio)
        text = self._desk.speech.recognise(hearing.pcm(bytes(self._audio)), hearing.rate_hz, hearing.language or "en")
        await self._say(self._item, text)

    async def _say(self, item: str, text: str) -> None:
        if text.startswith(self._said) and text != self._said:
            await self._send(wire.delta(item, text[len(self._said) :]))
            self._said = text

    async def _commit(self) -> None:
        seconds = len(self._audio) / self._hearing.bytes_per_s
        if seconds < wire.LEAST_COMMIT_S:
            raise wire.too_small(seconds)
        item, audio = self._item, bytes(self._audio)
        counters = self._desk.control.counters
        counters["commits"] += 1
        counters["heard_ms"] += round(1000 * seconds)
        if self._desk.settings.stall_transcripts:
            self._begin()
            return
        for message in wire.committed(item, self._before):
            await self._send(message)
        self._before = item
        said = self._said
        self._begin()
        if self._hearing.model:
            async with self._order:
                self._waiting.append(item)
                if len(self._waiting) > 1:
                    self._followed.update(self._waiting)
                self._order.notify_all()
            task = asyncio.create_task(self._transcribe(item, audio, said, time.monotonic()))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

    async def _transcribe(self, item: str, audio: bytes, said: str, asked_at: float) -> None:
        desk, settings = self._desk, self._desk.settings
        text = desk.transcripts.popleft() if desk.transcripts else await self._recognised(audio)
        await asyncio.sleep(asked_at + settings.transcript_ms / 1000 - time.monotonic())
        await self._turn(item, backwards=settings.transcripts_backwards)
        desk.control.note("transcript", text=text, asked_at=asked_at)
        if desk.settings.fail_transcripts:
            desk.spend("fail_transcripts")
            await self._send(wire.failed(item))
        else:
            if text.startswith(said) and text != said:
                await self._send(wire.delta(item, text[len(said) :]))
            for _ in range(2 if settings.transcripts_twice else 1):
                await self._send(wire.completed(item, text, len(audio) / self._hearing.bytes_per_s))
        async with self._order:
            self._waiting.remove(item)
            self._order.notify_all()

    async def _turn(self, item: str, *, backwards: bool) -> None:
        """Wait until it is this item's turn: that of the oldest, or of the newest when there are two."""
        async with self._order:
            if backwards:
                await self._order.wait_for(lambda: item in self._followed and item == self._waiting[-1])
            else:
                await self._order.wait_for(lambda: item == self._waiting[0])

    async def _recognised(self, audio: bytes) -> str:
        hearing = self._hearing
        pcm = spoken_part(hearing.pcm(audio), hearing.rate_hz)
        if not pcm:
            return ""
        return await asyncio.get_running_loop().run_in_executor(
            self._desk.threads, self._desk.speech.recognise, pcm, hearing.rate_hz, hearing.language or "en"
        )

    async def _expire(self) -> None:
        await asyncio.sleep(self._desk.settings.session_s)
        minutes = round(self._desk.settings.session_s / 60)
        await self._refuse(
            wire.Refused(f"Your session hit the maximum duration of {minutes} minutes.", "session_expired")
        )

    async def _refuse(self, refused: wire.Refused, event_id: str | None = None) -> None:
        """Say what is wrong; the connection ends where nothing else is possible."""
        await self._send(wire.error(refused, event_id))
        if refused.code in FATAL:
            self._closed = True
            expired = refused.code == "session_expired"
            reason = str(refused) if expired else f"invalid_request_error.{refused.code}"
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await self._websocket.close(EXPIRED_CLOSE if expired else REFUSED_CLOSE, reason)

    async def _send(self, text: str) -> None:
        if not self._closed:
            try:
                await self._websocket.send_text(text)
            except (RuntimeError, WebSocketDisconnect):
                self._closed = True

    def _begin(self) -> None:
        """Begin an empty buffer."""
        self._audio.clear()
        self._looked_at = 0
        self._said = ""
        self._item = self._new_item()

    def _new_item(self) -> str:
        return f"item_{next(self._numbers):08}"

    def _session(self) -> dict[str, object]:
        return wire.session(self._id, self._hearing, self._expires_at)
