"""A voice behind one WebSocket: connected while parked; in a call no sentence is lost with a connection. For any provider.

A parked worker whose voice is lost can serve nobody: it says so and the pool replaces it. In a call the connection is made
again (`line`), and what was asked and not heard whole is asked again, from the first missing word (`spoken`), before any
text that came meanwhile. Text goes out as it comes from the model (`words`), or by the sentence where that is asked.

A provider adds what its messages look like, and calls `_sound`, `_done` and `_failed` with what it hears. Pipecat's
private names stand here because its public ones end with the sentence: the aggregator is given at once and not by a
parameter, and words are played out before their sentence is complete.
"""

import asyncio
import itertools
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Final, Literal

from pipecat.frames.frames import EndFrame, Frame, LLMTextFrame, TTSAudioRawFrame, TTSStoppedFrame
from pipecat.processors.frame_processor import FrameProcessorSetup
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TextAggregationMode
from pipecat.utils.text.skip_tags_aggregator import SkipTagsAggregator
from websockets.asyncio.client import ClientConnection

from shared.agents import Agent
from shared.logs import get
from worker.providers.call_voice import PIECE_S, SAMPLE_BYTES, CallVoice
from worker.providers.connection import Connection
from worker.providers.languages import base_language
from worker.providers.line import Failed, Line, Owner
from worker.providers.retry import Trouble
from worker.providers.spoken import Timed, Utterance
from worker.providers.traced import speaks
from worker.providers.words import WholeWords

log = get(__name__)

MOST_REFUSALS: Final = 2
"""How often a text may be refused, without a sound between, until it is left out: the rest of the answer is worth more."""

Act = Literal["begin", "text", "end", "cancel"]
CHARACTERS: Final = frozenset({"ja", "zh", "yue"})
"""Languages whose words come as characters, without spaces between them."""


class SocketVoice(CallVoice):
    """The voice."""

    def __init__(
        self,
        settings: TTSSettings,
        on_lost: Callable[[str], None],
        trouble: Trouble | None,
        *,
        by_sentence: bool = False,
    ) -> None:
        mode = TextAggregationMode.SENTENCE if by_sentence else TextAggregationMode.TOKEN
        super().__init__(settings, on_lost, trouble, mode=mode)
        if by_sentence:
            self._text_aggregator = SkipTagsAggregator([("<spell>", "</spell>")], aggregation_type=mode)
        else:
            self._text_aggregator = WholeWords(self._look_again)  # type: ignore[assignment] # it is one of the base's kind
        self._by_sentence = by_sentence
        owner = Owner(self._dial, self._hear, self._lost, self._ask_again)
        self._connection = Connection(self, self._trouble, owner)
        self._utterances: dict[str, Utterance] = {}
        self._numbers = itertools.count(1)
        self._sending = asyncio.Lock()
        self._was_set_up = False
        self._chosen = asyncio.Event()  # for a call

    # --- what a provider adds -----------------------------------------------------------------------------------------

    @abstractmethod
    async def _connected(self) -> ClientConnection:
        """Make a connection; raises what went wrong."""

    @abstractmethod
    async def _hear(self, message: str | bytes) -> None:
        """Take a message; `Failed` ends the connection."""

    @abstractmethod
    def _messages(self, act: Act, utterance: Utterance, text: str = "") -> Iterable[str]:
        """Give the messages for an act: "end" when all text is there and shall be spoken, "cancel" when nothing shall be."""

    def _room(self) -> bool:
        """Say whether the connection takes another context now; `_ask_again` when it does again."""
        return True

    def _outlived(self, _utterance: Utterance) -> bool:
        """Say whether the provider may have ended a context of which nothing is to come."""
        return False

    def warm(self) -> bool:
        """Say whether the voice can speak now: its socket is open and nothing permanent was refused."""
        return bool(self.is_usable) and self._connection.open

    # --- Pipecat asks -------------------------------------------------------------------------------------------------

    async def setup(self, setup: FrameProcessorSetup) -> None:
        """Set up and connect; a failure shows in `warm` and `last_error`."""
        await super().setup(setup)
        try:
            await self._connection.make()
        except Exception as error:  # noqa: BLE001 - whatever it was, the pool is told
            self._note(error)
            log.warning("the voice is not connected", voice=type(self).__name__, error=self.last_error)
        self._was_set_up = True

    def become(self, agent: Agent) -> None:
        """Take the voice and language of an agent, and connect if that was in vain, or lost, before anybody needed it."""
        super().become(agent)
        if self._was_set_up:
            self._chosen.set()
            self._connection.try_again()

    async def stop(self, frame: EndFrame) -> None:
        """Say what there is to say, then leave."""
        await super().stop(frame)
        await self._disconnect()

    async def cleanup(self) -> None:
        """Leave, unless that was done."""
        await super().cleanup()
        await self._disconnect()

    @speaks
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Speak; while there is no connection the text waits for one."""
        async with self._sending:
            utterance = self._utterances.setdefault(context_id, Utterance())
            await self._renew(context_id, utterance)
            utterance.ask(text)
            self._trouble.wanted(time.monotonic())
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
            await self._renew(name, utterance)
            utterance.flush()
            if not utterance.wire and not utterance.unsaid:
                await self._finish(name)
            elif self._line.up:
                await self._say_rest(name, utterance)

    async def on_audio_context_interrupted(self, context_id: str) -> None:
        """Forget what was still to be said: the caller does not want to hear it."""
        utterance = self._forget(context_id)
        if utterance is not None and utterance.wire and self._line.up:
            await self._send("cancel", utterance)

    # --- the connection -----------------------------------------------------------------------------------------------

    @property
    def _line(self) -> Line:
        return self._connection.line

    async def _dial(self) -> ClientConnection:
        try:
            made = await self._connected()
        except Exception as error:
            self._note(error)
            raise
        self.last_error, self.limited = "", False
        return made

    async def _disconnect(self) -> None:
        await self._connection.close()

    async def _lost(self, why: str) -> bool:
        if self._connection.over:
            return False
        if not self.serving:
            self._gone(why)
            await (self._taken if self.active else self._chosen).wait()  # or the pool ends this process
        async with self._sending:
            for name, utterance in list(self._utterances.items()):
                if self.audio_context_available(name):
                    await self._settle(name, utterance)
                else:
                    self._forget(name)
        return True

    async def _settle(self, name: str, utterance: Utterance) -> None:
        """Take back the sound of a word that will be said again, before it is played; end what had all its words."""
        await self._fill_up(name, utterance)
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

    def _look_again(self) -> None:
        """Have the words looked at again, behind all that came: an empty token adds nothing."""
        self.create_task(self.queue_frame(LLMTextFrame("")), "late words")

    async def _say(self, name: str, utterance: Utterance, text: str) -> None:
        """Send a text; on a new name everything that is not said yet."""
        if not utterance.wire:
            text = utterance.unsaid
            if not text:
                utterance.awaited = False
                return
            if not self._room():
                return
            utterance.wire = f"{name}-{next(self._numbers)}"
            utterance.heard_at = time.monotonic()
            await self._send("begin", utterance)
        await self._send("text", utterance, text)
        self.on_used(tts_characters=len(text))
        self._expect()

    async def _say_rest(self, name: str, utterance: Utterance) -> None:
        """Send what has no name on the connection yet, and the end behind it."""
        utterance.awaited = True
        if not utterance.wire:
            await self._say(name, utterance, "")
        if utterance.flushed and utterance.wire:
            await self._send("end", utterance)
            self._expect()

    async def _ask_again(self) -> None:
        """Ask for what has no name on the connection: all there is when it is new, later what found no room or was not said."""
        async with self._sending:
            for name, utterance in list(self._utterances.items()):
                if utterance.unsaid and not utterance.wire:
                    await self._say_rest(name, utterance)
            if self._trouble.wanted_since is None:
                self._trouble.works(time.monotonic())

    async def _renew(self, name: str, utterance: Utterance) -> None:
        """Give up the name of a context that may be gone."""
        if utterance.wire and not utterance.awaited and not utterance.owed and self._outlived(utterance):
            await self._end(name, utterance)

    async def _send(self, act: Act, utterance: Utterance, text: str = "") -> None:
        for message in self._messages(act, utterance, text):
            await self._line.send(message)

    # --- sound in -----------------------------------------------------------------------------------------------------

    def _utterance(self, wire: str) -> tuple[str, Utterance | None]:
        """Give the context a message is about; None of one that was interrupted. Something came of it, whatever it is."""
        name = wire.rpartition("-")[0]
        utterance = self._utterances.get(name)
        if utterance is None or utterance.wire != wire:
            return name, None
        utterance.awaited = utterance.flushed
        return name, utterance

    async def _sound(self, name: str, utterance: Utterance, data: bytes) -> None:
        """Play sound that came; samples may be cut anywhere."""
        utterance.heard_at = time.monotonic()
        self._trouble.works(utterance.heard_at)
        pcm = utterance.whole_samples(data)
        await self.append_to_audio_context(name, TTSAudioRawFrame(pcm, self.sample_rate, 1, context_id=name))
        utterance.sound(len(pcm) / SAMPLE_BYTES / self.sample_rate)
        await self._words(name, utterance.whole())

    async def _done(self, name: str, utterance: Utterance) -> None:
        """Note that a context is over; what it did not say is said in the next one, unless that never works."""
        await self._end(name, utterance)
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

    async def _end(self, name: str, utterance: Utterance) -> None:
        """Leave a context for what the provider made of it."""
        if not utterance.flushed:
            await self._fill_up(name, utterance)
        await self._words(name, utterance.ended())

    async def _words(self, name: str, words: list[Timed]) -> None:
        """Let the play-out clock and the context know which words the sound holds, and where."""
        for word in words:
            self.on_word(name, word.text, word.start_s)
        if words:
            if (
                not self._by_sentence
            ):  # Pipecat would wait for the sentence's end, and lose its words to an interruption
                pending = await self._aggregated_frame_sequencer.finalize(name)
                await self._push_sequencer_frames(pending, name)
            times = [(word.text, word.start_s) for word in words]
            spaced = base_language(self._language) not in CHARACTERS
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
        self._review()
        return utterance

    def _review(self) -> None:
        """Look again at what is waited for: by the caller, and by the line."""
        if not any(utterance.unsaid or utterance.flushed for utterance in self._utterances.values()):
            self._trouble.idle()
        self._expect()

    def _expect(self) -> None:
        if any(utterance.awaited for utterance in self._utterances.values()):
            self._line.expect()
        else:
            self._line.relax()
