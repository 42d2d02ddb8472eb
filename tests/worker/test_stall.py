"""The verdict on a silent worker as a pure function: starved is not stuck."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.pool.stall import (
    ALONE_LIMIT_S,
    ANSWER_S,
    CALL_LIMIT_S,
    LOOK_S,
    PARKED_LIMIT_S,
    SUSPICION_S,
    Case,
    Reading,
    Scene,
    Verdict,
    judge,
    own_s,
)

SINCE = 1_000.0
MAIN = 1
SIDE = 2


def case(silence_s: float, *, state: str = "S", ran: float = 0.0, waited: float = 0.0, **more: Any) -> Case:
    """A suspect in a call, `silence_s` after its last beat; what its main thread ran and waited since the first look."""
    first = Reading(SINCE + SUSPICION_S, "S", {MAIN: 7.0}, {MAIN: 3.0})
    last = Reading(SINCE + silence_s, state, {MAIN: 7.0 + ran}, {MAIN: 3.0 + waited})
    return replace(Case(in_call=True, since=SINCE, first=first, last=last), **more)


def accused(given: Case, ago_s: float = ANSWER_S) -> Case:
    """The same, asked for its stack a while ago."""
    assert given.last is not None
    return replace(given, accused=replace(given.last, at=given.last.at - ago_s))


def scene(silence_s: float, *, ready: int = 1, ending: bool = False) -> Scene:
    return Scene(SINCE + silence_s, ready, ending)


def verdict(given: Case, silence_s: float, *, ready: int = 1, ending: bool = False) -> Verdict:
    return judge(given, scene(silence_s, ready=ready, ending=ending)).verdict


# --- what is stuck and what is not --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["S", "D", "T", "t"])
def test_one_that_neither_ran_nor_waited_is_stuck_after_two_seconds(state: str) -> None:
    assert verdict(case(1.99, state=state), 1.99) is Verdict.SUSPECT
    assert verdict(case(2.01, state=state), 2.01) is Verdict.ACCUSE


def test_one_that_ran_all_the_time_is_stuck_after_two_seconds() -> None:
    assert verdict(case(2.01, state="R", ran=2.01 - SUSPICION_S), 2.01) is Verdict.ACCUSE


@pytest.mark.parametrize(
    ("silence_s", "state", "ran", "waited"),
    [
        (3.8, "S", 0.1, 2.9),  # measured with 60 hogs on two cores
        (3.8, "R", 0.1, 2.9),
        (30.0, "R", 0.05, 0.0),  # one wait that is not over: the system counts a wait when it ends
        (2.5, "S", 0.3, 1.4),
    ],
)
def test_one_that_waited_for_a_cpu_is_not_stuck(silence_s: float, state: str, ran: float, waited: float) -> None:
    assert verdict(case(silence_s, state=state, ran=ran, waited=waited), silence_s) is Verdict.SUSPECT


def test_one_that_waits_for_a_thread_that_waits_for_a_cpu_is_not_stuck() -> None:
    """The main thread sleeps until the other one, which is starved, lets go of the interpreter."""
    silent = case(3.0)
    assert silent.first is not None
    assert silent.last is not None
    side = replace(silent.last, waited={**silent.last.waited, SIDE: 2.0})
    assert verdict(silent, 3.0) is Verdict.ACCUSE
    assert verdict(replace(silent, last=side), 3.0) is Verdict.SUSPECT


def test_a_thread_that_ended_takes_nothing_away() -> None:
    first = Reading(SINCE, "S", {}, {MAIN: 1.0, SIDE: 50.0})
    assert own_s(SINCE, first, Reading(SINCE + 3, "S", {}, {MAIN: 2.0})) == 2.0


def test_a_stuck_one_on_a_busy_machine_is_found_when_its_own_time_is_over() -> None:
    """A loop that gets a third of a CPU: starvation puts the end off and does not prevent it."""
    assert verdict(case(4.0, state="R", ran=(4.0 - SUSPICION_S) / 3, waited=2.1), 4.0) is Verdict.SUSPECT
    assert verdict(case(5.0, state="R", ran=(5.0 - SUSPICION_S) / 3, waited=2.8), 5.0) is Verdict.ACCUSE


def test_one_that_is_gone_is_left_to_those_who_watch_for_that() -> None:
    assert verdict(case(9.0, state="Z"), 9.0) is Verdict.SUSPECT
    assert verdict(case(9.0, last=None), 9.0) is Verdict.SUSPECT


# --- what else must be true ---------------------------------------------------------------------------------------------


def test_one_in_a_call_is_ended_late_when_nobody_could_take_the_call_over() -> None:
    """For ever would be wrong: it notices no hang-up, and may sit in the place of the worker that is missing."""
    for silence_s in (2.5, ALONE_LIMIT_S - 0.01):
        assert verdict(accused(case(silence_s)), silence_s, ready=0) is Verdict.SUSPECT
    late = ALONE_LIMIT_S + 0.01
    assert verdict(case(late), late, ready=0) is Verdict.ACCUSE
    assert verdict(accused(case(late)), late, ready=0) is Verdict.KILL


def test_a_parked_one_has_more_time_and_needs_nobody() -> None:
    for silence_s in (CALL_LIMIT_S + 0.1, PARKED_LIMIT_S - 0.1):
        assert verdict(case(silence_s, in_call=False), silence_s) is Verdict.SUSPECT
    late = PARKED_LIMIT_S + 0.1
    assert verdict(accused(case(late, in_call=False)), late, ready=0) is Verdict.KILL


def test_one_is_ended_at_a_time() -> None:
    assert verdict(accused(case(2.5)), 2.5) is Verdict.KILL
    assert verdict(accused(case(2.5)), 2.5, ending=True) is Verdict.SUSPECT


def test_the_accused_has_its_time_to_answer_and_only_its_own_time_counts() -> None:
    assert verdict(accused(case(2.05), 0.05), 2.05) is Verdict.SUSPECT
    starved = case(2.2, state="R", ran=2.2)
    assert starved.last is not None
    waiting = replace(starved, accused=replace(starved.last, at=starved.last.at - 0.2))
    assert own_s(SINCE, waiting.first or starved.last, starved.last) >= CALL_LIMIT_S
    assert verdict(waiting, 2.2) is Verdict.SUSPECT, "it has not run since it was asked"


# --- when to look again -------------------------------------------------------------------------------------------------


def test_one_that_has_beaten_is_looked_at_when_its_next_beat_would_be_missed() -> None:
    fresh = Case(in_call=True, since=SINCE)
    assert judge(fresh, scene(0.3)).look_at == SINCE + SUSPICION_S
    assert judge(fresh, scene(0.3)).verdict is Verdict.TRUST
    assert verdict(fresh, SUSPICION_S) is Verdict.SUSPECT


def test_a_stuck_one_is_ended_within_a_tenth_of_a_second_of_its_limit() -> None:
    """Follow the moments the judge names: from the last beat to the end."""
    now, given = SINCE, Case(in_call=True, since=SINCE)
    looks = 0
    while True:
        seen = Reading(now, "T")
        if given.first is not None:
            given = replace(given, last=seen)
        judgement = judge(given, Scene(now, ready=1))
        if judgement.verdict is Verdict.KILL:
            break
        if judgement.verdict is Verdict.SUSPECT and given.first is None:
            given = replace(given, first=seen)
        if judgement.verdict is Verdict.ACCUSE:
            given = replace(given, accused=seen)
        now, looks = judgement.look_at, looks + 1
    assert CALL_LIMIT_S + ANSWER_S <= now - SINCE <= CALL_LIMIT_S + ANSWER_S + 0.03
    assert looks <= 12


# --- for all of them ----------------------------------------------------------------------------------------------------

seconds = st.floats(0, 60)


def made_case(silence_s: float, state: str, spent: tuple[float, float], ago_s: float | None, *, in_call: bool) -> Case:
    """A suspect `silence_s` after the first look at it; accused `ago_s` ago, or not; `spent` is what it ran and waited."""
    made = case(SUSPICION_S + silence_s, state=state, ran=spent[0], waited=spent[1], in_call=in_call)
    return made if ago_s is None else accused(made, ago_s)


cases = st.builds(
    made_case,
    seconds,
    st.sampled_from("SDRTtZ"),
    st.tuples(seconds, seconds),
    st.none() | seconds,
    in_call=st.booleans(),
)


@given(cases, st.integers(0, 3), st.booleans())
def test_nobody_is_ended_without_guilt_question_and_time(given_case: Case, ready: int, ending: bool) -> None:  # noqa: FBT001
    assert given_case.first is not None
    assert given_case.last is not None
    now = given_case.last.at
    judgement = judge(given_case, Scene(now, ready, ending))
    assert now < judgement.look_at <= now + LOOK_S, "neither does the loop spin nor is a suspect forgotten"
    if judgement.verdict is not Verdict.KILL:
        return
    own = own_s(given_case.since, given_case.first, given_case.last)
    assert own >= (CALL_LIMIT_S if given_case.in_call else PARKED_LIMIT_S)
    assert own >= ALONE_LIMIT_S or ready or not given_case.in_call
    assert given_case.accused is not None
    assert not ending
    assert given_case.last.state != "Z"


@given(seconds, st.floats(0, 1), st.sampled_from("SR"))
def test_one_that_waited_for_all_but_a_beats_worth_is_never_ended(silence_s: float, share: float, state: str) -> None:
    """However long the silence: of the time since the first look, at most half a second was its own."""
    ran = min(silence_s, 0.5) * share
    starved = accused(
        case(SUSPICION_S + silence_s, state=state, ran=ran, waited=max(0.0, silence_s - 0.5)), silence_s / 2
    )
    assert verdict(starved, SUSPICION_S + silence_s) is Verdict.SUSPECT


@given(seconds, seconds, seconds)
def test_more_waiting_never_makes_more_guilty(silence_s: float, waited: float, more: float) -> None:
    lesser, greater = case(SUSPICION_S + silence_s, waited=waited), case(SUSPICION_S + silence_s, waited=waited + more)
    assert lesser.first is not None
    assert lesser.last is not None
    assert greater.last is not None
    own = own_s(SINCE, lesser.first, lesser.last)
    assert own_s(SINCE, lesser.first, greater.last) <= own <= SUSPICION_S + silence_s + 1e-9
