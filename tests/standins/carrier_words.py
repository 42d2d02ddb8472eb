"""Find the words in what was played, without decoding the same audio again and again.

Rules: pure. Spans closer than `JOIN_S` are decoded as one piece, so that a small underrun does not hide a word: whether
there were underruns is another question (`Playout.gaps`). A piece that more audio cannot join any more is kept.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.standins.carrier_playout import Span
    from tests.standins.modem import HeardWord

JOIN_S = 0.1
RATE_HZ = 8000


@dataclass(frozen=True, slots=True)
class _Piece:
    """Spans that follow each other closely."""

    spans: tuple[Span, ...]

    @property
    def key(self) -> tuple[float, int]:
        """Where it begins and how long it is: a piece that grew or was cut is another piece."""
        return self.spans[0].start_s, sum(len(span.audio) for span in self.spans)

    def words(self) -> tuple[HeardWord, ...]:
        """Decode it; times are absolute."""
        from tests.standins.modem import decode  # late: numpy is needed only by those who ask for words

        offsets = [0, *accumulate(len(span.audio) for span in self.spans)]

        def absolute(seconds: float) -> float:
            sample = seconds * RATE_HZ
            index = min(bisect_right(offsets, sample) - 1, len(self.spans) - 1)
            return self.spans[index].start_s + (sample - offsets[index]) / RATE_HZ

        heard = decode(b"".join(span.audio for span in self.spans))
        return tuple(replace(word, start_s=absolute(word.start_s), end_s=absolute(word.end_s)) for word in heard)


class WordFinder:
    """Decodes pieces and remembers the words of each."""

    def __init__(self) -> None:
        self._known: dict[tuple[float, int], tuple[HeardWord, ...]] = {}

    def find(self, spans: Sequence[Span]) -> list[HeardWord]:
        """The words in `spans`, in order, with absolute times."""
        pieces = _pieces(spans)
        known = {}
        for piece in pieces:
            words = self._known.get(piece.key)
            known[piece.key] = piece.words() if words is None else words
        self._known = known
        return [word for words in known.values() for word in words]


def _pieces(spans: Sequence[Span]) -> list[_Piece]:
    pieces: list[list[Span]] = []
    for span in spans:
        if pieces and span.start_s - pieces[-1][-1].end_s < JOIN_S:
            pieces[-1].append(span)
        else:
            pieces.append([span])
    return [_Piece(tuple(piece)) for piece in pieces]
