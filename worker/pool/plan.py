"""What a pool should do about its workers now: values in, actions out. Pure: no clock, no process, no socket.

`decide` looks at every live worker and says what is due and when to look again; nothing else in the pool decides how many
workers there are, which one is chosen, or when one has had its time. The rules:

- `ready` workers are ready or coming, at most `most` are alive in any state, at most two are warming at once;
- the replacement of a worker given to a call starts when that call's first media is out, or a second after it was given
  away: a fork beside a greeting would delay it;
- failed warm-ups back off, and are tried one at a time until one succeeds;
- a worker is recycled before its provider's idle limit, one at a time, and only when its replacement is ready; so are
  those of a former generation, at once;
- whatever does not finish in its time is killed.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from shared.workers import WorkerEvent, WorkerId, WorkerState

REFILL_DELAY_S: Final = 1.0
"""How long a replacement waits for the first media of the call that took the former worker."""

WARMING_AT_ONCE: Final = 2
"""More would make each slower than one by one, and disturb the calls that are up (two shared cores, measured)."""

WARM_LIMIT_S: Final = 30.0
"""A hundred times the usual warm-up: past that the worker hangs."""

EXIT_LIMIT_S: Final = 5.0
"""How long a worker that was told to leave, or whose call is over, may take to be gone."""

GOODBYE_LIMIT_S: Final = 15.0
"""How long a call that is ended by a drain may take for its last words and a goodbye, before its worker's time to exit."""

BEAT_LIMIT_S: Final = 2.0
"""A parked worker beats every 0.5 s; one that was silent for longer is chosen last."""

RECYCLE_JITTER: Final = 0.15
"""Workers that parked together must not be recycled together."""

FIRST_BACKOFF_S: Final = 0.25
MOST_BACKOFF_S: Final = 5.0
LIMITED_BACKOFF_S: Final = 30.0
"""After a 429: a connection becomes free when a call ends, and asking sooner counts against the plan as well."""

_S = WorkerState
_COMING: Final = frozenset({_S.SPAWNED, _S.WARMING})
_GIVEN: Final = frozenset({_S.RESERVED, _S.IN_CALL})


@dataclass(frozen=True, slots=True)
class Seen:
    """A live worker as the plan sees it; moments are seconds of CLOCK_MONOTONIC.

    Attributes:
        since: when it entered `state`.
        recycle_at: when a parked worker has been parked long enough; one that is outdated always has.
        refill_at: when the replacement of a worker that was given to a call may start.
        deadline: until when a reserved worker waits for its call.
        leaving_at: when the call of a worker was over, or must be after its goodbye; None while neither is known.
        killed: it was sent SIGKILL and its end is only a matter of time.
    """

    worker: WorkerId
    state: WorkerState
    since: float
    recycle_at: float = math.inf
    refill_at: float = -math.inf
    deadline: float = math.inf
    leaving_at: float | None = None
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long not to try again after failures; a value, replaced at each event."""

    failures: int = 0
    until: float = -math.inf

    def failed(self, now: float, jitter: float, *, limited: bool = False) -> "Backoff":
        """Count a failure; `jitter` is in [0, 1). Failures while waiting belong to the one already counted.

        `limited`: a provider's plan is used up, whatever else was being waited for.
        """
        if limited:
            until = now + LIMITED_BACKOFF_S * (0.75 + 0.5 * jitter)
            return Backoff(self.failures + 1, max(self.until, until))
        if now < self.until:
            return self
        pause = min(MOST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(self.failures, 10))
        return Backoff(self.failures + 1, now + pause * (0.75 + 0.5 * jitter))


@dataclass(frozen=True, slots=True)
class View:
    """What else the plan depends on.

    Attributes:
        ready: how many workers are to be ready or coming.
        most: how many may be alive in any state.
        can_fork: there is a zygote that takes requests.
        drain_until: when calls in progress have had their time; None while not draining.
        waiting: how many workers are needed for calls that lost theirs.
    """

    now: float
    ready: int
    most: int
    can_fork: bool = True
    backoff: Backoff = Backoff()
    drain_until: float | None = None
    waiting: int = 0

    @property
    def draining(self) -> bool:
        """Whether nobody is to become ready any more: a caller who waits for a worker still gets one."""
        return self.drain_until is not None and not self.waiting


@dataclass(frozen=True, slots=True)
class Spawn:
    """Ask the zygote for a worker."""


@dataclass(frozen=True, slots=True)
class Retire:
    """Tell a worker to leave. `event` is what happens to its state; None for one in a call, which says goodbye first."""

    worker: WorkerId
    event: WorkerEvent | None
    why: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker's process now."""

    worker: WorkerId
    why: str


Action = Spawn | Retire | Kill


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to look again at the latest (infinity: when something happens)."""

    actions: tuple[Action, ...]
    wake_at: float


def decide(workers: Iterable[Seen], view: View) -> Plan:
    """Say what is due now."""
    seen = [worker for worker in workers if worker.state is not _S.EXITED]
    standing = [worker for worker in seen if not worker.killed]
    actions: list[Action] = []
    wakes: list[float] = []
    for worker in standing:
        moment, action = _due(worker, view)
        if action is None:
            continue
        if moment <= view.now:
            actions.append(action)
        else:
            wakes.append(moment)
    if not view.draining:
        gone = {action.worker for action in actions if not isinstance(action, Spawn)}
        refill = _refill([worker for worker in standing if worker.worker not in gone], len(seen), view)
        actions += refill.actions
        wakes.append(refill.wake_at)
    return Plan(tuple(actions), min(wakes, default=math.inf))


def _due(worker: Seen, view: View) -> tuple[float, Action | None]:
    """Say what must happen to one worker, and when; it depends on no other worker."""
    name, draining = worker.worker, view.draining
    match worker.state:
        case _S.SPAWNED | _S.WARMING if draining:
            return view.now, Kill(name, "drain")
        case _S.SPAWNED | _S.WARMING:
            return worker.since + WARM_LIMIT_S, Kill(name, "timeout")
        case _S.READY if draining:
            return view.now, Retire(name, WorkerEvent.RECYCLE, "drain")
        case _S.RESERVED:
            until = min(worker.deadline, math.inf if view.drain_until is None else view.drain_until)
            return until, Retire(name, WorkerEvent.EXPIRE, "expired")
        case _S.IN_CALL if worker.leaving_at is not None:
            return worker.leaving_at + EXIT_LIMIT_S, Kill(name, "did not exit")
        case _S.IN_CALL if view.drain_until is not None:
            return view.drain_until, Retire(name, None, "drained")
        case _S.RETIRED | _S.FAILED:
            return worker.since + EXIT_LIMIT_S, Kill(name, "did not exit")
        case _:
            return math.inf, None


def _refill(workers: Sequence[Seen], alive: int, view: View) -> Plan:
    parked = [worker for worker in workers if worker.state is _S.READY]
    coming = sum(worker.state in _COMING for worker in workers)
    overdue = [worker for worker in parked if worker.recycle_at <= view.now]
    wakes = [worker.recycle_at for worker in parked if worker.recycle_at > view.now]
    actions: list[Action] = []
    failing = view.backoff.failures > 0

    # One more than usual while somebody is to be recycled, so that the old one leaves only when the new one is ready.
    wanted = view.ready + bool(overdue) if view.drain_until is None else 0
    missing = wanted + view.waiting - len(parked) - coming
    held = [worker.refill_at for worker in workers if worker.state in _GIVEN and worker.refill_at > view.now]
    at_once = 1 if failing else WARMING_AT_ONCE
    count = min(max(missing - len(held), view.waiting - coming), view.most - alive, at_once - coming)
    if count > 0 and view.can_fork:
        if view.now >= view.backoff.until:
            actions += [Spawn()] * count
        else:
            wakes.append(view.backoff.until)
    if missing > 0 and held:
        wakes.append(min(held))

    # A pool that is full has no room for a replacement: one leaves first, as long as another is there to answer.
    full = alive >= view.most and not coming and len(parked) > 1 and not failing
    if overdue and view.drain_until is None and (len(parked) > view.ready or full):
        oldest = min(overdue, key=lambda worker: worker.recycle_at)
        actions.append(Retire(oldest.worker, WorkerEvent.RECYCLE, "recycle"))
    return Plan(tuple(actions), min(wakes, default=math.inf))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A ready worker that could be given to a call."""

    worker: WorkerId
    parked_at: float
    beat_at: float
    outdated: bool = False


def choose(candidates: Iterable[Candidate], now: float) -> WorkerId | None:
    """Choose the worker for a call: the one that parked first, of the newest generation; None when there is none.

    First parked is next to be recycled: giving it away saves that fork, and a worker that stayed warm longest is no colder
    than a new one, since READY is checked at every beat. One that has not beaten for a while may hang: it comes last.
    """
    best = min(
        candidates, key=lambda each: (now - each.beat_at > BEAT_LIMIT_S, each.outdated, each.parked_at), default=None
    )
    return None if best is None else best.worker


def recycle_at(parked_at: float, after_s: float, jitter: float) -> float:
    """Say when a worker parked at `parked_at` has been parked long enough; `jitter` is in [0, 1)."""
    return parked_at + after_s * (1 + RECYCLE_JITTER * (2 * jitter - 1))
