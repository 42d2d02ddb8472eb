"""The two ends of the pipeline, on a stream that comes later: conclusions from the caller's audio in, the agent's audio out.

Both ends start with the parked pipeline and wait. `Output` keeps the carrier's buffer short: it writes at most `LEAD_S`
ahead of the play-out clock, whatever was sent directly (greeting, goodbye) included, because a barge-in, an end and a
resume all depend on knowing what has really been played.
"""

import asyncio
import base64
import contextlib
import math
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Final

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    OutputAudioRawFrame,
    StartFrame,
    TextFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.utils.utils import obj_id

from worker.call.captions import Captions
from worker.call.media import MEDIA_SUFFIX, clear_message, mark_message, media_prefix
from worker.call.playout import RATE, Cuts, Playout, SpokenSentences
from worker.call.stream import Stream

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gone in 3.13, where audioop-lts provides it
    import audioop

LEAD_S: Final = 1.0
"""How far ahead of the play-out clock audio is written: enough to bridge a busy machine. With ten calls beside two processes
that took two cores whole, 0.3 s left holes inside words in every third round, 1 s none in eight."""

TRANSIT_S: Final = 0.1
"""How long sound takes from the carrier's buffer to the caller's ear: so much less than the clock says was heard."""

AGAIN_S: Final = 0.4
"""How far the agent goes back when it proceeds and nobody knows where the word began that was cut."""

MOST_AGAIN_S: Final = 1.5
"""No word is longer; times that say so are wrong."""

PARAMS: Final = TransportParams(
    audio_in_sample_rate=RATE,
    audio_out_enabled=True,
    audio_out_sample_rate=RATE,
    audio_out_10ms_chunks=4,
    audio_out_end_silence_secs=0,
    audio_out_write_timeout_secs=30.0,
)


class Input(BaseInputTransport):
    """The beginning of the pipeline: what is concluded from the caller's audio enters it here. Audio does not."""

    def __init__(self) -> None:
        super().__init__(PARAMS.model_copy())
        self._conclusions: asyncio.Queue[Frame] = asyncio.Queue()
        self._telling: asyncio.Task[None] | None = None

    async def start(self, frame: StartFrame) -> None:
        """Start and wait for a stream; nothing is read here."""
        await super().start(frame)
        self._telling = self.create_task(self._tell())

    async def cleanup(self) -> None:
        """End with the pipeline."""
        if self._telling is not None:
            await self.cancel_task(self._telling)
        await super().cleanup()

    def conclude(self, frame: Frame) -> None:
        """Take a conclusion from the caller's audio into the pipeline; kept until the pipeline runs."""
        self._conclusions.put_nowait(frame)

    async def _tell(self) -> None:
        while True:
            await self.push_frame(await self._conclusions.get())


class Output(BaseOutputTransport):
    """The agent's audio, written to the stream in step with the play-out clock.

    `on_reply` is called once per agent turn with the monotonic time its first audio was written; `on_said` with each
    sentence whose audio is on its way, and its mark; `on_spoken` when a turn was written to its end; `on_cut` with what is
    left of a sentence the caller speaks over, and the words of it that were played; `on_interrupted` before the buffers are
    cleared; `on_quiet` when the agent's turn was written to its end, or interrupted.

    Somebody whose voice may be none makes the agent `halt`: the carrier drops what it has not played, which is kept, and
    nothing is written until `proceed`, or until an interruption drops it. `on_halt` is called before; `on_proceed` is asked
    from which place the agent goes on, given one, and `on_renamed` told what marks are called now. `more` says whether there
    is more to be said than what is written.
    """

    def __init__(self) -> None:
        super().__init__(PARAMS.model_copy())
        self._stream: Stream | None = None
        self._stream_sid = ""
        self._media_prefix = ""
        self._sentences = SpokenSentences()
        self._cuts = Cuts()
        self._context: str | None = None
        self._turn_open = False
        self._interrupted = asyncio.Event()
        self._oldest_id = 0
        self._captions: Captions[Frame] = Captions()
        self._captioning: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._unplayed_s = 0.0  # when the agent halted
        self.going = asyncio.Event()
        """Set unless the agent halts."""
        self.going.set()
        self.firm = False
        """Whether nothing interrupts any more: the last word of the call is being said."""
        self.asks = False
        """Whether what is said only wants a sign of life from the caller: any word is an answer to it."""
        self.playout = Playout()
        self.on_reply: Callable[[float], None] = lambda _at: None
        self.on_said: Callable[[str, str], None] = lambda _text, _mark: None
        self.on_spoken: Callable[[], None] = lambda: None
        self.on_cut: Callable[[str, str], None] = lambda _said, _heard: None
        self.on_interrupted: Callable[[], None] = lambda: None
        self.on_quiet: Callable[[], None] = lambda: None
        self.more: Callable[[], bool] = lambda: False
        self.on_halt: Callable[[], None] = lambda: None
        self.on_proceed: Callable[[int], int] = lambda place: place
        self.on_renamed: Callable[[Mapping[str, str], int], None] = lambda _names, _place: None

    async def start(self, frame: StartFrame) -> None:
        """Start and wait for a stream."""
        await super().start(frame)
        await self.set_transport_ready(frame)

    def attach(self, stream: Stream, stream_sid: str) -> None:
        """Write to this stream from now on."""
        self._stream = stream
        self._stream_sid = stream_sid
        self._media_prefix = media_prefix(stream_sid)

    def take_back(self) -> None:
        """Have the carrier drop what it has not played."""
        self._send(clear_message(self._stream_sid))
        self.playout.clear(time.monotonic())

    def halt(self) -> bool:
        """Have the agent fall silent at once, with nothing lost; say whether there was anything to be silent about.

        Nothing makes it halt that would not interrupt it.
        """
        now = time.monotonic()
        unplayed_s = self.playout.lead(now)
        if self.firm or self.playout.halted or not unplayed_s:
            return False
        self.on_halt()
        self._send(clear_message(self._stream_sid))
        self._unplayed_s = unplayed_s
        self.playout.halt(now)
        self._captions.halt(now)
        self.going.clear()
        return True

    def proceed(self) -> None:
        """Go on where the caller stopped hearing the agent, from the beginning of the word that was cut."""
        now = time.monotonic()
        if not self.playout.halted:
            return
        heard = self.playout.heard_bytes(now)
        again_s = self._sentences.since_word(self._unplayed_s, TRANSIT_S)
        if again_s is None or again_s > MOST_AGAIN_S:
            again_s = AGAIN_S
        start = self.on_proceed(max(0, heard - round(again_s * RATE)))
        again = self.playout.proceed(start, now)
        self.on_renamed(again.names, start)
        for item in again.items:
            if isinstance(item, str):
                self._send(mark_message(self._stream_sid, item))
            else:
                self._send(f"{self._media_prefix}{base64.b64encode(item).decode()}{MEDIA_SUFFIX}")
        self._captions.proceed(now, (heard - start) / RATE)
        self._changed.set()
        self.going.set()

    def word(self, context: str, text: str, start_s: float) -> None:
        """Note a word the voice will say, `start_s` seconds into its audio context."""
        self._sentences.word(context, text, start_s)

    def void(self, context: str, start_s: float, end_s: float) -> None:
        """Leave out sound of an audio context, as far as it was not written yet."""
        self._cuts.cut(context, start_s, end_s)

    def mark(self, text: str) -> str:
        """Send a mark behind what was written so far; its echo means `text` was heard. Gives the mark's name."""
        name = self.playout.mark(text)
        self.send_mark(name)
        return name

    def send_mark(self, name: str) -> None:
        """Send a mark that the play-out clock has named, behind what was written so far; later when the agent halts."""
        self.playout.placed(name)
        if not self.playout.halted:
            self._send(mark_message(self._stream_sid, name))

    @property
    def left_s(self) -> float:
        """How long the agent can still be heard by the play-out clock; infinite while there is more to say."""
        left_s = self.playout.lead(time.monotonic())
        return math.inf if left_s and self.more() else left_s

    @property
    def next_interruption(self) -> asyncio.Event:
        """What is set when the next interruption has been dealt with."""
        return self._interrupted

    async def announce_direct_speech(self, *, speaking: bool) -> None:
        """Tell the pipeline about audio that did not pass through it, so that its turn and idle logic knows."""
        await self.broadcast_frame(BotStartedSpeakingFrame if speaking else BotStoppedSpeakingFrame)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Let the base do its work, and take back what the carrier has buffered when the caller interrupts."""
        if not isinstance(frame, InterruptionFrame):
            await super().process_frame(frame, direction)
            return
        if self.firm:
            return
        self._interrupt()
        await super().process_frame(frame, direction)  # empties Pipecat's queue of what was still to be written
        self._oldest_id = obj_id()  # but one chunk may be on its way from there to us
        self._interrupted = asyncio.Event()

    async def cleanup(self) -> None:
        """End with the pipeline."""
        if self._captioning is not None:
            await self.cancel_task(self._captioning)
        await super().cleanup()

    async def push_frame(self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM) -> None:
        """See the borders of each audio context pass, behind its audio, and keep its words in step with it."""
        if direction is FrameDirection.DOWNSTREAM:
            now = time.monotonic()
            if frame.pts and isinstance(frame, TextFrame | LLMFullResponseEndFrame) and self._captions.take(frame, now):
                self._changed.set()
                if self._captioning is None:
                    self._captioning = self.create_task(self._caption())
                return
            if isinstance(frame, TTSStartedFrame):
                if self.going.is_set() and not self.playout.lead(now):
                    self._captions.late_s = 0.0  # what was late has been heard
                self._context = frame.context_id
                self._sentences.begin(frame.context_id or "")
                self._cuts.begin(frame.context_id or "")
            elif isinstance(frame, TTSStoppedFrame) and frame.context_id == self._context:
                # the end of an interrupted context may come behind the next one's beginning: it ends nothing
                self._context = None
                self._turn_open = False
                self._said(self._sentences.rest())
                self.on_spoken()
                self.on_quiet()
        await super().push_frame(frame, direction)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        """Write a chunk when the play-out clock wants it; the chunk is dropped when there is no stream."""
        interrupted = self._interrupted
        if self._stream is None or interrupted.is_set() or frame.id < self._oldest_id:
            return False
        await self._stream.writable.wait()
        while not interrupted.is_set():  # who is interrupted while it halts goes on, too
            ahead = self.playout.lead(time.monotonic()) - LEAD_S
            if ahead > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ahead):
                        await interrupted.wait()
            if self.going.is_set() and self._stream.writable.is_set():
                break
            await self.going.wait()
            await self._stream.writable.wait()
        if interrupted.is_set():
            return False  # Pipecat lets the chunk under way finish; the caller does not want to hear it
        ulaw = audioop.lin2ulaw(self._cuts.keep(frame.audio), 2)
        if ulaw and not self._send(f"{self._media_prefix}{base64.b64encode(ulaw).decode()}{MEDIA_SUFFIX}"):
            return False
        now = time.monotonic()
        begins = self.playout.sent(len(ulaw), now, ulaw)
        if self.playout.tap is not None:
            self.playout.tap.agent(begins, ulaw)
        if not self._turn_open:
            self._turn_open = True
            self.on_reply(now)
        self._sentences.wrote(len(frame.audio) / 2 / RATE)
        for sentence in self._sentences.complete():
            self._said(sentence)
        return True

    def _said(self, sentence: str) -> None:
        if sentence:
            name = self.playout.mark(sentence)
            self.on_said(sentence, name)
            self.send_mark(name)

    async def _caption(self) -> None:
        """Let words pass that had to wait."""
        while True:
            self._changed.clear()
            left_s = self._captions.due(time.monotonic())
            if not left_s:
                await super().push_frame(self._captions.next())
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if left_s == math.inf else left_s):
                    await self._changed.wait()

    def _interrupt(self) -> None:
        halted = self.playout.halted
        said, heard = self._sentences.cut_off(self._unplayed_s if halted else self.playout.lead(time.monotonic()))
        if said:
            self.on_cut(said, heard)
        self._context = None
        self._turn_open = False
        self._sentences.forget()
        self._cuts.begin("")
        self.on_interrupted()
        self.on_quiet()
        if halted:
            self.playout.clear(time.monotonic())  # the carrier has dropped it
        else:
            self.take_back()
        self._captions.clear()
        self._interrupted.set()
        self.going.set()

    def _send(self, text: str) -> bool:
        return self._stream is not None and self._stream.send(text)
