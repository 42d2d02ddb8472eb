"""The carrier as a process: the vendor's client drives its REST API, `/_calls` and `/_control` drive the rest."""

from __future__ import annotations

import asyncio
import audioop
import http.client
import json
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import Response
from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client

from tests.standins.carrier_process import read_faults
from tests.standins.carrier_rig import PUBLIC, TOKEN, Line, Rig, listen, rig, stream_twiml
from tests.standins.carrier_script import parse_script
from tests.standins.carrier_settings import CallFaults, CarrierSettings
from tests.standins.modem import encode
from tests.standins.process import Standin, StandinFailed, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ACCOUNT = CarrierSettings().account_sid
DEADLINE_S = 30.0


@pytest.fixture
async def server() -> AsyncIterator[Rig]:
    async with rig() as made:
        yield made


@pytest.fixture
async def carrier(server: Rig) -> AsyncIterator[Standin]:
    flags: dict[str, Any] = {
        "target": server.target,
        "public_base_url": PUBLIC,
        "auth_token": TOKEN,
        "fast_verbs": True,
    }
    async with running("carrier", close_wait_s=0.5, **flags) as made:
        yield made


def client_of(carrier: Standin, token: str = TOKEN) -> Client:
    """The vendor's client, pointed at the stand-in."""
    client = Client(ACCOUNT, token)
    client.api.base_url = carrier.url
    return client


def ask(carrier: Standin, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One JSON request."""
    connection = http.client.HTTPConnection("127.0.0.1", carrier.port, timeout=DEADLINE_S)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


async def over(carrier: Standin, call_sid: str) -> Any:
    """The record of a call, when it has ended."""
    return (await asyncio.to_thread(ask, carrier, "GET", f"/_calls/{call_sid}/ended"))[1]


async def until_streaming(server: Rig) -> None:
    """Wait for a stream to reach `start`."""
    await server.until(lambda: any(line.stream_sid for line in server.lines))


async def test_a_call_made_with_the_vendors_client_runs_its_url(server: Rig, carrier: Standin) -> None:
    server.pages["/voice"] = stream_twiml()
    client = client_of(carrier)
    made = await asyncio.to_thread(client.calls.create, to="+15550002222", from_="+15550001111", url=PUBLIC + "/voice")
    assert made.sid.startswith("CA")
    assert (made.direction, made.to) == ("outbound-api", "+15550002222")
    await until_streaming(server)
    [received] = server.at("/voice")
    assert (received.valid, received.params["Direction"]) == (True, "outbound-api")
    assert received.params["CallSid"] == made.sid
    assert (await asyncio.to_thread(client.calls(made.sid).fetch)).status == "in-progress"
    await asyncio.to_thread(client.calls(made.sid).update, status="completed")
    await over(carrier, made.sid or "")
    shown = await asyncio.to_thread(client.calls(made.sid).fetch)
    assert shown.status == "completed"
    assert int(shown.duration) >= 0
    assert shown.start_time <= shown.end_time
    assert server.lines[0].events()[-1] == "stop"


async def test_an_update_with_twiml_leaves_the_stream_and_runs_it(server: Rig, carrier: Standin) -> None:
    server.pages["/incoming-call"] = stream_twiml(action="/ended", after=lambda made: made.say("never"))
    client = client_of(carrier)
    _, placed = await asyncio.to_thread(ask, carrier, "POST", "/_calls", {})
    await until_streaming(server)
    await asyncio.to_thread(client.calls(placed["call_sid"]).update, twiml="<Response><Say>Moved.</Say></Response>")
    ended = await over(carrier, placed["call_sid"])
    assert [spoken["text"] for spoken in ended["spoken"]] == ["Moved."]
    assert server.lines[0].events()[-1] == "stop"
    assert server.at("/ended") == []


async def test_an_update_with_a_url_fetches_it(server: Rig, carrier: Standin) -> None:
    server.pages["/moved"] = "<Response><Say>Moved.</Say></Response>"
    client = client_of(carrier)
    _, placed = await asyncio.to_thread(ask, carrier, "POST", "/_calls", {})
    await until_streaming(server)
    await asyncio.to_thread(client.calls(placed["call_sid"]).update, url=PUBLIC + "/moved", method="GET")
    await over(carrier, placed["call_sid"])
    assert (server.at("/moved")[0].method, server.at("/moved")[0].valid) == ("GET", True)


async def test_an_action_in_updated_twiml_must_be_absolute(server: Rig, carrier: Standin) -> None:
    client = client_of(carrier)
    _, placed = await asyncio.to_thread(ask, carrier, "POST", "/_calls", {})
    await until_streaming(server)
    twiml = '<Response><Dial action="/relative">+15550003333</Dial></Response>'
    await asyncio.to_thread(client.calls(placed["call_sid"]).update, twiml=twiml)
    ended = await over(carrier, placed["call_sid"])
    assert [notice["code"] for notice in ended["notices"]] == [15004]


async def test_the_status_callback_follows_an_outbound_call(server: Rig, carrier: Standin) -> None:
    server.pages["/events"] = Response("")
    client = client_of(carrier)
    await asyncio.to_thread(
        client.calls.create,
        to="+15550002222",
        from_="+15550001111",
        twiml="<Response><Hangup/></Response>",
        status_callback=PUBLIC + "/events",
        status_callback_event=["initiated", "answered", "completed"],
    )
    await server.until(lambda: len(server.at("/events")) == 3)
    events = [received.params for received in server.at("/events")]
    assert [event["CallStatus"] for event in events] == ["ringing", "in-progress", "completed"]
    assert [event["SequenceNumber"] for event in events] == ["0", "1", "2"]
    assert all(received.valid for received in server.at("/events"))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"to": "", "url": "https://x"}, 21201),
        ({"from_": "", "url": "https://x"}, 21213),
        ({}, 21205),
        ({"twiml": "<Response>"}, 12100),
        ({"twiml": "<Response>" + " " * 4000 + "</Response>"}, 32018),
    ],
)
async def test_a_call_that_cannot_be_made_is_refused_with_the_vendors_code(
    carrier: Standin, fields: dict[str, str], code: int
) -> None:
    made = {"to": "+15550002222", "from_": "+15550001111", **fields}
    with pytest.raises(TwilioRestException) as refused:
        await asyncio.to_thread(client_of(carrier).calls.create, **made)
    assert (refused.value.status, refused.value.code) == (400, code)


async def test_unknown_calls_wrong_tokens_and_finished_calls_are_refused(server: Rig, carrier: Standin) -> None:
    server.pages["/incoming-call"] = "<Response><Hangup/></Response>"
    client = client_of(carrier)
    _, placed = await asyncio.to_thread(ask, carrier, "POST", "/_calls", {})
    await over(carrier, placed["call_sid"])
    refusals: list[tuple[Any, dict[str, str], tuple[int, int]]] = [
        (client.calls("CA" + "0" * 32), {"status": "completed"}, (404, 20404)),
        (client.calls(placed["call_sid"]), {"status": "completed"}, (404, 20404)),
        (client.calls(placed["call_sid"]), {"twiml": "<Response/>"}, (400, 21220)),
        (client_of(carrier, "not-the-token").calls(placed["call_sid"]), {"status": "completed"}, (401, 20003)),
    ]
    for call, fields, expected in refusals:
        with pytest.raises(TwilioRestException) as refused:
            await asyncio.to_thread(call.update, **fields)
        assert (refused.value.status, refused.value.code) == expected


async def test_a_scripted_caller_waits_for_the_greeting_speaks_and_hangs_up(server: Rig, tmp_path: Path) -> None:
    async def agent(line: Line) -> None:
        await line.until("start")
        await line.play(audioop.lin2ulaw(encode("welcome"), 2))
        await line.mark("greeting")
        await listen(line)

    server.agent = agent
    (tmp_path / "hello.ulaw").write_bytes(b"\x22" * 1600)
    script = [{"wait": "words", "text": "welcome"}, {"wait": "greeting"}, {"say": "hello"}, {"hangup": True}]
    flags: dict[str, Any] = {
        "target": server.target,
        "public_base_url": PUBLIC,
        "auth_token": TOKEN,
        "lexicon": tmp_path,
    }
    async with running("carrier", **flags) as carrier:
        await carrier.control(script=json.dumps(script))
        _, placed = await asyncio.to_thread(ask, carrier, "POST", "/_calls", {"from": "+5511988887777"})
        ended = await over(carrier, placed["call_sid"])
        state = await carrier.state()
    assert (ended["script_error"], ended["ended_by"], ended["outcome"]) == ("", "caller", "completed")
    assert state["counters"] == {"calls": 1, "calls_active": 0, "calls_completed": 1}
    assert [entry["kind"] for entry in state["log"]] == ["call", "ended"]
    spoken = [message for message in server.lines[0].messages if "IiIi" in str(message)]
    assert len(spoken) == 10


async def test_settings_and_faults_can_be_changed_while_it_runs(server: Rig, carrier: Standin) -> None:
    server.refuse_upgrade = 503
    await carrier.control(faults='{"upgrade_signature": "wrong"}', continue_after_refusal=False)
    await asyncio.to_thread(ask, carrier, "POST", "/_calls", {})
    await server.until(lambda: bool(server.lines))
    assert server.lines[0].valid is False
    with pytest.raises(StandinFailed, match="no such setting"):
        await carrier.control(colour="blue")


async def test_a_bad_order_is_refused_in_one_line(carrier: Standin) -> None:
    for body, word in (
        ({"script": [{"sing": 1}]}, "sing"),
        ({"faults": {"reset": True}}, "no such fault"),
        ({"faults": {"no_start": 1}}, "bool"),
    ):
        status, answer = await asyncio.to_thread(ask, carrier, "POST", "/_calls", body)
        assert status == 400
        assert word in answer["error"]
    assert (await asyncio.to_thread(ask, carrier, "GET", "/_calls/CA0"))[0] == 404


def test_faults_and_scripts_are_read_strictly() -> None:
    assert read_faults('{"no_start": true}') == CallFaults(no_start=True)
    with pytest.raises(ValueError, match="no such fault"):
        read_faults('{"nope": true}')
    with pytest.raises(ValueError, match="script"):
        parse_script('[{"wait": "godot"}]')
