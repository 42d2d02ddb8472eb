"""ElevenLabs' ear against its stand-in: each commit has its answer, and no word is lost with a session."""

import asyncio
import audioop
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pipecat.frames.frames import EndFrame, Frame, InterimTranscriptionFrame, TranscriptionFrame

from shared.agents import Agent
from shared.clips import load_clip
from shared.settings import Settings
from shared.workers import Resource
from tests.pool_process import eventually
from tests.standins.pipecat_rig import Rig, frames_of, of_kind, piped
from tests.standins.process import ROOT, Standin, started
from worker.providers import elevenlabs_stt
from worker.providers.elevenlabs_stt import ElevenLabsEar
from worker.providers.interface import TranscriptEnd
from worker.providers.retry import Trouble

SPEECH = ROOT / "tests" / "data" / "speech"
DEADLINE_S = 30
QUIET = [bytes(320)] * 10


@pytest.fixture(scope="module")
def process() -> Iterator[Standin]:
    with started("elevenlabs", connect_ms=0, stt_final_ms=0, lexicon=SPEECH) as standin:
        yield standin


@pytest.fixture
async def vendor(process: Standin) -> AsyncIterator[Standin]:
    settings = (await process.state())["settings"]
    async with asyncio.timeout(DEADLINE_S):
        yield process
    await process.control(**settings, close_all="all", reset=True)


def an_ear(vendor: Standin) -> tuple[ElevenLabsEar, Trouble]:
    trouble = Trouble(Resource.STT)
    settings = Settings(_env_file=None, elevenlabs_api_key="key", elevenlabs_url=vendor.url)
    return ElevenLabsEar(settings, trouble), trouble


@asynccontextmanager
async def listening(vendor: Standin, agent: Agent | None = None) -> AsyncIterator[tuple[ElevenLabsEar, Rig, Trouble]]:
    ear, trouble = an_ear(vendor)
    async with piped(ear) as rig:
        await ear.open(agent or Agent())
        yield ear, rig, trouble


def recording(name: str) -> list[bytes]:
    pcm = bytes(3200) + audioop.ulaw2lin(load_clip(SPEECH / f"{name}.ulaw").audio, 2) + bytes(3200)
    return [frame.audio for frame in frames_of(pcm)]


def say(ear: ElevenLabsEar, pieces: Iterable[bytes], *, to_the_end: bool = True) -> None:
    ear.speech_began()
    for pcm in pieces:
        ear.hear(pcm)
    if to_the_end:
        ear.speech_ended()


def finals(frames: list[Frame]) -> list[str]:
    return [frame.text for frame in of_kind(frames, TranscriptionFrame)]


async def until_counted(vendor: Standin, name: str, count: int = 1) -> None:
    while (await vendor.state())["counters"].get(name, 0) < count:
        pass


async def test_the_ear_connects_when_it_is_opened_and_in_the_agents_language(vendor: Standin) -> None:
    ear, _ = an_ear(vendor)
    used: list[float] = []
    ear.on_used = lambda *, stt_seconds: used.append(stt_seconds)
    async with piped(ear) as rig:
        assert not ear.warm()
        assert "stt_opened" not in (await vendor.state())["counters"]
        await ear.open(Agent(language="pt-BR"))
        assert ear.warm()
        (opened,) = [entry["query"] for entry in (await vendor.state())["log"] if entry["kind"] == "stt_open"]
        assert (opened["language_code"], opened["audio_format"], opened["commit_strategy"]) == (
            "pt",
            "pcm_8000",
            "manual",
        )
        pieces = recording("pt-hours")
        say(ear, pieces)
        frames = await rig.until(TranscriptEnd)
        assert finals(frames) == ["Que horas são, por favor?"]
        assert not any(frame.interruptible for frame in of_kind(frames, TranscriptionFrame))
        ear.report()
        assert sum(used) == pytest.approx(len(b"".join(pieces)) / 16_000, abs=0.1)
        await rig.send(EndFrame())
        await rig.until(EndFrame)
        assert not ear.warm()


async def test_words_come_while_the_caller_speaks_and_are_not_repeated_after_the_end(vendor: Standin) -> None:
    """The vendor says the words of each final transcript once more: somebody would seem to speak."""
    await vendor.control(stt_partial_ms=100)
    async with listening(vendor) as (ear, rig, _):
        say(ear, [*QUIET * 5, *recording("book")], to_the_end=False)
        frames = await rig.until(InterimTranscriptionFrame)
        ear.speech_ended()
        frames += await rig.until(TranscriptEnd)
        assert finals(frames) == ["I would like to book an appointment for Friday."]
        say(ear, recording("yes"))
        frames = await rig.until(TranscriptEnd)
        interim = [frame.text for frame in of_kind(frames, InterimTranscriptionFrame)]
        assert "I would like to book an appointment for Friday." not in interim
        assert finals(frames) == ["Yes."]


async def test_noise_has_no_words_and_that_is_said_as_well(vendor: Standin) -> None:
    async with listening(vendor) as (ear, rig, trouble):
        say(ear, QUIET * 3)
        assert finals(await rig.until(TranscriptEnd)) == []
        say(ear, [bytes(320)] * 2)  # less than the vendor takes a commit for
        assert finals(await rig.until(TranscriptEnd)) == []
        assert (await vendor.state())["counters"]["stt_opened"] == 1
        assert trouble.wanted_since is None


async def test_the_end_is_not_said_while_the_caller_speaks_on(vendor: Standin) -> None:
    await vendor.control(stt_final_ms=200)
    async with listening(vendor) as (ear, rig, _):
        say(ear, recording("what-time"))
        say(ear, recording("yes"), to_the_end=False)
        frames = await rig.until(TranscriptionFrame)
        ear.speech_ended()
        frames += await rig.until(TranscriptEnd)
        assert [type(frame) for frame in frames if isinstance(frame, TranscriptionFrame | TranscriptEnd)] == [
            TranscriptionFrame, TranscriptionFrame, TranscriptEnd,
        ]  # fmt: skip


async def test_a_transcript_that_comes_twice_counts_once(vendor: Standin) -> None:
    await vendor.control(stt_twice_next=1)
    async with listening(vendor) as (ear, rig, _):
        say(ear, recording("what-time"))
        frames = await rig.until(TranscriptEnd)
        await until_counted(vendor, "repeated")
        say(ear, recording("yes"))
        frames += await rig.until(TranscriptEnd)
        assert finals(frames) == ["What time is it please?", "Yes."]


async def test_the_same_words_said_twice_are_two_turns(vendor: Standin) -> None:
    async with listening(vendor) as (ear, rig, _):
        for _ in range(2):
            say(ear, recording("yes"))
            assert finals(await rig.until(TranscriptEnd)) == ["Yes."]


async def test_a_commit_without_an_answer_is_asked_again_on_another_session(
    vendor: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trouble, "patience_s", 0.2)
    await vendor.control(stt_never_next=1)
    async with listening(vendor) as (ear, rig, trouble):
        say(ear, recording("what-time"))
        assert finals(await rig.until(TranscriptEnd)) == ["What time is it please?"]
        assert (await vendor.state())["counters"]["stt_opened"] == 2
        assert trouble.since is None


async def test_words_of_a_session_that_was_cut_are_understood_by_the_next(vendor: Standin) -> None:
    async with listening(vendor) as (ear, rig, trouble):
        pieces = recording("book")
        say(ear, pieces[: len(pieces) // 2], to_the_end=False)
        await eventually(lambda: ear._unheard.waiting_s < 0.1)
        await vendor.control(drop_all="stt")
        await eventually(lambda: trouble.tries)
        say(ear, pieces[len(pieces) // 2 :])
        assert finals(await rig.until(TranscriptEnd)) == ["I would like to book an appointment for Friday."]
        assert (await vendor.state())["counters"]["stt_opened"] == 2


@pytest.mark.parametrize("error", ["session_time_limit_exceeded", "resource_exhausted", "commit_throttled"])
async def test_an_error_that_ends_the_session_costs_no_word(vendor: Standin, error: str) -> None:
    await vendor.control(stt_error=error, stt_error_next=1)
    async with listening(vendor) as (ear, rig, _):
        say(ear, recording("what-time"))
        assert finals(await rig.until(TranscriptEnd)) == ["What time is it please?"]


async def test_someone_who_spoke_during_the_connecting_is_understood(vendor: Standin) -> None:
    await vendor.control(connect_ms=200)
    ear, _ = an_ear(vendor)
    async with piped(ear) as rig:
        opening = asyncio.create_task(ear.open(Agent()))
        say(ear, recording("what-time"))
        await opening
        assert finals(await rig.until(TranscriptEnd)) == ["What time is it please?"]


@pytest.mark.parametrize(
    ("fault", "refused"),
    [({"api_key": "another"}, "auth_error"), ({"refuse_status": 401}, "401"), ({"refuse_status": 503}, "")],
)
async def test_an_ear_that_is_refused_is_not_warm_and_says_whether_it_tries_again(
    vendor: Standin, fault: dict[str, Any], refused: str
) -> None:
    await vendor.control(**fault)
    async with listening(vendor) as (ear, _, trouble):
        assert not ear.warm()
        await eventually(lambda: trouble.refused if refused else trouble.tries > 1)
        assert refused in trouble.refused
        assert bool(trouble.refused) is bool(refused)


async def test_what_the_vendor_commits_by_itself_is_no_end_of_a_turn(vendor: Standin) -> None:
    await vendor.control(stt_auto_commit_s=2.0)
    async with listening(vendor) as (ear, rig, _):
        say(ear, [*recording("yes"), *QUIET * 10], to_the_end=False)
        frames = await rig.until(TranscriptionFrame)
        say(ear, recording("my-name"))
        frames += await rig.until(TranscriptEnd)
        assert finals(frames) == ["Yes.", "What is my name?"]
        assert len(of_kind(frames, TranscriptEnd)) == 1


async def test_an_ear_that_waits_for_its_stream_is_kept(vendor: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elevenlabs_stt, "KEEP_ALIVE_S", 0.1)
    await vendor.control(stt_idle_close_s=1.0, stt_auto_commit_s=1.0)
    async with listening(vendor) as (ear, rig, trouble):
        await until_counted(vendor, "auto_commits")  # a second of silence, in pieces of a tenth
        await vendor.control(stt_auto_commit_s=0.0)
        say(ear, recording("yes"))
        assert finals(await rig.until(TranscriptEnd)) == ["Yes."]
        assert (await vendor.state())["counters"]["stt_opened"] == 1
    assert trouble.tries == 0


async def test_an_ear_that_stands_by_lets_everything_pass(vendor: Standin) -> None:
    ear, _ = an_ear(vendor)
    ear.active = False
    async with piped(ear) as rig:
        await rig.send(*frames_of(bytes(640)), EndFrame())
        frames = await rig.until(EndFrame)
        assert len(frames) >= 2
        assert ear._unheard.waiting_s == 0
