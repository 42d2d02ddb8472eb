"""What a worker is and which states it passes through. Pure: no clock, no process, no socket.

The pool is the only writer of a worker's state; everybody else is told.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NewType

from shared.calls import CallSid

WorkerId = NewType("WorkerId", str)
"""`<slot>-<serial>`: the slot is stable and bounded (a metric label), the serial grows with each fork."""

PoolId = NewType("PoolId", str)
"""The name of a pool, also of its socket in `HANDOFF_DIR`."""

STACK_SIGNAL: Final = signal.SIGUSR2
"""Asks a worker where it is; sent by its pool only after the file for the answer came with `Ready`: others would die of it."""


class WorkerState(StrEnum):
    """Where a worker is in its life; written by its pool only."""

    SPAWNED = "spawned"  # is when the zygote was asked to fork it
    WARMING = "warming"  # is when its process runs and builds the pipeline
    READY = "ready"  # is when its self-check passed: VAD and turn inference done, TTS open, tools listed
    RESERVED = "reserved"  # is when it is promised to one call until a deadline
    IN_CALL = "in_call"  # is when it holds a caller's stream
    RETIRED = "retired"  # is when it was told to leave and takes no call any more
    FAILED = "failed"  # is when its warm-up went wrong and its process is ending
    EXITED = "exited"  # is when its process is gone


class WorkerEvent(StrEnum):
    """What can happen to a worker."""

    FORKED = "forked"
    PARK = "park"
    RESERVE = "reserve"
    BIND = "bind"
    END = "end"
    EXPIRE = "expire"
    RECYCLE = "recycle"
    PROVIDER_LOST = "provider_lost"
    FAIL = "fail"
    DIE = "die"


_S, _E = WorkerState, WorkerEvent

WORKER_TABLE: Final[Mapping[WorkerState, Mapping[WorkerEvent, WorkerState]]] = {
    _S.SPAWNED: {_E.FORKED: _S.WARMING, _E.FAIL: _S.FAILED, _E.DIE: _S.EXITED},
    _S.WARMING: {_E.PARK: _S.READY, _E.FAIL: _S.FAILED, _E.DIE: _S.EXITED},
    _S.READY: {
        _E.RESERVE: _S.RESERVED,
        _E.BIND: _S.IN_CALL,  # a resumed call needs no reservation
        _E.RECYCLE: _S.RETIRED,
        _E.PROVIDER_LOST: _S.RETIRED,
        _E.DIE: _S.EXITED,
    },
    _S.RESERVED: {
        _E.BIND: _S.IN_CALL,
        _E.EXPIRE: _S.RETIRED,  # it already holds one caller's profile: never back to READY
        _E.PROVIDER_LOST: _S.RETIRED,
        _E.DIE: _S.EXITED,
    },
    _S.IN_CALL: {_E.END: _S.EXITED, _E.DIE: _S.EXITED},
    _S.RETIRED: {_E.DIE: _S.EXITED},
    _S.FAILED: {_E.DIE: _S.EXITED},
    _S.EXITED: {},
}

LIVE_STATES: Final = frozenset(WorkerState) - {WorkerState.EXITED}
"""What `POOL_MAX` counts."""


PARKED_STATES: Final = frozenset({WorkerState.READY, WorkerState.RESERVED})
"""When a worker is warm and holds no caller."""


class Resource(StrEnum):
    """What can be warm in a worker; a metric label."""

    TOOLS = "tools"
    VAD = "vad"
    TURN = "turn"
    TTS = "tts"
    STT = "stt"
    LLM = "llm"


PARKED_RESOURCES: Final = (Resource.TOOLS, Resource.VAD, Resource.TURN, Resource.TTS)
"""What READY demands; STT and LLM are connected from RESERVED on, because plans count idle STT sockets."""


def parked_resources(*, eager_tools: bool) -> tuple[Resource, ...]:
    """Say what READY demands of a worker; without `EAGER_TOOL_LOADING` it has no tools before its call."""
    return tuple(each for each in PARKED_RESOURCES if eager_tools or each is not Resource.TOOLS)


@dataclass(frozen=True, slots=True)
class Reservation:
    """A worker promised to one call until a deadline.

    `deadline` is in seconds of the pool's `CLOCK_MONOTONIC`; `expires_at` is the same moment in unix seconds, as it
    stands in the ticket.
    """

    call_sid: CallSid
    attempt: int
    worker: WorkerId
    deadline: float
    expires_at: int
