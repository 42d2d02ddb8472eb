"""Why workers do not become ready: the last problem with each resource, until a worker becomes ready again.

And what is wrong with tools, or with a change that was refused, which stands until somebody mends it.
"""

import os
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shared import logs
from shared.messages import Problem
from worker.pool.plan import Backoff

TAIL_LINES: Final = 20
"""Of a traceback: enough to see where and what, little enough to read in an answer."""

MAX_DETAIL: Final = 500


@dataclass(frozen=True, slots=True)
class Trouble:
    """A problem, with the end of the traceback of the worker that had it."""

    resource: str
    detail: str
    traceback: str

    @property
    def problem(self) -> Problem:
        """What routers are told of it."""
        return Problem(resource=self.resource, detail=self.detail)


class Troubles:
    """Present problems and the back-off they cause."""

    def __init__(self) -> None:
        self.backoff = Backoff()
        self._by_resource: dict[str, Trouble] = {}
        self._standing: dict[str, tuple[Trouble, ...]] = {}
        self._jitter = random.Random(os.urandom(8))  # noqa: S311 - spreads work, hides nothing

    def note(
        self, resource: str, detail: str, traceback: str, failed_at: float | None, *, limited: bool = False
    ) -> None:
        """Note a problem; one that made a warm-up fail (`failed_at`, CLOCK_MONOTONIC) delays the next one.

        `limited`: a provider's plan is used up, which delays it longer.
        """
        tail = "\n".join(traceback.strip().splitlines()[-TAIL_LINES:])
        # `/readyz` is open, and what a provider says in an error may repeat the key it refuses.
        self._by_resource[resource] = Trouble(resource, logs.mask(detail)[:MAX_DETAIL], logs.mask(tail))
        if failed_at is not None:
            self.backoff = self.backoff.failed(failed_at, self._jitter.random(), limited=limited)

    def over(self) -> None:
        """Forget all of them: a worker became ready."""
        self._by_resource.clear()
        self.backoff = Backoff()

    def present(self) -> tuple[Trouble, ...]:
        """List the present problems."""
        return tuple(self._by_resource.values())

    def stand(self, about: str, problems: Iterable[Problem]) -> None:
        """Note what is wrong and keeps no worker from becoming ready, in place of what was noted about the same thing."""
        self._standing[about] = tuple(_standing(each) for each in problems)

    def unheard(self, about: str, problems: Iterable[Problem]) -> list[Problem]:
        """Choose the problems that do not stand about a thing yet."""
        return [each for each in problems if _standing(each) not in self._standing.get(about, ())]

    def standing(self) -> tuple[Trouble, ...]:
        """List what was noted so: it stays until something else is noted about the same thing."""
        return tuple(each for troubles in self._standing.values() for each in troubles)


def _standing(problem: Problem) -> Trouble:
    return Trouble(problem.resource, logs.mask(problem.detail)[:MAX_DETAIL], "")
