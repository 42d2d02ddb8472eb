from hypothesis import given
from hypothesis import strategies as st

from router.order import Order
from shared import holdline
from shared.calls import CallSid
from shared.holdline import Visitor

A, B, C = CallSid("a"), CallSid("b"), CallSid("c")


def visitor(sid: CallSid, waited_s: float = 0.0, patience_s: float = 10.0) -> Visitor:
    return Visitor(sid, waited_s, patience_s)


@given(st.permutations(range(8)))
def test_callers_stand_in_the_order_of_arrival_however_they_ask(asking: list[int]) -> None:
    line, sids = Order(), [CallSid(str(number)) for number in range(8)]
    for sid in sids:
        line.join(visitor(sid), 100.0)  # all at once: who came first is still first
    for number in asking:
        line.join(visitor(sids[number], waited_s=1.0), 101.0 + number)
    assert [line.before(sid, set()) for sid in sids] == list(range(8))


def test_who_has_waited_elsewhere_stands_where_it_stood() -> None:
    line = Order()
    line.join(visitor(A), 100.0)
    line.join(visitor(B, waited_s=5.0), 101.0)
    assert (line.before(B, set()), line.before(A, set())) == (0, 1)
    assert line.before(C, set()) is None


def test_those_who_are_being_served_are_in_nobodys_way() -> None:
    line = Order()
    for sid in (A, B, C):
        line.join(visitor(sid), 100.0)
    assert line.before(C, {A}) == 1
    assert line.before(A, {C}) == 0


def test_who_stops_asking_is_overdue_and_who_leaves_says_how_long_it_was_here() -> None:
    line = Order()
    line.join(visitor(A, waited_s=3.0, patience_s=1.0), 100.0)
    line.join(visitor(B), 100.0)
    assert line.overdue(100.5) == []
    assert line.overdue(101.0) == [A]
    assert line.leave(A, 101.0) == 4.0
    assert line.leave(A, 101.0) is None
    assert len(line) == 1


def test_a_full_line_takes_nobody_new() -> None:
    line = Order()
    for number in range(holdline.MOST_WAITING):
        line.join(visitor(CallSid(str(number))), 100.0)
    line.join(visitor(A), 100.0)
    assert line.before(A, set()) is None
    line.join(visitor(B, waited_s=1.0), 100.0)
    assert line.before(B, set()) == 0
