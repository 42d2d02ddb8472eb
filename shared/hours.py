"""Opening hours as the agents file writes them: `09:00-12:30`. How they are written, and nothing of what follows. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""In the order of `datetime.weekday()`."""

DAY_MINUTES: Final = 24 * 60

_SPAN: Final = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Opening:
    """A span of one day: minutes since midnight by the clock on the wall, `closes` not included."""

    opens: int
    closes: int


def read_opening(text: str) -> Opening:
    """Read `09:00-12:30`; `24:00` is the end of a day.

    Raises:
        ValueError: it is not written like that, or does not end after it begins; says which.
    """
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ValueError("must be written like 09:00-12:30")
    hours, minutes, until_hours, until_minutes = map(int, found.groups())
    opening = Opening(hours * 60 + minutes, until_hours * 60 + until_minutes)
    if opening.closes > DAY_MINUTES:
        raise ValueError("must end at 24:00 at the latest")
    if opening.opens >= opening.closes:
        raise ValueError("must end after it begins")
    return opening


def read_day(spans: Sequence[str]) -> tuple[Opening, ...]:
    """Read the openings of a day.

    Raises:
        ValueError: one of them is wrong, begins before the one before it, or overlaps it.
    """
    openings: list[Opening] = []
    for text in spans:
        try:
            opening = read_opening(text)
        except ValueError as error:
            raise ValueError(f"{text[:20]!r} {error}") from None
        if openings and opening.opens < openings[-1].closes:
            raise ValueError(f"{text!r} must begin after the one before it has ended")
        openings.append(opening)
    return tuple(openings)


def read_week(hours: Mapping[str, Sequence[str]]) -> tuple[tuple[Opening, ...], ...]:
    """Read the openings of a week, Monday first; a day that is not named has none.

    Raises:
        ValueError: as `read_day`.
    """
    return tuple(read_day(hours.get(day, ())) for day in WEEKDAYS)
