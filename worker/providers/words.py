"""The model's text cut into what a voice may be given at once: whole words, verbatim, as soon as they are known to be whole.

A voice that buffers by itself joins what it is given, but may begin to speak after any piece. So nothing is cut that is said
differently apart: a number and what follows it ("3 p.m.", "10 000"), an abbreviation and its word ("Dr. Silva"), markup. What
has no letter waits for one. Scripts without spaces pass as they come. The end of a sentence does not wait for long: a model that
says "Let me look." and goes on with a tool must not be heard to say "Let me".
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Final

from pipecat.utils.string import match_endofsentence
from pipecat.utils.text.base_text_aggregator import Aggregation, BaseTextAggregator, TextType

from worker.providers.spoken import MARKUP, UNSPACED

MOST_HELD: Final = 40
"""Characters that wait for what follows them, at most: an agent that counts must begin to speak."""

LATE_S: Final = 0.2
"""How long the end of a sentence waits for what follows; a model writes a word in 10 to 50 ms."""

_ENDS: Final = re.compile(r"(?:[^\W\d]\.|[!?\u2026])[\"'»\u201d\u2019)\]]*\s*$")
_BORDER: Final = re.compile(r"(?<=\S)\s+")
_OPEN_MARKUP: Final = re.compile(r"<(?:/?[a-zA-Z][^<>]*)?$|<spell>(?:(?!</spell>).)*$", re.DOTALL)
_MARKED: Final = re.compile(rf"<spell>.*?</spell>|{MARKUP.pattern}", re.DOTALL)
_FULL_STOP: Final = re.compile(r"(\S*\.)[\"'»\u201d\u2019)\]]*$")


class WholeWords(BaseTextAggregator):
    """Takes tokens, gives pieces that end behind the white space after a word; `flush` gives the rest.

    `on_late` is called when the end of a sentence has waited for `LATE_S`: an empty token then brings it out.
    """

    def __init__(self, on_late: Callable[[], object], language: str | None = None) -> None:
        super().__init__(aggregation_type=TextType.TOKEN, language=language)
        self._on_late = on_late
        self._timer: asyncio.TimerHandle | None = None
        self._late = False
        self._held = ""

    @property
    def text(self) -> Aggregation:
        """What waits for more."""
        return Aggregation(self._held, TextType.TOKEN)

    async def aggregate(self, text: str) -> AsyncIterator[Aggregation]:
        """Take a token; give what is whole with it."""
        self._held += text
        cut = self._cut() if text or not self._late else len(self._held)
        self._wait(_ENDS.search(self._held, cut) is not None)
        if cut:
            piece, self._held = self._held[:cut], self._held[cut:]
            yield Aggregation(piece, TextType.TOKEN)

    async def flush(self) -> Aggregation | None:
        """Give the rest: no more will come."""
        rest = self._held
        self._forget()
        return Aggregation(rest, TextType.TOKEN) if rest.strip() else None

    async def handle_interruption(self) -> None:
        """Forget what waits."""
        self._forget()

    async def reset(self) -> None:
        """Forget what waits."""
        self._forget()

    def _forget(self) -> None:
        self._held = ""
        self._wait(ends=False)

    def _wait(self, ends: bool) -> None:  # noqa: FBT001 - named where it says nothing by itself
        self._late = False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LATE_S, self._is_late) if ends else None

    def _is_late(self) -> None:
        self._late = True
        self._on_late()

    def _cut(self) -> int:
        """Say up to where the text may be given; 0: nothing yet."""
        held = self._held
        opened = _OPEN_MARKUP.search(held)
        end = opened.start() if opened else len(held)
        if end and UNSPACED.match(held[end - 1]):
            return end
        marked = [found.span() for found in _MARKED.finditer(held, 0, end)] if "<" in held else []
        for border in reversed([found.span() for found in _BORDER.finditer(held, 0, end)]):
            if not any(first < border[0] < last for first, last in marked) and self._apart(*border):
                return border[1]
        return 0

    def _apart(self, word_end: int, next_begins: int) -> bool:
        """Say whether what stands before this white space is said the same, whatever follows."""
        before, after = self._held[:word_end], self._held[next_begins:]
        if not any(character.isalnum() for character in MARKUP.sub("", before)):
            return False
        if word_end > MOST_HELD:
            return True
        stop = _FULL_STOP.search(before)
        if stop is None:
            return not before[-1].isdigit()
        return bool(after) and match_endofsentence(f"{stop[1]} {after[0]}", language=self.language) > 0
