"""What a caller in the hold line is given: which words, for how long, and when it has waited enough. Pure.

A caller carries its place in the URL it comes back to, which Twilio signs: any router can go on where another one
stopped, and nothing is remembered for a caller who hangs up.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Final, Literal, Self
from urllib.parse import urlencode

from router.twilio import Form, MalformedRequest
from shared.calls import TraceId

PAUSE_S: Final = 3
"""Between two questions of a caller: 500 of them are 170 questions a second."""

NEAR_PAUSE_S: Final = 1
NEAR: Final = 4
"""The first few ask more often, since a worker waits for them until they do."""

SILENT_S: Final = 3.0
"""How long a caller who only waits for a worker that is warming hears nothing: ten times what that takes."""

REMIND_S: Final = 20.0
"""Between two times the hold clip is played to a caller."""

SAYING_S: Final = 2.5
"""How long it takes to say a place."""

GRACE_S: Final = 4.0
"""For Twilio to come back after the last verb. Whoever comes later has left the line, and gets its old place again."""

_TURN: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_MOMENT: Final = re.compile(r"[0-9]{1,11}(\.[0-9]{1,3})?", re.ASCII)
_TRACE: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """A caller's place, as it stands in the URL of its next question.

    Attributes:
        since: when it arrived, unix seconds; `played` likewise, when the hold clip was last begun (0: never).
        turn: the number of the question; 0 is the webhook that announced the call.
        told: the number in the line it was last told, 0 for none.
    """

    trace_id: TraceId
    since: float
    turn: int = 0
    told: int = 0
    played: float = 0.0

    @classmethod
    def read(cls, query: Form, trace_id: TraceId, now: float) -> Self:
        """Read the place in a URL of ours; a URL without one is where a new caller arrives, with the trace given.

        Raises:
            MalformedRequest: it is not what `query` writes.
        """
        if "since" not in query:
            return cls(trace_id, now)
        said = {name: query.first(name) for name in ("trace", "since", "turn", "told", "played")}
        forms = (_TRACE, _MOMENT, _TURN, _TURN, _MOMENT)
        if not all(form.fullmatch(value) for form, value in zip(forms, said.values(), strict=True)):
            raise MalformedRequest("place")
        return cls(
            TraceId(said["trace"]), float(said["since"]), int(said["turn"]), int(said["told"]), float(said["played"])
        )

    def query(self, attempt: int) -> str:
        """Write the place as the query of a URL, with the attempt at the call."""
        return urlencode({
            "attempt": attempt, "trace": self.trace_id, "since": f"{self.since:.3f}", "turn": self.turn,
            "told": self.told, "played": f"{self.played:.3f}",
        })  # fmt: skip

    def waited(self, now: float) -> float:
        """Say for how many seconds it has waited: 0 for a new caller, and when the clock was set back."""
        return max(0.0, now - self.since) if self.turn else 0.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator decided: `HOLD_MAX`, `OVERFLOW_NUMBER`, and the length of the hold clip (0: none)."""

    hold_max_s: float
    overflow_number: str
    clip_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a caller stands: how many are before it, and whether all routers agree on that."""

    before: int
    shared: bool


@dataclass(frozen=True, slots=True)
class Workers:
    """What the pools have: ready workers, and those that will be in a moment."""

    ready: int
    warming: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep the caller: play the clip or not, tell it its number or not (0), be silent, and come back with `place`."""

    clip: bool
    tell: int
    pause_s: int
    place: Place


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It has waited enough, or the line is too long."""

    outcome: Literal["overflow", "apology"]


def patience_s(place: Place, rules: Rules, now: float) -> float:
    """Say within how many seconds a caller asks again, whatever it will be given now."""
    near = 0 < place.told <= NEAR
    clip = max(rules.clip_s, SAYING_S) if _clip_due(place, now) else 0.0
    return clip + SAYING_S + (NEAR_PAUSE_S if near else PAUSE_S) + GRACE_S


def at_hold(place: Place, spot: Spot | None, workers: Workers, rules: Rules, now: float) -> Hold | GiveUp:
    """Decide what a caller gets for whom there is no worker; `spot` is None when there is no room in the line."""
    waited = place.waited(now)
    if spot is None or waited >= rules.hold_max_s:
        return GiveUp("overflow" if rules.overflow_number else "apology")
    left = max(1, math.ceil(rules.hold_max_s - waited))
    following = replace(place, turn=place.turn + 1)
    soon = spot.before < workers.ready + workers.warming
    if soon and waited < SILENT_S and not place.played:
        return Hold(clip=False, tell=0, pause_s=NEAR_PAUSE_S, place=following)
    clip = _clip_due(place, now)
    number = spot.before + 1
    tell = number if spot.shared and (not place.told or number < place.told) else 0
    pause = NEAR_PAUSE_S if soon or spot.before < NEAR else PAUSE_S
    told = replace(following, told=tell or place.told, played=now if clip else place.played)
    return Hold(clip, tell, min(pause, left), told)


def after_dial(status: str) -> Literal["hang_up", "apology"]:
    """Decide what follows an overflow call by its `DialCallStatus`: an apology unless somebody was talked to.

    Source: Twilio docs, TwiML `<Dial>` (action: DialCallStatus).
    """
    return "hang_up" if status in {"completed", "answered"} else "apology"


def _clip_due(place: Place, now: float) -> bool:
    return now - place.played >= REMIND_S
