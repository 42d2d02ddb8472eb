"""What the demo prints: transcripts and the table. Pure."""

from collections.abc import Callable, Sequence
from typing import Final

from deploy.demo.calls import Told
from tests.bench.figures import number, percentile
from tests.bench.measure import Measured

ROWS: Final[Sequence[tuple[str, Callable[[Measured], float | None]]]] = (
    ("webhook answered", lambda one: one.webhook),
    ("upgrade accepted → first audio", lambda one: one.upgrade_to_media),
    ("start → first audio", lambda one: one.start_to_media),
    ("start → agent ready (negative: before)", lambda one: one.worker.get("agent_ready_s")),
    ("reservation → customer in context", lambda one: one.worker.get("context_injection_s")),
    ("first completion → first LLM token", lambda one: one.worker.get("first_llm_response_s")),
)
BY_CARRIER: Final = ROWS[:3]
"""What is known without the logs of the pool."""

NAME_WIDTH: Final = 48
WIDTH: Final = 9


def transcript(told: Told) -> str:
    """Write down a call: the caller's known words, and what was heard of the agent's."""
    lines = [f"{told.name}"]
    for turn, heard in zip(told.turns, told.heard, strict=True):
        if turn.said:
            lines.append(f"  caller: {turn.said}")
        cut = " …" if not turn.said else ""
        lines.append(f"  agent:  {heard}{cut}")
    lines.append(f"  ({told.measured.end_reason or 'end reason unknown'})")
    return "\n".join(lines)


def table(calls: Sequence[Told], rows: Sequence[tuple[str, Callable[[Measured], float | None]]] = ROWS) -> str:
    """Give every figure in ms, per call and as p50 and p99 over the calls."""
    lines = [_line("ms", [told.name for told in calls] + ["p50", "p99"])]
    lines += [_row(name, [read(told.measured) for told in calls]) for name, read in rows]
    for index, turn in enumerate(calls[0].turns):
        if turn.recording:
            replies = [told.turns[index].reply_s for told in calls]
            lines.append(_row(f"reply heard after “{turn.said}”", replies))
    gaps = [sum(told.measured.greeting_gaps) for told in calls]
    lines.append(_row("gaps in the greeting (sum)", list(gaps)))
    return "\n".join(lines)


def _row(name: str, values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    ends = [percentile(known, share) if known else None for share in (0.5, 0.99)]
    return _line(name, ["-" if value is None else number(value * 1000) for value in [*values, *ends]])


def _line(name: str, cells: list[str]) -> str:
    return f"{name:<{NAME_WIDTH}}" + "".join(f"{cell:>{WIDTH}}" for cell in cells)
