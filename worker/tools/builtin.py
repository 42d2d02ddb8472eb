"""The tools every installation has, in the order in which the model sees them."""

from typing import Final

from worker.tools import (
    book_appointment,
    cancel_calendar_event,
    create_customer,
    customer_facts,
    end_call,
    get_current_time,
    get_customer_by_phone,
    list_free_slots,
    more_tools,
    reschedule_appointment,
    send_whatsapp_message,
    transfer_call,
    update_customer_status,
)
from worker.tools.registry import Tool, by_name

_TOOLS: Final = (
    get_current_time.TOOL,
    end_call.TOOL,
    transfer_call.TOOL,
    get_customer_by_phone.TOOL,
    create_customer.TOOL,
    list_free_slots.TOOL,
    book_appointment.TOOL,
    reschedule_appointment.TOOL,
    cancel_calendar_event.TOOL,
    customer_facts.GET,
    customer_facts.ADD,
    update_customer_status.TOOL,
    send_whatsapp_message.TOOL,
)

BUILT_IN: Final[dict[str, Tool]] = by_name([*_TOOLS, more_tools.tool(by_name(_TOOLS))])
