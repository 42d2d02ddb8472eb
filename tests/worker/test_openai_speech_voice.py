"""OpenAI's voice against its stand-in: every word once and in order, whatever becomes of its connections."""

import asyncio
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from pipecat.frames.frames import (
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
from shared.metrics import Setback
from shared.settings import Settings
from shared.workers import Resource
from tests.standins import modem
from tests.standins.pipecat_rig import Rig, of_kind, piped
from tests.standins.process import Standin, started
from worker.providers.call_voice import PIECE_S
from worker.providers.openai_tts import OpenAIVoice
from worker.providers.retry import Trouble, Watcher

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

DEADLINE_S = 30
RATE_HZ = 8000
ANSWER = "Thank you for calling us, I will look for it. You are booked for Friday at noon. Is there anything else?"


@pytest.fixture(scope="module")
def process() -> Iterator[Standin]:
    with started("openai_api", speech_first_byte_ms=0, speech_realtime_factor=50.0) as standin:
        yield standin


@pytest.fixture
async def api(process: Standin) -> AsyncIterator[Standin]:
    settings = (await process.state())["settings"]
    yield process
    await process.control(**settings, drop_speech=True, reset=True)


@dataclass
class Spoken:
    """A voice at work, and what it told."""

    voice: OpenAIVoice
    rig: Rig
    trouble: Trouble
    lost: list[str] = field(default_factory=list)
    retries: list[Setback] = field(default_factory=list)
    words: list[tuple[str, float]] = field(default_factory=list)
    voids: list[tuple[float, float]] = field(default_factory=list)
    characters: int = 0

    async def answer(self, text: str = ANSWER) -> list[TTSAudioRawFrame]:
        """Have an answer spoken token by token; give its sound."""
        await self.begin(text)
        await self.rig.send(LLMFullResponseEndFrame())
        return of_kind(await self.rig.until(TTSStoppedFrame), TTSAudioRawFrame)

    async def begin(self, text: str) -> None:
        """Begin an answer."""
        await self.rig.send(LLMFullResponseStartFrame())
        for number, word in enumerate(text.split(" ")):
            await self.rig.send(LLMTextFrame(f" {word}" if number else word))

    def used(self, **amounts: int) -> None:
        """Note what was used."""
        self.characters += amounts.get("tts_characters", 0)


@asynccontextmanager
async def speaking(api: Standin, *, serving: bool = True, **changes: Any) -> AsyncIterator[Spoken]:
    settings = Settings(openai_api_key="made-up", openai_base_url=f"{api.url}/v1", **changes)
    lost: list[str] = []
    retries: list[Setback] = []
    trouble = Trouble(Resource.TTS, Watcher(retried=lambda _trouble, cause: retries.append(cause)))
    voice = OpenAIVoice(settings, lost.append, trouble)
    if serving:
        voice.serve()
    async with piped(voice) as rig:
        spoken = Spoken(voice, rig, trouble, lost, retries)
        voice.on_word = lambda _context, word, start_s: spoken.words.append((word, start_s))
        voice.on_void = lambda _context, start_s, end_s: spoken.voids.append((start_s, end_s))
        voice.on_used = spoken.used
        yield spoken


def sound(frames: list[TTSAudioRawFrame]) -> bytes:
    assert {frame.sample_rate for frame in frames} == {RATE_HZ}
    assert not any(len(frame.audio) % 2 for frame in frames)
    return b"".join(frame.audio for frame in frames)


def played(pcm: bytes, voids: list[tuple[float, float]]) -> bytes:
    """Leave out the sound that is void."""
    kept = bytearray(pcm)
    for start_s, end_s in reversed(voids):
        kept[2 * round(start_s * RATE_HZ) : 2 * round(end_s * RATE_HZ)] = b""
    return bytes(kept)


def heard(pcm: bytes) -> list[tuple[str, float]]:
    """Give the words that are heard, and when."""
    return [(word.text, word.start_s) for word in modem.decode(audioop.lin2ulaw(pcm, 2))]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - of another's state, which has no event
            await asyncio.sleep(0.01)


async def asked(api: Standin) -> list[str]:
    return [entry["text"] for entry in (await api.state())["log"] if entry["kind"] == "speech"]


async def connections(api: Standin, kind: str) -> set[int]:
    """Give the connections on which something was asked."""
    return {entry["connection"] for entry in (await api.state())["log"] if entry["kind"] == kind}


async def opened(api: Standin, least: int) -> None:
    """Wait until so many connections were opened ahead."""
    async with asyncio.timeout(DEADLINE_S):
        while len(await connections(api, "models")) < least:
            pass


async def test_an_answer_is_spoken_piece_by_piece_in_order(api: Standin) -> None:
    async with speaking(api) as spoken:
        frames = await spoken.answer()
    assert " ".join(word for word, _ in heard(sound(frames))) == ANSWER
    assert sorted(await asked(api), key=ANSWER.index) == [
        "Thank you for calling us,",
        "I will look for it.",
        "You are booked for Friday at noon.",
        "Is there anything else?",
    ]
    assert spoken.retries == []
    assert spoken.characters == sum(len(text) for text in await asked(api))


async def test_the_words_are_told_where_they_sound(api: Standin) -> None:
    async with speaking(api) as spoken:
        frames = await spoken.answer()
    real = heard(sound(frames))
    assert [word for word, _ in spoken.words] == [word for word, _ in real]
    assert [start_s for _, start_s in spoken.words] == pytest.approx([start_s for _, start_s in real], abs=0.05)


async def test_the_words_reach_the_conversation(api: Standin) -> None:
    async with speaking(api) as spoken:
        await spoken.begin(ANSWER)
        await spoken.rig.send(LLMFullResponseEndFrame())
        frames = await spoken.rig.until(TTSStoppedFrame)
    texts = of_kind(frames, TTSTextFrame)
    assert " ".join(frame.text for frame in texts) == ANSWER


async def test_a_text_to_say_is_said(api: Standin) -> None:
    async with speaking(api) as spoken:
        await spoken.rig.send(TTSSpeakFrame("One moment please. I am looking."))
        frames = of_kind(await spoken.rig.until(TTSStoppedFrame), TTSAudioRawFrame)
    assert " ".join(word for word, _ in heard(sound(frames))) == "One moment please. I am looking."


async def test_no_request_waits_for_a_connection(api: Standin) -> None:
    async with speaking(api) as spoken:
        assert spoken.voice.warm()
        await opened(api, 2)
        await spoken.answer()
    assert await connections(api, "speech") <= await connections(api, "models")


async def test_the_next_piece_is_asked_for_while_the_former_comes(api: Standin) -> None:
    await api.control(speech_realtime_factor=4.0)
    async with speaking(api) as spoken:
        await spoken.answer()
    first, second, third, _ = [entry for entry in (await api.state())["log"] if entry["kind"] == "speech"]
    assert second["at"] < first["done_at"]
    assert third["at"] >= min(first["done_at"], second["done_at"])


async def test_an_interruption_ends_the_requests_and_new_connections_are_opened(api: Standin) -> None:
    await api.control(speech_realtime_factor=1.0)
    async with speaking(api) as spoken:
        await opened(api, 2)
        await spoken.begin(ANSWER)
        await opened(api, 3)  # two speak, one is ready
        await spoken.rig.until(TTSAudioRawFrame)
        await spoken.rig.send(InterruptionFrame())
        await spoken.rig.until(InterruptionFrame)
        await api.control(speech_realtime_factor=50.0)
        await opened(api, 4)  # two are ready again
        frames = await spoken.answer("I see, you want something else.")
        assert spoken.trouble.wanted_since is None
    assert " ".join(word for word, _ in heard(sound(frames))) == "I see, you want something else."
    assert (await api.state())["counters"]["speeches_cancelled"] >= 1
    assert await connections(api, "speech") <= await connections(api, "models")
    assert not spoken.retries


@pytest.mark.parametrize("chunks", [0, 3, 9])
async def test_a_lost_connection_costs_no_word_and_repeats_none(api: Standin, chunks: int) -> None:
    async with speaking(api) as spoken:
        if chunks:
            await api.control(drop_speech_after_chunks=chunks, drop_speech_next=2)
        else:
            await api.control(speech_status=503, speech_fail_next=2)
        frames = await spoken.answer()
    kept = played(sound(frames), spoken.voids)
    assert " ".join(word for word, _ in heard(kept)) == ANSWER
    assert [word for word, _ in spoken.words] == ANSWER.split()
    beyond_s = (len(kept) - len(modem.encode(ANSWER))) / 2 / RATE_HZ
    assert 0 <= beyond_s <= 4 * PIECE_S  # no half word is heard: only what fills up each of the four pieces
    assert spoken.retries
    assert spoken.trouble.since is None


async def test_a_limit_is_waited_for(api: Standin) -> None:
    async with speaking(api) as spoken:
        await api.control(speech_status=429, speech_code="rate_limit_exceeded", speech_fail_next=2)
        frames = await spoken.answer()
    assert " ".join(word for word, _ in heard(sound(frames))) == ANSWER
    assert set(spoken.retries) == {Setback.LIMITED}


async def test_a_silent_vendor_is_given_up_and_asked_again(api: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.providers.retry.SILENT_S", 0.3)
    async with speaking(api) as spoken:
        await api.control(stall_speech=True)
        await spoken.begin("All right.")
        await spoken.rig.send(LLMFullResponseEndFrame())
        await until(lambda: bool(spoken.retries))
        assert spoken.trouble.since is not None
        assert spoken.trouble.since < time.monotonic() - 0.2
        await api.control(stall_speech=False, drop_speech=True)
        frames = of_kind(await spoken.rig.until(TTSStoppedFrame), TTSAudioRawFrame)
    assert spoken.retries[0] is Setback.SILENT
    assert [word for word, _ in heard(sound(frames))] == ["All", "right."]


@pytest.mark.parametrize(
    ("status", "code"), [(401, "invalid_api_key"), (429, "insufficient_quota"), (404, "model_not_found")]
)
async def test_what_no_retry_changes_is_not_retried(api: Standin, status: int, code: str) -> None:
    async with speaking(api) as spoken:
        await api.control(speech_status=status, speech_code=code)
        await spoken.begin("All right.")
        await spoken.rig.send(LLMFullResponseEndFrame())
        await until(lambda: bool(spoken.trouble.refused))
        assert not spoken.voice.warm()
    assert spoken.voice.last_error == f"{status} {code}"
    assert spoken.retries == []


async def test_a_wrong_key_shows_before_any_call(api: Standin) -> None:
    await api.control(api_key="the-right-one")
    async with speaking(api, serving=False) as spoken:
        assert not spoken.voice.warm()
        assert spoken.voice.last_error == "401 invalid_api_key"
        assert not spoken.voice.limited


async def test_a_key_that_may_only_speak_is_welcome(api: Standin) -> None:
    await api.control(fail_status=401, fail_code="missing_scope")
    async with speaking(api, serving=False) as spoken:
        assert spoken.voice.warm()
        frames = await spoken.answer("All right.")
    assert [word for word, _ in heard(sound(frames))] == ["All", "right."]


async def test_a_limit_of_the_plan_shows_before_any_call(api: Standin) -> None:
    await api.control(fail_status=429)
    async with speaking(api, serving=False) as spoken:
        assert not spoken.voice.warm()
        assert spoken.voice.limited


async def test_a_parked_voice_makes_another_connection_for_one_that_was_closed(api: Standin) -> None:
    async with speaking(api, serving=False) as spoken:
        assert spoken.voice.warm()
        await api.control(drop_speech=True)
        await until(spoken.voice.warm)
        assert spoken.lost == []


async def test_a_parked_voice_that_cannot_be_connected_is_lost(api: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.providers.openai_tts.LOOK_S", 0.05)
    monkeypatch.setattr(OpenAIVoice, "warm", lambda _self: False)
    async with speaking(api, serving=False) as spoken:
        await until(lambda: bool(spoken.lost))
    assert spoken.lost == ["the voice provider cannot be reached"]


async def test_a_voice_that_stands_by_says_nothing(api: Standin) -> None:
    async with speaking(api) as spoken:
        spoken.voice.active = False
        await spoken.begin(ANSWER)
        await spoken.rig.send(LLMFullResponseEndFrame())
        frames = await spoken.rig.until(LLMFullResponseEndFrame)
    assert "".join(frame.text for frame in of_kind(frames, LLMTextFrame)) == ANSWER
    assert await asked(api) == []


@pytest.mark.parametrize(("voice", "given"), [("ash", "ash"), ("voice_1", {"id": "voice_1"})])
async def test_the_voice_and_the_language_are_those_of_the_agent(api: Standin, voice: str, given: object) -> None:
    async with speaking(api) as spoken:
        spoken.voice.become(Agent(voice=voice, language="pt-BR"))
        await spoken.answer("Bom dia.")
    said = [entry for entry in (await api.state())["log"] if entry["kind"] == "speech"]
    assert [(entry["voice"], entry["instructions"]) for entry in said] == [(given, "Speak Brazilian Portuguese.")]
