"""The tape of a call: the last of what the caller said, in memory that outlives the process that heard it.

Recognised words are in the journal; what was said since then exists nowhere but in the worker that listens. So every piece
of the caller's audio is also written to a ring in an anonymous file, which the pool holds too: a successor hears from
it what its predecessor had heard and not yet written down. The ring is 8 kHz mono mu-law: 8000 bytes = 1 s.

Two positions stand in front of the ring, each written whole after what it speaks of: how much was ever written, and from
where on a successor needs it.
"""

import mmap
import os
import struct
from typing import Final

from worker.call.playout import RATE

RING_BYTES: Final = 30 * RATE
"""Nobody speaks for longer without being answered; 240 kB, taken page by page as they are written."""

PREROLL_BYTES: Final = 2 * RATE
"""How much a successor hears of what was silence: a voice is noticed 0.2 s after it began, on a busy machine a second later."""

GIVEN_UP_BYTES: Final = 5 * RATE
"""What was not recognised so long after a pause was no speech."""

PIECE_BYTES: Final = RATE // 50
"""20 ms."""

_HEADER: Final = struct.Struct("<QQ")
_POSITION: Final = struct.Struct("<Q")
_NEEDED_AT: Final = 8


def make_tape() -> int:
    """Make an empty tape and give its descriptor, which is the caller's; not inheritable."""
    fd = os.memfd_create("offhook-tape", os.MFD_CLOEXEC)
    os.ftruncate(fd, _HEADER.size + RING_BYTES)
    return fd


class Tape:
    """A tape to write to and to read back. Takes the descriptor over."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, _HEADER.size + RING_BYTES)
        os.close(fd)
        self.position, self._needed = _HEADER.unpack_from(self._map)
        # A successor has not heard yet what its predecessor left: that is kept until it had the time to notice a voice in it.
        self._holding = True
        self._quiet_at: int | None = self.position or None
        self._voice_from: int | None = None

    def write(self, ulaw: bytes) -> None:
        """Append audio; what is older than the ring is overwritten."""
        audio = ulaw[-RING_BYTES:]
        at = (self.position + len(ulaw) - len(audio)) % RING_BYTES
        first = min(len(audio), RING_BYTES - at)
        self._map[_HEADER.size + at : _HEADER.size + at + first] = audio[:first]
        self._map[_HEADER.size : _HEADER.size + len(audio) - first] = audio[first:]
        self.position += len(ulaw)
        _POSITION.pack_into(self._map, 0, self.position)
        if self._holding and self._quiet_at is not None and self.position - self._quiet_at > GIVEN_UP_BYTES:
            self._holding = False
        if not self._holding:
            self._need(max(self._needed, self.position - PREROLL_BYTES))

    def speech_began(self, at: int | None = None) -> None:
        """Keep what is there, and what comes from now on, until it is written down; noticed at position `at` (default: now)."""
        self._holding, self._quiet_at = True, None
        if self._voice_from is None:
            self._voice_from = (self.position if at is None else at) - PREROLL_BYTES

    def speech_ended(self, at: int | None = None) -> None:
        """Note a pause at position `at`: what was said until then will be written down, or was no speech."""
        self._quiet_at, self._voice_from = self.position if at is None else at, None

    def written_down(self) -> None:
        """Let go of what was said before the last pause, or before the speech that is under way."""
        if self._voice_from is not None:  # the words are those of an earlier speech
            self._need(max(self._needed, self._voice_from))
            return
        self._need(self.position if self._quiet_at is None else self._quiet_at)
        self._holding = False

    def unheard(self) -> bytes:
        """Give what a successor needs, oldest first, at most what the ring holds."""
        start = max(self._needed, self.position - RING_BYTES)
        at, count = start % RING_BYTES, self.position - start
        first = min(count, RING_BYTES - at)
        ring = self._map[_HEADER.size + at : _HEADER.size + at + first]
        return ring + self._map[_HEADER.size : _HEADER.size + count - first]

    def close(self) -> None:
        """Forget the mapping; what was written stays with whoever holds the descriptor."""
        self._map.close()

    def _need(self, position: int) -> None:
        self._needed = max(0, position)
        _POSITION.pack_into(self._map, _NEEDED_AT, self._needed)


def pieces(audio: bytes) -> list[bytes]:
    """Cut audio as a carrier would have sent it: who looks for a voice in it looks once per piece."""
    return [audio[at : at + PIECE_BYTES] for at in range(0, len(audio), PIECE_BYTES)]
