import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.hold import (
    NEAR,
    NEAR_PAUSE_S,
    PAUSE_S,
    REMIND_S,
    SAYING_S,
    SILENT_S,
    GiveUp,
    Hold,
    Place,
    Rules,
    Spot,
    Workers,
    after_dial,
    at_hold,
    patience_s,
)
from router.twilio import Form, MalformedRequest
from router.twiml import HOLD, Twiml
from shared.calls import TraceId
from tests.router.harness import BASE

NOW = 1_763_846_400.0
TRACE = TraceId("0123456789abcdef" * 2)
RULES = Rules(hold_max_s=60.0, overflow_number="", clip_s=4.66)
NOBODY = Workers(0, 0)

moments = st.integers(0, 10**12).map(lambda ms: ms / 1000)
places = st.builds(
    Place,
    trace_id=st.just(TRACE),
    since=moments,
    turn=st.integers(1, 99_999),
    told=st.integers(0, 500),
    played=st.one_of(st.just(0.0), moments),
)


def held(place: Place, spot: Spot, workers: Workers = NOBODY, now: float = NOW) -> Hold:
    decision = at_hold(place, spot, workers, RULES, now)
    assert isinstance(decision, Hold)
    return decision


def after(seconds: float, turn: int = 1, told: int = 0, played: float = NOW) -> Place:
    """A place that has waited so long."""
    return Place(TRACE, NOW - seconds, turn, told, played)


# --- the place ------------------------------------------------------------------------------------------------------


@given(places, st.integers(0, 9))
def test_a_place_is_read_from_the_url_it_was_written_to(place: Place, attempt: int) -> None:
    query = Form.decode(place.query(attempt).encode())
    assert Place.read(query, TraceId("other"), NOW) == place
    assert query.first("attempt") == str(attempt)


def test_a_url_without_a_place_is_where_a_new_caller_arrives() -> None:
    assert Place.read(Form(), TRACE, NOW) == Place(TRACE, NOW)
    assert Place.read(Form({"attempt": ["1"]}), TRACE, NOW).turn == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("since", "-1"), ("since", "nan"), ("since", "1e9"), ("since", "9" * 12), ("turn", "x"), ("turn", "-1"),
        ("told", ""), ("told", "\u0663"), ("played", "."), ("trace", "'"), ("trace", "F" * 32), ("turn", None),
    ],
)  # fmt: skip
def test_a_place_that_is_not_ours_is_refused(name: str, value: str | None) -> None:
    query = Form.decode(Place(TRACE, NOW, 1).query(0).encode())
    query[name] = [] if value is None else [value]
    with pytest.raises(MalformedRequest):
        Place.read(query, TRACE, NOW)


def test_a_new_caller_has_not_waited_and_a_clock_that_was_set_back_takes_nothing_away() -> None:
    assert Place(TRACE, NOW - 5).waited(NOW) == 0
    assert after(5).waited(NOW) == 5
    assert after(-5).waited(NOW) == 0


# --- what a caller is given -----------------------------------------------------------------------------------------


def test_a_new_caller_hears_the_clip_and_its_number() -> None:
    first = held(Place(TRACE, NOW), Spot(2, shared=True))
    assert (first.clip, first.tell) == (True, 3)
    assert first.place == Place(TRACE, NOW, turn=1, told=3, played=NOW)


def test_a_number_is_told_when_it_got_smaller_and_only_when_all_routers_agree_on_it() -> None:
    assert held(after(9, told=3), Spot(2, shared=True)).tell == 0
    assert held(after(9, told=3), Spot(1, shared=True)).tell == 2
    worse = held(after(9, told=3), Spot(7, shared=True))
    assert (worse.tell, worse.place.told) == (0, 3)
    alone = held(after(9, told=3), Spot(0, shared=False))
    assert (alone.tell, alone.place.told) == (0, 3)


def test_the_clip_comes_again_only_now_and_then() -> None:
    again = held(after(30, told=1, played=NOW - REMIND_S), Spot(0, shared=True))
    assert (again.clip, again.tell, again.place.played) == (True, 0, NOW)
    between = held(after(30, told=1, played=NOW - REMIND_S + 1), Spot(0, shared=True))
    assert (between.clip, between.place.played) == (False, NOW - REMIND_S + 1)


def test_the_first_in_line_ask_more_often() -> None:
    assert held(after(9), Spot(NEAR - 1, shared=True)).pause_s == NEAR_PAUSE_S
    assert held(after(9), Spot(NEAR, shared=True)).pause_s == PAUSE_S
    assert held(after(9), Spot(NEAR, shared=True), Workers(1, NEAR)).pause_s == NEAR_PAUSE_S


def test_a_caller_who_only_waits_for_a_warming_worker_hears_nothing_but_not_for_long() -> None:
    silent = held(Place(TRACE, NOW), Spot(1, shared=True), Workers(0, 2))
    assert (silent.clip, silent.tell, silent.pause_s) == (False, 0, NEAR_PAUSE_S)
    assert silent.place == Place(TRACE, NOW, turn=1)
    assert held(Place(TRACE, NOW), Spot(2, shared=True), Workers(0, 2)).clip
    assert held(after(SILENT_S, played=0.0), Spot(1, shared=True), Workers(0, 2)).clip


def test_who_has_waited_enough_goes_to_the_overflow_number_or_hears_an_apology() -> None:
    spot, full = Spot(0, shared=True), None
    overflow = Rules(60.0, "+15005550009")
    for where, place in ((spot, after(60)), (full, Place(TRACE, NOW))):
        assert at_hold(place, where, NOBODY, RULES, NOW) == GiveUp("apology")
        assert at_hold(place, where, NOBODY, overflow, NOW) == GiveUp("overflow")


def test_nobody_is_made_to_wait_beyond_the_limit_by_a_pause() -> None:
    assert held(after(58.5), Spot(9, shared=True)).pause_s == 2
    assert held(after(59.9), Spot(9, shared=True)).pause_s == 1


waiting = st.builds(
    after,
    st.floats(0, 59),
    told=st.integers(0, 500),
    played=st.one_of(st.just(0.0), st.floats(NOW - 60, NOW)),
)
spots = st.builds(Spot, st.integers(0, 499), st.booleans())
workers = st.builds(Workers, st.integers(0, 3), st.integers(0, 3))


@given(waiting, spots, workers, st.sampled_from([0.0, 4.66, 30.0]))
def test_a_caller_is_waited_for_as_long_as_it_is_kept_busy(
    place: Place, spot: Spot, ready: Workers, clip_s: float
) -> None:
    rules = Rules(60.0, "", clip_s)
    decision = at_hold(place, spot, ready, rules, NOW)
    assert isinstance(decision, Hold)
    speaking = (max(clip_s, SAYING_S) if decision.clip else 0.0) + (SAYING_S if decision.tell else 0.0)
    assert patience_s(place, rules, NOW) > speaking + decision.pause_s + 1.0


@pytest.mark.parametrize(
    ("status", "following"),
    [("completed", "hang_up"), ("answered", "hang_up"), ("busy", "apology"), ("no-answer", "apology"), ("", "apology")],
)
def test_an_overflow_call_that_nobody_took_ends_with_an_apology(status: str, following: str) -> None:
    assert after_dial(status) == following


# --- in words -------------------------------------------------------------------------------------------------------


def verbs(content: bytes) -> list[tuple[str, str]]:
    return [(verb.tag, verb.text or "") for verb in ET.fromstring(content)]  # noqa: S314 - our own words


def test_a_held_caller_hears_clip_and_number_waits_and_comes_back() -> None:
    hold = Hold(clip=True, tell=3, pause_s=3, place=after(9, told=3))
    back = ("Redirect", f"{BASE}/hold?{hold.place.query(1)}")
    number, pause = ("Say", "You are number 3 in line."), ("Pause", "")
    played = Twiml(BASE, apology_clip=False, hold_clip=True).hold(hold, 1)
    assert verbs(played) == [("Play", f"{BASE}/clips/hold.wav"), number, pause, back]
    assert b'<Pause length="3" />' in played
    assert b'<Redirect method="POST">' in played
    assert verbs(Twiml(BASE, apology_clip=False).hold(hold, 1)) == [("Say", HOLD), number, pause, back]


def test_a_silent_caller_only_waits_and_comes_back() -> None:
    content = Twiml(BASE, apology_clip=False, hold_clip=True).hold(Hold(False, 0, 1, after(1)), 0)
    assert [tag for tag, _ in verbs(content)] == ["Pause", "Redirect"]


def test_an_overflow_call_says_where_it_ends() -> None:
    content = Twiml(BASE, apology_clip=False).overflow("+15005550009")
    assert f'<Dial action="{BASE}/hold?dialled=overflow" method="POST">+15005550009</Dial>'.encode() in content


def test_a_pause_is_a_whole_number_of_seconds_and_never_none() -> None:
    assert all(held(after(waited / 10), Spot(9, shared=True)).pause_s in range(1, PAUSE_S + 1) for waited in range(600))
