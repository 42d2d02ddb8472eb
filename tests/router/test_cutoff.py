"""The rule that tells a cut-off from an end, over every combination of evidence."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, given, settings
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
    (Whereabouts.ELSEWHERE, [LEASED], LookAgain(SETTLE_S)),
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


RENEWAL_S = 1.0
LEASE_S = 3.0
RECOVERY_S = 3.0  # after an outage: until a pool has written its lease and what it could not store
ORPHAN_TRY_S = 4.0  # the same for a worker without pool
POOL_CLOSES_S = 0.3  # how long the close of a stream waits for Redis
ORPHAN_CLOSES_S = 5.0


@dataclass(frozen=True)
class World:
    """A call that ends normally at 0, on a machine whose pool and Redis may fail; seconds, Redis keeps what it has.

    `nearby`: the router has a connection to the pool.
    """

    nearby: bool
    pool_dies_at: float
    outage_from: float
    outage_to: float
    phase: float  # of the lease's renewals, 0 to 1
    slowness: float  # 0 to 1 of the longest time that a recovery may take
    ends: bool = True  # otherwise the machine dies before

    def answers(self, now: float) -> bool:
        """Say whether Redis does."""
        return not self.outage_from <= now < self.outage_to

    @property
    def closed_at(self) -> float:
        """When the stream is closed: its end is stored, or has had its time."""
        if self.answers(0):
            return 0.0
        alone = self.pool_dies_at <= POOL_CLOSES_S
        return min(self.stored_at, ORPHAN_CLOSES_S if alone else POOL_CLOSES_S)

    @property
    def stored_at(self) -> float:
        """When the end is in Redis; infinite when nobody who knows it lives to store it."""
        if not self.ends:
            return math.inf
        if self.answers(0):
            return 0.0
        if self.pool_dies_at <= POOL_CLOSES_S:
            return self.outage_to + self.slowness * ORPHAN_TRY_S
        if self.outage_to < POOL_CLOSES_S:
            return self.outage_to
        stored = self.outage_to + self.slowness * RECOVERY_S
        return stored if stored < self.pool_dies_at else math.inf

    def lease_s(self, now: float) -> float:
        """Give what is left of the lease."""
        renewals = [number * RENEWAL_S + self.phase for number in range(-40, 40)]
        renewals.append(self.outage_to + self.slowness * RECOVERY_S)
        written = [
            at
            for at in renewals
            if at <= now
            and at < self.pool_dies_at
            and (at < self.outage_from or at >= self.outage_to + self.slowness * RECOVERY_S)
        ]
        return max(0.0, max(written, default=-math.inf) + LEASE_S - now)

    def look(self, now: float) -> Traces | None:
        """Look into Redis."""
        if not self.answers(now):
            return None
        if now >= self.stored_at:
            return Traces(ended=True, reason=EndReason.AGENT_HANGUP, lease_s=self.lease_s(now))
        return Traces(journal=True, lease_s=self.lease_s(now))

    def said(self) -> Said:
        """Say what a router hears: an end that was told outlives the pool."""
        told = self.ends and self.nearby and self.pool_dies_at > 0
        return Said(CallState.ENDED, EndReason.AGENT_HANGUP) if told else Said()

    def whereabouts(self, now: float) -> Whereabouts:
        """Say what a router knows of the pool."""
        if not self.nearby:
            return Whereabouts.ELSEWHERE
        return Whereabouts.HERE if now < self.pool_dies_at else Whereabouts.GONE

    def judged(self, now: float) -> Step:
        """Do what a router does from this time on."""
        looks: list[Traces | None] = []
        while True:
            looks.append(self.look(now))
            step = judge(0, self.whereabouts(now), self.said(), looks)
            if not isinstance(step, LookAgain):
                return step
            now += step.after_s


@settings(deadline=None, max_examples=500)
@given(
    world=st.builds(
        World,
        nearby=st.booleans(),
        pool_dies_at=st.one_of(st.just(math.inf), st.floats(-20, 20)),
        outage_from=st.floats(-20, 0),
        outage_to=st.floats(-20, 20),
        phase=st.floats(0, 1),
        slowness=st.floats(0, 0.99),
    ),
    asked_after=st.floats(0.001, 2),
)
def test_a_normal_end_is_never_taken_for_a_cut_off(world: World, asked_after: float) -> None:
    """Whenever Redis was away, whoever died, and however late the end was stored.

    One exception is known and left out: a pool on another machine that dies after it could not store an end and before it
    could again, with a Redis that comes back within that second. Nearby the router was told.
    """
    assume(world.nearby or world.stored_at < math.inf)
    assert world.judged(world.closed_at + asked_after) != CutOff()


@settings(deadline=None)
@given(
    cut=st.builds(
        World,
        nearby=st.booleans(),
        pool_dies_at=st.just(0.0),
        outage_from=st.just(-20.0),
        outage_to=st.just(-20.0),
        phase=st.floats(0, 1),
        slowness=st.just(0.0),
        ends=st.just(False),
    ),
    asked_after=st.floats(0.001, 60),
)
def test_a_cut_off_is_recognised_while_redis_answers(cut: World, asked_after: float) -> None:
    """The machine dies with pool and worker: nobody stores or tells anything."""
    assert cut.judged(asked_after) == CutOff()
