"""The router's decisions: what to answer at the webhook and at the end of a stream. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

from router.cutoff import CutOff, Over, Unclear, Verdict
from router.twilio import OVER_STATUSES
from shared.agents_rules import E164
from shared.calls import CallSid, EndReason
from shared.messages import NoWorker, Reserved


class Answer(StrEnum):
    """What a caller is given when the stream has ended."""

    APOLOGY = "apology"  # is when nobody can talk to it, and it should hear so
    HANG_UP = "hang_up"  # is when everything was said
    RECONNECT = "reconnect"  # is when the conversation was cut off and can go on
    TRANSFER = "transfer"  # is when it asked for a person, and there is one to dial


OUR_FAULT: Final = frozenset({EndReason.WORKER_LOST, EndReason.POISONED, EndReason.PROVIDER_LOST})
"""Ends in mid-sentence that the caller did not choose: not without a word."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What identifies one announcement of a call.

    `token` is Twilio's `I-Twilio-Idempotency-Token`, the same in all tries of one request; empty when there was none.
    `turn` counts the questions of a call in the hold line.
    """

    call_sid: CallSid
    attempt: int
    token: str
    turn: int = 0

    def repeats(self, other: "Announcement") -> bool:
        """Say whether two announcements are one, sent twice.

        Another token is another request, even for the same call; without tokens call, attempt and turn decide.
        """
        same_token = not self.token or not other.token or self.token == other.token
        return same_token and (self.call_sid, self.attempt, self.turn) == (other.call_sid, other.attempt, other.turn)


NO_POOL: Final = "no_pool"
"""Why a call was turned away when no pool answered."""


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """A call nobody can take now, which goes to the hold line; `why` is a word for the log."""

    why: str


def at_webhook(answer: Reserved | NoWorker | None) -> Reserved | TurnedAway:
    """Decide about a call from what the pools said, None when none of them answered."""
    match answer:
        case Reserved():
            return answer
        case NoWorker(why=why):
            return TurnedAway(why)
        case None:
            return TurnedAway(NO_POOL)


def is_over(call_status: str) -> bool:
    """Say whether `CallStatus` means that the caller is gone."""
    return call_status in OVER_STATUSES


def at_end(verdict: Verdict) -> Answer:
    """Decide what a caller still on the line gets when the stream is over."""
    match verdict:
        case Over(EndReason.TRANSFERRED, dial):
            return Answer.TRANSFER if E164.fullmatch(dial) else Answer.APOLOGY
        case Over(reason):
            return Answer.APOLOGY if reason in OUR_FAULT else Answer.HANG_UP
        case CutOff():
            return Answer.RECONNECT
        case Unclear():
            return Answer.APOLOGY
    assert_never(verdict)
