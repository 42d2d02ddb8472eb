"""One call, from the bound socket to the closed stream.

Order matters in one place: between `start` and the first media message there is no work of any kind. Everything else
(telling the pool, the pipeline, the log) comes after the greeting is written.
"""

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from websockets.frames import CloseCode

from shared.agents import Agent
from shared.calls import EndReason, StreamSid
from shared.journal import EntryKind, entry
from shared.logs import get
from shared.messages import (
    Bind,
    Closed,
    Counted,
    Ending,
    FirstMedia,
    Message,
    Observed,
)
from shared.messages import (
    Started as StreamStarted,
)
from shared.metrics import Oddity, Timing
from shared.settings import Settings
from worker.call.greeting import BURST_S, Recording, burst, choose, heard_part, same_language, words_of
from worker.call.media import (
    MEDIA_SUFFIX,
    Audio,
    Codec,
    Digit,
    MarkEchoed,
    Started,
    Stopped,
    mark_message,
    media_prefix,
)
from worker.call.pipeline import AgentPipeline
from worker.call.playout import RATE
from worker.call.stream import Stream, open_stream
from worker.call.tasks import Tasks

log = get(__name__)

END_STORED_WAIT_S: Final = 0.6
"""The pool waits 0.3 s for Redis; twice that, and the stream is closed without its word."""

SETTLE_S: Final = 0.2
"""How long everything else waits behind the greeting. What the caller says meanwhile is kept and heard then."""

FAREWELL_WAIT_S: Final = 15.0
"""How long a goodbye may take to be spoken before the call ends without it."""

DISMISS_WAIT_S: Final = 4.0
"""How long an agent that is speaking may go on before the goodbye of a call that we end."""

ECHO_WAIT_S: Final = 3.0
"""How long past its play-out a mark may take to come back."""

CLOSE_CODES: Final[Mapping[EndReason, CloseCode]] = {
    EndReason.TICKET_MISMATCH: CloseCode.POLICY_VIOLATION,
    EndReason.PROTOCOL_ERROR: CloseCode.PROTOCOL_ERROR,
    EndReason.WORKER_LOST: CloseCode.INTERNAL_ERROR,
}


class Serving:
    """Serves one call on one stream. `bind` once; `done` is set when the stream is closed and the pool told."""

    def __init__(
        self,
        settings: Settings,
        recordings: Mapping[str, Recording],
        pipeline: AgentPipeline,
        tell: Callable[[Message], object],
    ) -> None:
        self._settings = settings
        self._recordings = recordings
        self._pipeline = pipeline
        self._tell = tell
        self._codec = Codec()
        self._stream: Stream | None = None
        self._bound: Bind | None = None
        self._agent = Agent()
        self._oddities: Counter[Oddity] = Counter()
        self._tasks = Tasks()
        self._greeting: Recording | None = None
        self._greeting_words = ""
        self._greeting_task: asyncio.Task[None] | None = None
        self._farewell_mark = ""
        self._farewell_heard = asyncio.Event()
        self._started_at = 0.0
        self._last_frame_at = 0.0
        self._opened = False
        self._settled = False
        self._early: list[bytes] = []
        self._replies = 0
        self._ending = False
        self._store_wait_s = END_STORED_WAIT_S
        self._storing: asyncio.Timeout | None = None
        self.reason: EndReason | None = None
        self.started = asyncio.Event()
        self.end_stored = asyncio.Event()
        self.done = asyncio.Event()

    @property
    def agent(self) -> Agent:
        """The profile this call is served with."""
        return self._agent

    @property
    def started_at(self) -> float:
        """When `start` was read (monotonic); 0 before."""
        return self._started_at

    async def bind(self, bound: Bind, sock: socket.socket) -> None:
        """Take over the open WebSocket of a call."""
        self._bound = bound
        self._agent = bound.agent
        self._last_frame_at = time.monotonic()
        self._pipeline.output.on_interrupted = self._interrupted
        self._stream = await open_stream(sock, self)
        self._tasks.go(self._watch())

    def use(self, agent: Agent) -> None:
        """Take the profile of the coming call, so that nothing of it is left to do at `start`."""
        self._agent = agent
        usual = self._recordings.get(self._settings.greeting_audio_clip)
        own = self._recordings.get(agent.greeting_clip)
        self._greeting = choose(agent, own, usual) if self._settings.greeting_audio_enabled else None
        self._greeting_words = words_of(agent, self._greeting, usual)

    def replied(self, at: float) -> None:
        """Note that an answer's first audio was written at `at` (monotonic)."""
        if not self._opened:
            self._opened = True
            self._first_media(at)
            if self._greeting_words:
                return  # that was the greeting, spoken by the voice
        self._replies += 1

    def end(self, reason: EndReason) -> None:
        """End the call for this reason; the first reason counts."""
        if not self._ending:
            self._ending = True
            self.reason = reason
            self._tasks.go(self._finish(reason))

    def wait_for_end_stored(self, seconds: float) -> None:
        """Let the end reason take this long to be stored, also when that wait has begun."""
        self._store_wait_s = seconds
        if self._storing is not None and not self._storing.expired():
            self._storing.reschedule(asyncio.get_running_loop().time() + seconds)

    def flush_oddities(self) -> None:
        """Report what was odd on the stream since the last time; called with each beat, so that no storm is possible."""
        for oddity, times in self._oddities.items():
            self._tell(Counted(oddity=oddity, times=times))
        self._oddities.clear()

    async def hang_up(self) -> None:
        """Let what the agent is saying be heard (or the goodbye clip, when it says nothing), then end the call."""
        if self._pipeline.spoke:
            try:
                async with asyncio.timeout(FAREWELL_WAIT_S):
                    await self._pipeline.quiet.wait()
            except TimeoutError:
                log.warning("the goodbye was not spoken in time")
        else:
            self._play_goodbye()
        await self._until_heard()
        self.end(EndReason.AGENT_HANGUP)

    async def dismiss(self, reason: EndReason) -> None:
        """End the call for a reason of ours: not in the middle of a word, and with the goodbye clip."""
        if self._started_at:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DISMISS_WAIT_S):
                    await self._pipeline.quiet.wait()
            self._play_goodbye()
            await self._until_heard()
        self.end(reason)

    # --- the stream speaks --------------------------------------------------------------------------------------------

    def text(self, data: bytes) -> None:
        """Take one message of the carrier."""
        self._last_frame_at = time.monotonic()
        event, oddity = self._codec.read(data)
        if oddity is not None:
            self._oddities[oddity] += 1
        match event:
            case Audio():
                if self._settled:
                    self._pipeline.input.hear(event.ulaw)
                elif self._started_at:
                    self._early.append(event.ulaw)
            case Started():
                self._start(event)
            case MarkEchoed():
                self._echoed(event.name)
            case Stopped():
                self.end(self._hangup_reason())
            case Digit():
                log.info("digit pressed")
            case _:
                pass

    def binary(self) -> None:
        """Count a binary message: the carrier never sends one."""
        self._last_frame_at = time.monotonic()
        self._oddities[Oddity.BINARY_FRAME] += 1

    def oversize(self) -> None:
        """Count a message beyond 64 KiB; the stream ends over it."""
        self._oddities[Oddity.OVERSIZE_FRAME] += 1

    def ended(self, code: int | None) -> None:
        """Note the end of the stream by the peer."""
        if code is None:
            self.end(EndReason.STREAM_LOST)
        elif code in {CloseCode.PROTOCOL_ERROR, CloseCode.MESSAGE_TOO_BIG}:
            self.end(EndReason.PROTOCOL_ERROR)
        else:
            self.end(self._hangup_reason())

    # --- the beginning ------------------------------------------------------------------------------------------------

    def _start(self, event: Started) -> None:
        assert self._bound is not None  # noqa: S101 - the stream exists by `bind` only
        assert self._stream is not None  # noqa: S101 - as above
        at = time.monotonic()
        if self._ending:
            return  # too late
        if event.call_sid != self._bound.call.call_sid:
            self.end(EndReason.TICKET_MISMATCH)
            return
        output = self._pipeline.output
        output.attach(self._stream, event.stream_sid)
        greeting = self._greeting
        first_media_at = 0.0
        remaining = 0
        if greeting is not None:
            messages, remaining, audio = burst(greeting, event.stream_sid)
            self._stream.send(messages[0])
            first_media_at = time.monotonic()
            self._stream.send(*messages[1:])
            output.playout.sent(audio, first_media_at)
        self._started_at = at
        self._greeting_task = self._tasks.go(self._settle(event.stream_sid, first_media_at, remaining))

    async def _settle(self, stream_sid: str, first_media_at: float, used: int) -> None:
        """Do what follows the greeting, a moment later: of calls that come together, every greeting goes first."""
        if first_media_at:
            await asyncio.sleep(SETTLE_S)
        self.started.set()
        self._tell(StreamStarted(stream_sid=StreamSid(stream_sid)))
        if first_media_at:
            self._opened = True
            self._first_media(first_media_at)
        log.info("stream started", stream_sid=stream_sid)
        for ulaw in self._early:
            self._pipeline.input.hear(ulaw)
        self._early.clear()
        self._settled = True
        await self._greet(self._greeting, used)

    def _first_media(self, at: float) -> None:
        assert self._bound is not None  # noqa: S101 - the stream exists by `bind` only
        self._tell(FirstMedia(at=at))
        self._observe(Timing.GREETING_START, at - self._bound.accepted_at)
        self._observe(Timing.START_TO_FIRST_MEDIA, at - self._started_at)

    async def _greet(self, greeting: Recording | None, used: int) -> None:
        """Tell the pipeline about the greeting under way, and send what the burst left over."""
        if greeting is None:
            if self._greeting_words:
                await self._pipeline.speak(self._greeting_words)
            return
        output = self._pipeline.output
        if self._greeting_words:
            self._pipeline.add_spoken(self._greeting_words)
            self._entry("agent", self._greeting_words)
        await output.announce_direct_speech(speaking=True)
        prefix = media_prefix(self._codec.stream_sid)
        for piece in greeting.pieces[used:]:
            await asyncio.sleep(max(0.0, output.playout.lead(time.monotonic()) - BURST_S))
            if self._stream is not None and self._stream.send(f"{prefix}{piece.payload}{MEDIA_SUFFIX}"):
                output.playout.sent(piece.size, time.monotonic())
        output.mark(self._greeting_words)

    # --- in the middle ------------------------------------------------------------------------------------------------

    def _echoed(self, name: str) -> None:
        output = self._pipeline.output
        if not output.playout.knows(name):
            self._oddities[Oddity.UNKNOWN_MARK] += 1
            return
        heard = output.playout.echoed(name)
        if heard is None:
            return  # cleared: it proves nothing
        if heard:
            self._entry("heard", heard)
        if name == self._farewell_mark:
            self._farewell_heard.set()
        if self._greeting is not None:
            self._greeting = None
            self._tasks.go(output.announce_direct_speech(speaking=False))

    def _interrupted(self) -> None:
        """Keep of the greeting what was heard when the caller spoke over it; called before the buffers are cleared."""
        greeting = self._greeting
        if greeting is None or not self._started_at:
            return
        self._greeting = None
        if self._greeting_task is not None:
            self._greeting_task.cancel()
        playout = self._pipeline.output.playout
        played = playout.sent_bytes - playout.lead(time.monotonic()) * RATE
        words = self._greeting_words
        if words:
            self._pipeline.replace_spoken(words, heard_part(words, played / len(greeting.clip.audio)))
        self._tasks.go(self._pipeline.output.announce_direct_speech(speaking=False))

    async def _until_heard(self) -> None:
        """Wait until the caller has heard everything sent so far."""
        self._farewell_mark = self._pipeline.output.mark("")
        try:
            async with asyncio.timeout(self._pipeline.output.playout.lead(time.monotonic()) + ECHO_WAIT_S):
                await self._farewell_heard.wait()
        except TimeoutError:
            log.warning("the goodbye's mark did not come back")

    def _play_goodbye(self) -> None:
        goodbye = self._recordings.get("goodbye")
        if goodbye is None or self._stream is None or not same_language(goodbye, self._agent):
            return
        messages, _, audio = burst(goodbye, self._codec.stream_sid)
        if self._stream.send(*messages, mark_message(self._codec.stream_sid, self._pipeline.output.playout.mark(""))):
            self._pipeline.output.playout.sent(audio, time.monotonic())

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """End calls that never start, fall silent on the wire, or last too long."""
        try:
            async with asyncio.timeout(self._settings.start_timeout):
                await self.started.wait()
        except TimeoutError:
            self.end(EndReason.START_TIMEOUT)
            return
        while not self._ending:
            now = time.monotonic()
            silent_at = self._last_frame_at + self._settings.silence_timeout
            over_at = self._started_at + self._settings.max_call_duration
            if now >= silent_at:
                self.end(EndReason.STREAM_SILENT)
            elif now >= over_at:
                self.end(EndReason.MAX_DURATION)
            else:
                await asyncio.sleep(min(silent_at, over_at) - now)

    async def _finish(self, reason: EndReason) -> None:
        self.flush_oddities()
        self._tell(Ending(reason=reason))
        try:
            async with asyncio.timeout(self._store_wait_s) as self._storing:
                await self.end_stored.wait()
        except TimeoutError:
            log.warning("the end reason was not confirmed")
        self._storing = None
        if self._stream is not None:
            await self._stream.close(CLOSE_CODES.get(reason, CloseCode.NORMAL_CLOSURE))
        self._tell(Closed())
        self.done.set()

    def _hangup_reason(self) -> EndReason:
        if not self._started_at:
            return EndReason.HANGUP_BEFORE_START
        return EndReason.CALLER_HANGUP if self._replies else EndReason.HANGUP_BEFORE_REPLY

    # --- small things -------------------------------------------------------------------------------------------------

    def _entry(self, kind: EntryKind, text: str) -> None:
        self._tell(entry(kind, text))

    def _observe(self, timing: Timing, seconds: float) -> None:
        self._tell(Observed(timing=timing, seconds=seconds))
