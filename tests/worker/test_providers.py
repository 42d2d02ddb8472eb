"""The providers against their stand-ins: warm when they say so, lost when they are, and no sentence lost between."""

import asyncio
import json
import subprocess
import sys
import warnings
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import AuthenticationError
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from websockets.protocol import State

from shared.agents import Agent
from shared.clips import load_clip
from shared.settings import Settings
from tests.pool_process import eventually
from tests.standins.pipecat_rig import Rig, frames_of, of_kind, piped
from tests.standins.process import ROOT, Standin, running
from worker.providers.cartesia_stt import ParkedCartesiaSTT
from worker.providers.cartesia_tts import ParkedCartesiaTTS
from worker.providers.languages import base_language, language_name
from worker.providers.openai_llm import WarmOpenAILLM, prompt

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gone in 3.13, where audioop-lts provides it
    import audioop

DEADLINE_S = 30
SPEECH = ROOT / "tests" / "data" / "speech"


def settings(**changes: Any) -> Settings:
    """Give settings with made-up keys."""
    return Settings(
        _env_file=None, openai_api_key="key", cartesia_api_key="key", cartesia_voice_id="default-voice", **changes
    )


def cartesia_settings(port: int) -> Settings:
    """Give settings for a Cartesia stand-in."""
    return settings(
        cartesia_tts_url=f"ws://127.0.0.1:{port}/tts/websocket",
        cartesia_stt_url=f"ws://127.0.0.1:{port}",
        cartesia_tts_model="sonic-3.5",
        cartesia_stt_model="ink-whisper",
        cartesia_stt_language="",
    )


async def counters(standin: Standin) -> dict[str, int]:
    """Read what a stand-in counted."""
    counted: dict[str, int] = (await standin.state())["counters"]
    return counted


# --- the voice --------------------------------------------------------------------------------------------------------


class Voice:
    """A voice in a running pipeline, and what it told about losses."""

    def __init__(self, port: int) -> None:
        self.lost: list[str] = []
        self.words: list[tuple[str, float]] = []
        self.tts = ParkedCartesiaTTS(cartesia_settings(port), self.lost.append)
        self.tts.on_word = lambda _context, word, start_s: self.words.append((word, start_s))

    async def says(self, rig: Rig, text: str) -> bytes:
        """Speak and give the sound."""
        await rig.send(TTSSpeakFrame(text))
        frames = of_kind(await rig.until(TTSStoppedFrame), TTSAudioRawFrame)
        return b"".join(frame.audio for frame in frames)


@asynccontextmanager
async def cartesia(*, connect_ms: int = 0, **flags: object) -> AsyncIterator[Standin]:
    """Run the Cartesia stand-in without its latencies."""
    quick: dict[str, Any] = {"tts_first_byte_ms": 0, "stt_final_ms": 0, "tts_realtime_factor": 100, **flags}
    async with running("cartesia", connect_ms=connect_ms, **quick) as standin:
        yield standin


async def test_a_parked_voice_is_warm_once_it_is_set_up_and_speaks() -> None:
    async with cartesia() as standin:
        voice = Voice(standin.port)
        assert not voice.tts.warm()
        async with piped(voice.tts) as rig:
            assert voice.tts.warm()
            assert len(await voice.says(rig, "Good day to you.")) > 0
        assert [word for word, _ in voice.words] == ["Good", "day", "to", "you."]
        starts = [start_s for _, start_s in voice.words]
        assert starts == sorted(starts)
        assert voice.lost == []
        assert not voice.tts.warm()


async def test_a_voice_that_was_refused_is_not_warm_and_says_why() -> None:
    async with cartesia(refuse_status=429) as standin:
        voice = Voice(standin.port)
        async with piped(voice.tts):
            assert not voice.tts.warm()
            assert "429" in voice.tts.last_error


@pytest.mark.parametrize("close_code", [1000, 1011])
async def test_a_parked_voice_that_is_closed_is_lost_once_and_does_not_come_back_by_itself(close_code: int) -> None:
    async with cartesia(close_code=close_code) as standin:
        voice = Voice(standin.port)
        async with piped(voice.tts):
            await standin.control(close_all="tts")
            await eventually(lambda: bool(voice.lost))
            assert not voice.tts.warm()
            await until_quiet(standin)
            assert (await counters(standin))["tts_opened"] == 1
            assert len(voice.lost) == 1


async def test_a_parked_voice_notices_the_death_of_its_provider() -> None:
    async with cartesia() as standin:
        voice = Voice(standin.port)
        async with piped(voice.tts):
            standin.process.kill()
            await eventually(lambda: bool(voice.lost))
            assert not voice.tts.warm()
            assert len(voice.lost) == 1


async def test_in_a_call_the_voice_reconnects() -> None:
    async with cartesia() as standin:
        voice = Voice(standin.port)
        async with piped(voice.tts) as rig:
            voice.tts.serving = True
            former = voice.tts._websocket
            await standin.control(close_all="tts")
            await eventually(lambda: voice.tts._websocket is not former and voice.tts.warm())
            assert len(await voice.says(rig, "Still here.")) > 0
        assert voice.lost == []


def noted(tts: ParkedCartesiaTTS, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Give an event that is set when the voice is asked for a sentence and has done its first step."""
    asked = asyncio.Event()
    speak = tts.run_tts

    def run_tts(text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        asyncio.get_running_loop().call_soon(asked.set)
        return speak(text, context_id)

    monkeypatch.setattr(tts, "run_tts", run_tts)
    return asked


@pytest.mark.parametrize("when", [State.CLOSING, State.CLOSED])
async def test_a_sentence_said_while_the_voice_reconnects_is_heard(
    when: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In CLOSING the base would lose it on the old connection, in CLOSED on a second one that nobody reads."""
    async with cartesia() as standin:
        voice = Voice(standin.port)
        async with piped(voice.tts) as rig:
            voice.tts.serving = True
            former = voice.tts._websocket
            assert former is not None
            if when is State.CLOSING:
                former.transport.pause_reading()  # keeps the end of the connection from being seen
                await standin.control(connect_ms=300)
                closing = asyncio.create_task(former.close())
                await eventually(lambda: former.state is State.CLOSING)
                asked = noted(voice.tts, monkeypatch)
                sound = asyncio.create_task(voice.says(rig, "Do you hear me?"))
                await asked.wait()
                former.transport.resume_reading()
                await closing
            else:
                await standin.control(connect_ms=300, close_all="tts")
                await former.wait_closed()
                sound = asyncio.create_task(voice.says(rig, "Do you hear me?"))
            assert len(await sound) > 0
        assert (await counters(standin))["tts_opened"] == 2


async def test_the_voice_of_an_agent_needs_no_new_connection() -> None:
    async with cartesia() as standin:
        voice = Voice(standin.port)
        async with piped(voice.tts) as rig:
            voice.tts.become(Agent(language="pt-BR", voice="clinic-voice"))
            assert len(await voice.says(rig, "Bom dia.")) > 0
            asked = json.loads(voice.tts._build_msg(text="Bom dia.", context_id="c"))
            assert (asked["voice"]["id"], asked["language"]) == ("clinic-voice", "pt")
        state = await standin.state()
        assert {entry["language"] for entry in state["log"] if entry["kind"] == "tts_text"} == {"pt"}
        assert state["counters"]["tts_opened"] == 1
        voice.tts.become(Agent())
        assert json.loads(voice.tts._build_msg(text="Hi.", context_id="c"))["voice"]["id"] == "default-voice"


async def until_quiet(standin: Standin) -> None:
    """Wait until the stand-in holds no voice socket and its log stands still."""
    before = -1
    async with asyncio.timeout(DEADLINE_S):
        while True:
            state = await standin.state()
            if len(state["log"]) == before and state["counters"]["tts_open"] == 0:
                return
            before = len(state["log"])


# --- the ear ----------------------------------------------------------------------------------------------------------


def recording(name: str) -> list[InputAudioRawFrame]:
    """Give a recording as 20 ms frames, with silence around it."""
    return frames_of(bytes(3200) + audioop.ulaw2lin(load_clip(SPEECH / f"{name}.ulaw").audio, 2) + bytes(3200))


async def transcript(rig: Rig) -> str:
    """Give the next final transcript."""
    return of_kind(await rig.until(TranscriptionFrame), TranscriptionFrame)[0].text


async def test_the_ear_connects_only_when_it_is_opened_and_in_the_agents_language() -> None:
    async with cartesia(lexicon=SPEECH) as standin:
        stt = ParkedCartesiaSTT(cartesia_settings(standin.port))
        async with piped(stt) as rig:
            assert not stt.warm()
            assert (await counters(standin)).get("stt_opened", 0) == 0
            await stt.open(Agent(language="pt-BR"))
            assert stt.warm()
            (opened,) = [entry for entry in (await standin.state())["log"] if entry["kind"] == "stt_open"]
            assert opened["query"]["language"] == "pt"
            await rig.send(*recording("pt-code"), VADUserStoppedSpeakingFrame())
            assert await transcript(rig)
        assert not stt.warm()


async def test_the_language_of_the_settings_goes_before_the_agents() -> None:
    async with cartesia() as standin:
        chosen = cartesia_settings(standin.port).model_copy(update={"cartesia_stt_language": "es"})
        stt = ParkedCartesiaSTT(chosen)
        async with piped(stt):
            await stt.open(Agent(language="pt-BR"))
            (opened,) = [entry for entry in (await standin.state())["log"] if entry["kind"] == "stt_open"]
            assert opened["query"]["language"] == "es"


@asynccontextmanager
async def connecting_ear() -> AsyncIterator[tuple[ParkedCartesiaSTT, Rig, asyncio.Task[None]]]:
    """Give an ear that is still connecting, where it hears from, and the task that connects it."""
    async with cartesia(lexicon=SPEECH, connect_ms=300) as standin:
        stt = ParkedCartesiaSTT(cartesia_settings(standin.port))
        async with piped(stt) as rig:
            opening = asyncio.create_task(stt.open(Agent()))
            await eventually(lambda: stt._receive_task is not None)
            yield stt, rig, opening


async def test_speech_during_the_connecting_arrives_whole_and_in_order() -> None:
    async with connecting_ear() as (stt, rig, opening):
        frames = recording("what-time")
        await rig.send(*frames[: len(frames) // 2])
        await eventually(lambda: len(stt._unheard._pieces) > 0)
        await opening
        await rig.send(*frames[len(frames) // 2 :])
        await eventually(lambda: rig_is_idle(stt))
        await rig.send(VADUserStoppedSpeakingFrame())
        assert await transcript(rig) == "What time is it please?"


async def test_someone_who_spoke_and_fell_silent_during_the_connecting_is_understood() -> None:
    async with connecting_ear() as (stt, rig, opening):
        frames = recording("yes")
        await rig.send(*frames)
        await eventually(lambda: len(stt._unheard._pieces) == len(frames))
        await rig.send(VADUserStoppedSpeakingFrame())
        await rig.until(VADUserStoppedSpeakingFrame)
        await opening
        assert await transcript(rig)


async def test_an_ear_that_cannot_connect_is_not_warm_and_costs_no_error() -> None:
    async with cartesia(refuse_status=503) as standin:
        stt = ParkedCartesiaSTT(cartesia_settings(standin.port))
        async with piped(stt):
            await stt.open(Agent())
            assert not stt.warm()


def rig_is_idle(stt: ParkedCartesiaSTT) -> bool:
    """Say whether the service has taken everything that was sent to it."""
    return bool(stt._FrameProcessor__input_queue.empty() and stt._FrameProcessor__process_queue.empty())  # type: ignore[attr-defined] # its names are mangled


# --- the model --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def model(url: str) -> AsyncIterator[WarmOpenAILLM]:
    """Make a model and close its client."""
    llm = WarmOpenAILLM(settings(openai_base_url=url, openai_model="gpt-4.1"))
    try:
        yield llm
    finally:
        await llm._client.close()


async def test_the_models_connection_is_opened_once_and_serves_the_first_completion() -> None:
    async with running("openai_api", llm_first_token_ms=0, token_ms=0) as standin, model(f"{standin.url}/v1") as llm:
        assert not llm.warm()
        await llm.open()
        assert llm.warm()
        async with piped(llm) as rig:
            llm.become(Agent(prompt="You are Ana.", language="pt-BR"))
            llm.append_system_instruction("<customer_record>{}</customer_record>")
            await rig.send(LLMContextFrame(LLMContext([{"role": "user", "content": "olá"}])))
            assert of_kind(await rig.until(LLMFullResponseEndFrame), LLMTextFrame)
        state = await standin.state()
        assert state["counters"]["connections"] == 1
        (completion,) = [entry for entry in state["log"] if entry["kind"] == "completion"]
        system, *others = completion["messages"]
        assert system["role"] in {"system", "developer"}
        assert system["content"].startswith("You are Ana.\n\nSpeak Brazilian Portuguese.")
        assert system["content"].endswith("<customer_record>{}</customer_record>")
        assert others == [{"role": "user", "content": "olá"}]


async def test_a_refusal_is_an_open_connection_too() -> None:
    async with running("openai_api", api_key="another") as standin, model(f"{standin.url}/v1") as llm:
        await llm.open()
        assert llm.warm()
        with pytest.raises(AuthenticationError):
            await llm._client.models.list()


async def test_a_model_that_is_not_there_is_not_warm_and_costs_no_error() -> None:
    async with model("http://127.0.0.1:1/v1") as llm:
        await llm.open()
        assert not llm.warm()


def test_a_first_completion_imports_nothing() -> None:
    """What a fork has not inherited its caller would wait for, at the first answer."""
    program = """
import asyncio, sys
import worker.call.child
from openai import APIConnectionError
from shared.settings import Settings
from worker.providers.openai_llm import WarmOpenAILLM

async def main():
    llm = WarmOpenAILLM(Settings(_env_file=None, openai_api_key="key", openai_base_url="http://127.0.0.1:1/v1"))
    before = set(sys.modules)
    await llm.open()
    try:
        await llm._client.with_options(max_retries=0).chat.completions.create(
            model="any", messages=[{"role": "user", "content": "Hello"}], stream=True
        )
    except APIConnectionError:
        print("asked", sorted(set(sys.modules) - before))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.stdout == "asked []\n", done.stderr


async def test_a_model_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.providers.openai_llm.WARM_TIMEOUT_S", 0.05)
    leave = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await leave.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server, model(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1") as llm:
        async with asyncio.timeout(DEADLINE_S):
            await llm.open()
        assert not llm.warm()
        leave.set()


def test_the_prompt_is_the_same_for_every_call_of_an_agent() -> None:
    assert prompt(Agent()) == prompt(Agent())
    assert prompt(Agent(prompt="P", language="en")) == "P\n\nSpeak English."


def test_languages_have_names_and_codes() -> None:
    assert [base_language(each) for each in ("pt-BR", "EN", "zh-Hant-TW", "")] == ["pt", "en", "zh", ""]
    assert [language_name(each) for each in ("pt", "pt-BR", "EN-gb", "sw", "sw-KE")] == [
        "Portuguese", "Brazilian Portuguese", "English", "sw", "sw-KE",
    ]  # fmt: skip
