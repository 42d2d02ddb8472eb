"""Cartesia's voice while the model still writes: words go out as they come, and what was said is known as exactly as before."""

import asyncio
import re
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, cast

import pytest
from pipecat.frames.frames import (
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair

from shared.agents import Agent
from shared.settings import Settings
from shared.workers import Resource
from tests.pool_process import eventually
from tests.standins import modem
from tests.standins.pipecat_rig import RATE_HZ, Rig, of_kind, piped
from tests.standins.process import Standin, started
from worker.call.playout import SpokenSentences
from worker.providers import cartesia_tts
from worker.providers.cartesia_tts import CartesiaVoice
from worker.providers.retry import Trouble
from worker.providers.spoken import Utterance

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gone in 3.13, where audioop-lts provides it
    import audioop

TEXTS: Final = (
    "Sure. It costs 3.5 euros, and 10 000 are left. Anything else?",
    "Dr. Silva is in at 3 p.m. tomorrow, No. 12. Fine?",
    "Yes - really! Well-known things don't cost much; they're free",
    "Two\n\nlines: one, and another.",
)


@pytest.fixture(scope="module")
def process() -> Iterator[Standin]:
    """One process for all tests: starting one costs more than most of them."""
    with started("cartesia", connect_ms=0, tts_first_byte_ms=0, tts_realtime_factor=100) as standin:
        yield standin


@pytest.fixture
async def cartesia(process: Standin) -> AsyncIterator[Standin]:
    """The stand-in with the settings it was started with, whatever a test does to them."""
    settings = (await process.state())["settings"]
    yield process
    await process.control(**settings, close_all="all", reset=True)


class Caller:
    """Hears a voice and remembers what it told, and what the model will be told that it said."""

    def __init__(self, port: int, *, buffer_ms: int = 100, language: str = "en") -> None:
        made: dict[str, Any] = {"cartesia_tts_url": f"ws://127.0.0.1:{port}/tts/websocket"}
        made |= {"cartesia_tts_buffer_ms": buffer_ms, "cartesia_voice_id": "a-voice"}
        self.trouble = Trouble(Resource.TTS)
        self.tts = CartesiaVoice(
            Settings(_env_file=None, openai_api_key="key", cartesia_api_key="key", **made),
            lambda _why: None,
            self.trouble,
        )
        self.tts.become(Agent(language=language))
        self.tts.serve()
        self.words: list[tuple[str, float]] = []
        self.voids: list[tuple[float, float]] = []
        self.tts.on_word = lambda _context, word, start_s: self.words.append((word, start_s))
        self.tts.on_void = lambda _context, start_s, end_s: self.voids.append((start_s, end_s))
        self.context = LLMContext()
        self.assistant = LLMContextAggregatorPair(self.context).assistant()
        self.pipeline = Pipeline([self.tts, self.assistant])

    @property
    def said(self) -> list[str]:
        """What the model will read that it said."""
        return [str(cast("dict[str, Any]", message)["content"]) for message in self.context.get_messages()]

    @property
    def told(self) -> str:
        """All words that were told."""
        return " ".join(word for word, _ in self.words)

    def hears(self, frames: list[Frame]) -> list[modem.HeardWord]:
        """Give the words in the sound that is played."""
        pcm = b"".join(frame.audio for frame in of_kind(frames, TTSAudioRawFrame))
        for start_s, end_s in reversed(self.voids):
            pcm = pcm[: 2 * round(start_s * RATE_HZ)] + pcm[2 * round(end_s * RATE_HZ) :]
        return modem.decode(audioop.lin2ulaw(pcm, 2))


def text_of(words: list[modem.HeardWord]) -> str:
    return " ".join(word.text for word in words)


def assert_told(caller: Caller, heard: list[modem.HeardWord]) -> None:
    """Compare the words that were told, and when they begin, with those in the sound."""
    assert [word for word, _ in caller.words] == [word.text for word in heard]
    assert [start_s for _, start_s in caller.words] == pytest.approx([word.start_s for word in heard], abs=0.01)


def tokens(text: str) -> list[str]:
    """Cut a text like a model does: a word with the space before it, long ones in two, signs by themselves."""
    return re.findall(r"\s?\w{1,5}|\s?[^\w\s]|\s", text)


async def write(rig: Rig, *texts: str) -> None:
    """Write as a model does."""
    await rig.send(*(LLMTextFrame(token) for text in texts for token in tokens(text)))


async def answer(rig: Rig, caller: Caller) -> list[Frame]:
    """Give what came up to the end of an answer, when the model's context has it."""
    frames = await rig.until(TTSStoppedFrame)
    await eventually(lambda: bool(caller.said))
    return frames


async def inputs(cartesia: Standin) -> list[dict[str, Any]]:
    """Give what the provider was asked to say."""
    return [entry for entry in (await cartesia.state())["log"] if entry["kind"] == "tts_text"]


@pytest.mark.parametrize("buffer_ms", [0, 1, 5000])
async def test_streamed_answers_are_said_and_remembered_to_the_letter(cartesia: Standin, buffer_ms: int) -> None:
    caller = Caller(cartesia.port, buffer_ms=buffer_ms)
    async with piped(caller.pipeline) as rig:
        for count, text in enumerate(TEXTS, 1):
            caller.words.clear()
            await rig.send(LLMFullResponseStartFrame())
            await write(rig, text)
            await rig.send(LLMFullResponseEndFrame())
            heard = caller.hears(await rig.until(TTSStoppedFrame))
            await eventually(lambda: len(caller.said) == count)  # noqa: B023 - it is awaited here
            assert text_of(heard) == " ".join(text.split())
            assert_told(caller, heard)
    assert caller.said == [" ".join(text.split()) for text in TEXTS]


async def test_inputs_are_whole_words_joined_verbatim_with_an_explicit_delay(cartesia: Standin) -> None:
    caller = Caller(cartesia.port, buffer_ms=120)
    text = TEXTS[0]
    async with piped(caller.pipeline) as rig:
        await rig.send(LLMFullResponseStartFrame())
        await write(rig, text)
        await rig.send(LLMFullResponseEndFrame())
        await rig.until(TTSStoppedFrame)
    asked = await inputs(cartesia)
    assert {entry["buffer_ms"] for entry in asked} == {120}
    said = [entry["text"] for entry in asked]
    assert "".join(said) == text
    assert said[-1] == ""
    assert all(one.endswith(" ") for one in said[:-2])
    assert "3.5 euros, " in said
    assert "10 000 are " in said
    assert len(said) > 8
    assert (await cartesia.state())["counters"]["contexts"] == 1


async def test_the_first_words_sound_before_the_sentence_is_written(cartesia: Standin) -> None:
    caller = Caller(cartesia.port, buffer_ms=20)
    async with piped(caller.pipeline) as rig:
        await rig.send(LLMFullResponseStartFrame())
        await write(rig, "Well, let me look at")
        await rig.until(TTSAudioRawFrame)
        await write(rig, " that for you.")
        await rig.send(LLMFullResponseEndFrame())
        await answer(rig, caller)
    assert caller.said == ["Well, let me look at that for you."]


async def test_what_was_heard_of_a_sentence_that_was_never_written_to_its_end_is_remembered(cartesia: Standin) -> None:
    caller = Caller(cartesia.port, buffer_ms=20)
    async with piped(caller.pipeline) as rig:
        await rig.send(LLMFullResponseStartFrame())
        await write(rig, "Well, let me look at")
        await eventually(lambda: len(caller.assistant._aggregation) == 4)  # words
        await rig.send(InterruptionFrame())
        await rig.until(InterruptionFrame)
        await eventually(lambda: bool(caller.said))
    assert caller.said == ["Well, let me look"]


@pytest.mark.parametrize("buffer_ms", [0, 100])
async def test_two_things_said_by_the_worker_itself_stay_apart(cartesia: Standin, buffer_ms: int) -> None:
    caller = Caller(cartesia.port, buffer_ms=buffer_ms)
    async with piped(caller.pipeline) as rig:
        await rig.send(TTSSpeakFrame("Hello there. 3.5 or 4?", append_to_context=True))
        frames = await rig.until(TTSStoppedFrame)
        await rig.send(TTSSpeakFrame("Are you there", append_to_context=True))
        frames += await rig.until(TTSStoppedFrame)
        await eventually(lambda: len(caller.said) == 2)
    assert text_of(caller.hears(frames)) == "Hello there. 3.5 or 4? Are you there"
    assert caller.said == ["Hello there. 3.5 or 4?", "Are you there"]


async def test_a_script_without_spaces_is_not_kept_for_the_end(cartesia: Standin) -> None:
    caller = Caller(cartesia.port, buffer_ms=5000, language="ja")
    async with piped(caller.pipeline) as rig:
        await rig.send(LLMFullResponseStartFrame(), *map(LLMTextFrame, ("こんに", "ちは。", "元気", "ですか")))
        await rig.until(TTSAudioRawFrame)
        await rig.send(LLMFullResponseEndFrame())
        await rig.until(TTSStoppedFrame)
    assert [entry["text"] for entry in await inputs(cartesia)] == ["こんに", "ちは。", "元気", "ですか", ""]


async def test_sentences_are_known_by_their_words_as_they_come(cartesia: Standin) -> None:
    caller = Caller(cartesia.port, buffer_ms=10)
    sentences = SpokenSentences()
    caller.tts.on_word = sentences.word
    async with piped(caller.pipeline) as rig:
        await rig.send(LLMFullResponseStartFrame())
        await write(rig, "One two. Is it 3.5? ", "Yes")
        await rig.send(LLMFullResponseEndFrame())
        frames = of_kind(await rig.until(TTSStoppedFrame), TTSAudioRawFrame)
    sentences.begin(frames[0].context_id or "")
    given_out: list[str] = []
    for frame in frames:
        sentences.wrote(len(frame.audio) / 2 / RATE_HZ)
        given_out += sentences.complete()
    assert [*given_out, sentences.rest()] == ["One two.", "Is it 3.5?", "Yes"]


async def test_a_voice_lost_while_the_model_writes_says_every_word_once(cartesia: Standin) -> None:
    """The provider cuts each connection after some chunks, in the middle of words, while words still come."""
    await cartesia.control(drop_tts_after_chunks=7, drop_tts_next=3, tts_chunk_bytes=1777)
    caller = Caller(cartesia.port, buffer_ms=10)
    text = "One two three four five six seven eight nine ten eleven twelve."
    async with piped(caller.pipeline) as rig:
        await rig.send(LLMFullResponseStartFrame())
        for word in text.split():
            await write(rig, f"{word} ")
            if word in {"five", "nine"}:
                await eventually(lambda: caller.told.endswith(word))  # noqa: B023 - it is awaited here
        await rig.send(LLMFullResponseEndFrame())
        heard = caller.hears(await answer(rig, caller))
    assert (await cartesia.state())["counters"]["tts_opened"] == 4
    assert text_of(heard) == text
    assert caller.told == text
    assert caller.said == [text]


async def test_a_sentence_is_said_to_its_end_when_the_model_then_writes_nothing(cartesia: Standin) -> None:
    """It asks for a tool, for instance: nothing says whether the full stop ends a sentence."""
    caller = Caller(cartesia.port, buffer_ms=10)
    async with piped(caller.pipeline) as rig:
        await rig.send(LLMFullResponseStartFrame())
        await write(rig, "Let me look.")
        await eventually(lambda: caller.told == "Let me look.")
        await write(rig, " Five")
        await rig.send(LLMFullResponseEndFrame())
        heard = caller.hears(await answer(rig, caller))
    assert text_of(heard) == "Let me look. Five"
    assert caller.said == ["Let me look. Five"]


@pytest.mark.parametrize("silently", [False, True])
async def test_what_comes_after_a_long_silence_of_the_model_is_said_in_another_context_without_an_error(
    cartesia: Standin,
    silently: bool,  # noqa: FBT001 - a parameter of the test
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tool ran meanwhile. Whether the provider tells that a context is over is not published."""
    monkeypatch.setattr(cartesia_tts, "OUTLIVED_S", 0.1)
    await cartesia.control(tts_context_expire_s=0.3, tts_expire_silently=silently)
    caller = Caller(cartesia.port, buffer_ms=10)
    async with piped(caller.pipeline) as rig:
        await rig.send(LLMFullResponseStartFrame())
        await write(rig, "Let me look! ")
        await eventually(lambda: caller.told == "Let me look!")
        await until_closed(cartesia)
        await write(rig, "It is five, ", "or six.")
        await rig.send(LLMFullResponseEndFrame())
        heard = caller.hears(await answer(rig, caller))
    assert text_of(heard) == "Let me look! It is five, or six."
    assert_told(caller, heard)
    assert caller.said == ["Let me look! It is five, or six."]
    state = await cartesia.state()
    assert not [entry for entry in state["log"] if entry["kind"] == "tts_refused_input"]
    assert (state["counters"]["contexts"], state["counters"]["tts_opened"]) == (2, 1)


async def test_what_a_tool_found_is_said_wholly_after_waiting_words_and_expired_contexts(cartesia: Standin) -> None:
    """An answer, what the worker says while the tool runs, and the answer to what it found, each long after the former."""
    await cartesia.control(tts_context_expire_s=0.05)
    caller = Caller(cartesia.port, buffer_ms=10)
    frames: list[Frame] = []
    async with piped(caller.pipeline) as rig:
        await rig.send(LLMFullResponseStartFrame())
        await write(rig, "Let me look.")
        await rig.send(LLMFullResponseEndFrame())
        frames += await rig.until(TTSStoppedFrame)
        await until_closed(cartesia)
        await rig.send(TTSSpeakFrame("One moment.", append_to_context=False))
        frames += await rig.until(TTSStoppedFrame)
        await until_closed(cartesia)
        await rig.send(LLMFullResponseStartFrame())
        await write(rig, "Friday at 3 p.m. is free.")
        await rig.send(LLMFullResponseEndFrame())
        frames += await rig.until(TTSStoppedFrame)
        await eventually(lambda: len(caller.said) == 2)
    assert text_of(caller.hears(frames)) == "Let me look. One moment. Friday at 3 p.m. is free."
    assert caller.said == ["Let me look.", "Friday at 3 p.m. is free."]
    state = await cartesia.state()
    assert not [entry for entry in state["log"] if entry["kind"] == "tts_refused_input"]
    assert (state["counters"]["contexts"], state["counters"]["tts_opened"]) == (3, 1)


async def test_an_answer_that_ends_after_a_long_silence_ends_without_an_error(
    cartesia: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cartesia_tts, "OUTLIVED_S", 0.1)
    await cartesia.control(tts_context_expire_s=0.3, tts_expire_silently=True)
    caller = Caller(cartesia.port, buffer_ms=10)
    async with piped(caller.pipeline) as rig:
        await rig.send(LLMFullResponseStartFrame())
        await write(rig, "That was all! ")
        await eventually(lambda: caller.told == "That was all!")
        await until_closed(cartesia)
        await rig.send(LLMFullResponseEndFrame())
        await answer(rig, caller)
    assert caller.said == ["That was all!"]
    state = await cartesia.state()
    assert not [entry for entry in state["log"] if entry["kind"] == "tts_refused_input"]
    assert state["counters"]["tts_opened"] == 1


async def test_words_that_reach_a_context_too_late_are_said_in_another_on_the_same_connection(
    cartesia: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider was quicker than we thought: every word on its way is refused."""
    monkeypatch.setattr(cartesia_tts, "OUTLIVED_S", 99)
    await cartesia.control(tts_context_expire_s=0.05, tts_expire_silently=True)
    caller = Caller(cartesia.port, buffer_ms=10)
    async with piped(caller.pipeline) as rig:
        await rig.send(LLMFullResponseStartFrame())
        await write(rig, "Let me look! ")
        await eventually(lambda: caller.told == "Let me look!")
        await until_closed(cartesia)
        await write(rig, "It is five, or six.")
        await rig.send(LLMFullResponseEndFrame())
        heard = caller.hears(await answer(rig, caller))
    assert text_of(heard) == "Let me look! It is five, or six."
    assert caller.said == ["Let me look! It is five, or six."]
    state = await cartesia.state()
    assert [entry for entry in state["log"] if entry["kind"] == "tts_refused_input"]
    assert (state["counters"]["tts_opened"], caller.trouble.tries) == (1, 0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["to<spell>1234</spell>.", "Now"], ["to 1234.", "Now"]),
        (['<break time="1s"/>', "Now"], ["Now"]),
        (["a<b", "c>d"], ["a<b", "c>d"]),
    ],
)
def test_marks_of_the_provider_are_no_part_of_a_word(words: list[str], told: list[str]) -> None:
    utterance = Utterance()
    utterance.ask(" ".join(words))
    cartesia_tts._note_words(utterance, {"words": words, "start": [0.0, 0.5], "end": [0.5, 1.0]})
    utterance.sound(1.0)
    assert [word.text for word in utterance.whole()] == told


async def test_what_can_never_be_said_is_given_up(cartesia: Standin) -> None:
    await cartesia.control(tts_error_code=400)
    caller = Caller(cartesia.port, buffer_ms=10)
    async with piped(caller.pipeline) as rig:
        await rig.send(TTSSpeakFrame("Never.", append_to_context=True))
        await rig.until(TTSStoppedFrame)
        await cartesia.control(tts_error_code=0)
        await rig.send(TTSSpeakFrame("Said.", append_to_context=True))
        assert text_of(caller.hears(await rig.until(TTSStoppedFrame))) == "Said."


async def until_closed(cartesia: Standin) -> None:
    """Wait until the provider has ended every context."""
    async with asyncio.timeout(20):
        while (await cartesia.state())["counters"]["contexts_open"]:  # noqa: ASYNC110 - another process ends them
            await asyncio.sleep(0.02)
