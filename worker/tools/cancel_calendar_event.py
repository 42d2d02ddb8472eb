"""`cancel_calendar_event`: an appointment is given up."""

from datetime import UTC, datetime

from worker.tools import appointments, whom
from worker.tools.business import Business
from worker.tools.registry import Outcome, Tool, ToolCall


class Arguments(appointments.Which):
    """What the model may say."""


async def run(call: ToolCall) -> Outcome:
    """Cancel an appointment of the agent's calendar; its time is free from then on."""
    zone, now = Business.of(call.agent).zone, datetime.now(UTC)
    number = whom.number_of(call, call.arguments.phone)
    answer = await call.services.ask(
        "cancel_appointment",
        key=call.key,
        phone=number,
        id=call.arguments.appointment_id,
        starts_at=call.arguments.begins(zone),
        calendar=call.agent.calendar,
    )
    if answer["outcome"] in {"cancelled", "already_cancelled"}:
        status = "cancelled" if answer["outcome"] == "cancelled" else "was cancelled before"
        return appointments.done(status, answer["appointment"], zone, now)
    return appointments.not_one(answer, number, zone, now)


TOOL = Tool(
    name="cancel_calendar_event",
    description="Cancel an appointment, after the caller confirmed which one.",
    run=run,
    arguments=Arguments,
    place="host",
    needs=frozenset({"database"}),
    writes=True,
    idempotent=True,
)
