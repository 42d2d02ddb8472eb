"""What is free, as the model is told it: by day, some times to suggest, and all of them in few words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from worker.tools import times
from worker.tools.business import Business, Span, spread
from worker.tools.registry import ToolCall

MOST_RUNS: Final = 12
"""A day of very short slots that is booked here and there has more pieces than a model should read."""

DAYS_SEARCHED: Final = 14
DAYS_SHOWN: Final = 3
MOST_SUGGESTED: Final = 6
"""More than this nobody keeps in mind on the telephone."""


@dataclass(frozen=True, slots=True)
class FreeDays:
    """The free times of some days in a row; a day may have none."""

    business: Business
    now: datetime
    starts: Mapping[date, Sequence[datetime]]

    @property
    def any(self) -> bool:
        """Whether anything is free."""
        return any(self.starts.values())

    def on(self, day: date) -> list[dict[str, Any]]:
        """Tell the times of one day; nothing when it has none."""
        return [self._told(day, spread(self.starts[day], MOST_SUGGESTED))] if self.starts[day] else []

    def first(self) -> list[dict[str, Any]]:
        """Tell the first days that have any."""
        days = [day for day, starts in self.starts.items() if starts][:DAYS_SHOWN]
        return [self._told(day, spread(self.starts[day], MOST_SUGGESTED // DAYS_SHOWN)) for day in days]

    def near(self, start: datetime) -> list[dict[str, Any]]:
        """Tell the times around one, on its day; if there are none, the first days that have any."""
        day = start.astimezone(self.business.zone).date()
        closest = sorted(self.starts.get(day, ()), key=lambda other: abs(other - start))[: MOST_SUGGESTED // 2]
        return [self._told(day, sorted(closest))] if closest else self.first()

    def _told(self, day: date, suggested: Sequence[datetime]) -> dict[str, Any]:
        zone = self.business.zone
        return {
            "date": day.isoformat(),
            "day": times.day_words(day, self.business.today(self.now)),
            "suggest": [times.clock(start, zone) for start in suggested],
            "free": self._runs(self.starts[day]),
        }

    def _runs(self, starts: Sequence[datetime]) -> list[str]:
        """Write times that follow each other as one: `09:00 to 12:00`."""
        runs: list[list[datetime]] = []
        for start in starts:
            if runs and start - runs[-1][-1] == self.business.step:
                runs[-1].append(start)
            else:
                runs.append([start])
        kept = runs[:MOST_RUNS]
        names = [[times.clock(run[index], self.business.zone) for index in (0, -1)] for run in kept]
        told = [first if first == last else f"{first} to {last}" for first, last in names]
        return told if len(runs) == len(kept) else [*told, "and later"]


async def look(
    call: ToolCall, business: Business, first: date, now: datetime, length: timedelta = timedelta(0)
) -> FreeDays:
    """Find what is free from a day on, for a slot or for an appointment of a `length`.

    Raises:
        ServiceTrouble: the database gave no answer.
    """
    days = [first + timedelta(days=ahead) for ahead in range(DAYS_SEARCHED)]
    begins, ends = (
        datetime.combine(day, datetime.min.time(), business.zone).astimezone(UTC)
        for day in (first, days[-1] + timedelta(days=1))
    )
    rows = await call.services.ask(
        "busy_between", calendar=call.agent.calendar, **{"from": begins.isoformat(), "to": ends.isoformat()}
    )
    busy = [Span(*(datetime.fromisoformat(row[edge]) for edge in ("starts_at", "ends_at"))) for row in rows]
    return FreeDays(business, now, {day: business.free(day, busy, now, length) for day in days})
