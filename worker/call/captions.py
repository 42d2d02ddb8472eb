"""Words on their way to the context, kept in step with their sound. Pure.

Pipecat lets the words of an answer pass when they would be heard if nothing had stopped their sound. Where the agent halted
they have to wait as long as it did, or the context would hold words that nobody heard. Moments are seconds of one clock.
"""

import math
from collections import deque
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class Captions(Generic[ItemT]):
    """What waits, in order. `late_s` is by how much the sound is late."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, ItemT]] = deque()
        self._halted_at: float | None = None
        self.late_s = 0.0

    def take(self, item: ItemT, now: float) -> bool:
        """Take an item that would pass now; False: let it pass."""
        if self._halted_at is None and not self.late_s and not self._waiting:
            return False
        self._waiting.append((now, item))
        return True

    def halt(self, now: float) -> None:
        """Let nothing pass from now on."""
        self._halted_at = now

    def proceed(self, now: float, again_s: float) -> None:
        """Go on: the sound is late by the time since `halt`, and by what of it is played again."""
        if self._halted_at is not None:
            self.late_s += now - self._halted_at + again_s
            self._halted_at = None

    def due(self, now: float) -> float:
        """Say in how many seconds the next item passes; infinite when none does."""
        if self._halted_at is not None or not self._waiting:
            return math.inf
        return max(0.0, self._waiting[0][0] + self.late_s - now)

    def next(self) -> ItemT:
        """Take out the item that passes next."""
        return self._waiting.popleft()[1]

    def clear(self) -> None:
        """Drop everything: the caller interrupted."""
        self._waiting.clear()
        self._halted_at = None
        self.late_s = 0.0
