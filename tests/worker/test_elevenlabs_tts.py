"""ElevenLabs' voice against its stand-in: kept while idle, moved for another voice, and no word lost with a connection."""

import asyncio
import audioop
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)

from shared.agents import Agent
from shared.settings import Settings
from shared.workers import Resource
from tests.pool_process import eventually
from tests.standins import modem
from tests.standins.pipecat_rig import RATE_HZ, Rig, of_kind, piped
from tests.standins.process import Standin, started
from worker.providers import elevenlabs_tts
from worker.providers.elevenlabs_tts import ElevenLabsVoice, Spelling
from worker.providers.retry import Trouble

DEADLINE_S = 30
QUICK: dict[str, Any] = {"connect_ms": 0, "tts_first_byte_ms": 0, "tts_realtime_factor": 100}


@pytest.fixture(scope="module")
def process() -> Iterator[Standin]:
    with started("elevenlabs", **QUICK) as standin:
        yield standin


@pytest.fixture
async def vendor(process: Standin) -> AsyncIterator[Standin]:
    settings = (await process.state())["settings"]
    async with asyncio.timeout(DEADLINE_S):
        yield process
    await process.control(**settings, close_all="all", reset=True)


class Caller:
    """What is heard of a voice, and what it told."""

    def __init__(self, vendor: Standin, **changes: Any) -> None:
        self.lost: list[str] = []
        self.words: list[tuple[str, float]] = []
        self.voids: list[tuple[float, float]] = []
        self.characters = 0
        self.trouble = Trouble(Resource.TTS)
        settings = Settings(
            _env_file=None,
            elevenlabs_api_key="key",
            elevenlabs_voice_id="default-voice",
            elevenlabs_url=vendor.url,
            **changes,
        )
        self.voice = ElevenLabsVoice(settings, self.lost.append, self.trouble)
        self.voice.on_word = lambda _context, word, start_s: self.words.append((word, start_s))
        self.voice.on_void = lambda _context, start_s, end_s: self.voids.append((start_s, end_s))
        self.voice.on_used = self._used

    def _used(self, *, tts_characters: int) -> None:
        self.characters += tts_characters

    async def hears(self, rig: Rig, *frames: Frame) -> str:
        """Give the words of what is said, without what must not be played."""
        await rig.send(*frames)
        return self.heard(await rig.until(TTSStoppedFrame))

    def heard(self, frames: list[Frame]) -> str:
        """Give the words in the sound of some frames."""
        sound = b"".join(frame.audio for frame in of_kind(frames, TTSAudioRawFrame))
        for start_s, end_s in reversed(self.voids):
            sound = sound[: 2 * round(start_s * RATE_HZ)] + sound[2 * round(end_s * RATE_HZ) :]
        return " ".join(word.text for word in modem.decode(audioop.lin2ulaw(sound, 2)))


def answer(*tokens: str) -> list[Frame]:
    return [LLMFullResponseStartFrame(), *(LLMTextFrame(token) for token in tokens), LLMFullResponseEndFrame()]


async def logged(vendor: Standin, kind: str) -> list[dict[str, Any]]:
    return [entry for entry in (await vendor.state())["log"] if entry["kind"] == kind]


async def until_counted(vendor: Standin, name: str, count: int = 1) -> None:
    while (await vendor.state())["counters"].get(name, 0) < count:
        pass


async def test_a_parked_voice_is_warm_and_speaks_in_the_agents_voice_without_a_connection_of_its_own(
    vendor: Standin,
) -> None:
    caller = Caller(vendor)
    assert not caller.voice.warm()
    async with piped(caller.voice) as rig:
        assert caller.voice.warm()
        caller.voice.become(Agent())
        assert await caller.hears(rig, TTSSpeakFrame("Good day to you.")) == "Good day to you."
        opened = await logged(vendor, "tts_open")
        assert [entry["path"] for entry in opened] == ["/v1/text-to-speech/default-voice/multi-stream-input"]
        assert opened[0]["query"]["output_format"] == "pcm_8000"
        assert opened[0]["query"]["language_code"] == "en"
    assert [word for word, _ in caller.words] == ["Good", "day", "to", "you."]
    starts = [start_s for _, start_s in caller.words]
    assert starts == pytest.approx(
        [0, *(sum(map(modem.duration_s, text.split())) for text in ("Good", "Good day", "Good day to"))], abs=0.01
    )
    assert caller.characters == len("Good day to you.")
    assert caller.lost == []
    assert not caller.voice.warm()


async def test_tokens_go_out_as_they_come_and_a_sentence_is_spoken_at_its_end(vendor: Standin) -> None:
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        await rig.send(LLMFullResponseStartFrame(), *map(LLMTextFrame, ("My", " name is", " Dr", ". Silva", ". I")))
        await eventually(lambda: len(caller.words) == 5)  # nothing says yet that the answer is at its end
        texts = [entry["text"] for entry in await logged(vendor, "tts_text")]
        assert texts == ["My ", "name ", "is ", "Dr. Silva. "] or "".join(texts) == "My name is Dr. Silva. "
        frames = await rig.until(TTSTextFrame)
        await rig.send(LLMTextFrame(" am here."), LLMFullResponseEndFrame())
        frames += await rig.until(TTSStoppedFrame)
        assert caller.heard(frames) == "My name is Dr. Silva. I am here."
        assert (await vendor.state())["counters"]["contexts"] == 2  # one of them proved the connection
    assert " ".join(frame.text for frame in of_kind(frames, TTSTextFrame)) == "My name is Dr. Silva. I am here."


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("Sure. It costs 3.5 euros, and 10 000 are left. Anything else?", 1),
        ("Dr. Silva is in at 3 p.m. tomorrow, No. 12. Fine?", 4),
        ("Yes - really! Well-known things don't cost much; they're free", 100),
    ],
)
async def test_every_word_is_said_and_told_once_however_the_text_comes(vendor: Standin, text: str, size: int) -> None:
    await vendor.control(drop_tts_after_chunks=17, drop_tts_next=2)
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        caller.voice.serve()
        tokens = [text[at : at + size] for at in range(0, len(text), size)]
        heard = await caller.hears(rig, *answer(*tokens))
    assert heard == text
    assert " ".join(word for word, _ in caller.words) == text


async def test_a_long_sentence_is_spoken_before_its_end(vendor: Standin) -> None:
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        await rig.send(
            LLMFullResponseStartFrame(), LLMTextFrame("This sentence has more than fifty characters before it ends and")
        )
        await rig.until(TTSAudioRawFrame)


async def test_what_was_said_of_a_sentence_is_spoken_while_the_model_thinks(vendor: Standin) -> None:
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        caller.voice.serve()
        await rig.send(LLMFullResponseStartFrame(), LLMTextFrame("Let me see "))
        frames = await rig.until(TTSTextFrame)
        await rig.send(LLMTextFrame("now."), LLMFullResponseEndFrame())
        assert caller.heard(frames + await rig.until(TTSStoppedFrame)) == "Let me see now."
    assert caller.trouble.tries == 0


@pytest.mark.parametrize("fault", [{"tts_odd_bytes": True}, {"tts_each_aligned": True}])
async def test_sound_and_times_may_be_cut_anywhere(vendor: Standin, fault: dict[str, Any]) -> None:
    await vendor.control(**fault)
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        assert await caller.hears(rig, *answer("One two three. ", "Four five.")) == "One two three. Four five."
    assert [word for word, _ in caller.words] == ["One", "two", "three.", "Four", "five."]
    assert [start_s for _, start_s in caller.words] == pytest.approx(
        [sum(modem.duration_s(word) for word, _ in caller.words[:index]) for index in range(5)], abs=0.02
    )


def test_words_that_go_on_in_the_next_message_are_put_together() -> None:
    spelling = Spelling()
    assert spelling.take([*" Hel"], [0, 0, 100, 200], [0, 100, 100, 100]) == []
    spelling.received_s = 0.5
    hello, you = [*spelling.take([*"lo yo"], [0, 100, 200, 200, 300], [100, 100, 0, 100, 100]), *spelling.rest()]
    assert (hello.text, hello.start_s, hello.end_s) == ("Hello", 0.0, 0.7)
    assert (you.text, you.start_s, you.end_s) == ("yo", 0.7, 0.9)
    assert [word.text for word in spelling.take([*"日本"], [0, 100], [100, 100])] == ["日", "本"]


async def test_an_idle_voice_is_kept_within_the_vendors_limit(vendor: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elevenlabs_tts, "KEEP_ALIVE_S", 0.1)
    monkeypatch.setattr(elevenlabs_tts, "INACTIVITY_S", 1)
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        await until_counted(vendor, "kept_alive", 12)
        await rig.send(LLMFullResponseStartFrame(), LLMTextFrame("One. "), LLMTextFrame("And"))
        frames = await rig.until(TTSTextFrame)
        await until_counted(vendor, "contexts_kept_alive", 12)  # a tool that takes its time
        await rig.send(LLMTextFrame(" two."), LLMFullResponseEndFrame())
        assert caller.heard(frames + await rig.until(TTSStoppedFrame)) == "One. And two."
        assert (await vendor.state())["counters"]["tts_opened"] == 1
    assert caller.lost == []


@pytest.mark.parametrize(
    ("fault", "why", "limited"),
    [
        ({"api_key": "another"}, "invalid_api_key", False),
        ({"voices": "another"}, "voice_id_does_not_exist", False),
        ({"refuse_status": 429}, "429", True),
        ({"refuse_status": 401}, "401", False),
    ],
)
async def test_a_voice_that_was_refused_is_not_warm_and_says_why(
    vendor: Standin, fault: dict[str, Any], why: str, *, limited: bool
) -> None:
    await vendor.control(**fault)
    caller = Caller(vendor)
    async with piped(caller.voice):
        assert not caller.voice.warm()
        assert why in caller.voice.last_error
        assert caller.voice.limited is limited


async def test_a_parked_voice_that_is_closed_is_lost_once_and_comes_back_for_a_call(vendor: Standin) -> None:
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        await vendor.control(close_all="tts")
        await eventually(lambda: caller.lost)
        assert not caller.voice.warm()
        assert (await vendor.state())["counters"]["tts_opened"] == 1
        caller.voice.serve()
        await eventually(caller.voice.warm)
        assert await caller.hears(rig, TTSSpeakFrame("Here I am.")) == "Here I am."
    assert len(caller.lost) == 1


async def test_another_voice_is_connected_at_once_and_what_is_said_meanwhile_waits_for_it(vendor: Standin) -> None:
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        await vendor.control(connect_ms=200)
        caller.voice.become(Agent(voice="clinic-voice", language="pt-BR"))
        assert not caller.voice.warm()
        assert await caller.hears(rig, TTSSpeakFrame("Bom dia.")) == "Bom dia."
        assert caller.voice.warm()
        await until_counted(vendor, "tts_opened", 2)
        said = await logged(vendor, "tts_text")
        assert {(entry["voice"], entry["language"]) for entry in said} == {("clinic-voice", "pt")}
        await eventually(lambda: not caller.voice._connection._leaving)
        assert (await vendor.state())["counters"]["tts_open"] == 1
    assert caller.lost == []
    assert caller.trouble.tries == 0


async def test_a_voice_that_is_left_while_it_reconnects_leaves_no_connection_behind(vendor: Standin) -> None:
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        caller.voice.serve()
        await vendor.control(connect_ms=200, drop_all="tts")
        await eventually(lambda: not caller.voice._line.up)
        caller.voice.become(Agent(voice="clinic-voice"))
        assert await caller.hears(rig, TTSSpeakFrame("Hello.")) == "Hello."
        await eventually(lambda: not caller.voice._connection._leaving)
        assert (await vendor.state())["counters"]["tts_open"] == 1
    assert {entry["voice"] for entry in await logged(vendor, "tts_text")} == {"clinic-voice"}


async def test_an_agent_that_is_known_before_the_voice_is_parked_costs_no_second_connection(vendor: Standin) -> None:
    caller = Caller(vendor)
    caller.voice.become(Agent(voice="clinic-voice", language="de"))
    async with piped(caller.voice):
        caller.voice.become(Agent(voice="clinic-voice", language="de-AT"))
        opened = await logged(vendor, "tts_open")
    assert [entry["query"]["language_code"] for entry in opened] == ["de"]


async def test_a_language_the_model_does_not_know_is_left_out(vendor: Standin) -> None:
    caller = Caller(vendor)
    caller.voice.become(Agent(language="mi"))
    async with piped(caller.voice):
        opened = await logged(vendor, "tts_open")
    assert "language_code" not in opened[0]["query"]


async def test_a_voice_lost_in_the_middle_of_a_word_goes_on_with_that_word(vendor: Standin) -> None:
    """The provider cuts every other connection; what is void of the sound, and what is asked again, fit together."""
    await vendor.control(drop_tts_after_chunks=9, drop_tts_next=2)
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        caller.voice.serve()
        heard = await caller.hears(rig, *answer("One two three.", " Four five."))
        assert (await vendor.state())["counters"]["tts_opened"] == 3
    assert heard == "One two three. Four five."
    assert [word for word, _ in caller.words] == ["One", "two", "three.", "Four", "five."]


async def test_what_is_said_while_the_voice_reconnects_is_heard(vendor: Standin) -> None:
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        caller.voice.serve()
        await vendor.control(connect_ms=200, drop_all="tts")
        await eventually(lambda: not caller.voice._line.up)
        assert await caller.hears(rig, TTSSpeakFrame("Do you hear me?")) == "Do you hear me?"


async def test_errors_of_the_vendor_cost_no_word_when_they_pass(vendor: Standin) -> None:
    await vendor.control(tts_error="something_went_wrong", tts_error_next=1)
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        caller.voice.serve()
        assert await caller.hears(rig, TTSSpeakFrame("Once more.")) == "Once more."
        assert caller.voice.last_error == ""
    assert caller.trouble.since is None


async def test_a_quota_that_is_used_up_is_a_refusal(vendor: Standin) -> None:
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        caller.voice.serve()
        await vendor.control(tts_error="quota_exceeded")
        await rig.send(TTSSpeakFrame("Nobody pays for this."))
        await eventually(lambda: caller.trouble.refused)
        assert "quota_exceeded" in caller.voice.last_error
        assert not caller.voice.warm()


async def test_a_text_that_is_refused_again_and_again_is_left_out(vendor: Standin) -> None:
    await vendor.control(tts_error="something_went_wrong", tts_error_next=3)
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        caller.voice.serve()
        await rig.send(TTSSpeakFrame("Never heard."))
        assert caller.heard(await rig.until(TTSStoppedFrame)) == ""
        assert await caller.hears(rig, TTSSpeakFrame("Heard.")) == "Heard."


async def test_an_interrupted_answer_is_closed_and_no_longer_waited_for(vendor: Standin) -> None:
    await vendor.control(tts_realtime_factor=1.0)
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        caller.voice.serve()
        await rig.send(LLMFullResponseStartFrame(), LLMTextFrame("This takes several seconds to say. And"))
        await rig.until(TTSAudioRawFrame)
        await rig.send(InterruptionFrame())
        await rig.until(InterruptionFrame)
        await until_counted(vendor, "cancelled")
        assert caller.trouble.wanted_since is None
        assert caller.voice._line._watchdog is None
        caller.voids.clear()
        assert await caller.hears(rig, TTSSpeakFrame("After.")) == "After."


async def test_more_interrupted_answers_than_the_vendor_has_contexts_for_lose_no_connection(vendor: Standin) -> None:
    """Its contexts are taken until their end was told, which takes a while."""
    await vendor.control(tts_final_ms=300)
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        caller.voice.serve()
        for _ in range(5):
            await rig.send(TTSSpeakFrame("Interrupted at once."))
            await rig.until(TTSAudioRawFrame)
            await rig.send(InterruptionFrame())
            await rig.until(InterruptionFrame)
        assert await caller.hears(rig, TTSSpeakFrame("The sixth.")) == "The sixth."
        assert (await vendor.state())["counters"]["tts_opened"] == 1
    assert caller.trouble.tries == 0


async def test_a_vendor_that_says_nothing_is_given_up_and_asked_again(
    vendor: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trouble, "patience_s", 0.2)
    caller = Caller(vendor)
    async with piped(caller.voice) as rig:
        caller.voice.serve()
        await vendor.control(stall_tts=True)
        await rig.send(TTSSpeakFrame("Are you there?"))
        await until_counted(vendor, "tts_opened", 2)
        await vendor.control(stall_tts=False)
        assert caller.heard(await rig.until(TTSStoppedFrame)) == "Are you there?"


async def test_a_voice_that_stands_by_lets_everything_pass(vendor: Standin) -> None:
    caller = Caller(vendor)
    caller.voice.active = False
    async with piped(caller.voice) as rig:
        await rig.send(*answer("Not mine."))
        frames = await rig.until(LLMFullResponseEndFrame)
        await rig.send(EndFrame())
        frames += await rig.until(EndFrame)
        assert [frame.text for frame in of_kind(frames, LLMTextFrame)] == ["Not mine."]
        assert not await logged(vendor, "tts_text")
        assert not caller.voice.warm()


@pytest.mark.parametrize("fault", [{"refuse_status": 503, "refuse_next": 1}, {"refuse_status": 429, "refuse_next": 1}])
async def test_a_voice_that_could_not_connect_while_nobody_needed_it_does_when_somebody_does(
    vendor: Standin, fault: dict[str, Any]
) -> None:
    caller = Caller(vendor)
    caller.voice.active = False
    await vendor.control(**fault)
    async with piped(caller.voice) as rig:
        assert not caller.voice.warm()
        caller.voice.active = True
        caller.voice.become(Agent(voice="clinic-voice"))
        caller.voice.serve()
        assert await caller.hears(rig, TTSSpeakFrame("Good day to you.")) == "Good day to you."
        assert {entry["voice"] for entry in await logged(vendor, "tts_text")} == {"clinic-voice"}


async def test_a_voice_that_is_lost_while_others_are_parked_with_costs_no_worker_and_comes_back_for_its_agents(
    vendor: Standin,
) -> None:
    caller = Caller(vendor)
    caller.voice.active = False
    async with piped(caller.voice) as rig:
        await vendor.control(drop_all="tts")
        await eventually(lambda: not caller.voice._line._ready)  # and not its socket alone: it has noticed
        caller.voice.active = True
        caller.voice.become(Agent())
        await eventually(caller.voice.warm)
        caller.voice.serve()
        assert await caller.hears(rig, TTSSpeakFrame("Good day to you.")) == "Good day to you."
    assert caller.lost == []
