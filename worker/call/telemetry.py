"""Turns as spans, and Pipecat's own spans of what hears, thinks and speaks within them, in the trace of the call.

Pipecat makes a trace for each run of a pipeline. Ours runs long before its call, and the call has a span already. Its turns
begin when the pipeline starts, or when words are understood, and end seconds after the last one: ours are counted as it
counts them, from the first that the caller says, and last from the caller's voice to the end of the agent's.
"""

import secrets
import time
from typing import Any, Final

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    StartFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.observers.base_observer import FramePushed
from pipecat.observers.turn_tracking_observer import TurnTrackingObserver
from pipecat.pipeline.worker import PipelineWorker
from pipecat.utils.tracing.tracing_context import TracingContext

from shared import tracing
from shared.calls import IncomingCall
from shared.tracing import Span, Value
from shared.tracing_spans import attempt_of

APART_S: Final = 2.0
"""A voice that comes back sooner, and was not answered meanwhile, goes on with what it said before."""


class _Turns(TurnTrackingObserver):
    """Makes a span of each turn. Until then whatever Pipecat does in it belongs to a name that is no span yet."""

    def __init__(self, context: TracingContext) -> None:
        super().__init__()
        self._context = context
        self._call: IncomingCall | None = None
        self._voice_at = self._voice_until = 0.0  # of the caller, unix seconds as all of them
        self._agent_at = self._quiet_at = 0.0
        self._began = self._over_at = 0.0
        self.own = ""
        self.add_event_handler("on_turn_started", self._started)
        self.add_event_handler("on_turn_ended", self._ended)

    def serve(self, call: IncomingCall) -> None:
        """Be in the trace of this call from now on."""
        self._call = call
        self._context.set_conversation_context(
            _named(call.trace_id, attempt_of(call.trace_id, call.attempt)), call.call_sid
        )

    async def on_push_frame(self, data: FramePushed) -> None:
        """Note when somebody began or ceased to speak; the pipeline's start is no turn."""
        match data.frame:
            case StartFrame():
                return
            case VADUserStartedSpeakingFrame() as frame:
                at = frame.timestamp - frame.start_secs
                if at - self._voice_until > APART_S or self._agent_at > self._voice_until:
                    self._voice_at = at
            case VADUserStoppedSpeakingFrame() as frame:
                self._voice_until = frame.timestamp - frame.stop_secs
            case BotStartedSpeakingFrame():
                self._agent_at = time.time()
            case BotStoppedSpeakingFrame():
                self._agent_at = self._quiet_at = time.time()
            case _:
                pass
        await super().on_push_frame(data)

    async def end(self) -> None:
        """End the turn under way: the call is over."""
        await self._ended(self, self._turn_count, 0.0, was_interrupted=True)

    async def _started(self, _tracker: Any, _number: int) -> None:
        if self._call is not None:
            self._began = max(self._voice_at, self._over_at) or time.time()
            self.own = secrets.token_hex(8)
            self._context.set_turn_context(_named(self._call.trace_id, self.own))

    async def _ended(self, _tracker: Any, number: int, _duration: float, was_interrupted: bool) -> None:  # noqa: FBT001 - theirs
        call, own, self.own = self._call, self.own, ""
        if call is None or not own:
            return
        self._context.set_turn_context(None)
        until = time.time() if was_interrupted or self._quiet_at < self._began else self._quiet_at
        self._over_at = until
        about: dict[str, Value] = {"call.sid": call.call_sid, "turn": number, "interrupted": was_interrupted}
        parent = attempt_of(call.trace_id, call.attempt)
        tracing.record(Span("turn", call.trace_id, self._began, until, own, parent, attributes=about))


class Telemetry:
    """Has a pipeline traced, when somebody takes traces; to be made before the pipeline runs."""

    def __init__(self, pipeline: PipelineWorker) -> None:
        self._turns: _Turns | None = None
        export = tracing.export()
        if export is None:
            return
        export.provide()
        context = TracingContext()  # type: ignore[no-untyped-call]
        self._turns = _Turns(context)
        pipeline.add_observer(self._turns)
        traced: Any = pipeline  # it takes a context of its own only together with the observers we do not want
        traced._enable_tracing, traced._tracing_context = True, context  # noqa: SLF001

    def serve(self, call: IncomingCall | None) -> None:
        """Belong to a call."""
        if self._turns is not None and call is not None:
            self._turns.serve(call)

    @property
    def turn(self) -> str:
        """The name of the span of the turn under way; empty when there is none."""
        return "" if self._turns is None else self._turns.own

    async def end(self) -> None:
        """End the turn under way: the call is over."""
        if self._turns is not None:
            await self._turns.end()


def _named(trace_id: str, own: str) -> Any:
    """Name a span as Pipecat's tracing takes it."""
    from shared.tracing_export import span_context  # loaded by now: somebody takes traces

    return span_context(trace_id, own)
