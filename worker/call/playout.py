"""The play-out clock of a call: what the carrier still has to play, and what the caller has heard. Pure.

One clock counts all audio of a call, sent directly (greeting, goodbye) or through the pipeline, because the carrier plays
it in one order. Positions are in bytes of 8 kHz mu-law since the start of the call: 8000 bytes = 1 s.

Heard is decided by marks alone. A mark that comes back after a `clear` proves nothing, since a clear echoes every
pending mark, so marks of a cleared generation are ignored.

Source: Twilio docs, Media Streams "WebSocket messages" (mark, clear).
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from worker.call.unplayed import Unplayed

RATE: Final = 8000
"""Bytes (= samples) of mu-law a second."""

KEPT_BYTES: Final = 6 * RATE
"""How much of what was played is kept, to begin again from: more than a clip that must be heard whole (5 s)."""

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


@dataclass(frozen=True, slots=True)
class Again:
    """What is to be written when the agent proceeds: sound and names of marks, in order.

    `names` are those marks that were written before have now, by what they were called; all else is as it was.
    """

    items: tuple[bytes | str, ...]
    names: Mapping[str, str]


class Playout:
    """The clock. `resume` numbers the workers of this call, so that a successor's marks differ from its predecessor's.

    `pending` are a predecessor's marks that may still come back.

    The agent *halts* when the carrier drops what it has not played and will get it again: `halt`, then `proceed`. Nothing
    is lost in between; what comes meanwhile is kept (`sent` with `audio`, `placed`) and written behind it. `sent_bytes` is
    the place where all sound ends that was written or kept.
    """

    def __init__(self, resume: int = 0, pending: Iterable[Mark] = ()) -> None:
        self._resume = resume
        self._count = 0
        self._pending = deque(pending)
        self._plays_until = 0.0
        self._unplayed = Unplayed()
        self._places: dict[str, int] = {}  # of marks that were written
        self._cleared: list[Mark] = []
        self._halted_at: int | None = None
        self.sent_bytes = 0
        self.tap: Tap | None = None

    def sent(self, count: int, now: float, audio: bytes = b"") -> float:
        """Note that `count` bytes of audio were written at `now` (seconds, monotonic); gives when they begin to be played.

        Without the `audio` itself it cannot be written again.
        """
        begins = max(self._plays_until, now)
        if not self.halted:
            self._plays_until = begins + count / RATE
        self._unplayed.add(self.sent_bytes, audio)
        self.sent_bytes += count
        self._unplayed.forget(self.heard_bytes(now) - KEPT_BYTES)
        return begins

    @property
    def halted(self) -> bool:
        """Whether the carrier has dropped what will be written again."""
        return self._halted_at is not None

    def heard_bytes(self, now: float) -> int:
        """Give the place the caller has heard everything to."""
        return self.sent_bytes - round(self.lead(now) * RATE) if self._halted_at is None else self._halted_at

    def halt(self, now: float) -> None:
        """Note that a `clear` was written at `now`, and that the agent will proceed, unless it is cleared for good."""
        self._halted_at = self.heard_bytes(now)
        self._plays_until = now
        self._cleared = [mark for mark in self._pending if mark.name in self._places]
        self._pending = deque(mark for mark in self._pending if mark.name not in self._places)
        if self.tap is not None:
            self.tap.cleared(now)

    def proceed(self, start: int, now: float) -> Again:
        """Give what is to be written at `now`, from a place on; marks before it come first."""
        self._halted_at = None
        names: dict[str, str] = {}
        renamed: list[Mark] = []
        for mark in self._cleared:
            self._count += 1
            renamed.append(Mark(f"{self._resume}:{self._count}", mark.text))
            names[mark.name] = renamed[-1].name
            self._places[renamed[-1].name] = self._places.pop(mark.name)
        self._cleared = []
        self._pending.extendleft(reversed(renamed))
        self._plays_until = now
        return Again(tuple(self._items(start)), names)

    def _items(self, start: int) -> Iterator[bytes | str]:
        marks = deque((self._places[mark.name], mark.name) for mark in self._pending if mark.name in self._places)
        for place, ulaw in self._unplayed.since(start):
            at = place
            while marks and marks[0][0] < place + len(ulaw):
                cut = max(at, marks[0][0])
                if cut > at:
                    yield self._again(ulaw[at - place : cut - place])
                yield marks.popleft()[1]
                at = cut
            yield self._again(ulaw[at - place :])
        for _, name in marks:
            yield name

    def _again(self, ulaw: bytes) -> bytes:
        if self.tap is not None:
            self.tap.agent(self._plays_until, ulaw)
        self._plays_until += len(ulaw) / RATE
        return ulaw

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

    def placed(self, name: str) -> None:
        """Note that a mark is written, or kept, behind all sound so far."""
        self._places[name] = self.sent_bytes

    def echoed(self, name: str) -> str | None:
        """Give the text that a returned mark proves heard; None for a mark that is cleared, repeated or not ours.

        Marks come back in order, so an earlier one still pending is proven with it; its text is in front.
        """
        if all(mark.name != name for mark in self._pending):
            return None
        heard: list[str] = []
        while self._pending:
            mark = self._pending.popleft()
            self._places.pop(mark.name, None)
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
        self._places.clear()
        self._cleared.clear()
        self._unplayed.clear()
        self._halted_at = None
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

    def since_word(self, unplayed_s: float, transit_s: float) -> float | None:
        """Say how long ago the word began that the caller was hearing, `transit_s` behind the clock; None if nobody knows."""
        heard_s = self._written_s - unplayed_s
        starts = [start_s for _, start_s in self._words.get(self._context, []) if start_s <= heard_s - transit_s]
        return heard_s - starts[-1] if starts else None

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
