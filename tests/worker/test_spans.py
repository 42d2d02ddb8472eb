"""The spans a worker makes of what it tells its pool."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from shared import tracing
from shared.agents import Agent
from shared.calls import CallSid, EndReason, IncomingCall, TraceId
from shared.journal import entry
from shared.messages import Bind, Ending, FirstMedia, Observed, Prepare, Resume, Resumed
from shared.metrics import Stage, Timing
from shared.tracing_spans import attempt_of
from worker.call.spans import CallSpans

if TYPE_CHECKING:
    from shared.tracing import Span

TRACE = TraceId("0af7651916cd43dd8448eb211c80319c")
CALL = IncomingCall(call_sid=CallSid("CA1"), caller="+5511987654321", called="+12025550100", trace_id=TRACE, attempt=1)
CALL_SPAN = attempt_of(TRACE, 1)
TURN = "00f067aa0ba902b7"


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Span]:
    """What was recorded, as if somebody took traces."""
    recorded: list[Span] = []
    monkeypatch.setattr(tracing, "on", lambda: True)
    monkeypatch.setattr(tracing, "record", recorded.append)
    return recorded


def spans_of(turn: str = "") -> CallSpans:
    """Give the spans of a call that is promised, whose `start` comes 10 s after the machine's."""
    spans = CallSpans(lambda: 10.0, lambda: turn)
    spans.begin(Prepare(call=CALL, agent=Agent(), reserved_at=1.0))
    return spans


def test_nothing_is_recorded_before_the_caller_hears_something(taken: list[Span]) -> None:
    """The first span starts a thread, and of what the caller waits for nothing may be behind that."""
    spans = spans_of()
    spans.told(Observed(timing=Timing.CONTEXT_INJECTION, seconds=0.5))
    assert taken == []
    spans.told(FirstMedia(at=10.002))
    assert [(span.name, span.parent) for span in taken] == [("customer", CALL_SPAN), ("greeting", CALL_SPAN)]
    assert taken[1].end - taken[1].start == pytest.approx(0.002, abs=1e-4)
    assert taken[0].end - taken[0].start == pytest.approx(0.5, abs=1e-4)


def test_a_call_that_ends_before_it_hears_anything_keeps_no_span_back(taken: list[Span]) -> None:
    spans = spans_of()
    spans.told(Observed(timing=Timing.CONTEXT_INJECTION, seconds=0.5))
    spans.told(Ending(reason=EndReason.HANGUP_BEFORE_START))
    assert [span.name for span in taken] == ["customer"]


def test_an_answer_says_how_long_each_stage_of_it_took(taken: list[Span]) -> None:
    spans = spans_of(TURN)
    spans.told(FirstMedia(at=10.0))
    for stage, seconds in ((Stage.STT, 0.2), (Stage.LLM, 0.3), (Stage.TTS, 0.1), (Stage.TOTAL, 0.6)):
        spans.told(Observed(timing=Timing.TURN, stage=stage, seconds=seconds))
    answer = taken[-1]
    assert (answer.name, answer.parent) == ("answer", TURN)
    assert answer.attributes == {"call.sid": "CA1", "stt_s": 0.2, "llm_s": 0.3, "tts_s": 0.1}
    assert answer.end - answer.start == pytest.approx(0.6, abs=1e-4)


def test_a_tool_is_a_span_without_what_it_was_asked_and_gave(taken: list[Span]) -> None:
    spans = spans_of(TURN)
    spans.told(FirstMedia(at=10.0))
    spans.told(entry("tool", json.dumps({"name": "book", "arguments": {"whom": "Ana"}}), "call_1", ago_s=2.0))
    spans.told(entry("result", json.dumps({"booked": "Ana"}), "call_2"))
    assert len(taken) == 1, "that is the result of another one"
    spans.told(entry("result", json.dumps({"booked": "Ana"}), "call_1"))
    tool = taken[-1]
    assert (tool.name, tool.parent) == ("tool", TURN)
    assert tool.attributes == {"call.sid": "CA1", "tool": "book"}
    assert tool.end - tool.start == pytest.approx(2.0, abs=0.1)


def test_what_is_between_turns_belongs_to_the_call(taken: list[Span]) -> None:
    spans = spans_of()
    spans.told(FirstMedia(at=10.0))
    spans.told(Observed(timing=Timing.TURN, stage=Stage.TOTAL, seconds=0.6))
    assert taken[-1].parent == CALL_SPAN


def test_a_successor_does_not_say_again_when_the_customer_was_known(taken: list[Span]) -> None:
    """It is told so anew, long after the reservation."""
    spans = CallSpans(lambda: 10.0)
    resume = Resume(number=1, stream_sid=None)
    spans.begin(Bind(call=CALL, agent=Agent(), accepted_at=1.0, reserved_at=1.0, resume=resume))
    spans.told(Observed(timing=Timing.CONTEXT_INJECTION, seconds=60.0))
    spans.told(Resumed(at=time.monotonic()))
    assert taken == []
    spans.told(Observed(timing=Timing.TURN, stage=Stage.TOTAL, seconds=0.6))
    assert [span.name for span in taken] == ["answer"]
