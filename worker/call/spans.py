"""The spans of a call in its worker, made of what the worker tells its pool anyway. Nothing happens while traces are off.

All of them are recorded after the fact, and none before the caller hears something: the first one starts the thread that
sends them, and of what the caller waits for nothing may stand behind that.
"""

import json
import time
from collections.abc import Callable
from typing import Final

from shared import tracing
from shared.calls import IncomingCall
from shared.messages import Bind, Ending, Entry, FirstMedia, Message, Observed, Prepare, Resumed
from shared.metrics import Stage, Timing
from shared.tracing import Span, Value, wall
from shared.tracing_spans import attempt_of

NO_TURN: Final = ""


class CallSpans:
    """Makes spans for one call; `started_at` gives when `start` was read (monotonic), `turn` the span of the present turn."""

    def __init__(self, started_at: Callable[[], float], turn: Callable[[], str] = lambda: NO_TURN) -> None:
        self._started_at = started_at
        self._turn = turn
        self._call: IncomingCall | None = None
        self._resumed = False
        self._held: list[Span] | None = []  # until something is heard, or nothing will be
        self._stages: dict[str, float] = {}
        self._tools: dict[str, tuple[str, float]] = {}  # name and beginning, by id

    def begin(self, message: Prepare | Bind) -> None:
        """Belong to this call from now on."""
        self._call = message.call
        self._resumed = isinstance(message, Bind) and message.resume is not None

    def told(self, message: Message) -> None:
        """Note what the worker tells its pool."""
        if not tracing.on():
            return
        now = time.time()
        match message:
            case FirstMedia(at=at):
                self._record("greeting", wall(self._started_at()), wall(at), self._parent)
                self._let_go()
            case Resumed() | Ending():
                self._let_go()
            case Observed(timing=Timing.CONTEXT_INJECTION, seconds=seconds) if not self._resumed:
                self._record("customer", now - seconds, now, self._parent)
            case Observed(timing=Timing.TURN, stage=Stage.TOTAL, seconds=seconds):
                stages, self._stages = self._stages, {}
                self._record("answer", now - seconds, now, self._turn() or self._parent, **stages)
            case Observed(timing=Timing.TURN):
                self._stages[f"{message.stage}_s"] = round(message.seconds, 4)
            case Entry(kind="tool"):
                self._tools[message.key] = (_tool_in(message.text), message.at)
            case Entry(kind="result") if message.key in self._tools:
                name, began = self._tools.pop(message.key)
                self._record("tool", began, message.at, self._turn() or self._parent, tool=name)
            case _:
                pass

    @property
    def _parent(self) -> str:
        return "" if self._call is None else attempt_of(self._call.trace_id, self._call.attempt)

    def _record(self, name: str, start: float, end: float, parent: str, **attributes: Value) -> None:
        if self._call is not None:
            about = {"call.sid": self._call.call_sid, **attributes}
            span = Span(name, self._call.trace_id, start, end, parent=parent, attributes=about)
            if self._held is None:
                tracing.record(span)
            else:
                self._held.append(span)

    def _let_go(self) -> None:
        held, self._held = self._held or [], None
        for span in held:
            tracing.record(span)


def _tool_in(text: str) -> str:
    """Give the name of the tool a journal entry tells of; its arguments are the caller's."""
    try:
        return str(json.loads(text)["name"])
    except (ValueError, LookupError, TypeError):
        return ""  # the entry was too long and cut
