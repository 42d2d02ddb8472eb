"""When the caller has finished: at once when the model and the ear say so, and an answer may have been begun before."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pipecat.frames.frames import (
    EagerEndOfTurnCancelFrame,
    EagerTranscriptionFrame,
    Frame,
    InterimTranscriptionFrame,
    LLMContextFrame,
    STTMetadataFrame,
    TranscriptionFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.turns.user_start import VADUserTurnStartStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies

from shared.turns import Turns
from tests.pool_process import eventually
from tests.standins.pipecat_rig import Rig, of_kind, piped
from worker.call.models import PhoneTurn
from worker.call.turns import PatienceOver, SpokeOn, TurnEnd
from worker.providers.interface import TranscriptEnd, TurnGoesOn, TurnOver

EAGER = Turns(eager=True, stop=1.0)


def pause() -> VADUserStoppedSpeakingFrame:
    """Notice a pause now."""
    return VADUserStoppedSpeakingFrame(stop_secs=0.2)


class Judge(PhoneTurn):
    """A turn model whose judgement is known."""

    def __init__(self, likely: float = 0.95) -> None:
        super().__init__()
        self.likely = likely

    def _predict_endpoint(self, audio_array: object) -> dict[str, float]:
        assert audio_array is not None
        return {"prediction": float(self.likely > 0.5), "probability": self.likely}


class Listening:
    """A caller in front of a turn."""

    def __init__(self, likely: float, turns: Turns, *, ear_ends: bool) -> None:
        self.model = Judge(likely)
        self.silent = False
        self.may_guess = True
        self.context = LLMContext()
        self.end = TurnEnd(self.model, lambda: self.silent, lambda: self.may_guess)
        self.end.use(turns, ear_ends=ear_ends)
        strategies = UserTurnStrategies(start=[VADUserTurnStartStrategy()], stop=[self.end])
        pair = LLMContextAggregatorPair(
            self.context, user_params=LLMUserAggregatorParams(user_turn_strategies=strategies)
        )
        self.turns = pair.user()
        self.end.said = self.turns.aggregation_string
        self.rig: Rig

    async def speak(self) -> None:
        """Begin to speak."""
        self.silent = False
        self.model.append_audio(bytes(6400), is_speech=True)
        await self.rig.send(VADUserStartedSpeakingFrame(start_secs=0.2))
        await self.rig.until(VADUserStartedSpeakingFrame)

    async def fall_silent(self, *words: str) -> None:
        """Fall silent; the ear gives its words, and that they are all."""
        self.silent = True
        self.model.look_ahead(0.07)
        await self.rig.send(*(TranscriptionFrame(text, "", "") for text in words), TranscriptEnd())
        await self.rig.until(TranscriptEnd)


@asynccontextmanager
async def listening(likely: float = 0.95, turns: Turns = EAGER, *, ear_ends: bool = False) -> AsyncIterator[Listening]:
    """Put somebody in front of a turn."""
    made = Listening(likely, turns, ear_ends=ear_ends)
    async with piped(made.turns) as rig:
        made.rig = rig
        await rig.send(STTMetadataFrame(service_name="ear", ttfs_p99_latency=5.0))
        await made.speak()
        yield made


def guesses(frames: list[Frame]) -> list[bool]:
    """Say of each completion that was asked for whether it was ahead of its turn's end."""
    return [frame.speculation for frame in of_kind(frames, LLMContextFrame)]


def asked(frames: list[Frame]) -> list[object]:
    """Give what each completion was asked about."""
    messages = [frame.context.get_messages()[-1] for frame in of_kind(frames, LLMContextFrame)]
    return [message["content"] for message in messages if isinstance(message, dict)]


async def test_a_turn_ends_with_the_pause_when_its_words_were_there_before() -> None:
    async with listening(turns=Turns()) as one:
        await one.fall_silent("What time is it?")
        await one.rig.send(pause())
        frames = await one.rig.until(LLMContextFrame)
        assert guesses(frames) == [False]
        assert asked(frames) == ["What time is it?"]


async def test_a_turn_ends_with_its_last_words_when_they_come_after_the_pause() -> None:
    async with listening(turns=Turns()) as one:
        one.silent = True
        one.model.look_ahead(0.07)
        await one.rig.send(
            pause(), TranscriptionFrame("What time", "", ""), TranscriptionFrame("is it?", "", ""), TranscriptEnd()
        )
        frames = await one.rig.until(LLMContextFrame)
        assert asked(frames) == ["What time is it?"]


async def test_words_that_were_given_while_the_caller_spoke_on_end_no_turn() -> None:
    async with listening(turns=Turns()) as one:
        await one.fall_silent("What time")
        one.silent = False
        await one.rig.send(SpokeOn(), InterimTranscriptionFrame("is it", "", ""), pause())
        frames = await one.rig.until(VADUserStoppedSpeakingFrame)
        assert of_kind(frames, LLMContextFrame) == []
        one.silent = True
        await one.rig.send(TranscriptionFrame("is it?", "", ""), TranscriptEnd())
        assert asked(await one.rig.until(LLMContextFrame)) == ["What time is it?"]


async def test_an_end_of_the_transcript_that_the_caller_has_overtaken_counts_for_nothing() -> None:
    async with listening(turns=Turns()) as one:
        one.silent = False
        await one.rig.send(TranscriptionFrame("What time", "", ""), TranscriptEnd())
        await one.rig.until(TranscriptEnd)
        assert not one.end._transcript_finalized


async def test_a_turn_that_did_not_sound_like_an_end_ends_when_patience_is_over() -> None:
    async with listening(likely=0.1, turns=Turns()) as one:
        await one.fall_silent("I would like")
        await one.rig.send(pause())
        assert of_kind(await one.rig.until(VADUserStoppedSpeakingFrame), LLMContextFrame) == []
        await one.rig.send(PatienceOver())
        assert asked(await one.rig.until(LLMContextFrame)) == ["I would like"]


async def test_without_the_model_every_pause_is_an_end() -> None:
    async with listening(likely=0.1, turns=Turns(smart=False)) as one:
        one.model.judges = False
        await one.fall_silent("I would like")
        await one.rig.send(pause())
        assert asked(await one.rig.until(LLMContextFrame)) == ["I would like"]


async def test_an_eager_agent_asks_before_the_pause_and_once_only() -> None:
    async with listening() as one:
        await one.fall_silent("What time is it?")
        frames = await one.rig.until(LLMContextFrame)
        assert guesses(frames) == [True]
        assert asked(frames) == ["What time is it?"]
        assert one.context.get_messages() == [], "the turn is not over"
        await one.rig.send(pause())
        frames = await one.rig.until(UserStoppedSpeakingFrame)
        assert of_kind(frames, LLMContextFrame) == []
        await eventually(one.context.get_messages)
        assert one.context.get_messages() == [{"role": "user", "content": "What time is it?"}]


async def test_a_caller_who_goes_on_withdraws_the_answer_without_a_trace() -> None:
    async with listening() as one:
        await one.fall_silent("What time is it?")
        await one.rig.until(LLMContextFrame)
        one.silent = False
        await one.rig.send(SpokeOn())
        await one.rig.until(EagerEndOfTurnCancelFrame)
        assert one.context.get_messages() == []
        await one.fall_silent("In Lisbon.")
        frames = await one.rig.until(LLMContextFrame)
        assert asked(frames) == ["What time is it? In Lisbon."]
        await one.rig.send(pause())
        await one.rig.until(UserStoppedSpeakingFrame)


async def test_other_words_than_were_answered_are_answered_anew() -> None:
    async with listening() as one:
        await one.fall_silent("What time is it?")
        await one.rig.until(LLMContextFrame)
        await one.rig.send(TranscriptionFrame("Please.", "", ""), TranscriptEnd())
        await one.rig.until(TranscriptEnd)
        await one.rig.send(pause())
        frames = await one.rig.until(LLMContextFrame)
        assert of_kind(frames, EagerEndOfTurnCancelFrame)
        assert guesses(frames) == [False]
        assert asked(frames) == ["What time is it? Please."]


async def test_an_answer_that_the_model_could_not_give_ahead_is_asked_for_at_the_end() -> None:
    async with listening() as one:
        await one.fall_silent("What time is it?")
        await one.rig.until(LLMContextFrame)
        await one.rig.send(EagerEndOfTurnCancelFrame(), pause())
        assert guesses(await one.rig.until(LLMContextFrame)) == [False]


@pytest.mark.parametrize("why", ["unsure", "not eager", "not allowed", "no words"])
async def test_nothing_is_answered_ahead(why: str) -> None:
    async with listening(0.6 if why == "unsure" else 0.95, Turns(stop=1.0) if why == "not eager" else EAGER) as one:
        one.may_guess = why != "not allowed"
        await one.fall_silent(*(() if why == "no words" else ("What time is it?",)))
        await one.rig.send(SpokeOn())
        assert of_kind(await one.rig.until(SpokeOn), LLMContextFrame) == []


# --- an ear that ends turns -------------------------------------------------------------------------------------------


def ended(*words: str) -> list[Frame]:
    """Have an ear say that a turn is over."""
    return [*(TranscriptionFrame(text, "", "") for text in words), TurnOver()]


async def test_the_word_of_an_ear_that_knows_ends_a_turn_and_no_pause_does() -> None:
    async with listening(turns=Turns(), ear_ends=True) as one:
        one.silent = True
        await one.rig.send(pause(), TranscriptionFrame("What time is it?", "", ""), TranscriptEnd())
        assert of_kind(await one.rig.until(TranscriptEnd), LLMContextFrame) == []
        await one.rig.send(TurnOver(), TurnOver())
        frames = await one.rig.until(LLMContextFrame)
        assert asked(frames) == ["What time is it?"]
        await one.speak()
        one.silent = True
        await one.rig.send(pause(), *ended("Please."))
        frames = await one.rig.until(LLMContextFrame)
        assert asked(frames) == ["Please."], "said twice it ends nothing else"


async def test_an_ear_quicker_than_the_voice_detector_waits_for_it() -> None:
    async with listening(turns=Turns(), ear_ends=True) as one:
        one.silent = True  # is when it is asked, before the pause is one
        await one.rig.send(*ended("What time is it?"))
        assert of_kind(await one.rig.until(TurnOver), LLMContextFrame) == []
        await one.rig.send(pause())
        assert asked(await one.rig.until(LLMContextFrame)) == ["What time is it?"]


async def test_a_caller_who_has_overtaken_the_ears_word_loses_none_of_theirs() -> None:
    async with listening(turns=Turns(), ear_ends=True) as one:
        await one.rig.send(*ended("What time is it?"))
        frames = await one.rig.until(TurnOver)
        await one.rig.send(pause())
        frames += await one.rig.until(VADUserStoppedSpeakingFrame)
        assert of_kind(frames, LLMContextFrame) == []
        one.silent = True
        await one.rig.send(*ended("In Lisbon."))
        assert asked(await one.rig.until(LLMContextFrame)) == ["What time is it? In Lisbon."]


async def test_words_behind_the_ears_word_take_it_back() -> None:
    async with listening(turns=Turns(), ear_ends=True) as one:
        one.silent = True
        await one.rig.send(*ended("What time is it?"), InterimTranscriptionFrame("In", "", ""))
        await one.rig.send(TranscriptEnd())
        await one.rig.until(TranscriptEnd)
        await one.rig.until(TranscriptEnd)
        await one.rig.send(pause())
        assert of_kind(await one.rig.until(VADUserStoppedSpeakingFrame), LLMContextFrame) == []
        await one.rig.send(*ended("In Lisbon."))
        assert asked(await one.rig.until(LLMContextFrame)) == ["What time is it? In Lisbon."]


async def test_a_turn_whose_words_are_there_ends_without_the_ears_word_when_patience_is_over() -> None:
    async with listening(turns=Turns(), ear_ends=True) as one:
        await one.rig.send(*ended("What time is it?"))
        await one.rig.until(TurnOver)
        await one.rig.send(pause())
        await one.rig.until(VADUserStoppedSpeakingFrame)
        one.silent = True
        await one.rig.send(PatienceOver())
        assert asked(await one.rig.until(LLMContextFrame)) == ["What time is it?"]


async def test_an_eager_agent_answers_what_the_ear_takes_for_almost_over() -> None:
    async with listening(turns=EAGER, ear_ends=True) as one:
        one.silent = True
        await one.rig.send(pause(), EagerTranscriptionFrame("What time is it", "", ""))
        frames = await one.rig.until(LLMContextFrame)
        assert (guesses(frames), asked(frames)) == ([True], ["What time is it"])
        await one.rig.send(TurnGoesOn())
        await one.rig.until(EagerEndOfTurnCancelFrame)
        await one.rig.send(EagerTranscriptionFrame("What time is it in Lisbon", "", ""))
        frames = await one.rig.until(LLMContextFrame)
        assert (guesses(frames), asked(frames)) == ([True], ["What time is it in Lisbon"])
        await one.rig.send(*ended("What time is it in Lisbon?"))
        frames = await one.rig.until(UserStoppedSpeakingFrame)
        await eventually(one.context.get_messages)
        assert one.context.get_messages() == [{"role": "user", "content": "What time is it in Lisbon?"}]
        assert of_kind(frames, LLMContextFrame) == [], "it is answered already"


async def test_an_eager_agent_waits_for_the_voice_detector_as_well() -> None:
    async with listening(turns=EAGER, ear_ends=True) as one:
        await one.rig.send(EagerTranscriptionFrame("What time is it", "", ""), TurnGoesOn())
        await one.rig.send(EagerTranscriptionFrame("What time is it in Lisbon", "", ""), TranscriptEnd())
        assert of_kind(await one.rig.until(TranscriptEnd), LLMContextFrame) == []
        one.silent = True
        await one.rig.send(pause())
        frames = await one.rig.until(LLMContextFrame)
        assert (guesses(frames), asked(frames)) == ([True], ["What time is it in Lisbon"])


async def test_what_is_no_turn_is_not_answered_ahead_of_its_end() -> None:
    async with listening(turns=EAGER, ear_ends=True) as one:
        one.silent = True
        await one.rig.send(pause(), *ended("What time is it?"))
        await one.rig.until(LLMContextFrame)
        await eventually(one.context.get_messages)
        await one.rig.send(EagerTranscriptionFrame("Uh-huh.", "", ""), *ended("Uh-huh."), TranscriptEnd())
        frames = await one.rig.until(TranscriptEnd)
        frames += await one.rig.until(TranscriptEnd)
        await one.speak()
        await one.rig.send(TranscriptEnd())
        frames += await one.rig.until(TranscriptEnd)
        assert of_kind(frames, LLMContextFrame) == []
        assert of_kind(frames, EagerEndOfTurnCancelFrame) == [], "nothing was begun that could be withdrawn"


@pytest.mark.parametrize("why", ["not eager", "not allowed", "speaks"])
async def test_what_the_ear_takes_for_almost_over_is_not_answered_ahead(why: str) -> None:
    async with listening(turns=Turns() if why == "not eager" else EAGER, ear_ends=True) as one:
        one.may_guess, one.silent = why != "not allowed", why != "speaks"
        await one.rig.send(EagerTranscriptionFrame("What time is it", "", ""), TurnGoesOn())
        assert of_kind(await one.rig.until(TurnGoesOn), LLMContextFrame) == []


@pytest.mark.parametrize("backchannel", [False, True])
async def test_words_from_before_a_turn_are_words_of_it_unless_they_were_a_backchannel(backchannel: bool) -> None:  # noqa: FBT001
    """Over an agent that speaks a voice becomes a turn later than its first words: when it lasts, or has said enough."""
    async with listening(turns=Turns()) as one:
        await one.fall_silent("Hello.")
        await one.rig.send(pause())
        await one.rig.until(UserStoppedSpeakingFrame)
        await one.rig.send(TranscriptionFrame("yeah", "", ""), TranscriptEnd())
        await one.rig.until(TranscriptEnd)
        if backchannel:
            await one.turns.reset()  # type: ignore[no-untyped-call]
        await one.speak()
        await eventually(lambda: one.end._in_turn)
        assert one.end._text == ("" if backchannel else "yeah")
