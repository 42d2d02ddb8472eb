"""Whose record a tool touches: the caller's, unless another number was said and the agent may use it. Pure."""

from typing import Any, Final

from pydantic import Field

from shared import phones
from worker.tools import written
from worker.tools.registry import ToolCall, ToolError

MOST_SHOWN: Final = 30
"""How much of what is no number is repeated."""

ASK: Final = "Ask for the number with its area code."
ASK_OR_OWN: Final = "Ask for the number with its area code, or leave it out for the number that calls."
SHOWN_WITHHELD: Final = f"The number of the caller is withheld. {ASK}"
NO_CALL: Final = f"There is no call whose number could be used. {ASK}"
ONLY_OWN: Final = "Only what belongs to the number that calls may be seen or changed here. Tell the caller so."
ONLY_OWN_WITHHELD: Final = f"{ONLY_OWN} The number is withheld: the caller must call again and show it."


def phone() -> Any:
    """Give the field of a customer's number."""
    return Field(None, description="The customer's number. Leave out for the number that calls.")


def number_of(call: ToolCall, said: str | None) -> str:
    """Give the number of the customer in the form that is stored; the caller's when none was said.

    Raises:
        ToolError: a sentence that says what is wrong with it, or that this agent must not use it.
    """
    caller = phones.normalise(call.call.caller).e164 if call.call is not None else None
    if call.agent.own_record_only and caller is None:
        raise ToolError(ONLY_OWN_WITHHELD if call.call is not None else ONLY_OWN)
    if said is None or not said.strip():
        if caller is None:
            raise ToolError(SHOWN_WITHHELD if call.call is not None else NO_CALL)
        return caller
    reading = phones.normalise(said, _region(call, caller))
    if reading.e164 is None:
        shown = written.cut(said, MOST_SHOWN)
        ask = ASK if caller is None else ASK_OR_OWN
        raise ToolError(f"{shown!r} cannot be used as a telephone number: {reading.why}. {ask}")
    if call.agent.own_record_only and reading.e164 != caller:
        raise ToolError(ONLY_OWN)
    return reading.e164


def nobody(number: str) -> str:
    """Say that there is no such customer."""
    return f"No customer has the number {number}. Ask for the caller's name, and create the customer first."


def _region(call: ToolCall, caller: str | None) -> str | None:
    """Choose the country of a number that was said without one: the caller's, else that of the number that was called."""
    near = phones.region_of(caller) if caller is not None else None
    return near or (phones.region_of(call.call.called) if call.call is not None else None)
