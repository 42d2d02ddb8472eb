"""Cartesia's voice: connected while parked, never reconnecting behind the pool's back; in a call no sentence is lost with it.

A parked worker whose voice is lost can serve nobody: it says so and the pool replaces it. In a call the connection is made
again (`line`), and what was asked and not heard whole is asked again, from the first missing word (`spoken`), before any
text that came meanwhile. Audio contexts stay open until their last word came: Pipecat would end one that is silent for 3 s.

Text goes out as it comes from the model (`words`), and the provider decides when it has enough of it to begin, at the latest
`CARTESIA_TTS_BUFFER_MS` after the first word. With 0 it is sent by the sentence and spoken as it is.

Source: Cartesia docs, "Concurrency limits and timeouts" (5 min without a generation; pings do not count), "Contexts" (one ends
1 s after its last sound), "Buffering".
"""

import asyncio
import base64
import itertools
import json
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

from pipecat.frames.frames import Frame, LLMTextFrame, TTSAudioRawFrame, TTSStoppedFrame
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.cartesia.tts import CartesiaTTSService
from pipecat.services.tts_service import TextAggregationMode
from websockets.asyncio.client import ClientConnection
from websockets.protocol import State

from shared.agents import Agent
from shared.logs import get
from shared.settings import Settings
from shared.workers import Resource
from worker.providers.interface import nothing_used, passes, stand_by
from worker.providers.languages import base_language
from worker.providers.line import Failed, Line, Owner, in_words
from worker.providers.retry import Trouble
from worker.providers.spoken import Timed, Utterance
from worker.providers.tls import websocket_options
from worker.providers.words import WholeWords

log = get(__name__)

KEEP_OPEN_S: Final = 1.0
"""How often open audio contexts are kept from ending; Pipecat waits 3 s for sound."""

PIECE_S: Final = 0.04
"""The transport plays sound in such pieces. What does not fill one waits for more, and is dropped after 3 s of silence: the
sound of a lost connection is filled up, so that places in the sound stay true."""

OUTLIVED_S: Final = 0.7
"""After so much silence another context is taken: one is gone after 1 s, and refuses what is on its way to it."""

FIRST_WORDS: Final = 3
"""How many words are spoken at once: nearly a second of sound, in which the rest comes in pieces with a better melody."""

SAMPLE_BYTES: Final = 2
BAD_REQUEST: Final = 400


class CartesiaVoice(CartesiaTTSService):
    """The voice. `on_lost` is called with what happened while the worker is parked.

    `on_word` is told each word whose sound came whole, `on_void` sound of a context that must not be played, from and to in
    seconds since its beginning: a connection was lost in the middle of a word, and the word will come again.
    """

    def __init__(self, settings: Settings, on_lost: Callable[[str], None], trouble: Trouble | None = None) -> None:
        self._streams_words = settings.cartesia_tts_buffer_ms > 0
        super().__init__(
            api_key=settings.cartesia_api_key.get_secret_value(),
            url=settings.cartesia_tts_url,
            settings=CartesiaTTSService.Settings(
                model=settings.cartesia_tts_model, voice=settings.cartesia_voice_id, language="en"
            ),
            text_aggregation_mode=TextAggregationMode.TOKEN if self._streams_words else TextAggregationMode.SENTENCE,
            append_trailing_space=True,  # to sentences, of which the provider joins what it is given
            max_buffer_delay_ms=settings.cartesia_tts_buffer_ms,  # it would be 3 s
            max_consecutive_zero_audio_contexts=0,  # three silent ones would make it unusable for good
        )
        if self._streams_words:
            self._text_aggregator = WholeWords(self._go_on)  # type: ignore[assignment] # it is one of the base's kind
        self._on_lost = on_lost
        self._default_voice = settings.cartesia_voice_id
        self._trouble = trouble or Trouble(Resource.TTS)
        self._line = Line(self._trouble, Owner(self._dial, self._hear, self._lost, self._ask_again))
        self._utterances: dict[str, Utterance] = {}
        self._contexts: dict[str, str] = {}  # of names on the wire
        self._numbers = itertools.count(1)
        self._sending = asyncio.Lock()
        self._keeping: asyncio.TimerHandle | None = None
        self._dialling = False
        self._failure: Exception | None = None
        self._taken = asyncio.Event()
        self.active = True
        self.last_error = ""
        self.limited = False
        self.on_word: Callable[[str, str, float], None] = lambda _context, _word, _start_s: None
        self.on_used: Callable[..., None] = nothing_used
        self.on_void: Callable[[str, float, float], None] = lambda _context, _start_s, _end_s: None

    @property
    def serving(self) -> bool:
        """Whether the worker is in a call: a lost connection is then made again."""
        return self._taken.is_set()

    def serve(self) -> None:
        """Be in a call from now on."""
        self._taken.set()

    def warm(self) -> bool:
        """Say whether the voice can speak now: its socket is open and nothing permanent was refused."""
        return bool(self.is_usable) and self._websocket is not None and self._websocket.state is State.OPEN

    def become(self, agent: Agent) -> None:
        """Take the voice and language of an agent, at once: they travel with each text, so no reconnect is needed.

        To be called before anything was spoken, since a context keeps the voice it began with.
        """
        self._settings.voice = agent.voice or self._default_voice  # type: ignore[attr-defined]
        self._settings.language = base_language(agent.language)  # type: ignore[attr-defined]
        self._text_aggregator.set_language(agent.language)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Speak what comes, when this is the voice of the call."""
        if not self.active and passes(frame):
            await stand_by(self, frame, direction)
            return
        await super().process_frame(frame, direction)

    def _go_on(self) -> None:
        """Have the words looked at again, behind all that came: an empty token adds nothing."""
        self.create_task(self.queue_frame(LLMTextFrame("")), "late words")

    # --- Pipecat asks -------------------------------------------------------------------------------------------------

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Speak; while there is no connection the text waits for one."""
        async with self._sending:
            utterance = self._utterances.setdefault(context_id, Utterance())
            await self._renew(context_id, utterance)
            utterance.ask(text)
            self._trouble.wanted(time.monotonic())
            self._keep_open()
            if self._line.up:
                await self._say(context_id, utterance, text)
        await self.start_tts_usage_metrics(text)
        yield None

    async def flush_audio(self, context_id: str | None = None) -> None:
        """Let a context end behind what was asked."""
        name = context_id or self.get_active_audio_context_id() or ""
        async with self._sending:
            utterance = self._utterances.get(name)
            if utterance is None:
                return
            await self._renew(name, utterance)
            utterance.flush()
            if not utterance.wire and not utterance.unsaid:
                await self._finish(name)
            elif self._line.up:
                await self._say_rest(name, utterance)

    async def on_audio_context_interrupted(self, context_id: str) -> None:
        """Forget what was still to be said: the caller does not want to hear it."""
        await self.stop_all_metrics()
        utterance = self._forget(context_id)
        if utterance is not None and utterance.wire and self._line.up:
            await self._line.send(json.dumps({"context_id": utterance.wire, "cancel": True}))

    async def push_error(self, error_msg: str, exception: Exception | None = None, **kwargs: Any) -> None:
        """Keep the last error, for `/readyz`; of a connection that cannot be made this is the only sign."""
        self._failure = exception
        self.last_error = in_words(exception) if self._dialling and exception is not None else error_msg
        self.limited = self._dialling and self.last_error.startswith("429")
        if not (self._dialling and self.serving):
            await super().push_error(error_msg, exception=exception, **kwargs)

    # --- the connection -----------------------------------------------------------------------------------------------

    async def _websocket_connect(self, uri: str, **kwargs: Any) -> Any:
        return await super()._websocket_connect(uri, **websocket_options(uri), **kwargs)

    async def _connect_websocket(self) -> None:
        self._dialling = True
        try:
            await super()._connect_websocket()
        finally:
            self._dialling = False

    async def _dial(self) -> ClientConnection:
        self._websocket = None
        await self._connect_websocket()
        made: ClientConnection | None = self._websocket
        if made is None:
            raise self._failure or ConnectionError(self.last_error)
        return made

    async def _lost(self, why: str) -> bool:
        if self._disconnecting:
            return False
        if not self.serving:
            self._on_lost(why)
            await self._taken.wait()  # the pool ends this process, unless a call was on its way here
        async with self._sending:
            self._contexts.clear()
            for name, utterance in list(self._utterances.items()):
                if self.audio_context_available(name):
                    await self._settle(name, utterance)
                else:
                    self._forget(name)
        return True

    async def _settle(self, name: str, utterance: Utterance) -> None:
        """Take back the sound of a word that will be said again, before it is played; end what had all its words."""
        await self._fill_up(name, utterance)
        self._contexts.pop(utterance.wire, None)
        void = utterance.lost()
        if void is not None:
            self.on_void(name, void.start_s, void.end_s)
        if utterance.flushed and not utterance.unsaid:
            await self._finish(name)

    async def _fill_up(self, name: str, utterance: Utterance) -> None:
        rest = -round(utterance.received_s * self.sample_rate) % round(PIECE_S * self.sample_rate)
        if rest:
            silence = bytes(SAMPLE_BYTES * rest)
            await self.append_to_audio_context(name, TTSAudioRawFrame(silence, self.sample_rate, 1, context_id=name))
            utterance.fill_up(rest / self.sample_rate)

    async def _receive_task_handler(self, *_args: Any) -> None:
        await self._line.run(self._websocket)

    # --- words out ----------------------------------------------------------------------------------------------------

    async def _say(self, context_id: str, utterance: Utterance, text: str) -> None:
        """Send a text; on a new name everything that is not said yet."""
        if not utterance.wire:
            text = utterance.unsaid
            if not text:
                utterance.awaited = False
                return
            utterance.wire = f"{context_id}-{next(self._numbers)}"
            utterance.heard_at = time.monotonic()
            utterance.words_sent = 0
            self._contexts[utterance.wire] = context_id
        await self._line.send(self._first_words(utterance, text, self._build_msg(text=text, context_id=utterance.wire)))
        self.on_used(tts_characters=len(text))
        self._expect()

    def _first_words(self, utterance: Utterance, text: str, message: str) -> str:
        """Have the first words of a context spoken without waiting for more."""
        if not self._streams_words or utterance.words_sent >= FIRST_WORDS:
            return message
        utterance.words_sent += len(text.split())
        return json.dumps(json.loads(message) | {"flush": utterance.words_sent >= FIRST_WORDS})

    async def _say_rest(self, context_id: str, utterance: Utterance) -> None:
        """Send what has no name on the connection yet, and the end behind it."""
        utterance.awaited = True
        if not utterance.wire:
            await self._say(context_id, utterance, "")
        if utterance.flushed:
            await self._end(utterance)

    async def _renew(self, name: str, utterance: Utterance) -> None:
        """Give up the name of a context that may be gone: nothing is to come of it, and it has been silent for long."""
        silent = utterance.wire and not utterance.awaited and not utterance.owed
        if silent and time.monotonic() - utterance.heard_at > OUTLIVED_S:
            await self._leave(name, utterance)

    async def _leave(self, name: str, utterance: Utterance) -> None:
        """Note that a context is over; what it did not say is said in the next one."""
        if not utterance.flushed:
            await self._fill_up(name, utterance)
        self._contexts.pop(utterance.wire, None)
        await self._words(name, utterance.ended())

    async def _again(self, name: str, utterance: Utterance, why: str) -> None:
        """Say in another context what was not said in one that is over; the second time without a sound it never will be."""
        utterance.refusals += 1
        if utterance.refusals > 1:
            log.warning("the voice cannot say this", error=why)
            await self._finish(name)
            return
        async with self._sending:
            if name in self._utterances and not utterance.wire and self._line.up:
                await self._say_rest(name, utterance)

    async def _end(self, utterance: Utterance) -> None:
        await self._line.send(self._build_msg(text="", continue_transcript=False, context_id=utterance.wire))
        self._expect()

    async def _ask_again(self) -> None:
        """Ask on a new connection for what did not come on the former one."""
        async with self._sending:
            for name, utterance in list(self._utterances.items()):
                if utterance.unsaid:
                    await self._say_rest(name, utterance)
            if self._trouble.wanted_since is None:
                self._trouble.works(time.monotonic())

    # --- sound in -----------------------------------------------------------------------------------------------------

    async def _hear(self, message: str | bytes) -> None:
        said = json.loads(message)
        kind, wire = said.get("type"), said.get("context_id") or ""
        name = self._contexts.get(wire, "")
        utterance = self._utterances.get(name)
        if utterance is None:
            if kind == "error" and not wire:
                raise Failed(str(said), said.get("status_code"))
            return  # of a context that was interrupted
        utterance.awaited = utterance.flushed
        match kind:
            case "chunk":
                await self._sound(name, utterance, base64.b64decode(said["data"]))
            case "timestamps":
                times = said["word_timestamps"]
                ends = times.get("end") or [*times["start"][1:], float("inf")]
                utterance.timed(times["words"], times["start"], ends)
                await self._words(name, utterance.whole())
            case "flush_done" if not self._streams_words:
                await self._words(name, utterance.text_done())
            case "done":
                await self._leave(name, utterance)
                if utterance.unsaid:
                    await self._again(name, utterance, "ended without a sound")
                elif utterance.flushed:
                    await self._finish(name)
            case "error":
                await self._refused(name, utterance, said)
            case _:
                pass
        self._review()

    async def _sound(self, name: str, utterance: Utterance, data: bytes) -> None:
        self._trouble.works(time.monotonic())
        utterance.heard_at = time.monotonic()
        pcm = utterance.whole_samples(data)
        await self.append_to_audio_context(name, TTSAudioRawFrame(pcm, self.sample_rate, 1, context_id=name))
        utterance.sound(len(pcm) / SAMPLE_BYTES / self.sample_rate)
        await self._words(name, utterance.whole())

    async def _words(self, name: str, words: list[Timed]) -> None:
        """Let the play-out clock and the context know which words the sound holds, and where."""
        for word in words:
            self.on_word(name, word.text, word.start_s)
        if words:
            if (
                self._streams_words
            ):  # Pipecat would wait for the end of the sentence, and lose its words to an interruption
                pending = await self._aggregated_frame_sequencer.finalize(name)
                await self._push_sequencer_frames(pending, name)
            times = self._normalize_word_timestamps([word.text for word in words], [word.start_s for word in words])
            characters = self._word_timestamps_include_inter_frame_spaces()
            await self.add_word_timestamps(
                times, name, includes_inter_frame_spaces=characters or None, pre_merge_tokens=characters
            )

    async def _refused(self, name: str, utterance: Utterance, said: dict[str, Any]) -> None:
        error = Failed(str(said.get("message") or said.get("error") or said), said.get("status_code"))
        if error.status != BAD_REQUEST:
            raise error
        await self._settle(name, utterance)
        if utterance.unsaid:
            await self._again(name, utterance, str(error))

    async def _finish(self, name: str) -> None:
        """End an audio context: everything came."""
        self._forget(name)
        await self.stop_ttfb_metrics()
        if self.audio_context_available(name):
            await self.append_to_audio_context(name, TTSStoppedFrame(context_id=name))
            await self.remove_audio_context(name)

    def _forget(self, name: str) -> Utterance | None:
        utterance = self._utterances.pop(name, None)
        if utterance is not None:
            self._contexts.pop(utterance.wire, None)
        self._review()
        return utterance

    def _review(self) -> None:
        """Look again at what is waited for: by the caller, and by the line."""
        if not any(utterance.unsaid or utterance.flushed for utterance in self._utterances.values()):
            self._trouble.idle()
        self._expect()

    # --- the clock ----------------------------------------------------------------------------------------------------

    def _expect(self) -> None:
        if any(utterance.awaited for utterance in self._utterances.values()):
            self._line.expect()
        else:
            self._line.relax()

    def _keep_open(self) -> None:
        if self._keeping is None:
            self._keeping = asyncio.get_running_loop().call_later(KEEP_OPEN_S, self._kept_open)

    def _kept_open(self) -> None:
        self._keeping = None
        for name in self._utterances:
            self._refresh_audio_context(name)
        if self._utterances:
            self._keep_open()
