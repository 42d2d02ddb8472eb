"""Whether a call whose stream is over has ended, or was cut off because its container or host died. Pure.

To take a cut-off for an end costs an apology. To take an end for a cut-off brings a caller who said goodbye back into the
conversation, so that is never done: every doubt is an apology. What each rule guards against:

- An end is told to the routers nearby and stored before the stream is closed, by the pool or, when that is gone, stored by
  the call's worker. Only Redis being away can prevent that. So a cut-off needs Redis to answer, and everything to agree.
- That a promise ran out is no end: a pool that was too slow to be given the call stores it, whoever has the call.
- A journal's copy is deleted at every end, and gone after Redis was restarted empty: without it nothing proves that the call
  had begun and was not ended.
- A living pool knows better, however slow it is: as long as it may live, nothing is a cut-off. Its lease says so from
  afar; nearby its socket does.
- Redis may have been away until now, or have failed over to old data, and whoever knows the end may be about to store it,
  or a pool its lease. So a second look decides, after the longest pause between two of their tries and the life of a
  lease. One look is enough where a pool's socket refuses and its lease still stands: then Redis was there a moment ago.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shared.calls import CallState, EndReason
from shared.traces import Traces

MOST_ATTEMPTS: Final = 2
"""How often a call is reconnected. What cut it off twice more is not the death of one machine."""

SETTLE_S: Final = 4.0
"""A lease lives 3 s. After an outage of Redis a pool renews its own, and stores ends, within 3 s as well: two command
timeouts and its pause; a worker without pool within 4 s."""


class Whereabouts(StrEnum):
    """Where the pool of a ticket is, as its router sees it."""

    HERE = "here"  # is when it is connected, in the life that took the call
    GONE = "gone"  # is when it was connected and its socket refuses now, or is another life's
    ELSEWHERE = "elsewhere"  # is when it is on another machine, or was before this router started


@dataclass(frozen=True, slots=True)
class Said:
    """What pools say about an attempt of a call.

    `state` and `reason` are of the pool that knows the attempt, None when none does; `all_answered` is false when one did
    not in time, which may be that pool.
    """

    state: CallState | None = None
    reason: EndReason | None = None
    all_answered: bool = True
    dial: str = ""


class Doubt(StrEnum):
    """Why nobody knows whether a call was cut off; a word for the log."""

    POOL_ANSWERS = "pool_answers"  # is when a pool has the call and does not say that it ended
    POOL_SILENT = "pool_silent"  # is when a pool that may have it did not answer
    POOL_HERE = "pool_here"  # is when its pool is connected and does not know it
    LEASE_STANDS = "lease_stands"  # is when its pool lives elsewhere
    REDIS_SILENT = "redis_silent"  # is when Redis did not answer in time
    END_UNREADABLE = "end_unreadable"  # is when it ended for a reason that this version does not know
    NO_JOURNAL = "no_journal"  # is when nothing proves that the call had begun and not ended
    OFTEN = "often"  # is when it was cut off and was reconnected as often as may be


@dataclass(frozen=True, slots=True)
class Over:
    """The call ended for a reason; `dial` is whom a transferred caller is to be connected to, empty for nobody."""

    reason: EndReason
    dial: str = ""


@dataclass(frozen=True, slots=True)
class CutOff:
    """The call was cut off: nobody ended it, and its pool is gone."""


@dataclass(frozen=True, slots=True)
class Unclear:
    """Nobody can tell, or nothing more may be done."""

    why: Doubt


@dataclass(frozen=True, slots=True)
class LookAgain:
    """It may have been cut off; ask and look again after so many seconds."""

    after_s: float


Verdict = Over | CutOff | Unclear
Step = Verdict | LookAgain


def judge(attempt: int, whereabouts: Whereabouts, said: Said, looks: Sequence[Traces | None]) -> Step:
    """Judge what is known now; `looks` are all looks into Redis so far, None where it did not answer.

    There must be one, unless a pool knows the reason.
    """
    if said.reason is not None:
        return Over(said.reason, said.dial)
    last = looks[-1]
    if last is None:
        return Unclear(Doubt.REDIS_SILENT)
    if last.ended and last.reason is not EndReason.NEVER_CONNECTED:
        return Unclear(Doubt.END_UNREADABLE) if last.reason is None else Over(last.reason, last.dial)
    doubt = _doubt(whereabouts, said) or _absence(attempt, last)
    if doubt is not None:
        return Unclear(doubt)
    return _first(whereabouts, last) if len(looks) == 1 else _second(last)


def _doubt(whereabouts: Whereabouts, said: Said) -> Doubt | None:
    """Give what speaks for a living pool that has the call."""
    if said.state is not None:
        return Doubt.POOL_ANSWERS
    if not said.all_answered:
        return Doubt.POOL_SILENT
    return Doubt.POOL_HERE if whereabouts is Whereabouts.HERE else None


def _absence(attempt: int, last: Traces) -> Doubt | None:
    """Give what a reconnection lacks."""
    if not last.journal:
        return Doubt.NO_JOURNAL
    return Doubt.OFTEN if attempt >= MOST_ATTEMPTS else None


def _first(whereabouts: Whereabouts, look: Traces) -> CutOff | LookAgain:
    return CutOff() if whereabouts is Whereabouts.GONE and look.lease_s else LookAgain(SETTLE_S)


def _second(look: Traces) -> CutOff | Unclear:
    return Unclear(Doubt.LEASE_STANDS) if look.lease_s else CutOff()
