"""When the business of an agent takes appointments: its hours, its closed days, its grid of slots. Pure: `now` is given.

A slot is as long as `slot_minutes`; slots follow each other from each opening on and end before the closing. All moments
are in UTC and steps are elapsed time, so a night on which the clocks change has no slot twice and none that nobody can keep.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Self
from zoneinfo import ZoneInfo

from shared import hours
from shared.agents import Agent
from shared.hours import DAY_MINUTES, WEEKDAYS, Opening
from worker.tools import times
from worker.tools.registry import ToolError

MOST_DAYS_AHEAD: Final = 365
NEAREST: Final = 2
"""How many other times are named when one is between two slots."""


@dataclass(frozen=True, slots=True)
class Span:
    """From `start` up to, not including, `end`; both in UTC."""

    start: datetime
    end: datetime

    def overlaps(self, other: "Span") -> bool:
        """Tell whether they have a moment in common."""
        return self.start < other.end and other.start < self.end


@dataclass(frozen=True, slots=True)
class Business:
    """Where an agent's business is and when it is open; `week` begins on Monday."""

    zone: ZoneInfo
    week: tuple[tuple[Opening, ...], ...]
    closed: frozenset[str]
    step: timedelta

    @classmethod
    def of(cls, agent: Agent) -> Self:
        """Read an agent's profile, which was checked when the agents file was read."""
        week = hours.read_week(agent.hours) if agent.hours else ((Opening(0, DAY_MINUTES),),) * len(WEEKDAYS)
        return cls(ZoneInfo(agent.timezone), week, frozenset(agent.closed), timedelta(minutes=agent.slot_minutes))

    def today(self, now: datetime) -> date:
        """Give the day it is there."""
        return now.astimezone(self.zone).date()

    def opened(self, day: date) -> list[Span]:
        """Give the spans in which it is open on a day; none when it is closed."""
        spans: list[Span] = []
        for opening in () if day.isoformat() in self.closed else self.week[day.weekday()]:
            span = Span(self._moment(day, opening.opens), self._moment(day, opening.closes))
            if spans and span.start <= spans[-1].end:  # also when the clocks go forward between the two
                spans[-1] = Span(spans[-1].start, max(spans[-1].end, span.end))
            elif span.start < span.end:
                spans.append(span)
        return spans

    def slots(self, day: date) -> Iterator[Span]:
        """Give the slots of the day, free or not."""
        for span in self.opened(day):
            start = span.start
            while start + self.step <= span.end:
                yield Span(start, start + self.step)
                start += self.step

    def closes(self, start: datetime) -> datetime:
        """Say until when it stays open, from a moment at which it is; also over midnight, up to the end of the next day."""
        day = start.astimezone(self.zone).date()
        closes = next(span.end for span in self.opened(day) if span.start <= start < span.end)
        return next((span.end for span in self.opened(day + timedelta(days=1)) if span.start == closes), closes)

    def free(self, day: date, busy: Sequence[Span], now: datetime, length: timedelta = timedelta(0)) -> list[datetime]:
        """Give the starts of a day's slots that are still to come and overlap nothing.

        With a `length` of more than a slot, those at which an appointment as long as that can begin.
        """
        near = [taken for taken in busy if any(taken.overlaps(span) for span in self._around(day))]  # of weeks, a day's
        longest = max(self.step, length)
        return [
            slot.start
            for slot in self.slots(day)
            if slot.start > now
            and (longest == self.step or slot.start + longest <= self.closes(slot.start))
            and not any(Span(slot.start, slot.start + longest).overlaps(taken) for taken in near)
        ]

    def slot(self, start: datetime, now: datetime) -> Span:
        """Give the slot that begins at a moment, free or not.

        Raises:
            ToolError: a sentence that says why there is none, and which times there are.
        """
        said, day = times.words(start, self.zone, now), start.astimezone(self.zone).date()
        if start <= now:
            raise ToolError(f"{said} is in the past. It is {times.words(now, self.zone, now)} now.")
        self.check_ahead(day, now)
        if any(span.start <= start < span.end for span in self.opened(day)):
            return self._on_grid(start, [slot for slot in self.slots(day) if slot.start > now], said)
        raise ToolError(f"The business is closed on {said}. {self._open_words(day, now)}")

    def check_ahead(self, day: date, now: datetime) -> None:
        """Refuse a day for which no appointments are made yet.

        Raises:
            ToolError: it is more than a year ahead.
        """
        today = self.today(now)
        if day > today + timedelta(days=MOST_DAYS_AHEAD):
            raise ToolError(
                f"{times.day_words(day, today)} is too far ahead: appointments are made up to a year ahead."
            )

    def _around(self, day: date) -> list[Span]:
        """Give the spans of a day, and those of the next one, into which a long appointment may reach."""
        return [*self.opened(day), *self.opened(day + timedelta(days=1))]

    def _on_grid(self, start: datetime, slots: list[Span], said: str) -> Span:
        for slot in slots:
            if slot.start == start:
                return slot
        nearest = sorted(sorted(slots, key=lambda slot: abs(slot.start - start))[:NEAREST], key=lambda slot: slot.start)
        names = " and ".join(times.clock(slot.start, self.zone) for slot in nearest)
        also = f"The nearest are {names}." if nearest else "There is none left that day."
        minutes = round(self.step.total_seconds() / 60)
        raise ToolError(f"No appointment can begin on {said}: they begin every {minutes} minutes. {also}")

    def _open_words(self, day: date, now: datetime) -> str:
        """Say when it is open instead: on that day, else on the next day it opens."""
        for ahead in range(MOST_DAYS_AHEAD):
            spans = self.opened(day + timedelta(days=ahead))
            if spans:
                openings = " and ".join(f"{self._clock(span.start)} to {self._clock(span.end)}" for span in spans)
                that = (
                    "That day" if not ahead else f"On {times.day_words(day + timedelta(days=ahead), self.today(now))}"
                )
                return f"{that} it is open from {openings}."
        return "It opens on no day."

    def _clock(self, at: datetime) -> str:
        return f"{at.astimezone(self.zone):%H:%M}"

    def _moment(self, day: date, minutes: int) -> datetime:
        """Find when a clock there shows a time of a day. What the clocks skip is moved on; of two moments it is the first."""
        days, minute = divmod(minutes, DAY_MINUTES)
        wall = datetime.combine(day + timedelta(days=days), time(*divmod(minute, 60)), self.zone)
        return wall.astimezone(UTC)


def spread(starts: Sequence[datetime], most: int) -> list[datetime]:
    """Choose so many of a day's times that they speak for all of it."""
    if len(starts) <= most:
        return list(starts)
    return [starts[round(index * (len(starts) - 1) / (most - 1))] for index in range(most)]
