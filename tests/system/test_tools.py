"""Calls that book and cancel by voice, from the caller's telephone to the rows of a real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from tests.stack import Plan, Stack
from tests.system.talk import ask, greeted, recording
from worker.tools import times

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = [pytest.mark.system, pytest.mark.redis]

ANA = "+5511987654321"
DESK, BEGINNER = "+551130000001", "+551130000002"
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


async def offered(stack: Stack) -> set[str]:
    """Give the names of the tools the model saw when it was asked last."""
    asked = (await stack.openai.state())["log"][-1]
    return set(asked["tools"])


async def test_a_caller_books_for_friday_and_cancels(stack: Stack) -> None:
    friday = times.read_day("friday", datetime.now(UTC).astimezone(ZONE).date())
    when = f"{times.day_words(friday, datetime.now(UTC).astimezone(ZONE))} at 09:00."
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
        said = await ask(call, "cancel", "number.")
        assert said.endswith("There is no appointment to come under this number.")
        await call.say(recording("goodbye"))
        assert (await call.ended()).ended_by == "twiml"


async def test_a_caller_whom_nobody_knows_is_told_what_is_missing(stack: Stack) -> None:
    before = appointments(stack)
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_="+5511912345678", to=DESK)
        await greeted(call)
        said = await ask(call, "book", "first.")
        assert "No customer has the number +5511912345678." in said
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
