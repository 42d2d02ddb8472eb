"""WhatsApp messages of the carrier stand-in, by the vendor's own client; its callbacks, judged by the vendor's validator."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from requests.exceptions import RequestException
from starlette.responses import Response
from twilio.base.exceptions import TwilioRestException
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client

from tests.standins.carrier_rig import PUBLIC, TOKEN, Rig, rig
from tests.standins.carrier_settings import CarrierSettings
from tests.standins.process import Standin, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SETTINGS = CarrierSettings()
TO, FROM = "whatsapp:+5511999990000", f"whatsapp:{SETTINGS.whatsapp_sender}"
CALLBACK = f"{PUBLIC}/message-status?key=CA1%3A1"


@pytest.fixture
async def server() -> AsyncIterator[Rig]:
    async with rig() as made:
        made.pages["/message-status"] = Response(status_code=204)
        yield made


@pytest.fixture
async def carrier(server: Rig) -> AsyncIterator[Standin]:
    async with running("carrier", target=server.target, public_base_url=PUBLIC, auth_token=TOKEN) as made:
        yield made


async def create(carrier: Standin, token: str = TOKEN, **fields: str) -> Any:
    """Send a message with the vendor's client."""
    http = TwilioHttpClient(timeout=1.0)
    client = Client(SETTINGS.account_sid, token, http_client=http)
    client.api.base_url = carrier.url
    try:
        return await asyncio.to_thread(client.messages.create, **{"to": TO, "from_": FROM, **fields})
    finally:
        http.session.close()


async def reports(server: Rig, count: int) -> list[dict[str, str]]:
    """Wait for status callbacks; all of them must be signed."""
    await server.until(lambda: len(server.at("/message-status")) >= count)
    assert all(received.valid for received in server.at("/message-status"))
    return [received.params for received in server.at("/message-status")]


async def test_free_text_goes_through_the_statuses_and_each_is_reported(server: Rig, carrier: Standin) -> None:
    made = await create(carrier, body="See you on Friday.", status_callback=CALLBACK)
    assert (made.status, made.to, made.error_code) == ("queued", TO, None)
    told = await reports(server, 3)
    assert [each["MessageStatus"] for each in told] == ["sent", "delivered", "read"]
    assert {each["MessageSid"] for each in told} == {made.sid}
    assert told[0]["key"] == "CA1:1"
    assert "ErrorCode" not in told[0]
    shown = await asyncio.to_thread(made.fetch)
    assert (shown.status, shown.body) == ("read", "See you on Friday.")


async def test_free_text_outside_the_window_is_taken_and_fails_later(server: Rig, carrier: Standin) -> None:
    await carrier.control(whatsapp_open=False)
    made = await create(carrier, body="Hello", status_callback=CALLBACK)
    assert made.status == "queued"
    (told,) = await reports(server, 1)
    assert (told["MessageStatus"], told["ErrorCode"]) == ("undelivered", "63016")
    assert (await asyncio.to_thread(made.fetch)).error_code == 63016


async def test_outside_the_window_it_can_be_refused_at_once_and_a_template_is_delivered(
    server: Rig, carrier: Standin
) -> None:
    await carrier.control(whatsapp_open=False, whatsapp_refuses_at_once=True)
    with pytest.raises(TwilioRestException) as refused:
        await create(carrier, body="Hello")
    assert (refused.value.status, refused.value.code) == (400, 63016)
    variables = json.dumps({"1": "See you."})
    made = await create(
        carrier, content_sid=SETTINGS.content_sid, content_variables=variables, status_callback=CALLBACK
    )
    assert made.body == "A message from us: See you."
    assert [each["MessageStatus"] for each in await reports(server, 3)] == ["sent", "delivered", "read"]


async def test_any_failure_and_repeated_reports_can_be_ordered(server: Rig, carrier: Standin) -> None:
    await carrier.control(message_error=63003, message_repeats=1)
    await create(carrier, body="Hello", status_callback=CALLBACK)
    assert [each["ErrorCode"] for each in await reports(server, 2)] == ["63003", "63003"]


TEMPLATE = {"content_sid": SETTINGS.content_sid}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"to": "", "body": "x"}, 21604),
        ({"from_": "", "body": "x"}, 21603),
        ({"to": "whatsapp:11999990000", "body": "x"}, 21211),
        ({"from_": "whatsapp:+15550000000", "body": "x"}, 63007),
        ({}, 21619),
        ({"body": "x" * 1601}, 21617),
        ({"content_variables": "{}"}, 21654),
        ({"content_sid": "HX" + "9" * 32, "content_variables": '{"1": "x"}'}, 21655),
        ({**TEMPLATE, "content_variables": "not JSON"}, 21656),
        ({**TEMPLATE, "content_variables": '{"1": ""}'}, 21656),
        ({**TEMPLATE, "content_variables": '{"1": "two\\nlines"}'}, 21656),
        ({**TEMPLATE, "content_variables": '["x"]'}, 21656),
    ],
)
async def test_what_cannot_be_sent_is_refused_with_the_vendors_code(
    carrier: Standin, fields: dict[str, str], code: int
) -> None:
    with pytest.raises(TwilioRestException) as refused:
        await create(carrier, **fields)
    assert (refused.value.status, refused.value.code) == (400, code)


async def test_strangers_and_unknown_messages_are_refused(carrier: Standin) -> None:
    with pytest.raises(TwilioRestException) as refused:
        await create(carrier, "not-the-token", body="x")
    assert (refused.value.status, refused.value.code) == (401, 20003)
    made = await create(carrier, body="x")
    with pytest.raises(TwilioRestException) as refused:
        await asyncio.to_thread(made._version.fetch, method="GET", uri=made._proxy._uri.replace(made.sid, "SM1"))
    assert refused.value.code == 20404


async def test_faults_come_in_the_order_they_were_given_and_then_cease(carrier: Standin) -> None:
    await carrier.control(message_faults="429,503,500,reset,lost,stall,garbage", retry_after="7")
    for status in (429, 503, 500):
        with pytest.raises(TwilioRestException) as refused:
            await create(carrier, body="x")
        assert refused.value.status == status
    for _ in ("reset", "lost", "stall"):
        with pytest.raises(RequestException):
            await create(carrier, body="x")
    with pytest.raises(ValueError, match="Expecting value"):
        await create(carrier, body="x")
    assert (await create(carrier, body="x")).status == "queued"
    taken = [each for each in (await carrier.state())["log"] if each["kind"] == "message"]
    assert len(taken) == 4  # lost, stalled, garbled and sound
