"""`list_free_slots`: which times are free."""

from datetime import UTC, date, datetime
from typing import Literal

from pydantic import BaseModel, Field

from worker.tools import free_times, times
from worker.tools.business import Business
from worker.tools.free_times import FreeDays
from worker.tools.registry import Outcome, Tool, ToolCall, ToolError

Part = Literal["morning", "afternoon", "evening"]

HOURS: dict[Part, range] = {"morning": range(12), "afternoon": range(12, 18), "evening": range(18, 24)}


class Arguments(BaseModel):
    """What the model may say."""

    day: str | None = Field(
        None, description="Date (YYYY-MM-DD), today, tomorrow or an English weekday. Leave out for the earliest times."
    )
    part: Part | None = Field(None, description="Only when the caller prefers a part of the day.")


async def run(call: ToolCall) -> Outcome:
    """Suggest free times of a day, or the next ones when there are none or any day will do."""
    business, now = Business.of(call.agent), datetime.now(UTC)
    today = business.today(now)
    day = times.read_day(call.arguments.day, today) if call.arguments.day else None
    if day is not None and day < today:
        raise ToolError(f"{times.day_words(day, today)} is in the past. Today is {times.day_words(today, today)}.")
    business.check_ahead(day or today, now)
    found = await free_times.look(call, business, day or today, now)
    if call.arguments.part is not None:
        found = _only(found, call.arguments.part)
    minutes = round(business.step.total_seconds() / 60)
    told = {"note": f"Times are starts, every {minutes} minutes. Suggest few."}
    if day is not None and found.starts[day]:
        return Outcome({"free": found.on(day), **told})
    nothing = "" if day is None else f"{_nothing(business, day, today)} "
    if not found.any:
        raise ToolError(f"{nothing}Nothing is free in the two weeks after it. Offer to look at a later day.")
    return Outcome({"free": found.first(), "note": nothing + told["note"]})


def _only(found: FreeDays, part: Part) -> FreeDays:
    """Keep the times of a part of the day."""
    hours, zone = HOURS[part], found.business.zone
    kept = {day: [at for at in starts if at.astimezone(zone).hour in hours] for day, starts in found.starts.items()}
    return FreeDays(found.business, found.now, kept)


def _nothing(business: Business, day: date, today: date) -> str:
    said = times.day_words(day, today)
    return f"Nothing is free on {said}." if business.opened(day) else f"The business is closed on {said}."


TOOL = Tool(
    name="list_free_slots",
    description="Find times that are free for an appointment.",
    run=run,
    arguments=Arguments,
    stage="essential",
    place="host",
    needs=frozenset({"database"}),
    repeatable=True,
)
