"""The rule that tells a cut-off from an end, over every combination of evidence."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cutoff import (
    MOST_ATTEMPTS,
    SETTLE_S,
    CutOff,
    Doubt,
    LookAgain,
    Over,
    Said,
    Step,
    Unclear,
    Whereabouts,
    judge,
)
from shared.calls import CallState, EndReason
from shared.traces import Traces

GONE = Traces(journal=True)
LEASED = Traces(journal=True, lease_s=2.0)
SAID = Said()

CERTAIN: list[tuple[Whereabouts, list[Traces | None], Step]] = [
    (Whereabouts.GONE, [LEASED], CutOff()),
    (Whereabouts.GONE, [GONE], LookAgain(SETTLE_S)),
    (Whereabouts.GONE, [GONE, GONE], CutOff()),
    (Whereabouts.GONE, [GONE, LEASED], Unclear(Doubt.LEASE_STANDS)),
    (Whereabouts.ELSEWHERE, [LEASED], LookAgain(2.1)),
    (Whereabouts.ELSEWHERE, [LEASED, GONE], CutOff()),
    (Whereabouts.ELSEWHERE, [LEASED, LEASED], Unclear(Doubt.LEASE_STANDS)),
    (Whereabouts.ELSEWHERE, [GONE], LookAgain(SETTLE_S)),
    (Whereabouts.ELSEWHERE, [GONE, GONE], CutOff()),
    (Whereabouts.ELSEWHERE, [GONE, None], Unclear(Doubt.REDIS_SILENT)),
    (Whereabouts.ELSEWHERE, [LEASED, replace(GONE, journal=False)], Unclear(Doubt.NO_JOURNAL)),
    (Whereabouts.HERE, [GONE], Unclear(Doubt.POOL_HERE)),
    (Whereabouts.HERE, [GONE, GONE], Unclear(Doubt.POOL_HERE)),
]


@pytest.mark.parametrize(("whereabouts", "looks", "step"), CERTAIN)
def test_what_is_done_about_a_pool_that_nobody_hears(
    whereabouts: Whereabouts, looks: list[Traces | None], step: Step
) -> None:
    assert judge(0, whereabouts, SAID, looks) == step


def test_a_pool_that_knows_the_reason_is_believed_without_redis() -> None:
    assert judge(0, Whereabouts.HERE, Said(CallState.ENDED, EndReason.AGENT_HANGUP), []) == Over(EndReason.AGENT_HANGUP)


def test_a_stored_reason_ends_the_question_whoever_lives() -> None:
    look = Traces(ended=True, reason=EndReason.AGENT_HANGUP, journal=True, lease_s=1.0)
    for whereabouts, said in itertools.product(
        Whereabouts, (SAID, Said(all_answered=False), Said(CallState.STREAMING))
    ):
        assert judge(0, whereabouts, said, [look]) == Over(EndReason.AGENT_HANGUP)
        assert judge(0, whereabouts, said, [GONE, look]) == Over(EndReason.AGENT_HANGUP)


def test_a_reason_of_another_version_is_an_end_nobody_understands() -> None:
    assert judge(0, Whereabouts.GONE, SAID, [replace(LEASED, ended=True)]) == Unclear(Doubt.END_UNREADABLE)


def test_a_promise_that_ran_out_elsewhere_is_no_end() -> None:
    look = replace(LEASED, ended=True, reason=EndReason.NEVER_CONNECTED)
    assert judge(0, Whereabouts.GONE, SAID, [look]) == CutOff()


def test_a_call_is_reconnected_twice_at_most() -> None:
    steps = [judge(attempt, Whereabouts.GONE, SAID, [LEASED]) for attempt in range(10)]
    assert steps == [CutOff()] * MOST_ATTEMPTS + [Unclear(Doubt.OFTEN)] * (10 - MOST_ATTEMPTS)


def everything() -> Iterator[tuple[int, Whereabouts, Said, list[Traces | None]]]:
    """Give every combination of evidence that differs in what it says."""
    traces: list[Traces | None] = [None]
    for ended, reason, lease_s, journal in itertools.product(
        (False, True), (None, EndReason.CALLER_HANGUP, EndReason.NEVER_CONNECTED), (0.0, 0.001, 3.0), (False, True)
    ):
        if ended or reason is None:
            traces.append(Traces(ended=ended, reason=reason, lease_s=lease_s, journal=journal))
    said = [
        Said(state, reason, answered)
        for state in (None, *CallState)
        for reason in (None, EndReason.CALLER_HANGUP)
        for answered in (True, False)
    ]
    looks: list[list[Traces | None]] = [[one] for one in traces]
    looks += [list(two) for two in itertools.product(traces, traces)]
    yield from itertools.product((0, MOST_ATTEMPTS), Whereabouts, said, looks)


def test_a_cut_off_needs_every_piece_of_evidence() -> None:
    """Over all of them: whatever speaks for an end, or for a pool that may know better, prevents a reconnection."""
    found = 0
    for attempt, whereabouts, said, looks in everything():
        if judge(attempt, whereabouts, said, looks) != CutOff():
            continue
        found += 1
        last = looks[-1]
        assert last is not None
        assert not last.ended or last.reason is EndReason.NEVER_CONNECTED
        assert last.journal
        assert said == Said(), "no pool has the call, and all were heard"
        assert whereabouts is not Whereabouts.HERE
        assert attempt < MOST_ATTEMPTS
        assert not last.lease_s or whereabouts is Whereabouts.GONE
        assert len(looks) > 1 or last.lease_s, "one look is enough only while Redis is known to have been there"
    assert found


def test_the_third_look_is_never_asked_for() -> None:
    for attempt, whereabouts, said, looks in everything():
        step = judge(attempt, whereabouts, said, looks)
        if isinstance(step, LookAgain):
            assert len(looks) == 1
            assert 0 < step.after_s <= SETTLE_S, "Twilio waits 15 s for all of it"


@given(
    stored_at=st.floats(0, 3.9),
    whereabouts=st.sampled_from([Whereabouts.ELSEWHERE, Whereabouts.GONE]),
)
def test_an_end_that_is_stored_late_is_seen_before_anything_is_done(stored_at: float, whereabouts: Whereabouts) -> None:
    """Redis was away when the call ended, and comes back while the router looks: whoever knows the end stores it then."""

    def look(now: float) -> Traces:
        if now >= stored_at:
            return Traces(ended=True, reason=EndReason.AGENT_HANGUP)
        return Traces(journal=True)

    first = judge(0, whereabouts, SAID, [look(0)])
    if isinstance(first, LookAgain):
        assert judge(0, whereabouts, SAID, [look(0), look(first.after_s)]) == Over(EndReason.AGENT_HANGUP)
    else:
        assert first == Over(EndReason.AGENT_HANGUP)
