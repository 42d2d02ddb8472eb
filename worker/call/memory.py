"""What a successor makes of a call's journal: the conversation so far, and what is owed to the caller. Pure.

Heard is what marks prove. What was sent and not heard is part of the conversation only while it may still be heard: a reply
that broke off is taken back and given again, a reply that was sent whole is left to be played.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from shared.messages import Entry
from worker.call.playout import RATE, Mark

Message = Any
"""A message of a chat completion, as in OpenAI's API: a dict with `role` and `content`."""

BROKEN_OFF: Final = (
    "You were cut off in the middle of your answer. The caller heard only what stands above. Go on from there, and do not"
    " repeat what was heard."
)
COME_BACK: Final = (
    "The line to the caller broke and was connected again. The caller has just been asked for a moment. Go on where the"
    " conversation was, in one or two sentences."
)
CANCELLED: Final[Mapping[str, Any]] = {
    "status": "cancelled",
    "note": "The caller spoke before this was over. It may have been done or not.",
}
UNKNOWN_OUTCOME: Final[Mapping[str, Any]] = {
    "status": "unknown",
    "note": "The line was interrupted while this ran. It may have been done or not. Do not do it again; tell the caller"
    " that it has to be checked.",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A tool call as the model made it."""

    id: str
    name: str
    arguments: Mapping[str, Any]

    @property
    def same(self) -> str:
        """What two calls for the same thing have in common."""
        return json.dumps([self.name, dict(self.arguments)], sort_keys=True, default=str)


@dataclass(frozen=True, slots=True)
class Greeting:
    """The greeting that had begun: its words, its mark, when (unix seconds), and how much of it was sent.

    `size` counts the bytes sent beyond what is sent at once, together with that; 0 when there were none. `sent`: all of it.
    `halted`: how many bytes had been heard when the carrier dropped the rest, which it is to get again.
    """

    words: str
    mark: str
    at: float
    sent: bool
    size: int = 0
    halted: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known of a call.

    Attributes:
        messages: the conversation, without the tool calls in `unresolved`.
        owed: the caller waits for an answer that was not given whole.
        broke_off: part of that answer was heard.
        unresolved: tool calls whose results nobody knows.
        results: what tools gave since the caller last spoke, by `Asked.same`.
        pending: marks under way of speech that was sent whole, in order.
        demands: how many entries of the journal demand an answer.
        talked: the agent has answered at least once.
        came_back: the caller was cut off and is back on another stream, and only waits for words about that.
        hung: the predecessor hung; a tool that ran in it may be why.
        consented: the caller has heard that the call is recorded.
    """

    messages: tuple[Message, ...] = ()
    owed: bool = False
    broke_off: bool = False
    unresolved: tuple[Asked, ...] = ()
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    greeting: Greeting | None = None
    pending: tuple[Mark, ...] = ()
    demands: int = 0
    talked: bool = False
    came_back: bool = False
    hung: bool = False
    consented: bool = False

    def __bool__(self) -> bool:
        return bool(self.messages or self.greeting is not None or self.unresolved or self.came_back)


def remember(entries: Iterable[Entry]) -> Memory:
    """Read a journal, oldest entry first."""
    reading = _Reading()
    for entry in entries:
        reading.take(entry)
    return reading.memory()


def result_messages(asked: Asked, result: Mapping[str, Any]) -> tuple[Message, Message]:
    """Write a tool call and its result into a conversation."""
    function = {"name": asked.name, "arguments": json.dumps(dict(asked.arguments), default=str)}
    call = {"role": "assistant", "tool_calls": [{"id": asked.id, "type": "function", "function": function}]}
    return call, {"role": "tool", "tool_call_id": asked.id, "content": json.dumps(dict(result), default=str)}


class _Reading:
    """Goes through a journal once."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._spoken: list[str] = []  # heard of the speech that is under way
        self._pending: list[Mark] = []
        self._settled: set[str] = set()  # marks whose text is in a message, heard or not
        self._asked: dict[str, Asked] = {}
        self._results: dict[str, Mapping[str, Any]] = {}
        self._greeting: Greeting | None = None
        self._demands = 0
        self._answered = 0
        self._halted: list[Mark] | None = None  # what the carrier has dropped for now
        self._back_at = 0  # which demand the last return of the caller was; 0 for none
        self._talked = False
        self._consented = False

    def take(self, entry: Entry) -> None:
        """Take the next entry."""
        match entry.kind:
            case "user":
                self._user(entry)
            case "greeting" | "sent":
                self._greet(entry)
            case "agent":
                self._pending.append(Mark(entry.key, entry.text))
                self._talked = self._talked or self._demands > 0
            case "heard":
                self._heard(entry)
            case "spoken":
                self._spoke(entry)
            case "tool":
                self._tool(entry)
            case "result":
                self._result(entry)
            case _:
                self._broken(entry)

    def memory(self) -> Memory:
        """Give what was understood."""
        self._drop_halted()
        owed = self._demands > self._answered or bool(self._asked)
        broke_off = owed and bool(self._spoken)
        back_only = 0 < self._back_at == self._demands == self._answered + 1
        self._close(drop_pending=owed)
        return Memory(
            messages=tuple(self._messages),
            owed=owed,
            broke_off=broke_off,
            unresolved=tuple(self._asked.values()),
            results=dict(self._results),
            greeting=self._greeting,
            pending=() if owed else tuple(self._pending),
            demands=self._demands,
            talked=self._talked,
            came_back=back_only and not self._asked,
            consented=self._consented,
        )

    def _broken(self, entry: Entry) -> None:
        """Take what puts an end to speech under way."""
        match entry.kind:
            case "interrupted":
                self._interrupted(entry)
            case "cleared":
                self._drop_halted()
                self._pending.clear()
            case "halted":
                self._halt(entry)
            case "proceeded":
                self._proceed(entry)
            case "came_back":
                self._came_back()
            case "consent":
                self._consented = True
            case _:
                pass

    def _halt(self, entry: Entry) -> None:
        self._halted, self._pending = self._pending, []
        if self._greeting is not None and entry.text.isdecimal():
            self._greeting = replace(self._greeting, halted=int(entry.text))

    def _proceed(self, entry: Entry) -> None:
        """Take the marks under their new names; what came meanwhile is behind them."""
        try:
            names = msgspec.json.decode(entry.text, type=dict[str, str])
        except msgspec.DecodeError:
            names = {}
        again = [Mark(names.get(mark.name, mark.name), mark.text) for mark in self._halted or ()]
        self._settled |= {new for old, new in names.items() if old in self._settled}
        self._pending, self._halted = again + self._pending, None
        if self._greeting is not None:
            at = entry.at - int(entry.key) / RATE if entry.key.isdecimal() else self._greeting.at
            mark = names.get(self._greeting.mark, self._greeting.mark)
            self._greeting = replace(self._greeting, at=at, mark=mark, halted=None)

    def _drop_halted(self) -> None:
        """Take what was dropped for good: nobody has written it again, so that it is owed."""
        if self._halted is None:
            return
        dropped, self._halted = self._halted + self._pending, None
        self._pending.clear()
        greeting = self._greeting
        if greeting is not None and not self._demands:
            self._greeting = replace(greeting, sent=False)
            if greeting.halted is not None:
                self._pending = [mark for mark in dropped if mark.name == greeting.mark]
        elif self._demands and any(mark.text for mark in dropped):
            self._answered = min(self._answered, self._demands - 1)

    def _user(self, entry: Entry) -> None:
        self._close(drop_pending=False)
        self._pending.clear()
        self._halted = None
        self._messages.append({"role": "user", "content": entry.text})
        self._greeting = None  # it is over
        self._demands += 1
        self._results.clear()

    def _greet(self, entry: Entry) -> None:
        if entry.kind == "sent":
            if self._greeting is not None and entry.key.isdecimal():
                self._greeting = replace(self._greeting, size=int(entry.key))
            return
        self._greeting = Greeting(entry.text, entry.key, entry.at, sent=False)
        if entry.key:  # without a mark of its own the voice speaks it, sentence by sentence
            self._pending.append(Mark(entry.key, entry.text))

    def _interrupted(self, entry: Entry) -> None:
        if entry.text:
            self._spoken.append(entry.text)
        self._pending.clear()
        self._halted = None
        self._close(drop_pending=True)
        self._greeting = None
        self._answered = self._demands  # the caller has something else to say

    def _heard(self, entry: Entry) -> None:
        names = [mark.name for mark in self._pending]
        if entry.key in names:
            proven = names.index(entry.key) + 1
            self._spoken += [
                mark.text for mark in self._pending[:proven] if mark.text and mark.name not in self._settled
            ]
            del self._pending[:proven]
        elif entry.text and entry.key not in self._settled:
            self._spoken.append(entry.text)

    def _spoke(self, entry: Entry) -> None:
        self._answered = max(self._answered, int(entry.key) if entry.key.isdecimal() else 0)
        if not self._answered and self._greeting is not None:
            self._greeting = replace(self._greeting, sent=True)

    def _tool(self, entry: Entry) -> None:
        try:
            content = msgspec.json.decode(entry.text, type=dict[str, Any])
            asked = Asked(entry.key, str(content["name"]), dict(content.get("arguments") or {}))
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            return  # cut: it was longer than an entry may be
        self._asked[entry.key] = asked

    def _result(self, entry: Entry) -> None:
        self._demands += 1
        asked = self._asked.pop(entry.key, None)
        if asked is None:
            return
        try:
            result = msgspec.json.decode(entry.text, type=dict[str, Any])
        except msgspec.DecodeError:
            result = {"result": entry.text}
        self._results[asked.same] = result
        self._close(drop_pending=False)
        self._messages += result_messages(asked, result)

    def _came_back(self) -> None:
        """Begin on another stream: what was not heard on the former one never will be, and its marks never come back.

        A greeting that was lost is not begun again; an answer is, from where it was heard to.
        """
        self._drop_halted()
        if self._demands and any(mark.text for mark in self._pending):
            self._answered = min(self._answered, self._demands - 1)
        if not (self._demands > self._answered or self._asked):
            self._close(drop_pending=False)
        self._pending.clear()
        self._settled.clear()
        self._greeting = None
        self._demands += 1  # silence would be odd after that
        self._back_at = self._demands

    def _close(self, *, drop_pending: bool) -> None:
        """End the agent's turn: what it said becomes one message."""
        said = list(self._spoken)
        if not drop_pending:
            said += [mark.text for mark in self._pending if mark.text]
            self._settled |= {mark.name for mark in self._pending}
        self._spoken.clear()
        if said:
            self._messages.append({"role": "assistant", "content": " ".join(said)})
