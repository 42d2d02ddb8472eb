"""One call, from the bound socket to the closed stream.

Order matters in one place: between `start` and the first media message there is no work of any kind. Everything else
(telling the pool, the pipeline, the log) comes after the greeting is written.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

from websockets.frames import CloseCode

from shared.agents import Agent
from shared.calls import EndReason, StreamSid
from shared.logs import get
from shared.messages import Bind, Closed, Ending, FirstMedia, Message, Observed, Resume, Resumed
from shared.messages import Started as StreamStarted
from shared.metrics import Oddity, Timing
from shared.settings import Settings
from worker.call.consent import Consent
from worker.call.direct import DirectSpeech
from worker.call.ending import CLOSE_CODES, StoredEnd
from worker.call.farewell import Farewell
from worker.call.greeting import BRIDGING, Recording, opening
from worker.call.hearing import Hearing
from worker.call.media import Audio, Codec, Digit, Joined, MarkEchoed, Started, Stopped
from worker.call.memory import Memory
from worker.call.oddities import Oddities
from worker.call.old_ways import OldWays
from worker.call.patience import Patience
from worker.call.pipeline import AgentPipeline
from worker.call.playout import Playout
from worker.call.scribe import Scribe
from worker.call.session import CallSession
from worker.call.stream import Stream, open_stream
from worker.call.tape import Tape
from worker.call.tasks import Tasks

log = get(__name__)

SETTLE_S: Final = 0.2
"""How long everything else waits behind the greeting: what the caller says is kept, and a successor would greet anew."""

MOST_RESUMES: Final = 100
"""More than any call can have: marks of one attempt never look like those of another."""


class Serving:
    """Serves one call on one stream. `bind` once; `done` is set when the stream is closed and the pool told."""

    def __init__(
        self,
        settings: Settings,
        recordings: Mapping[str, Recording],
        pipeline: AgentPipeline,
        tell: Callable[[Message], object],
        scribe: Scribe,
    ) -> None:
        self._settings = settings
        self._recordings = recordings
        self._pipeline = pipeline
        self._tell = tell
        self._codec = Codec()
        self._stream: Stream | None = None
        self._bound: Bind | None = None
        self._agent = Agent()
        self._oddities = Oddities(tell)
        self._tasks = Tasks()
        self._scribe = scribe
        self.hearing = Hearing(pipeline.listener)
        self._consent = Consent(settings, recordings, pipeline, scribe, self.hearing)
        self._direct = DirectSpeech(recordings, pipeline, scribe, self._consent)
        self._memory = Memory()
        self._greeting: Recording | None = None
        self._greeting_words = ""
        self._farewell = Farewell(pipeline, recordings)
        self.session = CallSession(pipeline, self._farewell, self._direct, self)
        self._patience = Patience(settings, pipeline, self._farewell, self)
        self._parting = False
        self._started_at = 0.0
        self.greeted_at = 0.0
        self.old_ways = OldWays(settings, pipeline.open_gate)
        self._opened = False
        self._replies = 0
        self._ending = False
        self.reason: EndReason | None = None
        self.started = asyncio.Event()
        self.end_stored = StoredEnd()
        self.on_unconfirmed: Callable[[], bool] = lambda: False
        self.done = asyncio.Event()

    @property
    def agent(self) -> Agent:
        """The profile this call is served with."""
        return self._agent

    @property
    def over(self) -> bool:
        """Whether the call ends, or says goodbye."""
        return self._ending or self._parting

    @property
    def started_at(self) -> float:
        """When `start` was read (monotonic); 0 before."""
        return self._started_at

    async def bind(self, bound: Bind, sock: socket.socket, tape: Tape | None, memory: Memory) -> None:
        """Take over the open WebSocket of a call, a new one or, with a `resume`, one that a predecessor served."""
        self._bound, self._memory = bound, memory
        self.hearing.record_on(tape)
        self._agent = bound.agent
        output = self._pipeline.output
        output.on_interrupted = self._interrupted
        output.on_halt = lambda: self._scribe.halted(self._direct.heard_bytes)
        output.on_proceed = self._consent.proceeding
        output.on_renamed = self._proceeded
        resume = bound.resume
        self._scribe.recall(memory.demands)
        self._replies = int(memory.talked)
        number = bound.call.attempt * MOST_RESUMES
        if resume is not None:
            self._codec = Codec(resume.stream_sid or "", joining=True)
            number += resume.number
        self._pipeline.output.playout = Playout(number, memory.pending)
        self._consent.bound(bound, number, memory)
        self._stream = await open_stream(sock, self, resync=resume is not None)
        if resume is not None and resume.stream_sid and (memory or not self.old_ways.any):
            self._go_on(resume, resume.stream_sid)
        elif resume is not None and resume.stream_sid:  # the predecessor died while the caller waited to be greeted
            self._begin(resume.stream_sid)
        self._patience.begin()

    def use(self, agent: Agent) -> None:
        """Take the profile of the coming call, so that nothing of it is left to do at `start`."""
        self._agent = agent
        self._greeting, self._greeting_words = opening(agent, self._recordings, self._settings)

    def replied(self, at: float) -> None:
        """Note that an answer's first audio was written at `at` (monotonic)."""
        if not self._opened:
            self._opened = True
            self._first_media(at)
            if self._greeting_words:
                return  # that was the greeting, spoken by the voice
        if not self._patience.was_question():
            self._replies += 1

    def caller_spoke(self, text: str) -> None:
        """Note that the caller said something that was understood, and is written down."""
        self.hearing.written_down(text)
        self._patience.caller_spoke()

    def end(self, reason: EndReason) -> None:
        """End the call for this reason; the first reason counts."""
        if not self._ending:
            self._ending = True
            self.reason = reason
            self._tasks.go(self._finish(reason))

    def flush_oddities(self) -> None:
        """Report what was odd on the stream since the last time; called with each beat, so that no storm is possible."""
        self._oddities.flush()

    def bridge(self) -> None:
        """Say bridging words."""
        self._direct.play(BRIDGING, self._agent)

    async def dismiss(self, reason: EndReason) -> None:
        """End the call for a reason of ours that the caller cannot know: not in mid-word, and with a goodbye."""
        if self._parting:
            return
        if self._started_at and not self._ending:
            self._parting = True
            await self._farewell.by_limit()
        self.end(reason)

    # --- the stream speaks --------------------------------------------------------------------------------------------

    def text(self, data: bytes) -> None:
        """Take one message of the carrier."""
        self._patience.frame()
        event, oddity = self._codec.read(data)
        if oddity is not None:
            self._oddities.note(oddity)
        match event:
            case Audio():
                if not self._parting:  # the last word is ours
                    self.hearing.audio(event.ulaw)
            case Started():
                self._start(event)
            case Joined():
                self._join(event)
            case MarkEchoed():
                self._echoed(event.name)
            case Stopped():
                self.end(self._hangup_reason())
            case Digit():
                self._patience.caller_spoke()
                log.info("digit pressed")
            case _:
                pass

    def binary(self) -> None:
        """Count a binary message: the carrier never sends one."""
        self._patience.frame()
        self._oddities.note(Oddity.BINARY_FRAME)

    def oversize(self) -> None:
        """Count a message that was too long; the stream ends over it."""
        self._oddities.note(Oddity.OVERSIZE_FRAME)

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
        if event.call_sid != self._bound.call.call_sid:
            self.end(EndReason.TICKET_MISMATCH)
        elif not self._ending:
            self._begin(event.stream_sid)

    def _join(self, event: Joined) -> None:
        """Begin on a stream whose `start` a predecessor took with it: how far it greeted the caller, nobody knows."""
        if not self._ending:
            self._attach(event.stream_sid)
            self._pipeline.output.take_back()
            self._begin(event.stream_sid)

    def _begin(self, stream_sid: str) -> None:
        at = time.monotonic()
        self._attach(stream_sid)
        begun = self._say_first() if self._memory or not self.old_ways.any else (0.0, 0, "")
        self._started_at = at
        self.hearing.keep()
        if self._bound is not None and self._bound.resume is not None:
            self._tell(Resumed(at=begun[0] or at))
        self._tasks.go(self._settle(stream_sid, *begun))

    def _say_first(self) -> tuple[float, int, str]:
        """Begin the greeting, or say bridging words; gives what `DirectSpeech.greet` does."""
        self.greeted_at = time.monotonic()
        if self._memory:  # cut off, and come back on another stream
            return self._direct.play(BRIDGING, self._agent), 0, ""
        return self._direct.greet(self._greeting, self._greeting_words)

    def _attach(self, stream_sid: str) -> None:
        self._pipeline.output.attach(self._open_stream, stream_sid)
        self._direct.attach(self._open_stream, stream_sid)
        self._farewell.begin(self._open_stream, stream_sid, self._agent)

    async def _settle(self, stream_sid: str, first_media_at: float, used: int, mark: str) -> None:
        """Do what follows the greeting, a moment later: of calls that come together, every greeting goes first."""
        if first_media_at:
            await asyncio.sleep(SETTLE_S)
        self.started.set()
        told = StreamStarted(stream_sid=StreamSid(stream_sid))
        await self.old_ways.wait(lambda: self._tell(told), greeted=bool(self._memory))
        if not self.greeted_at:
            if self.over:
                return
            first_media_at, used, mark = self._say_first()
        if not self._memory:
            ago_s = time.monotonic() - self.greeted_at - self._consent.delay_s
            self._scribe.greeting(self._greeting_words, mark, ago_s)
        if first_media_at:
            self._opened = True
            self._first_media(first_media_at)
        log.info("stream started", stream_sid=stream_sid)
        self.hearing.listen()
        if self._memory:
            await self._pipeline.recall(self._memory)
        else:
            await self._greet(used, mark)

    def _first_media(self, at: float) -> None:
        assert self._bound is not None  # noqa: S101 - the stream exists by `bind` only
        self._tell(FirstMedia(at=at))
        self._observe(Timing.GREETING_START, at - self._bound.accepted_at)
        self._observe(Timing.START_TO_FIRST_MEDIA, at - self._started_at)

    async def _greet(self, used: int, mark: str) -> None:
        """Tell the pipeline about the greeting under way, and send what the burst left over."""
        words = self._greeting_words
        if self._greeting is None:
            if words:
                self._replies -= self._opened  # after the clip about the recording it would count as one
                await self._pipeline.speak(words)
            else:  # it is the caller's turn, as after a greeting
                await self._pipeline.output.announce_direct_speech(speaking=False)
            return
        if words:
            self._pipeline.add_spoken(words)
        self._direct.follow(self._greeting, used, mark)

    # --- after a predecessor ------------------------------------------------------------------------------------------

    def _go_on(self, resume: Resume, stream_sid: str) -> None:
        """Serve a stream that another worker served: bridging words at once when an answer is owed, else in silence."""
        assert self._bound is not None  # noqa: S101 - the stream exists by `bind` only
        memory = self._memory
        self._attach(stream_sid)
        at = 0.0
        if memory.owed:
            self._scribe.cleared()
        if memory.owed and not resume.bridged:  # else the keeper has done both
            self._pipeline.output.take_back()
            at = self._direct.play(BRIDGING, self._agent)
        self._opened = True
        self._started_at = self.greeted_at = self._bound.accepted_at
        self._tell(Resumed(at=at or time.monotonic()))
        log.info("call resumed", number=resume.number, owed=memory.owed, bridged=bool(at), messages=len(memory.messages),
                 unresolved=len(memory.unresolved))  # fmt: skip
        self.started.set()
        self.hearing.take_over()
        if memory.talked:
            self._pipeline.open_gate()  # the first answer has waited for the customer already
        self._tasks.go(self._take_up())

    async def _take_up(self) -> None:
        await self.old_ways.wait(greeted=True)
        self.hearing.listen()
        begun = self._memory.greeting
        if begun is not None and begun.words and not begun.mark and not begun.sent:
            self._scribe.cleared()
            self._pipeline.output.take_back()
            await self._pipeline.speak(begun.words)  # the voice was greeting: it begins again
            return
        if begun is not None and self._greeting is not None:
            self._direct.greet_on(self._greeting, begun, time.monotonic() - (time.time() - begun.at))
        elif not self._memory.owed:
            await self._pipeline.output.announce_direct_speech(speaking=False)  # it is the caller's turn
        await self._pipeline.recall(self._memory)

    # --- in the middle ------------------------------------------------------------------------------------------------

    def _echoed(self, name: str) -> None:
        output = self._pipeline.output
        if not output.playout.knows(name):
            self._oddities.note(Oddity.UNKNOWN_MARK)
            return
        heard = output.playout.echoed(name)
        if heard is None:
            return  # cleared: it proves nothing
        if heard:
            self._scribe.heard(heard, name)
        self._farewell.echoed(name)
        self._direct.heard(name)

    def _interrupted(self) -> None:
        """Keep of the greeting what was heard when the caller spoke over it; called before the buffers are cleared."""
        self._patience.interrupted()
        if self._started_at:
            self._scribe.interrupted(self._direct.interrupted())

    def _proceeded(self, names: Mapping[str, str], place: int) -> None:
        """Note what marks are called now that the agent goes on from a place; what made it halt were no words."""
        self._consent.renamed(names)
        self._farewell.renamed(names)
        self._scribe.proceeded(names, self._direct.place_in_greeting(place))
        self.hearing.written_down("")

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _finish(self, reason: EndReason) -> None:
        self.flush_oddities()
        await self._consent.close()
        self._tell(Ending(reason=reason))
        if not await self.end_stored.wait():
            log.warning("the end reason was not confirmed")
            if self.on_unconfirmed():
                await self.end_stored.wait()
        if self._stream is not None:
            await self._stream.close(CLOSE_CODES.get(reason, CloseCode.NORMAL_CLOSURE))
        self._tell(Closed(busy_s=self._pipeline.busy_s))
        self.done.set()

    def _hangup_reason(self) -> EndReason:
        if not self._started_at:
            return EndReason.HANGUP_BEFORE_START
        return EndReason.CALLER_HANGUP if self._replies else EndReason.HANGUP_BEFORE_REPLY

    # --- small things -------------------------------------------------------------------------------------------------

    @property
    def _open_stream(self) -> Stream:
        assert self._stream is not None  # noqa: S101 - asked by what the stream itself has brought
        return self._stream

    def _observe(self, timing: Timing, seconds: float) -> None:
        self._tell(Observed(timing=timing, seconds=seconds))
