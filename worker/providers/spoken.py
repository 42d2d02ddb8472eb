"""What the voice was asked to say and what of it came, so that a lost connection costs no word and repeats none. Pure.

Positions are seconds of sound since the beginning of an audio context, over all connections it took.

Source: Cartesia docs, "TTS (WebSocket)" (word timestamps count from the beginning of a context; `flush_done` follows the
sound of each input).
"""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CLOSE_S: Final = 0.005
"""Times are rounded to milliseconds and sound comes in pieces: a word is whole when no more than this is missing."""

_PLAIN: Final = re.compile(r"\W+")


@dataclass(frozen=True, slots=True)
class Timed:
    """A word and where its sound is."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Void:
    """Sound that came and must not be played: of a word that will be said again."""

    start_s: float
    end_s: float


class Utterance:
    """One audio context.

    Attributes:
        wire: its name on the present connection; empty when it has none.
        flushed: all its texts are known, so that its end may come.
        awaited: something was asked and nothing came since (of a flushed one: its end did not).
        refusals: how often it was refused as such.
    """

    def __init__(self) -> None:
        self.wire = ""
        self.flushed = False
        self.awaited = False
        self.refusals = 0
        self.received_s = 0.0
        self._offset_s = 0.0
        self._text_from_s = 0.0
        self._texts: deque[str] = deque()
        self._said: list[Timed] = []
        self._coming: deque[Timed] = deque()

    @property
    def unsaid(self) -> tuple[str, ...]:
        """The texts asked for whose sound has not come to its end, as far as is known."""
        return tuple(self._texts)

    def ask(self, text: str) -> None:
        """Note a text that is to be said."""
        self._texts.append(text)
        self.awaited = True

    def flush(self) -> None:
        """Note that no other text will come."""
        self.flushed = self.awaited = True

    def sound(self, seconds: float) -> None:
        """Note sound that came."""
        self.received_s += seconds

    def timed(self, words: Sequence[str], starts: Sequence[float], ends: Sequence[float]) -> None:
        """Note where words are, in seconds since the beginning of the context on the present connection."""
        for word, start_s, end_s in zip(words, starts, ends, strict=False):
            self._coming.append(Timed(word, start_s + self._offset_s, end_s + self._offset_s))

    def whole(self) -> list[Timed]:
        """Give the words whose sound has come whole since the last time."""
        words: list[Timed] = []
        while self._coming and self._coming[0].end_s <= self.received_s + CLOSE_S:
            words.append(self._coming.popleft())
        self._said += words
        return words

    def text_done(self) -> list[Timed]:
        """Note that the sound of the oldest text has come to its end; give its last words."""
        words = [*self._coming]
        self._coming.clear()
        self._said.clear()
        self._text_from_s = self.received_s
        if self._texts:
            self._texts.popleft()
        return words

    def ended(self) -> list[Timed]:
        """Note that the provider ended the context: everything asked was said. Give the last words."""
        words = self.text_done()
        self._texts.clear()
        self._leave()
        return words

    def lost(self) -> Void | None:
        """Note that the connection is gone; keep what must be asked again. Give the sound that is void."""
        left = unsaid(list(self._texts), [word.text for word in self._said])
        start_s = self._resumes_at(left)
        void = Void(start_s, self.received_s) if start_s < self.received_s else None
        self._texts = deque(left.texts)
        self._said.clear()
        self._coming.clear()
        self.awaited = False
        self._leave()
        return void

    def _resumes_at(self, left: "Left") -> float:
        """Say where the sound of what is said again began; the end of the sound when that is not known."""
        if not left.texts:
            return self.received_s
        if left.exact and (self._coming or self._said):
            return self._coming[0].start_s if self._coming else self._said[-1].end_s
        return self._text_from_s if len(left.texts) == len(self._texts) else self.received_s

    def _leave(self) -> None:
        self.wire = ""
        self._offset_s = self._text_from_s = self.received_s


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of some texts; `exact` when it begins with the first word that was not said."""

    texts: tuple[str, ...]
    exact: bool


def unsaid(texts: Sequence[str], words: Sequence[str]) -> Left:
    """Say what is left of texts of which these words were said.

    A text whose words are not those that were said (numbers written out, for instance) is left whole.
    """
    rest = [_plain(word) for word in words if _plain(word)]
    for index, text in enumerate(texts):
        tokens = text.split()
        count = _agreeing(tokens, rest)
        if count is None:
            return Left(tuple(texts[index:]), exact=False)
        tail = tokens[count:]
        rest = rest[sum(bool(_plain(token)) for token in tokens[:count]) :]
        if any(_plain(token) for token in tail):
            return Left((" ".join(tail), *texts[index + 1 :]), exact=True)
    return Left((), exact=True)


def _agreeing(tokens: Sequence[str], words: Sequence[str]) -> int | None:
    """Count the tokens that the words cover; None when the two differ before either ends."""
    given = iter(words)
    for index, token in enumerate(tokens):
        if not _plain(token):
            continue
        word = next(given, None)
        if word is None:
            return index
        if word != _plain(token):
            return None
    return len(tokens)


def _plain(word: str) -> str:
    return _PLAIN.sub("", word).casefold()
