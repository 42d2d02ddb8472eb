"""The comparison as figures beside their targets, as a table of ratios, and as charts. Pure."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.bench import load, targets
from tests.bench.figures import UNITS, Figure, number, percentile
from tests.bench.plots import Axis, Chart, Line, shares
from tests.bench.systems import NAMES, OLD, OURS, STOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.bench.compare import Comparison, Rounds
    from tests.bench.load import Limit, Step

GROUP: Final = "beside the stock Pipecat bot"
TEN: Final = 10
HEADER: Final = ("", "unit", *NAMES, f"{OURS} / {STOCK}", f"{OURS} / {OLD}")


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement of all systems: their values, and the ratios of ours to each rival, one of each round."""

    name: str
    unit: str
    values: Mapping[str, tuple[float, ...]]
    ratios: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)  # in place of values

    def cell(self, name: str) -> str:
        """Median and spread (p5 to p95) of a system."""
        if name in self.words:
            return self.words[name]
        shown = _spread([value * UNITS[self.unit] for value in self.values.get(name, ())], 0.05, 0.95)
        return shown + (f", {self.missing[name]} missing" if self.missing.get(name) else "")

    def ratio(self, rival: str) -> str:
        """Median and extremes of the ratios to a rival."""
        return _spread(self.ratios.get(rival, ()), 0.0, 1.0, _ratio)


def rows(found: Comparison) -> list[Row]:
    """Lay every measurement out."""
    lines = []
    for at_once, crowd in found.crowds.items():
        many = "one call" if at_once == 1 else f"{at_once} at once"
        lines.append(_row(f"upgrade accepted → first audio, {many}", crowd.first))
        lines.append(_row(f"`start` → ear and voice connected, {many}", crowd.ready, ratios=False))
    lines += [
        _row("caller's last sample → first sample of the answer", found.replies),
        _row("speech over an answer → `clear`", found.barge_ins),
        _cpu(found),
        _memory(found),
        Row("own memory of a ready worker", "MB", _only(OURS, [*(found.parked.workers if found.parked else ())])),
        _limits("calls per core until answers take 20 % longer", found, found.limit),
        _limits(
            "calls per core until answers take as long as the stock bot's at its limit", found, found.limit_of_stock
        ),
        _limits("calls per core without an outgoing gap over 40 ms", found, lambda name: load.whole(found.valid(name))),
    ]
    return lines


def figures(found: Comparison) -> list[Figure]:
    """Put what has a target beside it."""
    replies = [reply for one in found.replies[OURS] for reply in one]
    beyond = tuple(reply - targets.PROVIDERS_S for reply in replies if reply is not None)
    barge_ins = [one for some in found.barge_ins[OURS] for one in some]
    ten = next((one for one in found.valid(OURS) if one.calls == TEN), None)
    ours, stock = found.limit_of_stock(OURS), found.limit_of_stock(STOCK)
    ratio = (ours.calls / stock.calls,) if stock.broke and stock.calls else ()
    silent = replies.count(None)
    return [
        Figure(GROUP, "answer beyond the providers' own time", beyond, targets.BEYOND_PROVIDERS, missing=silent,
               note=f"p95 {number(percentile(beyond, targets.P95) * 1000)}" if beyond else ""),
        Figure(GROUP, "answer, ratio to stock's", _ratios(found.replies, STOCK), targets.REPLY_RATIO, unit="",
               missing=silent),
        Figure(GROUP, "speech over an answer → `clear`", tuple(one for one in barge_ins if one is not None),
               targets.BARGE_IN, missing=barge_ins.count(None)),
        Figure(GROUP, "model connections opened after the first answer, for each call",
               tuple(map(float, found.later_connections[OURS])), targets.LATER_CONNECTIONS, unit=""),
        Figure(GROUP, "part of the prompt that the model had read before, later answers", tuple(found.cached[OURS]),
               unit="%"),
    ] + ([] if not _far(found) else [
        Figure(GROUP, "calls per core at equal answers, ratio to stock's", ratio, targets.CALLS_RATIO, unit="",
               note=f"{_limit(ours)} and {_limit(stock)}"),
        Figure(GROUP, f"longest outgoing gap with {TEN} talking calls on one core",
               (max(ten.gaps, default=0.0),) if ten else (), targets.TEN_CALLS_GAP),
    ])  # fmt: skip


def _far(found: Comparison) -> bool:
    """Whether the steps went as far as the targets do; a short run does not try."""
    return any(one.calls >= TEN or one.missing for one in found.steps[OURS])


def charts(found: Comparison) -> dict[str, Chart]:
    """Draw what a table does not show, by file name."""
    crowds = sorted(found.crowds)
    first = tuple(
        Line(f"{name}, {crowd} at once", shares(_known(found.crowds[crowd].first[name], 1000.0)), place, dash)
        for place, name in enumerate(NAMES)
        for dash, crowd in enumerate(dict.fromkeys((crowds[0], crowds[-1])) if crowds else ())
    )
    replies = tuple(Line(name, shares(_known(found.replies[name], 1000.0)), place) for place, name in enumerate(NAMES))
    talking = tuple(
        Line(f"{name}, {what}", tuple((float(one.calls), 1000 * at(one)) for one in found.valid(name)), place, dash, dots=True)
        for place, name in enumerate(NAMES)
        for dash, (what, at) in enumerate((("median", _median), ("p95", _p95)))
    )  # fmt: skip
    share = Axis("share of the calls (%)", most=100.0)
    longest = max((1000 * _median(one) for name in NAMES for one in found.valid(name)
                   if math.isfinite(one.median)), default=1000.0)  # fmt: skip
    return {
        "first-audio.svg": Chart("Upgrade accepted → first audio", Axis("milliseconds", log=True), share, first),
        "answers.svg": Chart(
            "Caller's last sample → first sample of the answer, one call",
            Axis("milliseconds"),
            Axis("share of the answers (%)", most=100.0),
            replies,
        ),
        "answers-by-calls.svg": Chart(
            "Answers against talking calls, system on one core",
            Axis("talking calls"),
            Axis("answer (ms)", most=math.ceil(1.25 * longest / 500) * 500.0),
            talking,
        ),
    }


def text(found: Sequence[Row]) -> str:
    """Lay the table out for a terminal."""
    cells = [HEADER, *(_cells(row) for row in found)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(HEADER))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def markdown(found: Sequence[Row]) -> str:
    """Lay the table out for BENCHMARKS.md."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---|---" + "|--:" * (len(HEADER) - 2) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(_cells(row)) + " |" for row in found)])


def steps(found: Comparison) -> str:
    """Lay the steps of talking calls out for BENCHMARKS.md, with those that do not count."""
    lines = ["| calls | system | answer p50 | p95 | not answered | outgoing gaps | longest | CPU of a call | |",
             "|--:|---|--:|--:|--:|--:|--:|--:|---|"]  # fmt: skip
    every = [one for name in NAMES for one in found.steps[name]]
    for one in sorted(every, key=lambda step: (step.calls, NAMES.index(step.system))):
        cells = (
            str(one.calls), one.system, _ms(one.median), _ms(_p95(one)), str(one.missing), str(len(one.gaps)),
            _ms(max(one.gaps, default=0.0)), f"{100 * one.cpu:.1f} %", "does not count" if one.void else "",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if math.isfinite(seconds) else "never"


def _cells(row: Row) -> tuple[str, ...]:
    return (row.name, row.unit, *(row.cell(name) for name in NAMES), row.ratio(STOCK), row.ratio(OLD))


def _row(name: str, rounds: Rounds, *, ratios: bool = True) -> Row:
    return Row(
        name,
        "ms",
        {one: tuple(_known(rounds[one])) for one in NAMES},
        {rival: _ratios(rounds, rival) for rival in (STOCK, OLD)} if ratios else {},
        {one: sum(some.count(None) for some in rounds[one]) for one in NAMES},
    )


def _cpu(found: Comparison) -> Row:
    """CPU of one call, at the loads that no system was troubled by; a ratio for each of them."""
    steps = {name: {one.calls: one.cpu for one in found.valid(name) if _easy(found, name, one)} for name in NAMES}
    return Row(
        "CPU of a talking call (share of a core)",
        "%",
        {name: tuple(of.values()) for name, of in steps.items()},
        {
            rival: tuple(cpu / steps[rival][calls] for calls, cpu in steps[OURS].items() if steps[rival].get(calls))
            for rival in (STOCK, OLD)
        },
    )


def _easy(found: Comparison, name: str, one: Step) -> bool:
    return one.median <= targets.GROWN * found.valid(name)[0].median


def _memory(found: Comparison) -> Row:
    ours = found.call_bytes[OURS]
    return Row(
        "own memory of a call that is up",
        "MB",
        {name: tuple(found.call_bytes[name]) for name in NAMES},
        {
            rival: tuple(mine / its for mine, its in zip(ours, found.call_bytes[rival], strict=False) if its > 0)
            for rival in (STOCK, OLD)
        },
    )


def _limits(name: str, found: Comparison, limit: Callable[[str], Limit]) -> Row:
    limits = {one: limit(one) for one in NAMES if found.valid(one)}
    words = {one: _limit(of) for one, of in limits.items()}
    ratios = {
        rival: (limits[OURS].calls / limits[rival].calls,)
        for rival in (STOCK, OLD)
        if rival in limits and OURS in limits and limits[rival].broke and limits[rival].calls
    }
    return Row(name, "", {}, ratios, words=words)


def _limit(limit: Limit) -> str:
    return number(limit.calls) if limit.broke else f"≥ {number(limit.calls)}"


def _only(name: str, values: Sequence[float]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(map(float, values))}


def _ratios(rounds: Rounds, rival: str) -> tuple[float, ...]:
    """Divide ours by a rival's, median by median, round by round; a round without a figure gives none."""
    pairs = zip(rounds[OURS], rounds[rival], strict=False)
    medians = [(_middle(mine), _middle(its)) for mine, its in pairs]
    return tuple(mine / its for mine, its in medians if mine is not None and its)


def _middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _known(rounds: Sequence[Sequence[float | None]], factor: float = 1.0) -> list[float]:
    return [value * factor for one in rounds for value in one if value is not None]


def _median(one: Step) -> float:
    return one.median


def _p95(one: Step) -> float:
    return percentile([*one.replies, *[float("inf")] * one.missing] or [float("inf")], targets.P95)


def _spread(values: Sequence[float], low: float, high: float, shown: Callable[[float], str] = number) -> str:
    if not values:
        return "-"
    middle = shown(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({shown(percentile(values, low))} to {shown(percentile(values, high))})"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
