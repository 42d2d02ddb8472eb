"""The edge with calls up: whole conversations through TLS, and what callers notice of reloads and of a router that is away."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from tests.caddy import Caddy, impatient, unread
from tests.stack import Plan, Stack
from tests.system.talk import ask, greeted, recording

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.standins.carrier import Carrier

pytestmark = pytest.mark.system

CALLER = "+5511987654321"
GREETING_S = 4.0  # the shipped greeting lasts 4.8 s
TICKET = "a-ticket-that-nobody-gave"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(supabase=False)


@pytest.fixture(scope="module")
def edge(stack: Stack) -> Iterator[Caddy]:
    with Caddy(stack.router_url) as made:
        yield made


def through(edge: Caddy, stack: Stack, **changes: object) -> Carrier:
    """Make a carrier that reaches the installation as Twilio does."""
    return stack.carrier(target=edge.url, ca_file=edge.ca_file, **changes)


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_conversation_is_held_through_tls(stack: Stack, edge: Caddy, method: str) -> None:
    async with through(edge, stack, method=method) as carrier:
        call = await carrier.dial(from_=CALLER)
        await greeted(call)
        await ask(call, "interrupt", "said:")
        await ask(call, "what-time", "UTC.")
        await call.say(recording("goodbye"))
        record = await call.ended()
    assert record.ended_by == "twiml"
    assert record.stream.close_code == 1000
    assert record.verbs[-1] == "Hangup"
    assert set(record.codes) <= {31921}, record.notices


async def test_a_reload_of_the_edge_in_mid_call_is_not_noticed(stack: Stack, edge: Caddy) -> None:
    """The configuration is another one: the same one again would be no reload at all."""
    async with through(edge, stack) as carrier:
        call = await carrier.dial(from_=CALLER)
        await greeted(call)
        await ask(call, "interrupt", "said:")
        await asyncio.to_thread(edge.reload, EDGE_APOLOGY="Call again tomorrow.")
        assert "Call again tomorrow." in await asyncio.to_thread(edge.configuration)
        await ask(call, "what-time", "UTC.")
        later = await carrier.dial(from_=CALLER)
        await greeted(later)
        await asyncio.to_thread(edge.reload)
        await ask(call, "yes", "said:")
        for each in (call, later):
            await each.hangup()
        records = [await each.ended() for each in (call, later)]
    for record in records:
        assert (record.ended_by, len(record.streams), record.notices) == ("caller", 1, ())
        assert (record.stream.closed_by, record.stream.close_code) == ("carrier", 1000), "it was answered"


async def test_the_limits_of_requests_are_none_of_streams(stack: Stack, tmp_path: Path) -> None:
    """With limits of a second a call goes on for longer, speaking and spoken to."""
    with Caddy(stack.router_url, config=impatient(tmp_path)) as edge:
        async with through(edge, stack) as carrier:
            call = await carrier.dial(from_=CALLER)
            await call.streaming()
            await call.hears(lambda heard: heard.duration_s > GREETING_S)
            await ask(call, "what-time", "UTC.")
            await call.hangup()
            record = await call.ended()
    assert (record.ended_by, len(record.streams), record.stream.closed_by) == ("caller", 1, "carrier"), record.notices


async def test_a_restart_of_the_router_in_mid_call_is_not_noticed_behind_the_edge(stack: Stack, edge: Caddy) -> None:
    """The pool has the socket that leads to the edge, which keeps the one that leads to the caller."""
    async with through(edge, stack) as carrier:
        call = await carrier.dial(from_=CALLER)
        await greeted(call)
        await ask(call, "interrupt", "said:")
        await asyncio.to_thread(stack.router.terminate)
        await ask(call, "what-time", "UTC.")
        stack.router.start()
        await stack.ready(1)
        later = await carrier.dial(from_=CALLER)
        await greeted(later)
        await call.say(recording("goodbye"))
        record = await call.ended()
        await later.hangup()
        assert (await later.ended()).outcome == "completed"
    assert (record.ended_by, len(record.streams)) == ("twiml", 1)


async def test_a_router_that_is_being_replaced_costs_a_webhook_a_wait(stack: Stack, edge: Caddy) -> None:
    await stack.ready()
    await asyncio.to_thread(stack.router.terminate)
    async with through(edge, stack) as carrier:
        dialling = asyncio.create_task(carrier.dial(from_=CALLER))
        await stack.until(edge.guests, "the webhook is at the edge")
        stack.router.start()
        call = await dialling
        await greeted(call)
        await call.hangup()
        record = await call.ended()
    assert [exchange.status for exchange in record.exchanges if exchange.purpose == "incoming"] == [200]
    assert record.codes == ()


async def test_a_webhook_that_a_router_took_with_it_is_asked_again(stack: Stack, edge: Caddy) -> None:
    """It had the whole request when it died: the next one is given the whole request."""
    await stack.ready()
    os.kill(stack.router.pid, signal.SIGSTOP)
    async with through(edge, stack) as carrier:
        dialling = asyncio.create_task(carrier.dial(from_=CALLER))
        await stack.until(lambda: unread(stack.router_port), "the router has been sent the webhook")
        await asyncio.to_thread(stack.router.stop, signal.SIGKILL)
        stack.router.start()
        call = await dialling
        await greeted(call)
        await call.hangup()
        record = await call.ended()
    assert [exchange.status for exchange in record.exchanges if exchange.purpose == "incoming"] == [200]


async def test_without_a_router_a_caller_hears_an_apology_and_the_log_has_no_tickets(stack: Stack, edge: Caddy) -> None:
    """A call that was up goes on, and its end is an apology, too: nobody is there to say what follows."""
    async with through(edge, stack) as carrier:
        up = await carrier.dial(from_=CALLER)
        await greeted(up)
        await asyncio.to_thread(stack.router.terminate)
        try:
            await up.hangup()
            call, report, upgrade, held = await asyncio.gather(
                carrier.dial(from_=CALLER),
                carrier.webhook(path="/call-status"),
                carrier.upgrade_status(f"wss://voice.example.test/media/{TICKET}"),
                carrier.webhook(path="/hold?turn=2"),
            )
            record, of_up = await call.ended(), await up.ended()
        finally:
            stack.router.start()
    assert (record.outcome, record.verbs) == ("completed", ("Say", "Hangup"))
    assert record.said()[0].startswith("We are sorry")
    assert (report.status, report.body) == (503, b"Service Unavailable")
    assert upgrade == 503
    assert (held.status, held.content_type, held.body) == (200, "text/xml", record.documents[0])
    assert [exchange.status for exchange in of_up.exchanges if exchange.purpose == "action"] == [200]
    uris = {line["request"]["uri"] for line in edge.lines() if "request" in line}
    assert uris <= {"/", "/incoming-call", "/hold", "/call-status", "/call-ended", "/media"}
    assert "/call-ended" in uris
    why = {line["error"] for line in edge.lines() if line.get("error") and "request" in line}
    assert why
    assert all(each.endswith("connect: connection refused") for each in why)
    tickets = re.findall(rb"/media/([^\"]+)", b"".join(up.documents))
    assert tickets
    for secret in (TICKET, *(ticket.decode() for ticket in tickets), CALLER, CALLER.removeprefix("+"), "Signature"):
        assert secret not in edge.log
