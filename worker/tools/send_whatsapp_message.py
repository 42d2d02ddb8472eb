"""`send_whatsapp_message`: something in writing.

The model is told what is known while the caller waits. A message that fails later than that is told to nobody, and stands
in the database only: so nothing is promised of one that was merely taken.
"""

from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BaseModel, Field

from worker.tools import whom, written
from worker.tools.registry import Outcome, Tool, ToolCall, ToolError
from worker.tools.services import ServiceTrouble

STATES: Final[Mapping[str, str]] = {
    "delivered": "delivered",
    "taken": (
        "WhatsApp has taken it, but it is not known yet whether it arrives: say that it is on its way, not that it has arrived"
    ),
    "queued": "waiting to be sent: it is not known yet whether it arrives. Say that it may take a while, and promise nothing",
}
"""What is said to the model where nothing was refused."""


class Arguments(BaseModel):
    """What the model may say."""

    text: Annotated[str, written.message(written.MAX_MESSAGE_CHARS)] = Field(description="The whole message.")
    phone: str | None = whom.phone()


async def run(call: ToolCall) -> Outcome:
    """Send a message, and say what is known of it after a moment."""
    number = whom.number_of(call, call.arguments.phone)
    if call.services.messenger is None:
        raise ServiceTrouble("no messenger is configured")
    call_sid = call.call.call_sid if call.call is not None else ""
    state = await call.services.messenger.send_whatsapp(call.key, number, call.arguments.text, call_sid)
    if state not in STATES:
        raise ToolError(state)
    return Outcome({"status": STATES[state], "to": number})


TOOL = Tool(
    name="send_whatsapp_message",
    description="Send the caller a WhatsApp message, such as a confirmation, after they agreed to it.",
    run=run,
    arguments=Arguments,
    place="host",
    needs=frozenset({"messenger"}),
    writes=True,
    idempotent=True,
)
