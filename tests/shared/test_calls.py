"""The life of a call as a table."""

from hypothesis import given
from hypothesis import strategies as st

from shared.calls import CALL_TABLE, HANGUP_REASONS, CallEvent, CallState, EndReason
from shared.errors import IllegalTransition
from shared.machine import advance

S, E = CallState, CallEvent


@given(st.lists(st.sampled_from(CallEvent), max_size=30))
def test_ended_is_final_and_ending_again_is_a_no_op(events: list[CallEvent]) -> None:
    state, over = S.INCOMING, False
    for event in events:
        try:
            state = advance(CALL_TABLE, state, event)
        except IllegalTransition:
            assert not over or event is not E.END
            continue
        assert not over or state is S.ENDED
        over = state is S.ENDED


@given(st.lists(st.sampled_from(CallEvent), max_size=30))
def test_a_stream_is_bound_only_after_a_promise_or_while_resuming(events: list[CallEvent]) -> None:
    state = S.INCOMING
    for event in events:
        try:
            after = advance(CALL_TABLE, state, event)
        except IllegalTransition:
            continue
        if after is S.STREAMING:
            assert state in {S.PROMISED, S.RESUMING}
        state = after


def test_every_state_has_a_row_and_can_end() -> None:
    assert set(CALL_TABLE) == set(CallState)
    assert all(row[E.END] is S.ENDED for row in CALL_TABLE.values())


def test_only_what_the_caller_chose_is_a_hang_up() -> None:
    assert all("hangup" in reason for reason in HANGUP_REASONS)
    assert EndReason.AGENT_HANGUP not in HANGUP_REASONS
