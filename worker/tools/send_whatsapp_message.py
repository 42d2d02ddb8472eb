"""`send_whatsapp_message`: something in writing."""

from typing import Annotated

from pydantic import BaseModel, Field

from worker.tools import whom, written
from worker.tools.registry import Outcome, Tool, ToolCall, ToolError
from worker.tools.services import ServiceTrouble


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
    if state == "sent":
        return Outcome({"status": "sent", "to": number})
    if state == "queued":
        return Outcome({"status": "on its way: it is not known yet whether it arrives", "to": number})
    raise ToolError(state)


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
