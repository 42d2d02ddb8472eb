"""What a prefetcher's child tells its parent: one line of JSON for each lookup."""

from typing import Final

import msgspec

from shared.prefetch import Outcome


class Observation(msgspec.Struct, frozen=True):
    """The outcome of a lookup and its seconds from webhook to publication."""

    outcome: Outcome
    seconds: float


_decoder: Final = msgspec.json.Decoder(Observation)


def line(observation: Observation) -> bytes:
    """Write one line."""
    return msgspec.json.encode(observation) + b"\n"


def read(text: bytes) -> Observation | None:
    """Read one line; None for one that was cut by the death of its writer."""
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError:
        return None
