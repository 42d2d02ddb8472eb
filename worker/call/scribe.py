"""The scribe of a call: writes the journal ahead of what happens. Entries and their meaning are in `shared.journal`."""

import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from shared.journal import entry
from shared.messages import EntryKind, Message


class Scribe:
    """Writes entries for one call; `tell` brings them to the pool. Called on the loop, blocks nobody."""

    def __init__(self, tell: Callable[[Message], object]) -> None:
        self._tell = tell
        self._demands = 0
        self._speeches: deque[int] = deque()  # the demands that stood when each speech under way began

    def recall(self, demands: int) -> None:
        """Go on counting where a predecessor stopped."""
        self._demands = demands

    def user_said(self, text: str) -> None:
        """Write down what the caller said."""
        self._demands += 1
        self._speeches.clear()
        self._write("user", text)

    def tool_started(self, key: str, name: str, arguments: Mapping[str, Any]) -> None:
        """Write down a tool call that runs next."""
        self._write("tool", json.dumps({"name": name, "arguments": arguments}, default=str), key)

    def tool_ended(self, key: str, result: Mapping[str, Any], *, answer: bool) -> None:
        """Write down what a tool gave; without `answer` the model will say nothing to it."""
        self._demands += 1
        self._write("result", json.dumps(result, default=str), key)
        if not answer:
            self._write("spoken", "", str(self._demands))

    def greeting(self, words: str, mark: str, ago_s: float = 0.0) -> None:
        """Write down that the greeting began, so long ago."""
        self._tell(entry("greeting", words, mark, ago_s))

    def greeting_sent(self, size: int) -> None:
        """Write down how many bytes of the greeting have been sent, beyond those that are sent at once."""
        self._write("sent", "", str(size))

    def greeted(self) -> None:
        """Write down that the greeting was sent to its end."""
        self._write("spoken", "", "0")

    def speech_begins(self) -> None:
        """Note that the agent begins to say something, which answers every demand so far."""
        self._speeches.append(self._demands)

    def said(self, text: str, mark: str) -> None:
        """Write down a sentence on its way."""
        self._write("agent", text, mark)

    def spoken(self) -> None:
        """Write down that the oldest speech under way was sent to its end."""
        self._write("spoken", "", str(self._speeches.popleft() if self._speeches else 0))

    def heard(self, text: str, mark: str) -> None:
        """Write down what a returned mark proves."""
        self._write("heard", text, mark)

    def interrupted(self, heard: str) -> None:
        """Write down that the caller speaks now; `heard` is the part of the greeting that was heard before."""
        self._speeches.clear()
        self._write("interrupted", heard)

    def halted(self, greeted: int | None) -> None:
        """Write down that the carrier drops what was not heard, for now; of a greeting `greeted` bytes had been heard."""
        self._write("halted", "" if greeted is None else str(greeted))

    def proceeded(self, names: Mapping[str, str], greeted: int | None) -> None:
        """Write down that it gets it again: what marks are called now, and from where a greeting goes on."""
        self._write("proceeded", json.dumps(names), "" if greeted is None else str(greeted))

    def cleared(self) -> None:
        """Write down that what was not heard yet is taken back: it will be said again."""
        self._write("cleared", "")

    def cut(self, said: str, heard: str) -> None:
        """Write down the sentence the caller spoke over, and how much of it had been played."""
        self._write("cut", json.dumps({"said": said, "heard": heard}))

    def consented(self, words: str, ago_s: float) -> None:
        """Write down that the caller has heard that the call is recorded, in words that began so long ago."""
        self._tell(entry("consent", words, ago_s=ago_s))

    def used(self, **amounts: float) -> None:
        """Write down what was used, by its name in `shared.callrecord.Counts`."""
        self._write("used", json.dumps(amounts))

    def timed(self, name: str, seconds: float) -> None:
        """Write down a measurement."""
        self._write("timing", f"{seconds:.6f}", name)

    def customer(self, outcome: str) -> None:
        """Write down what the prefetch found."""
        self._write("customer", outcome)

    def _write(self, kind: EntryKind, text: str, key: str = "") -> None:
        self._tell(entry(kind, text, key))
