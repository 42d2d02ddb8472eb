"""Which spans a trace of a call has, and what each says. One function for each, called when it is over.

    webhook                 router; the first of the trace. Again, as its child, for each further turn in the hold line
                            and each reconnection
      reserve               router
      prefetch              prefetcher: from the moment it was asked for until what was found is on its way
        lookup              prefetcher
      call                  pool: one for each attempt, from the reservation to the end
        hand-off            router: from the accepted upgrade until the pool has its socket
          bind              pool: until a worker has it
        greeting            worker: from the carrier's `start` to the first media
        customer            worker: from the reservation until the record is in the prompt
        resume              pool: from the loss of a worker until another one serves the call
        turn                worker, by Pipecat: from the caller's first word until the agent has answered
          stt llm tts       worker, by Pipecat
          answer            worker: from the end of the caller's speech to the first sound of the answer
        tool                worker

Whatever a span is part of has a name that follows from the call, so it may be recorded long after its parts, or never.
"""

import time
from typing import Final

from shared import tracing
from shared.calls import EndReason, IncomingCall
from shared.ticket import Ticket
from shared.tracing import Span, Value, span_id, wall

FAILED: Final = frozenset(
    {
        EndReason.NEVER_CONNECTED,
        EndReason.TICKET_MISMATCH,
        EndReason.START_TIMEOUT,
        EndReason.STREAM_SILENT,
        EndReason.STREAM_LOST,
        EndReason.PROTOCOL_ERROR,
        EndReason.WORKER_LOST,
        EndReason.POISONED,
        EndReason.PROVIDER_LOST,
    }
)
"""Ends that neither the caller nor the agent has chosen."""


def root_of(trace_id: str) -> str:
    """Name the first span of a trace."""
    return span_id(trace_id)


def attempt_of(trace_id: str, attempt: int) -> str:
    """Name the span of one attempt of a call."""
    return span_id(trace_id, "call", attempt)


def _webhook_of(trace_id: str, attempt: int, turn: int) -> str:
    return span_id(trace_id, "webhook", attempt, turn) if attempt or turn else root_of(trace_id)


def _hand_off_of(ticket: Ticket) -> str:
    return span_id(ticket.trace_id, "hand-off", ticket.attempt)


# --- router ----------------------------------------------------------------------------------------------------------


def announced(call: IncomingCall, began: float, result: str, turn: int = 0) -> None:
    """A webhook was answered that began at `began`; `turn` is which one it was in the hold line."""
    root = root_of(call.trace_id)
    own = _webhook_of(call.trace_id, call.attempt, turn)
    tracing.record(
        Span(
            "webhook", call.trace_id, began, time.time(), own, "" if own == root else root,
            attributes={"call.sid": call.call_sid, "call.attempt": call.attempt, "hold.turn": turn, "result": result},
        )
    )  # fmt: skip


def reserved(call: IncomingCall, turn: int, began: float, ticket: Ticket | None) -> None:
    """Pools were asked for a worker since `began`, and have promised one or, without a `ticket`, none."""
    found: dict[str, Value] = {} if ticket is None else {"pool": ticket.pool, "worker": ticket.worker}
    parent = _webhook_of(call.trace_id, call.attempt, turn)
    found |= {"call.sid": call.call_sid, "reserved": ticket is not None}
    tracing.record(Span("reserve", call.trace_id, began, time.time(), parent=parent, attributes=found))


def handed_off(ticket: Ticket, accepted_at: float) -> None:
    """The socket of an upgrade accepted at `accepted_at` (monotonic) was given to a pool."""
    tracing.record(
        Span(
            "hand-off", ticket.trace_id, wall(accepted_at), time.time(), _hand_off_of(ticket),
            attempt_of(ticket.trace_id, ticket.attempt), attributes={"call.sid": ticket.call_sid},
        )
    )  # fmt: skip


# --- pool ------------------------------------------------------------------------------------------------------------


def bound(ticket: Ticket, accepted_at: float, worker: str, *, prepared: bool) -> None:
    """A worker was given the socket that was accepted at `accepted_at` (monotonic); `prepared` if it was the promised one."""
    tracing.record(
        Span(
            "bind", ticket.trace_id, wall(accepted_at), time.time(), parent=_hand_off_of(ticket),
            attributes={"call.sid": ticket.call_sid, "worker": worker, "prepared": prepared},
        )
    )  # fmt: skip


def resumed(call: IncomingCall, lost_at: float, at: float, loss: str, *, ended: str = "") -> None:
    """A call that lost its worker has another one since `at` (both monotonic), or it has `ended` without."""
    tracing.record(
        Span(
            "resume", call.trace_id, wall(lost_at), wall(at), parent=attempt_of(call.trace_id, call.attempt), failed=ended,
            attributes={"call.sid": call.call_sid, "loss": loss},
        )
    )  # fmt: skip


def ended(call: IncomingCall, reserved_at: float, reason: EndReason, agent: str, resumes: int) -> None:
    """An attempt of a call that was reserved at `reserved_at` (monotonic) is over."""
    tracing.record(
        Span(
            "call", call.trace_id, wall(reserved_at), time.time(), attempt_of(call.trace_id, call.attempt),
            root_of(call.trace_id), failed=reason.value if reason in FAILED else "",
            attributes={
                "call.sid": call.call_sid, "call.attempt": call.attempt, "end_reason": reason.value, "agent": agent,
                "resumes": resumes,
            },
        )
    )  # fmt: skip


# --- prefetcher ------------------------------------------------------------------------------------------------------


def prefetched(trace_id: str, call_sid: str, outcome: str, queued_at: float, looked_up: tuple[float, float]) -> None:
    """What is known of a caller was published; `looked_up` is from when until when somebody was asked."""
    own = span_id(trace_id, "prefetch", call_sid, f"{looked_up[0]:.6f}")
    failed = outcome if outcome in {"failed", "unavailable"} else ""
    about: dict[str, Value] = {"call.sid": call_sid, "outcome": outcome}
    parent = root_of(trace_id)
    tracing.record(Span("prefetch", trace_id, queued_at, time.time(), own, parent, failed, attributes=about))
    tracing.record(Span("lookup", trace_id, *looked_up, parent=own, failed=failed, attributes=about))
