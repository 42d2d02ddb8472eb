"""The names of the tools every installation has, for whoever must know them and not load them. Tested against `builtin`."""

from typing import Final

NAMES: Final = frozenset(
    {
        "get_current_time", "end_call", "transfer_call", "more_tools",
        "get_customer_by_phone", "create_customer", "get_customer_facts", "add_customer_fact", "update_customer_status",
        "list_free_slots", "book_appointment", "reschedule_appointment", "cancel_calendar_event",
        "send_whatsapp_message",
    }
)  # fmt: skip
