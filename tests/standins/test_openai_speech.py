"""The speech of the OpenAI stand-in against the clients that talk to the real one: the vendor's SDK and Pipecat's services."""

from __future__ import annotations

import asyncio
import audioop
import base64
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import soxr
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from pipecat.frames.frames import (
    ErrorFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
    VADUserStoppedSpeakingFrame,
)
from websockets.exceptions import ConnectionClosedError

from tests.standins import modem
from tests.standins.pipecat_rig import frames_of, of_kind, piped
from tests.standins.process import Standin, started

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # pipecat's services subclass their own old classes
    from pipecat.services.openai.stt import OpenAIRealtimeSTTService
    from pipecat.services.openai.tts import OpenAITTSService

LEXICON = Path(__file__).resolve().parents[1] / "data" / "speech"
DEADLINE_S = 30
WORDS = "Good morning, how can I help you?"


@pytest.fixture(scope="module")
def process() -> Iterator[Standin]:
    with started(
        "openai_api", lexicon=LEXICON, speech_first_byte_ms=0, realtime_connect_ms=0, transcript_ms=0
    ) as standin:
        yield standin


@pytest.fixture
async def api(process: Standin) -> AsyncIterator[Standin]:
    settings = (await process.state())["settings"]
    yield process
    await process.control(**settings, transcripts=[], reset=True)


@pytest.fixture
async def client(api: Standin) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(api_key="made-up", base_url=f"{api.url}/v1", max_retries=0) as client:
        yield client


def spoken(pcm: bytes) -> str:
    """Hear what 24 kHz PCM says."""
    samples = soxr.resample(np.frombuffer(pcm, dtype="<i2"), 24_000, 8000)
    return " ".join(word.text for word in modem.decode(audioop.lin2ulaw(samples.astype("<i2").tobytes(), 2)))


def recording(name: str) -> bytes:
    return (LEXICON / f"{name}.ulaw").read_bytes()


def hearing(**changes: Any) -> Any:
    fields = {"format": {"type": "audio/pcmu"}, "transcription": {"model": "gpt-live-transcribe", "language": "en"}}
    return {"type": "transcription", "audio": {"input": {**fields, "turn_detection": None, **changes}}}


async def until(connection: AsyncRealtimeConnection, kind: str) -> list[Any]:
    """Return the events up to the first of a kind."""
    events: list[Any] = []
    async with asyncio.timeout(DEADLINE_S):
        while not events or events[-1].type != kind:
            events.append(await connection.recv())
    return events


COMPLETED = "conversation.item.input_audio_transcription.completed"
DELTA = "conversation.item.input_audio_transcription.delta"


async def test_the_sdk_hears_raw_sound_that_comes_in_pieces(client: AsyncOpenAI, api: Standin) -> None:
    speaking = client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="coral", input=WORDS, response_format="pcm"
    )
    async with speaking as response:
        pieces = [piece async for piece in response.iter_bytes()]
    assert len(pieces) > 1
    assert any(len(piece) % 2 for piece in pieces)
    assert spoken(b"".join(pieces)) == WORDS
    assert (await api.state())["counters"]["characters"] == len(WORDS)


async def test_the_sdk_hears_a_wave_file(client: AsyncOpenAI) -> None:
    answer = await client.audio.speech.create(
        model="tts-1", voice="alloy", input=WORDS, response_format="wav", speed=1.0
    )
    sound = answer.content
    assert sound.startswith(b"RIFF")
    assert spoken(sound[44:]) == WORDS


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"model": "tts-99"}, 404, "model_not_found"),
        ({"voice": "nobody"}, 400, "invalid_value"),
        ({"input": ""}, 400, "empty_string"),
        ({"input": "a" * 4097}, 400, "string_above_max_length"),
        ({"response_format": "mp3"}, 400, "not_in_the_stand_in"),
    ],
)
async def test_the_sdk_reads_what_cannot_be_spoken(
    client: AsyncOpenAI, changes: dict[str, str], status: int, code: str
) -> None:
    fields: dict[str, Any] = {"model": "tts-1", "voice": "alloy", "input": WORDS, "response_format": "pcm"}
    with pytest.raises(openai.APIStatusError) as raised:
        await client.audio.speech.create(**fields | changes)
    assert (raised.value.status_code, raised.value.code) == (status, code)


async def test_a_wrong_key_may_not_speak(api: Standin) -> None:
    await api.control(api_key="the-right-one")
    async with AsyncOpenAI(api_key="another", base_url=f"{api.url}/v1", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.audio.speech.create(model="tts-1", voice="alloy", input=WORDS, response_format="pcm")


async def test_a_failure_is_over_after_the_number_that_was_ordered(client: AsyncOpenAI, api: Standin) -> None:
    await api.control(speech_status=429, speech_code="insufficient_quota", speech_fail_next=1)
    fields: dict[str, Any] = {"model": "tts-1", "voice": "alloy", "input": WORDS, "response_format": "pcm"}
    with pytest.raises(openai.RateLimitError) as raised:
        await client.audio.speech.create(**fields)
    assert raised.value.code == "insufficient_quota"
    assert spoken((await client.audio.speech.create(**fields)).content) == WORDS


async def test_an_answer_that_is_cut_has_no_end(client: AsyncOpenAI, api: Standin) -> None:
    await api.control(drop_speech_after_chunks=2, drop_speech_next=1)
    with pytest.raises(openai.APIConnectionError):
        await client.audio.speech.create(model="tts-1", voice="alloy", input=WORDS, response_format="pcm")
    assert (await api.state())["counters"]["speeches_cut"] == 1


# transcription, by the SDK


async def test_the_sdk_transcribes_what_was_committed(client: AsyncOpenAI) -> None:
    audio = recording("hours")
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        created = await until(connection, "session.created")
        assert created[0].session.type == "transcription"
        await connection.session.update(session=hearing())
        updated = (await until(connection, "session.updated"))[-1]
        assert updated.session.audio.input.format.type == "audio/pcmu"
        for at in range(0, len(audio), 800):
            await connection.input_audio_buffer.append(audio=base64.b64encode(audio[at : at + 800]).decode())
        await connection.input_audio_buffer.commit()
        events = await until(connection, COMPLETED)
    item = events[-1].item_id
    assert {event.item_id for event in events if event.type == DELTA} == {item}
    assert "".join(event.delta for event in events if event.type == DELTA) == events[-1].transcript != ""
    committed = [event.type for event in events].index("input_audio_buffer.committed")
    assert events[committed].item_id == item
    assert DELTA in [event.type for event in events[:committed]]


async def test_silence_is_transcribed_as_no_words(client: AsyncOpenAI) -> None:
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        await connection.session.update(session=hearing())
        await connection.input_audio_buffer.append(audio=base64.b64encode(b"\xff" * 4000).decode())
        await connection.input_audio_buffer.commit()
        assert (await until(connection, COMPLETED))[-1].transcript == ""


async def test_next_to_nothing_cannot_be_committed(client: AsyncOpenAI) -> None:
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        await connection.session.update(session=hearing())
        await connection.input_audio_buffer.append(audio=base64.b64encode(b"\xff" * 400).decode())
        await connection.input_audio_buffer.commit(event_id="mine")
        error = (await until(connection, "error"))[-1].error
        assert (error.code, error.event_id) == ("input_audio_buffer_commit_empty", "mine")
        await connection.input_audio_buffer.append(audio=base64.b64encode(b"\xff" * 4000).decode())
        await connection.input_audio_buffer.commit()
        assert (await until(connection, COMPLETED))[-1].transcript == ""


async def test_a_model_without_turn_detection_refuses_it(client: AsyncOpenAI) -> None:
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        await connection.session.update(session=hearing(turn_detection={"type": "server_vad"}))
        assert "Turn detection is not supported" in (await until(connection, "error"))[-1].error.message


async def test_a_wrong_key_shows_behind_the_upgrade(api: Standin) -> None:
    await api.control(api_key="the-right-one")
    client = AsyncOpenAI(api_key="another", base_url=f"{api.url}/v1")
    async with client, client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        assert (await until(connection, "error"))[-1].error.code == "invalid_api_key"
        with pytest.raises(ConnectionClosedError) as raised:
            await connection.recv()
    assert raised.value.rcvd is not None
    assert (raised.value.rcvd.code, raised.value.rcvd.reason) == (3000, "invalid_request_error.invalid_api_key")


async def test_of_two_turns_the_later_one_may_be_answered_first(client: AsyncOpenAI, api: Standin) -> None:
    await api.control(transcripts_backwards=True, transcripts=["one", "two"])
    silence = base64.b64encode(b"\xff" * 4000).decode()
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        await connection.session.update(session=hearing())
        for _ in range(2):
            await connection.input_audio_buffer.append(audio=silence)
            await connection.input_audio_buffer.commit()
        first = (await until(connection, COMPLETED))[-1].transcript
        second = (await until(connection, COMPLETED))[-1].transcript
    assert (first, second) == ("two", "one")


# Pipecat's services


async def test_pipecat_speaks(api: Standin) -> None:
    http = DefaultAsyncHttpxClient()
    service = OpenAITTSService(
        api_key="made-up",
        http_client=http,
        base_url=f"{api.url}/v1",
        sample_rate=24_000,
        settings=OpenAITTSService.Settings(model="gpt-4o-mini-tts", voice="coral"),
    )
    async with http, piped(service) as rig:
        await rig.send(TTSSpeakFrame(WORDS))
        frames = await rig.until(TTSStoppedFrame)
    assert of_kind(frames, ErrorFrame) == []
    assert spoken(b"".join(frame.audio for frame in of_kind(frames, TTSAudioRawFrame))) == WORDS


async def test_pipecat_transcribes(api: Standin) -> None:
    await api.control(transcripts=["hello there"])  # it sends 24 kHz, in which no recording can be found again
    service = OpenAIRealtimeSTTService(api_key="made-up", base_url=f"ws://127.0.0.1:{api.port}/v1/realtime")
    async with piped(service) as rig:
        await rig.send(*frames_of(audioop.ulaw2lin(recording("hours"), 2)), VADUserStoppedSpeakingFrame())
        heard = of_kind(await rig.until(TranscriptionFrame), TranscriptionFrame)
    assert heard[0].text == "hello there"
