"""A text on its way to a voice that takes one request for each piece of it and gives no word times. Pure.

The first piece may be a clause, so that the first sound does not wait for a sentence; the others are sentences, for which the
sound of the pieces before them leaves time. Where the words are in the sound is guessed from their lengths: within a piece by
the pace of the pieces before it, and at its end by its duration, so that no error outlives a piece.

Scripts without spaces between words count as one word up to the next sign.
"""

import re
from typing import Final

from worker.providers.spoken import Timed, Void

LEAST: Final = 16
"""Characters of a first clause and of a later sentence that are worth a request: about a second of speech, in which the next
piece can begin. A shorter sentence goes with the next one, unless it is the first."""

MOST: Final = 300
"""Characters of a piece without any border; the vendor takes 4096, but waits longer for more."""

PACE_S: Final = 0.06
"""Seconds for a character, to begin with: 150 words of five letters in a minute."""

PAUSE: Final = 5 / 3
"""What is between two words, in characters."""

LEARNING: Final = 0.5
LEAST_PACE_S: Final = 0.03
MOST_PACE_S: Final = 0.15

_SENTENCE: Final = re.compile(r"([^\s.!?…]*)([.!?…]+)[\"'»”’)\]]*\s+|[。！？]+[」』”]*|\n+")  # noqa: RUF001 - Chinese signs
_CLAUSE: Final = re.compile(r"[,;:]\s+|\s[–—-]\s+|[、，；：]")  # noqa: RUF001 - as above
_WORD: Final = re.compile(r"\S+")


class Pieces:
    """Cuts text into pieces, as soon as their ends are there."""

    def __init__(self) -> None:
        self._text = ""
        self._first = True

    def add(self, text: str) -> list[str]:
        """Take more text; give the pieces that are whole with it."""
        self._text += text
        pieces: list[str] = []
        while end := self._end():
            pieces += self._cut(end)
        return pieces

    def rest(self) -> list[str]:
        """Give what is left: no more will come."""
        return self._cut(len(self._text))

    def _cut(self, end: int) -> list[str]:
        piece, self._text = self._text[:end].strip(), self._text[end:]
        if not any(character.isalnum() for character in piece):
            return []
        self._first = False
        return [piece]

    def _end(self) -> int:
        """Say where the next piece ends; 0: not here yet."""
        text = self._text
        least = 0 if self._first else LEAST
        ends = [found.end() for found in _SENTENCE.finditer(text) if found.end() >= least and _ends(found)]
        if self._first:
            ends += [found.end() for found in _CLAUSE.finditer(text) if found.end() >= LEAST]
        if ends:
            return min(ends)
        if len(text) > MOST:
            clauses = [found.end() for found in _CLAUSE.finditer(text)]
            return clauses[-1] if clauses else text.rfind(" ", 0, MOST) + 1 or MOST
        return 0


def _ends(found: re.Match[str]) -> bool:
    """Say whether a sign ends a sentence; it does not behind what may be an abbreviation, an initial or an ordinal number."""
    word, signs = found[1] or "", found[2] or ""
    if signs != ".":
        return True
    inner = found.start() > 0 and found.string[found.start() - 1] == "."  # "p.m.", of which the word is "m"
    short = len(word) <= 3 and word[:1].isupper()  # noqa: PLR2004 - "Dr", "Sra", "Mrs"
    return not (inner or short or len(word) == 1 or word.isdecimal())


class Pace:
    """How fast a voice speaks, learned from what it has said: seconds for a character."""

    def __init__(self) -> None:
        self.unit_s = PACE_S

    def learn(self, units: float, seconds: float) -> None:
        """Note how long a piece was."""
        if units and seconds:
            measured_s = min(MOST_PACE_S, max(LEAST_PACE_S, seconds / units))
            self.unit_s += LEARNING * (measured_s - self.unit_s)


class Piece:
    """One request's worth of text, and its sound. Positions are seconds since the beginning of the audio context.

    `lost` and `again` make another request of what has not been said.
    """

    def __init__(self, text: str, pace: Pace) -> None:
        self.text = text
        self._pace = pace
        self._words = [(found[0], found.start()) for found in _WORD.finditer(text)]
        self._said = 0
        self._start_s = 0.0
        self._sound_s = 0.0
        self._said_to_s = 0.0

    def begin(self, start_s: float) -> None:
        """Note where its sound begins."""
        self._start_s = start_s
        self._sound_s = self._said_to_s = 0.0

    def sound(self, seconds: float) -> list[Timed]:
        """Note sound that came; give the words that are whole with it."""
        self._sound_s += seconds
        words: list[Timed] = []
        while self._said < len(self._words):
            end_s = self._said_to_s + _units(self._words[self._said][0]) * self._pace.unit_s
            if end_s > self._sound_s:
                break
            words.append(self._say(end_s))
        return words

    def ended(self) -> list[Timed]:
        """Note that all its sound came; give its last words."""
        self._pace.learn(sum(_units(word) for word, _ in self._words), self._sound_s)
        left = [_units(word) for word, _ in self._words[self._said :]]
        unit_s = max(0.0, self._sound_s - self._said_to_s) / sum(left) if left else 0.0
        return [self._say(self._said_to_s + units * unit_s) for units in left]

    def silence(self, seconds: float) -> None:
        """Note silence that was put behind the sound."""
        self._sound_s += seconds

    def lost(self) -> Void | None:
        """Note that no more sound will come; give the sound that is void: of a word that will be said again."""
        void = Void(self._start_s + self._said_to_s, self._start_s + self._sound_s)
        return void if void.start_s < void.end_s else None

    def again(self) -> "Piece | None":
        """Give what has not been said; None when everything was."""
        if self._said == len(self._words):
            return None
        return Piece(self.text[self._words[self._said][1] :], self._pace)

    def _say(self, end_s: float) -> Timed:
        word = Timed(self._words[self._said][0], self._start_s + self._said_to_s, self._start_s + end_s)
        self._said += 1
        self._said_to_s = end_s
        return word


def _units(word: str) -> float:
    return len(word) + PAUSE
