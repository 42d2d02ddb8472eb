"""`get_customer_facts` and `add_customer_fact`: what is worth remembering about a customer."""

import re
from itertools import islice
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, Field

from worker.tools import whom, written
from worker.tools.registry import Outcome, Tool, ToolCall, ToolError

MOST_FACTS: Final = 30
MAX_TOLD_CHARS: Final = 100
"""Thirty facts of this length fit into a result."""


def _key(text: str) -> str:
    """Write the name of a fact in one way, so that the same fact said again replaces its value: `favourite_colour`."""
    return re.sub(r"\W+", "_", text.lower()).strip("_") or text


class Whose(BaseModel):
    """What the model may say to get facts."""

    phone: str | None = whom.phone()


class Fact(BaseModel):
    """What the model may say to add one."""

    fact: Annotated[str, written.said(written.MAX_FACT_CHARS), AfterValidator(_key)] = Field(
        description="Short name, such as preferred_doctor. The same name again replaces the value."
    )
    value: Annotated[str, written.said(written.MAX_VALUE_CHARS)]
    phone: str | None = whom.phone()


async def get(call: ToolCall) -> Outcome:
    """Give what is known of a customer."""
    number = whom.number_of(call, call.arguments.phone)
    document = await call.services.ask("customer_context", phone=number)
    if document is None:
        raise ToolError(whom.nobody(number))
    facts = {
        written.cut(name, written.MAX_FACT_CHARS): written.cut(value, MAX_TOLD_CHARS)
        for name, value in islice(document["facts"].items(), MOST_FACTS)
    }
    return Outcome({"facts": facts, "note": written.NOTE} if facts else {"facts": {}, "note": "Nothing is known yet."})


async def add(call: ToolCall) -> Outcome:
    """Store a fact about a customer."""
    number = whom.number_of(call, call.arguments.phone)
    source = f"call {call.call.call_sid}" if call.call is not None else "mcp"
    fact, value = call.arguments.fact, call.arguments.value
    answer = await call.services.ask(
        "add_customer_fact", key=call.key, phone=number, fact=fact, value=value, source=source
    )
    if answer["outcome"] == "unknown_customer":
        raise ToolError(whom.nobody(number))
    return Outcome({"status": "stored", "fact": fact})


GET = Tool(
    name="get_customer_facts",
    description="Get what is known about a customer: preferences, history.",
    run=get,
    arguments=Whose,
    place="host",
    needs=frozenset({"database"}),
    repeatable=True,
)

ADD = Tool(
    name="add_customer_fact",
    description="Remember something about a customer for later calls.",
    run=add,
    arguments=Fact,
    place="host",
    needs=frozenset({"database"}),
    writes=True,
    idempotent=True,
)
