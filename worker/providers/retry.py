"""When a provider that fails in a call is tried again. Pure: moments and jitter are given, in seconds of CLOCK_MONOTONIC.

The rules: the first retry comes at once, the next ones after 0.25 s doubling to 2 s, with jitter. Nobody gives up by count:
how long a caller waits is decided by `worker.call.trouble`, on the caller's side, for all providers alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shared.metrics import Setback
from shared.workers import Resource

FIRST_PAUSE_S: Final = 0.25
MOST_PAUSE_S: Final = 2.0
JITTER: Final = 0.25
"""Calls that lost the same provider must not come back to it in step."""

SILENT_S: Final = 4.0
"""How long a provider may say nothing to what it accepted: several times the slowest honest answer (a first token at its
p99 takes 2 s), and the caller has patience for another try."""

SILENT_AGAIN_S: Final = 10.0
"""The same for every try after the first: a provider that is slow, and not hung, must be able to answer at all."""

STEADY_S: Final = 2.0
"""A provider that failed again within this time is still the one that flaps: the pauses go on where they were."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who is told about a provider: of each retry, and of each change of `Trouble`."""

    retried: Callable[["Trouble", Setback], None] = lambda _trouble, _cause: None
    changed: Callable[["Trouble"], None] = lambda _trouble: None


class Trouble:
    """How one provider does in one call.

    Attributes:
        since: when it began to fail; None while it works.
        wanted_since: since when something waits for it (a turn to be understood, an answer, a sentence); None: nothing.
        refused: why it will never work (a wrong key, an unknown model); empty otherwise.
        tries: retries of the trouble under way, or of the last one.
    """

    def __init__(self, provider: Resource, watcher: Watcher | None = None) -> None:
        self.provider = provider
        self.since: float | None = None
        self.wanted_since: float | None = None
        self.refused = ""
        self.tries = 0
        self._watcher = watcher or Watcher()
        self._ended_at = float("-inf")

    @property
    def patience_s(self) -> float:
        """How long the provider may be silent to what is asked of it now."""
        return SILENT_S if self.since is None else SILENT_AGAIN_S

    def setback(self, cause: Setback, now: float, jitter: float, since: float | None = None) -> float:
        """Note that it failed and is tried again; give the pause before that. `jitter` is in [0, 1).

        `since` is when it was asked, for a failure that consists in waiting.
        """
        if self.since is None:
            self.since = now if since is None else since
            if now - self._ended_at > STEADY_S:
                self.tries = 0
        pause = pause_before(self.tries, jitter)
        self.tries += 1
        self._watcher.retried(self, cause)
        self._watcher.changed(self)
        return pause

    def refuse(self, why: str, now: float) -> None:
        """Note that it refused for good: it is not tried again."""
        if self.since is None:
            self.since = now
        self.refused = why
        self._watcher.changed(self)

    def works(self, now: float) -> None:
        """Note that it does what is asked of it."""
        if self.since is not None and not self.refused:
            self.since, self._ended_at = None, now
            self._watcher.changed(self)

    def wanted(self, now: float) -> None:
        """Note that something waits for it."""
        if self.wanted_since is None:
            self.wanted_since = now
            self._watcher.changed(self)

    def idle(self) -> None:
        """Note that nothing waits for it any more."""
        if self.wanted_since is not None:
            self.wanted_since = None
            self._watcher.changed(self)


def pause_before(tries: int, jitter: float) -> float:
    """Give the pause before the retry after `tries` others; `jitter` is in [0, 1)."""
    if not tries:
        return 0.0
    pause = min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(tries - 1, 10))
    return pause * (1 + JITTER * (2 * jitter - 1))
