"""What a seed means: which calls there are, and what happens to each of them and when. Pure; the same for ever."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.chaos.callers import BEFORE_THE_TALK, Fault, Moment
from tests.chaos.faults import ON_PARTS, ON_WORKERS

CALLS = (2, 3)
MOST_FAULTS = 2
"""Of one call: a call that loses more workers in quick succession counts as poisonous, and is ended for it."""

LATER = sorted(set(Moment) - BEFORE_THE_TALK)
ON_THE_LINE = (Moment.LISTENING, Moment.HEARING, Moment.THINKING, Moment.SPEAKING)
"""When parts of the installation are hit: every call is up by then, so that nobody calls a router that is not there."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Several calls at once, each with its faults in their order; at the end of some the pool is killed under all of them."""

    seed: int
    calls: tuple[tuple[Fault, ...], ...]
    pool_killed: bool

    def __str__(self) -> str:
        calls = "; ".join(", ".join(str(fault) for fault in faults) or "nothing" for faults in self.calls)
        return f"seed {self.seed}: {calls}{'; then the pool is killed' if self.pool_killed else ''}"


def scene(seed: int) -> Scene:
    """Draw a scene."""
    chance = random.Random(seed)
    calls = tuple(
        tuple(_fault(chance, first=number == 0) for number in range(chance.randint(1, MOST_FAULTS)))
        for _ in range(chance.randint(*CALLS))
    )
    return Scene(seed, calls, pool_killed=chance.random() < 0.25)


def _fault(chance: random.Random, *, first: bool) -> Fault:
    if chance.random() < 0.5:
        name = chance.choice(sorted(ON_PARTS))
        return Fault(name, chance.choice(ON_THE_LINE), ON_PARTS[name], chance.random())
    name = chance.choices(sorted(ON_WORKERS), weights=[1, 4])[0]  # SIGSTOP takes two seconds to be found out
    moments = sorted(Moment) if first else LATER
    return Fault(name, chance.choice(moments), ON_WORKERS[name], chance.random())
