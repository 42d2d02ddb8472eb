"""The ElevenLabs stand-in: its protocol word by word, then with the vendor's own client and with Pipecat's services."""

from __future__ import annotations

import asyncio
import audioop
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from elevenlabs import AsyncElevenLabs, AudioFormat, ElevenLabs, RealtimeEvents
from elevenlabs.types import AudioOutputMulti, CommittedTranscriptPayload, FinalOutputMulti, SessionStartedPayload
from pipecat.frames.frames import (
    ErrorFrame,
    InterruptionFrame,
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
from pipecat.services.elevenlabs.stt import ElevenLabsRealtimeSTTService
from pipecat.services.elevenlabs.tts import ElevenLabsTTSService
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.standins import modem
from tests.standins.pipecat_rig import frames_of, of_kind, piped
from tests.standins.process import ROOT, Standin, started

LEXICON = ROOT / "tests" / "data" / "speech"
DEADLINE_S = 30
SILENCE = bytes(16_000)  # one second


@pytest.fixture(scope="module")
def process() -> Iterator[Standin]:
    quick = {"connect_ms": 0, "tts_first_byte_ms": 0, "tts_realtime_factor": 100, "stt_final_ms": 0}
    with started("elevenlabs", **quick, lexicon=LEXICON) as standin:
        yield standin


@pytest.fixture
async def vendor(process: Standin) -> AsyncIterator[Standin]:
    settings = (await process.state())["settings"]
    async with asyncio.timeout(DEADLINE_S):
        yield process
    await process.control(**settings, close_all="all", reset=True)


@asynccontextmanager
async def speaking(
    vendor: Standin, key: str = "made-up", voice: str = "a-voice", **query: object
) -> AsyncIterator[Client]:
    asked = {"model_id": "eleven_flash_v2_5", "output_format": "pcm_8000", **query}
    path = f"v1/text-to-speech/{voice}/multi-stream-input?" + "&".join(
        f"{name}={value}" for name, value in asked.items()
    )
    async with connect(f"ws://127.0.0.1:{vendor.port}/{path}", additional_headers={"xi-api-key": key}) as socket:
        yield Client(socket)


@asynccontextmanager
async def listening(vendor: Standin, key: str = "made-up", **query: object) -> AsyncIterator[Client]:
    asked = {"model_id": "scribe_v2_realtime", "audio_format": "pcm_8000", "language_code": "en", **query}
    path = "v1/speech-to-text/realtime?" + "&".join(f"{name}={value}" for name, value in asked.items())
    async with connect(f"ws://127.0.0.1:{vendor.port}/{path}", additional_headers={"xi-api-key": key}) as socket:
        yield Client(socket)


class Client:
    """One socket, spoken to in the words of the vendor."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, **message: object) -> None:
        """Send a message of these fields."""
        await self.socket.send(json.dumps(message))

    async def audio(self, pcm: bytes, *, commit: bool = False) -> None:
        """Send audio, and a commit behind it."""
        encoded = base64.b64encode(pcm).decode()
        await self.send(message_type="input_audio_chunk", audio_base_64=encoded, commit=commit, sample_rate=8000)

    async def next(self) -> dict[str, Any]:
        """Give the next message."""
        message: dict[str, Any] = json.loads(await self.socket.recv())
        return message

    async def until_final(self, context_id: str) -> list[dict[str, Any]]:
        """Give the messages up to the end of a context."""
        messages = [await self.next()]
        while not (messages[-1].get("isFinal") and messages[-1]["contextId"] == context_id):
            messages.append(await self.next())
        return messages

    async def until(self, kind: str) -> dict[str, Any]:
        """Give the next message of a kind."""
        while (message := await self.next())["message_type"] != kind:
            pass
        return message

    async def closed(self) -> tuple[int, str]:
        """Wait for the end of the connection; give code and reason."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.socket.recv()
        return self.socket.close_code or 0, self.socket.close_reason or ""


def sound(messages: list[dict[str, Any]]) -> bytes:
    return b"".join(base64.b64decode(message["audio"]) for message in messages if message.get("audio"))


def words(pcm: bytes) -> str:
    return " ".join(word.text for word in modem.decode(audioop.lin2ulaw(pcm, 2)))


def chars(messages: list[dict[str, Any]]) -> str:
    return "".join("".join(message["alignment"]["chars"]) for message in messages if message.get("alignment"))


def recording(name: str) -> bytes:
    return audioop.ulaw2lin((LEXICON / f"{name}.ulaw").read_bytes(), 2)


# --- speech -----------------------------------------------------------------------------------------------------------


async def test_a_context_speaks_times_its_text_on_the_first_message_and_ends_when_it_is_closed(vendor: Standin) -> None:
    async with speaking(vendor, auto_mode="true") as client:
        await client.send(text="Good evening to you. ", context_id="one")
        await client.send(context_id="one", flush=True)
        await client.send(context_id="one", close_context=True)
        messages = await client.until_final("one")
    assert words(sound(messages)) == "Good evening to you."
    assert chars(messages) == "Good evening to you. "
    assert [bool(message.get("alignment")) for message in messages[:-1]].count(True) == 1
    for message in messages[:-1]:
        assert not AudioOutputMulti.model_validate(message).model_extra.keys() - {"isFinal"}  # type: ignore[union-attr]
    assert FinalOutputMulti.model_validate(messages[-1]).is_final is True


async def test_times_that_come_with_each_message_count_from_its_own_beginning(vendor: Standin) -> None:
    async with speaking(vendor, auto_mode="true", sync_alignment="true") as client:
        await client.send(text="One two. ", context_id="one")
        await client.send(context_id="one", flush=True)
        await client.send(context_id="one", close_context=True)
        messages = await client.until_final("one")
    assert chars(messages) == "One two. "
    starts = [start for message in messages[:-1] for start in (message["alignment"] or {}).get("charStartTimesMs", ())]
    assert max(starts[:-1]) <= 100 < len(sound(messages)) / 16
    assert min(starts) >= 0


async def test_text_is_collected_until_it_is_enough_or_flushed(vendor: Standin) -> None:
    async with speaking(vendor) as client:
        await client.send(text="Short. ", context_id="one")
        await client.send(text="Another. ", context_id="one", flush=True)
        await client.send(context_id="one", close_context=True)
        messages = await client.until_final("one")
        assert chars(messages) == "Short. Another. "
        await client.send(text=" ", context_id="two", generation_config={"chunk_length_schedule": [50]})
        await client.send(text="This text is a little longer than fifty characters.", context_id="two")
        assert (await client.next())["contextId"] == "two"


async def test_closing_a_context_cuts_off_what_was_not_set_to_flush(vendor: Standin) -> None:
    await vendor.control(tts_realtime_factor=1.0)
    async with speaking(vendor, auto_mode="true") as client:
        await client.send(text="This takes several seconds to say. ", context_id="one")
        await client.next()
        await client.send(context_id="one", close_context=True)
        messages = await client.until_final("one")
        assert "several" not in words(sound(messages))
        assert (await vendor.state())["counters"]["cancelled"] == 1


async def test_a_sixth_context_ends_the_connection(vendor: Standin) -> None:
    async with speaking(vendor) as client:
        for number in range(6):
            await client.send(text=" ", context_id=str(number))
        error = await client.next()
        assert error["error"] == "max_active_conversations"
        assert error["code"] == 1008
        code, reason = await client.closed()
    assert code == 1008
    assert reason.startswith("Maximum simultaneous contexts")
    assert len(reason.encode()) <= 123


async def test_a_silent_client_is_told_so_and_sent_away(vendor: Standin) -> None:
    await vendor.control(tts_idle_close_s=0.05)
    async with speaking(vendor) as client:
        assert (await client.next())["error"] == "input_timeout_exceeded"
        code, reason = await client.closed()
    assert (code, reason[:40]) == (1008, "Have not received a new text input withi")


async def test_an_empty_text_keeps_a_connection_open_and_says_nothing(vendor: Standin) -> None:
    await vendor.control(tts_idle_close_s=1.0)
    async with speaking(vendor, inactivity_timeout=60) as patient, speaking(vendor) as client:
        for _ in range(12):
            await client.send(text="")
            await asyncio.sleep(0.1)
        counters = (await vendor.state())["counters"]
        assert (counters["tts_open"], counters["kept_alive"]) == (2, 12)
        assert "contexts" not in counters
        await patient.send(text="")


@pytest.mark.parametrize(
    ("setting", "code"), [({"api_key": "another"}, "invalid_api_key"), ({"voices": "b,c"}, "voice_id_does_not_exist")]
)
async def test_a_wrong_key_or_voice_is_told_only_after_the_first_text(
    vendor: Standin, setting: dict[str, Any], code: str
) -> None:
    await vendor.control(**setting)
    async with speaking(vendor) as client:
        await client.send(text=" ", context_id="one")
        assert (await client.next())["error"] == code
        assert (await client.closed())[0] == 1008


async def test_settings_of_a_context_belong_into_its_first_message(vendor: Standin) -> None:
    async with speaking(vendor) as client:
        await client.send(text="", context_id="one")  # opens it
        await client.send(text=" ", context_id="one", voice_settings={"stability": 0.5})
        assert (await client.closed())[0] == 1008


async def test_models_of_another_endpoint_and_full_plans_are_refused_on_the_upgrade(vendor: Standin) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        async with speaking(vendor, model_id="eleven_v3"):
            pass
    assert refusal.value.response.status_code == 400
    await vendor.control(tts_max_connections=1)
    async with speaking(vendor):
        with pytest.raises(InvalidStatus) as refusal:
            async with speaking(vendor):
                pass
    assert refusal.value.response.status_code == 429


async def test_other_rates_and_mu_law_are_spoken_too(vendor: Standin) -> None:
    for output_format, bytes_per_s in (("pcm_16000", 32_000), ("ulaw_8000", 8_000)):
        async with speaking(vendor, output_format=output_format, auto_mode="true") as client:
            await client.send(text="Yes. ", context_id="one", flush=True)
            await client.send(context_id="one", close_context=True)
            audio = sound(await client.until_final("one"))
        assert len(audio) / bytes_per_s == pytest.approx(modem.duration_s("Yes."), abs=0.01)


# --- recognition ------------------------------------------------------------------------------------------------------


async def test_each_commit_is_answered_also_when_nothing_was_said(vendor: Standin) -> None:
    async with listening(vendor) as client:
        assert SessionStartedPayload.model_validate(await client.next()).session_id
        await client.audio(recording("my-name"))
        await client.audio(b"", commit=True)
        answer = await client.until("committed_transcript")
        assert CommittedTranscriptPayload.model_validate(answer).text == "What is my name?"
        assert (await client.next()) == {"message_type": "partial_transcript", "text": "What is my name?"}
        await client.audio(SILENCE, commit=True)
        assert (await client.until("committed_transcript"))["text"] == ""


async def test_partial_transcripts_begin_after_two_seconds(vendor: Standin) -> None:
    await vendor.control(stt_partial_ms=100)
    async with listening(vendor) as client:
        await client.audio(recording("yes"))
        await client.audio(SILENCE)
        await client.audio(recording("book"))
        assert (await client.until("partial_transcript"))["text"].startswith("Yes.")


async def test_a_commit_of_too_little_ends_the_session(vendor: Standin) -> None:
    async with listening(vendor) as client:
        await client.audio(SILENCE[:3200], commit=True)
        error = await client.until("commit_throttled")
        assert error["error"].startswith("Commit request ignored: only 0.20s of uncommitted audio.")
        assert await client.closed() == (1000, "commit_throttled")


async def test_what_nobody_commits_is_committed(vendor: Standin) -> None:
    await vendor.control(stt_auto_commit_s=2.0)
    async with listening(vendor) as client:
        await client.audio(SILENCE)
        await client.audio(SILENCE)
        assert (await client.until("committed_transcript"))["text"] == ""


async def test_a_refused_session_opens_first(vendor: Standin) -> None:
    await vendor.control(api_key="another")
    async with listening(vendor) as client:
        assert (await client.next())["message_type"] == "auth_error"
        assert (await client.closed())[0] == 1000


async def test_a_session_without_audio_is_closed_without_a_word(vendor: Standin) -> None:
    await vendor.control(stt_idle_close_s=0.05)
    async with listening(vendor) as client:
        assert (await client.next())["message_type"] == "session_started"
        assert await client.closed() == (1000, "")


# --- the vendor's own client ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:ConnectionClosed.code is deprecated:DeprecationWarning")  # the SDK reads it
async def test_the_sdk_speaks(vendor: Standin) -> None:
    client = ElevenLabs(api_key="made-up", base_url=vendor.url)
    speech: Any = client.text_to_speech
    speech._ws_base_url = f"ws://127.0.0.1:{vendor.port}"  # it makes wss of whatever it is given

    def say() -> bytes:
        texts = iter(["Hello, how are you? ", "I am fine."])
        return b"".join(
            speech.convert_realtime("a-voice", text=texts, model_id="eleven_flash_v2_5", output_format="pcm_8000")
        )

    assert words(await asyncio.to_thread(say)) == "Hello, how are you? I am fine."


async def test_the_sdk_hears(vendor: Standin) -> None:
    client = AsyncElevenLabs(api_key="made-up", base_url=vendor.url)
    connection = await client.speech_to_text.realtime.connect(
        {
            "model_id": "scribe_v2_realtime",
            "audio_format": AudioFormat.PCM_8000,
            "sample_rate": 8000,
            "language_code": "en",
        }
    )
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    connection.on(RealtimeEvents.COMMITTED_TRANSCRIPT, heard.put_nowait)
    connection.on(RealtimeEvents.COMMIT_THROTTLED, heard.put_nowait)
    try:
        await connection.send({"audio_base_64": base64.b64encode(recording("my-name")).decode()})
        await connection.commit()
        assert (await heard.get())["text"] == "What is my name?"
        await connection.commit()
        assert (await heard.get())["message_type"] == "commit_throttled"
    finally:
        await connection.close()


# --- Pipecat's services -----------------------------------------------------------------------------------------------


class Listening(ElevenLabsRealtimeSTTService):
    """Pipecat's, without TLS: it knows no other scheme."""

    async def _websocket_connect(self, uri: str, **kwargs: Any) -> Any:
        return await super()._websocket_connect(uri.replace("wss://", "ws://"), **kwargs)


def tts_service(vendor: Standin) -> ElevenLabsTTSService:
    return ElevenLabsTTSService(
        api_key="made-up",
        url=f"ws://127.0.0.1:{vendor.port}",
        settings=ElevenLabsTTSService.Settings(voice="a-voice", model="eleven_flash_v2_5", language="en"),
    )


async def test_pipecat_speaks_the_sentences_of_an_answer_in_one_context(vendor: Standin) -> None:
    async with piped(tts_service(vendor)) as rig:
        texts = [LLMTextFrame(token) for token in ("First", " one.", " Second", " one.")]
        await rig.send(LLMFullResponseStartFrame(), *texts, LLMFullResponseEndFrame())
        frames = await rig.until(TTSStoppedFrame)
    assert not of_kind(frames, ErrorFrame)
    assert words(b"".join(frame.audio for frame in of_kind(frames, TTSAudioRawFrame))) == "First one. Second one."
    assert "Second" in " ".join(frame.text for frame in of_kind(frames, TTSTextFrame))
    assert (await vendor.state())["counters"]["contexts"] == 1


async def test_pipecat_closes_the_context_of_an_interrupted_answer(vendor: Standin) -> None:
    await vendor.control(tts_realtime_factor=1.0)
    async with piped(tts_service(vendor)) as rig:
        await rig.send(LLMFullResponseStartFrame(), LLMTextFrame("This takes several seconds to say. And more"))
        await rig.until(TTSAudioRawFrame)
        await rig.send(InterruptionFrame())
        while not (await vendor.state())["counters"].get("cancelled"):
            pass
        await rig.send(TTSSpeakFrame("After."))
        heard = b""
        while not words(heard).endswith("After."):
            heard += of_kind(await rig.until(TTSAudioRawFrame), TTSAudioRawFrame)[-1].audio
    assert "several" not in words(heard)


async def test_pipecat_hears(vendor: Standin) -> None:
    service = Listening(
        api_key="made-up",
        base_url=f"127.0.0.1:{vendor.port}",
        settings=ElevenLabsRealtimeSTTService.Settings(model="scribe_v2_realtime", language="en"),
    )
    async with piped(service) as rig:
        await rig.send(*frames_of(recording("book")), VADUserStoppedSpeakingFrame())
        final = of_kind(await rig.until(TranscriptionFrame), TranscriptionFrame)[0]
    assert final.text == "I would like to book an appointment for Friday."
