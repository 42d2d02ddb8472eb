"""What a prefetcher's child tells its parent: one line of JSON for each thing."""

from typing import Final

import msgspec

from shared.letters import State
from shared.prefetch import Outcome


class Observation(msgspec.Struct, frozen=True, tag="lookup"):
    """The outcome of a lookup and its seconds from webhook to publication."""

    outcome: Outcome
    seconds: float


class DeadLetters(msgspec.Struct, frozen=True, tag="dead"):
    """How many jobs after calls were given up by now."""

    count: int


class MessageTried(msgspec.Struct, frozen=True, tag="message"):
    """What came of an attempt to send a message to a customer."""

    outcome: State


class Listening(msgspec.Struct, frozen=True, tag="listening"):
    """How many threads of this child wait for jobs, or run one; none while Redis is away."""

    count: int


Report = Observation | DeadLetters | MessageTried | Listening

_decoder: Final[msgspec.json.Decoder[Report]] = msgspec.json.Decoder(Report)


def line(observation: Report) -> bytes:
    """Write one line."""
    return msgspec.json.encode(observation) + b"\n"


def read(text: bytes) -> Report | None:
    """Read one line; None for one that was cut by the death of its writer."""
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError:
        return None
