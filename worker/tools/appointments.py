"""What tools have in common that make, move and cancel appointments."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, Field

from worker.tools import free_times, times, whom, written
from worker.tools.business import Business, Span
from worker.tools.registry import Outcome, ToolCall
from worker.tools.services import ServiceTrouble

MOST_ID: Final = 2**63 - 1
"""Source: PostgreSQL manual, 8.1 Numeric Types, bigint."""


def _id(number: int) -> int:
    if not 0 < number <= MOST_ID:
        raise ValueError("is no id of an appointment: leave it out")
    return number


class Which(BaseModel):
    """How the model says which appointment it means; with neither it is the only one to come."""

    appointment_id: Annotated[int, AfterValidator(_id)] | None = Field(None, description="Its id, when you know it.")
    begins_at: str | None = Field(None, description="When it begins (YYYY-MM-DDTHH:MM), when the customer has several.")
    phone: str | None = whom.phone()

    def begins(self, zone: ZoneInfo) -> str | None:
        """Give when it begins, as the database reads it.

        Raises:
            ToolError: what was written is no time.
        """
        return times.read_time(self.begins_at, zone).isoformat() if self.begins_at else None


def told(appointment: Mapping[str, Any], zone: ZoneInfo, now: datetime) -> dict[str, Any]:
    """Tell of an appointment when it is, in words and for writing back, and what it is for."""
    start = datetime.fromisoformat(appointment["starts_at"])
    known = {
        "id": appointment["id"],
        "when": times.words(start, zone, now),
        "begins_at": times.iso(start, zone),
    }
    notes = written.cut(appointment.get("notes") or "", written.MAX_NOTE_CHARS)
    return known | ({"notes": notes} if notes else {})


def done(status: str, appointment: Mapping[str, Any], zone: ZoneInfo, now: datetime) -> Outcome:
    """Say what was done with an appointment."""
    return Outcome({"status": status, "appointment": told(appointment, zone, now), "note": written.NOTE})


def not_one(answer: Mapping[str, Any], number: str, zone: ZoneInfo, now: datetime) -> Outcome:
    """Say why a request did not fit one appointment, and which there are."""
    if answer["outcome"] == "unknown_customer":
        return Outcome({"error": whom.nobody(number)})
    coming = [told(each, zone, now) for each in answer["appointments"]]
    if answer["outcome"] == "ambiguous":
        error = "There are several appointments. Ask the caller which one is meant."
    elif answer["outcome"] == "over":
        error = _over(answer["appointment"], now) + (" These are to come." if coming else "")
    elif coming:
        error = "There is no such appointment. These are to come: ask the caller which one is meant."
    else:
        error = "There is no appointment to come under this number."
    return Outcome({"error": error, "appointments": coming, "note": written.NOTE} if coming else {"error": error})


async def taken(
    call: ToolCall, business: Business, slot: Span, now: datetime, length: timedelta = timedelta(0)
) -> Outcome:
    """Say that a time is taken, and what is free near it for an appointment of a `length`."""
    error = f"{times.words(slot.start, business.zone, now)} is taken. Suggest another time."
    return Outcome({"error": error} | await _near(call, business, slot.start, now, length))


async def too_long(call: ToolCall, business: Business, slot: Span, now: datetime, length: timedelta) -> Outcome:
    """Say that an appointment would end after the closing, and what is free near that time for one as long."""
    minutes, closes = round(length.total_seconds() / 60), times.clock(business.closes(slot.start), business.zone)
    error = f"The appointment takes {minutes} minutes and would end after the business closes at {closes}."
    return Outcome({"error": f"{error} Suggest another time."} | await _near(call, business, slot.start, now, length))


def length_of(appointment: Mapping[str, Any]) -> timedelta:
    """Say how long an appointment is."""
    starts, ends = (datetime.fromisoformat(appointment[edge]) for edge in ("starts_at", "ends_at"))
    return ends - starts


async def _near(
    call: ToolCall, business: Business, start: datetime, now: datetime, length: timedelta
) -> dict[str, Any]:
    """Find what is free near a time; nothing when the database does not answer."""
    try:
        found = await free_times.look(call, business, start.astimezone(business.zone).date(), now, length)
    except ServiceTrouble:
        return {}
    return {"free": found.near(start)}


def _over(appointment: Mapping[str, Any], now: datetime) -> str:
    return f"That appointment {'is over' if datetime.fromisoformat(appointment['ends_at']) <= now else 'has begun'}."
