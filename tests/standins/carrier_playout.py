"""The caller's ear: a play-out clock that consumes 8000 bytes a second, and what was heard through it.

Pure: `now` is an argument (`time.monotonic()` seconds in use). Audio is 8 kHz mono mu-law, one byte a sample.

Source: Twilio docs, Media Streams WebSocket messages (order of play, marks, clear); error 31931 (the ten minutes).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from tests.standins.carrier_words import WordFinder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.standins.modem import HeardWord

RATE_HZ = 8000
SILENCE = b"\xff"
_EPSILON = 1e-6  # samples; keeps float noise from losing a byte


class Span(NamedTuple):
    """Audio of one media message as it was played; `start_s` is absolute."""

    start_s: float
    audio: bytes
    utterance: int

    @property
    def end_s(self) -> float:
        """When its last sample has been played."""
        return self.start_s + len(self.audio) / RATE_HZ

    def until(self, now: float) -> Span:
        """What of it was played before `now`."""
        if now >= self.end_s:
            return self
        return self._replace(audio=self.audio[: max(0, int((now - self.start_s) * RATE_HZ + _EPSILON))])


@dataclass(frozen=True, slots=True)
class Gap:
    """Silence inside an utterance: the agent owed audio and had sent none. `start_s` counts from the epoch."""

    utterance: int
    start_s: float
    duration_s: float


class PlayoutClock:
    """The buffer between the agent and the caller's ear, for one call over all its streams."""

    def __init__(self, limit_s: float = 600.0, pause_s: float = 1.0) -> None:
        self.spans: list[Span] = []
        self.finder = WordFinder()
        self._limit_s = limit_s
        self._pause_s = pause_s
        self._dry_at = float("-inf")  # when the buffer has run or will run empty
        self._marks: deque[tuple[float, str]] = deque()
        self._utterance = 0
        self._closed = False  # the present utterance is over: a mark or a clear followed its audio
        self._marked = False  # the agent uses marks at all

    def push(self, now: float, audio: bytes) -> int:
        """Take audio to be played after everything before it; return how many bytes did not fit and were discarded."""
        start = max(now, self._dry_at)
        fits = max(0, int((self._limit_s - (start - now)) * RATE_HZ + _EPSILON))
        kept = audio[:fits]
        if kept:
            self._separate(start)
            self.spans.append(Span(start, kept, self._utterance))
            self._dry_at = self.spans[-1].end_s
        return len(audio) - len(kept)

    def mark(self, now: float, name: str) -> None:
        """Take a mark: it is due when everything before it was played, now if nothing is buffered."""
        self._marked = self._closed = True
        self._marks.append((max(now, self._dry_at), name))

    def due(self, now: float) -> list[str]:
        """Take out the marks reached by `now`, in order."""
        names = []
        while self._marks and self._marks[0][0] <= now:
            names.append(self._marks.popleft()[1])
        return names

    def next_due(self) -> float | None:
        """When the next mark is reached, if nothing clears it."""
        return self._marks[0][0] if self._marks else None

    def clear(self, now: float) -> list[str]:
        """Forget what was not played yet; return every pending mark, in order."""
        while self.spans and self.spans[-1].end_s > now:
            played = self.spans.pop().until(now)
            if played.audio:
                self.spans.append(played)
                break
        self._dry_at = min(self._dry_at, now)
        self._closed = True
        names = [name for _, name in self._marks]
        self._marks.clear()
        return names

    def buffered_s(self, now: float) -> float:
        """How much is waiting to be played."""
        return max(0.0, self._dry_at - now)

    def heard(self, now: float, epoch: float) -> Playout:
        """What the caller has heard until `now`, counted from `epoch`."""
        return Playout(self, now, epoch)

    def _separate(self, start: float) -> None:
        silence = start - self._dry_at
        paused = not self._marked and silence > self._pause_s
        if self.spans and (self._closed or paused):
            self._utterance += 1
        self._closed = False


class Playout:
    """What was really played until one moment; times count from `epoch_s`, which is absolute."""

    def __init__(self, clock: PlayoutClock, now: float, epoch_s: float) -> None:
        self.epoch_s = epoch_s
        self.now_s = now
        self._finder = clock.finder
        self.playing = clock.buffered_s(now) > 0
        self.spans = _played(clock.spans, now)

    @property
    def duration_s(self) -> float:
        """How much agent audio was played, silences between not counted."""
        return sum(len(span.audio) for span in self.spans) / RATE_HZ

    @property
    def utterances(self) -> int:
        """How many utterances have begun."""
        return self.spans[-1].utterance + 1 if self.spans else 0

    @property
    def quiet_s(self) -> float:
        """How long nothing has been played."""
        return self.now_s - (self.spans[-1].end_s if self.spans else self.epoch_s)

    def audio(self) -> bytes:
        """The line as the caller heard it from the epoch on, silence filled in."""
        line = bytearray()
        for span in self.spans:
            offset = max(len(line), round((span.start_s - self.epoch_s) * RATE_HZ))
            line += SILENCE * (offset - len(line)) + span.audio
        return bytes(line)

    def words(self) -> list[HeardWord]:
        """The words heard (scripted speech only, see `modem`), with times from the epoch."""
        found = self._finder.find(self.spans)
        return [replace(word, start_s=word.start_s - self.epoch_s, end_s=word.end_s - self.epoch_s) for word in found]

    def text(self) -> str:
        """The words heard, as one line."""
        return " ".join(word.text for word in self.words())

    def gaps(self, min_s: float = 0.02) -> list[Gap]:
        """The underruns of at least `min_s`: silences between two pieces of one utterance."""
        found = []
        for before, after in zip(self.spans, self.spans[1:], strict=False):
            silence = after.start_s - before.end_s
            if after.utterance == before.utterance and silence >= min_s:
                found.append(Gap(after.utterance, before.end_s - self.epoch_s, silence))
        return found


def _played(spans: Sequence[Span], now: float) -> list[Span]:
    """The part of `spans` that lies before `now`."""
    last = len(spans)
    while last and spans[last - 1].start_s >= now:
        last -= 1
    played = list(spans[:last])
    if played:
        played[-1] = played[-1].until(now)
    return played
