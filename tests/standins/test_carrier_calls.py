"""The carrier's webhooks and verbs, against a server that judges with the vendor's library."""

from __future__ import annotations

import asyncio
import audioop
import io
import socket
import wave
from typing import Any

import pytest
from starlette.responses import Response
from twilio.twiml.voice_response import VoiceResponse

from tests.standins.carrier import CallFailed, Carrier, CarrierSettings
from tests.standins.carrier_http import ConnectFailed
from tests.standins.carrier_rig import PUBLIC, Line, calling, stream_twiml


def twiml(*verbs: tuple[str, Any]) -> str:
    """A document of simple verbs, made by the vendor's library."""
    response = VoiceResponse()
    for name, argument in verbs:
        getattr(response, name)(**argument) if isinstance(argument, dict) else getattr(response, name)(argument)
    return str(response)


async def close_at_once(line: Line) -> None:
    await line.until("start")
    await line.socket.close()


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("algorithm", ["HMAC_SHA1", "HMAC_SHA256"])
async def test_the_webhook_is_signed_and_carries_the_standard_parameters(method: str, algorithm: str) -> None:
    async with calling(method=method, algorithm=algorithm, webhook_path="/incoming-call?line=2") as (server, carrier):
        server.pages["/incoming-call"] = twiml(("hangup", {}))
        call = await carrier.dial(from_="+5511988887777", to="+15550001111", call_sid="CA" + "1" * 32)
        record = await call.ended()
    [received] = server.received
    assert (received.valid, received.method) == (True, method)
    expected = {
        "CallSid": "CA" + "1" * 32,
        "AccountSid": carrier.settings.account_sid,
        "From": "+5511988887777",
        "To": "+15550001111",
        "CallStatus": "ringing",
        "ApiVersion": "2010-04-01",
        "Direction": "inbound",
        "Caller": "+5511988887777",
        "FromCountry": "BR",
        "line": "2",
    }
    assert expected.items() <= received.params.items()
    assert received.headers["i-twilio-idempotency-token"]
    assert received.headers["host"] == "voice.example.test"
    assert record.outcome == "completed"
    assert record.webhook_sent is not None
    assert record.webhook_answered is not None
    assert record.webhook_sent <= record.webhook_answered


@pytest.mark.parametrize("sign", ["missing", "wrong"])
async def test_a_forged_webhook_is_recognisable_and_its_refusal_ends_the_call(sign: Any) -> None:
    async with calling() as (server, carrier):
        server.pages["/incoming-call"] = lambda received: (
            twiml(("hangup", {})) if received.valid else Response(status_code=403)
        )
        call = await carrier.dial(sign=sign)
        record = await call.ended()
        assert (await carrier.webhook(sign=sign)).status == 403
        assert (await carrier.webhook({"From": "+1"})).status == 200
    assert record.outcome == "failed"
    assert record.codes == (11200,)
    assert record.exchanges[0].status == 403


async def test_a_repeated_webhook_has_the_same_token_and_call() -> None:
    async with calling() as (server, carrier):
        server.pages["/incoming-call"] = twiml(("hangup", {}))
        call = await carrier.dial()
        await call.ended()
        await carrier.repeat_webhook(call)
        await carrier.repeat_webhook(call, same_token=False)
    tokens = [received.headers["i-twilio-idempotency-token"] for received in server.received]
    assert tokens[0] == tokens[1] != tokens[2]
    assert len({received.params["CallSid"] for received in server.received}) == 1
    assert all(received.valid for received in server.received)


async def test_a_webhook_nobody_accepts_is_tried_twice_and_then_fails() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        async with Carrier(CarrierSettings(target=f"http://127.0.0.1:{closed.getsockname()[1]}")) as carrier:
            call = await carrier.dial()
            record = await call.ended()
            assert (record.outcome, record.codes) == ("failed", (11205,))
            with pytest.raises(ConnectFailed):
                await carrier.webhook()


async def test_the_fallback_url_is_told_what_went_wrong() -> None:
    async with calling(fallback_url="/sorry") as (server, carrier):
        server.pages["/incoming-call"] = Response("oops", 500)
        server.pages["/sorry"] = twiml(("say", "Sorry."))
        record = await (await carrier.dial()).ended()
    [received] = server.at("/sorry")
    assert received.valid
    assert received.params["ErrorCode"] == "11200"
    assert received.params["ErrorUrl"] == PUBLIC + "/incoming-call"
    assert (record.outcome, record.said()) == ("completed", ("Sorry.",))


@pytest.mark.parametrize(
    ("page", "code"),
    [
        (Response("<Response>", media_type="text/xml"), 12100),
        (Response("hello", media_type="text/plain"), 12300),
        (Response("", status_code=302, headers={"location": "/x"}), 11200),
    ],
)
async def test_an_unusable_answer_ends_the_call_with_the_vendors_error(page: Response, code: int) -> None:
    async with calling() as (server, carrier):
        server.pages["/incoming-call"] = page
        record = await (await carrier.dial()).ended()
    assert (record.outcome, record.codes) == ("failed", (code,))


async def test_a_slow_webhook_runs_into_the_time_limit() -> None:
    async def answer_nothing(reader: Any, writer: Any) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer_nothing, "127.0.0.1", 0) as server:
        target = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Carrier(CarrierSettings(target=target, webhook_timeout_s=0.2)) as carrier:
            record = await (await carrier.dial()).ended()
    assert (record.outcome, record.codes) == ("failed", (11205,))


async def test_reject_does_not_answer() -> None:
    async with calling(status_callback="/call-status") as (server, carrier):
        server.pages["/call-status"] = Response("")
        server.pages["/incoming-call"] = twiml(("reject", {"reason": "busy"}))
        record = await (await carrier.dial()).ended()
        server.pages["/incoming-call"] = twiml(("reject", {}))
        other = await (await carrier.dial()).ended()
    assert (record.outcome, record.duration_s) == ("busy", 0.0)
    assert other.outcome == "no-answer"
    assert [received.params["CallStatus"] for received in server.at("/call-status")] == ["busy", "no-answer"]


async def test_reject_after_another_verb_only_hangs_up() -> None:
    async with calling() as (server, carrier):
        server.pages["/incoming-call"] = twiml(("say", "Hello."), ("reject", {"reason": "busy"}))
        assert (await (await carrier.dial()).ended()).outcome == "completed"


async def test_say_pause_redirect_and_hangup_run_in_order() -> None:
    async with calling() as (server, carrier):
        server.pages["/incoming-call"] = twiml(
            ("say", {"message": "Hold on.", "language": "en-US"}), ("pause", {"length": 5}), ("redirect", "hold?n=1")
        )
        server.pages["/hold"] = twiml(("say", "Still there?"), ("hangup", {}), ("say", "never"))
        record = await (await carrier.dial()).ended()
    assert record.verbs == ("Say", "Pause", "Redirect", "Say", "Hangup")
    assert record.said() == ("Hold on.", "Still there?")
    assert record.spoken[0].language == "en-US"
    [hold] = server.at("/hold")
    assert (hold.valid, hold.params["n"], hold.params["CallStatus"]) == (True, "1", "in-progress")
    assert len(record.documents) == 2


async def test_real_verbs_take_their_time() -> None:
    async with calling(fast_verbs=False) as (server, carrier):
        server.pages["/incoming-call"] = twiml(("pause", {"length": 1}))
        assert (await (await carrier.dial()).ended()).duration_s >= 1.0


async def test_a_hang_up_ends_a_pause() -> None:
    async with calling(fast_verbs=False) as (server, carrier):
        server.pages["/incoming-call"] = twiml(("pause", {"length": 600}), ("say", "never"))
        call = await carrier.dial()
        await call.answered()
        await call.hangup()
        record = await call.ended()
    assert (record.outcome, record.ended_by, record.said()) == ("completed", "caller", ())


async def test_documents_that_lead_to_each_other_for_ever_are_ended() -> None:
    async with calling(verb_limit=20) as (server, carrier):
        server.pages["/incoming-call"] = twiml(("redirect", "/incoming-call"))
        assert (await (await carrier.dial()).ended()).outcome == "failed"


def wav(rate: int = 8000, channels: int = 1) -> bytes:
    """A tenth of a second of PCM in a WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(b"\x00\x10" * (rate // 10) * channels)
    return out.getvalue()


async def test_play_fetches_and_decodes_our_clips() -> None:
    async with calling() as (server, carrier):
        server.pages["/clips/hold.wav"] = Response(wav(), media_type="audio/wav")
        server.pages["/incoming-call"] = twiml(
            ("play", PUBLIC + "/clips/hold.wav"), ("play", "https://elsewhere.test/x.mp3")
        )
        record = await (await carrier.dial()).ended()
    assert record.spoken[0].audio == audioop.lin2ulaw(b"\x00\x10" * 800, 2)
    assert record.said() == (PUBLIC + "/clips/hold.wav", "https://elsewhere.test/x.mp3")
    assert server.at("/clips/hold.wav")[0].method == "GET"
    assert record.codes == ()


@pytest.mark.parametrize(
    ("clip", "code"),
    [
        (Response("gone", 404), 11200),
        (Response(wav(), media_type="text/html"), 12300),
        (Response(b"no audio", media_type="audio/wav"), 12300),
        (Response(wav(rate=16000), media_type="audio/wav"), 12300),
        (Response(wav(channels=2), media_type="audio/wav"), 12300),
    ],
)
async def test_a_clip_that_cannot_be_played_is_an_error_and_the_call_goes_on(clip: Response, code: int) -> None:
    async with calling() as (server, carrier):
        server.pages["/clip"] = clip
        server.pages["/incoming-call"] = twiml(("play", PUBLIC + "/clip"), ("say", "Go on."))
        record = await (await carrier.dial()).ended()
    assert (record.codes, record.said(), record.outcome) == ((code,), ("Go on.",), "completed")


async def test_dial_is_written_down_and_its_action_hears_the_result() -> None:
    async with calling(dial_result="completed", dial_seconds=7.0) as (server, carrier):
        server.pages["/incoming-call"] = twiml(("dial", {"number": "+15550002222", "action": "/dialled"}))
        server.pages["/dialled"] = twiml(("say", "Welcome back."))
        record = await (await carrier.dial()).ended()
    [received] = server.at("/dialled")
    assert record.dialled == ("+15550002222",)
    assert (received.params["DialCallStatus"], received.params["DialCallDuration"]) == ("completed", "7")
    assert record.said() == ("Welcome back.",)


async def test_an_unknown_verb_is_noted_and_skipped() -> None:
    async with calling() as (server, carrier):
        server.pages["/incoming-call"] = twiml(("record", {}), ("say", "Go on."))
        record = await (await carrier.dial()).ended()
    assert (record.codes, record.said()) == ((12200,), ("Go on.",))


async def test_the_action_of_connect_is_asked_when_the_server_closes_and_the_document_goes_no_further() -> None:
    async with calling() as (server, carrier):
        server.agent = close_at_once
        server.pages["/incoming-call"] = stream_twiml(action="/ended/x", after=lambda made: made.say("never"))
        server.pages["/ended/x"] = twiml(("say", "Goodbye."))
        record = await (await carrier.dial()).ended()
    [received] = server.at("/ended/x")
    assert (received.valid, received.params["CallStatus"]) == (True, "in-progress")
    assert (record.said(), record.codes) == (("Goodbye.",), (31921,))
    assert (record.stream.closed_by, record.stream.close_code) == ("server", 1000)


async def test_without_action_the_verb_after_connect_runs() -> None:
    async with calling() as (server, carrier):
        server.agent = close_at_once
        server.pages["/incoming-call"] = stream_twiml(after=lambda made: made.say("Afterwards."))
        assert (await (await carrier.dial()).ended()).said() == ("Afterwards.",)


async def test_a_second_stream_of_one_call_has_another_sid() -> None:
    async with calling() as (server, carrier):
        server.agent = close_at_once
        server.pages["/incoming-call"] = stream_twiml(action="/again")
        server.pages["/again"] = lambda _: stream_twiml() if len(server.lines) < 2 else twiml(("hangup", {}))
        call = await carrier.dial()
        await call.streaming(1)
        record = await call.ended()
    first, second = record.streams
    assert first.stream_sid != second.stream_sid
    assert {line.stream_sid for line in server.lines} == {first.stream_sid, second.stream_sid}


async def test_when_the_caller_hangs_up_the_action_is_told_and_not_followed() -> None:
    async with calling() as (server, carrier):
        server.pages["/incoming-call"] = stream_twiml(action="/ended", after=lambda made: made.say("never"))
        server.pages["/ended"] = twiml(("say", "never"))
        call = await carrier.dial()
        await call.streaming()
        await call.hangup()
        record = await call.ended()
    [received] = server.at("/ended")
    assert (received.params["CallStatus"], record.said(), record.ended_by) == ("completed", (), "caller")
    assert server.lines[0].events()[-1] == "stop"


async def test_stream_status_callbacks_are_posted_and_signed() -> None:
    async with calling() as (server, carrier):
        server.agent = close_at_once
        server.pages["/status"] = Response("")
        server.pages["/incoming-call"] = stream_twiml(name="c1", status_callback=PUBLIC + "/status")
        record = await (await carrier.dial()).ended()
    events = [received.params["StreamEvent"] for received in server.at("/status")]
    assert sorted(events) == ["stream-error", "stream-started", "stream-stopped"]
    assert all(received.valid for received in server.at("/status"))
    assert server.at("/status")[0].params["StreamSid"] == record.stream.stream_sid
    assert server.at("/status")[0].params["StreamName"] == "c1"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ws://voice.example.test/media/x", 31922),
        ("https://voice.example.test/media/x", 31922),
        ("wss://elsewhere.test/media/x", 31902),
    ],
)
async def test_a_stream_url_twilio_would_not_dial_is_not_dialled(url: str, code: int) -> None:
    async with calling() as (server, carrier):
        server.pages["/incoming-call"] = stream_twiml(url, after=lambda made: made.say("Afterwards."))
        record = await (await carrier.dial()).ended()
    assert (record.codes, record.said(), server.lines) == ((code,), ("Afterwards.",), [])


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_refused_upgrade_is_31920_and_the_document_goes_on_as_set(*, goes_on: bool) -> None:
    async with calling(continue_after_refusal=goes_on) as (server, carrier):
        server.refuse_upgrade = 503
        server.pages["/incoming-call"] = stream_twiml(after=lambda made: made.say("Afterwards."))
        call = await carrier.dial()
        record = await call.ended()
        with pytest.raises(CallFailed, match="31920"):
            await call.streaming()
    assert record.codes == (31920,)
    assert "503" in record.notices[0].text
    assert record.stream.upgrade_status == 503
    assert record.said() == (("Afterwards.",) if goes_on else ())


async def test_waiting_for_what_never_happens_says_what_did() -> None:
    async with calling() as (server, carrier):
        server.pages["/incoming-call"] = twiml(("hangup", {}))
        call = await carrier.dial()
        await call.ended()
        with pytest.raises(CallFailed, match="verbs Hangup"):
            await call.streaming()
        with pytest.raises(CallFailed, match="is over"):
            await call.hears(lambda heard: heard.duration_s > 0)
        with pytest.raises(CallFailed):
            await call.say(b"x")


async def test_many_calls_at_once_all_get_through() -> None:
    async with calling() as (server, carrier):
        calls = await asyncio.gather(*(carrier.dial() for _ in range(20)))
        await asyncio.gather(*(call.streaming() for call in calls))
        records = await carrier.hangup_all()
    assert {record.outcome for record in records} == {"completed"}
    assert len({line.stream_sid for line in server.lines}) == 20
