"""The media stream from the server's side: messages, play-out, marks, clear, and each way to end."""

from __future__ import annotations

import asyncio
import audioop
import base64
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.standins.carrier_messages import QUIET_FRAME
from tests.standins.carrier_rig import Line, calling, listen, stream_twiml
from tests.standins.modem import encode

if TYPE_CHECKING:
    from tests.standins.carrier_call import Call

SECOND = b"\x10" * 8000


def speech(text: str) -> bytes:
    """Words as the carrier can hear them."""
    return audioop.lin2ulaw(encode(text), 2)


def media(line: Line) -> list[dict[str, Any]]:
    """The media messages of a stream."""
    return [message for message in line.messages if message["event"] == "media"]


async def hang_up(call: Call) -> None:
    await call.hangup()
    await call.ended()


async def test_a_stream_opens_with_connected_and_start_and_counts_its_frames() -> None:
    async with calling() as (server, carrier):
        server.pages["/incoming-call"] = stream_twiml(
            "wss://voice.example.test/media/a.b%2Fc?lost=1", parameters={"from": "+55", "quote": '"\\ é'}
        )
        call = await carrier.dial()
        await call.streaming()
        await call.say(b"\x22" * 800)
        await hang_up(call)
    [line] = server.lines
    sid = call.streams[0].stream_sid
    assert (line.path, line.valid) == ("/media/a.b%2Fc", True)
    assert line.messages[0] == {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    assert line.messages[1] == {
        "event": "start",
        "sequenceNumber": "1",
        "start": {
            "accountSid": carrier.settings.account_sid,
            "streamSid": sid,
            "callSid": call.call_sid,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": {"from": "+55", "quote": '"\\ é'},
        },
        "streamSid": sid,
    }
    frames = media(line)
    assert [frame["media"]["chunk"] for frame in frames] == [str(n) for n in range(1, len(frames) + 1)]
    assert [frame["sequenceNumber"] for frame in frames] == [str(n) for n in range(2, len(frames) + 2)]
    assert [frame["media"]["timestamp"] for frame in frames] == [str(20 * n) for n in range(1, len(frames) + 1)]
    assert {frame["media"]["track"] for frame in frames} == {"inbound"}
    assert {frame["streamSid"] for frame in frames} == {sid}
    assert line.messages[-1] == {
        "event": "stop",
        "sequenceNumber": str(len(frames) + 2),
        "stop": {"accountSid": carrier.settings.account_sid, "callSid": call.call_sid},
        "streamSid": sid,
    }


async def test_what_the_caller_says_arrives_in_frames_of_20_ms_with_silence_around_it() -> None:
    said = bytes(range(1, 251)) * 2
    async with calling() as (server, carrier):
        call = await carrier.dial()
        await call.streaming()
        at = await call.say(said)
        await hang_up(call)
        assert call.streams[0].start_sent is not None
        assert at > call.streams[0].start_sent
    frames = [base64.b64decode(frame["media"]["payload"]) for frame in media(server.lines[0])]
    assert {len(frame) for frame in frames} == {160}
    spoken = [frame for frame in frames if frame != QUIET_FRAME]
    assert b"".join(spoken) == said + QUIET_FRAME[: 640 - len(said)]


async def test_a_key_press_has_its_own_spelling_of_the_track() -> None:
    async with calling() as (server, carrier):
        call = await carrier.dial()
        await call.streaming()
        await call.dtmf("5")
        await hang_up(call)
    [press] = [message for message in server.lines[0].messages if message["event"] == "dtmf"]
    assert press["dtmf"] == {"track": "inbound_track", "digit": "5"}
    assert press["streamSid"] == call.streams[0].stream_sid


async def test_the_caller_hears_the_words_played_and_marks_come_back_after_them() -> None:
    async def agent(line: Line) -> None:
        await line.until("start")
        audio = speech("hello there")
        for at in range(0, len(audio), 1600):
            await line.play(audio[at : at + 1600])
        await line.mark("greeting")
        await listen(line)

    async with calling() as (server, carrier):
        server.agent = agent
        call = await carrier.dial()
        heard = await call.hears(lambda playout: playout.text() == "hello there")
        assert heard.duration_s > 0
        await call.hears(lambda playout: not playout.playing and playout.quiet_s > 0.05)
        await hang_up(call)
        record = call.record()
    [mark] = record.stream.marks
    duration_s = len(speech("hello there")) / 8000
    assert mark.echoed_at is not None
    assert mark.echoed_at - mark.received_at <= mark.echoed_at - record.stream.media[0].at
    assert mark.echoed_at - record.stream.media[0].at >= duration_s
    assert sum(message.size for message in record.stream.media) == len(speech("hello there"))
    assert record.first_media_received == record.stream.media[0].at
    [echo] = [message for message in server.lines[0].messages if message["event"] == "mark"]
    assert echo["mark"] == {"name": "greeting"}
    assert echo["streamSid"] == record.stream.stream_sid


async def test_clear_stops_the_voice_and_echoes_every_pending_mark_in_order() -> None:
    async def agent(line: Line) -> None:
        await line.until("start")
        await line.mark("at once")
        await line.play(speech("one"))
        await line.mark("1:1")
        await line.play(SECOND * 60)
        await line.mark("1:2")
        await line.until("dtmf")
        await line.send("clear")
        await listen(line)

    async with calling() as (server, carrier):
        server.agent = agent
        call = await carrier.dial()
        await call.hears(lambda playout: playout.text() == "one" and playout.duration_s > 1)
        await call.dtmf("1")
        await call.hears(lambda playout: not playout.playing)
        await hang_up(call)
        stream = call.record().stream
    assert [mark.name for mark in stream.marks] == ["at once", "1:1", "1:2"]
    assert [mark.cleared for mark in stream.marks] == [False, False, True]
    assert len(stream.clears) == 1
    assert call.heard.duration_s < 60
    echoes = [message["mark"]["name"] for message in server.lines[0].messages if message["event"] == "mark"]
    assert echoes == ["at once", "1:1", "1:2"]
    numbers = [int(message["sequenceNumber"]) for message in server.lines[0].messages[1:]]
    assert all(after == before + 1 for before, after in pairwise(numbers))


async def test_audio_beyond_the_limit_is_discarded_with_one_warning() -> None:
    async def agent(line: Line) -> None:
        await line.until("start")
        for _ in range(3):
            await line.play(SECOND)
        await line.mark("end")
        await listen(line)

    async with calling(buffer_limit_s=1.0) as (server, carrier):
        server.agent = agent
        call = await carrier.dial()
        await call.hears(lambda playout: playout.duration_s > 0.9 and not playout.playing)
        await hang_up(call)
    assert call.record().codes.count(31931) == 1
    assert call.heard.duration_s < 2.5


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"event": "media", "streamSid": "MZother", "media": {"payload": "AAAA"}}, 31951),
        ({"event": "media", "media": {"payload": "AAAA"}}, 31951),
        ({"event": "dance", "streamSid": "$"}, 31951),
        ({"event": "media", "streamSid": "$"}, 31951),
        ({"event": "mark", "streamSid": "$", "mark": {}}, 31951),
        ({"event": "media", "streamSid": "$", "media": {"payload": "not base64!"}}, 31951),
        ("{", 31950),
        (b"binary", 31950),
    ],
)
async def test_a_bad_message_is_one_warning_and_ignored(message: Any, code: int) -> None:
    async def agent(line: Line) -> None:
        await line.until("start")
        for _ in range(2):
            if isinstance(message, bytes):
                await line.socket.send_bytes(message)
            elif isinstance(message, str):
                await line.socket.send_text(message)
            else:
                await line.socket.send_json(
                    {key: line.stream_sid if value == "$" else value for key, value in message.items()}
                )
        await line.mark("still here")
        await line.until("mark")
        await line.socket.close()

    async with calling() as (server, carrier):
        server.agent = agent
        record = await (await carrier.dial()).ended()
    assert record.codes == (code, 31921)
    assert record.stream.invalid_messages == 2
    assert record.stream.media == []


async def test_a_close_by_the_server_is_recorded_with_code_and_reason() -> None:
    async def agent(line: Line) -> None:
        await line.until("media")
        await line.socket.close(4001, "ticket_mismatch")

    async with calling() as (server, carrier):
        server.agent = agent
        record = await (await carrier.dial()).ended()
    stream = record.stream
    assert (stream.closed_by, stream.close_code, stream.close_reason) == ("server", 4001, "ticket_mismatch")
    assert "stop" not in server.lines[0].events()


@pytest.mark.parametrize("goes_on", [True, False])
async def test_an_abrupt_loss_is_31903_and_the_document_goes_on_as_set(*, goes_on: bool) -> None:
    async def agent(line: Line) -> None:
        await line.until("media")
        line.socket.scope["state"]["transport"].abort()

    async with calling(continue_after_loss=goes_on) as (server, carrier):
        server.agent = agent
        server.pages["/incoming-call"] = stream_twiml(after=lambda made: made.say("Afterwards."))
        record = await (await carrier.dial()).ended()
    assert record.codes == (31903,)
    assert record.stream.closed_by == "lost"
    assert record.said() == (("Afterwards.",) if goes_on else ())


async def test_what_was_buffered_when_the_stream_ends_is_never_heard() -> None:
    async def agent(line: Line) -> None:
        await line.until("start")
        await line.play(SECOND * 60)
        await line.until("media")
        await line.socket.close()

    async with calling() as (server, carrier):
        server.agent = agent
        call = await carrier.dial()
        await call.ended()
    assert call.heard.duration_s < 60


async def test_the_caller_hangs_up_between_twiml_and_upgrade() -> None:
    async with calling(answer_delay_s=600) as (server, carrier):
        call = await carrier.dial()
        await call.answered()
        await call.hangup()
        record = await call.ended()
    assert (record.outcome, record.streams, server.lines) == ("completed", (), [])


async def test_a_server_that_never_answers_the_upgrade_is_31901() -> None:
    async with calling(upgrade_timeout_s=0.3) as (server, carrier):
        server.hold_upgrade = asyncio.Event()
        record = await (await carrier.dial()).ended()
        server.hold_upgrade.set()
    assert record.codes == (31901,)
    assert record.stream.upgrade_status == 0


async def test_the_upgrade_can_be_tried_with_a_bad_signature_alone() -> None:
    async with calling() as (server, carrier):
        url = "wss://voice.example.test/media/ticket"
        assert await carrier.upgrade_status(url) == 101
        assert await carrier.upgrade_status(url, "wrong") == 403
        assert await carrier.upgrade_status(url, "missing") == 403
    assert [line.valid for line in server.lines] == [True, False, False]
