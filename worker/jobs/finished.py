"""The file of a finished recording: Ogg Opus, caller left, agent right. Its comment says what is in it.

So a file that is there tells by itself which of the parts beside it are needed no more, and where on the clock the sound of
others belongs.
"""

import warnings
from pathlib import Path
from typing import Final

import msgspec

from shared.rawrecording import Kind, Piece

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gone in 3.13, where audioop-lts provides it
    import audioop

RATE_HZ: Final = 8000
BLOCK_S: Final = 10


class Contents(msgspec.Struct, frozen=True):
    """What is in a file: when its sound begins (unix seconds), and the numbers of the parts it was made of."""

    origin: float
    parts: tuple[int, ...]


def contents(path: Path) -> Contents:
    """Say what is in a file.

    Raises:
        ValueError: it does not say so.
        RuntimeError: it is no recording.
    """
    import soundfile  # 20 ms and libsndfile that most of this process's life does without

    with soundfile.SoundFile(path) as file:
        return msgspec.json.decode(file.comment, type=Contents)


def read(path: Path) -> list[Piece]:
    """Read a file as if one worker had written it: one piece for each side, of the same length.

    Raises:
        ValueError, RuntimeError: as for `contents`.
    """
    import soundfile  # as above

    origin, sides = contents(path).origin, (bytearray(), bytearray())
    with soundfile.SoundFile(path) as file:
        for block in file.blocks(BLOCK_S * RATE_HZ, dtype="int16", always_2d=True):
            for number, side in enumerate(sides):
                side.extend(audioop.lin2ulaw(block[:, number].tobytes(), 2))
    return [Piece(kind, origin, bytes(side)) for kind, side in zip((Kind.CALLER, Kind.AGENT), sides, strict=True)]


def write(path: Path, held: Contents, caller: bytes, agent: bytes) -> None:
    """Write a file of two sides (mu-law, of the same length)."""
    import numpy as np  # 0.1 s and 20 MB
    import soundfile  # as above

    step = BLOCK_S * RATE_HZ
    with soundfile.SoundFile(path, "w", RATE_HZ, 2, format="OGG", subtype="OPUS") as out:
        out.comment = msgspec.json.encode(held).decode()
        for start in range(0, len(caller), step):
            sides = [
                np.frombuffer(audioop.ulaw2lin(side[start : start + step], 2), dtype=np.int16)
                for side in (caller, agent)
            ]
            out.write(np.stack(sides, axis=1))
