"""BENCHMARKS.md: the machine, what was compared, the method, the limits, the tables. Nothing in it names a host or a path.

Each kind of run writes its own sections and leaves those of the others as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.bench import beside
from tests.bench.machine import versions
from tests.bench.method import LIMITS, METHOD
from tests.bench.report import markdown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.compare import Comparison
    from tests.bench.figures import Figure
    from tests.bench.options import Kind

PLOTS: Final = "tests/bench/plots"
TITLE: Final = "# Benchmarks"
BESIDE, FIGURES, METHOD_, LIMITS_ = "Beside the stock Pipecat bot", "Figures", "Method", "Limits"
OTHER: Final[dict[Kind, str]] = {"own": "Long series of this project alone", "faults": "Faults and bursts"}
"""The sections of the kinds of run that do not write the whole file."""

COMMANDS: Final[dict[Kind, str]] = {"own": "make bench-own", "faults": "make bench-faults"}


def document(
    found: Sequence[Figure],
    about: dict[str, str],
    remarks: Sequence[str],
    comparison: Comparison | None = None,
    before: str = "",
) -> str:
    """Write the file; sections of other kinds of run are taken over from what it was before."""
    kept = sections(before)
    over = [f"{figure.group}: {figure.name}" for figure in found if figure.ok is False]
    verdict = ["Every target is met."] if not over else ["Over the target:", "", *(f"- {name}" for name in over)]
    parts = {
        "Machine": _machine(about),
        BESIDE: _beside(comparison) if comparison is not None else "",
        FIGURES: f"{markdown(found)}\n\n{_listed(remarks)}",
        **{heading: kept.get(heading, "") for heading in OTHER.values()},
        METHOD_: METHOD,
        LIMITS_: LIMITS,
    }
    head = [TITLE, "", "Written by `make bench`; run it again to compare.", "", *verdict]
    return _joined("\n".join(head), parts)


def with_section(
    before: str, kind: Kind, found: Sequence[Figure], about: dict[str, str], remarks: Sequence[str]
) -> str:
    """Put the figures of another kind of run in their place in the file."""
    head, kept = before.split("\n## ", 1)[0], sections(before)
    over = [f"{figure.group}: {figure.name}" for figure in found if figure.ok is False]
    verdict = "Every target is met." if not over else f"Over the target: {'; '.join(over)}."
    body = "\n\n".join(
        [f"Written by `{COMMANDS[kind]}`. {verdict}", _machine(about), markdown(found), _listed(remarks)]
    )
    parts = {**kept, OTHER[kind]: body}
    order = ["Machine", BESIDE, FIGURES, *OTHER.values(), METHOD_, LIMITS_]
    return _joined(head or TITLE, {heading: parts.get(heading, "") for heading in order})


def sections(written: str) -> dict[str, str]:
    """Take a document apart: bodies by heading."""
    parts = [part.split("\n", 1) for part in f"\n{written}".split("\n## ")[1:]]
    return {part[0]: part[1] if len(part) > 1 else "" for part in parts}


def _joined(head: str, parts: dict[str, str]) -> str:
    blocks = [head.strip(), *(f"## {heading}\n\n{body.strip()}" for heading, body in parts.items() if body.strip())]
    return "\n\n".join(blocks) + "\n"


def _machine(about: dict[str, str]) -> str:
    return "\n\n".join(
        ", ".join(f"{name} {value}" for name, value in facts.items()) + "." for facts in (about, versions())
    )


def _beside(comparison: Comparison) -> str:
    charts = [f"![{chart.title}]({PLOTS}/{name})" for name, chart in beside.charts(comparison).items()]
    return "\n\n".join([
        beside.markdown(beside.rows(comparison)), *charts, "Steps of talking calls:", beside.steps(comparison),
        _listed(comparison.notes),
    ])  # fmt: skip


def _listed(remarks: Sequence[str]) -> str:
    return "\n".join(f"- {remark}" for remark in remarks)
