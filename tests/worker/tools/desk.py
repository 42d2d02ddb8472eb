"""A clinic's front desk for tests: an agent whose tools work on a real database, run as the tool host runs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from shared.agents import Agent
from shared.calls import CallSid, IncomingCall, TraceId
from shared.hours import WEEKDAYS
from worker.tools import running, times
from worker.tools.builtin import BUILT_IN
from worker.tools.business import Business
from worker.tools.registry import ToolCall
from worker.tools.services import Messenger, Services

if TYPE_CHECKING:
    from tests.postgres import PostgresDatabase

ANA: Final = "+5511987654321"
BOB: Final = "+5511912345678"
CLINIC: Final = Agent(
    name="clinic",
    timezone="America/Sao_Paulo",
    language="pt-BR",
    hours=dict.fromkeys(WEEKDAYS[:5], ("09:00-12:30", "14:00-18:00")),
)
_ids: Final = count(1)


@dataclass(frozen=True, slots=True)
class Desk:
    """Runs tools in a call; `caller` is None for a client that has none. A request has an id of its own, unless it is given."""

    database: PostgresDatabase
    agent: Agent = CLINIC
    caller: str | None = ANA
    called: str = "+551130000000"
    messenger: Messenger | None = None
    call_sid: str = field(default_factory=lambda: f"CA{next(_ids):032x}")

    async def run(self, tool: str, request_id: str = "", /, **arguments: Any) -> dict[str, Any]:
        """Run a tool and give what the model is told."""
        call = None
        if self.caller is not None:
            call = IncomingCall(
                call_sid=CallSid(self.call_sid), caller=self.caller, called=self.called, trace_id=TraceId("0" * 32)
            )
        services = Services(self.database, self.messenger)
        request = ToolCall(request_id or f"call_{next(_ids)}", arguments, self.agent, call, services=services)
        outcome = await running.run(BUILT_IN[tool], request, arguments)
        assert outcome.answer
        return dict(outcome.result)

    async def error(self, tool: str, /, **arguments: Any) -> str:
        """Run a tool that must not do it, and give its sentence."""
        result = await self.run(tool, **arguments)
        assert "status" not in result
        sentence = result["error"]
        assert isinstance(sentence, str)
        assert sentence.endswith((".", "?"))
        return sentence

    def knows(self, number: str, name: str) -> None:
        """Store a customer."""
        self.database.rows("insert into customers (phone, name, locale) values (%s, %s, 'en')", number, name)

    async def staff_books(self, number: str, starts_at: str, ends_at: str) -> int:
        """Book as a person at the desk does, past the grid of slots; gives the appointment's id."""
        arguments = {"p_starts_at": starts_at, "p_ends_at": ends_at, "p_phone": number, "p_notes": None}
        answer = await self.database.call(
            "book_appointment", {"p_key": f"desk:{next(_ids)}", "p_calendar": self.agent.calendar, **arguments}
        )
        assert answer["outcome"] == "booked"
        return int(answer["appointment"]["id"])


def tuesday() -> date:
    """Give a Tuesday on which every slot is still to come, not more than ten days ahead."""
    return times.read_day("tuesday", Business.of(CLINIC).today(datetime.now(UTC)) + timedelta(days=2))


def at(clock: str, day: date | None = None) -> str:
    """Write a time of that Tuesday as the model does."""
    return f"{day or tuesday()}T{clock}"


def exact(clock: str) -> str:
    """Write a time of that Tuesday with its offset, as a database wants it."""
    return f"{tuesday()}T{clock}:00-03:00"


def words(clock: str, day: date | None = None) -> str:
    """Say a time of that Tuesday as the agent does."""
    return f"{times.day_words(day or tuesday(), Business.of(CLINIC).today(datetime.now(UTC)))} at {clock}"
