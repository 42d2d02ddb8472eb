"""The first-answer gate and the probe, each in a running pipeline of its own; the turn's clock by hand."""

import asyncio
import time

import pytest
from pipecat.frames.frames import (
    EagerEndOfTurnCancelFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMContextUserTurnFrame,
    LLMTextFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection

from shared.metrics import Stage
from tests.fakes import HandClock
from tests.standins.pipecat_rig import of_kind, piped
from worker.call.gate import FirstAnswerGate, FirstTokenProbe, TurnClock

LONG_S = 3600.0
DEADLINE_S = 30.0


class Reports:
    """What a turn clock reported."""

    def __init__(self) -> None:
        self.made: list[tuple[Stage, float]] = []
        self.clock = TurnClock(lambda stage, seconds: self.made.append((stage, seconds)))

    @property
    def stages(self) -> list[Stage]:
        """The stages alone."""
        return [stage for stage, _ in self.made]


def asked(*said: str) -> LLMContextFrame:
    """Ask for a completion after the caller said these things."""
    return LLMContextFrame(LLMContext([{"role": "user", "content": text} for text in said]))


# --- the clock --------------------------------------------------------------------------------------------------------


def test_each_stage_of_a_turn_is_reported_once_with_its_time() -> None:
    reports, now = Reports(), HandClock(100.0)
    reports.clock.speech_ended(now())
    now.advance(0.5)
    reports.clock.asked(now())
    now.advance(0.3)
    assert reports.clock.token(now())
    assert not reports.clock.token(now())
    now.advance(0.1)
    reports.clock.audio(now())
    reports.clock.audio(now())
    assert reports.stages == [Stage.STT, Stage.LLM, Stage.TTS, Stage.TOTAL]
    assert [seconds for _, seconds in reports.made] == pytest.approx([0.5, 0.3, 0.1, 0.9])


def test_a_tool_call_in_a_turn_does_not_report_its_speech_twice() -> None:
    reports = Reports()
    reports.clock.speech_ended(0)
    reports.clock.asked(1)  # answered by a tool call, without a word
    reports.clock.asked(3)
    assert reports.clock.token(4)
    reports.clock.audio(5)
    assert reports.made == [(Stage.STT, 1), (Stage.LLM, 1), (Stage.TTS, 1), (Stage.TOTAL, 5)]


def test_a_backchannel_into_an_answer_is_not_where_the_next_one_is_counted_from() -> None:
    reports = Reports()
    reports.clock.speech_ended(0)
    reports.clock.was_no_turn()
    reports.clock.asked(3)  # a tool has ended
    assert reports.clock.token(4)
    reports.clock.audio(5)
    assert reports.made == [(Stage.LLM, 1), (Stage.TTS, 1)]


def test_audio_that_answers_nobody_reports_nothing() -> None:
    reports = Reports()
    reports.clock.audio(1)  # a greeting
    assert not reports.clock.token(2)
    assert reports.made == []


def test_a_turn_that_was_interrupted_leaves_nothing_for_the_next() -> None:
    reports = Reports()
    reports.clock.speech_ended(0)
    reports.clock.asked(1)
    reports.clock.token(2)
    reports.clock.speech_ended(10)
    reports.clock.asked(11)
    reports.clock.token(13)
    reports.clock.audio(14)
    assert reports.made[2:] == [(Stage.STT, 1), (Stage.LLM, 2), (Stage.TTS, 1), (Stage.TOTAL, 4)]


def test_a_completion_nobody_spoke_before_has_no_total() -> None:
    reports = Reports()
    reports.clock.asked(1)
    reports.clock.token(2)
    reports.clock.audio(3)
    assert reports.stages == [Stage.LLM, Stage.TTS]


# --- the gate ---------------------------------------------------------------------------------------------------------


def gate(timeout_s: float = LONG_S, reports: Reports | None = None) -> tuple[FirstAnswerGate, asyncio.Queue[str]]:
    """Make a gate, and the journal it writes to."""
    journal: asyncio.Queue[str] = asyncio.Queue()
    return FirstAnswerGate(timeout_s, (reports or Reports()).clock, journal.put_nowait), journal


async def read(journal: asyncio.Queue[str]) -> str:
    """Give the next entry."""
    async with asyncio.timeout(DEADLINE_S):
        return await journal.get()


async def test_the_first_completion_waits_until_the_customer_is_known() -> None:
    held, journal = gate()
    async with piped(held) as rig:
        await rig.send(asked("hello"))
        await read(journal)
        await rig.send(VADUserStartedSpeakingFrame())
        passed = await rig.until(VADUserStartedSpeakingFrame)
        assert of_kind(passed, LLMContextFrame) == []
        held.open()
        assert of_kind(await rig.until(LLMContextFrame), LLMContextFrame)


async def test_it_waits_no_longer_than_it_may_and_only_once() -> None:
    held, _ = gate(timeout_s=0.02)
    async with piped(held) as rig:
        await rig.send(asked("hello"))
        await rig.until(LLMContextFrame)
        held._timeout_s = LONG_S
        await rig.send(asked("hello", "are you there"))
        await rig.until(LLMContextFrame)


async def test_once_open_nothing_is_held() -> None:
    held, _ = gate()
    held.open()
    async with piped(held) as rig:
        await rig.send(asked("a"))
        await rig.until(LLMContextFrame)
        await rig.send(asked("a", "b"))
        await rig.until(LLMContextFrame)


async def test_an_interruption_cancels_the_wait_and_the_next_completion_is_the_first() -> None:
    held, journal = gate()
    async with piped(held) as rig:
        await rig.send(asked("wait"))
        assert await read(journal) == "wait"  # it waits in the gate now
        await rig.send(InterruptionFrame())
        await rig.until(InterruptionFrame)
        await rig.send(asked("wait", "go on"))
        assert await read(journal) == "go on"
        await rig.send(VADUserStartedSpeakingFrame())
        assert of_kind(await rig.until(VADUserStartedSpeakingFrame), LLMContextFrame) == []
        held.open()
        (frame,) = of_kind(await rig.until(LLMContextFrame), LLMContextFrame)
        assert len(frame.context.get_messages()) == 2


async def test_what_the_caller_said_is_journaled_before_its_completion_is_asked_for() -> None:
    held, journal = gate()
    async with piped(held) as rig:
        await rig.send(asked("what time is it"))
        assert await read(journal) == "what time is it"
        held.open()
        await rig.until(LLMContextFrame)


async def test_each_user_turn_is_journaled_once_and_nobody_elses() -> None:
    held, journal = gate()
    held.open()
    context = LLMContext([{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "one"}])
    async with piped(held) as rig:
        await rig.send(LLMContextFrame(context))
        await rig.until(LLMContextFrame)
        context.add_message({"role": "assistant", "content": "yes"})
        context.add_message({"role": "user", "content": [{"type": "text", "text": "not a telephone's"}]})
        context.add_message({"role": "user", "content": "two"})
        await rig.send(LLMContextFrame(context), LLMContextFrame(context))
        await rig.until(LLMContextFrame)
        await rig.until(LLMContextFrame)
    assert [journal.get_nowait() for _ in range(journal.qsize())] == ["one", "two"]


async def test_what_a_predecessor_has_journaled_is_not_journaled_again_even_when_the_greeting_is_taken_out() -> None:
    held, journal = gate()
    held.open()
    held.recall(1)
    context = LLMContext([{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "one"}])
    async with piped(held) as rig:
        await rig.send(LLMContextFrame(context))
        await rig.until(LLMContextFrame)
        assert journal.empty()
        context.set_messages([{"role": "user", "content": "one"}, {"role": "user", "content": "two"}])
        await rig.send(LLMContextFrame(context))
        await rig.until(LLMContextFrame)
    assert [journal.get_nowait() for _ in range(journal.qsize())] == ["two"]


async def test_the_turn_begins_where_the_speech_ended_and_not_where_that_was_noticed() -> None:
    reports = Reports()
    held, _ = gate(reports=reports)
    held.open()
    noticed_late_s, silence_s = 40.0, 60.0
    async with piped(held) as rig:
        await rig.send(VADUserStoppedSpeakingFrame(stop_secs=silence_s, timestamp=time.time() - noticed_late_s))
        await rig.until(VADUserStoppedSpeakingFrame)
        await rig.send(asked("hello"))
        await rig.until(LLMContextFrame)
    ((stage, seconds),) = reports.made
    assert stage is Stage.STT
    assert 100 <= seconds < 160


# --- the probe --------------------------------------------------------------------------------------------------------


async def test_the_first_token_of_each_completion_is_seen_once() -> None:
    reports = Reports()
    seen: list[bool] = []
    async with piped(FirstTokenProbe(reports.clock, lambda: seen.append(True))) as rig:
        for _ in range(2):
            reports.clock.asked(time.monotonic())
            await rig.send(LLMTextFrame("Good"), LLMTextFrame(" day."), LLMTextFrame(" Bye."))
            for _ in range(3):
                await rig.until(LLMTextFrame)
    assert seen == [True, True]
    assert reports.stages == [Stage.LLM, Stage.LLM]


def withdrawals(held: FirstAnswerGate) -> asyncio.Queue[bool]:
    """Have it noted what a gate tells of answers that are withdrawn."""
    withdrawn: asyncio.Queue[bool] = asyncio.Queue()

    async def note(wanted: bool) -> None:  # noqa: FBT001 - the signature is the gate's
        withdrawn.put_nowait(wanted)

    held.on_withdrawn = note
    return withdrawn


def told(notes: asyncio.Queue[bool]) -> list[bool]:
    """Give what was noted so far."""
    return [notes.get_nowait() for _ in range(notes.qsize())]


def speculative() -> LLMContextFrame:
    """Ask ahead of a turn's end."""
    return LLMContextFrame(LLMContext([{"role": "user", "content": "hello"}]), speculation=True)


async def test_what_is_asked_ahead_is_written_down_when_its_turn_has_ended() -> None:
    held, journal = gate()
    held.open()
    async with piped(held) as rig:
        await rig.send(speculative())
        await rig.until(LLMContextFrame)
        assert journal.empty()
        await rig.send(UserStoppedSpeakingFrame())
        await rig.until(UserStoppedSpeakingFrame)
        assert journal.get_nowait() == "hello"
        await rig.send(LLMContextFrame(LLMContext([{"role": "user", "content": "hello"}])))
        await rig.until(LLMContextFrame)
    assert journal.empty(), "once"


async def test_what_is_asked_ahead_and_withdrawn_is_never_written_down() -> None:
    held, journal = gate()
    held.open()
    withdrawn = withdrawals(held)
    async with piped(held) as rig:
        for overtaken in (False, True):
            await rig.send(*((EagerEndOfTurnCancelFrame(), speculative()) if overtaken else (speculative(),)))
            await rig.until(LLMContextFrame)
            await rig.send(*(() if overtaken else (EagerEndOfTurnCancelFrame(),)), UserStoppedSpeakingFrame())
            await rig.until(UserStoppedSpeakingFrame)
            await rig.send(UserStartedSpeakingFrame())
            await rig.until(UserStartedSpeakingFrame)
    assert (journal.empty(), told(withdrawn)) == (True, [False, False])


async def test_an_answer_the_model_gave_up_while_its_turn_ended_is_still_wanted() -> None:
    """The model asks for a tool and may not ahead; its word for that and the end of the turn cross on their way."""
    held, _ = gate()
    held.open()
    withdrawn = withdrawals(held)
    async with piped(held) as rig:
        await rig.send(speculative())
        await rig.until(LLMContextFrame)
        await rig.send(UserStoppedSpeakingFrame())
        await rig.until(UserStoppedSpeakingFrame)
        await held.process_frame(EagerEndOfTurnCancelFrame(), FrameDirection.UPSTREAM)
    assert told(withdrawn) == [True]


async def test_an_end_of_turn_that_overtakes_what_was_asked_ahead_confirms_it() -> None:
    held, journal = gate()
    held.open()
    async with piped(held) as rig:
        await rig.send(UserStoppedSpeakingFrame())
        await rig.until(UserStoppedSpeakingFrame)
        await rig.send(speculative())
        await rig.until(LLMContextFrame)
    assert journal.get_nowait() == "hello"


async def test_an_end_of_turn_that_has_not_heard_of_the_models_refusal_is_answered_all_the_same() -> None:
    """The model gives up what was asked ahead; its word goes up while the turn ends in the belief that it is answered."""
    held, _ = gate()
    held.open()
    withdrawn = withdrawals(held)
    async with piped(held) as rig:
        for normal in (False, True):
            await rig.send(UserStartedSpeakingFrame())
            await rig.until(UserStartedSpeakingFrame)
            await rig.send(speculative())
            await rig.until(LLMContextFrame)
            await held.process_frame(EagerEndOfTurnCancelFrame(), FrameDirection.UPSTREAM)
            async with asyncio.timeout(DEADLINE_S):
                assert await withdrawn.get() is False
            await rig.send(LLMContextUserTurnFrame(text="hello", timestamp=""), *([asked("hello")] if normal else []))
            await rig.until(LLMContextFrame if normal else LLMContextUserTurnFrame)
            if not normal:
                async with asyncio.timeout(DEADLINE_S):
                    assert await withdrawn.get() is True
        held._look()
        assert withdrawn.empty()
