"""The turns socket of the Cartesia stand-in: on the wire, by the vendor's SDK and by Pipecat's service."""

from __future__ import annotations

import asyncio
import audioop
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from cartesia import AsyncCartesia
from pipecat.frames.frames import (
    EagerEndOfTurnCancelFrame,
    EagerTranscriptionFrame,
    InterimTranscriptionFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    TranscriptionFrame,
)
from pipecat.services.cartesia.turns.stt import CartesiaTurnsSTTService
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from shared.clips import load_clip
from tests.stack import LEXICON
from tests.standins.pipecat_rig import frames_of, of_kind, piped
from tests.standins.process import Standin, started

DEADLINE_S = 30
SOCKET = "/stt/turns/websocket?model=ink-2&encoding=pcm_s16le&sample_rate=8000"
SILENCE_S = 16_000  # bytes


@pytest.fixture(scope="module")
def process() -> Iterator[Standin]:
    """One process for all tests: starting one costs more than most of them."""
    with started("cartesia", connect_ms=0, lexicon=LEXICON) as standin:
        yield standin


@pytest.fixture
async def cartesia(process: Standin) -> AsyncIterator[Standin]:
    """The stand-in with the settings it was started with, whatever a test does to them."""
    settings = (await process.state())["settings"]
    yield process
    await process.control(**settings, close_all="all", reset=True)


def recording(name: str) -> bytes:
    """Give a recording as PCM."""
    return audioop.ulaw2lin(load_clip(LEXICON / f"{name}.ulaw").audio, 2)


def socket(standin: Standin, path: str = SOCKET) -> connect:
    """Connect as a client of the vendor does."""
    key = {"X-API-Key": "made-up", "Cartesia-Version": "2026-03-01"}
    return connect(f"ws://127.0.0.1:{standin.port}{path}", additional_headers=key, compression=None)


async def event(stream: ClientConnection) -> dict[str, Any]:
    """Read an event."""
    async with asyncio.timeout(DEADLINE_S):
        message: dict[str, Any] = json.loads(await stream.recv())
        return message


async def until(stream: ClientConnection, kind: str = "turn.end") -> list[dict[str, Any]]:
    """Read events up to one of a kind."""
    events = [await event(stream)]
    while events[-1]["type"] != kind:
        events.append(await event(stream))
    return events


async def say(stream: ClientConnection, pcm: bytes) -> None:
    """Send audio in pieces that are no multiple of anything."""
    for at in range(0, len(pcm), 1502):
        await stream.send(pcm[at : at + 1502])


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """Name events, the ones in between left out."""
    return [one["type"] for one in events if one["type"] != "turn.update"]


async def test_a_turn_has_a_beginning_growing_words_and_an_end(cartesia: Standin) -> None:
    async with socket(cartesia) as stream:
        assert (await event(stream)).keys() == {"type", "request_id"}
        await say(stream, recording("book") + bytes(SILENCE_S))
        events = await until(stream)
        await say(stream, recording("yes") + bytes(SILENCE_S))
        second = await until(stream)
    assert kinds(events) == ["turn.start", "turn.eager_end", "turn.end"]
    said = [one["transcript"] for one in events if "transcript" in one]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(said))
    assert said[0] != said[-1] == "I would like to book an appointment for Friday."
    assert second[-1]["transcript"] == "Yes."
    assert {one["request_id"] for one in events} == {second[0]["request_id"]}


async def test_a_turn_goes_on_after_a_pause_within_a_sentence_and_after_one_behind_it(cartesia: Standin) -> None:
    await cartesia.control(stt_turn_end_ms=600)
    said = recording("book")
    middle = len(said) // 4 * 2
    async with socket(cartesia) as stream:
        await say(stream, said[:middle] + bytes(SILENCE_S) + said[middle:] + bytes(2560))
        await say(stream, recording("yes") + bytes(SILENCE_S))
        events = await until(stream)
    assert kinds(events)[1:] == ["turn.start", "turn.eager_end", "turn.resume", "turn.eager_end", "turn.end"]
    assert events[-1]["transcript"] == "I would like to book an appointment for Friday. Yes."


async def test_an_unfinished_turn_ends_after_the_time_the_client_said(cartesia: Standin) -> None:
    half = recording("book")[: len(recording("book")) // 4 * 2]
    async with socket(cartesia, SOCKET + "&turn_end_timeout_ms=640") as stream:
        await say(stream, half + bytes(SILENCE_S))
        assert kinds(await until(stream))[1:] == ["turn.start", "turn.end"]
        await stream.send(json.dumps({"type": "config", "turn": {"end_timeout_ms": 5600}}))
        await say(stream, half + bytes(2 * SILENCE_S))
        await stream.send(json.dumps({"type": "close"}))
        assert kinds(await until(stream)) == ["turn.start", "turn.end"], "what is heard is given before the close"
        with pytest.raises(ConnectionClosed):
            await event(stream)


@pytest.mark.parametrize(
    "query",
    [
        "model=ink-whisper",
        "turn_end_threshold=0.9",
        "turn_eager_end_threshold=0.3&turn_end_threshold=0.4",
        "turn_end_timeout_ms=100",
        "turn_start_threshold=high",
        "encoding=mp3",
    ],
)
async def test_settings_that_cannot_be_are_an_error_in_place_of_the_beginning(cartesia: Standin, query: str) -> None:
    path = SOCKET + "&" + query
    if query.startswith(("model", "encoding")):
        path = "/stt/turns/websocket?" + "&".join([query, *SOCKET.partition("?")[2].split("&")])
        path = path.replace("&model=ink-2" if "whisper" in query else "&encoding=pcm_s16le", "")
    async with socket(cartesia, path) as stream:
        refused = await event(stream)
        assert (refused["type"], refused["status_code"]) == ("error", 400)
        with pytest.raises(ConnectionClosed):
            await event(stream)


async def test_a_command_that_is_none_is_an_error(cartesia: Standin) -> None:
    async with socket(cartesia) as stream:
        for said in ("finalize", '{"type":"finalize"}', '{"type":"config","turn":{"end_threshold":7}}'):
            await stream.send(said)
            assert (await until(stream, "error"))[-1]["status_code"] == 400


async def test_faults_are_ordered_as_on_the_other_sockets(cartesia: Standin) -> None:
    await cartesia.control(stt_error_code=500, stt_error_next=1)
    async with socket(cartesia) as stream:
        await say(stream, recording("yes") + bytes(SILENCE_S))
        assert (await until(stream, "error"))[-1]["status_code"] == 500
    await cartesia.control(stall_stt=True)
    async with socket(cartesia) as stream:
        await say(stream, recording("yes") + bytes(SILENCE_S))
        await cartesia.control(drop_all="stt")
        with pytest.raises(ConnectionClosed):
            await event(stream)


async def test_the_sdk_hears_turns(cartesia: Standin) -> None:
    url = f"ws://127.0.0.1:{cartesia.port}"
    async with AsyncCartesia(api_key="made-up", websocket_base_url=url) as sdk, asyncio.timeout(DEADLINE_S):
        listening = sdk.stt.auto_finalize.websocket(
            model="ink-2", encoding="pcm_s16le", sample_rate=8000, turn_end_threshold=0.3, keyterm=["reference code"]
        )
        async with listening as connection:
            await connection.send({"type": "config", "turn": {"end_timeout_ms": 700}})
            for name in ("my-name", "yes"):
                await connection.send_raw(recording(name) + bytes(SILENCE_S))
            await connection.send({"type": "close"})
            events = [one async for one in connection]
    assert [(one.type, one.transcript) for one in events if one.type == "turn.end"] == [
        ("turn.end", "What is my name?"), ("turn.end", "Yes."),
    ]  # fmt: skip
    assert events[0].type == "connected"
    assert {one.type for one in events} >= {"turn.start", "turn.update", "turn.eager_end"}


async def test_the_sdk_reads_a_refusal(cartesia: Standin) -> None:
    url = f"ws://127.0.0.1:{cartesia.port}"
    async with AsyncCartesia(api_key="made-up", websocket_base_url=url) as sdk, asyncio.timeout(DEADLINE_S):
        listening = sdk.stt.auto_finalize.websocket(model="ink-1", encoding="pcm_s16le", sample_rate=8000)
        async with listening as connection:
            refused = await connection.recv()
    assert refused.type == "error"
    assert refused.status_code == 400


async def test_pipecat_hears_turns(cartesia: Standin) -> None:
    await cartesia.control(stt_turn_end_ms=600)
    service = CartesiaTurnsSTTService(
        api_key="made-up",
        url=f"ws://127.0.0.1:{cartesia.port}/stt/turns/websocket",
        enable_eager_end_of_turn=True,
        settings=CartesiaTurnsSTTService.Settings(
            turn_start_threshold=0.8, turn_eager_end_threshold=0.6, turn_end_threshold=0.3, turn_end_timeout_ms=5600
        ),
    )
    async with piped(service) as rig:
        await rig.send(*frames_of(recording("book") + bytes(2560) + recording("yes") + bytes(SILENCE_S)))
        frames = await rig.until(TranscriptionFrame)
        frames += await rig.until(ProposedUserStoppedSpeakingFrame)
    assert of_kind(frames, ProposedUserStartedSpeakingFrame)
    assert of_kind(frames, InterimTranscriptionFrame)
    assert len(of_kind(frames, EagerTranscriptionFrame)) == 2
    assert of_kind(frames, EagerEndOfTurnCancelFrame)
    final = of_kind(frames, TranscriptionFrame)[0].text
    assert final == "I would like to book an appointment for Friday. Yes."
