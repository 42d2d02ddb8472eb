"""The life of a worker as a table: what can never happen, whatever the order of events."""

from hypothesis import given
from hypothesis import strategies as st

from shared.errors import IllegalTransition
from shared.machine import advance
from shared.workers import LIVE_STATES, PARKED_RESOURCES, WORKER_TABLE, Resource, WorkerEvent, WorkerState

S, E = WorkerState, WorkerEvent
_events = st.lists(st.sampled_from(WorkerEvent), max_size=30)


def _lived(events: list[WorkerEvent]) -> list[tuple[WorkerState, WorkerEvent]]:
    """Walk through the table, leaving illegal events out; give each state with the event that led to it."""
    state, path = S.SPAWNED, []
    for event in events:
        try:
            state = advance(WORKER_TABLE, state, event)
        except IllegalTransition:
            continue
        path.append((state, event))
    return path


@given(_events)
def test_a_worker_serves_at_most_one_call(events: list[WorkerEvent]) -> None:
    """No sequence of events binds a second call to a worker, or promises it twice."""
    path = [event for _, event in _lived(events)]
    assert path.count(E.BIND) <= 1
    assert path.count(E.RESERVE) <= 1


@given(_events)
def test_a_reserved_worker_is_bound_or_retired_or_dies(events: list[WorkerEvent]) -> None:
    """It holds one caller's profile: it is never ready again."""
    states = [state for state, _ in _lived(events)]
    if S.RESERVED in states:
        after = states[states.index(S.RESERVED) + 1 :]
        assert not after or after[0] in {S.IN_CALL, S.RETIRED, S.EXITED}
        assert S.READY not in after


@given(_events)
def test_an_exited_worker_takes_no_event(events: list[WorkerEvent]) -> None:
    states = [state for state, _ in _lived(events)]
    assert S.EXITED not in states[:-1]


def test_every_state_has_a_row_and_every_live_state_can_die() -> None:
    assert set(WORKER_TABLE) == set(WorkerState)
    for state in LIVE_STATES:
        assert WORKER_TABLE[state][E.DIE] is S.EXITED
    assert WORKER_TABLE[S.EXITED] == {}


def test_an_illegal_event_changes_nothing() -> None:
    for state, row in WORKER_TABLE.items():
        for event in set(WorkerEvent) - set(row):
            try:
                advance(WORKER_TABLE, state, event)
            except IllegalTransition:
                continue
            raise AssertionError((state, event))


def test_parking_needs_everything_but_the_connections_that_plans_count() -> None:
    assert set(PARKED_RESOURCES) == set(Resource) - {Resource.STT, Resource.LLM}
