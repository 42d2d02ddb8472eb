"""Appointments on a real database: booked once, never twice, moved and cancelled, and said in words."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tests.worker.tools.desk import ANA, BOB, CLINIC, Desk, at, exact, tuesday, words
from worker.tools.services import ServiceTrouble

APPOINTMENTS = """
select c.phone, a.starts_at, a.ends_at, a.status, a.request_key
from appointments a join customers c on c.id = a.customer_id order by a.id
"""


async def book(desk: Desk, clock: str = "15:00", caller: str = ANA, request_id: str = "") -> dict[str, Any]:
    """Book as a caller."""
    return await replace(desk, caller=caller).run("book_appointment", request_id, starts_at=at(clock))


async def test_a_free_time_is_booked_in_the_zone_of_the_business(desk: Desk) -> None:
    result = await desk.run("book_appointment", "call_b", starts_at=at("15:00"), notes=" check-up\n")
    appointment = result["appointment"]
    assert result["status"] == "booked"
    assert appointment == {
        "id": appointment["id"], "when": words("15:00"), "begins_at": f"{at('15:00')}-03:00", "notes": "check-up",
    }  # fmt: skip
    (row,) = desk.database.rows(APPOINTMENTS)
    starts = datetime.fromisoformat(exact("15:00"))
    assert (row["phone"], row["starts_at"], row["ends_at"]) == (ANA, starts, starts + timedelta(minutes=30))
    assert row["request_key"].startswith(f"{desk.call_sid}:call_b:")


async def test_of_twenty_callers_at_once_one_gets_the_time_and_nineteen_are_told_that_it_is_taken(empty: Desk) -> None:
    callers = [f"+55119876543{number:02}" for number in range(20)]
    for number in callers:
        empty.knows(number, "Somebody")
    results = await asyncio.gather(*(book(empty, caller=number) for number in callers))
    booked = [result for result in results if result.get("status") == "booked"]
    refused = [result for result in results if "error" in result]
    assert (len(booked), len(refused)) == (1, 19)
    for result in refused:
        assert result["error"] == f"{words('15:00')} is taken. Suggest another time."
        (day,) = result["free"]
        assert day["suggest"] == ["14:00", "14:30", "15:30"]
    assert len(empty.database.rows(APPOINTMENTS)) == 1


async def test_a_request_that_comes_again_books_once_and_gets_the_same_answer(desk: Desk) -> None:
    first = await book(desk, request_id="call_x")
    again = await asyncio.gather(*(book(desk, request_id="call_x") for _ in range(5)))
    assert first["status"] == "booked"
    assert again == [first] * 5
    assert len(desk.database.rows(APPOINTMENTS)) == 1


async def test_requests_with_one_key_at_the_same_time_book_once(desk: Desk) -> None:
    results = await asyncio.gather(*(book(desk, request_id="call_x") for _ in range(8)))
    assert results[0]["status"] == "booked"
    assert results == [results[0]] * 8
    assert len(desk.database.rows(APPOINTMENTS)) == 1


async def test_what_a_customer_has_already_is_said_to_be_booked(desk: Desk) -> None:
    await book(desk)
    again = await book(desk)
    assert again["status"] == "was booked already"
    assert len(desk.database.rows(APPOINTMENTS)) == 1


@pytest.mark.parametrize("clock", ["10:00", "10:30"])
async def test_a_time_that_overlaps_anothers_appointment_is_taken(desk: Desk, clock: str) -> None:
    await desk.staff_books(BOB, exact("10:10"), exact("10:50"))
    assert (
        await desk.error("book_appointment", starts_at=at(clock)) == f"{words(clock)} is taken. Suggest another time."
    )
    assert (await book(desk, "11:00"))["status"] == "booked"


async def test_what_is_taken_is_not_free_and_what_is_cancelled_is_free_again(desk: Desk) -> None:
    await desk.staff_books(BOB, exact("10:10"), exact("10:50"))
    (day,) = (await desk.run("list_free_slots", day=str(tuesday())))["free"]
    assert day["free"] == ["09:00 to 09:30", "11:00 to 12:00", "14:00 to 17:30"]
    await replace(desk, caller=BOB).run("cancel_calendar_event")
    (day,) = (await desk.run("list_free_slots", day=str(tuesday())))["free"]
    assert day["free"] == ["09:00 to 12:00", "14:00 to 17:30"]


async def test_every_suggested_time_can_be_booked_as_it_is_written(desk: Desk) -> None:
    result = await desk.run("list_free_slots", day="tuesday", part="morning")
    (day,) = result["free"]
    assert day["suggest"] == ["09:00", "09:30", "10:00", "10:30", "11:00", "11:30"]  # 12:00 is in the afternoon
    assert day["free"] == ["09:00 to 11:30"]
    for clock in day["suggest"]:
        booked = await desk.run("book_appointment", starts_at=f"{day['date']}T{clock}")
        assert booked["status"] == "booked"
        assert booked["appointment"]["when"] == f"{day['day']} at {clock}"


async def test_without_a_day_the_next_days_with_free_times_are_told(desk: Desk) -> None:
    days = (await desk.run("list_free_slots"))["free"]
    assert len(days) == 3
    assert [day["date"] for day in days] == sorted(day["date"] for day in days)
    assert all(1 <= len(day["suggest"]) <= 2 for day in days)


async def test_a_day_that_is_full_is_told_with_the_next_ones(desk: Desk) -> None:
    await desk.staff_books(BOB, exact("08:00"), exact("19:00"))
    result = await desk.run("list_free_slots", day=str(tuesday()))
    assert result["note"].startswith(f"Nothing is free on {words('9').removesuffix(' at 9')}. ")
    assert result["free"][0]["date"] == str(tuesday() + timedelta(days=1))
    taken = await desk.run("book_appointment", starts_at=at("15:00"))
    assert taken["free"][0]["date"] == str(tuesday() + timedelta(days=1))


async def test_a_day_in_very_many_pieces_is_told_in_short(desk: Desk) -> None:
    """A grid of five minutes with every second slot taken: a result is never too long."""
    five = replace(desk, agent=msgspec.structs.replace(CLINIC, slot_minutes=5, hours={}))
    taken = "insert into appointments (customer_id, starts_at, ends_at) select (select min(id) from customers), at, "
    desk.database.rows(
        f"{taken} at + interval '5 minutes' from generate_series(%s::timestamptz, %s::timestamptz, interval '10 minutes') at",
        exact("00:00"), f"{tuesday() + timedelta(days=15)}T00:00:00-03:00",
    )  # fmt: skip
    (day,) = (await five.run("list_free_slots", day=str(tuesday())))["free"]
    assert len(day["suggest"]) == 6
    assert day["free"] == [f"0{hour}:{minute:02}" for hour in (0, 1) for minute in range(5, 60, 10)] + ["and later"]


async def test_a_closed_day_is_told_with_the_next_ones(desk: Desk) -> None:
    sunday = tuesday() + timedelta(days=5)
    result = await desk.run("list_free_slots", day=str(sunday))
    assert result["note"].startswith("The business is closed on Sunday ")
    assert result["free"][0]["date"] == str(sunday + timedelta(days=1))


async def test_two_full_weeks_are_told_in_a_sentence(desk: Desk) -> None:
    await desk.staff_books(BOB, exact("00:00"), f"{tuesday() + timedelta(days=30)}T00:00:00-03:00")
    sentence = await desk.error("list_free_slots", day=str(tuesday()))
    assert "Nothing is free in the two weeks after it." in sentence


async def test_an_appointment_is_moved_and_stays_as_long_as_it_is(desk: Desk) -> None:
    await desk.staff_books(ANA, exact("10:00"), exact("11:00"))
    result = await desk.run("reschedule_appointment", "call_m", new_time=at("16:00"))
    assert result["status"] == "rescheduled"
    assert result["appointment"]["when"] == words("16:00")
    assert await desk.run("reschedule_appointment", "call_m", new_time=at("16:00")) == result
    (row,) = desk.database.rows(APPOINTMENTS)
    assert (row["starts_at"], row["ends_at"]) == tuple(
        datetime.fromisoformat(exact(clock)) for clock in ("16:00", "17:00")
    )


async def test_an_appointment_keeps_its_time_when_the_new_one_is_taken(desk: Desk) -> None:
    await desk.staff_books(ANA, exact("10:00"), exact("10:30"))
    await desk.staff_books(BOB, exact("16:00"), exact("16:30"))
    result = await desk.run("reschedule_appointment", new_time=at("16:00"))
    assert result["error"] == f"{words('16:00')} is taken. Suggest another time."
    assert result["free"][0]["suggest"] == ["15:00", "15:30", "16:30"]
    assert [row["starts_at"].astimezone(UTC).hour for row in desk.database.rows(APPOINTMENTS)] == [13, 19]


async def test_which_appointment_is_meant_is_asked_when_there_are_several(desk: Desk) -> None:
    ids = [await desk.staff_books(ANA, exact(f"{hour}:00"), exact(f"{hour}:30")) for hour in (10, 11, 15)]
    for name, arguments in (("cancel_calendar_event", {}), ("reschedule_appointment", {"new_time": at("17:00")})):
        result = await desk.run(name, **arguments)
        assert result["error"] == "There are several appointments. Ask the caller which one is meant."
        assert [each["when"] for each in result["appointments"]] == [words(c) for c in ("10:00", "11:00", "15:00")]
        assert [each["id"] for each in result["appointments"]] == ids
    by_id = await desk.run("cancel_calendar_event", appointment_id=ids[0])
    assert (by_id["status"], by_id["appointment"]["when"]) == ("cancelled", words("10:00"))
    by_time = await desk.run("cancel_calendar_event", begins_at=at("11:00"))
    assert (by_time["status"], by_time["appointment"]["when"]) == ("cancelled", words("11:00"))
    written_back = await desk.run(
        "reschedule_appointment", begins_at=result["appointments"][2]["begins_at"], new_time=at("17:00")
    )
    assert (written_back["status"], written_back["appointment"]["id"]) == ("rescheduled", ids[2])


async def test_an_appointment_is_cancelled_once_and_that_is_said(desk: Desk) -> None:
    await book(desk)
    first = await desk.run("cancel_calendar_event", "call_c")
    assert (first["status"], first["appointment"]["when"]) == ("cancelled", words("15:00"))
    assert await desk.run("cancel_calendar_event", "call_c") == first
    again = await desk.run("cancel_calendar_event", begins_at=at("15:00"))
    assert again["status"] == "was cancelled before"
    assert await desk.error("cancel_calendar_event") == "There is no appointment to come under this number."


async def test_nobody_touches_the_appointment_of_another_by_its_id(desk: Desk) -> None:
    theirs = await desk.staff_books(BOB, exact("10:00"), exact("10:30"))
    await desk.staff_books(ANA, exact("11:00"), exact("11:30"))
    for name, arguments in (("cancel_calendar_event", {}), ("reschedule_appointment", {"new_time": at("17:00")})):
        result = await desk.run(name, appointment_id=theirs, **arguments)
        assert result["error"].startswith("There is no such appointment.")
        assert [each["when"] for each in result["appointments"]] == [words("11:00")]
    assert [row["status"] for row in desk.database.rows(APPOINTMENTS)] == ["booked", "booked"]


async def test_each_agent_books_in_its_own_calendar(desk: Desk) -> None:
    other = replace(desk, agent=msgspec.structs.replace(CLINIC, calendar="room 2"), caller=BOB)
    assert (await book(desk))["status"] == "booked"
    assert (await other.run("book_appointment", starts_at=at("15:00")))["status"] == "booked"


async def test_an_agent_neither_cancels_nor_moves_what_is_in_anothers_calendar(desk: Desk) -> None:
    other = replace(desk, agent=msgspec.structs.replace(CLINIC, calendar="room 2"))
    theirs = await desk.staff_books(ANA, exact("10:00"), exact("10:30"))
    for which in ({}, {"appointment_id": theirs}, {"begins_at": at("10:00")}):
        for name, arguments in (("cancel_calendar_event", {}), ("reschedule_appointment", {"new_time": at("17:00")})):
            sentence = await other.error(name, **which, **arguments)
            assert sentence == "There is no appointment to come under this number."
    ours = await other.staff_books(ANA, exact("10:00"), exact("10:30"))
    await desk.staff_books(BOB, exact("15:00"), exact("15:30"))  # of no concern to the other calendar
    moved = await other.run("reschedule_appointment", begins_at=at("10:00"), new_time=at("15:00"))
    assert (moved["status"], moved["appointment"]["id"]) == ("rescheduled", ours)
    await desk.staff_books(ANA, exact("11:00"), exact("11:30"))
    assert (await other.run("cancel_calendar_event"))["appointment"]["id"] == ours
    assert [row["status"] for row in desk.database.rows(APPOINTMENTS)] == ["booked", "cancelled", "booked", "booked"]


async def test_what_is_free_instead_is_free_in_the_agents_own_calendar(desk: Desk) -> None:
    other = replace(desk, agent=msgspec.structs.replace(CLINIC, calendar="room 2"))
    await other.staff_books(ANA, exact("10:00"), exact("10:30"))
    await other.staff_books(BOB, exact("16:00"), exact("16:30"))
    await desk.staff_books(BOB, exact("15:30"), exact("16:00"))
    result = await other.run("reschedule_appointment", new_time=at("16:00"))
    assert result["free"][0]["suggest"] == ["15:00", "15:30", "16:30"]


@pytest.mark.parametrize(
    ("shift", "sentence"), [("-9 days", "That appointment is over."), ("0 days", "That appointment has begun.")]
)
async def test_an_appointment_that_is_over_stays_as_it_was(desk: Desk, shift: str, sentence: str) -> None:
    past = await desk.staff_books(ANA, exact("10:00"), exact("10:30"))
    desk.database.rows(
        "update appointments set starts_at = now() + %s::interval - interval '1 hour', "
        "ends_at = now() + %s::interval + interval '1 hour'", shift, shift,
    )  # fmt: skip
    (before,) = desk.database.rows(APPOINTMENTS)
    assert await desk.error("cancel_calendar_event", appointment_id=past) == sentence
    assert await desk.error("reschedule_appointment", appointment_id=past, new_time=at("17:00")) == sentence
    assert desk.database.rows(APPOINTMENTS) == [before]
    await desk.staff_books(ANA, exact("11:00"), exact("11:30"))
    result = await desk.run("reschedule_appointment", appointment_id=past, new_time=at("17:00"))
    assert result["error"] == f"{sentence} These are to come."
    assert [each["when"] for each in result["appointments"]] == [words("11:00")]


@pytest.mark.parametrize(("clock", "closes", "near"), [("17:30", "18:00", "17:00"), ("12:00", "12:30", "11:30")])
async def test_a_long_appointment_is_not_moved_to_where_it_would_end_after_the_closing(
    desk: Desk, clock: str, closes: str, near: str
) -> None:
    await desk.staff_books(ANA, exact("10:00"), exact("11:00"))
    result = await desk.run("reschedule_appointment", new_time=at(clock))
    assert result["error"] == (
        f"The appointment takes 60 minutes and would end after the business closes at {closes}. Suggest another time."
    )
    suggested = result["free"][0]["suggest"]
    assert near in suggested
    assert clock not in suggested
    (row,) = desk.database.rows(APPOINTMENTS)
    assert row["starts_at"] == datetime.fromisoformat(exact("10:00"))
    assert (await desk.run("reschedule_appointment", new_time=at(near)))["status"] == "rescheduled"


async def test_where_the_business_is_always_open_an_appointment_may_go_over_midnight(desk: Desk) -> None:
    always = replace(desk, agent=msgspec.structs.replace(CLINIC, hours={}))
    await always.staff_books(ANA, exact("10:00"), exact("11:00"))
    assert (await always.run("reschedule_appointment", new_time=at("23:30")))["status"] == "rescheduled"


async def test_a_long_appointment_is_offered_times_at_which_all_of_it_is_free(desk: Desk) -> None:
    await desk.staff_books(ANA, exact("09:00"), exact("10:30"))
    await desk.staff_books(BOB, exact("15:30"), exact("16:00"))
    result = await desk.run("reschedule_appointment", new_time=at("15:00"))
    assert result["error"] == f"{words('15:00')} is taken. Suggest another time."
    assert result["free"] == [
        {"date": str(tuesday()), "day": words("9").removesuffix(" at 9"), "suggest": ["14:00", "16:00", "16:30"],
         "free": ["10:30 to 11:00", "14:00", "16:00 to 16:30"]}
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["book_appointment", "reschedule_appointment"])
async def test_a_time_with_a_z_from_habit_books_nothing(desk: Desk, name: str) -> None:
    field = {"book_appointment": "starts_at", "reschedule_appointment": "new_time"}[name]
    assert await desk.error(name, **{field: f"{tuesday()}T15:00:00Z"}) == (
        f"Z is UTC. For 15:00 at the business write {at('15:00')}, without Z; "
        f"for 15:00 in UTC write {at('12:00')}-03:00."
    )
    assert desk.database.rows(APPOINTMENTS) == []


async def test_a_taken_time_is_told_even_when_nothing_else_can_be_looked_up(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.staff_books(BOB, exact("15:00"), exact("15:30"))
    ask = desk.database.call

    async def half(function: str, arguments: object) -> object:
        if function == "busy_between":
            raise ServiceTrouble("gone")
        return await ask(function, arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(desk.database, "call", half)
    assert await book(desk) == {"error": f"{words('15:00')} is taken. Suggest another time."}
