"""Calls that book and cancel by voice, from the caller's telephone to the rows of a real PostgreSQL."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from tests.stack import Plan, Stack
from tests.standins.process import ROOT
from tests.system.talk import ask, greeted, recording, worker_of
from worker.tools import times

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = [pytest.mark.system, pytest.mark.redis]

ANA = "+5511987654321"
DESK, BEGINNER = "+551130000001", "+551130000002"
LOOKING = (ROOT / "audio_assets" / "looking.ulaw").read_bytes()
ZONE = ZoneInfo("America/Sao_Paulo")
AGENT = """
prompt = "You are the receptionist of a clinic and make appointments with your tools."
timezone = "America/Sao_Paulo"
hours = { mon = ["09:00-12:00"], tue = ["09:00-12:00"], wed = ["09:00-12:00"], thu = ["09:00-12:00"], fri = ["09:00-12:00"] }
"""


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agents") / "agents.toml"
    path.write_text(
        f'[agents.desk]\n{AGENT}numbers = ["{DESK}"]\n'
        f'[agents.beginner]\n{AGENT}stage = "critical"\nnumbers = ["{BEGINNER}"]\n'
    )
    return path


@pytest.fixture(scope="module")
def stack(agents: Path) -> Iterator[Stack]:
    stack = Stack(Plan(database="postgres", env={"AGENTS_FILE": str(agents)}))
    try:
        stack.start()
        stack.database.rows("insert into customers (phone, name, locale) values (%s, 'Ana Souza', 'pt-BR')", ANA)
        yield stack
    finally:
        stack.stop()


def appointments(stack: Stack) -> list[dict[str, Any]]:
    """Give what is booked or cancelled, the newest last."""
    return stack.database.rows("select id, starts_at, status, request_key from appointments order by id")


def on_its_way(stack: Stack, call_sid: str) -> bool:
    """Say whether the database was asked to book for a call; it answers after its latency."""
    log = stack.supabase.state_now()["log"]
    return any(one["path"].endswith("/book_appointment") and call_sid in one["body"] for one in log)


async def offered(stack: Stack) -> set[str]:
    """Give the names of the tools the model saw when it was asked last."""
    asked = (await stack.openai.state())["log"][-1]
    return set(asked["tools"])


async def test_a_caller_books_for_friday_and_cancels(stack: Stack) -> None:
    today = datetime.now(UTC).astimezone(ZONE).date()
    friday = times.read_day("friday", today)
    when = f"{times.day_words(friday, today)} at 09:00."
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_=ANA, to=DESK)
        await greeted(call)
        said = await ask(call, "book", "Booked:", "09:00.")
        assert said.endswith(f"Booked: {when}")
        (booked,) = appointments(stack)
        assert booked["status"] == "booked"
        assert booked["starts_at"].astimezone(ZONE).isoformat() == f"{friday}T09:00:00-03:00"
        assert booked["request_key"].startswith(f"{call.call_sid}:call_")
        said = await ask(call, "cancel", "Cancelled:", "09:00.")
        assert said.endswith(f"Cancelled: {when}")
        assert [row["status"] for row in appointments(stack)] == ["cancelled"]
        await call.say(recording("goodbye"))
        assert (await call.ended()).ended_by == "twiml"


async def test_a_caller_whom_nobody_knows_is_told_what_is_missing(stack: Stack) -> None:
    before = appointments(stack)
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_="+5511912345678", to=DESK)
        await greeted(call)
        assert "No customer has" in await ask(call, "book", "customer", "has")
        await call.hangup()
        await call.ended()
    assert appointments(stack) == before


async def test_an_agent_with_few_tools_gets_those_it_needs_for_the_call(stack: Stack) -> None:
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_=ANA, to=BEGINNER)
        await greeted(call)
        await ask(call, "what-time", "It")
        assert await offered(stack) == {"get_current_time", "end_call", "more_tools"}
        await ask(call, "book", "Booked:")
        assert await offered(stack) >= {"book_appointment", "cancel_calendar_event", "get_customer_facts"}
        assert appointments(stack)[-1]["status"] == "booked"
        await call.hangup()
        await call.ended()


async def test_a_worker_that_dies_while_it_books_has_booked_once(stack: Stack) -> None:
    """The successor asks the host again under the same key: one appointment, and the caller hears of it."""
    before = appointments(stack)
    await stack.supabase.control(latency_ms=700)
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_=ANA, to=DESK)
        await greeted(call)
        await call.say(recording("book"))
        await stack.until(lambda: on_its_way(stack, call.call_sid), "a booking on its way")
        os.kill(worker_of(stack, call.call_sid), signal.SIGKILL)
        await call.hears(lambda heard: "Booked:" in heard.text())
        (booked,) = appointments(stack)[len(before) :]
        assert (booked["status"], call.call_sid in booked["request_key"]) == ("booked", True)
        await stack.supabase.control(latency_ms=0)
        await call.hangup()
        assert len((await call.ended()).streams) == 1


async def test_a_caller_who_waits_hears_so_and_one_who_speaks_meanwhile_has_booked_all_the_same(stack: Stack) -> None:
    """A write is not undone by a voice: the model learns what came of it where Pipecat had written that it was cancelled."""
    before = appointments(stack)
    await stack.supabase.control(latency_ms=2500)
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_=ANA, to=DESK)
        await greeted(call)
        await call.say(recording("book"))
        await call.hears(lambda heard: LOOKING in heard.audio())
        await stack.until(lambda: on_its_way(stack, call.call_sid), "a booking on its way")
        await call.say(recording("interrupt"))
        await call.hears(lambda heard: "wait a moment." in heard.text())
        (booked,) = await stack.until(lambda: appointments(stack)[len(before) :], "the appointment")
        assert (booked["status"], call.call_sid in booked["request_key"]) == ("booked", True)
        await stack.supabase.control(latency_ms=0)
        await ask(call, "yes", "Yes.")
        results = [one for one in (await stack.openai.state())["log"][-1]["messages"] if one["role"] == "tool"]
        assert "booked" in results[-1]["content"]
        assert not any("CANCELLED" in one["content"] for one in results)
        await call.hangup()
        await call.ended()
