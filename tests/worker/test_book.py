"""The call book: which seats the calls of an agent have."""

from shared.agents import Agent
from shared.calls import CallSid, EndReason, IncomingCall, TraceId
from shared.ticket import Ticket
from shared.workers import PoolId, WorkerId
from worker.pool.book import Book, Call


def added(book: Book, name: str, at: float = 0.0, agent: str = "desk") -> Call:
    """Write down a call."""
    trace = TraceId("0" * 32)
    incoming = IncomingCall(call_sid=CallSid(name), caller="", called="", trace_id=trace)
    ticket = Ticket(incoming.call_sid, 0, PoolId("p"), "b", WorkerId("0-1"), trace, 0)
    call = Call(incoming, Agent(name=agent), ticket, at)
    book.add(call)
    return call


def test_calls_of_an_agent_at_the_same_time_have_different_seats_and_the_next_one_has_the_lowest() -> None:
    book = Book()
    calls = [added(book, f"CA{number}") for number in range(3)]
    assert [call.seat.number for call in calls] == [0, 1, 2]
    assert added(book, "CA9", agent="other").seat.number == 0
    book.end(calls[1], EndReason.CALLER_HANGUP, 5.0)
    assert added(book, "CA3").seat.number == 1
    assert added(book, "CA4").seat.number == 3


def test_a_seat_knows_for_how_long_it_was_empty() -> None:
    book = Book()
    first = added(book, "CA0", 10.0)
    assert first.seat.idle_s is None
    book.end(first, EndReason.CALLER_HANGUP, 60.0)
    assert added(book, "CA1", 95.0).seat.idle_s == 35.0


def test_a_call_that_is_written_down_twice_keeps_its_seat() -> None:
    book = Book()
    first = added(book, "CA0")
    second = added(book, "CA1")
    book.add(first)
    book.add(second)
    assert (first.seat.number, second.seat.number) == (0, 1)
