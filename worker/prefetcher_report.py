"""What a prefetcher's child tells its parent: one line of JSON for each thing."""

from typing import Final

import msgspec

from shared.prefetch import Outcome


class Observation(msgspec.Struct, frozen=True, tag="lookup"):
    """The outcome of a lookup and its seconds from webhook to publication."""

    outcome: Outcome
    seconds: float


class DeadLetters(msgspec.Struct, frozen=True, tag="dead"):
    """How many jobs after calls were given up by now."""

    count: int


_decoder: Final = msgspec.json.Decoder(Observation | DeadLetters)


def line(observation: Observation | DeadLetters) -> bytes:
    """Write one line."""
    return msgspec.json.encode(observation) + b"\n"


def read(text: bytes) -> Observation | DeadLetters | None:
    """Read one line; None for one that was cut by the death of its writer."""
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError:
        return None
