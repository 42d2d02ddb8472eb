"""The transcript of a call: its journal read as a conversation, with what of it was heard. Pure.

`worker.call.memory` reads the same entries for a successor, who must know what is owed to the caller; both agree on what the
caller said and heard.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from shared.messages import Entry

Speaker = Literal["caller", "agent", "tool"]


class ToolUse(msgspec.Struct, kw_only=True):
    """A tool call of the transcript; `result` and `duration_s` are None for one whose end nobody saw."""

    id: str
    name: str
    arguments: dict[str, Any]
    result: Any = None
    duration_s: float | None = None


class Turn(msgspec.Struct, kw_only=True):
    """Who said what when (`at`: unix seconds), or a tool that ran.

    What the agent said is `text`; what of it was heard is `heard`, as marks proved it or, of a greeting or sentence the
    caller spoke over, as the play-out clock has it. `cut_off`: the caller spoke over it. `heard` is None where nobody asks.
    """

    position: int
    at: float
    speaker: Speaker
    text: str
    heard: str | None = None
    cut_off: bool = False
    tool: ToolUse | None = None


def transcript(entries: Iterable[Entry]) -> list[Turn]:
    """Read a journal as a conversation, oldest entry first. Never raises, whatever the entries say."""
    reading = _Reading()
    for entry in entries:
        reading.take(entry)
    return reading.turns()


class _Asked(msgspec.Struct):
    name: str = ""
    arguments: dict[str, Any] | None = None


class _Reading:
    """Goes through a journal once. `_saying` are the marks of agent sentences whose fate is open, with their turns."""

    def __init__(self) -> None:
        self._turns: list[Turn] = []
        self._said: dict[int, list[str]] = defaultdict(list)  # by position
        self._heard: dict[int, list[str]] = defaultdict(list)
        self._open: Turn | None = None
        self._greeting: Turn | None = None
        self._saying: dict[str, tuple[Turn, str]] = {}
        self._marks: set[str] = set()
        self._tools: dict[str, Turn] = {}

    def turns(self) -> list[Turn]:
        """Give what was understood; what the agent took back unheard and said again is there once."""
        kept: list[Turn] = []
        for turn in self._turns:
            if turn.speaker == "agent":
                turn.text = " ".join(self._said[turn.position])
                turn.heard = " ".join(self._heard[turn.position])
                if not turn.text:
                    continue
            kept.append(turn)
        for position, turn in enumerate(kept):
            turn.position = position
        return kept

    def take(self, entry: Entry) -> None:
        """Take the next entry."""
        match entry.kind:
            case "user":
                self._add(entry, "caller", entry.text)
                self._open = self._greeting = None
            case "greeting":
                self._greeting = self._open = self._add(entry, "agent")
                self._say(self._open, entry.text, entry.key)
            case "agent":
                self._open = self._open or self._add(entry, "agent")
                self._say(self._open, entry.text, entry.key)
            case "consent":
                self._consent(entry)
            case "tool":
                self._tool(entry)
            case "result":
                self._result(entry)
            case _:
                self._fate(entry)

    def _fate(self, entry: Entry) -> None:
        """Take what tells what became of something said."""
        match entry.kind:
            case "heard":
                self._was_heard(entry)
            case "cut":
                self._cut(entry)
            case "interrupted":
                self._interrupted(entry)
            case "spoken":
                self._open = None
            case "proceeded":
                self._proceeded(entry)
            case "cleared" | "came_back":
                self._broke_off(said_again=entry.kind == "cleared")
            case _:
                pass

    def _add(self, entry: Entry, speaker: Speaker, text: str = "") -> Turn:
        turn = Turn(position=len(self._turns), at=entry.at, speaker=speaker, text=text)
        self._turns.append(turn)
        return turn

    def _consent(self, entry: Entry) -> None:
        """Put the words about the recording in front of the greeting: they are written down when they were heard."""
        turn = self._add(entry, "agent")
        self._said[turn.position] = self._heard[turn.position] = [entry.text]
        if self._greeting is not None and entry.at <= self._greeting.at:
            self._turns.insert(self._turns.index(self._greeting), self._turns.pop())

    def _say(self, turn: Turn, text: str, mark: str) -> None:
        if text and mark:  # a greeting of the voice has none of its own: its sentences follow
            self._said[turn.position].append(text)
            self._saying[mark] = (turn, text)
            self._marks.add(mark)

    def _was_heard(self, entry: Entry) -> None:
        """Note a mark that came back: it proves what was said before it too."""
        if entry.key not in self._saying:
            if entry.text and entry.key not in self._marks:  # the sentence itself was not written down in time
                turn = self._open = self._open or self._add(entry, "agent")
                self._said[turn.position].append(entry.text)
                self._heard[turn.position].append(entry.text)
                self._marks.add(entry.key)
            return
        for mark in list(self._saying):
            turn, text = self._saying.pop(mark)
            self._heard[turn.position].append(text)
            if mark == entry.key:
                return

    def _cut(self, entry: Entry) -> None:
        try:
            cut = msgspec.json.decode(entry.text, type=dict[str, str])
        except msgspec.DecodeError:
            return
        if cut.get("said"):
            self._open = self._open or self._add(entry, "agent")
            self._said[self._open.position].append(cut["said"])
            self._open.cut_off = True
            if cut.get("heard"):
                self._heard[self._open.position].append(cut["heard"])

    def _interrupted(self, entry: Entry) -> None:
        if self._greeting is not None and entry.text:
            self._heard[self._greeting.position] = [entry.text]
        for turn, _text in self._saying.values():
            turn.cut_off = True
        self._saying.clear()
        self._open = self._greeting = None

    def _proceeded(self, entry: Entry) -> None:
        """Note what marks are called now: the sentences are the same."""
        try:
            names = msgspec.json.decode(entry.text, type=dict[str, str])
        except msgspec.DecodeError:
            return
        self._saying = {names.get(mark, mark): said for mark, said in self._saying.items()}
        self._marks.update(names.values())

    def _broke_off(self, *, said_again: bool) -> None:
        """Take what the carrier had not played: what a successor says again is there once, what broke with the line stays."""
        for turn, text in self._saying.values() if said_again else ():
            _drop(self._said[turn.position], text)
        self._saying.clear()
        self._open = self._greeting = None

    def _tool(self, entry: Entry) -> None:
        try:
            asked = msgspec.json.decode(entry.text, type=_Asked)
        except msgspec.DecodeError:
            asked = _Asked(name="?")  # cut: it was longer than an entry may be
        turn = self._add(entry, "tool", asked.name)
        turn.tool = ToolUse(id=entry.key, name=asked.name, arguments=asked.arguments or {})
        self._tools[entry.key] = turn
        self._open = None

    def _result(self, entry: Entry) -> None:
        turn = self._tools.pop(entry.key, None)
        self._open = None
        if turn is None or turn.tool is None:
            return
        try:
            turn.tool.result = msgspec.json.decode(entry.text)
        except msgspec.DecodeError:
            turn.tool.result = entry.text
        turn.tool.duration_s = round(max(0.0, entry.at - turn.at), 3)


def _drop(texts: list[str], text: str) -> None:
    """Take the last of these texts out."""
    if text in texts:
        del texts[len(texts) - 1 - texts[::-1].index(text)]
