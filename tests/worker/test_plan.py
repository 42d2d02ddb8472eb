"""The plan as a pure function: workers and a moment in, actions and the next moment out."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.workers import WORKER_TABLE, WorkerEvent, WorkerId, WorkerState
from worker.pool.plan import (
    EXIT_LIMIT_S,
    LIMITED_BACKOFF_S,
    MOST_BACKOFF_S,
    RECYCLE_JITTER,
    REFILL_DELAY_S,
    WARM_LIMIT_S,
    WARMING_AT_ONCE,
    Action,
    Backoff,
    Candidate,
    Kill,
    Retire,
    Seen,
    Spawn,
    View,
    choose,
    decide,
    recycle_at,
)

NOW = 1_000.0
VIEW = View(now=NOW, ready=4, most=40)
S = WorkerState


def seen(number: int, state: WorkerState, **more: Any) -> Seen:
    return replace(Seen(WorkerId(f"{number}-{number}"), state, NOW), **more)


def parked(count: int) -> list[Seen]:
    return [seen(number, S.READY) for number in range(count)]


def spawns(actions: tuple[Action, ...]) -> int:
    return sum(isinstance(action, Spawn) for action in actions)


def test_an_empty_pool_forks_two_at_once() -> None:
    assert decide([], VIEW).actions == (Spawn(), Spawn())


def test_a_full_pool_has_nothing_to_do_and_needs_no_timer() -> None:
    plan = decide(parked(4), VIEW)
    assert plan.actions == ()
    assert plan.wake_at == math.inf


def test_no_more_than_two_warm_at_once() -> None:
    assert spawns(decide([seen(0, S.WARMING)], VIEW).actions) == 1
    assert spawns(decide([seen(0, S.WARMING), seen(1, S.SPAWNED)], VIEW).actions) == 0


def test_nothing_is_forked_without_a_zygote() -> None:
    assert decide([], replace(VIEW, can_fork=False)).actions == ()


def test_a_replacement_waits_for_the_first_media_of_the_call_that_took_the_worker() -> None:
    """The refill is due at the reservation, held for a second, and started as soon as the greeting is out."""
    given_away = seen(9, S.RESERVED, refill_at=NOW + REFILL_DELAY_S)
    plan = decide([*parked(3), given_away], VIEW)
    assert plan.actions == ()
    assert plan.wake_at == NOW + REFILL_DELAY_S
    assert spawns(decide([*parked(3), given_away], replace(VIEW, now=NOW + REFILL_DELAY_S)).actions) == 1
    assert spawns(decide([*parked(3), seen(9, S.IN_CALL, refill_at=NOW)], VIEW).actions) == 1


def test_only_the_refills_of_greetings_are_held_back() -> None:
    """Two are missing, one of them because of a call that is being greeted: one fork starts."""
    assert spawns(decide([*parked(2), seen(9, S.RESERVED, refill_at=NOW + 1)], VIEW).actions) == 1


def test_all_live_workers_count_for_the_most() -> None:
    everyone = [*parked(1), seen(5, S.IN_CALL), seen(6, S.RETIRED), seen(7, S.FAILED), seen(8, S.IN_CALL, killed=True)]
    assert spawns(decide(everyone, replace(VIEW, most=5)).actions) == 0
    assert spawns(decide(everyone, replace(VIEW, most=6)).actions) == 1


def test_failed_warm_ups_wait_and_are_then_tried_one_at_a_time() -> None:
    backoff = Backoff(failures=3, until=NOW + 2)
    waiting = decide([], replace(VIEW, backoff=backoff))
    assert waiting.actions == ()
    assert waiting.wake_at == NOW + 2
    assert spawns(decide([], replace(VIEW, backoff=backoff, now=NOW + 2)).actions) == 1


def test_back_off_doubles_up_to_its_limit_and_ignores_failures_it_has_already_counted() -> None:
    backoff, now, pauses = Backoff(), NOW, []
    for _ in range(8):
        backoff = backoff.failed(now, 0.5)
        assert backoff.failed(now, 0.5) is backoff
        pauses.append(backoff.until - now)
        now = backoff.until
    assert pauses[:3] == pytest.approx([0.25, 0.5, 1.0])
    assert pauses[-1] == pytest.approx(MOST_BACKOFF_S)


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_back_off_jitters_by_a_quarter(failures: int, jitter: float) -> None:
    pause = Backoff(failures).failed(NOW, jitter).until - NOW
    assert pause + 1e-9 >= 0.75 * 0.25
    assert pause <= 1.25 * MOST_BACKOFF_S + 1e-9


def test_a_plan_that_is_used_up_is_waited_for_longer_whatever_was_waited_for_before() -> None:
    short = Backoff().failed(NOW, 0.5)
    limited = short.failed(NOW, 0.5, limited=True)
    assert limited.until - NOW == pytest.approx(LIMITED_BACKOFF_S)
    assert limited.failures == 2
    assert limited.failed(NOW + 1, 0.5) is limited


def test_a_worker_is_recycled_only_after_its_replacement_is_ready() -> None:
    old = seen(0, S.READY, recycle_at=NOW - 1)
    others = parked(4)[1:]
    assert decide([old, *others], VIEW).actions == (Spawn(),)
    assert decide([old, *others, seen(4, S.WARMING)], VIEW).actions == ()
    assert decide([old, *others, seen(4, S.READY)], VIEW).actions == (
        Retire(old.worker, WorkerEvent.RECYCLE, "recycle"),
    )


def test_recycling_is_one_at_a_time_and_begins_with_the_one_most_overdue() -> None:
    overdue = [seen(number, S.READY, recycle_at=NOW - number) for number in range(4)]
    assert spawns(decide(overdue, VIEW).actions) == 1
    plan = decide([*overdue, seen(4, S.READY)], VIEW)
    assert [action for action in plan.actions if isinstance(action, Retire)] == [
        Retire(overdue[3].worker, WorkerEvent.RECYCLE, "recycle")
    ]


def test_recycling_is_looked_at_when_the_first_is_due() -> None:
    assert decide([seen(0, S.READY, recycle_at=NOW + 7), *parked(4)[1:]], VIEW).wake_at == NOW + 7


def test_a_pool_without_room_for_a_replacement_lets_one_go_first() -> None:
    old = seen(0, S.READY, recycle_at=NOW - 1)
    full = replace(VIEW, most=4)
    assert decide([old, *parked(4)[1:]], full).actions == (Retire(old.worker, WorkerEvent.RECYCLE, "recycle"),)
    assert decide([old], replace(VIEW, ready=1, most=1)).actions == ()


def test_a_reservation_ends_at_its_deadline() -> None:
    promised = seen(9, S.RESERVED, deadline=NOW + 5, refill_at=NOW)
    assert decide([*parked(4), promised], VIEW).wake_at == NOW + 5
    assert decide([*parked(4), promised], replace(VIEW, now=NOW + 5)).actions == (
        Retire(promised.worker, WorkerEvent.EXPIRE, "expired"),
    )


@pytest.mark.parametrize("state", [S.RETIRED, S.FAILED])
def test_a_worker_that_does_not_leave_is_killed_once(state: WorkerState) -> None:
    leaving = seen(9, state)
    late = replace(VIEW, now=NOW + EXIT_LIMIT_S)
    assert decide([*parked(4), leaving], VIEW).wake_at == NOW + EXIT_LIMIT_S
    assert decide([*parked(4), leaving], late).actions == (Kill(leaving.worker, "did not exit"),)
    assert decide([*parked(4), replace(leaving, killed=True)], late).actions == ()


def test_a_worker_whose_call_is_over_is_killed_when_it_stays() -> None:
    over = seen(9, S.IN_CALL, leaving_at=NOW - EXIT_LIMIT_S)
    assert decide([*parked(4), over], VIEW).actions == (Kill(over.worker, "did not exit"),)


def test_a_call_has_no_limit_of_the_plan() -> None:
    assert decide([*parked(4), seen(9, S.IN_CALL, since=0.0)], VIEW).wake_at == math.inf


@pytest.mark.parametrize("state", [S.SPAWNED, S.WARMING])
def test_a_warm_up_that_hangs_is_killed(state: WorkerState) -> None:
    hanging = seen(9, state)
    plan = decide([*parked(4), hanging], replace(VIEW, now=NOW + WARM_LIMIT_S))
    assert plan.actions == (Kill(hanging.worker, "timeout"),)


def test_draining_lets_go_of_whoever_has_no_call_and_forks_nobody() -> None:
    crew = [seen(0, S.READY), seen(1, S.WARMING), seen(2, S.SPAWNED), seen(3, S.RESERVED), seen(4, S.IN_CALL)]
    plan = decide(crew, replace(VIEW, drain_until=NOW + 60))
    assert set(plan.actions) == {
        Retire(crew[0].worker, WorkerEvent.RECYCLE, "drain"),
        Kill(crew[1].worker, "drain"),
        Kill(crew[2].worker, "drain"),
    }
    assert plan.wake_at == NOW + 60


def test_draining_cuts_calls_when_their_time_is_over() -> None:
    talking = seen(4, S.IN_CALL)
    over = replace(VIEW, drain_until=NOW)
    assert decide([talking], over).actions == (Retire(talking.worker, None, "drained"),)
    told = decide([replace(talking, leaving_at=NOW)], over)
    assert told.actions == ()
    assert told.wake_at == NOW + EXIT_LIMIT_S


def test_the_worker_that_parked_first_is_chosen() -> None:
    a, b, c = (Candidate(WorkerId(name), at, NOW) for name, at in (("a", 3.0), ("b", 1.0), ("c", 2.0)))
    assert choose([a, b, c], NOW) == "b"
    assert choose([], NOW) is None


def test_a_worker_that_does_not_beat_is_chosen_last() -> None:
    silent, young = Candidate(WorkerId("silent"), 1.0, NOW - 3), Candidate(WorkerId("young"), 2.0, NOW)
    assert choose([silent, young], NOW) == "young"
    assert choose([silent], NOW) == "silent"


@given(st.floats(0, 1, exclude_max=True))
def test_recycling_spreads_by_its_jitter(jitter: float) -> None:
    assert 100 * (1 - RECYCLE_JITTER) - 1e-6 <= recycle_at(NOW, 100, jitter) - NOW <= 100 * (1 + RECYCLE_JITTER) + 1e-6


_workers = st.lists(
    st.builds(
        Seen,
        worker=st.just(WorkerId("0-0")),
        state=st.sampled_from(WorkerState),
        since=st.floats(NOW - 40, NOW),
        recycle_at=st.floats(NOW - 10, NOW + 10),
        refill_at=st.floats(NOW - 2, NOW + 2),
        deadline=st.floats(NOW - 2, NOW + 30),
        leaving_at=st.none() | st.floats(NOW - 10, NOW),
        killed=st.booleans(),
    ),
    max_size=12,
).map(lambda all_: [replace(each, worker=WorkerId(f"{n}-{n}")) for n, each in enumerate(all_)])
_views = st.builds(
    View,
    now=st.just(NOW),
    ready=st.integers(1, 6),
    most=st.integers(1, 14),
    can_fork=st.booleans(),
    backoff=st.builds(Backoff, st.integers(0, 3), st.floats(NOW - 1, NOW + 1)),
    drain_until=st.none() | st.floats(NOW - 1, NOW + 1),
)


@settings(max_examples=300)
@given(_workers, _views)
def test_whatever_the_pool_looks_like_the_plan_keeps_its_promises(workers: list[Seen], view: View) -> None:
    """Never over the most, never more than two warming, no illegal event, nobody below what is ready by recycling."""
    plan = decide(workers, view)
    by_id = {worker.worker: worker for worker in workers}
    alive = sum(worker.state is not S.EXITED for worker in workers)
    coming = sum(worker.state in {S.SPAWNED, S.WARMING} and not worker.killed for worker in workers)
    count = spawns(plan.actions)
    if count:
        assert alive + count <= view.most
        assert coming + count <= WARMING_AT_ONCE + sum(isinstance(action, Kill) for action in plan.actions)
        assert view.can_fork
        assert view.drain_until is None
    touched = [action.worker for action in plan.actions if not isinstance(action, Spawn)]
    assert len(touched) == len(set(touched))
    for action in plan.actions:
        if isinstance(action, Spawn):
            continue
        worker = by_id[action.worker]
        assert not worker.killed
        if isinstance(action, Retire) and action.event is not None:
            assert action.event in WORKER_TABLE[worker.state]
    if view.drain_until is None:
        ready = sum(worker.state is S.READY and not worker.killed for worker in workers)
        recycled = sum(isinstance(a, Retire) and a.event is WorkerEvent.RECYCLE for a in plan.actions)
        assert recycled <= 1
        assert not recycled or ready > 1
    assert plan.wake_at > NOW


@settings(max_examples=100)
@given(_workers, _views)
def test_asking_again_after_doing_it_finds_nothing_new(workers: list[Seen], view: View) -> None:
    """Applying a plan and deciding again at the same moment never kills or retires the same worker twice."""
    first = decide(workers, view)
    after: list[Seen] = []
    actions = {action.worker: action for action in first.actions if not isinstance(action, Spawn)}
    for worker in workers:
        match actions.get(worker.worker):
            case Kill():
                after.append(replace(worker, killed=True))
            case Retire(_, None, _):
                after.append(replace(worker, leaving_at=NOW))
            case Retire():
                after.append(replace(worker, state=S.RETIRED, since=NOW))
            case None:
                after.append(worker)
    after += [Seen(WorkerId(f"new-{n}"), S.SPAWNED, NOW) for n in range(spawns(first.actions))]
    again = decide(after, view)
    assert not {a.worker for a in again.actions if not isinstance(a, Spawn)} & set(actions)


def test_a_worker_of_the_newest_generation_is_chosen_before_one_that_parked_first() -> None:
    former = Candidate(WorkerId("former"), 1.0, NOW, outdated=True)
    young, silent = Candidate(WorkerId("young"), 2.0, NOW), Candidate(WorkerId("silent"), 0.0, NOW - 3)
    assert choose([former, young, silent], NOW) == "young"
    assert choose([former, silent], NOW) == "former", "an old answer is better than none"


def test_outdated_workers_are_replaced_one_by_one_and_never_with_fewer_ready() -> None:
    """As in the pool: what is forked is ready in the next step, and leaves when it is told to."""
    workers = [seen(number, S.READY, recycle_at=-math.inf) for number in range(4)]
    number, least = 10, 4
    for _ in range(40):
        for action in decide(workers, VIEW).actions:
            match action:
                case Spawn():
                    workers.append(seen(number, S.WARMING))
                    number += 1
                case Retire(worker=name):
                    workers = [each for each in workers if each.worker != name]
        least = min(least, sum(each.state is S.READY for each in workers))
        workers = [replace(each, state=S.READY) for each in workers]
    assert least == 4
    assert [each.recycle_at for each in workers] == [math.inf] * 4
