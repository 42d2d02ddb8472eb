"""`create_customer`: a new customer."""

from typing import Annotated

from pydantic import BaseModel, Field

from worker.tools import customer_words, whom, written
from worker.tools.registry import Outcome, Tool, ToolCall


class Arguments(BaseModel):
    """What the model may say."""

    name: Annotated[str, written.said(written.MAX_NAME_CHARS)] = Field(description="As the caller said it.")
    phone: str | None = whom.phone()


async def run(call: ToolCall) -> Outcome:
    """Store a customer; one who exists stays as they are."""
    number = whom.number_of(call, call.arguments.phone)
    answer = await call.services.ask(
        "create_customer", key=call.key, phone=number, name=call.arguments.name, locale=call.agent.language
    )
    status = "created" if answer["outcome"] == "created" else "existed already"
    return Outcome({"status": status, "customer": customer_words.told(answer["customer"]), "note": written.NOTE})


TOOL = Tool(
    name="create_customer",
    description="Store a new customer.",
    run=run,
    arguments=Arguments,
    stage="essential",
    place="host",
    needs=frozenset({"database"}),
    writes=True,
    idempotent=True,
)
