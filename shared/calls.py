"""What a call is, which states it passes through and why it ends. Pure."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NewType

import msgspec

CallSid = NewType("CallSid", str)
StreamSid = NewType("StreamSid", str)
TraceId = NewType("TraceId", str)
"""32 hexadecimal digits, made at the webhook; in every log line and in the journal of a call."""


class IncomingCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call as the webhook announced it.

    `caller` and `called` are what Twilio sent as From and To: usually E.164, but a withheld number is any word.
    `attempt` is 0 for the first webhook of a call and grows with each reconnection.
    """

    call_sid: CallSid
    caller: str
    called: str
    trace_id: TraceId
    attempt: int = 0


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """Which of its agent's calls in a pool a call is: the lowest number that no other of them has at the time, from 0.

    `idle_s` is for how long no call had it before this one; None when none is known.
    """

    number: int = 0
    idle_s: float | None = None


class CallState(StrEnum):
    """Where a call is; written by the pool that holds it (HELD: by the router)."""

    INCOMING = "incoming"  # is when its webhook arrived
    PROMISED = "promised"  # is when a worker is reserved for it
    HELD = "held"  # is when it waits in the hold line
    STREAMING = "streaming"  # is when a worker holds its stream
    RESUMING = "resuming"  # is when its worker died and the keeper looks for another
    CUT_OFF = "cut_off"  # is when its stream broke and Twilio may still bring it back
    ENDED = "ended"  # is when an end reason is stored; final


class CallEvent(StrEnum):
    """What can happen to a call."""

    RESERVE = "reserve"
    HOLD = "hold"
    BIND = "bind"
    WORKER_LOST = "worker_lost"
    STREAM_LOST = "stream_lost"
    END = "end"


_S, _E = CallState, CallEvent

CALL_TABLE: Final[Mapping[CallState, Mapping[CallEvent, CallState]]] = {
    _S.INCOMING: {_E.RESERVE: _S.PROMISED, _E.HOLD: _S.HELD, _E.END: _S.ENDED},
    _S.HELD: {_E.RESERVE: _S.PROMISED, _E.END: _S.ENDED},
    _S.PROMISED: {_E.BIND: _S.STREAMING, _E.END: _S.ENDED},
    _S.STREAMING: {_E.WORKER_LOST: _S.RESUMING, _E.STREAM_LOST: _S.CUT_OFF, _E.END: _S.ENDED},
    _S.RESUMING: {_E.BIND: _S.STREAMING, _E.STREAM_LOST: _S.CUT_OFF, _E.END: _S.ENDED},
    _S.CUT_OFF: {_E.RESERVE: _S.PROMISED, _E.END: _S.ENDED},
    _S.ENDED: {_E.END: _S.ENDED},  # ending an ended call again is a no-op
}


class EndReason(StrEnum):
    """Why a call ended; a metric label, stored for `/call-ended`."""

    CALLER_HANGUP = "caller_hangup"  # the caller hung up after at least one reply
    HANGUP_BEFORE_REPLY = "hangup_before_reply"  # the caller hung up before the agent answered anything
    HANGUP_BEFORE_START = "hangup_before_start"  # the stream closed before its `start`
    AGENT_HANGUP = "agent_hangup"  # the agent said goodbye
    TRANSFERRED = "transferred"  # the caller is connected to a person
    NEVER_CONNECTED = "never_connected"  # the reservation expired: no upgrade came
    TICKET_MISMATCH = "ticket_mismatch"  # `start` named another call than the ticket
    START_TIMEOUT = "start_timeout"  # no `start` within its time
    STREAM_SILENT = "stream_silent"  # no frame for 10 s: the peer is gone without a word
    STREAM_LOST = "stream_lost"  # the connection broke
    PROTOCOL_ERROR = "protocol_error"  # the peer broke the WebSocket protocol
    CALLER_SILENT = "caller_silent"  # the caller said nothing, was asked, and said nothing again
    MAX_DURATION = "max_duration"  # `MAX_CALL_DURATION` was reached
    WORKER_LOST = "worker_lost"  # the worker died and nobody resumed the call
    POISONED = "poisoned"  # every worker that took the call died in quick succession
    PROVIDER_LOST = "provider_lost"  # a provider did not come back
    DRAINED = "drained"  # `DRAIN_TIMEOUT` cut the call


HANGUP_REASONS: Final = frozenset(
    {EndReason.CALLER_HANGUP, EndReason.HANGUP_BEFORE_REPLY, EndReason.HANGUP_BEFORE_START}
)
"""Ends that the caller chose: nobody is left to talk to."""
