"""`reschedule_appointment`: another time for an appointment. The old one is kept until the new one is certain."""

from datetime import UTC, datetime

from pydantic import Field

from worker.tools import appointments, times, whom
from worker.tools.business import Business
from worker.tools.registry import Outcome, Tool, ToolCall


class Arguments(appointments.Which):
    """What the model may say."""

    new_time: str = Field(description="YYYY-MM-DDTHH:MM at the business, a time the caller agreed to.")


async def run(call: ToolCall) -> Outcome:
    """Move an appointment of the agent's calendar to another slot. It stays as long as it is."""
    business, now = Business.of(call.agent), datetime.now(UTC)
    number = whom.number_of(call, call.arguments.phone)
    slot = business.slot(times.read_time(call.arguments.new_time, business.zone), now)
    answer = await call.services.ask(
        "reschedule_appointment",
        key=call.key,
        phone=number,
        id=call.arguments.appointment_id,
        old_starts_at=call.arguments.begins(business.zone),
        starts_at=slot.start.isoformat(),
        ends_at=None,
        calendar=call.agent.calendar,
        closes_at=business.closes(slot.start).isoformat(),
    )
    if answer["outcome"] == "rescheduled":
        return appointments.done("rescheduled", answer["appointment"], business.zone, now)
    if answer["outcome"] in {"taken", "too_long"}:
        refused = appointments.taken if answer["outcome"] == "taken" else appointments.too_long
        return await refused(call, business, slot, now, appointments.length_of(answer["appointment"]))
    return appointments.not_one(answer, number, business.zone, now)


TOOL = Tool(
    name="reschedule_appointment",
    description="Move an appointment to another time.",
    run=run,
    arguments=Arguments,
    place="host",
    needs=frozenset({"database"}),
    writes=True,
    idempotent=True,
)
