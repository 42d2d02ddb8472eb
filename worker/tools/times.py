"""Times as a model writes them and as an agent says them. Pure: who asks brings `now` and the time zone.

A model writes ISO 8601, local to the business unless it writes an offset: what it gets from other tools it can write back.
A `Z` is no offset: models write one from habit behind a time that the caller said.
Anything looser ("3pm", "31/12") is refused with the right form, since a guessed time is a wrong appointment.
"""

import calendar
import re
from datetime import MAXYEAR, MINYEAR, UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from worker.tools.registry import ToolError

WEEKDAYS: Final = tuple(day.lower() for day in calendar.day_name)
MONTHS: Final = tuple(calendar.month_name)

HOW_A_TIME: Final = "Write the date and the time like 2031-05-20T15:00, in the time of the business."
HOW_A_DAY: Final = "Write the date like 2031-05-20, or today, tomorrow, or the name of a weekday."
MOST_SHOWN: Final = 40
"""How much of what cannot be read is repeated."""

_DATE: Final = re.compile(r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})")


def read_time(written: str, zone: ZoneInfo) -> datetime:
    """Read a date and time, in UTC.

    Raises:
        ToolError: it is none, its day does not exist, the clocks leave it out or have it twice that night, or it ends in `Z`
            where that is another time than the business has.
    """
    text = written.strip()
    _refuse_impossible(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ToolError(f"{_shown(text)} is not a time. {HOW_A_TIME}") from None
    if _is_a_day(text):
        raise ToolError(f"{_shown(text)} has no time of day. {HOW_A_TIME}")
    if not MINYEAR + 1 < at.year < MAXYEAR - 1:  # beyond, it exists in some time zones only
        raise ToolError(f"{_shown(text)} is not a time anybody can have an appointment at.")
    if text[-1] in "Zz" and at.astimezone(zone).replace(tzinfo=None) != at.replace(tzinfo=None):
        raise ToolError(_no_z(at, zone))
    return at.astimezone(UTC) if at.tzinfo is not None else _placed(at, zone)


def read_day(written: str, today: date) -> date:
    """Read a day: a date, `today`, `tomorrow`, or a weekday, which is the next one that is not today.

    Raises:
        ToolError: it is none, or does not exist.
    """
    text = written.strip().lower()
    if text in {"today", "tomorrow"}:
        return today + timedelta(days=text == "tomorrow")
    if text.removeprefix("next ") in WEEKDAYS:
        return today + timedelta(days=(WEEKDAYS.index(text.removeprefix("next ")) - today.weekday() - 1) % 7 + 1)
    _refuse_impossible(text)
    try:
        return datetime.fromisoformat(text.upper()).date()
    except ValueError:
        raise ToolError(f"{_shown(text)} is not a day. {HOW_A_DAY}") from None


def day_words(day: date, today: date) -> str:
    """Say a day: `Thursday 3 December`, with the year when that is another one than today's."""
    words = f"{WEEKDAYS[day.weekday()].capitalize()} {day.day} {MONTHS[day.month]}"
    return words if day.year == today.year else f"{words} {day.year}"


def clock(at: datetime, zone: ZoneInfo) -> str:
    """Write the time of day at the business: `15:00`, with the UTC offset when the clocks have it twice that night."""
    local = at.astimezone(zone)
    return local.strftime("%H:%M") + (_offset(local) if _comes_twice(local) else "")


def iso(at: datetime, zone: ZoneInfo) -> str:
    """Write a time for the model, which may write it back: `2026-12-03T15:00-03:00`."""
    return at.astimezone(zone).isoformat(timespec="minutes")


def words(at: datetime, zone: ZoneInfo, now: datetime) -> str:
    """Say a time as it is at the business: `Thursday 3 December at 15:00`."""
    local = at.astimezone(zone)
    said = f"{day_words(local.date(), now.astimezone(zone).date())} at {local:%H:%M}"
    if _comes_twice(local):
        said += " after the clocks went back" if local.fold else " before the clocks go back"
    return said


def _placed(local: datetime, zone: ZoneInfo) -> datetime:
    """Find the one moment at which a clock on the wall shows a time."""
    first, second = (local.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    back = first.astimezone(UTC).astimezone(zone)
    if back.replace(tzinfo=None) != local:
        raise ToolError(
            f"On {local.day} {MONTHS[local.month]} {local.year} the clocks go forward and leave out {local:%H:%M}. "
            f"The same moment is called {back:%H:%M} then."
        )
    if _comes_twice(first):
        raise ToolError(
            f"On {local.day} {MONTHS[local.month]} {local.year} the clocks go back, and {local:%H:%M} comes twice. Ask which "
            f"one is meant, and write {_with_offset(first)} for the first or {_with_offset(second)} for the second."
        )
    return first.astimezone(UTC)


def _no_z(at: datetime, zone: ZoneInfo) -> str:
    """Say how to write the time that was probably meant, and the one that was written."""
    wall, moment = (each.isoformat(timespec="minutes") for each in (at.replace(tzinfo=None), at.astimezone(zone)))
    return f"Z is UTC. For {at:%H:%M} at the business write {wall}, without Z; for {at:%H:%M} in UTC write {moment}."


def _is_a_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _comes_twice(local: datetime) -> bool:
    """Tell a time that the clocks go back over; it must exist."""
    return local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()


def _with_offset(local: datetime) -> str:
    return local.isoformat(timespec="minutes")


def _offset(local: datetime) -> str:
    return local.isoformat(timespec="minutes")[len("2031-05-20T15:00") :]


def _refuse_impossible(text: str) -> None:
    """Say which part of a date is wrong: the 31st of February has to be told to the caller."""
    found = _DATE.match(text)
    if found is None:
        return
    year, month, day = (int(part) for part in found.groups())
    if not 1 <= month < len(MONTHS):
        raise ToolError(f"There is no month {month}. {HOW_A_DAY}")
    days = calendar.monthrange(year, month)[1] if year else 0
    if not 1 <= day <= days:
        raise ToolError(f"{day} {MONTHS[month]} does not exist: {MONTHS[month]} {year} has {days} days.")


def _shown(text: str) -> str:
    return repr(text[:MOST_SHOWN])
