"""Finding the next message in a stream that somebody else began to read. Pure.

The process that died may have taken part of a frame with it. What follows begins with the rest of that frame, which looks
like anything; the next frame shows itself by a masked text header whose payload unmasks to the beginning of a JSON object.

Source: RFC 6455, 5.2 (frame layout), 5.3 (masking); Twilio docs, Media Streams (every message is a JSON object).
"""

import re
from enum import StrEnum
from typing import Final

from worker.call.media import MAX_FRAME_BYTES

_TEXT: Final = 0x81  # FIN and opcode 1
_CLOSE: Final = 0x88
_MASKED: Final = 0x80
_SHORT: Final = 125
_MEDIUM: Final = 126
_MASK_BYTES: Final = 4
_CLOSE_CODES: Final = range(1000, 5000)

_BEGINNING: Final = re.compile(rb"""\{[ \t\r\n]*"[A-Za-z_]{1,32}"[ \t\r\n]*:""")
_PROOF_BYTES: Final = 48
"""Enough for a brace, some white space and the longest name of a field."""


class Find(StrEnum):
    """What a position turned out to be."""

    MESSAGE = "message"  # is when a frame begins here
    NOTHING = "nothing"  # is when none does
    UNDECIDED = "undecided"  # is when more bytes must come to tell


def next_message(data: bytes | bytearray) -> tuple[int, Find]:
    """Give the first position where a frame begins, or may begin; everything before it belongs to no frame.

    At the very beginning a close frame counts too, when it is all there is: nothing was lost then, and the caller is leaving.
    """
    for at in range(len(data)):
        if data[at] == _TEXT or (data[at] == _CLOSE and at == 0):
            found = _look(data, at)
            if found is not Find.NOTHING:
                return at, found
    return len(data), Find.NOTHING


def _look(data: bytes | bytearray, at: int) -> Find:
    length, body = _length(data, at)
    if length is None:
        return Find.UNDECIDED if body else Find.NOTHING
    mask = data[body : body + _MASK_BYTES]
    wanted = min(length, _PROOF_BYTES)
    masked = data[body + _MASK_BYTES : body + _MASK_BYTES + wanted]
    text = (
        bytes(byte ^ mask[index % _MASK_BYTES] for index, byte in enumerate(masked))
        if len(mask) == _MASK_BYTES
        else b""
    )
    if data[at] == _CLOSE:
        return _close(text, length, len(data) - body - _MASK_BYTES)
    if not length:
        return Find.NOTHING  # an empty message is none of theirs
    if text[:1] not in {b"", b"{"}:
        return Find.NOTHING
    if _BEGINNING.match(text):
        return Find.MESSAGE
    return Find.NOTHING if text and len(text) == wanted else Find.UNDECIDED


def _close(text: bytes, length: int, have: int) -> Find:
    """Judge a close frame by its code and by being the last; `have` counts the bytes behind its mask, negative before them."""
    code = int.from_bytes(text[:2]) if len(text) > 1 else None
    if length == 1 or length > _SHORT or have > length or (code is not None and code not in _CLOSE_CODES):
        return Find.NOTHING
    return Find.MESSAGE if have == length else Find.UNDECIDED


def _length(data: bytes | bytearray, at: int) -> tuple[int | None, int]:
    """Give a frame's payload length and where its mask begins; None and 1 when more is needed, None and 0 for no frame."""
    if at + 1 >= len(data):
        return None, 1
    if not data[at + 1] & _MASKED:
        return None, 0
    length = data[at + 1] & ~_MASKED
    if length <= _SHORT:
        return length, at + 2
    size = 2 if length == _MEDIUM else 8
    field = data[at + 2 : at + 2 + size]
    if len(field) < size:
        return None, 1
    length = int.from_bytes(field)
    return (length, at + 2 + size) if length <= MAX_FRAME_BYTES else (None, 0)
