"""The Cartesia stand-in on the wire, driven by plain WebSockets."""

from __future__ import annotations

import asyncio
import audioop
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from tests.standins import modem
from tests.standins.cartesia_tts import tone
from tests.standins.process import TIMER_S, Standin, StandinFailed, running, started
from tests.tones import distortion_db

LEXICON = Path(__file__).resolve().parents[1] / "data" / "speech"
KEY = {"X-API-Key": "made-up", "Cartesia-Version": "2026-03-01"}
STT = "/stt/websocket?model=ink-whisper&language=en&encoding=pcm_s16le&sample_rate=8000"
DEADLINE_S = 30


@pytest.fixture(scope="module")
def process() -> Iterator[Standin]:
    """One process for all tests: starting one costs more than most of them."""
    with started("cartesia", connect_ms=0, tts_first_byte_ms=0, stt_final_ms=0, lexicon=LEXICON) as standin:
        yield standin


@pytest.fixture
async def cartesia(process: Standin) -> AsyncIterator[Standin]:
    """The stand-in with the settings it was started with, whatever a test does to them."""
    settings = (await process.state())["settings"]
    yield process
    await process.control(**settings, close_all="all", reset=True)


def socket(standin: Standin, path: str = "/tts/websocket", headers: dict[str, str] | None = None) -> connect:
    return connect(
        f"ws://127.0.0.1:{standin.port}{path}", additional_headers=KEY if headers is None else headers, compression=None
    )


def request(transcript: str, *, context_id: str = "turn-1", more: bool = False, **changes: Any) -> str:
    fields = {
        "model_id": "sonic-3.5",
        "transcript": transcript,
        "voice": {"mode": "id", "id": "a-voice"},
        "language": "en",
        "context_id": context_id,
        "continue": more,
        "max_buffer_delay_ms": 0,
        "output_format": {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 8000},
        "add_timestamps": True,
    }
    return json.dumps(fields | changes)


async def event(stream: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE_S):
        message: dict[str, Any] = json.loads(await stream.recv())
        return message


async def until(stream: ClientConnection, kind: str = "done") -> list[dict[str, Any]]:
    events = [await event(stream)]
    while events[-1]["type"] != kind:
        events.append(await event(stream))
    return events


def audio_of(events: list[dict[str, Any]]) -> bytes:
    return b"".join(base64.b64decode(one["data"]) for one in events if one["type"] == "chunk")


def words(pcm: bytes) -> str:
    return " ".join(word.text for word in modem.decode(audioop.lin2ulaw(pcm, 2)))


def recording(name: str) -> bytes:
    return audioop.ulaw2lin((LEXICON / f"{name}.ulaw").read_bytes(), 2)


async def say(stream: ClientConnection, pcm: bytes) -> None:
    for at in range(0, len(pcm), 320):
        await stream.send(pcm[at : at + 320])


# TTS


async def test_one_input_becomes_chunks_timestamps_and_done(cartesia: Standin) -> None:
    async with socket(cartesia) as stream:
        await stream.send(request("hello good world"))
        events = await until(stream)
    assert {one["context_id"] for one in events} == {"turn-1"}
    assert [one["type"] for one in events][:2] == ["chunk", "timestamps"]
    assert events[0].keys() == {"type", "context_id", "data", "done", "status_code", "step_time", "flush_id"}
    assert events[-1] == {"type": "done", "context_id": "turn-1", "done": True, "status_code": 206}
    times = events[1]["word_timestamps"]
    assert times["words"] == ["hello", "good", "world"]
    heard = modem.decode(audioop.lin2ulaw(audio_of(events), 2))
    assert [word.start_s for word in heard] == pytest.approx(times["start"], abs=0.01)
    assert len(times["end"]) == 3


async def test_inputs_of_a_context_come_in_order_and_end_with_the_last(cartesia: Standin) -> None:
    async with socket(cartesia) as stream:
        await stream.send(request("First sentence. ", more=True))
        await stream.send(request("Second one.", more=True))
        await stream.send(request(""))
        events = await until(stream)
    assert words(audio_of(events)) == "First sentence. Second one."
    assert [one["flush_id"] for one in events if one["type"] == "flush_done"] == [1, 2]
    second = [one for one in events if one["type"] == "timestamps"][1]["word_timestamps"]
    assert second["start"][0] == pytest.approx(sum(modem.duration_s(word) for word in ("First", "sentence.")), abs=0.01)


async def test_contexts_run_side_by_side_on_one_socket(cartesia: Standin) -> None:
    async with socket(cartesia) as stream:
        for name in "abc":
            await stream.send(request(f"this is {name}", context_id=name))
        events = [one for _ in "abc" for one in await until(stream)]
    for name in "abc":
        assert words(audio_of([one for one in events if one["context_id"] == name])) == f"this is {name}"
    state = await cartesia.state()
    assert state["counters"]["contexts"] == 3
    assert state["counters"]["characters"] == 27
    assert [one["text"] for one in state["log"] if one["kind"] == "tts_text"] == ["this is a", "this is b", "this is c"]


async def test_buffered_text_waits_for_its_sentence_or_the_delay(cartesia: Standin) -> None:
    async with socket(cartesia) as stream:
        for piece in ("How ", "are ", "you? "):
            await stream.send(request(piece, max_buffer_delay_ms=5000, more=True))
        events = [await event(stream), await event(stream)]
        assert events[1]["word_timestamps"]["words"] == ["How", "are", "you?"]
        await stream.send(request("never ends", context_id="other", max_buffer_delay_ms=50, more=True))
        await stream.send(request("flushed", context_id="third", max_buffer_delay_ms=5000, flush=True, more=True))
        kinds = {("other", "timestamps"), ("third", "timestamps"), ("third", "flush_done")}
        while kinds:
            one = await event(stream)
            kinds.discard((one["context_id"], one["type"]))


async def test_tokens_of_a_model_are_gathered_up_to_the_sentence_and_joined_verbatim(cartesia: Standin) -> None:
    async with socket(cartesia) as stream:
        for piece in ("Hel", "lo th", "ere, ", "you", ". ", "Good", " day"):
            await stream.send(request(piece, max_buffer_delay_ms=5000, more=True))
        await stream.send(request("", max_buffer_delay_ms=5000))
        events = await until(stream)
    assert words(audio_of(events)) == "Hello there, you. Good day"
    times = [one["word_timestamps"] for one in events if one["type"] == "timestamps"]
    assert [one["words"] for one in times] == [["Hello", "there,", "you."], ["Good", "day"]]
    assert times[1]["start"][0] == pytest.approx(times[0]["end"][-1], abs=0.01)
    assert "flush_done" not in {one["type"] for one in events}, "only what is flushed is answered so"


async def test_the_buffer_delay_counts_from_the_first_text_that_waits(cartesia: Standin) -> None:
    async with socket(cartesia) as stream:
        begun = time.monotonic()
        await stream.send(request("One ", max_buffer_delay_ms=300, more=True))
        await asyncio.sleep(0.15)
        await stream.send(request("two ", max_buffer_delay_ms=300, more=True))
        events = await until(stream, "timestamps")
        assert time.monotonic() - begun >= 0.3 - TIMER_S
        assert events[-1]["word_timestamps"]["words"] == ["One", "two"]
    log = (await cartesia.state())["log"]
    first, later = (one["at"] for one in log if one["kind"] == "tts_text")
    due = next(one["asked_at"] for one in log if one["kind"] == "tts_first_chunk")
    assert first + 0.3 <= due < later + 0.3, "a later text does not begin the delay anew"


async def test_the_first_byte_takes_its_time_after_the_buffering(cartesia: Standin) -> None:
    await cartesia.control(tts_first_byte_ms=100)
    async with socket(cartesia) as stream:
        begun = time.monotonic()
        await stream.send(request("One ", max_buffer_delay_ms=100, more=True))
        await event(stream)
        assert time.monotonic() - begun >= 0.2 - TIMER_S


async def test_an_empty_flush_ends_what_waits(cartesia: Standin) -> None:
    async with socket(cartesia) as stream:
        await stream.send(request("One ", max_buffer_delay_ms=5000, more=True))
        await stream.send(request("", max_buffer_delay_ms=5000, more=True, flush=True))
        await stream.send(request("two", max_buffer_delay_ms=5000))
        events = await until(stream)
    ids = [(one["type"], one.get("flush_id")) for one in events if one["type"] != "chunk"]
    assert ids == [("timestamps", 1), ("flush_done", 1), ("timestamps", 2), ("done", None)]


async def test_chunks_may_be_cut_anywhere_and_a_tone_goes_on_over_inputs(cartesia: Standin) -> None:
    await cartesia.control(tts_tone_hz=1004.0, tts_chunk_bytes=333)
    async with socket(cartesia) as stream:
        await stream.send(request("One ", more=True))
        await stream.send(request("two"))
        events = await until(stream)
    sizes = {len(base64.b64decode(one["data"])) for one in events if one["type"] == "chunk"}
    assert max(sizes) == 333
    assert audio_of(events) == tone("One two", 1004.0)
    samples = np.frombuffer(audio_of(events), dtype="<i2").astype(float)
    assert distortion_db(samples, 1004.0) < -80


async def test_a_cancelled_context_falls_silent_and_others_do_not(cartesia: Standin) -> None:
    await cartesia.control(tts_realtime_factor=1.0)
    async with socket(cartesia) as stream:
        await stream.send(request("this would take a very long time to say", context_id="long"))
        await event(stream)
        await stream.send(json.dumps({"context_id": "long", "cancel": True}))
        await stream.send(request("ok", context_id="next"))
        events = await until(stream)
        assert events[-1]["context_id"] == "next"
        assert [one["context_id"] for one in events].count("long") <= 3  # what was on its way
        await stream.send(request("again", context_id="long"))
        refused = await event(stream)
    assert (refused["type"], refused["context_id"], refused["status_code"]) == ("error", "long", 400)


async def test_an_open_context_ends_after_its_audio_was_heard(cartesia: Standin) -> None:
    await cartesia.control(tts_context_expire_s=0.1)
    async with socket(cartesia) as stream:
        await stream.send(request("one", more=True))
        asked = time.monotonic()
        await until(stream)
        assert time.monotonic() - asked > modem.duration_s("one") - TIMER_S
        await stream.send(request("two", more=True))
        assert (await event(stream))["message"] == "the context has ended"
        await cartesia.control(tts_expire_silently=True)
        await stream.send(request("one", context_id="turn-2", more=True))
        await until(stream, "flush_done")
        async with asyncio.timeout(DEADLINE_S):
            while (await cartesia.state())["counters"]["contexts_open"]:
                pass
        await stream.send(request("two", context_id="turn-2", more=True))
        assert (await event(stream))["message"] == "the context has ended"


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 24000, 44100, 48000])
@pytest.mark.parametrize("encoding", ["pcm_s16le", "pcm_f32le", "pcm_mulaw", "pcm_alaw"])
async def test_every_output_format_carries_the_words(cartesia: Standin, encoding: str, rate: int) -> None:
    form = {"container": "raw", "encoding": encoding, "sample_rate": rate}
    async with socket(cartesia) as stream:
        await stream.send(request("sounds right", output_format=form))
        audio = audio_of(await until(stream))
    match encoding:
        case "pcm_f32le":
            audio = (np.frombuffer(audio, "<f4") * 32767).astype("<i2").tobytes()
        case "pcm_mulaw":
            audio = audioop.ulaw2lin(audio, 2)
        case "pcm_alaw":
            audio = audioop.alaw2lin(audio, 2)
    assert words(soxr.resample(np.frombuffer(audio, "<i2"), rate, 8000).astype("<i2").tobytes()) == "sounds right"


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("{", "invalid JSON"),
        ("[]", "invalid JSON"),
        (json.dumps({"context_id": "c"}), "missing required field"),
        (request("x", context_id="c", voice={"mode": "id", "id": ""}), "length >= 1"),
        (request("x", context_id="c", model_id="moonic"), "sonic"),
        (request("x", context_id="c", max_buffer_delay_ms=6000), "<= 5000"),
        (request("x", context_id="c", output_format={"container": "wav"}), "output_format"),
    ],
)
async def test_a_bad_request_is_an_error_event_and_the_socket_stays(cartesia: Standin, message: str, says: str) -> None:
    async with socket(cartesia) as stream:
        await stream.send(message)
        error = await event(stream)
        assert error["type"] == "error"
        assert error["done"] is True
        assert error["status_code"] == 400
        assert says in error["message"]
        assert error.get("context_id", "c") == "c"
        assert ("context_id" in error) == ('"c"' in message)
        await stream.send(request("fine"))
        assert (await until(stream))[-1]["type"] == "done"


async def test_the_fixed_fields_of_a_context_cannot_change(cartesia: Standin) -> None:
    async with socket(cartesia) as stream:
        await stream.send(request("one ", more=True))
        await stream.send(request("two", voice={"mode": "id", "id": "another"}))
        events = await until(stream, "error")
    assert "cannot change" in events[-1]["message"]


async def test_older_versions_get_their_errors_as_a_string(cartesia: Standin) -> None:
    async with socket(cartesia, headers=KEY | {"Cartesia-Version": "2025-04-16"}) as stream:
        await stream.send("{")
        error = await event(stream)
    assert error["error"].startswith("Bad request: invalid JSON")
    assert "error_code" not in error


async def test_limits_and_made_failures_of_contexts_are_error_events(cartesia: Standin) -> None:
    await cartesia.control(tts_max_contexts=1, tts_realtime_factor=1.0)
    async with socket(cartesia) as stream:
        await stream.send(request("the first takes a while to say", context_id="a"))
        await stream.send(request("no", context_id="b"))
        error = (await until(stream, "error"))[-1]
        assert (error["status_code"], error["error_code"], error["context_id"]) == (429, "concurrency_limited", "b")
        await cartesia.control(tts_error_code=500)
        await stream.send(request("no", context_id="c"))
        error = (await until(stream, "error"))[-1]
        assert (error["status_code"], error["context_id"]) == (500, "c")


async def test_latencies_are_those_that_were_set() -> None:
    async with running("cartesia", connect_ms=80, tts_first_byte_ms=120) as cartesia:
        begun = time.monotonic()
        async with socket(cartesia) as stream:
            assert time.monotonic() - begun >= 0.08 - TIMER_S
            begun = time.monotonic()
            sentence = "one two three four five six seven eight nine ten"
            await stream.send(request(sentence))
            await event(stream)
            assert time.monotonic() - begun >= 0.12 - TIMER_S
            await until(stream)
            spoken = sum(map(modem.duration_s, sentence.split()))
            assert time.monotonic() - begun >= 0.12 + (spoken - 0.2) / 10 - TIMER_S


# Both sockets


@pytest.mark.parametrize("path", ["/tts/websocket", STT])
@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        (KEY, "", 101),
        ({"Authorization": "Bearer made-up", "Cartesia-Version": "2026-08-14"}, "", 101),
        ({}, "access_token=made-up&cartesia_version=2026-03-01", 101),
        ({}, "", 401),
        ({"X-API-Key": "another"}, "", 401),
    ],
)
async def test_an_upgrade_needs_a_key_in_one_of_three_places(
    cartesia: Standin, path: str, headers: dict[str, str], query: str, status: int
) -> None:
    await cartesia.control(api_key="made-up")
    path = f"{path}{'&' if '?' in path else '?'}{query}" if query else path
    if status == 101:
        async with socket(cartesia, path, headers) as stream:
            assert stream.response is not None
            assert "x-request-id" in stream.response.headers
        return
    with pytest.raises(InvalidStatus) as refused:
        await socket(cartesia, path, headers)
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"")["error_code"] == "unauthorized"


async def test_connection_limits_and_refusals_are_http_answers(cartesia: Standin) -> None:
    await cartesia.control(tts_max_connections=1)
    async with socket(cartesia), socket(cartesia, STT):
        with pytest.raises(InvalidStatus) as refused:
            await socket(cartesia)
        assert refused.value.response.status_code == 429
        assert (await cartesia.state())["counters"]["tts_open"] == 1
    await cartesia.control(refuse_status=503)
    for path in ("/tts/websocket", STT):
        with pytest.raises(InvalidStatus) as refused:
            await socket(cartesia, path)
        assert refused.value.response.status_code == 503


@pytest.mark.parametrize("kind", ["tts", "stt"])
async def test_idle_sockets_are_closed_and_busy_ones_are_not(cartesia: Standin, kind: str) -> None:
    await cartesia.control(close_code=1000, **{f"{kind}_idle_close_s": 0.2})
    async with socket(cartesia, "/tts/websocket" if kind == "tts" else STT) as stream:
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(stream.recv(), DEADLINE_S)
        assert stream.close_code == 1000
    # A setting holds for sockets that are already open.
    await cartesia.control(**{f"{kind}_idle_close_s": 0.0})
    async with socket(cartesia, "/tts/websocket" if kind == "tts" else STT) as stream:
        await cartesia.control(**{f"{kind}_idle_close_s": 0.1})
        await asyncio.wait_for(stream.wait_closed(), DEADLINE_S)


async def test_close_all_closes_what_is_named_with_the_code_that_is_set(cartesia: Standin) -> None:
    async with socket(cartesia) as tts, socket(cartesia, STT) as stt:
        await cartesia.control(close_all="tts", close_code=1011)
        await asyncio.wait_for(tts.wait_closed(), DEADLINE_S)
        assert tts.close_code == 1011
        await stt.send("finalize")
        assert (await event(stt))["type"] == "flush_done"
        await cartesia.control(close_all="all", close_code=1000)
        await asyncio.wait_for(stt.wait_closed(), DEADLINE_S)
        assert stt.close_code == 1000
    async with asyncio.timeout(DEADLINE_S):
        while (counters := (await cartesia.state())["counters"])["tts_open"] + counters["stt_open"]:
            pass


async def test_faults_may_end_after_so_many_times(cartesia: Standin) -> None:
    await cartesia.control(refuse_status=429, refuse_kind="stt", refuse_next=1)
    async with socket(cartesia):
        with pytest.raises(InvalidStatus):
            await socket(cartesia, STT)
    async with socket(cartesia, STT) as stream:
        await cartesia.control(stt_error_code=500, stt_error_next=1)
        await stream.send("finalize")
        assert (await event(stream))["status_code"] == 500
        await stream.send("finalize")
        assert (await event(stream))["type"] == "flush_done"
    await cartesia.control(tts_error_code=503, tts_error_next=1, drop_tts_after_chunks=1, drop_tts_next=1)
    async with socket(cartesia) as stream:
        await stream.send(request("refused"))
        assert (await event(stream))["status_code"] == 503
        await stream.send(request("cut off", context_id="turn-2"))
        with pytest.raises(ConnectionClosedError):
            await until(stream)
    async with socket(cartesia) as stream:
        await stream.send(request("heard"))
        assert words(audio_of(await until(stream))) == "heard"


async def test_drop_all_cuts_what_is_named(cartesia: Standin) -> None:
    async with socket(cartesia) as tts, socket(cartesia, STT) as stt:
        await cartesia.control(drop_all="tts")
        await asyncio.wait_for(tts.wait_closed(), DEADLINE_S)
        assert tts.close_code == 1006
        await stt.send("finalize")
        assert (await event(stt))["type"] == "flush_done"
        with pytest.raises(StandinFailed, match="drop_all"):
            await cartesia.control(drop_all="voice")


async def test_dropped_sockets_end_without_a_close_frame(cartesia: Standin) -> None:
    await cartesia.control(drop_tts_after_chunks=2, tts_chunk_ms=20, drop_stt_after_s=0.1)
    async with socket(cartesia) as stream:
        await stream.send(request("cut off in the middle"))
        with pytest.raises(ConnectionClosedError):
            await until(stream)
        assert stream.close_code == 1006
    async with socket(cartesia, STT) as stream:
        with pytest.raises(ConnectionClosedError):
            await asyncio.wait_for(stream.recv(), DEADLINE_S)
        assert stream.close_code == 1006


async def test_a_stalled_stand_in_accepts_and_never_answers(cartesia: Standin) -> None:
    await cartesia.control(stall_tts=True, stall_stt=True)
    async with socket(cartesia) as tts, socket(cartesia, STT) as stt:
        await tts.send(request("hello"))
        await stt.send(recording("what-time"))
        await stt.send("finalize")
        await (await tts.ping())  # both were read, and only answered with a pong
        await (await stt.ping())
        await cartesia.control(stall_tts=False)
        await tts.send(request("now", context_id="after"))
        assert (await event(tts))["context_id"] == "after"


# STT


async def test_finalize_answers_what_was_said_since_the_last_final(cartesia: Standin) -> None:
    async with socket(cartesia, STT) as stream:
        await say(stream, bytes(16000) + recording("what-time") + bytes(8000))
        await stream.send("finalize")
        events = await until(stream, "flush_done")
        final = events[-2]
        assert final["is_final"] is True
        assert final["text"] == "What time is it please?"
        assert final["language"] == "en"
        assert final["duration"] == pytest.approx((len(recording("what-time")) + 24000) / 16000, abs=0.001)
        await say(stream, recording("my-code"))
        await stream.send("finalize")
        assert (await until(stream, "flush_done"))[-2]["text"] == " What is my reference code?"
        await stream.send("finalize")
        assert (await event(stream))["type"] == "flush_done"


async def test_interim_transcripts_grow_towards_the_final(cartesia: Standin) -> None:
    await cartesia.control(stt_interim_ms=100)
    async with socket(cartesia, STT) as stream:
        await say(stream, bytes(48000) + recording("book"))
        await stream.send("finalize")
        events = await until(stream, "flush_done")
    texts = [one["text"] for one in events if one["type"] == "transcript"]
    assert [one["is_final"] for one in events if one["type"] == "transcript"] == [False] * (len(texts) - 1) + [True]
    assert len(texts) > 2
    assert all(texts[-1].startswith(text) for text in texts)
    assert texts[-1] == "I would like to book an appointment for Friday."


@pytest.mark.parametrize("word", ["close", "done"])
async def test_close_answers_what_is_left_then_done_and_closes(cartesia: Standin, word: str) -> None:
    await cartesia.control(stt_interim_ms=0)
    async with socket(cartesia, STT) as stream:
        await say(stream, recording("goodbye"))
        await stream.send(word)
        events = await until(stream)
        assert [one["type"] for one in events] == ["transcript", "done"]
        await asyncio.wait_for(stream.wait_closed(), DEADLINE_S)
        assert stream.close_code == 1000


async def test_portuguese_is_understood_where_it_was_asked_for(cartesia: Standin) -> None:
    for language, said in (("pt", True), ("en", False)):
        async with socket(cartesia, STT.replace("language=en", f"language={language}")) as stream:
            await say(stream, recording("pt-hours"))
            await stream.send("finalize")
            text = [one["text"] for one in await until(stream, "flush_done") if one.get("is_final")]
            assert bool(text) == said


async def test_mu_law_is_heard_as_well(cartesia: Standin) -> None:
    async with socket(cartesia, STT.replace("pcm_s16le", "pcm_mulaw")) as stream:
        await stream.send((LEXICON / "yes.ulaw").read_bytes())
        await stream.send("finalize")
        assert (await until(stream, "flush_done"))[-2]["text"] == "Yes."


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("ink-whisper", "pink-whisper", 404),
        ("pcm_s16le", "opus", 400),
        ("8000", "many", 400),
        ("ink-whisper&language=en", "ink-2&language=pt", 400),
    ],
)
async def test_a_wrong_query_is_an_error_event_and_a_close(cartesia: Standin, old: str, new: str, status: int) -> None:
    async with socket(cartesia, STT.replace(old, new)) as stream:
        error = await event(stream)
        assert (error["type"], error["status_code"]) == ("error", status)
        assert error.keys() >= {"title", "message", "error_code", "request_id"}
        await asyncio.wait_for(stream.wait_closed(), DEADLINE_S)


async def test_unknown_commands_and_made_failures_are_errors_and_the_socket_stays(cartesia: Standin) -> None:
    async with socket(cartesia, STT) as stream:
        await stream.send('{"type":"finalize"}')
        assert (await event(stream))["status_code"] == 400
        await cartesia.control(stt_error_code=500)
        await stream.send("finalize")
        assert (await event(stream))["status_code"] == 500
        await cartesia.control(stt_error_code=0)
        await stream.send("finalize")
        assert (await event(stream))["type"] == "flush_done"


async def test_the_final_transcript_comes_after_the_time_that_was_set(cartesia: Standin) -> None:
    await cartesia.control(stt_final_ms=150)
    async with socket(cartesia, STT) as stream:
        await say(stream, recording("yes"))
        begun = time.monotonic()
        await stream.send("finalize")
        await until(stream, "flush_done")
        assert time.monotonic() - begun >= 0.15 - TIMER_S
