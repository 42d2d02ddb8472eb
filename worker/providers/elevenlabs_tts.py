"""ElevenLabs' voice: one connection with up to five contexts, kept within its idle limit; voice and language stand in its URL.

A connection belongs to a voice and a language: an agent with another one than the parked connection's gets a new connection
when the call is announced, and what is said meanwhile waits for it.

Text goes out as it comes from the model, and each sentence is flushed: the provider speaks at the end of a sentence, or when
it has 50 characters, whichever comes first, or when the model falls silent. Sound comes as 8 kHz PCM, which telephones need,
without resampling.

Source: ElevenLabs docs, "Multi-Context Websocket" (5 contexts; a context or connection ends after 20 s without a message,
`inactivity_timeout` allows 180; an empty text resets the clock; flush complete sentences; close what is interrupted), API
reference "Multi-Context WebSocket" (`pcm_8000`; the times of characters count from the beginning of the sound they come with;
`isFinal` when a context is closed; a closed context goes on speaking what it was told to flush; `generation_config` only in
the first message of a context, 50 being the least of `chunk_length_schedule`), "Models" (only generating counts as a
concurrent request, so that parked connections cost nothing). Errors as published by others: one message
`{"message", "error", "code": 1008}`, then close 1008; also for a wrong key or voice, after the 101
(livekit/agents-js#1985, pipecat#4132); a context is one of the five until its `isFinal` came (pipecat#4132).
"""

import asyncio
import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from pipecat.processors.frame_processor import FrameProcessorSetup
from pipecat.services.elevenlabs.tts_base import ELEVENLABS_MODEL_LANGUAGES
from pipecat.services.settings import TTSSettings
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from shared.agents import Agent
from shared.settings import Settings
from worker.providers.connection import connected
from worker.providers.languages import base_language
from worker.providers.line import Failed
from worker.providers.retry import Trouble
from worker.providers.socket_voice import Act, SocketVoice
from worker.providers.spoken import UNSPACED, Timed, Utterance

KEEP_ALIVE_S: Final = 10.0
"""Half of the 20 s after which a connection ends whose `inactivity_timeout` counts for nothing."""

INACTIVITY_S: Final = 180
"""The most that may be asked for: a worker that is stopped for a while keeps its connection."""

MOST_CONTEXTS: Final = 5
SCHEDULE: Final = (50, 120, 160, 290)
"""How many characters make the provider begin without a flush, piece after piece. Its default begins at 120: half a second of
tokens. The vendor's own SDK uses 50."""

HESITATION_S: Final = 0.5
"""After so much time without another word the provider is told to speak what it has: it would wait for the rest of the sentence
as long as the model does, and be taken for dead."""

PROVE_S: Final = 1.0
"""How long a parked connection may take to prove itself: it answers in 0.1 s, and one that does not may still work."""

STATUS: Final[Mapping[str, int]] = {
    "invalid_api_key": 401,
    "missing_api_key": 401,
    "unauthorized": 401,
    "authentication_required": 401,
    "needs_authorization": 401,
    "detected_unusual_activity": 401,
    "quota_exceeded": 402,
    "payment_required": 402,
    "voice_id_does_not_exist": 404,
    "voice_not_found": 404,
    "model_not_found": 404,
    "unsupported_model": 404,
    "unsupported_output_format": 400,
    "too_many_concurrent_requests": 429,
    "concurrent_limit_exceeded": 429,
    "rate_limit_exceeded": 429,
    "system_busy": 503,
    "input_timeout_exceeded": 408,
    "max_active_conversations": 409,
}
"""The vendor's words for errors as the HTTP statuses its REST API gives with them. Of any other nobody knows the reason."""

_SENTENCE_END: Final = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'»\u201d\u2019)\]]*\s*$")


@dataclass(frozen=True, slots=True)
class Place:
    """What a connection is made for."""

    voice: str
    language: str


class Spelling:
    """Characters and their times become words. One for each context on a connection.

    Attributes:
        received_s: the sound that came; what comes next is timed from there.
    """

    def __init__(self) -> None:
        self.received_s = 0.0
        self._word = ""
        self._start_s = 0.0
        self._end_s = 0.0

    def take(self, chars: Sequence[str], starts_ms: Sequence[float], durations_ms: Sequence[float]) -> list[Timed]:
        """Take characters that come with the next sound; give the words that end in them. A word may go on in the next."""
        words: list[Timed] = []
        for char, start_ms, duration_ms in zip(chars, starts_ms, durations_ms, strict=False):
            if char.isspace():
                words += self.rest()
                continue
            if not self._word:
                self._start_s = self.received_s + start_ms / 1000
            self._word += char
            self._end_s = self.received_s + (start_ms + duration_ms) / 1000
            if UNSPACED.match(char):
                words += self.rest()
        return words

    def rest(self) -> list[Timed]:
        """Give the word that was begun, now that it is known to be whole."""
        word, self._word = self._word, ""
        return [Timed(word, self._start_s, self._end_s)] if word else []


class ElevenLabsVoice(SocketVoice):
    """The voice."""

    def __init__(self, settings: Settings, on_lost: Callable[[str], None], trouble: Trouble | None = None) -> None:
        self._model = settings.elevenlabs_tts_model
        super().__init__(
            TTSSettings(model=self._model, voice=settings.elevenlabs_voice_id, language=None), on_lost, trouble
        )
        self._url = "ws" + settings.elevenlabs_url.rstrip("/").removeprefix("http")
        self._key = settings.elevenlabs_api_key.get_secret_value()
        self._place = Place(self._voice, self._language)
        self._spellings: dict[str, Spelling] = {}  # of contexts that are open on the connection, interrupted ones too
        self._proving = True
        self._keeper: asyncio.Task[None] | None = None
        self._hesitation: asyncio.TimerHandle | None = None

    def become(self, agent: Agent) -> None:
        """Take the voice and language of an agent: where the connection is for others, another one is made at once."""
        super().become(agent)
        place = Place(self._voice, base_language(self._language))
        if place != self._place:
            self._place = place
            self._connection.move()

    async def setup(self, setup: FrameProcessorSetup) -> None:
        """Set up, connect, and keep the connection."""
        await super().setup(setup)
        self._proving = False
        self._keeper = self.create_task(self._keep_alive())

    async def _disconnect(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await self.cancel_task(keeper)
        self._end_hesitation()
        await super()._disconnect()

    # --- the connection -----------------------------------------------------------------------------------------------

    async def _connected(self) -> ClientConnection:
        self._spellings.clear()
        socket = await connected(self._address(), {"xi-api-key": self._key})
        if self._proving:
            await self._prove(socket)
        return socket

    def _address(self) -> str:
        query = {
            "model_id": self._model,
            "output_format": f"pcm_{self.sample_rate}",
            "inactivity_timeout": str(INACTIVITY_S),
        }
        if self._place.language in ELEVENLABS_MODEL_LANGUAGES.get(self._model, ()):
            query["language_code"] = self._place.language
        voice = quote(self._place.voice, safe="")
        return f"{self._url}/v1/text-to-speech/{voice}/multi-stream-input?{urlencode(query)}"

    async def _prove(self, socket: ClientConnection) -> None:
        """Open and close a context in which nothing is said: a wrong key, voice or model is only told to who speaks."""
        await socket.send(json.dumps({"text": " ", "context_id": "proof"}))
        await socket.send(json.dumps({"context_id": "proof", "close_context": True}))
        try:
            async with asyncio.timeout(PROVE_S):
                said = json.loads(await socket.recv())
        except TimeoutError:
            return
        except ConnectionClosed as error:
            raise Failed(error.rcvd.reason if error.rcvd else str(error)) from error
        if "error" in said:
            await socket.close()
            raise _failure(said)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(KEEP_ALIVE_S)
            if not self._line.up:
                continue
            wires = [{"context_id": utterance.wire} for utterance in self._utterances.values() if utterance.wire]
            for wire in wires or [{}]:
                await self._line.send(json.dumps({"text": "", **wire}))

    # --- words out ----------------------------------------------------------------------------------------------------

    def _room(self) -> bool:
        return len(self._spellings) < MOST_CONTEXTS

    async def _send(self, act: Act, utterance: Utterance, text: str = "") -> None:
        await super()._send(act, utterance, text)
        self._end_hesitation()
        if act == "text" and not _SENTENCE_END.search(text):
            self._hesitation = asyncio.get_running_loop().call_later(
                HESITATION_S, self._hesitate, utterance, utterance.wire
            )

    def _hesitate(self, utterance: Utterance, wire: str) -> None:
        self._hesitation = None
        if self._line.up and utterance.wire == wire:
            self.create_task(self._line.send(json.dumps({"context_id": wire, "flush": True})))

    def _end_hesitation(self) -> None:
        if self._hesitation is not None:
            self._hesitation.cancel()
            self._hesitation = None

    def _messages(self, act: Act, utterance: Utterance, text: str = "") -> Iterator[str]:
        wire = utterance.wire
        close = json.dumps({"context_id": wire, "close_context": True})
        match act:
            case "begin":
                self._spellings[wire] = Spelling()
                config = {"chunk_length_schedule": SCHEDULE}
                yield json.dumps({"text": " ", "context_id": wire, "generation_config": config})
            case "text":
                spaced = text if text[-1].isspace() or UNSPACED.match(text[-1]) else f"{text} "
                flush = {"flush": True} if _SENTENCE_END.search(text) else {}
                yield json.dumps({"text": spaced, "context_id": wire, **flush})
            case "end":
                yield json.dumps({"context_id": wire, "flush": True})
                yield close
            case "cancel":
                yield close

    # --- sound in -----------------------------------------------------------------------------------------------------

    async def _hear(self, message: str | bytes) -> None:
        said = json.loads(message)
        if "error" in said:
            raise self._failed(_failure(said))
        wire = said.get("contextId") or ""
        name, utterance = self._utterance(wire)
        final = said.get("isFinal") is True
        spelling = self._spellings.pop(wire, None) if final else self._spellings.get(wire)
        if utterance is not None and spelling is not None:
            if aligned := said.get("alignment") or said.get("normalizedAlignment"):
                times = [aligned.get(name) or () for name in ("chars", "charStartTimesMs", "charDurationsMs")]
                _note_words(utterance, spelling.take(*times))
            if said.get("audio"):
                data = base64.b64decode(said["audio"])
                spelling.received_s += len(data) / 2 / self.sample_rate
                await self._sound(name, utterance, data)
            if final:
                _note_words(utterance, spelling.rest())
                await self._done(name, utterance)
        if final:
            await self._ask_again()
        self._review()


def _note_words(utterance: Utterance, words: Sequence[Timed]) -> None:
    texts, starts = [word.text for word in words], [word.start_s for word in words]
    utterance.timed(texts, starts, [word.end_s for word in words])


def _failure(said: Mapping[str, Any]) -> Failed:
    """Read an error message."""
    code = str(said["error"])
    return Failed(f"{code}: {said.get('message', '')}", STATUS.get(code))
