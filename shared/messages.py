"""Every message between router, pool, zygote and worker: who sends it and when.

One message is one `SOCK_SEQPACKET` datagram holding JSON with a `type` tag; descriptors travel beside it. A message is
at most 64 KiB, because a short read truncates a datagram silently and the kernel refuses them near 200 kB.
Not for anything that crosses the network or is stored: that is `keys` and `journal`. The tool host's are in `tool_messages`.
"""

from typing import Any, Final, Literal

import msgspec

from shared.agents import Agent
from shared.calls import CallSid, CallState, EndReason, IncomingCall, Seat, StreamSid
from shared.ticket import Ticket
from shared.workers import PoolId, Resource, WorkerId

PROTOCOL_VERSION: Final = 4
"""Grows with every change a peer of the former version would not understand.

`Hello`, `Welcome`, `HandOff` with its ticket, and `AskEnd` with its answer have to be understood all the same: in an update a
call is promised by a router of one version, and its stream may come to one of the other.
"""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=str.lower):
    """The base of all messages; the tag is the class name in lower case."""


# --- router -> pool -------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """Router to pool, first on every control connection; the pool closes on another version."""

    version: int = PROTOCOL_VERSION


class Reserve(Message, frozen=True):
    """Router to pool, at the webhook: promise a worker to this call for `ttl_s` seconds. Answered by Reserved or NoWorker.

    Asking again for the same call and attempt while the promise lives gives the same answer. `behind` callers are to be
    served before this one: none is promised unless that many workers would be left.
    """

    request: int
    call: IncomingCall
    ttl_s: float
    behind: int = 0


class HandOff(Message, frozen=True):
    """Router to pool, at the media upgrade, with the accepted socket: the pool owns it from here.

    `head` is the whole request head; `accepted_at` is CLOCK_MONOTONIC seconds when the router had read it. The router has
    checked the signature and opened the ticket; single use is the pool's to judge. `call` is for another pool than the
    ticket's, and None when another router, or a former life of this one, promised it.
    """

    ticket: Ticket
    head: bytes
    accepted_at: float
    call: IncomingCall | None = None


class AskEnd(Message, frozen=True):
    """Router to pool, at `/call-ended`: how did this call end? Answered by EndKnown."""

    request: int
    call_sid: CallSid
    attempt: int


class NoPrefetch(Message, frozen=True):
    """Router to pool: it has queued no prefetch, so nobody need wait for one; with `prefetch.AT_STREAM` the pool is to, later."""

    call_sid: CallSid
    why: str


FromRouter = Hello | Reserve | HandOff | AskEnd | NoPrefetch

# --- pool -> router -------------------------------------------------------------------------------------------------


class Welcome(Message, frozen=True):
    """Pool to router, in answer to Hello."""

    version: int
    pool: PoolId
    boot: str


class Problem(msgspec.Struct, frozen=True):
    """Why workers do not become ready: the resource that failed, and the last lines of what it said."""

    resource: str
    detail: str


class Readiness(Message, frozen=True):
    """Pool to router, after Welcome and on every change: what the router may promise from this pool."""

    ready: int
    warming: int
    draining: bool = False
    problems: tuple[Problem, ...] = ()


class Reserved(Message, frozen=True):
    """Pool to router: a worker is promised; `ticket` is what the router signs."""

    request: int
    ticket: Ticket
    agent: Agent


class NoWorker(Message, frozen=True):
    """Pool to router: none is free."""

    request: int
    why: Literal["none_ready", "draining"]


class EndKnown(Message, frozen=True):
    """Pool to router: the state of a call, and its end reason when it has one. `state` is None for a call not of ours.

    `dial` is whom a transferred caller is to be connected to (E.164).
    """

    request: int
    state: CallState | None
    reason: EndReason | None
    dial: str = ""


class Ended(Message, frozen=True):
    """Pool to every router, when a call has ended and before its stream is closed.

    So the end is known at `/call-ended` also when Redis did not take it and the pool is dead by then. `dial` as in EndKnown.
    """

    call_sid: CallSid
    attempt: int
    reason: EndReason
    dial: str = ""


FromPool = Welcome | Readiness | Reserved | NoWorker | EndKnown | Ended

# --- pool -> zygote and back ----------------------------------------------------------------------------------------


class Fork(Message, frozen=True):
    """Pool to zygote, with the worker's end of its socket pair: fork a worker."""

    worker: WorkerId


class Alive(Message, frozen=True):
    """Zygote to pool, once: everything is imported and loaded; `threads` must be 1.

    `problems` are what was left out, and keep nobody from being served: custom tools whose files are broken.
    """

    warm_s: float
    threads: int
    problems: tuple[Problem, ...] = ()


class Forked(Message, frozen=True):
    """Zygote to pool, with a pidfd made before the child could be reaped."""

    worker: WorkerId
    pid: int


class ForkRefused(Message, frozen=True):
    """Zygote to pool: no fork happened (more than one thread, or the system refused)."""

    worker: WorkerId
    why: str


class Reaped(Message, frozen=True):
    """Zygote to pool: a worker's process was waited for; `status` is its wait status."""

    pid: int
    status: int


ToZygote = Fork

# --- pool -> worker -------------------------------------------------------------------------------------------------


class Prepare(Message, frozen=True):
    """Pool to worker, at reservation: open STT, take the agent's profile, warm the LLM connection."""

    call: IncomingCall
    agent: Agent
    reserved_at: float
    seat: Seat = Seat()


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """What a successor must know of the stream it takes over.

    `number` counts the resumes of this call from 1; `stream_sid` is None when `start` was not heard to have been read;
    `bridged`: the keeper has spoken meanwhile; `hung`: the predecessor lived and did nothing, so nothing is done as it did it.
    """

    number: int
    stream_sid: StreamSid | None
    bridged: bool = False
    hung: bool = False


class Remember(Message, frozen=True):
    """Pool to worker, before its Bind: entries of the call's journal, oldest first, in as many messages as they need."""

    entries: tuple["Entry", ...]


class Bind(Message, frozen=True):
    """Pool to worker, with the socket on which the 101 has been written and the call's tape: serve this call.

    `accepted_at` and `reserved_at` are CLOCK_MONOTONIC seconds. `resume` is None for a new stream. Bind and resume are one
    path: a resumed call was announced by its journal (`Remember`), and so is one that was cut off and has come back.
    """

    call: IncomingCall
    agent: Agent
    accepted_at: float
    reserved_at: float
    resume: Resume | None = None
    seat: Seat = Seat()


class Customer(Message, frozen=True):
    """Pool to worker: what the prefetch found, as often as it changes; the first one opens the first-answer gate.

    `outcome` is `found`, `unknown` (nobody has this number) or why there is none; `record` only with `found`.
    """

    outcome: Literal["found", "unknown", "failed", "unavailable"]
    record: dict[str, Any] | None = None


class Retire(Message, frozen=True):
    """Pool to worker: leave. A parked worker exits at once; one in a call says goodbye first (`drained`)."""

    why: str


class ToolLine(Message, frozen=True):
    """Pool to worker, with a socket to the tool host: when the worker is forked, and again when another host has started."""


class EndStored(Message, frozen=True):
    """Pool to worker: the end reason is stored (or Redis had its 300 ms); the stream may be closed."""


ToWorker = Prepare | Remember | Bind | Customer | Retire | ToolLine | EndStored

# --- worker -> pool -------------------------------------------------------------------------------------------------


class Ready(Message, frozen=True):
    """Worker to pool, with the file its stack is appended to (at a crash and at `STACK_SIGNAL`): the self-check passed.

    `problems`: what keeps it from serving some of the agents, though not the default one.
    """

    build_s: float
    problems: tuple[Problem, ...] = ()


class WarmFailed(Message, frozen=True):
    """Worker to pool, before it exits: what could not be warmed, and the traceback. Also zygote to pool, when it cannot load.

    `limited`: a provider's plan allows no further connection; another try soon would only meet the same answer.
    """

    resource: str
    detail: str
    traceback: str
    limited: bool = False


class Beat(Message, frozen=True):
    """Worker to pool, every 0.5 s and on every change: what is warm now, and how late the loop was."""

    warm: dict[Resource, bool]
    lag_s: float


class ProviderLost(Message, frozen=True):
    """Worker to pool, when a parked worker lost a provider: it can serve nobody."""

    resource: Resource
    detail: str


class Observed(Message, frozen=True):
    """Worker to pool: one observation for a histogram of `shared.metrics`; the pool exposes it."""

    timing: str
    seconds: float
    stage: str = ""


class Started(Message, frozen=True):
    """Worker to pool, when `start` has been read."""

    stream_sid: StreamSid


class FirstMedia(Message, frozen=True):
    """Worker to pool, when the first media message was written; refills may go on."""

    at: float


class Resumed(Message, frozen=True):
    """Worker to pool: a call it took over is served again since `at` (CLOCK_MONOTONIC seconds)."""

    at: float


EntryKind = Literal[
    "user", "greeting", "sent", "agent", "heard", "spoken", "interrupted", "cleared", "halted", "proceeded", "tool", "result",
    "customer", "came_back", "cut", "consent", "used", "timing",
]  # fmt: skip
"""What an entry of a journal tells of; `shared.journal` says what its fields then hold."""


class Entry(Message, frozen=True):
    """Worker to pool: one journal entry, sent before what it announces happens (a completion, a tool call).

    Kinds, and what `text` and `key` hold, are listed in `shared.journal`; only `came_back` is a pool's. `at` is unix seconds.
    """

    kind: EntryKind
    text: str
    at: float
    key: str = ""


class Counted(Message, frozen=True):
    """Worker to pool: something of `shared.metrics.Oddity` happened on the stream `times` times."""

    oddity: str
    times: int = 1


class Retried(Message, frozen=True):
    """Worker to pool, in a call: a provider (a `Resource`) failed (a `shared.metrics.Setback`) and is tried again."""

    provider: str
    cause: str


class Ending(Message, frozen=True):
    """Worker to pool: the call is over for this reason; answered by EndStored, then the worker closes the stream."""

    reason: EndReason


class Closed(Message, frozen=True):
    """Worker to pool: the stream was shut down; the pool drops its duplicate.

    `busy_s`: tools that write are still under way, and the worker needs that long to exit.
    """

    busy_s: float = 0.0


FromWorker = (
    Ready
    | WarmFailed
    | Beat
    | ProviderLost
    | Observed
    | Started
    | FirstMedia
    | Resumed
    | Entry
    | Counted
    | Retried
    | Ending
    | Closed
)

FromZygote = Alive | Forked | ForkRefused | Reaped | WarmFailed
