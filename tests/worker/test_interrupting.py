"""The rules of interruption in a running pipeline: what the agent's mouth is told, and what becomes a turn."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InterimTranscriptionFrame,
    LLMContextFrame,
    STTMetadataFrame,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.turns.user_turn_strategies import UserTurnStrategies

import worker.call.bargein
from shared.turns import Turns
from tests.pool_process import eventually
from tests.standins.pipecat_rig import Rig, of_kind, piped
from tests.worker.test_turns import Judge
from worker.call.interrupting import TurnBegin
from worker.call.turns import PatienceOver, TurnEnd
from worker.providers.interface import TranscriptEnd

GIVEN_UP_S = 60.0
"""So long Pipecat leaves a turn open that nobody ends: longer than a test waits."""


class Mouth:
    """A mouth that remembers what it was told."""

    def __init__(self) -> None:
        self.left_s = float("inf")
        self.asks = False
        self.firm = False
        self.told: list[str] = []

    def halt(self) -> bool:
        """Fall silent, unless it is firm."""
        if self.firm:
            return False
        self.left_s = 0.0
        self.told.append("halt")
        return True

    def proceed(self) -> None:
        """Go on."""
        self.left_s = float("inf")
        self.told.append("proceed")


class Speaking:
    """A caller in front of an agent that speaks."""

    def __init__(self, likely: float, turns: Turns) -> None:
        self.mouth = Mouth()
        self.backchannels: list[str] = []
        self.model = Judge(likely)
        begin = TurnBegin(self.mouth, self.backchannels.append)
        begin.use(turns, "en")
        self.end = TurnEnd(self.model, lambda: True, lambda: True)
        self.end.use(turns)
        strategies = UserTurnStrategies(start=[begin], stop=[self.end])
        params = LLMUserAggregatorParams(user_turn_strategies=strategies, user_turn_stop_timeout=GIVEN_UP_S)
        self.turns = LLMContextAggregatorPair(LLMContext(), user_params=params).user()
        self.end.said = self.turns.aggregation_string
        self.rig: Rig

    async def voice(self, *words: str) -> None:
        """Begin to speak, fall silent, and have that understood."""
        self.model.append_audio(bytes(6400), is_speech=True)
        began, ended = VADUserStartedSpeakingFrame(start_secs=0.2), VADUserStoppedSpeakingFrame(stop_secs=0.2)
        await self.rig.send(began, ended, *(TranscriptionFrame(text, "", "") for text in words), TranscriptEnd())

    async def until_understood(self) -> list[Frame]:
        """Give what came of it."""
        return await self.rig.until(TranscriptEnd)


@asynccontextmanager
async def speaking(likely: float = 0.95, turns: Turns | None = None) -> AsyncIterator[Speaking]:
    """Put somebody in front of an agent that speaks."""
    made = Speaking(likely, turns or Turns())
    async with piped(made.turns) as rig:
        made.rig = rig
        await rig.send(STTMetadataFrame(service_name="ear", ttfs_p99_latency=5.0))
        yield made


def asked(frames: list[Frame]) -> list[object]:
    """Give what each completion was asked about."""
    messages = [frame.context.get_messages()[-1] for frame in of_kind(frames, LLMContextFrame)]
    return [message["content"] for message in messages if isinstance(message, dict)]


@pytest.mark.parametrize("words", [("Uh-huh.",), ()])
@pytest.mark.parametrize("eager", [False, True])
async def test_what_is_no_interruption_is_no_turn_and_not_in_the_next_one(
    words: tuple[str, ...], *, eager: bool
) -> None:
    async with speaking(turns=Turns(eager=eager)) as one:
        await one.voice(*words)
        frames = await one.until_understood()
        await eventually(lambda: one.mouth.told == ["halt", "proceed"])
        assert of_kind(frames, UserStartedSpeakingFrame) == []
        assert of_kind(frames, LLMContextFrame) == []
        assert one.backchannels == [" ".join(words)]
        one.mouth.left_s = 0.0
        await one.voice("Thank you.")
        assert asked(await one.rig.until(LLMContextFrame)) == ["Thank you."]


async def test_late_words_that_interrupt_nobody_are_not_in_what_is_answered_ahead() -> None:
    async with speaking(turns=Turns(eager=True, stop=1.0)) as one:
        await one.rig.send(TranscriptionFrame("Mhm.", "", ""))
        await eventually(lambda: one.backchannels == ["Mhm."])
        one.mouth.left_s = 0.0
        await one.rig.send(VADUserStartedSpeakingFrame(start_secs=0.2))
        await one.rig.until(UserStartedSpeakingFrame)
        one.model.append_audio(bytes(6400), is_speech=True)
        one.model.look_ahead(0.07)
        await one.rig.send(TranscriptionFrame("What time is it?", "", ""), TranscriptEnd())
        assert asked(await one.rig.until(LLMContextFrame)) == ["What time is it?"]


@pytest.mark.parametrize("pause_first", [False, True])
async def test_a_voice_without_words_over_an_agent_that_thinks_is_no_turn_for_long(*, pause_first: bool) -> None:
    async with speaking() as one:
        one.mouth.left_s = 0.0
        await one.rig.send(VADUserStartedSpeakingFrame(start_secs=0.2))
        pause = VADUserStoppedSpeakingFrame(stop_secs=0.2)
        await one.rig.send(*((pause, TranscriptEnd()) if pause_first else (TranscriptEnd(), pause)))
        frames = await one.rig.until(LLMContextFrame)
        assert len(of_kind(frames, UserStartedSpeakingFrame)) == 1
        assert len(of_kind(frames, LLMContextFrame)) == 1, "what it interrupted is asked for again"


async def test_words_too_soft_for_the_voice_detector_are_answered_behind_a_noise_that_was_not() -> None:
    async with speaking() as one:
        await one.rig.send(STTMetadataFrame(service_name="ear", ttfs_p99_latency=0.1))
        await one.voice()
        await eventually(lambda: one.mouth.told == ["halt", "proceed"])
        one.mouth.left_s = 0.0
        await one.rig.send(TranscriptionFrame("Thank you.", "", ""))
        assert asked(await one.rig.until(LLMContextFrame)) == ["Thank you."]


async def test_words_that_come_when_the_voice_is_over_are_a_turn_that_ends_as_it_sounded() -> None:
    async with speaking() as one:
        await one.voice("Wait.")
        assert asked(await one.rig.until(LLMContextFrame)) == ["Wait."]
        assert one.mouth.told == ["halt"]
    async with speaking(likely=0.1) as one:
        await one.voice("Wait, I want")
        frames = await one.until_understood()
        assert len(of_kind(frames, UserStartedSpeakingFrame)) == 1
        assert of_kind(frames, LLMContextFrame) == [], "that was not all"
        await one.rig.send(PatienceOver())
        assert asked(await one.rig.until(LLMContextFrame)) == ["Wait, I want"]


async def test_a_voice_that_goes_on_interrupts_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.call.bargein, "LONGEST_S", 0.05)
    async with speaking() as one:
        await one.rig.send(VADUserStartedSpeakingFrame(start_secs=0.2))
        await one.rig.until(UserStartedSpeakingFrame)
        assert one.mouth.told == ["halt"]


async def test_an_ear_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.call.bargein, "WORDS_S", 0.05)
    async with speaking() as one:
        await one.rig.send(VADUserStartedSpeakingFrame(start_secs=0.2), VADUserStoppedSpeakingFrame(stop_secs=0.2))
        await eventually(lambda: one.mouth.told == ["halt", "proceed"])


async def test_who_is_firm_is_not_halted_and_the_turn_begins_as_any_other() -> None:
    async with speaking() as one:
        one.mouth.firm = True
        await one.rig.send(VADUserStartedSpeakingFrame(start_secs=0.2))
        await one.rig.until(UserStartedSpeakingFrame)
        assert one.mouth.told == []


async def test_an_agent_that_waits_for_words_is_interrupted_by_so_many() -> None:
    async with speaking(turns=Turns(min_words=2)) as one:
        await one.voice("Stop.")
        assert of_kind(await one.until_understood(), UserStartedSpeakingFrame) == []
        await one.rig.send(InterimTranscriptionFrame("Stop it now", "", ""))
        await one.rig.until(UserStartedSpeakingFrame)
        assert one.mouth.told == []


async def test_the_end_of_the_pipeline_ends_the_clock() -> None:
    async with speaking() as one:
        await one.rig.send(VADUserStartedSpeakingFrame(start_secs=0.2), EndFrame())
        await one.rig.until(EndFrame)
