"""`book_appointment`: a time that was free becomes a customer's."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, Field

from worker.tools import appointments, times, whom, written
from worker.tools.business import Business
from worker.tools.registry import Outcome, Tool, ToolCall, ToolError


class Arguments(BaseModel):
    """What the model may say."""

    starts_at: str = Field(description="YYYY-MM-DDTHH:MM at the business, a time the caller agreed to.")
    notes: Annotated[str, written.if_said(written.MAX_NOTE_CHARS)] | None = Field(None, description="What it is for.")
    phone: str | None = whom.phone()


async def run(call: ToolCall) -> Outcome:
    """Book a slot. Two callers cannot have the same one: the database refuses the second."""
    business, now = Business.of(call.agent), datetime.now(UTC)
    number = whom.number_of(call, call.arguments.phone)
    slot = business.slot(times.read_time(call.arguments.starts_at, business.zone), now)
    answer = await call.services.ask(
        "book_appointment",
        key=call.key,
        phone=number,
        calendar=call.agent.calendar,
        starts_at=slot.start.isoformat(),
        ends_at=slot.end.isoformat(),
        notes=call.arguments.notes or None,
    )
    if answer["outcome"] == "taken":
        return await appointments.taken(call, business, slot, now)
    if answer["outcome"] == "unknown_customer":
        raise ToolError(whom.nobody(number))
    status = "booked" if answer["outcome"] == "booked" else "was booked already"
    return appointments.done(status, answer["appointment"], business.zone, now)


TOOL = Tool(
    name="book_appointment",
    description="Book an appointment for a customer. Say the day and the time back to the caller first.",
    run=run,
    arguments=Arguments,
    stage="essential",
    place="host",
    needs=frozenset({"database"}),
    writes=True,
    idempotent=True,
)
