"""OpenAI's voice, or that of any server with its `POST /audio/speech`: one request for each piece of a text.

The next piece is asked for while the former one still comes, so that there is no gap between them; they sound in order. The
connections are open before anything is asked (`openai_connections`): two, one for each of two pieces, and again after a caller
has interrupted, which closes the one that was speaking.

What does not come whole is asked for again from the first missing word, as far as that can be told (`openai_pieces`): the
vendor gives no word times.

Source: openai 3.54 SDK (`resources/audio/speech.py`, `types/audio/speech_create_params.py`); OpenAI docs, "Text to speech",
"Error codes". The vendor's own models for this request end on 2027-01-06 (docs, "Deprecations").
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Final

import httpx2
from pipecat.frames.frames import Frame, TTSAudioRawFrame, TTSStoppedFrame
from pipecat.processors.frame_processor import FrameProcessorSetup
from pipecat.services.settings import TTSSettings

from shared.logs import get
from shared.metrics import Setback
from shared.settings import Settings
from worker.providers.call_voice import PIECE_S, SAMPLE_BYTES, CallVoice
from worker.providers.languages import base_language, language_name
from worker.providers.line import Failed
from worker.providers.openai_pieces import Pace, Piece, Pieces
from worker.providers.openai_requests import Refusal, SpeechClient, setback_of
from worker.providers.openai_sound import Converter
from worker.providers.retry import Trouble
from worker.providers.spoken import Timed
from worker.providers.traced import speaks

log = get(__name__)

AT_ONCE: Final = 2
"""Pieces that are asked for at the same time: the one that sounds, and the next."""

LOOK_S: Final = 10.0
"""How often a parked worker looks whether it still has a connection. Only the second look without one counts: between them
another was opened, if there was one to be had."""

BAD_REQUEST: Final = 400
CUSTOM_VOICE: Final = "voice_"
"""How the names of voices of one's own begin; they are given in another way than the vendor's."""


class Request:
    """A piece that was asked for, and its sound as far as it came."""

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.sound: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()  # None: it came whole
        self.task: asyncio.Task[None] | None = None


class Speech:
    """One audio context."""

    def __init__(self) -> None:
        self.pieces = Pieces()
        self.requests: deque[Request] = deque()
        self.flushed = False
        self.news = asyncio.Event()
        self.received_s = 0.0
        self.task: asyncio.Task[None] | None = None


class OpenAIVoice(CallVoice):
    """The voice."""

    def __init__(self, settings: Settings, on_lost: Callable[[str], None], trouble: Trouble | None = None) -> None:
        self._model = settings.openai_tts_model
        super().__init__(
            TTSSettings(model=self._model, voice=settings.openai_tts_voice, language=None), on_lost, trouble
        )
        self._client = SpeechClient(settings, self._model, self._may_ask)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._pace = Pace()
        self._speeches: dict[str, Speech] = {}
        self._looking: asyncio.Task[None] | None = None

    def warm(self) -> bool:
        """Say whether the voice can speak now: a connection is open and idle, and nothing permanent was refused."""
        return bool(self.is_usable) and not self._trouble.refused and not self.limited and self._client.warm()

    def can_generate_metrics(self) -> bool:
        """Say that times are measured."""
        return True

    @property
    def supports_processing_metrics(self) -> bool:
        """Say that `run_tts` only hands a text over."""
        return False

    # --- the connection -----------------------------------------------------------------------------------------------

    async def setup(self, setup: FrameProcessorSetup) -> None:
        """Open a connection, and look whether the key and the model are welcome."""
        await super().setup(setup)
        error = await self._client.open()
        if error is not None:
            self._note(error)
            if setback_of(error) is None:
                self._trouble.refuse(self.last_error, time.monotonic())
        self._looking = self.create_task(self._look(), "looking")

    async def cleanup(self) -> None:
        """Cease to speak, and close the connections."""
        await super().cleanup()
        for name in list(self._speeches):
            self._forget(name)
        if self._looking is not None:
            await self.cancel_task(self._looking)
            self._looking = None
        await self._client.close()

    def _may_ask(self) -> bool:
        return not self._trouble.refused and not self.limited and self._trouble.since is None

    async def _look(self) -> None:
        """Say that a parked worker has lost its connection, and could not make another."""
        missed = False
        while not await self._taken_within(LOOK_S):
            if self.warm():
                missed = False
            elif missed:
                self._gone(self.last_error or "the voice provider cannot be reached")
                return
            else:
                missed = True
                self._client.look()

    async def _taken_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._taken.wait()
        return self.serving

    # --- text in ------------------------------------------------------------------------------------------------------

    @speaks
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Speak a text behind what is spoken in this context already."""
        speech = self._speeches.get(context_id)
        if speech is None:
            speech = self._speeches[context_id] = Speech()
            speech.task = self.create_task(self._speak(context_id, speech), "speaking")
        self._ask(speech, speech.pieces.add(text))
        await self.start_tts_usage_metrics(text)
        yield None

    async def flush_audio(self, context_id: str | None = None) -> None:
        """Let a context end behind what was asked."""
        speech = self._speeches.get(context_id or self.get_active_audio_context_id() or "")
        if speech is not None:
            self._ask(speech, speech.pieces.rest())
            speech.flushed = True
            speech.news.set()

    async def on_audio_context_interrupted(self, context_id: str) -> None:
        """Forget what was still to be said, and have another connection opened for the one that this closes."""
        await self.stop_all_metrics()
        self._forget(context_id)
        self._client.look()

    def _ask(self, speech: Speech, texts: list[str]) -> None:
        for text in texts:
            self._trouble.wanted(time.monotonic())
            speech.requests.append(self._request(Piece(text, self._pace)))
            speech.news.set()

    def _request(self, piece: Piece) -> Request:
        request = Request(piece)
        request.task = self.create_task(self._fetch(request), "fetching")
        return request

    # --- sound in -----------------------------------------------------------------------------------------------------

    async def _fetch(self, request: Request) -> None:
        """Ask for a piece once."""
        async with self._slots:
            converter = Converter(self.sample_rate)
            body = self._body(request.piece.text)
            self.on_used(tts_characters=len(request.piece.text))
            try:
                async with contextlib.aclosing(self._client.speak(body, self._trouble)) as sound:
                    async for piece in sound:
                        self.last_error, self.limited = "", False  # whatever was the matter while parked
                        request.sound.put_nowait(converter.take(piece))
                request.sound.put_nowait(converter.rest())
            except (httpx2.HTTPError, TimeoutError, Failed) as error:
                request.sound.put_nowait(error)
            else:
                request.sound.put_nowait(None)
        self._client.look()

    def _body(self, text: str) -> dict[str, object]:
        voice = {"id": self._voice} if self._voice.startswith(CUSTOM_VOICE) else self._voice
        body: dict[str, object] = {"model": self._model, "voice": voice, "input": text, "response_format": "pcm"}
        if base_language(self._language) != "en" and not self._model.startswith("tts-1"):
            body["instructions"] = f"Speak {language_name(self._language)}."  # numbers and names are English otherwise
        return body

    # --- sound out ----------------------------------------------------------------------------------------------------

    async def _speak(self, name: str, speech: Speech) -> None:
        """Let the pieces of a context sound one after the other, until it is flushed and over."""
        while True:
            if speech.requests:
                await self._sound(name, speech)
                continue
            if speech.flushed:
                break
            speech.news.clear()
            self._review()
            await speech.news.wait()
        self._speeches.pop(name, None)
        self._review()
        await self.stop_ttfb_metrics()
        if self.audio_context_available(name):
            await self.append_to_audio_context(name, TTSStoppedFrame(context_id=name))
            await self.remove_audio_context(name)

    async def _sound(self, name: str, speech: Speech) -> None:
        """Let the oldest piece of a context sound, with as many requests as it takes."""
        request = speech.requests[0]
        request.piece.begin(speech.received_s)
        while isinstance(sound := await request.sound.get(), bytes):
            if sound:
                await self._append(name, speech, sound)
                await self._words(name, request.piece.sound(self._seconds(sound)))
        if sound is None:
            await self._words(name, request.piece.ended())
            await self._fill_up(name, speech)
            speech.requests.popleft()
            return
        request.piece.silence(await self._fill_up(name, speech))
        left = await self._failed(name, request, sound)
        if left is None:
            speech.requests.popleft()
        else:
            speech.requests[0] = self._request(left)

    async def _failed(self, name: str, request: Request, error: Exception) -> Piece | None:
        """Settle a request that came to nothing or to half of it; give what is to be asked for again, after a pause."""
        now = time.monotonic()
        if isinstance(error, Refusal) and error.status == BAD_REQUEST and error.about == "input":
            log.warning("the voice cannot say this", error=str(error))
            return None
        cause = setback_of(error)
        if cause is None:
            self.last_error = str(error)
            self._trouble.refuse(str(error), now)
            await asyncio.Event().wait()  # until the call is ended, or what is said is interrupted
        left, void = request.piece.again(), request.piece.lost()
        if left is None:
            return None
        if void is not None:
            self.on_void(name, void.start_s, void.end_s)
        if cause is not None:
            since = now - self._trouble.patience_s if cause is Setback.SILENT else None
            await asyncio.sleep(self._trouble.setback(cause, now, random.random(), since))  # noqa: S311 - spreads load
        return left

    async def _append(self, name: str, speech: Speech, sound: bytes) -> None:
        await self.append_to_audio_context(name, TTSAudioRawFrame(sound, self.sample_rate, 1, context_id=name))
        speech.received_s += self._seconds(sound)

    async def _fill_up(self, name: str, speech: Speech) -> float:
        """Add the silence that lets the end of a piece be played now; give its seconds."""
        rest = -round(speech.received_s * self.sample_rate) % round(PIECE_S * self.sample_rate)
        if rest:
            await self._append(name, speech, bytes(SAMPLE_BYTES * rest))
        return rest / self.sample_rate

    async def _words(self, name: str, words: list[Timed]) -> None:
        """Let the play-out clock and the context know which words the sound holds, and where."""
        for word in words:
            self.on_word(name, word.text, word.start_s)
        if words:
            await self.add_word_timestamps([(word.text, word.start_s) for word in words], name)

    def _seconds(self, sound: bytes) -> float:
        return len(sound) / SAMPLE_BYTES / self.sample_rate

    def _forget(self, name: str) -> None:
        speech = self._speeches.pop(name, None)
        if speech is not None:
            for task in (speech.task, *(request.task for request in speech.requests)):
                if task is not None:
                    task.cancel()
        self._review()

    def _review(self) -> None:
        """Look again whether anybody waits for sound."""
        if not any(speech.requests for speech in self._speeches.values()):
            self._trouble.idle()
