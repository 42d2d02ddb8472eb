"""The greeting: a clip cut into messages once, before any call, so that a call only adds its streamSid. Pure."""

import base64
import itertools
from dataclasses import dataclass
from typing import Final

from shared.clips import Clip
from worker.call.media import MEDIA_SUFFIX, media_prefix
from worker.call.playout import RATE

FIRST_PIECE_BYTES: Final = 160
"""20 ms: the first message is small, so that it leaves at once."""

PIECE_BYTES: Final = 1600
"""200 ms: few messages, and a barge-in still finds most of a clip unsent beyond the burst."""

BURST_S: Final = 5.0
"""Sent without pacing: the carrier buffers, and base64 of 5 s (53 kB) fits any socket buffer we set (256 KiB)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One media message to be: its base64 and how many bytes of mu-law it carries."""

    payload: str
    size: int


@dataclass(frozen=True, slots=True)
class Recording:
    """A clip ready to be sent."""

    clip: Clip
    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        """What the clip says."""
        return self.clip.text


def record(clip: Clip) -> Recording:
    """Cut a clip into pieces: 20 ms, then 200 ms each."""
    cuts = [0, *range(FIRST_PIECE_BYTES, len(clip.audio), PIECE_BYTES), len(clip.audio)]
    pieces = [clip.audio[start:end] for start, end in itertools.pairwise(cuts) if end > start]
    return Recording(clip, tuple(Piece(base64.b64encode(piece).decode(), len(piece)) for piece in pieces))


def burst(recording: Recording, stream_sid: str) -> tuple[list[str], int, int]:
    """Write the messages that go out at once: those messages, the pieces used and the bytes of audio in them."""
    prefix = media_prefix(stream_sid)
    messages: list[str] = []
    audio = 0
    for piece in recording.pieces:
        if audio >= BURST_S * RATE:
            break
        messages.append(f"{prefix}{piece.payload}{MEDIA_SUFFIX}")
        audio += piece.size
    return messages, len(messages), audio


def heard_part(text: str, share: float) -> str:
    """Cut a text at the word that was playing when `share` (0 to 1) of its clip had been played."""
    if share >= 1:
        return text
    words = text.split()
    heard = words[: int(len(words) * max(0.0, share))]
    return " ".join(heard) + "…" if heard else ""
