"""A message to a customer through the whole system: asked for, sent once, and its fate written down."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.stack import AUTH_TOKEN, PUBLIC, Plan, Stack, sample
from tests.standins.carrier_settings import CarrierSettings
from tests.standins.process import Standin, started
from tests.system.talk import ask, greeted, worker_of
from worker.jobs import twilio_words
from worker.jobs.message_status import TEMPLATE_KEY
from worker.tools.messenger import QueuedMessenger
from worker.tools.send_whatsapp_message import STATES

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.system, pytest.mark.redis]

TWILIO = CarrierSettings()
CALL = "CA" + "0" * 32
PHONE = "+5511987654321"


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    return {"WHATSAPP_FROM": TWILIO.whatsapp_sender, "WHATSAPP_TEMPLATE_SID": TWILIO.content_sid}


@pytest.fixture(scope="module")
def unstarted(env: dict[str, str]) -> Stack:
    return Stack(Plan(database="postgres", env=env))


@pytest.fixture(scope="module")
def twilio(unstarted: Stack, env: dict[str, str]) -> Iterator[Standin]:
    """Give a Twilio that reports to the router, each thing twice."""
    with reporting(unstarted) as standin:
        env["TWILIO_API_BASE_URL"] = standin.url
        yield standin


@contextmanager
def reporting(stack: Stack) -> Iterator[Standin]:
    told: dict[str, Any] = {
        "target": stack.router_url, "public_base_url": PUBLIC, "auth_token": AUTH_TOKEN, "message_repeats": 1,
    }  # fmt: skip
    with started("carrier", **told) as standin:
        yield standin


@pytest.fixture(scope="module")
def stack(unstarted: Stack, twilio: Standin) -> Iterator[Stack]:
    assert twilio.url
    try:
        unstarted.start()
        yield unstarted
    finally:
        unstarted.stop()


def rows(stack: Stack, key: str) -> list[dict[str, Any]]:
    """Give what is stored of a message and of what followed it."""
    query = "select * from message_log where request_key like %s order by request_key"
    return stack.database.rows(query, f"{key}%")


def statuses(stack: Stack, key: str) -> list[str]:
    return [row["status"] for row in rows(stack, key)]


def tried(stack: Stack, outcome: str) -> float:
    """Give how many attempts ended so."""
    page = stack.fetch(f"http://127.0.0.1:{stack.prefetch_metrics_port}/metrics")
    return sample(page, "offhook_messages_total", {"outcome": outcome})


async def test_a_caller_asks_for_a_message_and_has_it_while_still_talking(stack: Stack, twilio: Standin) -> None:
    arguments = {"text": "See you on Friday at nine."}
    await stack.openai.control(script=[{"tool": "send_whatsapp_message", "arguments": arguments}])
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_=PHONE)
        await greeted(call)
        heard = await ask(call, "yes", "result", f"{PHONE}.")
        assert STATES["delivered"] in heard or STATES["taken"] in heard  # in time, or not on a busy machine
        key = f"{call.call_sid}:call_"
        (row,) = await stack.until(lambda: rows(stack, key), "a row")
        assert (row["phone"], row["body"], row["call_sid"]) == (PHONE, arguments["text"], call.call_sid)
        for pid in (worker_of(stack, call.call_sid), tool_host(stack)):
            environment = environment_of(pid)
            assert environment.count(b"OPENAI_BASE_URL=") == 1
            assert AUTH_TOKEN.encode() not in environment
        await call.hangup()
    await stack.until(lambda: statuses(stack, key) == ["read"], "the message is read")
    sent = [each for each in (await twilio.state())["log"] if each["kind"] == "message"]
    assert [each["body"] for each in sent] == [arguments["text"]]


def environment_of(pid: int) -> bytes:
    """Give what a process was started with, as whoever takes it over could read it."""
    return Path(f"/proc/{pid}/environ").read_bytes()


def tool_host(stack: Stack) -> int:
    """Give the process id of the pool's tool host."""
    return next(int(line["pid"]) for line in stack.pool.lines() if line.get("event") == "tool host started")


async def test_a_caller_whose_message_does_not_arrive_is_not_told_that_it_was_sent() -> None:
    """Free text outside the window, with neither a template nor a database: Twilio takes it, and reports its failure."""
    env = {"WHATSAPP_FROM": TWILIO.whatsapp_sender}
    stack = Stack(Plan(supabase=False, env=env))
    with reporting(stack) as twilio:
        env["TWILIO_API_BASE_URL"] = twilio.url
        await twilio.control(whatsapp_open=False)
        try:
            await asyncio.to_thread(stack.start)
            arguments = {"text": "See you on Friday at nine."}
            await stack.openai.control(script=[{"tool": "send_whatsapp_message", "arguments": arguments}])
            async with stack.carrier() as carrier:
                call = await carrier.dial(from_=PHONE)
                await greeted(call)
                heard = await ask(call, "yes", "freely")  # the rest would take ten seconds
                assert twilio_words.WORDS["63016"].partition(" only")[0] in heard
                await call.hangup()
            taken = [each for each in (await twilio.state())["log"] if each["kind"] == "message"]
            assert len(taken) == 1
        finally:
            await asyncio.to_thread(stack.stop)


async def test_what_becomes_of_messages_is_told_and_stored(
    stack: Stack, twilio: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.tools.messenger.WAIT_S", 20.0)
    monkeypatch.setattr("worker.tools.messenger.ENQUEUE_TIMEOUT_S", 20.0)
    await twilio.control(reset=True)
    counts = {outcome: tried(stack, outcome) for outcome in ("sent", "unknown")}
    messenger = QueuedMessenger(stack.redis.url)

    async def send(key: str, text: str) -> str:
        state = await messenger.send_whatsapp(key, PHONE, text, CALL)
        await stack.until(lambda: rows(stack, key), f"a row of {key}")
        return state

    try:
        assert await send(f"{CALL}:one", "See you on Friday.") == "delivered"
        await stack.until(lambda: statuses(stack, f"{CALL}:one") == ["read"], "one message, read")
        (row,) = rows(stack, f"{CALL}:one")
        assert (row["body"], row["phone"], row["call_sid"]) == ("See you on Friday.", PHONE, CALL)
        assert await messenger.send_whatsapp(f"{CALL}:one", PHONE, "See you on Friday.", CALL) == "delivered"

        await twilio.control(whatsapp_open=False)
        assert await send(f"{CALL}:two", "Bring\na coat.") == "delivered"
        await stack.until(lambda: statuses(stack, f"{CALL}:two") == ["undelivered", "read"], "a template, read")
        first, second = rows(stack, f"{CALL}:two")
        assert (first["error_code"], second["request_key"]) == ("63016", f"{CALL}:two{TEMPLATE_KEY}")

        await twilio.control(message_faults="lost", whatsapp_open=True)
        assert await send(f"{CALL}:three", "Are you there?") == "delivered"
        await stack.until(lambda: statuses(stack, f"{CALL}:three") == ["read"], "nobody knew, now it is read")

        sent = [each["body"] for each in (await twilio.state())["log"] if each["kind"] == "message"]
        assert sent == [
            "See you on Friday.", "Bring\na coat.", f"{TWILIO.content_prefix}Bring a coat.", "Are you there?",
        ]  # fmt: skip
        answered = {each["answered"] for each in (await twilio.state())["log"] if each["kind"] == "message_status"}
        assert answered == {204}
        assert [tried(stack, outcome) - before for outcome, before in counts.items()] == [3, 1]
        logs = stack.prefetcher.log + stack.router.log
        assert "coat" not in logs
        assert PHONE not in logs
        assert "Traceback" not in logs
    finally:
        await messenger.close()
