"""Messages to customers: the names that those who ask for one, send it and hear of its fate agree on.

Tool host → RQ queue `messages` → prefetchers → Twilio; and Twilio → router → RQ queue `message-status` → prefetchers →
database. They share no code but this; RQ itself is imported by neither this module nor anything that imports it.
"""

import hashlib
from typing import Final, Literal

import msgspec

SEND_JOB: Final = "worker.jobs.whatsapp.send"
STATUS_JOB: Final = "worker.jobs.message_status.status"
"""What is queued, by name: the tool host need not load Twilio's client, the router must not import the worker."""

QUEUE: Final = "messages"
STATUS_QUEUE: Final = "message-status"
"""Two, so that a message a caller waits for is not sent after reports about others, nor after records of calls."""

RETRY_S: Final = (1, 2, 5, 15, 60, *[300] * 100)
"""When a job that could not be finished is run again: a message within the call, and what is to be stored of it for eight
hours of an absent database."""

TWILIO_TIMEOUT_S: Final = 5.0
"""For connecting and for an answer, each: Twilio answers in about 0.2 s. Its client alone waits for ever."""

JOB_TIMEOUT_S: Final = 60
"""RQ's last resort against a job that hangs; each of its steps has a timeout of its own."""

JOB_KEPT_S: Final = 0
"""A job that is done is gone, with the number and the text in it: that it was done is noted elsewhere."""

DEAD_KEPT_S: Final = 86_400
"""How long a job stays to be looked at that was given up."""

MAX_KEY_CHARS: Final = 512
"""Of a key in the address Twilio reports to; a longer one is left out, and its reports go by Twilio's own name alone."""

OUTSIDE_WINDOW: Final = "63016"
"""Free text more than 24 h after the customer's last message; may come with the answer or later. Source: Twilio error 63016."""

DELIVERED: Final = frozenset({"delivered", "read"})
"""Twilio's words for a message that has arrived; `sent` only says that WhatsApp has it. Source: Message resource (Status)."""

State = Literal["begun", "waiting", "sent", "refused", "unknown"]


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """How far a message has come.

    `state`: `begun` is when its sender has it, `waiting` when it is tried again, not before `not_before` (unix seconds);
    the others are final. `sent` is what Twilio has taken: `refused` may follow, for WhatsApp takes what it does not deliver.
    `status` is Twilio's word where there is one, `words` a sentence for the model where it was not sent, `logged` whether
    the database has it.
    """

    state: State
    status: str = ""
    words: str = ""
    provider_sid: str = ""
    error_code: str = ""
    not_before: float = 0.0
    logged: bool = False

    @property
    def final(self) -> bool:
        """Whether nothing will be tried any more."""
        return self.state not in {"begun", "waiting"}

    @property
    def delivered(self) -> bool:
        """Whether it has arrived."""
        return self.state == "sent" and self.status in DELIVERED

    @property
    def settled(self) -> bool:
        """Whether nobody needs to wait for more about it."""
        return self.delivered or self.state == "refused"


def slot(key: str) -> str:
    """Give a name for a message that may stand in a job id and a Redis key: its own holds what a model wrote.

    Source: RQ 3 job ids may hold letters, digits, `_` and `-` only.
    """
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()[:40]
