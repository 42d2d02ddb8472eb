"""When a business takes appointments: hours, closed days, the grid of slots, and nights on which the clocks change."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.agents import Agent
from shared.hours import WEEKDAYS
from worker.tools.business import Business, Span, spread
from worker.tools.registry import ToolError

WEEK: dict[str, tuple[str, ...]] = dict.fromkeys(WEEKDAYS[:5], ("09:00-12:30", "14:00-18:00"))
CLINIC = Business.of(Agent(timezone="America/Sao_Paulo", hours=WEEK, closed=("2026-12-25",)))
NOW = datetime(2026, 11, 27, 16, tzinfo=UTC)  # a Friday, 13:00 in São Paulo
THURSDAY = date(2026, 12, 3)


def at(day: date, clock: str, offset: int = -3) -> datetime:
    """Give a moment by the clock on the wall of the clinic."""
    return datetime.fromisoformat(f"{day}T{clock}{offset:+03}:00").astimezone(UTC)


def refusal(start: datetime, business: Business = CLINIC, now: datetime = NOW) -> str:
    """Give the sentence with which a time is refused."""
    with pytest.raises(ToolError) as refused:
        business.slot(start, now)
    return str(refused.value)


def test_a_slot_is_as_long_as_a_step() -> None:
    assert CLINIC.slot(at(THURSDAY, "15:00"), NOW) == Span(at(THURSDAY, "15:00"), at(THURSDAY, "15:30"))


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        (at(date(2026, 11, 27), "10:00"),
         "Friday 27 November at 10:00 is in the past. It is Friday 27 November at 13:00 now."),
        (NOW, "is in the past"),
        (at(date(2025, 12, 3), "15:00"), "Wednesday 3 December 2025 at 15:00 is in the past."),
        (at(date(2027, 11, 28), "10:00"),
         "Sunday 28 November 2027 is too far ahead: appointments are made up to a year ahead."),
        (at(THURSDAY, "13:00"), ("The business is closed on Thursday 3 December at 13:00. "
         "That day it is open from 09:00 to 12:30 and 14:00 to 18:00.")),
        (at(THURSDAY, "12:30"), "The business is closed on Thursday 3 December at 12:30."),
        (at(THURSDAY, "03:00"), "The business is closed on Thursday 3 December at 03:00."),
        (at(date(2026, 12, 5), "10:00"), ("The business is closed on Saturday 5 December at 10:00. "
         "On Monday 7 December it is open from 09:00 to 12:30 and 14:00 to 18:00.")),
        (at(date(2026, 12, 25), "10:00"), "The business is closed on Friday 25 December at 10:00. On Monday 28 December"),
        (at(THURSDAY, "15:10"), ("No appointment can begin on Thursday 3 December at 15:10: they begin every 30 minutes. "
         "The nearest are 15:00 and 15:30.")),
        (at(THURSDAY, "12:15"), "The nearest are 11:30 and 12:00."),
        (at(THURSDAY, "17:45"), "The nearest are 17:00 and 17:30."),
        (at(date(2026, 11, 27), "17:31"), "The nearest are 17:00 and 17:30."),
    ],
)  # fmt: skip
def test_a_time_without_a_slot_is_refused_with_the_times_there_are(start: datetime, sentence: str) -> None:
    assert sentence in refusal(start)


def test_the_last_minutes_of_a_day_have_no_other_times() -> None:
    late = at(date(2026, 11, 27), "17:40")
    assert refusal(at(date(2026, 11, 27), "17:45"), now=late).endswith("There is none left that day.")


def test_a_business_that_never_opens_says_so() -> None:
    never = Business.of(Agent(hours={"mon": ()}))
    assert refusal(NOW + timedelta(days=1), never).endswith("It opens on no day.")
    assert never.opened(THURSDAY) == []


def test_without_hours_it_is_always_open_but_on_closed_days() -> None:
    business = Business.of(Agent(slot_minutes=60, closed=("2026-12-25",)))
    assert len(list(business.slots(THURSDAY))) == 24
    assert list(business.slots(date(2026, 12, 25))) == []


def test_free_times_are_still_to_come_and_overlap_nothing() -> None:
    friday = date(2026, 11, 27)
    taken = [Span(at(friday, "14:15"), at(friday, "14:45")), Span(at(friday, "16:00"), at(friday, "17:30"))]
    now = at(friday, "13:00")
    assert CLINIC.free(friday, taken, now) == [at(friday, clock) for clock in ("15:00", "15:30", "17:30")]
    assert CLINIC.free(friday, taken, at(friday, "15:00")) == [at(friday, clock) for clock in ("15:30", "17:30")]


def test_times_that_speak_for_a_day_are_spread_over_it() -> None:
    starts = list(CLINIC.free(THURSDAY, [], NOW))
    chosen = spread(starts, 6)
    assert len(chosen) == 6
    assert (chosen[0], chosen[-1]) == (starts[0], starts[-1])
    assert spread(starts[:3], 6) == starts[:3]
    assert spread([], 6) == []


def test_a_night_on_which_the_clocks_go_forward_has_no_slot_that_nobody_can_keep() -> None:
    lisbon = Business.of(Agent(timezone="Europe/Lisbon", hours={"sun": ("00:00-03:00",)}))
    day = date(2027, 3, 28)
    walls = [f"{slot.start.astimezone(lisbon.zone):%H:%M}" for slot in lisbon.slots(day)]
    assert walls == ["00:00", "00:30", "02:00", "02:30"]


def test_a_night_on_which_the_clocks_go_back_has_both_of_its_hours() -> None:
    lisbon = Business.of(Agent(timezone="Europe/Lisbon", hours={"sun": ("00:00-03:00",)}))
    walls = [f"{slot.start.astimezone(lisbon.zone):%H:%M}" for slot in lisbon.slots(date(2027, 10, 31))]
    assert walls == ["00:00", "00:30", "01:00", "01:30", "01:00", "01:30", "02:00", "02:30"]


def test_hours_that_the_clocks_push_together_are_one() -> None:
    """02:30 does not exist in New York that night: what was to close then closes an hour later, in the next opening."""
    night = Business.of(Agent(timezone="America/New_York", hours={"sun": ("01:00-02:30", "03:00-05:00")}))
    (opened,) = night.opened(date(2027, 3, 14))
    assert opened == Span(datetime(2027, 3, 14, 6, tzinfo=UTC), datetime(2027, 3, 14, 9, tzinfo=UTC))


def test_hours_that_end_before_they_begin_that_night_are_none() -> None:
    """02:30 is what is called 03:30 then, after the closing at 03:00."""
    night = Business.of(Agent(timezone="America/New_York", hours={"sun": ("02:30-03:00", "05:00-06:00")}))
    assert [span.start.hour for span in night.opened(date(2027, 3, 14))] == [9]


zones = st.sampled_from(
    [
        "UTC",
        "Europe/Lisbon",
        "America/Havana",
        "Australia/Lord_Howe",
        "America/Sao_Paulo",
        "Asia/Beirut",
        "Atlantic/Azores",
    ]
)
days = st.one_of(
    st.dates(date(2026, 1, 1), date(2028, 12, 31)),
    st.sampled_from([date(2027, 3, 14), date(2027, 3, 28), date(2027, 10, 3), date(2027, 10, 31), date(2027, 11, 7)]),
)
edges = st.lists(st.integers(0, 24 * 12).map(lambda part: part * 5), min_size=2, max_size=6, unique=True).map(sorted)


def written(minutes: int) -> str:
    """Write minutes since midnight as the agents file does."""
    return f"{minutes // 60:02}:{minutes % 60:02}"


def business_of(zone: str, minutes: list[int], step: int) -> Business:
    """Make a business that is open between each two of these minutes, every day."""
    spans: tuple[str, ...] = tuple(
        f"{written(a)}-{written(b)}" for a, b in zip(minutes[::2], minutes[1::2], strict=False)
    )
    return Business.of(Agent(timezone=zone, hours=dict.fromkeys(WEEKDAYS, spans), slot_minutes=step))


@given(zones, days, edges, st.sampled_from([5, 15, 20, 30, 45, 60]))
def test_slots_never_overlap_and_lie_within_the_hours_of_their_day(
    zone: str, day: date, minutes: list[int], step: int
) -> None:
    business = business_of(zone, minutes, step)
    slots = list(business.slots(day))
    assert all(first.end <= second.start for first, second in pairwise(slots))
    for slot in slots:
        assert slot.end - slot.start == timedelta(minutes=step)
        assert slot.start.astimezone(business.zone).date() == day
        assert any(span.start <= slot.start and slot.end <= span.end for span in business.opened(day))


@given(zones, days, edges, st.sampled_from([15, 30, 45]), st.lists(st.integers(0, 1500), max_size=6))
def test_every_free_time_can_be_booked_and_none_overlaps_what_is_taken(
    zone: str, day: date, minutes: list[int], step: int, starts: list[int]
) -> None:
    business = business_of(zone, minutes, step)
    midnight = datetime.combine(day, datetime.min.time(), business.zone).astimezone(UTC)
    now = midnight - timedelta(days=1)
    busy = [
        Span(midnight + timedelta(minutes=start), midnight + timedelta(minutes=start + 50)) for start in sorted(starts)
    ]
    free = business.free(day, busy, now)
    for start in free:
        slot = business.slot(start, now)
        assert slot.start == start
        assert not any(slot.overlaps(taken) for taken in busy)
    assert set(free) == {slot.start for slot in business.slots(day) if not any(slot.overlaps(taken) for taken in busy)}


@given(
    st.builds(business_of, zones, edges, st.sampled_from([15, 30, 45])),
    days,
    st.integers(1, 200),
    st.lists(st.integers(0, 2900), max_size=6),
)
def test_a_long_appointment_begins_where_it_is_open_and_free_until_its_end(
    business: Business, day: date, length: int, starts: list[int]
) -> None:
    midnight = datetime.combine(day, datetime.min.time(), business.zone).astimezone(UTC)
    now = midnight - timedelta(days=1)
    busy = [Span(midnight + timedelta(minutes=start), midnight + timedelta(minutes=start + 50)) for start in starts]
    long = max(business.step, timedelta(minutes=length))
    opened = [span for each in (day, day + timedelta(days=1)) for span in business.opened(each)]
    fitting = set()
    for slot in business.slots(day):
        kept = Span(slot.start, slot.start + long)
        moments = [kept.start + timedelta(minutes=minute) for minute in range(round(long.total_seconds() / 60))]
        is_open = all(any(span.start <= moment < span.end for span in opened) for moment in moments)
        assert (kept.end <= business.closes(slot.start)) == is_open
        if is_open and not any(kept.overlaps(taken) for taken in busy):
            fitting.add(slot.start)
    assert set(business.free(day, busy, now, timedelta(minutes=length))) == fitting
