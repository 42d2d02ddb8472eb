"""How long a call is waited for: its `start`, the next frame, the caller's next words, its end.

Deadlines of the wire are looked at twice: a process that was starved of CPU sees them pass before it sees the frames that
have arrived in time.
"""

import asyncio
import time
from typing import Final, Protocol

from shared.agents import Agent
from shared.calls import EndReason
from shared.settings import Settings
from worker.call.farewell import Farewell
from worker.call.pipeline import AgentPipeline
from worker.call.silence import Silence, still_there
from worker.call.tasks import Tasks

SECOND_LOOK_S: Final = 0.5
"""Enough turns of the loop to read what waits in the socket."""


class Patient(Protocol):
    """The call that is waited for."""

    @property
    def agent(self) -> Agent:
        """The profile it is served with."""

    @property
    def over(self) -> bool:
        """Whether it ends, or says goodbye."""

    @property
    def started_at(self) -> float:
        """When `start` was read (monotonic); 0 before."""

    @property
    def started(self) -> asyncio.Event:
        """Set when it has begun."""

    def end(self, reason: EndReason) -> None:
        """End it now."""

    async def dismiss(self, reason: EndReason) -> None:
        """End it with a goodbye."""


class Patience:
    """The limits of one call."""

    def __init__(self, settings: Settings, pipeline: AgentPipeline, farewell: Farewell, call: Patient) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._farewell = farewell
        self._call = call
        self._silence = Silence()
        self._asking = False
        self._giving_up: asyncio.Task[None] | None = None
        self._tasks = Tasks()
        self._last_frame_at = time.monotonic()

    def begin(self) -> None:
        """Wait from now on."""
        self._last_frame_at = time.monotonic()
        self._pipeline.on_idle = self._idle
        self._tasks.go(self._watch())

    def frame(self) -> None:
        """Note a sign of life of the carrier."""
        self._last_frame_at = time.monotonic()

    def caller_spoke(self) -> None:
        """Note that the caller said something that was understood, or pressed a key."""
        self._silence.broken()
        self._pipeline.output.asks = False

    def interrupted(self) -> None:
        """Note a voice: a caller thought gone who speaks into the goodbye stays."""
        if self._giving_up is not None:
            self._giving_up.cancel()

    def was_question(self) -> bool:
        """Say, once, whether what is spoken now is the question to a silent caller, which answers nothing."""
        asking, self._asking = self._asking, False
        return asking

    async def _watch(self) -> None:
        call, settings = self._call, self._settings
        try:
            async with asyncio.timeout(settings.start_timeout):
                await call.started.wait()
        except TimeoutError:
            await asyncio.sleep(SECOND_LOOK_S)
            if not call.started_at:
                call.end(EndReason.START_TIMEOUT)
                return
        while not call.over:
            now = time.monotonic()
            silent_at = self._last_frame_at + settings.silence_timeout
            over_at = call.started_at + settings.max_call_duration
            if now >= over_at:
                await call.dismiss(EndReason.MAX_DURATION)
                return
            if now >= silent_at:
                await asyncio.sleep(SECOND_LOOK_S)
                if time.monotonic() >= self._last_frame_at + settings.silence_timeout:
                    call.end(EndReason.STREAM_SILENT)
            else:
                await asyncio.sleep(min(silent_at, over_at) - now)

    def _idle(self) -> None:
        if self._giving_up is None or self._giving_up.done():
            self._giving_up = self._tasks.go(self._caller_silent())

    async def _caller_silent(self) -> None:
        """Ask the caller whether they are still there, or say goodbye when they were asked and did not say."""
        limit, playout = self._settings.caller_silence_timeout, self._pipeline.output.playout
        # The pipeline counts from what it has written, which the caller hears up to a second later.
        now = time.monotonic()
        await asyncio.sleep(limit + playout.lead(now) - playout.quiet_for(now))
        spoke_again = playout.lead(time.monotonic()) > 0
        if self._call.over or spoke_again or not self._pipeline.waits_for_caller:
            return  # when it is the caller's turn again, the pipeline counts anew
        self._pipeline.output.asks = True
        if self._silence.over():
            await self._farewell.to_silence()
            self._call.end(EndReason.CALLER_SILENT)
        else:
            self._asking = True
            await self._pipeline.speak(still_there(self._call.agent))
