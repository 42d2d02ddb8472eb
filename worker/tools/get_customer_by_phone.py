"""`get_customer_by_phone`: who somebody is, and when they are expected."""

from datetime import UTC, datetime

from pydantic import BaseModel

from worker.tools import appointments, customer_words, whom, written
from worker.tools.business import Business
from worker.tools.registry import Outcome, Tool, ToolCall, ToolError


class Arguments(BaseModel):
    """What the model may say."""

    phone: str | None = whom.phone()


async def run(call: ToolCall) -> Outcome:
    """Find a customer with the appointments to come."""
    number = whom.number_of(call, call.arguments.phone)
    document = await call.services.ask("customer_context", phone=number)
    if document is None:
        raise ToolError(whom.nobody(number))
    zone, now = Business.of(call.agent).zone, datetime.now(UTC)
    coming = [appointments.told(each, zone, now) for each in document["next"]]
    return Outcome(
        {"customer": customer_words.told(document["customer"]), "appointments": coming, "note": written.NOTE}
    )


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
