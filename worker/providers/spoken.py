"""What the voice was asked to say and what of it came, so that a lost connection costs no word and repeats none. Pure.

Positions are seconds of sound since the beginning of an audio context, over all connections it took. Text is what was asked,
joined verbatim: how it was cut into inputs is of no account, except to a provider that says when it has spoken each of them.

Source: Cartesia docs, "TTS (WebSocket)" (word timestamps count from the beginning of a context), "Contexts" (inputs are joined
verbatim; a context ends 1 s after its last sound), "Context flushing" (`flush_done`).
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

CLOSE_S: Final = 0.005
"""Times are rounded to milliseconds and sound comes in pieces: a word is whole when no more than this is missing."""

MARKUP: Final = re.compile(r"</?[a-zA-Z][^<>]*>")
UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff01-\uff9f]"
)
"""Characters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""

_SPACE: Final = re.compile(r"\s")
_SIGNS: Final = re.compile(r"(?:[^\w\s<]|</[a-zA-Z][^<>]*>)*")


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


class Reading:
    """Finds the words that are said in the text that was asked. A provider may write them differently, or count characters.

    Attributes:
        strange: words said since the last one that was found: numbers written out, for instance.
    """

    def __init__(self, text: str = "") -> None:
        self._text = text
        self._at = 0
        self.strange: list[Timed] = []

    def __len__(self) -> int:
        return len(self._text)

    @property
    def rest(self) -> str:
        """What comes behind the last word that was found; empty where nothing of it can be said."""
        rest = self._text[self._at :].lstrip()
        return rest if any(_letters(rest)) else ""

    def more(self, text: str) -> None:
        """Read this as well."""
        self._text += text

    def skip_to(self, place: int) -> None:
        """Take everything before a place in the text for said."""
        self._at = max(self._at, place)
        self.strange.clear()

    def said(self, word: Timed) -> None:
        """Find a word; a strange one may stand for as many words of the text as strange ones came, but for no more."""
        letters = "".join(letter for letter, _ in _letters(word.text))
        if not letters:
            return
        for place in (self._at, *self._word_ends(len(self.strange))):
            end = self._found(letters, place)
            if end is not None:
                self.skip_to(end)
                return
        self.strange.append(word)

    def _found(self, letters: str, place: int) -> int | None:
        """Say where the word ends that begins at a place, together with the signs behind it; None where another begins."""
        end, found = place, ""
        for letter, index in _letters(self._text, place):
            found += letter
            if not letters.startswith(found):
                return None
            if found == letters:
                end = index + 1
                break
        else:
            return None
        if end < len(self._text) and self._text[end].isalnum() and not UNSPACED.match(self._text[end - 1]):
            return None
        signs = _SIGNS.match(self._text, end)
        return signs.end() if signs else end

    def _word_ends(self, count: int) -> Iterator[int]:
        """Give where each of the next words ends."""
        place = self._at
        for _ in range(count):
            index = next((index for _, index in _letters(self._text, place)), None)
            if index is None:
                return
            space = _SPACE.search(self._text, index)
            place = space.start() if space else len(self._text)
            yield place


class Utterance:
    """One audio context.

    Attributes:
        wire: its name on the present connection; empty when it has none.
        flushed: all its text is known, so that its end may come.
        awaited: something was asked and nothing came since (of a flushed one: its end did not).
        refusals: how often it was refused as such, since sound came.
        words_sent: how many words were sent under that name, as far as its owner counts.
        heard_at: when its last sound came, or that name was taken; for its owner.
    """

    def __init__(self) -> None:
        self.wire = ""
        self.flushed = False
        self.awaited = False
        self.refusals = 0
        self.words_sent = 0
        self.heard_at = 0.0
        self.received_s = 0.0
        self._offset_s = 0.0
        self._text_from_s = 0.0
        self._reading = Reading()
        self._inputs: deque[int] = deque()  # where in the text each of them ends
        self._sounded_to = 0  # how much text had been asked when sound came last
        self._half = b""  # of a sample
        self._last: Timed | None = None
        self._coming: deque[Timed] = deque()

    @property
    def unsaid(self) -> str:
        """The text that was asked and has not been said, as far as is known."""
        return self._reading.rest

    @property
    def owed(self) -> bool:
        """Whether sound must still come, by the words that came; False where that cannot be told."""
        return bool(self._coming) or (self._last is not None and not self._reading.strange and bool(self.unsaid))

    def ask(self, text: str) -> None:
        """Note a text that is to be said, behind any other."""
        self._reading.more(text)
        self._inputs.append(len(self._reading))
        self.awaited = True

    def flush(self) -> None:
        """Note that no other text will come."""
        self.flushed = self.awaited = True

    def whole_samples(self, pcm: bytes) -> bytes:
        """Take sound that may be cut anywhere; give whole samples of 16 bits, and keep a half for the next time."""
        if not self._half and not len(pcm) % 2:
            return pcm
        pcm = self._half + pcm
        whole = len(pcm) // 2 * 2
        self._half = pcm[whole:]
        return pcm[:whole]

    def fill_up(self, seconds: float) -> None:
        """Note silence that was put behind the sound that came."""
        self.received_s += seconds

    def sound(self, seconds: float) -> None:
        """Note sound that came."""
        self.received_s += seconds
        self._sounded_to = len(self._reading)
        self.refusals = 0

    def timed(self, words: Sequence[str], starts: Sequence[float], ends: Sequence[float]) -> None:
        """Note where words are, in seconds since the beginning of the context on the present connection."""
        for word, start_s, end_s in zip(words, starts, ends, strict=False):
            self._coming.append(Timed(word, start_s + self._offset_s, end_s + self._offset_s))

    def whole(self) -> list[Timed]:
        """Give the words whose sound has come whole since the last time."""
        words: list[Timed] = []
        while self._coming and self._coming[0].end_s <= self.received_s + CLOSE_S:
            words.append(self._coming.popleft())
        return self._said(words)

    def text_done(self) -> list[Timed]:
        """Note that the sound of the oldest input has come to its end; give its last words."""
        words = self._rest_of_words()
        if self._inputs:
            self._reading.skip_to(self._inputs.popleft())
        self._text_from_s = self.received_s
        self._last = None
        return words

    def ended(self) -> list[Timed]:
        """Note that the provider ended the context; give the last words.

        It does so when that was asked for, and when it has been silent for too long: a text may have been on its way then.
        What no sound followed is unsaid.
        """
        words = self._rest_of_words()
        if self.flushed or self._reading.strange or self._last is None:
            self._reading.skip_to(self._sounded_to)
        self._leave()
        return words

    def lost(self) -> Void | None:
        """Note that the connection is gone; keep what must be asked again. Give the sound that is void."""
        start_s = self._resumes_at()
        void = Void(start_s, self.received_s) if start_s < self.received_s else None
        self._leave()
        return void

    def _said(self, words: list[Timed]) -> list[Timed]:
        for word in words:
            self._reading.said(word)
            self._last = word
        return words

    def _rest_of_words(self) -> list[Timed]:
        words = [*self._coming]
        self._coming.clear()
        return self._said(words)

    def _resumes_at(self) -> float:
        """Say where the sound of what is said again began; the end of the sound when nothing is."""
        if not self.unsaid:
            return self.received_s
        if self._reading.strange:
            return self._reading.strange[0].start_s
        if self._coming:
            return self._coming[0].start_s
        return self._text_from_s if self._last is None else self._last.end_s

    def _leave(self) -> None:
        self.wire = ""
        self.awaited = False
        self.words_sent = 0
        self._reading = Reading(self.unsaid)
        self._inputs = deque([len(self._reading)] if len(self._reading) else [])
        self._sounded_to = 0
        self._half = b""
        self._last = None
        self._coming.clear()
        self._offset_s = self._text_from_s = self.received_s


def _letters(text: str, start: int = 0) -> Iterator[tuple[str, int]]:
    """Give the letters and digits of a text, in small letters, and where each stands; those of markup are none."""
    markup = [found.span() for found in MARKUP.finditer(text, start)] if "<" in text else []
    for index in range(start, len(text)):
        character = text[index]
        if character.isalnum() and not any(first <= index < last for first, last in markup):
            for letter in character.casefold():
                yield letter, index
