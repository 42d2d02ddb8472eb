"""Spans of turns: from the caller's voice to the end of the agent's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    StartFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.observers.base_observer import FramePushed
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.utils.tracing.tracing_context import TracingContext

from shared import tracing
from shared.calls import CallSid, IncomingCall, TraceId
from shared.tracing_spans import attempt_of
from worker.call import telemetry

if TYPE_CHECKING:
    from pipecat.frames.frames import Frame

    from shared.tracing import Span

TRACE = TraceId("0af7651916cd43dd8448eb211c80319c")
CALL = IncomingCall(call_sid=CallSid("CA1"), caller="+5511987654321", called="+12025550100", trace_id=TRACE)


class Talk:
    """A talk whose moments are said, in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.taken: list[Span] = []
        self.context = TracingContext()  # type: ignore[no-untyped-call]
        self.turns = telemetry._Turns(self.context)
        monkeypatch.setattr(tracing, "record", self.taken.append)
        monkeypatch.setattr("worker.call.telemetry.time.time", lambda: self.now)

    async def push(self, frame: Frame) -> None:
        """Have the observer see a frame; the events Pipecat would raise in tasks are called by the test."""
        processor = FrameProcessor()
        await self.turns.on_push_frame(FramePushed(processor, processor, frame, FrameDirection.DOWNSTREAM, 0))

    async def caller(self, began: float, ended: float) -> None:
        """Have the caller's voice be there from when until when."""
        await self.push(VADUserStartedSpeakingFrame(start_secs=0.2, timestamp=began + 0.2))
        await self.push(VADUserStoppedSpeakingFrame(stop_secs=0.16, timestamp=ended + 0.16))

    async def agent(self, began: float, ended: float) -> None:
        """Have the agent speak from when until when."""
        self.now = began
        await self.push(BotStartedSpeakingFrame())
        self.now = ended
        await self.push(BotStoppedSpeakingFrame())


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Talk:
    made = Talk(monkeypatch)
    made.turns.serve(CALL)
    return made


async def test_a_turn_lasts_from_the_callers_voice_to_the_end_of_the_agents(talk: Talk) -> None:
    """Pipecat's begins when words are understood, and ends seconds after the last one."""
    await talk.caller(101.0, 102.0)
    talk.now = 102.4
    await talk.turns._started(talk.turns, 1)
    own = talk.turns.own
    await talk.agent(103.0, 105.0)
    talk.now = 107.5
    await talk.turns._ended(talk.turns, 1, 0.0, was_interrupted=False)
    (turn,) = talk.taken
    assert (round(turn.start, 3), turn.end) == (101.0, 105.0)
    assert (turn.own, turn.parent, turn.trace_id) == (own, attempt_of(TRACE, 0), TRACE)
    assert talk.turns.own == ""


async def test_a_pause_within_a_sentence_is_no_new_beginning_and_an_answer_is(talk: Talk) -> None:
    await talk.caller(101.0, 102.0)
    await talk.caller(103.0, 104.0)
    await talk.turns._started(talk.turns, 1)
    await talk.agent(104.3, 104.6)
    await talk.caller(105.0, 106.0)
    talk.now = 106.1
    await talk.turns._ended(talk.turns, 1, 0.0, was_interrupted=False)
    await talk.turns._started(talk.turns, 2)
    await talk.turns.end()
    assert [(round(turn.start, 3), turn.end) for turn in talk.taken] == [(101.0, 104.6), (105.0, 106.1)]


async def test_what_pipecat_does_in_a_turn_belongs_to_it_and_else_to_the_call(talk: Talk) -> None:
    conversation = talk.context.get_conversation_context()
    assert conversation is not None
    assert talk.context.conversation_id == "CA1"
    assert talk.context.get_turn_context() is None
    await talk.turns._started(talk.turns, 1)
    assert talk.context.get_turn_context() is not None
    await talk.turns._ended(talk.turns, 1, 0.0, was_interrupted=True)
    assert talk.context.get_turn_context() is None


async def test_the_start_of_a_pipeline_is_no_turn(talk: Talk) -> None:
    """It runs for minutes before there is a call."""
    await talk.push(StartFrame())
    assert talk.turns._turn_count == 0
