"""A voice behind one WebSocket: connected while parked; in a call no sentence is lost with a connection. For any provider.

A parked worker whose voice is lost can serve nobody: it says so and the pool replaces it. In a call the connection is made
again (`line`), and what was asked and not heard whole is asked again, from the first missing word (`spoken`), before any
text that came meanwhile. Text goes out as it comes from the model (`words`). Audio contexts stay open until their last word
came: Pipecat would end one that is silent for 3 s.

A provider adds what its messages look like, and calls `_sound`, `_done` and `_failed` with what it hears. Pipecat's
private names stand here because its public ones end with the sentence: the aggregator is given at once and not by a
parameter, words are played out before their sentence is complete, and a silent context is kept.
"""

import asyncio
import itertools
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, Final, Literal

from pipecat.frames.frames import EndFrame, Frame, LLMTextFrame, TTSAudioRawFrame, TTSStoppedFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessorSetup
from pipecat.services.tts_service import TextAggregationMode, TTSService
from websockets.asyncio.client import ClientConnection
from websockets.protocol import State

from shared.agents import Agent
from shared.logs import get
from shared.metrics import Setback
from worker.providers.interface import nothing_used, passes, stand_by
from worker.providers.line import CONNECT_S, Failed, Line, Owner, cause_of, in_words
from worker.providers.retry import Trouble
from worker.providers.spoken import Timed, Utterance
from worker.providers.words import WholeWords

log = get(__name__)

KEEP_OPEN_S: Final = 1.0
"""How often open audio contexts are kept from ending; Pipecat waits 3 s for sound."""

PIECE_S: Final = 0.04
"""The transport plays sound in such pieces. What does not fill one waits for more, and is dropped after 3 s of silence: the
sound of a lost connection is filled up, so that places in the sound stay true."""

MOST_REFUSALS: Final = 2
"""How often a text may be refused, without a sound between, until it is left out: the rest of the answer is worth more."""
SAMPLE_BYTES: Final = 2
Act = Literal["begin", "text", "end", "cancel"]
CHARACTERS: Final = frozenset({"ja", "zh", "yue"})
"""Languages whose words come as characters, without spaces between them."""


class SocketVoice(TTSService):
    """The voice. `on_lost` is called with what happened while the worker is parked.

    `on_word` is told each word whose sound came whole, `on_void` sound of a context that must not be played, from and to in
    seconds since its beginning: a connection was lost in the middle of a word, and the word will come again.
    """

    def __init__(self, on_lost: Callable[[str], None], trouble: Trouble, **kwargs: Any) -> None:
        super().__init__(
            text_aggregation_mode=TextAggregationMode.TOKEN,
            push_text_frames=False,
            push_start_frame=True,
            max_consecutive_zero_audio_contexts=0,  # three silent ones would make it unusable for good
            **kwargs,
        )
        self._text_aggregator = WholeWords(self._look_again)  # type: ignore[assignment] # it is one of the base's kind
        self._on_lost = on_lost
        self._trouble = trouble
        self._owner = Owner(self._dial, self._hear, self._lost, self._ask_again)
        self._line = Line(trouble, self._owner)
        self._listening: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._socket: ClientConnection | None = None
        self._over = False
        self._utterances: dict[str, Utterance] = {}
        self._contexts: dict[str, str] = {}  # of names on the wire
        self._numbers = itertools.count(1)
        self._sending = asyncio.Lock()
        self._keeping: asyncio.TimerHandle | None = None
        self._taken = asyncio.Event()
        self._language = "en"
        self.active = True
        self.last_error = ""
        self.limited = False
        self.on_word: Callable[[str, str, float], None] = lambda _context, _word, _start_s: None
        self.on_used: Callable[..., None] = nothing_used
        self.on_void: Callable[[str, float, float], None] = lambda _context, _start_s, _end_s: None

    # --- what a provider adds -----------------------------------------------------------------------------------------

    @abstractmethod
    async def _connected(self) -> ClientConnection:
        """Make a connection; raises what went wrong."""

    @abstractmethod
    async def _hear(self, message: str | bytes) -> None:
        """Take a message; `Failed` ends the connection."""

    @abstractmethod
    def _messages(self, act: Act, wire: str, text: str = "") -> Iterable[str]:
        """Give the messages for an act: "end" when all text is there and shall be spoken, "cancel" when nothing shall be."""

    def _room(self) -> bool:
        """Say whether the connection takes another context now; `_ask_again` when it does again."""
        return True

    # --- the worker asks ----------------------------------------------------------------------------------------------

    @property
    def serving(self) -> bool:
        """Whether the worker is in a call: a lost connection is then made again."""
        return self._taken.is_set()

    def serve(self) -> None:
        """Be in a call from now on."""
        self._taken.set()

    def warm(self) -> bool:
        """Say whether the voice can speak now: its socket is open and nothing permanent was refused."""
        return bool(self.is_usable) and self._socket is not None and self._socket.state is State.OPEN

    def become(self, agent: Agent) -> None:
        """Take the language of an agent."""
        self._text_aggregator.set_language(agent.language)

    def _look_again(self) -> None:
        """Have the words looked at again, behind all that came: an empty token adds nothing."""
        self.create_task(self.queue_frame(LLMTextFrame("")), "late words")

    # --- Pipecat asks -------------------------------------------------------------------------------------------------

    async def setup(self, setup: FrameProcessorSetup) -> None:
        """Set up and connect; a failure shows in `warm` and `last_error`."""
        await super().setup(setup)
        try:
            async with asyncio.timeout(CONNECT_S):
                socket = await self._dial()
        except Exception as error:  # noqa: BLE001 - whatever it was, the pool is told
            log.warning("the voice is not connected", error=in_words(error))
            return
        self._listening = self.create_task(self._line.run(socket))

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Speak what comes, when this is the voice of the call."""
        if not self.active and passes(frame):
            await stand_by(self, frame, direction)
            return
        await super().process_frame(frame, direction)

    async def stop(self, frame: EndFrame) -> None:
        """Say what there is to say, then leave."""
        await super().stop(frame)
        await self._disconnect()

    async def cleanup(self) -> None:
        """Leave, unless that was done."""
        await super().cleanup()
        await self._disconnect()

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Speak; while there is no connection the text waits for one."""
        async with self._sending:
            utterance = self._utterances.setdefault(context_id, Utterance())
            utterance.ask(text)
            self._trouble.wanted(time.monotonic())
            self._keep_open()
            if self._line.up:
                await self._say(context_id, utterance, text)
        yield None

    async def flush_audio(self, context_id: str | None = None) -> None:
        """Let a context end behind what was asked."""
        name = context_id or self.get_active_audio_context_id() or ""
        async with self._sending:
            utterance = self._utterances.get(name)
            if utterance is None:
                return
            utterance.flush()
            if not utterance.wire and not utterance.unsaid:
                await self._finish(name)
            elif self._line.up:
                await self._say_rest(name, utterance)

    async def on_audio_context_interrupted(self, context_id: str) -> None:
        """Forget what was still to be said: the caller does not want to hear it."""
        utterance = self._forget(context_id)
        if utterance is not None and utterance.wire and self._line.up:
            await self._send("cancel", utterance.wire)

    # --- the connection -----------------------------------------------------------------------------------------------

    async def _dial(self) -> ClientConnection:
        self._socket = None
        try:
            self._socket = made = await self._connected()
        except Exception as error:
            self._note(error)
            raise
        self.last_error, self.limited = "", False
        return made

    def _note(self, error: Exception) -> None:
        """Keep what went wrong, for `/readyz`; of a connection that cannot be made this is the only sign."""
        self.last_error = in_words(error)
        self.limited = cause_of(error) is Setback.LIMITED

    def _move(self) -> None:
        """Leave this connection for another one, made in the background; what is said meanwhile waits for it."""
        old, old_line, socket = self._listening, self._line, self._socket
        if old is None or self._over:
            return
        old_line.relax()
        self._socket = None
        self._line = Line(self._trouble, self._owner)
        self._listening = self.create_task(self._line.run(None))
        leaving: asyncio.Task[None] = self.create_task(self._leave(old, socket))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _leave(self, listening: asyncio.Task[None], socket: ClientConnection | None) -> None:
        await self.cancel_task(listening)
        if socket is not None:
            await socket.close()

    async def _disconnect(self) -> None:
        self._over = True
        listening, self._listening = self._listening, None
        socket, self._socket = self._socket, None
        if self._keeping is not None:
            self._keeping.cancel()
        self._line.relax()
        for leaving in list(self._leaving):
            await self.cancel_task(leaving)
        if listening is not None:
            await self._leave(listening, socket)

    async def _lost(self, why: str) -> bool:
        if self._over:
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
        await self._finish_if_over(name, utterance)

    async def _fill_up(self, name: str, utterance: Utterance) -> None:
        rest = -round(utterance.received_s * self.sample_rate) % round(PIECE_S * self.sample_rate)
        if rest:
            silence = bytes(SAMPLE_BYTES * rest)
            await self.append_to_audio_context(name, TTSAudioRawFrame(silence, self.sample_rate, 1, context_id=name))
            utterance.fill_up(rest / self.sample_rate)

    # --- words out ----------------------------------------------------------------------------------------------------

    async def _say(self, context_id: str, utterance: Utterance, text: str) -> None:
        """Send a text; on a new name everything that is not said yet."""
        if not utterance.wire:
            text = utterance.unsaid
            if not text:
                utterance.awaited = False
                return
            if not self._room():
                return
            utterance.wire = f"{context_id}-{next(self._numbers)}"
            self._contexts[utterance.wire] = context_id
            await self._send("begin", utterance.wire)
        await self._send("text", utterance.wire, text)
        self.on_used(tts_characters=len(text))
        self._expect()

    async def _say_rest(self, context_id: str, utterance: Utterance) -> None:
        """Send what has no name on the connection yet, and the end behind it."""
        utterance.awaited = True
        if not utterance.wire:
            await self._say(context_id, utterance, "")
        if utterance.flushed and utterance.wire:
            await self._send("end", utterance.wire)
            self._expect()

    async def _ask_again(self) -> None:
        """Ask for what has no name on the connection: all there is when it is new, later what found no room or was not said."""
        async with self._sending:
            for name, utterance in list(self._utterances.items()):
                if utterance.unsaid and not utterance.wire:
                    await self._say_rest(name, utterance)
            if self._trouble.wanted_since is None:
                self._trouble.works(time.monotonic())

    async def _send(self, act: Act, wire: str, text: str = "") -> None:
        for message in self._messages(act, wire, text):
            await self._line.send(message)

    # --- sound in -----------------------------------------------------------------------------------------------------

    def _utterance(self, wire: str) -> tuple[str, Utterance | None]:
        """Give the context a message is about; None of one that was interrupted. Something came of it, whatever it is."""
        name = self._contexts.get(wire, "")
        utterance = self._utterances.get(name)
        if utterance is not None:
            utterance.awaited = utterance.flushed
        return name, utterance

    async def _sound(self, name: str, utterance: Utterance, data: bytes) -> None:
        """Play sound that came; samples may be cut anywhere."""
        self._trouble.works(time.monotonic())
        pcm = utterance.whole_samples(data)
        await self.append_to_audio_context(name, TTSAudioRawFrame(pcm, self.sample_rate, 1, context_id=name))
        utterance.sound(len(pcm) / SAMPLE_BYTES / self.sample_rate)
        await self._words(name, utterance.whole())

    async def _done(self, name: str, utterance: Utterance) -> None:
        """Note that a context is over; what it did not say is said in the next one, unless that never works."""
        if not utterance.flushed:
            await self._fill_up(name, utterance)
        self._contexts.pop(utterance.wire, None)
        await self._words(name, utterance.ended())
        utterance.refusals += bool(utterance.unsaid)
        await self._finish_if_over(name, utterance)
        await self._ask_again()

    def _failed(self, error: Failed) -> Failed:
        """Note an error of the provider that ends the connection; give it, to be raised."""
        self._note(error)
        if error.status is None:
            for utterance in self._utterances.values():
                utterance.refusals += bool(utterance.wire)
        return error

    async def _words(self, name: str, words: list[Timed]) -> None:
        """Let the play-out clock and the context know which words the sound holds, and where."""
        for word in words:
            self.on_word(name, word.text, word.start_s)
        if words:
            # Pipecat would wait for the end of the sentence, and lose its words to an interruption
            pending = await self._aggregated_frame_sequencer.finalize(name)
            await self._push_sequencer_frames(pending, name)
            times = [(word.text, word.start_s) for word in words]
            spaced = self._language not in CHARACTERS
            await self.add_word_timestamps(times, name, None if spaced else True, pre_merge_tokens=not spaced)

    async def _finish_if_over(self, name: str, utterance: Utterance) -> None:
        if utterance.refusals > MOST_REFUSALS:
            log.warning("the voice cannot say this", error=self.last_error)
        if utterance.refusals > MOST_REFUSALS or (utterance.flushed and not utterance.unsaid):
            await self._finish(name)

    async def _finish(self, name: str) -> None:
        """End an audio context: everything came."""
        self._forget(name)
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
