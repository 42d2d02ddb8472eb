"""OpenAI's ear against its stand-in: every word once and in order, whatever becomes of its connections."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pipecat.frames.frames import Frame, InterimTranscriptionFrame, TranscriptionFrame

from shared.agents import Agent
from shared.metrics import Setback
from shared.settings import Settings
from shared.turns import Turns
from shared.workers import Resource
from tests.standins.pipecat_rig import FRAME_BYTES, Rig, of_kind, piped
from tests.standins.process import Standin, started
from worker.providers.interface import TranscriptEnd
from worker.providers.openai_stt import OpenAIEar
from worker.providers.retry import Trouble, Watcher

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

LEXICON = Path(__file__).resolve().parents[1] / "data" / "speech"
DEADLINE_S = 30
HOURS, NAME = "What are your opening hours?", "What is my name?"
SILENCE = bytes(16_000)


@pytest.fixture(scope="module")
def process() -> Iterator[Standin]:
    with started("openai_api", lexicon=LEXICON, realtime_connect_ms=0, transcript_ms=0) as standin:
        yield standin


@pytest.fixture
async def api(process: Standin) -> AsyncIterator[Standin]:
    settings = (await process.state())["settings"]
    yield process
    await process.control(**settings, transcripts=[], drop_realtime=True, reset=True)


@dataclass
class Heard:
    """An ear at work, and what it told."""

    ear: OpenAIEar
    rig: Rig
    trouble: Trouble
    retries: list[Setback] = field(default_factory=list)
    seconds: float = 0.0

    def speak(self, name: str, *, ends: bool = True, seen_s: float = 0.2) -> None:
        """Say a recording behind silence; the voice detector takes so long to see it."""
        self.listen(SILENCE)
        pcm = audioop.ulaw2lin((LEXICON / f"{name}.ulaw").read_bytes(), 2)
        seen = round(50 * seen_s) * FRAME_BYTES
        self.listen(pcm[:seen])
        self.ear.speech_began()
        self.listen(pcm[seen:])
        if ends:
            self.ear.speech_ended()

    def listen(self, pcm: bytes) -> None:
        """Take audio as it comes from a telephone."""
        for at in range(0, len(pcm), FRAME_BYTES):
            self.ear.hear(pcm[at : at + FRAME_BYTES])

    async def frames(self) -> list[Frame]:
        """Give what came, up to the end of the words."""
        return await self.rig.until(TranscriptEnd)

    async def words(self) -> list[str]:
        """Give the whole transcripts, up to the end of the words."""
        return [frame.text for frame in of_kind(await self.frames(), TranscriptionFrame)]

    def used(self, **amounts: float) -> None:
        """Note what was used."""
        self.seconds += amounts.get("stt_seconds", 0.0)


@asynccontextmanager
async def hearing(
    api: Standin, *, language: str = "en-US", opened: bool = True, **changes: Any
) -> AsyncIterator[Heard]:
    fields = {"openai_stt_model": "gpt-live-transcribe", **changes}
    settings = Settings(openai_api_key="made-up", openai_base_url=f"{api.url}/v1", **fields)
    retries: list[Setback] = []
    trouble = Trouble(Resource.STT, Watcher(retried=lambda _trouble, cause: retries.append(cause)))
    ear = OpenAIEar(settings, trouble)
    async with piped(ear) as rig:
        heard = Heard(ear, rig, trouble, retries)
        ear.on_used = heard.used
        if opened:
            await ear.open(Agent(language=language))
        yield heard


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - of another's state, which has no event
            await asyncio.sleep(0.01)


async def counted(api: Standin, counter: str, least: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await api.state())["counters"].get(counter, 0) < least:
            pass


async def test_nothing_is_connected_before_it_is_opened(api: Standin) -> None:
    async with hearing(api, opened=False) as heard:
        assert not heard.ear.warm()
        assert (await api.state())["counters"].get("realtime_opened", 0) == 0
        await heard.ear.open(Agent())
        assert heard.ear.warm()
        assert (await api.state())["counters"]["realtime_open"] == 1
    await counted(api, "realtime_opened", 1)


@pytest.mark.parametrize("model", ["gpt-live-transcribe", "gpt-realtime-whisper", "gpt-4o-mini-transcribe"])
async def test_the_words_of_a_turn_come_and_then_their_end(api: Standin, model: str) -> None:
    async with hearing(api, openai_stt_model=model) as heard:
        heard.speak("hours")
        frames = await heard.frames()
    transcripts = of_kind(frames, TranscriptionFrame)
    assert [frame.text for frame in transcripts] == [HOURS]
    assert not transcripts[0].interruptible
    interims = [frame.text for frame in of_kind(frames, InterimTranscriptionFrame)]
    assert all(HOURS.startswith(text) for text in interims)
    assert interims
    session = next(entry for entry in (await api.state())["log"] if entry["kind"] == "realtime_session")
    assert (session["model"], session["language"], session["format"]) == (model, "en", "audio/pcmu")
    assert heard.retries == []


async def test_words_come_while_the_caller_speaks(api: Standin) -> None:
    async with hearing(api) as heard:
        heard.speak("hours", ends=False)
        first = of_kind(await heard.rig.until(InterimTranscriptionFrame), InterimTranscriptionFrame)[0]
        assert HOURS.startswith(first.text)
        heard.ear.speech_ended()
        assert await heard.words() == [HOURS]


async def test_silence_is_not_sent(api: Standin) -> None:
    async with hearing(api) as heard:
        heard.listen(SILENCE * 5)
        heard.speak("hours")
        assert await heard.words() == [HOURS]
        heard.ear.report()
        spoken_s = len((LEXICON / "hours.ulaw").read_bytes()) / 8000
        assert spoken_s < heard.seconds < spoken_s + 1.0
    assert (await api.state())["counters"]["heard_ms"] == pytest.approx(1000 * heard.seconds, abs=10)


async def test_what_a_patient_detector_has_seen_is_sent(api: Standin) -> None:
    async with hearing(api, opened=False) as heard:
        await heard.ear.open(Agent(turns=Turns(start=1.5)))
        heard.speak("hours", seen_s=1.5)
        assert await heard.words() == [HOURS]


async def test_a_turn_that_goes_on_behind_a_pause_is_heard_whole(api: Standin) -> None:
    async with hearing(api) as heard:
        heard.speak("hours", ends=False)
        heard.listen(SILENCE[:1600])
        heard.ear.speech_ended()
        heard.listen(SILENCE[: 3 * FRAME_BYTES])
        pcm = audioop.ulaw2lin((LEXICON / "my-name.ulaw").read_bytes(), 2)
        heard.listen(pcm[: 2 * FRAME_BYTES])
        heard.ear.speech_began()
        heard.listen(pcm[2 * FRAME_BYTES :])
        heard.ear.speech_ended()
        assert await heard.words() == [HOURS, NAME]


async def test_a_turn_without_words_has_an_end(api: Standin) -> None:
    async with hearing(api) as heard:
        heard.ear.speech_began()
        heard.listen(SILENCE)
        heard.ear.speech_ended()
        assert await heard.words() == []
        assert heard.trouble.wanted_since is None


async def test_a_turn_too_short_to_be_heard_has_an_end(api: Standin) -> None:
    async with hearing(api) as heard:
        heard.ear.speech_began()
        heard.listen(SILENCE[:FRAME_BYTES])
        heard.ear.speech_ended()
        assert await heard.words() == []
        heard.speak("hours")
        assert await heard.words() == [HOURS]
    assert heard.retries == []


async def test_several_turns_are_given_in_their_order(api: Standin) -> None:
    await api.control(transcripts_backwards=True)
    async with hearing(api) as heard:
        heard.speak("hours")
        heard.speak("my-name")
        assert await heard.words() == [HOURS, NAME]
    assert heard.retries == []


async def test_a_transcript_that_comes_twice_counts_once(api: Standin) -> None:
    await api.control(transcripts_twice=True)
    async with hearing(api) as heard:
        heard.speak("hours")
        assert await heard.words() == [HOURS]
        heard.speak("my-name")
        assert await heard.words() == [NAME]


async def test_the_end_is_not_said_while_the_caller_goes_on(api: Standin) -> None:
    await api.control(transcript_ms=100.0)
    async with hearing(api) as heard:
        heard.speak("hours")
        heard.speak("my-name", ends=False)
        frames = await heard.rig.until(TranscriptionFrame)
        assert of_kind(frames, TranscriptEnd) == []
        heard.ear.speech_ended()
        assert await heard.words() == [NAME]


async def test_what_is_said_before_there_is_a_connection_is_heard(api: Standin) -> None:
    async with hearing(api, opened=False) as heard:
        heard.speak("hours")
        await heard.ear.open(Agent())
        assert await heard.words() == [HOURS]


@pytest.mark.parametrize("ends", [True, False])
async def test_a_lost_connection_costs_no_word(api: Standin, ends: bool) -> None:  # noqa: FBT001 - a parameter of the test
    await api.control(stall_transcripts=True)
    async with hearing(api) as heard:
        heard.speak("hours", ends=ends)
        await (counted(api, "commits", 1) if ends else asyncio.sleep(0))
        await api.control(stall_transcripts=False, drop_realtime=True)
        await until(lambda: bool(heard.retries))
        if not ends:
            heard.ear.speech_ended()
        assert await heard.words() == [HOURS]
        assert heard.trouble.since is None
    assert heard.retries == [Setback.LOST]


async def test_a_silent_vendor_is_given_up_and_asked_again(api: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.providers.retry.SILENT_S", 0.3)
    await api.control(stall_transcripts=True)
    async with hearing(api) as heard:
        heard.speak("hours")
        await until(lambda: bool(heard.retries))
        await api.control(stall_transcripts=False, drop_realtime=True)
        assert await heard.words() == [HOURS]
    assert heard.retries[0] is Setback.SILENT


@pytest.mark.parametrize(("failures", "words"), [(1, [HOURS]), (2, [])])
async def test_a_transcription_that_fails_is_tried_once_more(api: Standin, failures: int, words: list[str]) -> None:
    await api.control(fail_transcripts=failures)
    async with hearing(api) as heard:
        heard.speak("hours")
        assert await heard.words() == words
        heard.speak("my-name")
        assert await heard.words() == [NAME]
    assert heard.retries == [Setback.FAILED]


async def test_a_session_that_has_come_to_its_end_is_made_anew(api: Standin) -> None:
    await api.control(session_s=0.3)
    async with hearing(api) as heard:
        await until(lambda: bool(heard.retries))
        await api.control(session_s=3600.0)
        heard.speak("hours")
        assert await heard.words() == [HOURS]


async def test_a_session_is_made_anew_between_turns_before_it_ends(
    api: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.providers.openai_stt.RENEW_S", 0.0)
    async with hearing(api) as heard:
        for name, words in (("hours", HOURS), ("my-name", NAME)):
            heard.speak(name)
            assert await heard.words() == [words]
    assert (await api.state())["counters"]["realtime_opened"] >= 2


@pytest.mark.parametrize(
    "changes",
    [
        {"api_key": "the-right-one"},
        {"realtime_code": "insufficient_quota"},
        {"realtime_status": 401},
    ],
)
async def test_what_no_retry_changes_is_not_retried(api: Standin, changes: dict[str, Any]) -> None:
    await api.control(**changes)
    async with hearing(api) as heard:
        assert not heard.ear.warm()
        await until(lambda: bool(heard.trouble.refused))
    assert heard.retries == []


async def test_a_model_that_does_not_exist_is_not_asked_again(api: Standin) -> None:
    async with hearing(api, openai_stt_model="no-such-model") as heard:
        await until(lambda: bool(heard.trouble.refused))
        assert heard.trouble.refused == "400 invalid_value"


@pytest.mark.parametrize("changes", [{"realtime_status": 429}, {"realtime_code": "rate_limit_exceeded"}])
async def test_a_limit_is_waited_for(api: Standin, changes: dict[str, Any]) -> None:
    await api.control(**changes, realtime_fail_next=2)
    async with hearing(api) as heard:
        heard.speak("hours")
        assert await heard.words() == [HOURS]
    assert set(heard.retries) == {Setback.LIMITED}
