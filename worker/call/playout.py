"""The play-out clock of a call: what the carrier still has to play, and what the caller has heard. Pure.

One clock counts all audio of a call, sent directly (greeting, goodbye) or through the pipeline, because the carrier plays
it in one order. Positions are in bytes of 8 kHz mu-law since the start of the call: 8000 bytes = 1 s.

Heard is decided by marks alone. A mark that comes back after a `clear` proves nothing, since a clear echoes every
pending mark, so marks of a cleared generation are ignored.

Source: Twilio docs, Media Streams "WebSocket messages" (mark, clear).
"""

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

RATE: Final = 8000
"""Bytes (= samples) of mu-law a second."""


# ASCII and short: the carrier may send any text back, and `int` refuses some digits and very many of them
_MARK_NAME: Final = re.compile(r"([0-9]{1,9}):([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark under way: when it comes back, `text` was heard."""

    name: str
    text: str


class Tap(Protocol):
    """Who is told what the carrier plays, and when (monotonic)."""

    def agent(self, at: float, ulaw: bytes) -> None:
        """Take sound that is played from `at` on, unless it is cleared before."""

    def cleared(self, at: float) -> None:
        """Note that what was not played at `at` never will be."""


class Playout:
    """The clock. `resume` numbers the workers of this call, so that a successor's marks differ from its predecessor's.

    `pending` are a predecessor's marks that may still come back.
    """

    def __init__(self, resume: int = 0, pending: Iterable[Mark] = ()) -> None:
        self._resume = resume
        self._count = 0
        self._pending = deque(pending)
        self._plays_until = 0.0
        self.sent_bytes = 0
        self.tap: Tap | None = None

    def sent(self, count: int, now: float) -> float:
        """Note that `count` bytes of audio were written at `now` (seconds, monotonic); gives when they begin to be played."""
        begins = max(self._plays_until, now)
        self._plays_until = begins + count / RATE
        self.sent_bytes += count
        return begins

    @property
    def plays_until(self) -> float:
        """When everything written has been played (seconds, monotonic)."""
        return self._plays_until

    def lead(self, now: float) -> float:
        """Give the seconds of audio the carrier still has to play."""
        return max(0.0, self._plays_until - now)

    def quiet_for(self, now: float) -> float:
        """Give the seconds since the carrier has played everything; 0 while it plays."""
        return max(0.0, now - self._plays_until)

    def mark(self, text: str) -> str:
        """Make the name of a mark to be sent behind the audio of `text`."""
        self._count += 1
        mark = Mark(f"{self._resume}:{self._count}", text)
        self._pending.append(mark)
        return mark.name

    def echoed(self, name: str) -> str | None:
        """Give the text that a returned mark proves heard; None for a mark that is cleared, repeated or not ours.

        Marks come back in order, so an earlier one still pending is proven with it; its text is in front.
        """
        if all(mark.name != name for mark in self._pending):
            return None
        heard: list[str] = []
        while self._pending:
            mark = self._pending.popleft()
            if mark.text:
                heard.append(mark.text)
            if mark.name == name:
                break
        return " ".join(heard)

    def knows(self, name: str) -> bool:
        """Say whether a mark of this name was ever made here, pending or not."""
        parts = _MARK_NAME.fullmatch(name)
        if parts is None:
            return False
        resume, number = int(parts[1]), int(parts[2])
        return resume < self._resume or (resume == self._resume and number <= self._count)

    def clear(self, now: float) -> bool:
        """Note that a `clear` was written at `now`; say whether anything was left to clear."""
        had = bool(self._pending) or self._plays_until > now
        self._pending.clear()
        self._plays_until = now
        if self.tap is not None:
            self.tap.cleared(now)
        return had


class SpokenSentences:
    """Tells when the audio of a sentence has been written, from the provider's word times.

    Words of several audio contexts may be known ahead; the audio of one is written at a time. Word starts are seconds
    from the beginning of their context's audio.
    """

    def __init__(self) -> None:
        self._words: dict[str, list[tuple[str, float]]] = {}
        self._context = ""
        self._given = 0
        self._written_s = 0.0

    def word(self, context: str, text: str, start_s: float) -> None:
        """Note a word of a context and when its sound begins."""
        self._words.setdefault(context, []).append((text, start_s))

    def begin(self, context: str) -> None:
        """Note that the audio of this context is written from now on; what is left of the former one is dropped."""
        self._words.pop(self._context, None)
        self._context = context
        self._given = 0
        self._written_s = 0.0

    def forget(self) -> None:
        """Drop everything known: the caller interrupted."""
        self._words.clear()
        self.begin("")

    def wrote(self, seconds: float) -> None:
        """Note audio of the context that was written to the stream."""
        self._written_s += seconds

    def complete(self) -> list[str]:
        """Give the sentences whose sound is now fully written: the next one's first word lies within what was written."""
        words = self._words.get(self._context, [])
        ends = [
            index + 1
            for index in range(self._given, len(words) - 1)
            if _ends_sentence(words[index][0]) and words[index + 1][1] <= self._written_s
        ]
        return [self._take(end) for end in ends]

    def cut_off(self, unplayed_s: float) -> tuple[str, str]:
        """Say what is left of a context whose audio breaks off, and which of these words had begun to be played.

        `unplayed_s` is how much of the written audio is not played yet. Both are empty where nothing was under way.
        """
        words = self._words.get(self._context, [])[self._given :]
        if not self._written_s:
            return "", ""
        played_s = self._written_s - unplayed_s
        heard = [word for word, start_s in words if start_s < played_s]
        return " ".join(word for word, _ in words), " ".join(heard)

    def rest(self) -> str:
        """Give what has not been given yet: the context's audio is written to its end."""
        return self._take(len(self._words.get(self._context, [])))

    def _take(self, end: int) -> str:
        words = self._words.get(self._context, [])
        text = " ".join(word for word, _ in words[self._given : end])
        self._given = end
        return text


class Cuts:
    """Takes out of the agent's sound what must not be played: of a word that was cut off, and will be said again whole.

    Positions are seconds from the beginning of an audio context's sound; sound is 16 bits at `RATE`.
    """

    def __init__(self) -> None:
        self._context = ""
        self._at = 0
        self._void: dict[str, list[tuple[int, int]]] = {}

    def begin(self, context: str) -> None:
        """Note that the sound of this context comes from now on."""
        self._void.pop(self._context, None)
        self._context = context
        self._at = 0

    def cut(self, context: str, start_s: float, end_s: float) -> None:
        """Note sound that must not be played, behind any noted before; what has passed already cannot be helped."""
        self._void.setdefault(context, []).append((2 * round(start_s * RATE), 2 * round(end_s * RATE)))

    def keep(self, pcm: bytes) -> bytes:
        """Give what of the next sound is to be played."""
        start, self._at = self._at, self._at + len(pcm)
        for void_start, void_end in reversed(self._void.get(self._context, [])):  # from the back: places stay true
            first, last = max(void_start - start, 0), min(void_end - start, len(pcm))
            if first < last:
                pcm = pcm[:first] + pcm[last:]
        return pcm


def _ends_sentence(word: str) -> bool:
    return word.rstrip("\"')»\u201d\u2019").endswith((".", "!", "?", "…", "。"))
