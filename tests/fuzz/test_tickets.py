"""Tickets that somebody has worked on: nothing that was not signed admits, and nothing says more than it said."""

from __future__ import annotations

import base64
import contextlib

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import URLSafeSerializer

from shared.calls import CallSid, TraceId
from shared.errors import TicketRefused
from shared.ticket import Ticket, TicketOffice
from shared.workers import PoolId, WorkerId
from tests.effort import effort

OFFICE = TicketOffice("the secret of this installation")
NOW = 1_000.0


def ticket(number: int) -> Ticket:
    """Make one of several sound tickets; the first has expired."""
    sid, trace = CallSid(f"CA{number:032x}"), TraceId("0" * 32)
    return Ticket(sid, number % 3, PoolId("p1"), "b00t", WorkerId(f"{number}-1"), trace, 999 if number == 0 else 2_000)


SIGNED = {OFFICE.sign(ticket(number)): ticket(number) for number in range(4)}
segments = st.sampled_from(sorted(SIGNED))
anything = st.text(max_size=30) | st.text("ABCabc012-_.=%/?", max_size=30)


def replaced(segment: str, at: int, length: int, by: str) -> str:
    """Write something else into a segment."""
    at %= len(segment) + 1
    return segment[:at] + by + segment[at + length :]


def own_work(content: list[object], secret: str) -> str:
    """Sign as we do, with another secret."""
    return str(URLSafeSerializer(secret, salt="offhook media ticket").dumps(content))


forged = st.one_of(
    st.builds(replaced, segments, st.integers(0, 400), st.integers(0, 20), anything),
    st.tuples(segments, segments, st.integers(0, 400)).map(lambda it: it[0][: it[2]] + it[1][it[2] :]),  # two crossed
    st.tuples(segments, segments).map(lambda it: f"{it[0].rpartition('.')[0]}.{it[1].rpartition('.')[2]}"),
    st.tuples(segments, segments).map(".".join),
    segments.map(str.swapcase),
    segments.map(lambda segment: segment.replace("-", "+").replace("_", "/")),
    segments.map(lambda segment: segment + "=" * (-len(segment) % 4)),
    segments.map(lambda segment: segment.rpartition(".")[0] + "."),
    segments.map(lambda segment: segment[::-1]),
    st.builds(own_work, st.lists(st.text(max_size=5) | st.integers(), max_size=8), st.sampled_from(["", "other"])),
    st.binary(max_size=60).map(lambda data: base64.urlsafe_b64encode(data).decode() + ".x"),
    st.binary(max_size=60).map(lambda data: "." + base64.urlsafe_b64encode(data).decode() + ".x"),  # "compressed"
)


@effort(500)
@given(segment=forged)
def test_what_was_not_signed_never_admits(segment: str) -> None:
    """What admits says what a sound ticket says, and is signed: only base64 has several spellings of one signature."""
    admitted: Ticket | None = None
    with contextlib.suppress(TicketRefused):
        admitted = OFFICE.admit(segment, NOW)
    if admitted is not None:
        assert admitted in SIGNED.values()
        assert admitted.expires_at > NOW
        assert segment.rpartition(".")[0] == OFFICE.sign(admitted).rpartition(".")[0]


values = st.none() | st.integers(-(2**70), 2**70) | st.text(max_size=8) | st.lists(st.integers(), max_size=2)


@effort(300)
@given(content=st.lists(values, max_size=9))
def test_what_was_signed_and_is_no_ticket_is_refused(content: list[object]) -> None:
    """A version of tomorrow, or of yesterday, shares the key."""
    segment = str(OFFICE._serializer.dumps(content))
    with contextlib.suppress(TicketRefused):
        assert msgspec.to_builtins(OFFICE.open(segment)) == content
