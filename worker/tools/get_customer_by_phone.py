"""`get_customer_by_phone`: who somebody is, and when they are expected."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from worker.tools import appointments, customer_words, whom, written
from worker.tools.business import Business
from worker.tools.registry import Outcome, Tool, ToolCall, ToolError


class Arguments(BaseModel):
    """What the model may say."""

    phone: str | None = whom.phone()


async def run(call: ToolCall) -> Outcome:
    """Find a customer with the appointments to come; of another calendar's it is said which that is."""
    number = whom.number_of(call, call.arguments.phone)
    document = await call.services.ask("customer_context", phone=number)
    if document is None:
        raise ToolError(whom.nobody(number))
    zone, now = Business.of(call.agent).zone, datetime.now(UTC)
    coming = [appointments.told(each, zone, now) | _elsewhere(each, call) for each in document["next"]]
    return Outcome(
        {"customer": customer_words.told(document["customer"]), "appointments": coming, "note": written.NOTE}
    )


def _elsewhere(appointment: Mapping[str, Any], call: ToolCall) -> dict[str, str]:
    """Name the calendar of an appointment that this agent's tools cannot change."""
    calendar = str(appointment["calendar"])
    return {} if calendar == call.agent.calendar else {"calendar": written.cut(calendar, written.MAX_NAME_CHARS)}


TOOL = Tool(
    name="get_customer_by_phone",
    description="Find a customer and the next appointments by phone number.",
    run=run,
    arguments=Arguments,
    stage="essential",
    place="host",
    needs=frozenset({"database"}),
    repeatable=True,
)
