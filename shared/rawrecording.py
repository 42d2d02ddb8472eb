"""A recording as the workers write it while a call goes on: pieces of sound with their times, appended. Pure.

Each worker of a call writes a file of its own, so that a successor need not look for the end of what its predecessor could
not finish: a last piece that was cut by the death of its writer is no piece. Sound is 8 kHz mono mu-law; times are unix seconds.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from shared.calls import CallSid

SUFFIX: Final = ".part"
FINISHED_SUFFIX: Final = ".ogg"

NUMBERS_OF_AN_ATTEMPT: Final = 100
"""The workers of an attempt have numbers from its own (0 for the first) times this on."""

_HEAD: Final = struct.Struct("<cdI")
_SID: Final = re.compile(r"[A-Za-z0-9]{1,64}")


class Kind(Enum):
    """What a piece is."""

    CALLER = b"c"  # what the caller said, when it arrived
    AGENT = b"a"  # what the carrier was given, and when it plays it
    CLEARED = b"x"  # the carrier has dropped what it had not played by then; without sound


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a recording."""

    kind: Kind
    at: float
    ulaw: bytes = b""


def pack(piece: Piece) -> bytes:
    """Write a piece."""
    return _HEAD.pack(piece.kind.value, piece.at, len(piece.ulaw)) + piece.ulaw


def unpack(data: bytes) -> Iterator[Piece]:
    """Read pieces, up to the first that is not whole or not ours."""
    at = 0
    while at + _HEAD.size <= len(data):
        kind, when, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if kind not in {each.value for each in Kind} or at + size > len(data):
            return
        yield Piece(Kind(kind), when, data[at : at + size])
        at += size


def part(folder: Path, call_sid: CallSid, number: int) -> Path:
    """Name the file of the worker with this number in its call.

    Raises:
        ValueError: the call's name is none that could be a file's.
    """
    return folder / f"{_name(call_sid)}.{number}{SUFFIX}"


def parts(folder: Path, call_sid: CallSid) -> list[Path]:
    """List what the workers of a call have written, oldest first."""
    found = folder.glob(f"{_name(call_sid)}.*{SUFFIX}")
    return sorted(found, key=number_of)


def number_of(path: Path) -> int:
    """Give the number of the worker who wrote a part."""
    return int(path.suffixes[-2][1:])


def finished(folder: Path, call_sid: CallSid) -> Path:
    """Name the file that a finished recording is in."""
    return folder / f"{_name(call_sid)}{FINISHED_SUFFIX}"


def _name(call_sid: CallSid) -> str:
    if not _SID.fullmatch(call_sid):
        raise ValueError("the name of the call is no name for a file")
    return call_sid
