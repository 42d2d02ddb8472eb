"""The two ends of the pipeline, on a stream that comes later: conclusions from the caller's audio in, the agent's audio out.

Both ends start with the parked pipeline and wait. `Output` keeps the carrier's buffer short: it writes at most `LEAD_S`
ahead of the play-out clock, whatever was sent directly (greeting, goodbye) included, because a barge-in, an end and a
resume all depend on knowing what has really been played.
"""

import asyncio
import base64
import contextlib
import time
import warnings
from collections.abc import Callable
from typing import Final

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    InterruptionFrame,
    OutputAudioRawFrame,
    StartFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.utils.utils import obj_id

from worker.call.media import MEDIA_SUFFIX, clear_message, mark_message, media_prefix
from worker.call.playout import RATE, Cuts, Playout, SpokenSentences
from worker.call.stream import Stream

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gone in 3.13, where audioop-lts provides it
    import audioop

LEAD_S: Final = 1.0
"""How far ahead of the play-out clock audio is written: enough to bridge a busy machine. With ten calls beside two processes
that took two cores whole, 0.3 s left holes inside words in every third round, 1 s none in eight."""

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
        self.firm = False
        """Whether nothing interrupts any more: the last word of the call is being said."""
        self.playout = Playout()
        self.on_reply: Callable[[float], None] = lambda _at: None
        self.on_said: Callable[[str, str], None] = lambda _text, _mark: None
        self.on_spoken: Callable[[], None] = lambda: None
        self.on_cut: Callable[[str, str], None] = lambda _said, _heard: None
        self.on_interrupted: Callable[[], None] = lambda: None
        self.on_quiet: Callable[[], None] = lambda: None

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
        """Send a mark that the play-out clock has named."""
        self._send(mark_message(self._stream_sid, name))

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

    async def push_frame(self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM) -> None:
        """See the borders of each audio context pass, behind its audio."""
        if direction is FrameDirection.DOWNSTREAM:
            if isinstance(frame, TTSStartedFrame):
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
        ahead = self.playout.lead(time.monotonic()) - LEAD_S
        if ahead > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ahead):
                    await interrupted.wait()
        await self._stream.writable.wait()
        if interrupted.is_set():
            return False  # Pipecat lets the chunk under way finish; the caller does not want to hear it
        ulaw = audioop.lin2ulaw(self._cuts.keep(frame.audio), 2)
        if ulaw and not self._send(f"{self._media_prefix}{base64.b64encode(ulaw).decode()}{MEDIA_SUFFIX}"):
            return False
        now = time.monotonic()
        begins = self.playout.sent(len(ulaw), now)
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

    def _interrupt(self) -> None:
        said, heard = self._sentences.cut_off(self.playout.lead(time.monotonic()))
        if said:
            self.on_cut(said, heard)
        self._context = None
        self._turn_open = False
        self._sentences.forget()
        self._cuts.begin("")
        self.on_interrupted()
        self.on_quiet()
        self.take_back()
        self._interrupted.set()

    def _send(self, text: str) -> bool:
        return self._stream is not None and self._stream.send(text)
