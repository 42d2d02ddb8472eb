"""Whether a worker that does not beat is stuck: values in, a verdict out. Pure: no clock, no process, no socket.

A worker is judged by its *own time*: how long it has not beaten, without the time its threads waited for a CPU. A starved
worker has hardly any, however long it is silent; one that is stopped, blocked in a call or caught in a loop has all of it.
The rules:

- silence counts from the last beat, or from the moment the pool itself was last found late: a pool that was stopped or
  starved, or a machine that was paused, has not heard what was said;
- in a call 2 s of its own time are too many, when another worker is there to take the call over, and 10 s when none is:
  it may be in the very place another could have; a parked one has 5 s;
- before the end comes the question: the accused is asked for its stack, and has the answer's time to beat after all;
- one worker is ended at a time.

A worker under a debugger (state `t`) is judged like any other: its caller hears the same silence.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

CALL_LIMIT_S: Final = 2.0
"""Own time without a beat of a worker in a call; four beats."""

PARKED_LIMIT_S: Final = 5.0
"""The same for a parked one: nobody hears it, and it is chosen last meanwhile."""

ALONE_LIMIT_S: Final = 10.0
"""The same for one in a call that nobody could take over. It notices no hang-up: left alone it would stay for ever."""

SUSPICION_S: Final = 0.75
"""After this silence the system is first asked about a worker: a healthy one has beaten, so nothing is read of it."""

LOOK_S: Final = 0.2
"""How often a suspect is looked at; also how closely the pool watches its own lateness meanwhile."""

LATE_S: Final = 0.5
"""A look that comes later than this proves that the pool was not listening: it may have missed a beat."""

ANSWER_S: Final = 0.1
"""Own time an accused worker has to write its stack: 20 times what it takes, and many turns of the loop to hear a beat."""

KILL_WAIT_S: Final = 5.0
"""How long the end of one worker keeps others alive: one that hangs in the kernel dies when that lets it go."""

_GONE: Final = frozenset({"Z", "X", "x"})
_RUNNABLE: Final = "R"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the system says of a process at one moment.

    Attributes:
        at: CLOCK_MONOTONIC seconds.
        state: the state letter of its main thread, as in `/proc/<pid>/stat`.
        on_cpu: seconds each thread has run, by thread id.
        waited: seconds each thread has waited for a CPU, by thread id; a wait counts when it is over.
    """

    at: float
    state: str
    on_cpu: Mapping[int, float] = field(default_factory=dict)
    waited: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """A worker that should beat.

    Attributes:
        in_call: a caller hears its silence.
        since: when its silence began: its last beat, or when the pool was last late; CLOCK_MONOTONIC seconds, as all moments.
        first: what the system said when it became a suspect; None before.
        last: what it says now; None when it was not asked, or the process is gone.
        accused: what the system said just before it was asked for its stack; None when it was not.
    """

    in_call: bool
    since: float
    first: Reading | None = None
    last: Reading | None = None
    accused: Reading | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """What else the verdict depends on.

    Attributes:
        ready: how many other workers beat and can take a call over.
        ending: a worker was killed and its end has not been seen yet.
    """

    now: float
    ready: int
    ending: bool = False


class Verdict(StrEnum):
    """What to do about a worker."""

    TRUST = "trust"  # is when it has beaten lately
    SUSPECT = "suspect"  # is when the system should be asked about it, now and at each look
    ACCUSE = "accuse"  # is when it should be asked for its stack
    KILL = "kill"  # is when it should be ended


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and when to look again at the latest."""

    verdict: Verdict
    look_at: float


def judge(case: Case, scene: Scene) -> Judgement:
    """Say whether a worker is stuck."""
    if scene.now < case.since + SUSPICION_S:
        return Judgement(Verdict.TRUST, case.since + SUSPICION_S)
    limit = _limit_s(case, scene)
    soon = scene.now + LOOK_S
    waiting = Judgement(Verdict.SUSPECT, soon)
    if case.first is None or case.last is None:
        return Judgement(Verdict.SUSPECT, _within(case.since + limit, scene.now, soon))
    own = own_s(case.since, case.first, case.last)
    if own < limit:
        return Judgement(Verdict.SUSPECT, _within(scene.now + limit - own, scene.now, soon))
    if case.last.state in _GONE or scene.ending:
        return waiting
    if case.accused is None:
        return Judgement(Verdict.ACCUSE, scene.now + ANSWER_S)
    missing = ANSWER_S - own_s(case.accused.at, case.accused, case.last)
    if missing > 0:
        return Judgement(Verdict.SUSPECT, _within(scene.now + missing, scene.now, soon))
    return Judgement(Verdict.KILL, soon)


def own_s(since: float, first: Reading, last: Reading) -> float:
    """Say how much time a silent worker had to itself: it ran, or slept by its own will.

    What was before the first reading counts as its own, since nobody looked; that alone is never enough. Of a worker that
    could run at this moment only what it ran counts: the wait it is in stands in no counter yet. All threads count as one,
    because the main thread may sleep until another, which waits for a CPU, lets go of the interpreter.
    """
    window = max(0.0, last.at - first.at)
    ran = _growth(first.on_cpu, last.on_cpu)
    own = min(ran, window) if last.state == _RUNNABLE else window - _growth(first.waited, last.waited)
    return max(0.0, first.at - since) + max(0.0, own)


def _limit_s(case: Case, scene: Scene) -> float:
    """Say how much own time without a beat is too much."""
    if not case.in_call:
        return PARKED_LIMIT_S
    return CALL_LIMIT_S if scene.ready else ALONE_LIMIT_S


def _growth(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Add up what grew; a thread that is new began at nothing, one that has ended counts no more."""
    return math.fsum(max(0.0, value - before.get(thread, 0.0)) for thread, value in after.items())


def _within(moment: float, now: float, most: float) -> float:
    """Choose the moment to look again, at least a hundredth of a second away, so that rounding cannot spin the loop."""
    return max(now + 0.01, min(moment, most))
