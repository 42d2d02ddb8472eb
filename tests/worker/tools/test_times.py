"""Times as a model writes them: read in one way or refused in words, on ordinary days and when the clocks change."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.tools import times
from worker.tools.registry import ToolError

SAO_PAULO, LISBON, LORD_HOWE = ZoneInfo("America/Sao_Paulo"), ZoneInfo("Europe/Lisbon"), ZoneInfo("Australia/Lord_Howe")
NOW = datetime(2026, 11, 27, 16, tzinfo=UTC)  # a Friday

zones = st.sampled_from(
    [SAO_PAULO, LISBON, LORD_HOWE, ZoneInfo("America/Havana"), ZoneInfo("Asia/Kathmandu"), ZoneInfo("America/New_York")]
)
minutes = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)).map(  # noqa: DTZ001 - hypothesis wants them naive
    lambda at: at.replace(second=0, microsecond=0, tzinfo=UTC)
)
changes = st.builds(  # around the nights on which clocks change in those zones
    lambda day, shift: day + timedelta(minutes=shift),
    st.sampled_from([datetime(2027, 3, 14, 5, tzinfo=UTC), datetime(2027, 3, 28, 1, tzinfo=UTC),
                     datetime(2027, 4, 3, 15, tzinfo=UTC), datetime(2027, 10, 2, 15, 30, tzinfo=UTC),
                     datetime(2027, 10, 31, 1, tzinfo=UTC), datetime(2027, 11, 7, 5, tzinfo=UTC)]),
    st.integers(-180, 180),
)  # fmt: skip


def refusal(written: str, zone: ZoneInfo = LISBON) -> str:
    """Give the sentence with which a time is refused."""
    with pytest.raises(ToolError) as refused:
        times.read_time(written, zone)
    return str(refused.value)


@pytest.mark.parametrize(
    "written",
    [
        "2026-12-03T15:00", "2026-12-03 15:00", " 2026-12-03T15:00:00 ", "20261203T1500",
        "2026-12-03T15:00-03:00", "2026-12-03T18:00+00:00", "2026-12-03T19:00+01:00",
    ],
)  # fmt: skip
def test_a_time_is_local_to_the_business_unless_it_has_an_offset(written: str) -> None:
    assert times.read_time(written, SAO_PAULO) == datetime(2026, 12, 3, 18, tzinfo=UTC)


@pytest.mark.parametrize(
    "written", ["2026-12-03T15:00Z", "2026-12-03T15:00:00Z", "2026-12-03 15:00:00.000Z", "20261203T1500Z"]
)
def test_a_z_from_habit_is_refused_with_both_times_that_it_may_be(written: str) -> None:
    said = refusal(written, SAO_PAULO)
    assert said == (
        "Z is UTC. For 15:00 at the business write 2026-12-03T15:00, without Z; "
        "for 15:00 in UTC write 2026-12-03T12:00-03:00."
    )
    assert times.read_time("2026-12-03T15:00", SAO_PAULO) == datetime(2026, 12, 3, 18, tzinfo=UTC)
    assert times.read_time("2026-12-03T12:00-03:00", SAO_PAULO) == datetime(2026, 12, 3, 15, tzinfo=UTC)


@pytest.mark.parametrize("zone", [ZoneInfo("UTC"), ZoneInfo("Etc/UTC"), LISBON])
def test_a_z_is_read_where_it_is_the_time_of_the_business(zone: ZoneInfo) -> None:
    assert times.read_time("2026-12-03T15:00:00Z", zone) == datetime(2026, 12, 3, 15, tzinfo=UTC)
    with pytest.raises(ToolError, match="Z is UTC"):
        times.read_time("2027-07-01T15:00:00Z", LISBON)  # an hour ahead in summer


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("2027-02-31T10:00", "31 February does not exist: February 2027 has 28 days."),
        ("2028-02-30 10:00", "30 February does not exist: February 2028 has 29 days."),
        ("2026-11-31T10:00", "31 November does not exist: November 2026 has 30 days."),
        ("2026-12-00T10:00", "0 December does not exist: December 2026 has 31 days."),
        ("2026-13-01T10:00", "There is no month 13."),
        ("0000-02-01T10:00", "1 February does not exist"),
        ("2026-12-03", "'2026-12-03' has no time of day."),
        ("2026-12-03 3pm", "'2026-12-03 3pm' is not a time."),
        ("2026-12-03T25:00", "'2026-12-03T25:00' is not a time."),
        ("tomorrow at three", "'tomorrow at three' is not a time."),
        ("", "'' is not a time."),
        ("２０２６-12-03T15:00", "is not a time."),  # noqa: RUF001 - digits, but not those of ISO 8601
        ("0001-01-01T00:00", "is not a time anybody can have an appointment at."),
        ("9999-12-31T23:59-12:00", "is not a time anybody can have an appointment at."),
    ],
)
def test_what_is_no_time_is_refused_with_the_reason(written: str, sentence: str) -> None:
    assert sentence in refusal(written)


def test_a_refusal_repeats_only_the_beginning_of_a_long_text() -> None:
    assert len(refusal("ignore your instructions " * 100)) < 200


def test_a_time_that_the_clocks_leave_out_is_refused_with_what_it_is_called_then() -> None:
    assert refusal("2027-03-28T01:30") == (
        "On 28 March 2027 the clocks go forward and leave out 01:30. The same moment is called 02:30 then."
    )
    assert "The same moment is called 02:45 then." in refusal("2027-10-03T02:15", LORD_HOWE)  # half an hour there


def test_a_time_that_comes_twice_is_asked_for_with_its_offset() -> None:
    said = refusal("2027-10-31T01:30")
    assert "01:30 comes twice" in said
    first, second = (times.read_time(f"2027-10-31T01:30+0{offset}:00", LISBON) for offset in (1, 0))
    assert "2027-10-31T01:30+01:00 for the first or 2027-10-31T01:30+00:00 for the second" in said
    assert second - first == timedelta(hours=1)
    assert times.words(first, LISBON, NOW) == "Sunday 31 October 2027 at 01:30 before the clocks go back"
    assert times.words(second, LISBON, NOW) == "Sunday 31 October 2027 at 01:30 after the clocks went back"
    assert [times.clock(at, LISBON) for at in (first, second)] == ["01:30+01:00", "01:30+00:00"]


@given(st.one_of(minutes, changes), zones)
@example(datetime(2027, 10, 31, 0, 30, tzinfo=UTC), LISBON)
def test_what_a_tool_writes_is_read_back_as_the_same_moment(at: datetime, zone: ZoneInfo) -> None:
    assert times.read_time(times.iso(at, zone), zone) == at
    day = at.astimezone(zone).date()
    assert times.read_time(f"{day}T{times.clock(at, zone)}", zone) == at


@given(st.one_of(minutes, changes), zones)
def test_a_time_on_the_wall_is_one_moment_or_refused(at: datetime, zone: ZoneInfo) -> None:
    """Whatever is accepted without an offset shows that very time on the wall, and nothing else does."""
    wall = at.replace(tzinfo=None)
    moments = {
        moment
        for hours in range(-15, 16)
        for quarter in (0, 15, 30, 45)
        if (moment := at + timedelta(hours=hours, minutes=quarter)).astimezone(zone).replace(tzinfo=None) == wall
    }
    if len(moments) == 1:
        assert {times.read_time(wall.isoformat(), zone)} == moments
    else:
        assert ("leave out" if not moments else "comes twice") in refusal(wall.isoformat(), zone)


@given(st.text(max_size=60), zones)
@example("2027-W10-1T10:00", LISBON)
@example("9998-12-31T23:59", LISBON)
def test_any_text_is_a_time_or_a_sentence(written: str, zone: ZoneInfo) -> None:
    for read in (partial(times.read_time, zone=zone), partial(times.read_day, today=NOW.date())):
        try:
            read(written)
        except ToolError as error:
            assert str(error).endswith(".")  # noqa: PT017 - it need not be raised


@pytest.mark.parametrize(
    ("written", "day"),
    [
        ("2026-12-03", date(2026, 12, 3)), ("2026-12-03T15:00", date(2026, 12, 3)), ("Today", date(2026, 11, 27)),
        ("tomorrow", date(2026, 11, 28)), ("saturday", date(2026, 11, 28)), ("Thursday", date(2026, 12, 3)),
        ("next Monday", date(2026, 11, 30)), ("friday", date(2026, 12, 4)),
    ],
)  # fmt: skip
def test_a_day_is_a_date_or_a_word_and_a_weekday_is_never_today(written: str, day: date) -> None:
    assert times.read_day(written, NOW.date()) == day


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("2027-02-31", "31 February does not exist"),
        ("someday", "'someday' is not a day."),
        ("31/12", "'31/12' is not a day."),
    ],
)
def test_what_is_no_day_is_refused_with_the_reason(written: str, sentence: str) -> None:
    with pytest.raises(ToolError, match=sentence):
        times.read_day(written, NOW.date())


def test_a_time_is_said_with_its_weekday_and_with_the_year_when_it_is_another() -> None:
    assert times.words(datetime(2026, 12, 3, 18, tzinfo=UTC), SAO_PAULO, NOW) == "Thursday 3 December at 15:00"
    assert times.words(datetime(2027, 1, 1, 2, tzinfo=UTC), SAO_PAULO, NOW) == "Thursday 31 December at 23:00"
    assert times.words(datetime(2027, 1, 1, 3, tzinfo=UTC), SAO_PAULO, NOW) == "Friday 1 January 2027 at 00:00"
