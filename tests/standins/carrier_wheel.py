"""One clock for all calls of a carrier: a turn every 5 ms, each call's frame every fourth turn.

A timer per call would wake the process five thousand times a second for a hundred calls, and measured 2.2 ms of CPU per
call and second; the system measured shares these cores. Deadlines are absolute: turns missed are made up for at once.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tests.standins.carrier_messages import FRAME_S

if TYPE_CHECKING:
    from collections.abc import Callable

SLOTS = 4
TURN_S = FRAME_S / SLOTS
EARLY_S = 0.0005  # a timer may fire this early: uvloop counts milliseconds


class Wheel:
    """Calls each member every 20 ms with the time the turn was due and the time it is (`time.monotonic()`)."""

    def __init__(self) -> None:
        self._slots: list[dict[object, Callable[[float, float], None]]] = [{} for _ in range(SLOTS)]
        self._turn = 0  # the next one
        self._due = 0.0  # when
        self._timer: asyncio.TimerHandle | None = None

    def join(self, member: object, tick: Callable[[float, float], None]) -> None:
        """Begin to call `tick`, for the first time 15 to 20 ms from now."""
        if not any(self._slots):
            self._due = time.monotonic() + TURN_S
            self._arm()
        self._slots[(self._turn - 1) % SLOTS][member] = tick

    def leave(self, member: object) -> None:
        """End it; harmless for who is no member. The wheel stands still without members."""
        for slot in self._slots:
            slot.pop(member, None)
        if self._timer is not None and not any(self._slots):
            self._timer.cancel()
            self._timer = None

    def _run(self) -> None:
        self._timer = None
        now = time.monotonic()
        while self._due <= now + EARLY_S:
            due, self._due = self._due, self._due + TURN_S
            slot = self._slots[self._turn % SLOTS]
            self._turn += 1
            for tick in tuple(slot.values()):
                tick(due, now)
        if any(self._slots) and self._timer is None:
            self._arm()

    def _arm(self) -> None:
        delay = max(0.0, self._due - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._run)
