"""The provider stand-ins against the clients that will talk to the real ones: the vendors' SDKs and Pipecat's services.

OpenAI's and Supabase's own clients drive test_openai_api.py and test_supabase_api.py throughout.
"""

from __future__ import annotations

import asyncio
import audioop
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cartesia import AsyncCartesia
from pipecat.frames.frames import (
    ErrorFrame,
    InterimTranscriptionFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.services.cartesia.stt import CartesiaSTTService
from pipecat.services.llm_service import FunctionCallParams
from pipecat.services.openai.llm import OpenAILLMService

from tests.standins import modem
from tests.standins.pipecat_rig import CartesiaTTSService, frames_of, of_kind, piped
from tests.standins.process import Standin, started

LEXICON = Path(__file__).resolve().parents[1] / "data" / "speech"
DEADLINE_S = 30


@pytest.fixture(scope="module")
def cartesia_process() -> Iterator[Standin]:
    with started("cartesia", connect_ms=10, tts_first_byte_ms=5, stt_final_ms=5, lexicon=LEXICON) as standin:
        yield standin


@pytest.fixture
async def cartesia(cartesia_process: Standin) -> AsyncIterator[Standin]:
    settings = (await cartesia_process.state())["settings"]
    yield cartesia_process
    await cartesia_process.control(**settings, close_all="all", reset=True)


@pytest.fixture(scope="module")
def openai_process() -> Iterator[Standin]:
    with started("openai_api", llm_first_token_ms=5, token_ms=0) as standin:
        yield standin


@pytest.fixture
async def openai(openai_process: Standin) -> AsyncIterator[Standin]:
    settings = (await openai_process.state())["settings"]
    yield openai_process
    await openai_process.control(**settings, script=[], reset=True)


@pytest.fixture
async def sdk(cartesia: Standin) -> AsyncIterator[AsyncCartesia]:
    async with AsyncCartesia(api_key="made-up", websocket_base_url=f"ws://127.0.0.1:{cartesia.port}") as client:
        yield client


def words(pcm: bytes) -> str:
    return " ".join(word.text for word in modem.decode(audioop.lin2ulaw(pcm, 2)))


def recording(name: str) -> bytes:
    return audioop.ulaw2lin((LEXICON / f"{name}.ulaw").read_bytes(), 2)


# Cartesia's SDK


async def test_the_sdk_speaks_through_a_context(sdk: AsyncCartesia) -> None:
    async with asyncio.timeout(DEADLINE_S), sdk.tts.websocket_connect() as connection:
        context = connection.context(
            model_id="sonic-3.5",
            voice="a-voice",
            output_format={"container": "raw", "encoding": "pcm_s16le", "sample_rate": 8000},
            add_timestamps=True,
        )
        await context.push("Oi, ")
        await context.push("tudo bem?")
        await context.no_more_inputs()
        events = [event async for event in context.receive()]
    assert words(b"".join(event.audio or b"" for event in events if event.type == "chunk")) == "Oi, tudo bem?"
    times = [event.word_timestamps for event in events if event.type == "timestamps"]
    assert [word for one in times if one for word in one.words] == ["Oi,", "tudo", "bem?"]
    assert events[-1].type == "done"


async def test_the_sdk_streams_the_tokens_of_a_model(sdk: AsyncCartesia) -> None:
    """Managed buffering: a sentence is spoken when it is there, the rest at the end."""
    async with asyncio.timeout(DEADLINE_S), sdk.tts.websocket_connect() as connection:
        context = connection.context(
            model_id="sonic-3.5",
            voice="a-voice",
            output_format={"container": "raw", "encoding": "pcm_s16le", "sample_rate": 8000},
            add_timestamps=True,
            max_buffer_delay_ms=5000,
        )
        for token in ("It", " co", "sts", " 3", ".", "5", " euros", ".", " Fi", "ne"):
            await context.push(token)
        await context.no_more_inputs()
        events = [event async for event in context.receive()]
    times = [event.word_timestamps for event in events if event.type == "timestamps"]
    assert [word for one in times if one for word in one.words][-2:] == ["euros.", "Fine"]
    assert events[-1].type == "done"


async def test_the_sdk_flushes_what_waits(sdk: AsyncCartesia) -> None:
    async with asyncio.timeout(DEADLINE_S), sdk.tts.websocket_connect() as connection:
        context = connection.context(
            model_id="sonic-3.5",
            voice="a-voice",
            output_format={"container": "raw", "encoding": "pcm_s16le", "sample_rate": 8000},
        )
        await context.push("Stay hungry, ")
        await context.push("", flush=True)
        await context.push("stay foolish")
        await context.no_more_inputs()
        events = [event async for event in context.receive()]
    by_flush = {
        number: words(
            b"".join(event.audio or b"" for event in events if event.type == "chunk" and event.flush_id == number)
        )
        for number in (1, 2)
    }
    assert by_flush == {1: "Stay hungry,", 2: "stay foolish"}
    assert [event.flush_id for event in events if event.type == "flush_done"] == [1]


async def test_the_sdk_reads_an_error_event(sdk: AsyncCartesia, cartesia: Standin) -> None:
    await cartesia.control(tts_error_code=429)
    async with asyncio.timeout(DEADLINE_S), sdk.tts.websocket_connect() as connection:
        context = connection.context(
            model_id="sonic-3.5",
            voice="a-voice",
            output_format={"container": "raw", "encoding": "pcm_mulaw", "sample_rate": 8000},
        )
        await context.push("Hello.")
        events = [event async for event in context.receive()]
    assert events[0].type == "error"
    assert (events[0].status_code, events[0].error_code) == (429, "concurrency_limited")


async def test_the_sdk_hears_with_manual_finalize(sdk: AsyncCartesia) -> None:
    listening = sdk.stt.manual_finalize.websocket(model="ink-whisper", encoding="pcm_s16le", sample_rate=8000)
    async with asyncio.timeout(DEADLINE_S), listening as connection:
        await connection.send_raw(recording("my-name"))
        await connection.send("finalize")
        event = await connection.recv()
        while not (event.type == "transcript" and event.is_final):
            event = await connection.recv()
        assert event.text == "What is my name?"
        assert (await connection.recv()).type == "flush_done"
        await connection.send("close")
        assert (await connection.recv()).type == "done"


# Pipecat's services


def tts_service(cartesia: Standin) -> CartesiaTTSService:
    return CartesiaTTSService(
        api_key="made-up",
        url=f"ws://127.0.0.1:{cartesia.port}/tts/websocket",
        settings=CartesiaTTSService.Settings(voice="a-voice", model="sonic-3.5"),
    )


def stt_service(cartesia: Standin, language: str = "en") -> CartesiaSTTService:
    return CartesiaSTTService(
        api_key="made-up",
        base_url=f"ws://127.0.0.1:{cartesia.port}",
        settings=CartesiaSTTService.Settings(model="ink-whisper", language=language),
    )


async def test_pipecat_speaks(cartesia: Standin) -> None:
    async with piped(tts_service(cartesia)) as rig:
        await rig.send(TTSSpeakFrame("Good evening. How are you?"))
        frames = await rig.until(TTSStoppedFrame)
    assert not of_kind(frames, ErrorFrame)
    audio = b"".join(frame.audio for frame in of_kind(frames, TTSAudioRawFrame))
    assert words(audio) == "Good evening. How are you?"
    assert "evening." in " ".join(frame.text for frame in of_kind(frames, TTSTextFrame))


async def test_pipecat_speaks_the_sentences_of_an_answer_in_one_context(cartesia: Standin) -> None:
    async with piped(tts_service(cartesia)) as rig:
        texts = [LLMTextFrame(token) for token in ("First", " one.", " Second", " one.")]
        await rig.send(LLMFullResponseStartFrame(), *texts, LLMFullResponseEndFrame())
        frames = await rig.until(TTSStoppedFrame)
    assert words(b"".join(frame.audio for frame in of_kind(frames, TTSAudioRawFrame))) == "First one. Second one."
    assert (await cartesia.state())["counters"]["contexts"] == 1


async def test_pipecat_cancels_a_context_when_it_is_interrupted(cartesia: Standin) -> None:
    await cartesia.control(tts_realtime_factor=1.0)
    async with piped(tts_service(cartesia)) as rig:
        await rig.send(TTSSpeakFrame("This is a sentence that takes several seconds to say."))
        await rig.until(TTSAudioRawFrame)
        await rig.send(InterruptionFrame())
        async with asyncio.timeout(DEADLINE_S):
            while not (await cartesia.state())["counters"].get("cancelled"):
                pass
        await rig.send(TTSSpeakFrame("After."))
        heard = b""
        async with asyncio.timeout(DEADLINE_S):
            while not words(heard).endswith("After."):
                heard += of_kind(await rig.until(TTSAudioRawFrame), TTSAudioRawFrame)[-1].audio
    assert "several" not in words(heard)


async def test_pipecat_hears_interim_and_final_words(cartesia: Standin) -> None:
    await cartesia.control(stt_interim_ms=100)
    async with piped(stt_service(cartesia)) as rig:
        await rig.send(*frames_of(recording("book")))
        frames = await rig.until(InterimTranscriptionFrame)
        await rig.send(VADUserStoppedSpeakingFrame())
        frames += await rig.until(TranscriptionFrame)
        assert of_kind(frames, TranscriptionFrame)[0].text == "I would like to book an appointment for Friday."
        await rig.send(*frames_of(recording("yes")), VADUserStoppedSpeakingFrame())
        frames = await rig.until(TranscriptionFrame)
    assert of_kind(frames, TranscriptionFrame)[0].text == " Yes."


async def test_pipecat_hears_portuguese(cartesia: Standin) -> None:
    async with piped(stt_service(cartesia, "pt")) as rig:
        await rig.send(*frames_of(recording("pt-hours")), VADUserStoppedSpeakingFrame())
        final = of_kind(await rig.until(TranscriptionFrame), TranscriptionFrame)[0]
    assert final.text == "Que horas são, por favor?"
    assert str(final.language) == "pt"


async def test_pipecat_reconnects_after_an_idle_close(cartesia: Standin) -> None:
    service = tts_service(cartesia)
    async with piped(service) as rig:
        await cartesia.control(close_all="tts")
        async with asyncio.timeout(DEADLINE_S):
            while (await cartesia.state())["counters"]["tts_opened"] < 2:
                pass
        await rig.send(TTSSpeakFrame("Still here."))
        audio = of_kind(await rig.until(TTSStoppedFrame), TTSAudioRawFrame)
    assert words(b"".join(frame.audio for frame in audio)) == "Still here."


@pytest.fixture
async def llm(openai: Standin) -> AsyncIterator[OpenAILLMService]:
    service = OpenAILLMService(
        api_key="made-up", base_url=f"{openai.url}/v1", settings=OpenAILLMService.Settings(model="gpt-4.1")
    )
    yield service
    await service._client.close()  # the service itself leaves its connections to the garbage collector


async def test_pipecat_gets_an_answer(llm: OpenAILLMService) -> None:
    messages: list[Any] = [{"role": "user", "content": "good morning"}]
    async with piped(llm) as rig:
        await rig.send(LLMContextFrame(LLMContext(messages)))
        frames = await rig.until(LLMFullResponseEndFrame)
    assert "".join(frame.text for frame in of_kind(frames, LLMTextFrame)) == "You said: good morning"


async def test_pipecat_runs_the_tool_that_was_called_after_the_words(openai: Standin, llm: OpenAILLMService) -> None:
    called: asyncio.Queue[Any] = asyncio.Queue()

    async def end_call(params: FunctionCallParams) -> None:
        called.put_nowait((params.function_name, dict(params.arguments)))
        await params.result_callback({"ok": True})

    llm.register_function("end_call", end_call)
    await openai.control(script=[{"text": "Goodbye then.", "tool": "end_call", "arguments": {"why": "até logo"}}])
    messages: list[Any] = [{"role": "user", "content": "bye"}]
    async with piped(llm) as rig:
        await rig.send(LLMContextFrame(LLMContext(messages)))
        frames = await rig.until(LLMFullResponseEndFrame)
        async with asyncio.timeout(DEADLINE_S):
            assert await called.get() == ("end_call", {"why": "até logo"})
    assert "".join(frame.text for frame in of_kind(frames, LLMTextFrame)) == "Goodbye then."
