"""The doctor in Twilio's place: who answers at the public address, by which clock, and what the TwiML says."""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from typing import TYPE_CHECKING

import httpx
import pytest
from twilio.request_validator import RequestValidator

from tests.doctoring import case_of, found, only
from worker.doctor import call, carrier
from worker.doctor.findings import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker.doctor.rounds import Ask

BASE = "https://voice.example.test"
NOW = 1_800_000_000.0
HEALTHY = httpx.Response(200, text="ok\n")


@pytest.mark.parametrize(
    ("answer", "said", "remedy"),
    [
        (
            httpx.Response(301, headers={"location": "https://www.example.test/"}),
            "https://www.example.test/",
            "PUBLIC_BASE_URL",
        ),
        (httpx.Response(502, text="Bad Gateway"), "the edge answers 502", "start the router"),
        (httpx.Response(404, text="nothing"), "is not the router (404)", "PUBLIC_BASE_URL"),
        (httpx.Response(200, text="<html>Welcome</html>"), "is not the router (200)", "PUBLIC_BASE_URL"),
    ],
)
def test_who_answers_in_the_routers_place_is_said(answer: httpx.Response, said: str, remedy: str) -> None:
    finding = carrier._wrong(BASE, answer)
    assert finding is not None
    assert finding.state is State.FAILED
    assert said in finding.said
    assert remedy in finding.remedy


def test_the_router_itself_is_nobody_else() -> None:
    assert carrier._wrong(BASE, HEALTHY) is None


@pytest.mark.parametrize(("skew_s", "doubted"), [(0, False), (4, False), (-7, True), (120, True)])
def test_clocks_that_are_apart_are_a_warning(skew_s: float, doubted: bool) -> None:  # noqa: FBT001 - a parameter of the test
    answer = httpx.Response(200, headers={"date": formatdate(NOW + skew_s, usegmt=True)})
    findings = carrier._clock(answer, NOW)
    assert [finding.state for finding in findings] == [State.WARNING] * doubted
    assert all(f"{abs(skew_s)} s apart" in finding.said for finding in findings)


@pytest.mark.parametrize("date", [{}, {"date": "yesterday"}])
def test_a_clock_that_cannot_be_read_is_no_finding(date: dict[str, str]) -> None:
    assert carrier._clock(httpx.Response(200, headers=date), NOW) == []


def test_no_customer_can_have_the_callers_number_and_a_call_is_known_by_its_name() -> None:
    said = carrier.form(case_of("+15550001111"), carrier.new_call_sid(), "ringing")
    assert said["From"] == "+0"
    assert said["To"] == "+15550001111"
    assert len(said["CallSid"]) == 34
    assert said["CallSid"].startswith(carrier.MARK)


def test_a_signature_is_one_that_the_vendors_own_code_accepts() -> None:
    case = case_of(twilio_auth_token="a-token")
    said = carrier.form(case, carrier.new_call_sid(), "ringing")
    [(name, value)] = carrier.signature(case, f"{BASE}/incoming-call", said).items()
    assert name == "X-Twilio-Signature"
    assert RequestValidator("a-token").validate(f"{BASE}/incoming-call", said, value)


@pytest.fixture
async def somebody() -> AsyncIterator[str]:
    """Give the address of a server that answers everything with 200 and a page."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nWelcome")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_router_that_was_named_and_is_not_there_is_a_failure_and_another_a_warning() -> None:
    nowhere = "http://127.0.0.1:1"
    assert (await only(carrier.router, case_of(router=nowhere))).state is State.FAILED
    assert (await only(carrier.router, case_of(router_port=1))).state is State.WARNING


async def test_another_program_on_its_port_is_not_the_router(somebody: str) -> None:
    finding = await only(carrier.router, case_of(router=somebody))
    assert finding.state is State.FAILED
    assert "another program" in finding.said


async def test_whoever_takes_a_wrong_signature_lets_anybody_call(somebody: str) -> None:
    case = case_of(public_base_url=somebody, twilio_auth_token="a-token")
    findings = await found(carrier.signed, case)
    assert findings[0].state is State.FAILED
    assert "anybody can place calls" in findings[0].said


async def test_without_a_token_there_is_nothing_to_sign_with(somebody: str) -> None:
    assert (await only(carrier.signed, case_of(public_base_url=somebody))).state is State.NOT_TRIED


@pytest.mark.parametrize("ask", [carrier.signed, call.call])
async def test_whoever_does_not_answer_is_the_finding_and_no_mistake_of_the_doctors(ask: Ask) -> None:
    """They may be asked for without the check that says so first, and the router may go in between."""
    finding = await only(ask, case_of(public_base_url="http://127.0.0.1:1", twilio_auth_token="a-token"))
    assert finding.state is State.FAILED
    assert finding.said == "the public address: the connection is refused: nobody listens there"


async def test_twiml_without_a_stream_is_a_call_that_is_held(somebody: str) -> None:
    finding = await only(call.call, case_of(public_base_url=somebody, twilio_auth_token="a-token"))
    assert finding.state is State.FAILED
    assert "no worker was free" in finding.said


def test_the_stream_is_read_from_the_twiml_with_its_parameters() -> None:
    twiml = (
        b'<?xml version="1.0"?><Response><Connect action="https://a/call-ended/t"><Stream url="wss://a/media/t">'
        b'<Parameter name="trace" value="1"/></Stream></Connect></Response>'
    )
    stream = call._stream(twiml)
    assert stream is not None
    assert (stream.url, stream.action, stream.parameters) == (
        "wss://a/media/t",
        "https://a/call-ended/t",
        {"trace": "1"},
    )
    assert call._stream(b"<Response><Pause/></Response>") is None
