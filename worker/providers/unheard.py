"""The caller's audio that no final transcript covers yet, kept so that a lost connection costs no word. Pure.

Pieces stand in the order of the wire: audio, and the word that asks for a final transcript where a turn ended. Interim
transcripts settle nothing: what they said is said again by the final one.
"""

from collections import deque
from typing import Final

FINALIZE: Final = "finalize"

MOST_S: Final = 30.0
"""How much is kept: longer than any turn without a pause; beyond it the oldest audio goes."""

QUIET_S: Final = 2.0
"""How much is kept while nobody speaks: the beginning of a word, before the voice detector has seen it (0.2 s)."""

PIECE_S: Final = 0.1
"""The size of a message when there is a backlog, as the vendor advises."""


class Unheard:
    """What was said and not understood yet. `bytes_per_s` is how much audio one second is."""

    def __init__(self, bytes_per_s: int) -> None:
        self._per_s = bytes_per_s
        self._pieces: deque[bytes | str] = deque()
        self._sent = 0
        self._bytes = 0
        self._waiting = 0
        self._turns = 0
        self._answered = False
        self.speaking = True
        """The caller speaks, or may: what a predecessor had heard comes faster than the voice detector looks at it."""

    @property
    def turns(self) -> int:
        """How many ends of a turn wait for their transcript, sent or not."""
        return self._turns

    @property
    def asked(self) -> int:
        """How many of them were sent on the present connection."""
        return sum(isinstance(self._pieces[index], str) for index in range(self._sent))

    @property
    def waiting_s(self) -> float:
        """How much audio is to be sent, in seconds."""
        return self._waiting / self._per_s

    @property
    def kept_s(self) -> float:
        """How much audio is kept, sent or not, in seconds."""
        return self._bytes / self._per_s

    def add(self, audio: bytes) -> None:
        """Keep a piece of the caller's audio; it is to be sent."""
        self._pieces.append(audio)
        self._bytes += len(audio)
        self._waiting += len(audio)
        quiet = not self.speaking and not self.turns
        self._trim(QUIET_S if quiet else MOST_S)

    def end_turn(self) -> None:
        """Note that a final transcript is to be asked for here."""
        self.speaking = False
        self._pieces.append(FINALIZE)
        self._turns += 1

    def next(self) -> bytes | str | None:
        """Give what is to be sent next and count it as sent; None when everything was."""
        if self._sent == len(self._pieces):
            return None
        piece = self._pieces[self._sent]
        self._sent += 1
        if isinstance(piece, str):
            return piece
        joined = bytearray(piece)
        while self._sent < len(self._pieces) and len(joined) < PIECE_S * self._per_s:
            following = self._pieces[self._sent]
            if isinstance(following, str):
                break
            joined += following
            self._sent += 1
        self._waiting -= len(joined)
        return bytes(joined)

    def rewind(self) -> None:
        """Note that the connection is gone: everything is to be sent again."""
        self._sent = 0
        self._waiting = self._bytes
        self._answered = False

    def transcribed(self) -> None:
        """Note a final transcript. One that nobody asked for covers what was sent; of several for one turn the first counts."""
        if self._answered:
            return
        if self.asked:
            self._settle()
            self._answered = True
        else:
            self._drop(self._sent)

    def flushed(self) -> None:
        """Note that the oldest request for a final transcript was answered to its end; there may have been no words."""
        if not self._answered and self.asked:
            self._settle()
        self._answered = False

    def covered(self, keep_s: float) -> None:
        """Note that what was sent is understood, but for its last `keep_s` seconds, whatever was asked for in it."""
        count, kept = self._sent, 0
        while count and kept < keep_s * self._per_s:
            count -= 1
            kept += len(piece) if isinstance(piece := self._pieces[count], bytes) else 0
        self._drop(count)

    def _settle(self) -> None:
        end = next(index for index in range(self._sent) if isinstance(self._pieces[index], str))
        self._drop(end + 1)

    def _drop(self, count: int) -> None:
        for _ in range(count):
            piece = self._pieces.popleft()
            if isinstance(piece, bytes):
                self._bytes -= len(piece)
            else:
                self._turns -= 1
        self._sent -= count

    def _trim(self, most_s: float) -> None:
        """Drop the oldest audio beyond a limit; the ends of turns stay."""
        while self._bytes > most_s * self._per_s:
            index = next(number for number, piece in enumerate(self._pieces) if isinstance(piece, bytes))
            size = len(self._pieces[index])
            self._bytes -= size
            self._waiting -= size if index >= self._sent else 0
            del self._pieces[index]
            self._sent -= index < self._sent
