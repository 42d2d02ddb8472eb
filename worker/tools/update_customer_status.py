"""`update_customer_status`: what kind of customer somebody is."""

from typing import Literal

from pydantic import BaseModel

from worker.tools import customer_words, whom, written
from worker.tools.registry import Outcome, Tool, ToolCall, ToolError


class Arguments(BaseModel):
    """What the model may say."""

    status: Literal["active", "lead", "vip", "inactive", "blocked"]
    phone: str | None = whom.phone()


async def run(call: ToolCall) -> Outcome:
    """Store the status of a customer."""
    number = whom.number_of(call, call.arguments.phone)
    answer = await call.services.ask("update_customer_status", key=call.key, phone=number, status=call.arguments.status)
    if answer["outcome"] == "unknown_customer":
        raise ToolError(whom.nobody(number))
    return Outcome({"status": "updated", "customer": customer_words.told(answer["customer"]), "note": written.NOTE})


TOOL = Tool(
    name="update_customer_status",
    description="Change the status of a customer.",
    run=run,
    arguments=Arguments,
    place="host",
    needs=frozenset({"database"}),
    writes=True,
    idempotent=True,
)
