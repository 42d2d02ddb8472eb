"""Providers in trouble, seen from the caller: when to bridge the silence, and when to give up.

One rule for all providers: what counts is how long something the caller waits for has been waiting for a provider that does
not work. After 2 s there are bridging words, once per trouble; after 10 s the call ends, and the carrier plays an apology.
While nothing waits, a provider may be away as long as it likes.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shared.logs import get
from shared.metrics import Setback
from shared.workers import Resource
from worker.providers.retry import Trouble, Watcher

log = get(__name__)

BRIDGE_S: Final = 2.0
"""A longer silence than this makes people say hello; a provider that only dropped its connection is back in 0.5 s."""

GIVE_UP_S: Final = 10.0
"""Bridging words and four tries fit; callers who hear nothing for longer hang up."""


class Step(StrEnum):
    """What the caller's side does about a trouble."""

    BRIDGE = "bridge"  # is when the caller hears that it takes a moment
    GIVE_UP = "give_up"  # is when the call ends


@dataclass(frozen=True, slots=True)
class Due:
    """A step and its moment (CLOCK_MONOTONIC); `provider` is why."""

    at: float
    step: Step
    provider: Resource


def next_step(troubles: Iterable[Trouble], *, bridged: bool, plays_until: float) -> Due | None:
    """Say what is due next; None while nobody waits in vain. Pure.

    `plays_until` is when the caller has heard everything that was written: nobody is silent before, and no word is cut off.
    """
    steps = []
    for trouble in troubles:
        if trouble.since is None:
            continue
        if trouble.refused:
            steps.append(Due(trouble.since, Step.GIVE_UP, trouble.provider))
        elif trouble.wanted_since is not None:
            since = max(trouble.since, trouble.wanted_since)
            steps.append(Due(max(since + GIVE_UP_S, plays_until), Step.GIVE_UP, trouble.provider))
            if not bridged:
                steps.append(Due(max(since + BRIDGE_S, plays_until), Step.BRIDGE, trouble.provider))
    return min(steps, key=lambda due: due.at, default=None)


@dataclass(frozen=True, slots=True)
class CallSide:
    """What the call offers: `bridge` plays the bridging words, `give_up` ends the call, `retried` counts a retry.

    `plays_until` gives the moment (CLOCK_MONOTONIC) when everything written has been played.
    """

    bridge: Callable[[], None]
    give_up: Callable[[], None]
    retried: Callable[[Resource, Setback], None]
    plays_until: Callable[[], float]


class Troubles:
    """The providers of one call. A parked worker has no call yet: nothing is done about its troubles here."""

    def __init__(self) -> None:
        self._call: CallSide | None = None
        self._troubles: dict[Resource, Trouble] = {}
        self._known: dict[Resource, float] = {}  # troubles that were logged, and since when
        self._bridged = False
        self._over = False
        self._timer: asyncio.TimerHandle | None = None

    def of(self, provider: Resource) -> Trouble:
        """Make the record of a provider, and watch it."""
        trouble = Trouble(provider, Watcher(self._retried, self._changed))
        self.watch(trouble)
        return trouble

    def watch(self, trouble: Trouble) -> None:
        """Watch this record in place of another one of its kind: of several voices the caller hears one."""
        self._troubles[trouble.provider] = trouble
        self._look()

    def attach(self, call: CallSide) -> None:
        """Serve a call from now on."""
        self._call = call
        self._look()

    def _retried(self, trouble: Trouble, cause: Setback) -> None:
        if self._troubles[trouble.provider] is not trouble:
            return
        if self._call is not None:
            self._call.retried(trouble.provider, cause)
        if trouble.provider not in self._known:
            log.warning("provider in trouble", provider=trouble.provider, cause=cause)

    def _changed(self, trouble: Trouble) -> None:
        if self._troubles[trouble.provider] is not trouble:
            return
        if trouble.refused and not self._over:
            log.error("provider refused", provider=trouble.provider, why=trouble.refused)
        if trouble.since is not None:
            self._known.setdefault(trouble.provider, trouble.since)
        elif (since := self._known.pop(trouble.provider, None)) is not None:
            away_s = round(time.monotonic() - since, 3)
            log.info("provider works again", provider=trouble.provider, away_s=away_s, tries=trouble.tries)
        if not self._known:
            self._bridged = False
        self._look()

    def _look(self) -> None:
        """Do what is due, and look again when something will be."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        call = self._call
        if call is None or self._over:
            return
        due = next_step(self._troubles.values(), bridged=self._bridged, plays_until=call.plays_until())
        if due is None:
            return
        if due.at > time.monotonic():
            self._timer = asyncio.get_running_loop().call_at(due.at, self._look)
        else:
            self._do(due, call)

    def _do(self, due: Due, call: CallSide) -> None:
        if due.step is Step.BRIDGE:
            self._bridged = True
            log.info("bridging words", provider=due.provider)
            call.bridge()
            self._look()
        else:
            self._over = True
            log.error("provider lost", provider=due.provider)
            call.give_up()
